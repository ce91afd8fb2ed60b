"""Chat completions of mlx-vlm's server, one after the other: each gives the answer of `generate`."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlx_vlm import stream_generate
from mlx_vlm.prompt_utils import apply_chat_template
from support import golden_data
from support.cases import BY_NAME
from support.endpoints import CLIP, ROOF, TOP, WAVES, split, user
from support.serving import ANTHROPIC, Request, Server, asked, gathered, readable, running_server, skip_without_server

skip_without_server()


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


def test_drafter(folder: Path, loaded: tuple[Any, Any], tmp_path: Path) -> None:
    """A server that is given one says that it does not fit, and answers without it."""
    flags = ("--draft-model", str(folder), "--draft-kind", "mtp", "--draft-block-size", "3")
    with running_server(tmp_path, folder, *flags) as server:
        CHATS["text"].answer(loaded).check(server.ask(**CHATS["text"].body), "beside a drafter")
    assert "falling back to autoregressive generation: MiniCPM-V 4.6 has no drafter" in server.log.read_text()
