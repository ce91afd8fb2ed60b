"""Conversions without quantization: the official checkpoint in another type, and its answers."""

from pathlib import Path

import mlx.core as mx
import mlx_vlm
import pytest
from mlx_vlm.utils import load_model
from support import cases, stages
from support.conversions import (
    IMAGE_CASES,
    assert_same_tensors,
    builtin_logits,
    convert_here,
    generate,
    parameters,
    text_logits,
)
from support.quantized import FORMATS, PLAIN, ROUNDING, TOKENS, Folders, own_logits, stored_tensors


@pytest.mark.parametrize("name", PLAIN)
def test_plain_conversion_is_the_official_checkpoint(name: str, converted: Folders, source: Folders) -> None:
    """Names, shapes and numbers of the official layout; norm weights are float32 also where the rest is bfloat16."""
    folder, original = converted(name), source(FORMATS[name].variant)
    tensors, official = stored_tensors(folder), dict(mx.load(str(original / "model.safetensors")))
    norms = {
        name
        for name in official
        if name.startswith("model.language_model") and name.endswith("norm.weight") and "linear_attn" not in name
    }
    assert all(tensors[name].dtype == mx.float32 for name in norms)
    # One is added to them in float32, so what is less than its last bit is not kept.
    assert max(float(mx.abs(tensors[name] - official[name].astype(mx.float32)).max()) for name in norms) <= 2**-24
    tensors |= {name: official[name] for name in norms}
    assert_same_tensors(tensors, official)
    assert_same_tensors(parameters(load_model(folder)), parameters(load_model(original)))


@pytest.mark.parametrize("name", ["bf16", "untied", "ocr"])
def test_plain_conversion_gives_the_same_answer(name: str, converted: Folders, source: Folders) -> None:
    """Through mlx-vlm, image included, from folder to tokens."""
    variant = FORMATS[name].variant
    answers = [generate(*mlx_vlm.load(str(f)), variant, TOKENS) for f in (converted(name), source(variant))]
    assert answers[0] == answers[1]
    assert len(answers[0]) == TOKENS


@pytest.mark.parametrize("name", ["bf16", "4bit", "nvfp4", "mixed"])
def test_builtin_port_reads_our_conversions(name: str, converted: Folders, tmp_path: Path) -> None:
    """What we write is read by others, in either layout: without images the two ports are the same function."""
    ours = text_logits(load_model(converted(name)))
    for actual, expected in zip(ours, builtin_logits(converted(name), tmp_path / "logits.npz"), strict=True):
        stages.assert_close(actual, expected, stages.TOLERANCE, "logits")


@pytest.mark.parametrize(
    ("variant", "dtype"),
    [
        *(("base", "float16"), ("base", "bfloat16"), ("bf16", "float16"), ("bf16", "float32")),
        *(("ocr", "float16"), ("ocr", "bfloat16")),
    ],
)
def test_dtype(variant: str, dtype: str, source: Folders, tmp_path: Path) -> None:
    """All is cast but what the decoder's norms and decays need; the answer is that of the numbers cast."""
    folder = convert_here(source(variant), tmp_path / "cast", dtype=dtype)
    model, processor = mlx_vlm.load(str(folder))
    original = parameters(load_model(source(variant)))

    def is_kept(path: str) -> bool:
        decoder = path.startswith("language_model") and path.endswith("norm.weight") and "linear_attn" not in path
        return decoder or path.endswith(("A_log", "dt_bias"))

    cast = {path: x if is_kept(path) else x.astype(getattr(mx, dtype)) for path, x in original.items()}
    assert_same_tensors(parameters(model), cast)

    case = cases.BY_NAME[IMAGE_CASES[variant][0]]
    inputs = stages.process(processor, case)
    assert model(mx.array([[1, 2, 3]])).logits.dtype == getattr(mx, dtype)  # no float32 weight widens what follows
    logits = own_logits(model, inputs)
    assert generate(model, processor, variant, TOKENS)
    model.set_dtype(mx.float32)
    stages.assert_close(logits, own_logits(model, inputs), ROUNDING[dtype], "logits")
