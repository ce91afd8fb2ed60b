"""Converting what was converted: back to plain matrices, once more, or to fewer bits."""

from pathlib import Path

import mlx.core as mx
import pytest
from mlx_vlm.utils import load_model
from support import stages, tiny
from support.conversions import assert_same_tensors, convert, convert_here, parameters, read_json, text_logits
from support.quantized import (
    FORMATS,
    MERGERS,
    Folders,
    assert_answers_as,
    assert_loads_as,
    assert_stored_as,
    dequantize,
    expected_matrices,
    recipe_matrices,
    stored_tensors,
)

from minicpmv46.weights import official_weights


@pytest.mark.parametrize("name", ["4bit", "8bit", "mxfp4", "mxfp8", "nvfp4", "mixed", "ocr 4bit", "ocr nvfp4"])
def test_dequantized_folder(name: str, converted: Folders, source: Folders, tmp_path: Path) -> None:
    """Plain matrices in the official layout, nothing of quantization in config.json, and the same answer."""
    variant, matrices = FORMATS[name].variant, expected_matrices(name)
    if name == "mixed":
        folder = convert(converted(name), tmp_path / "plain", "-d", builtin=False)
    else:
        folder = convert_here(converted(name), tmp_path / "plain", dequantize=True)
    tensors, original = stored_tensors(converted(name)), parameters(load_model(source(variant)))
    numbers = {path: value for path, value in original.items()}
    numbers |= {f"{path}.weight": dequantize(tensors, path, how, wide=False) for path, how in matrices.items()}
    assert_same_tensors(stored_tensors(folder), official_weights(numbers))
    assert_loads_as(folder, {})
    assert_same_tensors(parameters(load_model(folder)), numbers)
    if tiny.VARIANTS[variant].dtype == "float32":  # in bfloat16 the plain numbers are rounded
        model = load_model(folder)
        model.set_dtype(mx.float32)
        assert_answers_as(folder, model, variant)
        quantized = load_model(converted(name))
        for actual, expected in zip(text_logits(model), text_logits(quantized), strict=True):
            stages.assert_close(actual, expected, stages.TOLERANCE, "logits")


@pytest.mark.parametrize("name", ["bf16", "untied", "4bit", "mixed", "nvfp4", "ocr", "ocr 4bit"])
def test_converting_a_conversion(name: str, converted: Folders, tmp_path: Path) -> None:
    """Without options nothing changes, neither tensor nor config."""
    again = convert_here(converted(name), tmp_path / "again")
    assert_same_tensors(stored_tensors(again), stored_tensors(converted(name)))
    assert read_json(again / "config.json") == read_json(converted(name) / "config.json")


def test_quantizing_a_conversion(converted: Folders, source: Folders, tmp_path: Path) -> None:
    """A plain conversion is quantized as the official checkpoint is; what is quantized already stays as it is."""
    again = convert_here(converted("bf16"), tmp_path / "8bit", quantize=True, q_bits=8)
    assert_same_tensors(stored_tensors(again), stored_tensors(converted("8bit")))
    assert read_json(again / "config.json") == read_json(converted("8bit") / "config.json")

    more = convert_here(converted("4bit"), tmp_path / "more", quantize=True, quant_predicate="mixed_3_8")
    rest = {path: recipe_matrices("mixed_3_8", "base")[path] for path in MERGERS}
    assert_stored_as(more, parameters(load_model(source("base"))), {**expected_matrices("4bit"), **rest})
