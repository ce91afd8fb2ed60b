"""Activation-aware quantization: which layers are scaled, and that scaling alone changes nothing."""

import shutil
from pathlib import Path

import mlx.core as mx
import mlx_vlm
import numpy as np
import pytest
from mlx_vlm.quant import apply_awq, collect_activation_stats
from mlx_vlm.utils import load_model
from support import cases, golden_data, stages, tiny
from support.conversions import IMAGE_CASES, TEXT_CASES, convert_here, parameters
from support.pictures import MEDIA
from support.quantized import (
    COMMANDS,
    TOKENS,
    Folders,
    assert_answers_as,
    assert_loads_as,
    dequantize,
    expected_matrices,
    plain_model,
    stored_tensors,
)


def scaled_layers(folder: Path, source: Path) -> set[str]:
    """Decoder norms of a folder that are not the source's."""
    tensors, original = stored_tensors(folder), parameters(load_model(source))
    norms = [path for path in tensors if path.endswith("layernorm.weight")]
    return {path for path in norms if bytes(tensors[path]) != bytes(original[path])}


def test_awq_scales_the_full_attention_layers(converted: Folders, source: Folders) -> None:
    """mlx-vlm scales layers that have `self_attn`: the input's norm into q, k and v, the second's into gate and up."""
    layer = "language_model.model.layers.3"
    changed = scaled_layers(converted("awq"), source("base"))
    assert changed == {f"{layer}.input_layernorm.weight", f"{layer}.post_attention_layernorm.weight"}
    # The scale that left the norm is in the matrices, but for the rounding of their groups.
    tensors, original = stored_tensors(converted("awq")), parameters(load_model(source("base")))
    for norm, matrix in (
        ("input_layernorm", "self_attn.q_proj"),
        ("input_layernorm", "self_attn.k_proj"),
        ("post_attention_layernorm", "mlp.gate_proj"),
    ):
        scale = original[f"{layer}.{norm}.weight"] / tensors[f"{layer}.{norm}.weight"]
        assert float(mx.abs(scale - 1).max()) > 0.1
        path = f"{layer}.{matrix}"
        error = mx.abs(dequantize(tensors, path, expected_matrices("awq")[path]) - original[f"{path}.weight"] * scale)
        step = mx.repeat(mx.abs(tensors[f"{path}.scales"]), 64, axis=-1)
        assert bool((error <= step).all()), path


@pytest.mark.parametrize("variant", ["base", "untied"])
def test_awq_scaling_changes_no_answer(variant: str, source: Folders) -> None:
    """Before anything is quantized the scaled model is the same function."""
    model, processor = mlx_vlm.load(str(source(variant)))
    inputs = stages.process(processor, cases.BY_NAME[IMAGE_CASES[variant][0]])
    before = stages.run(model, inputs, TOKENS, 4)
    language_model = model.language_model
    ids = mx.array([golden_data.load(TEXT_CASES[variant][0])["input_ids"].tolist()])
    stats = collect_activation_stats(language_model, lambda: mx.eval(language_model(ids).logits))
    norms = {path: bytes(value) for path, value in parameters(model).items() if path.endswith("layernorm.weight")}
    layers = tiny.VARIANTS[variant].layer_types.count("full_attention")
    assert apply_awq(language_model, stats)["layers"] == layers
    assert sum(bytes(parameters(model)[path]) != old for path, old in norms.items()) == 2 * layers
    after = stages.run(model, inputs, TOKENS, 4)
    stages.assert_close(after["logits"], before["logits"], stages.TOLERANCE, "logits")
    np.testing.assert_array_equal(after["greedy"], before["greedy"])


def test_awq_calibrates_on_images(source: Folders, converted: Folders, tmp_path: Path) -> None:
    """`--calibration multimodal --calibration-data`: other activations, other scales."""
    calibration = tmp_path / "images"
    calibration.mkdir()
    shutil.copy(MEDIA / "logo_la.png", calibration)
    options = {**COMMANDS["awq"].options, "calibration": "multimodal", "calibration_data": str(calibration)}
    folder = convert_here(source("base"), tmp_path / "awq", **options)
    assert scaled_layers(folder, source("base")) == scaled_layers(converted("awq"), source("base"))
    path = "language_model.model.layers.3.input_layernorm.weight"
    assert bytes(stored_tensors(folder)[path]) != bytes(stored_tensors(converted("awq"))[path])
    matrices = expected_matrices("awq")
    assert_loads_as(folder, matrices)
    assert_answers_as(folder, plain_model(folder, source("base"), matrices), "base")
