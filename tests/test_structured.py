"""Structured output: answers that fit a JSON schema, from Python and from the server, also where there is no Metal."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_vlm import generate, load
from mlx_vlm.prompt_utils import apply_chat_template
from mlx_vlm.structured import LLGuidanceLogitsProcessor, build_json_schema_logits_processor
from support.pictures import Picture
from support.serving import ANTHROPIC, RESPONSES, Server, asked, gathered, readable, running_server, skip_without_server

from minicpmv46.plugin.grammar import PortableGrammar, mask_logits

pytest.importorskip("llguidance")
skip_without_server()

ROOF = Picture("roof.png")
SMALL = {"scale_resolution": 112}


def schema(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


NUMBER_AND_WORD = schema(a={"type": "integer", "maximum": 9999, "minimum": 0}, b={"enum": ["x", "yy"]})
LIST = schema(colours={"type": "array", "items": {"enum": ["red", "blue"]}, "minItems": 2, "maxItems": 3})


@pytest.fixture(scope="module")
def loaded(checkpoint: Callable[[str], Path]) -> tuple[Any, Any]:
    return load(str(checkpoint("base")))


@pytest.fixture(scope="module")
def server(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("server"), checkpoint("base")) as server:
        yield server


def answer(loaded: tuple[Any, Any], text: str, wanted: dict[str, Any], *images: Picture, **options: Any) -> str:
    model, processor = loaded
    prompt = apply_chat_template(processor, model.config, text, num_images=len(images))
    media = {"image": [image.load() for image in images], **SMALL} if images else {}
    grammar = build_json_schema_logits_processor(processor.tokenizer, wanted)
    result = generate(*loaded, prompt, max_tokens=60, temperature=0.0, logits_processors=[grammar], **media, **options)
    assert result.finish_reason == "stop"
    return str(result.text)


@pytest.mark.parametrize("vocabulary", [64, 70, 31])
def test_mask(vocabulary: int) -> None:
    """Bits of a mask, lowest first, against numpy; what the mask does not reach is forbidden."""
    random = np.random.RandomState(vocabulary)
    logits = random.standard_normal((3, vocabulary)).astype(np.float32)
    mask = random.randint(-(2**31), 2**31, (3, 2), dtype=np.int64).astype(np.int32)
    bits = np.unpackbits(mask.view(np.uint8), axis=1, bitorder="little").astype(bool)[:, :vocabulary]
    allowed = np.pad(bits, [(0, 0), (0, vocabulary - bits.shape[1])])
    for dtype in (mx.float32, mx.bfloat16):
        masked = mask_logits(mx.array(logits).astype(dtype), mx.array(mask))
        assert masked.dtype == dtype
        expected = np.where(allowed, np.array(mx.array(logits).astype(dtype).astype(mx.float32)), -np.inf)
        np.testing.assert_array_equal(np.array(masked.astype(mx.float32)), expected)


def test_python(loaded: tuple[Any, Any]) -> None:
    """The answer is the schema's, depends on the picture and the prompt, and the next one is free again."""
    free = generate(*loaded, "Hi", max_tokens=8, temperature=0.0).text
    texts = [
        answer(loaded, "Hi", NUMBER_AND_WORD),
        answer(loaded, "Why is that so?", NUMBER_AND_WORD),
        answer(loaded, "Hi", NUMBER_AND_WORD, ROOF),
    ]
    for text in texts:
        value = json.loads(text)
        assert value.keys() == {"a", "b"} and 0 <= value["a"] <= 9999 and value["b"] in ("x", "yy")
    assert len(set(texts)) > 1
    assert 2 <= len(json.loads(answer(loaded, "Hi", LIST))["colours"]) <= 3
    assert generate(*loaded, "Hi", max_tokens=8, temperature=0.0).text == free


