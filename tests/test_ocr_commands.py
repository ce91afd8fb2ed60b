"""MiniCPM-OCR through mlx-vlm's commands with each of their options, beside the same request through Python."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_vlm import generate, load
from mlx_vlm.generate import dispatch
from mlx_vlm.prompt_utils import apply_chat_template
from mlx_vlm.structured import build_json_schema_logits_processor
from support.pictures import MEDIA
from support.running import python

Loaded = tuple[Any, Any]

RECEIPT, PAGE = str(MEDIA / "receipt_l.png"), str(MEDIA / "page.png")
TOKENS = 8
# Units of 168 pixels a side, so that the receipt has slices of which "adaptive" keeps some at their own size.
SMALL = {"scale_resolution": 168, "max_slice_nums": 9}
ADAPTIVE = {**SMALL, "small_image_upsize": "adaptive"}
NEVER = {**SMALL, "small_image_upsize": "never", "downsample_mode": "16x"}

# Flags beside `--image`, the processor's options, and the same as keywords.
COMMANDS: dict[str, tuple[tuple[str, ...], dict[str, Any], dict[str, Any]]] = {
    "thinking budget": (
        ("--enable-thinking", "--thinking-budget", "2", "--thinking-start-token", "<think>"),
        ADAPTIVE,
        {"enable_thinking": True, "thinking_budget": 2, "thinking_start_token": "<think>"},
    ),
    "sampling": (
        ("--temperature", "3.0", "--top-p", "0.9", "--top-k", "40", "--seed", "5", "--repetition-penalty", "1.3"),
        ADAPTIVE,
        {"temperature": 3.0, "top_p": 0.9, "top_k": 40, "repetition_penalty": 1.3},
    ),
    "quantized cache in pieces": (
        ("--kv-bits", "2", "--kv-group-size", "32", "--quantized-kv-start", "0", "--prefill-step-size", "16"),
        NEVER,
        {"kv_bits": 2, "kv_group_size": 32, "quantized_kv_start": 0, "prefill_step_size": 16},
    ),
    "resized image": (("--resize-shape", "200", "120"), ADAPTIVE, {"resize_shape": (200, 120)}),
    "resized image, never": (("--resize-shape", "90"), NEVER, {"resize_shape": (90, 90)}),
}


@pytest.fixture(scope="module")
def loaded(checkpoint: Callable[[str], Path]) -> Loaded:
    return load(str(checkpoint("ocr")))


def answer(loaded: Loaded, image: str | None, question: str, **keywords: Any) -> Any:
    model, processor = loaded
    template = {name: keywords[name] for name in ("enable_thinking",) if name in keywords}
    prompt = apply_chat_template(processor, model.config, question, num_images=int(image is not None), **template)
    media = {"image": [image]} if image else {}
    return generate(model, processor, prompt, **{"max_tokens": TOKENS, "temperature": 0.0, **media, **keywords})


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], checkpoint: Any) -> Any:
    """Runs `mlx_vlm.generate` in this process and returns what it printed."""

    def run(*flags: str, variant: str = "ocr") -> str:
        places = ("--model", str(checkpoint(variant)), "--max-tokens", str(TOKENS))
        monkeypatch.setattr(sys, "argv", ["generate", *places, *flags])
        dispatch.main()
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("name", COMMANDS)
def test_flags(name: str, command: Any, loaded: Loaded, checkpoint: Any) -> None:
    flags, options, keywords = COMMANDS[name]
    greedy = () if "temperature" in keywords else ("--temperature", "0.0")
    printed = command(
        *("--image", RECEIPT, "--prompt", "Read it.", "--processor-kwargs", json.dumps(options)), *greedy, *flags
    )
    if "temperature" in keywords:  # as the command: seeded before the model is made, which draws numbers
        mx.random.seed(5)
        loaded = load(str(checkpoint("ocr")))
    result = answer(loaded, RECEIPT, "Read it.", **options, **keywords)
    assert printed == f"{result.text}\n" and len(result.text) > 3
    assert result.token_ids != answer(loaded, RECEIPT, "Read it.", **options).token_ids


def test_resized_image_is_the_small_one(loaded: Loaded) -> None:
    """A box that the picture is shrunk into: what is then small enough is kept at its size."""
    model, processor = loaded
    prompt = apply_chat_template(processor, model.config, "Read it.", num_images=1)
    boxed = processor(prompt, images=[RECEIPT], resize_shape=(150, 150), **NEVER)
    assert boxed["image_units"][:, :2].tolist() == [[12, 4]]  # 150 x 59 pixels, on the grid of four patches
    assert processor(prompt, images=[RECEIPT], resize_shape=(150, 150), **SMALL)["image_units"][0, 0] > 12


def test_options_beside_the_messages(loaded: Loaded) -> None:
    """A chat that is rendered and processed at once takes options among its keywords too; a call's own win."""
    processor = loaded[1]
    parts = [{"type": "image", "path": RECEIPT}, {"type": "text", "text": "Read it."}]

    def units(**keywords: Any) -> list[list[int]]:
        messages = [{"role": "user", "content": parts}]
        inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True, **keywords)
        return inputs["image_units"].tolist()

    expected = units(processor_kwargs=ADAPTIVE)
    assert units(**ADAPTIVE) == expected != units(processor_kwargs=SMALL)
    assert units(processor_kwargs=ADAPTIVE, small_image_upsize="always") == expected
    with pytest.raises(ValueError, match="small_image_upsize must be one of"):
        units(small_image_upsize="no")


