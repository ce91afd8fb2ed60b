"""Fields that clients of other servers send: `chat_template_kwargs` and `stop`."""

from typing import Any

import pytest
from support.endpoints import (
    ANTHROPIC_IMAGE,
    COUNT_ANTHROPIC,
    COUNT_RESPONSES,
    ENDPOINTS,
    RESPONSE_IMAGE,
    ROOF,
    conversation,
    question,
    split,
    user,
)
from support.serving import ANTHROPIC, CHAT, RESPONSES, Server, asked, gathered, readable, skip_without_server

skip_without_server()

STREAMED = (CHAT, RESPONSES, ANTHROPIC)
ON, OFF = {"enable_thinking": True}, {"enable_thinking": False}


def prompt_tokens(server: Server, endpoint: str, **fields: Any) -> int:
    body = server.ask(endpoint, **question(endpoint, "Hello!"), **fields)
    usage = body.get("usage") or body
    return int(usage.get("prompt_tokens") or usage["input_tokens"])


def test_thinking(server: Server, loaded: tuple[Any, Any]) -> None:
    """`enable_thinking` among the template's variables opens the thoughts and tells them from the answer."""
    request = asked("Write a poem about rivers and hills.", max_tokens=50, thinking=True)
    expected = request.answer(loaded)
    thoughts, content = split(expected.text, True)
    body = {"messages": request.messages, "max_tokens": request.max_tokens, "chat_template_kwargs": ON}
    for answer in (server.ask(**body), gathered(server.stream(**body, stream_options={"include_usage": True}))):
        expected.check(answer, "chat")
        message = answer["choices"][0]["message"]
        assert (readable(message["reasoning_content"]), readable(message["content"] or "")) == (thoughts, content)
    budgeted = {"messages": [user("Hello!")], "max_tokens": 12, "thinking_budget": 3}
    blocks = server.ask(ANTHROPIC, **budgeted, chat_template_kwargs=ON)["content"]
    assert blocks == server.ask(ANTHROPIC, **budgeted, enable_thinking=True)["content"]
    assert [block["type"] for block in blocks] == ["thinking", "text"]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_which_word_on_thinking_counts(server: Server, loaded: tuple[Any, Any], endpoint: str) -> None:
    """The template's variable wins over the effort, and a field of the request's own over both."""
    counts = {on: asked("Hello!", max_tokens=1, thinking=on).answer(loaded).prompt_tokens for on in (True, False)}
    assert counts[True] != counts[False]
    for fields, thinking in (
        ({"chat_template_kwargs": ON}, True),
        ({"chat_template_kwargs": OFF}, False),
        ({"chat_template_kwargs": {}}, False),
        ({"chat_template_kwargs": {"enable_thinking": None}}, False),
        ({"chat_template_kwargs": ON, "enable_thinking": False}, False),
        ({"chat_template_kwargs": OFF, "enable_thinking": True}, True),
        ({"chat_template_kwargs": ON, "enable_thinking": True}, True),
        *([({"chat_template_kwargs": OFF, "reasoning_effort": "high"}, False)] if "messages/" not in endpoint else []),
        *([({"chat_template_kwargs": OFF, "thinking": {"type": "enabled"}}, True)] if endpoint == ANTHROPIC else []),
    ):
        assert prompt_tokens(server, endpoint, **fields) == counts[thinking], fields


BAD_VARIABLES = {
    "no object": (3, "chat_template_kwargs must be an object, not 3"),
    "misspelt": ({"enable_thinkin": True}, "'enable_thinkin'; did you mean 'enable_thinking'?"),
    "a word": ({"enable_thinking": "no"}, "enable_thinking in chat_template_kwargs must be true or false, not 'no'"),
    "a number": ({"enable_thinking": 0}, "must be true or false, not 0"),
    "another template": ({"chat_template": "{{ 1 }}"}, "chat_template_kwargs has chat_template, which no request sets"),
    "tokens": ({"tokenize": True, "tools": []}, "chat_template_kwargs has tokenize, tools, which no request sets"),
    "media": ({"num_images": 2}, "chat_template_kwargs has num_images"),
    "no prompt": ({"add_generation_prompt": False}, "chat_template_kwargs has add_generation_prompt"),
}


@pytest.mark.parametrize("name", BAD_VARIABLES)
def test_bad_variables(server: Server, name: str) -> None:
    value, words = BAD_VARIABLES[name]
    for endpoint in ENDPOINTS:
        for stream in (False, True) if endpoint in STREAMED else (False,):
            body = question(endpoint, "Hi", stream=stream, chat_template_kwargs=value)
            status, detail = server.refuse(endpoint, **body)
            assert status == 400 and words in detail and "\n" not in detail, f"{endpoint}, streamed: {stream}: {detail}"


def test_variables_of_other_templates(server: Server, loaded: tuple[Any, Any]) -> None:
    """What this template does not ask for does no harm; clients send it to all models."""
    variables = {"thinking": True, "mode": "4x", "reasoning_effort": "high", "custom": [1, {"a": None}]}
    expected = asked("Why?").answer(loaded)
    expected.check(server.ask(**asked("Why?").body, chat_template_kwargs=variables), "other variables")


