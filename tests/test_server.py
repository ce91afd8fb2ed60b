"""What mlx-vlm's server does with requests, one after the other: every endpoint gives the answer of `generate`."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import golden_data
import numpy as np
import pytest
import tiny
from cases import BY_NAME
from mlx_vlm import load, stream_generate
from mlx_vlm.prompt_utils import apply_chat_template
from pictures import MEDIA, Picture
from serving import (
    ANTHROPIC,
    CHAT,
    RESPONSES,
    Answer,
    Request,
    Server,
    alone,
    asked,
    data_uri,
    gathered,
    png,
    readable,
    running_server,
    skip_without_server,
    template_with_tools,
)

skip_without_server()

COUNT_ANTHROPIC, COUNT_RESPONSES = f"{ANTHROPIC}/count_tokens", f"{RESPONSES}/input_tokens"
ENDPOINTS = (CHAT, RESPONSES, ANTHROPIC, COUNT_RESPONSES, COUNT_ANTHROPIC)
ROOF, FLOWER, PAGE = Picture("roof.png"), Picture("flower.png"), Picture("page.png")
WAVES = Picture("waves", (60, 200))
CLIP, JUMP = MEDIA / "pan_short.mp4", MEDIA / "jump.mp4"
TOP = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint whose template knows tools, as the official one does."""
    folder = tiny.make_checkpoint(tmp_path_factory.mktemp("tools"))
    template = folder / "chat_template.jinja"
    template.write_text(template_with_tools(template.read_text()))
    return folder


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("server"), folder, "--top-logprobs-k", str(TOP)) as server:
        yield server


@pytest.fixture(scope="module")
def loaded(folder: Path) -> tuple[Any, Any]:
    """The same model and processor in this process."""
    return load(str(folder))


# OpenAI chat completions

CHATS = {
    "text": asked("Why?", max_tokens=9),
    "image": asked(ROOF, "What is this?"),
    "two images": asked("First", ROOF, "then", WAVES, "which is larger?"),
    "video": asked(CLIP, "What moves?"),
    "image and video": asked(WAVES, CLIP, "Where is it?", scale_resolution=168),
    "system": Request((("system", ("Be brief.",)), ("user", ("List ten rivers.",))), 12),
    "second turn adds an image": Request(
        (
            ("user", ("First", ROOF, "what is it?")),
            ("assistant", ("A roof.",)),
            ("user", (WAVES, "And this?")),
        )
    ),
    "thinking": asked("Write a poem about rivers and hills.", max_tokens=50, thinking=True),
    "thinking about an image": asked(WAVES, "Why?", max_tokens=9, thinking=True),
    "not thinking": asked("Is it?", thinking=False),
}
OPTIONS = {
    "resized": asked(FLOWER, "What is this?", resize_shape=[150, 90]),
    "4x": asked(ROOF, "What is this?", downsample_mode="4x"),
    "4x with more slices": asked(PAGE, "Read.", downsample_mode="4x", max_slice_nums=36, scale_resolution=224),
    "no slices, no ids": asked(PAGE, "Read.", slice_mode=False, use_image_id=False),
    "video in 4x, faster": asked(CLIP, "?", downsample_mode="4x", fps=2, max_num_frames=3, scale_resolution=168),
    "stacked frames": asked(JUMP, "What moves?", stack_frames=3, max_slice_nums=1, scale_resolution=168),
    "number of frames": asked(JUMP, "What moves?", nframes=4, scale_resolution=168),
    "fewer frames": asked(CLIP, "What moves?", fps=2, max_frames=4, scale_resolution=168),
    "more frames": asked(CLIP, "What moves?", min_frames=5, scale_resolution=168),
    "all frames": asked(CLIP, "What moves?", do_sample_frames=False, scale_resolution=112),
    "images and videos apart": asked(
        *(WAVES, CLIP, "?"),
        images_kwargs={"downsample_mode": "4x", "scale_resolution": 168},
        videos_kwargs={"max_num_frames": 2, "scale_resolution": 168},
    ),
}


@pytest.mark.parametrize("name", CHATS)
def test_chat(server: Server, loaded: tuple[Any, Any], name: str) -> None:
    """An answer comes whole and as a stream, with the same tokens, probabilities, texts and counts."""
    request = CHATS[name]
    expected = request.answer(loaded)
    whole = server.ask(**request.body)
    streamed = gathered(server.stream(**request.body, stream_options={"include_usage": True}))
    reasoning, content = split(expected.text, bool(request.thinking))
    for what, body in ((name, whole), (f"{name}, streamed", streamed)):
        expected.check(body, what)
        message = body["choices"][0]["message"]
        assert readable(message["reasoning_content"] or "") == reasoning, what
        assert readable(message["content"] or "") == content, what


