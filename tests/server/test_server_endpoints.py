"""The server's other endpoints, OpenAI's responses and Anthropic's messages, and the tools in the prompts of all."""

import json
from typing import Any

from support.endpoints import (
    ANTHROPIC_IMAGE,
    COUNT_ANTHROPIC,
    RESPONSE_IMAGE,
    ROOF,
    check_response,
    check_response_stream,
    user,
)
from support.serving import ANTHROPIC, RESPONSES, Request, Server, alone, asked, gathered, readable, skip_without_server

skip_without_server()


def test_responses(server: Server, loaded: tuple[Any, Any]) -> None:
    """Text with instructions, whole and streamed, and a second response that continues the first."""
    system = ("system", ("Be brief.",))
    first = Request((system, ("user", ("Name a river.",))), 8).answer(loaded)
    asked_first = {"input": "Name a river.", "instructions": "Be brief.", "max_output_tokens": 8}
    body = server.ask(RESPONSES, **asked_first)
    check_response(body, first)
    check_response_stream(server.stream(RESPONSES, **asked_first), first)

    turns = (system, ("user", ("Name a river.",)), ("assistant", (body["output_text"],)), ("user", (ROOF, "And this?")))
    second = Request(turns, 7).answer(loaded)
    items = [{"role": "user", "content": [RESPONSE_IMAGE[0], {"type": "input_text", "text": "And this?"}]}]
    asked_second = {"input": items, "instructions": "Be brief.", "max_output_tokens": 7}
    check_response(server.ask(RESPONSES, **asked_second, previous_response_id=body["id"]), second)
    check_response_stream(server.stream(RESPONSES, **asked_second, previous_response_id=body["id"]), second)


def test_anthropic_messages(server: Server, loaded: tuple[Any, Any]) -> None:
    """A system prompt, an image between texts and a second turn, whole and streamed."""
    turns = (("user", ("First", ROOF, "what is it?")), ("assistant", ("A roof.",)), ("user", ("Where?",)))
    expected = Request((("system", ("Be brief.",)), *turns), 7).answer(loaded)
    first, picture = {"type": "text", "text": "First"}, {**ANTHROPIC_IMAGE[0]}
    messages = [
        {"role": "user", "content": [first, picture, {"type": "text", "text": "what is it?"}]},
        {"role": "assistant", "content": "A roof."},
        {"role": "user", "content": [{"type": "text", "text": "Where?"}]},
    ]
    request = {"messages": messages, "system": "Be brief.", "max_tokens": 7}
    body = server.ask(ANTHROPIC, **request)
    assert [readable(block["text"]) for block in body["content"]] == [expected.plain]
    assert body["stop_reason"] == {"length": "max_tokens", "stop": "end_turn"}[expected.finish_reason]
    assert body["usage"]["input_tokens"] == expected.prompt_tokens
    assert server.ask(COUNT_ANTHROPIC, **request) == {"input_tokens": expected.prompt_tokens}

    events = server.stream(ANTHROPIC, **request)
    deltas = [event["delta"]["text"] for event in events if event["type"] == "content_block_delta"]
    assert readable("".join(deltas)) == expected.plain
    assert events[0]["message"]["usage"]["input_tokens"] == expected.prompt_tokens
    assert [event["delta"]["stop_reason"] for event in events if event["type"] == "message_delta"] == [
        body["stop_reason"]
    ]


def test_anthropic_stop_sequences(server: Server, loaded: tuple[Any, Any]) -> None:
    """The one place where mlx-vlm's server knows stop sequences: the text ends before the first of them."""
    text = asked("Why?", max_tokens=9).answer(loaded).plain
    body = server.ask(ANTHROPIC, messages=[user("Why?")], max_tokens=9, stop_sequences=["never", text[3]])
    assert readable(body["content"][0]["text"]) == text[:3]
    assert (body["stop_reason"], body["stop_sequence"]) == ("stop_sequence", text[3])


PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
FUNCTION = {"name": "weather", "description": "Of a city", "parameters": PARAMETERS}
TOOLS = [{"type": "function", "function": FUNCTION}]
CALL = {"city": "Ulm", "days": 3}


def test_tools_in_the_prompt(server: Server, loaded: tuple[Any, Any]) -> None:
    """Tools, a call and its result stand in the prompt of every endpoint as the template writes them."""
    _, processor = loaded
    system = {"role": "system", "content": "Be brief."}
    call = {"type": "function", "id": "call_1", "function": {"name": "weather", "arguments": CALL}}
    messages = [
        system,
        user("Rain?"),
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "dry"},
    ]
    prompt = processor.tokenizer.apply_chat_template(messages, tools=TOOLS, tokenize=False, add_generation_prompt=True)
    assert json.dumps(TOOLS[0]) in prompt and "<parameter=days>\n3\n</parameter>" in prompt and "dry" in prompt
    expected = alone(loaded, prompt, 8)

    as_text = {**call, "function": {"name": "weather", "arguments": json.dumps(CALL)}}
    history = [*messages[:2], {**messages[2], "tool_calls": [as_text]}, messages[3]]
    request = {"messages": history, "tools": TOOLS, "max_tokens": 8}
    expected.check(server.ask(**request), "chat")
    expected.check(server.ask(**request, tool_choice="auto"), "chat with a choice of tools")
    expected.check(gathered(server.stream(**request, stream_options={"include_usage": True})), "chat, streamed")

    item = {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": json.dumps(CALL)}
    result = {"type": "function_call_output", "call_id": "call_1", "output": "dry"}
    request = {
        "input": [user("Rain?"), item, result],
        "instructions": "Be brief.",
        "tools": [{"type": "function", **FUNCTION}],
        "max_output_tokens": 8,
    }
    check_response(server.ask(RESPONSES, **request), expected)
    check_response_stream(server.stream(RESPONSES, **request), expected)

    request = {
        "system": "Be brief.",
        "messages": [
            user("Rain?"),
            {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "weather", "input": CALL}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "dry"}]},
        ],
        "tools": [{"name": "weather", "description": "Of a city", "input_schema": PARAMETERS}],
        "max_tokens": 8,
    }
    body = server.ask(ANTHROPIC, **request)
    assert readable(body["content"][0]["text"]) == expected.plain
    assert body["usage"]["input_tokens"] == expected.prompt_tokens
    assert server.ask(COUNT_ANTHROPIC, **request) == {"input_tokens": expected.prompt_tokens}