def stopped(server: Server, endpoint: str, **body: Any) -> list[tuple[str, str | None]]:
    """Text of an answer, whole and streamed, and why it ended."""
    whole = server.ask(endpoint, **body)
    events = server.stream(endpoint, **body)
    if endpoint == CHAT:
        choices = [answer["choices"][0] for answer in (whole, gathered(events))]
        return [((c["message"]["content"] or "").strip(), c["finish_reason"]) for c in choices]
    deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    assert "".join(deltas).strip() == events[-1]["response"]["output_text"].strip()
    return [(r["output_text"].strip(), r["status"]) for r in (whole, events[-1]["response"])]


@pytest.mark.parametrize("endpoint", [CHAT, RESPONSES])
def test_stop(server: Server, loaded: tuple[Any, Any], endpoint: str) -> None:
    """An answer ends before the first stop text, however many tokens that has and wherever it begins in one."""
    body = conversation(endpoint, [user("Why?")], max_tokens=9)
    (text, _), _ = stopped(server, endpoint, **body)
    assert readable(text) == asked("Why?", max_tokens=9).answer(loaded).plain
    ended = {CHAT: "stop", RESPONSES: "completed"}[endpoint]
    cut_short = {CHAT: "length", RESPONSES: "incomplete"}[endpoint]
    for stop, found in (
        (text[3], text[3]),
        ([text[3:6]], text[3:6]),
        (["never", text[4:], text[2:4]], text[2:4]),
        ([text[2:5] + "never", text[3:5]], text[3:5]),
        (text, text),
    ):
        wanted = text[: text.index(found)].strip(), ended
        assert stopped(server, endpoint, **body, stop=stop) == [wanted] * 2, stop
    for stop in (None, [], "", [""], "never", text[-3:] + "never"):
        assert stopped(server, endpoint, **body, stop=stop) == [(text, cut_short)] * 2, stop


def test_stop_sequences_of_a_stream(server: Server, loaded: tuple[Any, Any]) -> None:
    """mlx-vlm cuts whole answers of `/v1/messages` at stop sequences; streams end there too."""
    body = {"messages": [user("Why?")], "max_tokens": 9}
    [block] = server.ask(ANTHROPIC, **body)["content"]
    for stop in (block["text"][3], block["text"][2:5]):
        [wanted] = server.ask(ANTHROPIC, **body, stop_sequences=["never", stop])["content"]
        events = server.stream(ANTHROPIC, **body, stop_sequences=["never", stop])
        deltas = [event["delta"]["text"] for event in events if event["type"] == "content_block_delta"]
        assert "".join(deltas).strip() == wanted["text"].strip()
        assert [event["delta"]["stop_reason"] for event in events if event["type"] == "message_delta"] == ["end_turn"]


def test_stop_leaves_the_thoughts_alone(server: Server, loaded: tuple[Any, Any]) -> None:
    """A stop text counts in the answer; thoughts may hold it."""
    request = asked("Hello!", max_tokens=12, thinking=True, thinking_budget=3)
    thoughts, content = split(request.answer(loaded).text, True)
    assert thoughts and len(content) > 3
    for stop, wanted in ((content[2], content[: content.index(content[2])]), (thoughts[0], content)):
        if stop == thoughts[0] and stop in content:
            wanted = content[: content.index(stop)]
        for answer in (server.ask(**request.body, stop=stop), gathered(server.stream(**request.body, stop=stop))):
            message = answer["choices"][0]["message"]
            assert readable(message["reasoning_content"]) == thoughts, stop
            assert readable(message["content"] or "") == wanted.strip(), stop


def test_stop_ends_the_work(server: Server, loaded: tuple[Any, Any]) -> None:
    """The server gives up what comes after a stop text."""
    text = asked("Why?", max_tokens=9).answer(loaded).plain
    body = server.ask(messages=[user("Why?")], max_tokens=50_000, stop=text[3])
    assert readable(body["choices"][0]["message"]["content"]) == text[:3]
    assert body["usage"]["completion_tokens"] < 9
    assert server.get("/metrics")["summary"]["in_flight"] == 0


@pytest.mark.parametrize("stop", [3, {"a": 1}, ["a", 3], True], ids=repr)
def test_bad_stop(server: Server, stop: Any) -> None:
    for endpoint in (CHAT, RESPONSES):
        for stream in (False, True):
            status, detail = server.refuse(endpoint, **question(endpoint, "Hi"), stream=stream, stop=stop)
            assert (status, detail) == (400, f"stop must be a text or a list of texts, not {stop!r}")


def test_options_and_variables_together(server: Server, loaded: tuple[Any, Any]) -> None:
    """On every endpoint, with a picture: the count is the one of `generate`."""
    fields = {"chat_template_kwargs": ON, "mm_processor_kwargs": {"downsample_mode": "4x"}}
    expected = asked(ROOF, "What is this?", max_tokens=2, thinking=True, downsample_mode="4x").answer(loaded)
    of_openai = {"input": [{"role": "user", "content": RESPONSE_IMAGE}], **fields}
    of_anthropic = {"messages": [{"role": "user", "content": ANTHROPIC_IMAGE}], "max_tokens": 2, **fields}
    assert server.ask(COUNT_RESPONSES, **of_openai) == {"input_tokens": expected.prompt_tokens}
    assert server.ask(COUNT_ANTHROPIC, **of_anthropic) == {"input_tokens": expected.prompt_tokens}
    assert server.ask(RESPONSES, **of_openai, max_output_tokens=2)["usage"]["input_tokens"] == expected.prompt_tokens
    assert server.ask(ANTHROPIC, **of_anthropic)["usage"]["input_tokens"] == expected.prompt_tokens