def test_likeliest_allowed_token(loaded: tuple[Any, Any]) -> None:
    """Among what the schema allows the model chooses: the first digit is the likeliest of the ten."""
    model, processor = loaded
    prompt = apply_chat_template(processor, model.config, "Hi") + '{"a": '
    logits = np.array(model.language_model(mx.array([processor.tokenizer.encode(prompt)])).logits[0, -1])
    digits = [processor.tokenizer.encode(str(digit))[0] for digit in range(10)]
    expected = str(int(np.argmax(logits[digits])))
    assert answer(loaded, "Hi", schema(a={"type": "integer", "minimum": 0, "maximum": 9})) == f'{{"a": {expected}}}'


def test_mlx_vlms_own_kernel_stays_in_use(loaded: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """On Metal, and for tokenizers of other models, the processor is mlx-vlm's own."""
    _, processor = loaded
    build = build_json_schema_logits_processor
    if not mx.metal.is_available():
        assert type(build(processor.tokenizer, LIST)) is PortableGrammar
        assert type(build(processor.tokenizer, LIST).clone()) is PortableGrammar
        monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    assert type(build(processor.tokenizer, LIST)) is LLGuidanceLogitsProcessor
    monkeypatch.undo()
    monkeypatch.delattr(processor.tokenizer, "__minicpmv46__")
    assert type(build(processor.tokenizer, LIST)) is LLGuidanceLogitsProcessor


def test_server(server: Server, loaded: tuple[Any, Any]) -> None:
    """Chat completions and responses, whole and streamed, with a picture, and thoughts that no schema binds."""
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": NUMBER_AND_WORD}}
    expected = answer(loaded, "Hi", NUMBER_AND_WORD)
    body = {**asked("Hi", max_tokens=60).body, "response_format": wanted}
    assert server.ask(**body)["choices"][0]["message"]["content"] == expected
    assert gathered(server.stream(**body))["choices"][0]["message"]["content"] == expected

    pictured = {**asked(ROOF, "Hi", max_tokens=60, **SMALL).body, "response_format": wanted}
    expected_of_picture = answer(loaded, "Hi", NUMBER_AND_WORD, ROOF)
    assert server.ask(**pictured)["choices"][0]["message"]["content"] == expected_of_picture

    text = {"format": {"type": "json_schema", "name": "n", "schema": NUMBER_AND_WORD}}
    assert server.ask(RESPONSES, input="Hi", max_output_tokens=60, text=text)["output_text"] == expected

    messages = {"messages": body["messages"], "max_tokens": 60, "response_format": wanted}
    assert [block["text"] for block in server.ask(ANTHROPIC, **messages)["content"]] == [expected]

    thinking = {**body, "enable_thinking": True, "thinking_budget": 3}
    message = server.ask(**thinking)["choices"][0]["message"]
    assert readable(message["reasoning_content"])
    assert json.loads(message["content"]).keys() == {"a", "b"}
    for wrong, words in (({"type": "json_schema"}, "must include a schema"), ({"type": "grammar"}, "'grammar'")):
        _, detail = server.refuse(**{**body, "response_format": wrong})
        assert words in detail


def test_server_under_load(server: Server, loaded: tuple[Any, Any]) -> None:
    """Requests with different schemas and without any, at once, get what they get alone."""
    plain = asked("Why?", max_tokens=40)
    expected = {
        "number": answer(loaded, "Hi", NUMBER_AND_WORD),
        "list": answer(loaded, "Why is that so?", LIST),
    }
    bodies = {
        name: {
            **asked(text, max_tokens=60).body,
            "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": wanted}},
        }
        for name, text, wanted in (("number", "Hi", NUMBER_AND_WORD), ("list", "Why is that so?", LIST))
    }
    order = ["number", "list", "plain"] * 4
    with ThreadPoolExecutor(6) as pool:
        futures = [pool.submit(server.ask, **(plain.body if name == "plain" else bodies[name])) for name in order]
        answers = [future.result() for future in futures]
    for name, body in zip(order, answers, strict=True):
        if name == "plain":
            plain.answer(loaded).check(body, "plain")
        else:
            assert body["choices"][0]["message"]["content"] == expected[name]