def split(text: str, thinking: bool) -> tuple[str, str]:
    """What a text says before and after its thoughts end."""
    before, end, after = text.partition("</think>")
    if not end and (thinking or "<think>" in text):
        before, after = text, ""
    elif not end:
        before, after = "", text
    return readable(before.replace("<think>", "")), readable(after)


@pytest.mark.parametrize("name", ["text_hello", "photo_no_text", "two_photos"])
def test_official_answers(server: Server, name: str, loaded: tuple[Any, Any]) -> None:
    """Requests of the recorded cases get the tokens that the official implementation gave."""
    case, golden = BY_NAME[name], golden_data.load(name)
    content = case.turns[0].content
    request = asked(*((content,) if isinstance(content, str) else content), max_tokens=case.new_tokens)
    body = server.ask(**request.body)
    _, processor = loaded
    tokens = [processor.tokenizer.decode([token]) for token in golden["greedy"]]
    assert [entry["token"] for entry in body["choices"][0]["logprobs"]["content"]] == tokens
    assert body["usage"]["prompt_tokens"] == len(golden["input_ids"])


# Processor options of a request


@pytest.mark.parametrize("name", OPTIONS)
def test_options(server: Server, loaded: tuple[Any, Any], name: str) -> None:
    """A request is answered with its own options; each of them changes the inputs, so none is ignored unseen."""
    request = OPTIONS[name]
    request.answer(loaded).check(server.ask(**request.body), name)
    for option in request.options.keys() - {"resize_shape"}:
        without = {key: value for key, value in request.options.items() if key != option}
        plain = dataclasses.replace(request, options=without)
        assert inputs_of(request, loaded) != inputs_of(plain, loaded), f"{name}: {option}"


def inputs_of(request: Request, loaded: tuple[Any, Any]) -> tuple[bytes, ...]:
    model, processor = loaded
    parts = [part for _, said in request.turns for part in said]
    inputs = processor(
        apply_chat_template(processor, model.config, request.messages),
        images=[part.load() for part in parts if isinstance(part, Picture)],
        videos=[str(part) for part in parts if isinstance(part, Path)] or None,
        **request.options,
    )
    return tuple(np.asarray(inputs[name]).tobytes() for name in ("input_ids", "image_units", "pixel_values"))


def test_options_in_an_object(server: Server, loaded: tuple[Any, Any]) -> None:
    """`processor_kwargs`, called as the commands' flag, is the same; null is no option."""
    request = OPTIONS["4x"]
    body = server.ask(
        **asked(ROOF, "What is this?", processor_kwargs=request.options).body, max_slice_nums=None, fps=None
    )
    request.answer(loaded).check(body, "processor_kwargs")


def test_options_reach_the_token_counts(server: Server, loaded: tuple[Any, Any]) -> None:
    """Every endpoint counts, and refuses for its length, the prompt that the options make."""
    count = OPTIONS["4x"].answer(loaded).prompt_tokens
    options = OPTIONS["4x"].options
    of_openai = {"input": [{"role": "user", "content": RESPONSE_IMAGE}]}
    of_anthropic = {"messages": [{"role": "user", "content": ANTHROPIC_IMAGE}], "max_tokens": 6}
    assert server.ask(COUNT_RESPONSES, **of_openai, **options) == {"input_tokens": count}
    assert server.ask(COUNT_ANTHROPIC, **of_anthropic, **options) == {"input_tokens": count}
    assert server.ask(RESPONSES, **of_openai, max_output_tokens=6, **options)["usage"]["input_tokens"] == count
    assert server.ask(ANTHROPIC, **of_anthropic, **options)["usage"]["input_tokens"] == count