def test_chat(folder: Path, loaded: Loaded, checkpoint: Callable[[str], Path]) -> None:
    """`--chat`: every turn is the whole chat, read anew with the options of the command."""
    model, processor = loaded
    questions = ("Read it.", "And why?")
    flags = ("--image", RECEIPT, "--processor-kwargs", json.dumps(ADAPTIVE), "--max-tokens", str(TOKENS))
    done = python(
        *("-m", "mlx_vlm.generate", "--model", checkpoint("ocr"), "--chat", *flags, "--temperature", "0.0"),
        folder=folder,
        typed="\n".join([*questions, "", ""]),
    )
    assert done.returncode == 0, done.stderr.decode()
    history: list[dict[str, Any]] = []
    replies = []
    for question in questions:
        shown = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
        prompt = processor.apply_chat_template([*history, shown], add_generation_prompt=True, enable_thinking=False)
        result = generate(model, processor, prompt, image=[RECEIPT], max_tokens=TOKENS, temperature=0.0, **ADAPTIVE)
        replies.append(result.text)
        history += [{"role": "user", "content": question}, {"role": "assistant", "content": result.text}]
    assert len(set(replies)) == len(questions)
    assert done.stdout.decode() == "".join(f"User:Assistant:{text}\n" for text in replies) + "User:"


def test_structured_output(loaded: Loaded) -> None:
    """An answer of the schema, which depends on the picture."""
    pytest.importorskip("llguidance")
    number = {"type": "integer", "minimum": 0, "maximum": 9999}
    schema = {"type": "object", "properties": {"a": number}, "required": ["a"], "additionalProperties": False}

    def structured(image: str, **options: Any) -> Any:
        grammar = build_json_schema_logits_processor(loaded[1].tokenizer, schema)
        result = answer(loaded, image, "Read it.", logits_processors=[grammar], max_tokens=40, **options)
        assert result.finish_reason == "stop"
        return json.loads(result.text)["a"]

    found = [structured(RECEIPT, **ADAPTIVE), structured(PAGE, **ADAPTIVE), structured(RECEIPT, **NEVER)]
    assert all(0 <= value <= 9999 for value in found) and len(set(found)) > 1


WRONG = {
    "value": ('{"small_image_upsize": "sometimes"}', "small_image_upsize must be one of 'always'"),
    "name": ('{"small_image_upscale": "never"}', "small_image_upsize"),
    "mode": ('{"downsample_mode": "8x"}', "downsample_mode must be one of '4x', '16x', not '8x'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_options(name: str, command: Any) -> None:
    """The command ends with a sentence, which Python prints, and status 1."""
    given, words = WRONG[name]
    with pytest.raises(SystemExit) as raised:
        command("--image", RECEIPT, "--prompt", "Read it.", "--processor-kwargs", given)
    assert words in str(raised.value)


def test_option_of_the_other_model(command: Any) -> None:
    with pytest.raises(SystemExit, match=r"small_image_upsize, which MiniCPM-V 4\.6 does not have .*leave it out"):
        command(
            *("--image", RECEIPT, "--prompt", "Read it.", "--processor-kwargs", '{"small_image_upsize": "never"}'),
            variant="base",
        )
