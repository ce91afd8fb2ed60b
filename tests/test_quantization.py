"""What the recipe of quantized forms promises, for the real sizes and by counting alone."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from minicpmv46.config import Config
from minicpmv46.model import parameter_shapes
from minicpmv46.quantization import RECIPE, Form, asked_for, predicate

# The sizes of openbmb/MiniCPM-V-4.6 that decide what a decode step reads.
REAL = {
    "model_type": "minicpmv4_6",
    "tie_word_embeddings": True,
    "image_token_id": 248056,
    "video_token_id": 248057,
    "text_config": {
        "hidden_size": 1024,
        "intermediate_size": 3584,
        "num_hidden_layers": 24,
        "layer_types": [*["linear_attention"] * 3, "full_attention"] * 6,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 256,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": 16,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "linear_conv_kernel_dim": 4,
        "vocab_size": 248094,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000000, "partial_rotary_factor": 0.25},
        "tie_word_embeddings": True,
    },
}
# Matrices that are executed as one product with stacked rows.
STACKED = (
    ("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a"),
    ("q_proj", "k_proj", "v_proj"),
    ("gate_proj", "up_proj"),
)
ASKED = [Form(group, bits) for bits in (1, 2, 3, 4, 5, 6, 8) for group in (32, 64, 128)]
ASKED += [Form(32, 4, "mxfp4"), Form(16, 4, "nvfp4"), Form(32, 8, "mxfp8")]


def form_in(asked: Form, path: str) -> Form | None:
    """How a module is stored after a conversion that asks for `asked`."""
    with asked_for(asked):
        found = predicate(path)
    if isinstance(found, dict):
        return Form(**found)
    return asked if found else None


def stored_bytes(shape: tuple[int, ...], form: Form | None, plain: int = 2) -> int:
    """Bytes of a matrix of bfloat16: packed weights, and a scale and bias, or a scale of one byte, for every group."""
    size = int(np.prod(shape))
    if form is None:
        return size * plain
    return size * form.bits // 8 + size // form.group_size * (2 * plain if form.mode == "affine" else 1)


def bytes_of_a_step(asked: Form | None) -> int:
    """What one decode step reads of the real model's weights, beside one row of the embedding."""
    total = 0
    for path, shape in parameter_shapes(Config.from_dict(REAL)).items():
        if path.startswith("language_model."):
            form = form_in(asked, path.removesuffix(".weight")) if asked else None
            total += stored_bytes(shape, form, 2 if path.endswith("weight") and "norm" not in path else 4)
    return total


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_bytes_are_those_of_mlx(asked: Form) -> None:
    """What is counted here is what MLX stores."""
    matrix = mx.zeros((8, 256), dtype=mx.bfloat16)
    parts = mx.quantize(matrix, asked.group_size, asked.bits, mode=asked.mode)
    assert sum(part.nbytes for part in parts) == stored_bytes(matrix.shape, asked)


def test_a_step_of_the_real_model_reads_what_is_promised() -> None:
    """Half a gigabyte in each form of four bits, a third of bfloat16."""
    assert 1500e6 < bytes_of_a_step(None) < 1510e6
    for form in (Form(64, 4), Form(32, 4, "mxfp4"), Form(16, 4, "nvfp4")):
        assert bytes_of_a_step(form) <= 500e6, form


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_stacked_matrices_have_one_form(asked: Form) -> None:
    for names in STACKED:
        assert len({form_in(asked, f"language_model.model.layers.0.mixing.{name}") for name in names}) == 1, names


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_nothing_is_coarser_than_asked_for(asked: Form) -> None:
    """And the MLPs, a third of what is read, are as asked for."""
    for name in RECIPE:
        form = form_in(asked, f"language_model.{name}")
        assert form is not None
        assert form.bits >= asked.bits
        assert form == asked or not name.startswith(("gate", "up", "down"))


def test_more_bits_asked_for_are_more_bytes() -> None:
    read = [bytes_of_a_step(Form(64, bits)) for bits in (1, 2, 3, 4, 5, 6, 8)]
    assert read == sorted(set(read))


def test_every_matrix_of_the_decoder_is_in_the_table() -> None:
    """Nothing that a step multiplies with is forgotten, and nothing of the vision side is in it."""
    found: dict[bool, set[Any]] = {True: set(), False: set()}
    for path, shape in parameter_shapes(Config.from_dict(REAL)).items():
        module = path.removesuffix(".weight")
        if len(shape) == 2:
            found[module.startswith("language_model.")].add(form_in(Form(64, 4), module))
    assert None not in found[True]
    assert found[False] == {None}


def test_outside_of_a_conversion_all_is_as_asked_for() -> None:
    """Tools that pass `quant_predicate` to `nn.quantize` themselves tell it nothing."""
    assert predicate("language_model.model.embed_tokens") is True
    assert predicate("vision_tower.encoder.layers.0.mlp.fc1") is False