BAD_OPTIONS = {
    "misspelt": ({"downsample_modes": "4x"}, "'downsample_modes'; did you mean 'downsample_mode'?"),
    "almost": ({"max_slice_num": 36}, "'max_slice_num'; did you mean 'max_slice_nums'?"),
    "mode": ({"downsample_mode": "8x"}, "downsample_mode must be one of '4x', '16x', not '8x'"),
    "zero": ({"max_slice_nums": 0}, "max_slice_nums must be an integer of at least 1, not 0"),
    "word": ({"max_slice_nums": "many"}, "max_slice_nums must be an integer of at least 1, not 'many'"),
    "switch": ({"use_image_id": "no"}, "use_image_id must be True or False, not 'no'"),
    "rate": ({"fps": 0}, "fps must be a positive number, not 0"),
    "one of two rates": ({"fps": [1, -1]}, "fps must be a positive number, not -1"),
    "frames": ({"max_frames": 0}, "max_num_frames must be an integer of at least 1, not 0"),
    "nested": ({"images_kwargs": {"stack_frames": 3}}, "images_kwargs has unknown options stack_frames"),
    "in the object": ({"processor_kwargs": {"slices": 2}}, "processor_kwargs has unknown options slices"),
    "no object": ({"processor_kwargs": 3}, "processor_kwargs must be an object of options, not 3"),
    "twice": (
        {"processor_kwargs": {"downsample_mode": "4x"}, "downsample_mode": "4x"},
        "downsample_mode stands in the request and in its processor_kwargs",
    ),
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_bad_options(server: Server, name: str) -> None:
    """Every endpoint refuses them with status 400 and one sentence, before a stream begins."""
    options, sentence = BAD_OPTIONS[name]
    for endpoint in ENDPOINTS:
        prompt = {"input": "Hi"} if endpoint in (RESPONSES, COUNT_RESPONSES) else {"messages": [HELLO], "max_tokens": 3}
        for stream in (False, True):
            status, detail = server.refuse(endpoint, **prompt, stream=stream, **options)
            assert status == 400, endpoint
            assert sentence in detail and "\n" not in detail and "400" not in detail, endpoint


def test_fields_of_other_clients(server: Server, loaded: tuple[Any, Any]) -> None:
    """What OpenAI's clients send beside mlx-vlm's fields passes as before."""
    fields = {
        "n": 1,
        "user": "me",
        "metadata": {"mode": "4x"},
        "max_completion_tokens": 6,
        "parallel_tool_calls": True,
        "service_tier": "auto",
        "prompt_cache_key": "key",
        "image_detail": "high",
    }
    asked("Why?").answer(loaded).check(server.ask(**asked("Why?").body, **fields), "other fields")


HELLO = {"role": "user", "content": "Hello!"}
RESPONSE_IMAGE = [
    {"type": "input_image", "image_url": data_uri(ROOF)},
    {"type": "input_text", "text": "What is this?"},
]
ANTHROPIC_IMAGE = [
    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": png(ROOF)}},
    {"type": "text", "text": "What is this?"},
]


def test_other_models_are_left_alone(loaded: tuple[Any, Any]) -> None:
    """For another model's processor mlx-vlm's own function answers, whatever the request's fields are called."""
    from mlx_vlm.server.generation import GenerationArguments
    from mlx_vlm.server.request_normalization import _build_gen_args
    from mlx_vlm.server.schemas import ChatRequest

    request = ChatRequest(
        model="other", messages=[HELLO], downsample_modes=1, max_slice_nums=0, resize_shape=[8, 8], max_tokens=7
    )
    _, processor = loaded
    for other in (None, SimpleNamespace(tokenizer=processor.tokenizer), processor.tokenizer):
        arguments = _build_gen_args(request, processor=other)
        assert type(arguments) is GenerationArguments
        assert arguments == _build_gen_args.__wrapped__(request, other)
    plain = ChatRequest(model="ours", messages=[HELLO], resize_shape=[8, 8])
    assert type(_build_gen_args(plain, processor)) is GenerationArguments


def test_arguments_keep_their_options(loaded: tuple[Any, Any]) -> None:
    """Copies of a request's arguments keep its options, and its own arguments stay what mlx-vlm made of them."""
    from mlx_vlm.server.request_normalization import _build_gen_args
    from mlx_vlm.server.schemas import ChatRequest

    fields = {"messages": [HELLO], "resize_shape": [8, 8], "max_tokens": 7, "seed": 3, "logit_bias": {"5": 1.5}}
    _, processor = loaded
    ours = _build_gen_args(ChatRequest(model="ours", **fields, downsample_mode="4x"), processor, tenant_id="me")
    own = _build_gen_args.__wrapped__(ChatRequest(model="ours", **fields), processor, tenant_id="me")
    copy = dataclasses.replace(ours, max_tokens=5)
    assert copy.max_tokens == 5
    for arguments in (ours, dataclasses.replace(copy, max_tokens=7)):
        assert arguments.preprocessing_kwargs() == {"resize_shape": (8, 8), "downsample_mode": "4x"}
        assert arguments.to_generate_kwargs() == own.to_generate_kwargs() | {"downsample_mode": "4x"}
        assert arguments.to_template_kwargs() == own.to_template_kwargs()
        assert {f.name: getattr(arguments, f.name) for f in dataclasses.fields(own)} == vars(own)


# Thinking, probabilities


@pytest.mark.parametrize(
    ("fields", "thinking"),
    [
        ({"enable_thinking": True}, True),
        ({"reasoning_effort": "low"}, True),
        ({"reasoning": {"effort": "high"}}, True),
        ({"reasoning_effort": "none"}, False),
        ({"enable_thinking": False, "reasoning_effort": "high"}, False),
        ({}, False),
    ],
    ids=repr,
)
def test_what_opens_the_thoughts(
    server: Server, loaded: tuple[Any, Any], fields: dict[str, Any], thinking: bool
) -> None:
    """Fields of mlx-vlm and of OpenAI's clients; the template's own default is off."""
    body = server.ask(messages=[user("Hello!")], max_tokens=4, **fields)
    asked("Hello!", max_tokens=4, thinking=thinking).answer(loaded).check(body, str(fields))


def test_thinking_budget(server: Server, loaded: tuple[Any, Any]) -> None:
    """Thoughts end at the budget and the answer follows, as in `generate` with the same budget.

    For the tokens that end the thoughts mlx-vlm's server and its `generate` report other probabilities.
    """
    request = asked("Hello!", max_tokens=12, thinking=True, thinking_budget=3)
    expected = request.answer(loaded)
    assert expected.text.count("</think>") == 1
    reasoning, content = split(expected.text, True)
    assert reasoning and content
    for body in (server.ask(**request.body), gathered(server.stream(**request.body))):
        [choice] = body["choices"]
        assert [entry["token"] for entry in choice["logprobs"]["content"]] == expected.tokens
        assert readable(choice["message"]["reasoning_content"]) == reasoning
        assert readable(choice["message"]["content"]) == content
    budget = {"type": "enabled", "budget_tokens": 3}
    body = server.ask(ANTHROPIC, messages=[user("Hello!")], max_tokens=12, thinking=budget)
    assert [(block["type"], readable(block[block["type"]])) for block in body["content"]] == [
        ("thinking", reasoning),
        ("text", content),
    ]


def test_top_probabilities(server: Server, loaded: tuple[Any, Any]) -> None:
    """The likeliest tokens of each step with their probabilities, as many as the server's flag allows."""
    model, processor = loaded
    prompt = apply_chat_template(processor, model.config, "Why?")
    *steps, _ = stream_generate(model, processor, prompt, max_tokens=6, temperature=0.0)
    for asked_for, given in ((3, 3), (20, TOP)):
        body = server.ask(messages=[user("Why?")], max_tokens=6, top_logprobs=asked_for)
        entries = body["choices"][0]["logprobs"]["content"]
        assert len(entries) == 6
        for step, entry in zip(steps, entries, strict=False):
            logprobs = np.array(step.logprobs)
            best = np.argsort(-logprobs)[:given]
            top = entry["top_logprobs"]
            assert [other["token"] for other in top] == [processor.tokenizer.decode([token]) for token in best]
            np.testing.assert_allclose([other["logprob"] for other in top], logprobs[best], atol=1e-4)


# OpenAI responses


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


def check_response(body: dict[str, Any], expected: Answer) -> None:
    assert readable(body["output_text"]) == expected.plain
    assert body["usage"]["input_tokens"] == expected.prompt_tokens
    assert body["usage"]["output_tokens"] == len(expected.tokens)
    assert body["status"] == {"length": "incomplete", "stop": "completed"}[expected.finish_reason]


def check_response_stream(events: list[dict[str, Any]], expected: Answer) -> None:
    deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    assert len(deltas) > 1
    assert readable("".join(deltas)) == expected.plain
    check_response(events[-1]["response"], expected)


# Anthropic messages


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


# Tools

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


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


# Drafters


def test_drafter(folder: Path, loaded: tuple[Any, Any], tmp_path: Path) -> None:
    """A server that is given one says that it does not fit, and answers without it."""
    flags = ("--draft-model", str(folder), "--draft-kind", "mtp", "--draft-block-size", "3")
    with running_server(tmp_path, folder, *flags) as server:
        CHATS["text"].answer(loaded).check(server.ask(**CHATS["text"].body), "beside a drafter")
    assert "falling back to autoregressive generation: MiniCPM-V 4.6 has no drafter" in server.log.read_text()
