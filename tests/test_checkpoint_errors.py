"""Checkpoints that are damaged or of another model: `mlx_vlm.load` refuses them and says what is wrong, and where.

mlx-vlm itself passes over shards that are not there and drops modules without weights.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx_vlm
import pytest
from mlx_vlm.utils import load_model, save_weights
from support import tiny

from minicpmv46.checkpoint import check_checkpoint

NORM, OWN_NORM = "model.language_model.norm.weight", "language_model.model.norm.weight"
QUANTIZED = "language_model.model.layers.0.mlp.up_proj"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole checkpoint in one file."""
    return tiny.make_checkpoint(tmp_path / "whole")


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A whole checkpoint in three files."""
    return tiny.make_checkpoint(tmp_path / "shards", shards=3)


@pytest.fixture
def quantized(folder: Path) -> Path:
    """The same with 4-bit MLPs, as the converter writes it."""
    model = load_model(folder)
    nn.quantize(model, 64, 4, class_predicate=lambda path, _: ".mlp.up_proj" in path)
    save_weights(folder, model)
    edit_json(folder / "config.json", lambda config: config.update(quantization={"group_size": 64, "bits": 4}))
    return folder


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_weights(file: Path, change: Callable[[dict[str, mx.array]], object]) -> Path:
    """Change the tensors of a file, read before and written after."""
    weights = dict(mx.load(str(file)))
    change(weights)
    mx.eval(weights)
    mx.save_safetensors(str(file), weights)
    return file


def error_of(folder: Path) -> str:
    """What loading says; nothing else may be raised than these two."""
    with pytest.raises((ValueError, FileNotFoundError)) as raised:
        mlx_vlm.load(str(folder))
    return str(raised.value)


def test_undamaged_checkpoints_load(folder: Path, shards: Path) -> None:
    """The other tests of this file start from folders without fault."""
    for whole in (folder, shards):
        mlx_vlm.load(str(whole))


def test_undamaged_quantized_checkpoint_loads(quantized: Path) -> None:
    mlx_vlm.load(str(quantized))


# Tensors


@pytest.mark.parametrize(
    ("official", "own"),
    [
        (NORM, OWN_NORM),
        ("model.vision_tower.vit_merger.linear_1.bias", "vit_merger.linear_1.bias"),
        ("model.merger.mlp.0.pre_norm.weight", "merger.mlp.0.pre_norm.weight"),
        ("model.language_model.layers.2.linear_attn.A_log", "language_model.model.layers.2.linear_attn.A_log"),
    ],
)
def test_missing_tensor(official: str, own: str, folder: Path) -> None:
    file = edit_weights(folder / "model.safetensors", lambda weights: weights.pop(official))
    message = error_of(folder)
    assert f"lacks {own}" in message and str(folder) in message and file.name in message
    assert "more" not in message


def test_missing_tensor_of_a_shard(shards: Path) -> None:
    """The index names a tensor that its file does not have."""
    name = read_index(shards)[NORM]
    edit_weights(shards / name, lambda weights: weights.pop(NORM))
    message = error_of(shards)
    assert f"lacks {OWN_NORM}" in message and name in message


def test_missing_head(tmp_path: Path) -> None:
    """A head that is not tied has to be stored."""
    folder = tiny.make_checkpoint(tmp_path, "untied")
    edit_weights(folder / "model.safetensors", lambda weights: weights.pop("lm_head.weight"))
    assert "lacks language_model.lm_head.weight" in error_of(folder)


def test_missing_vision_side(folder: Path) -> None:
    """No module is dropped because nothing is stored for it; a long list is cut."""

    def without_vision(weights: dict[str, mx.array]) -> None:
        for name in [name for name in weights if "language_model" not in name]:
            del weights[name]

    edit_weights(folder / "model.safetensors", without_vision)
    message = error_of(folder)
    assert "lacks merger.mlp.0.linear_1.bias" in message and " more" in message


@pytest.mark.parametrize(
    "name", ["model.language_model.layers.9.mlp.up_proj.weight", "vision_tower.head.weight", "resampler.query"]
)
def test_unexpected_tensor(name: str, shards: Path) -> None:
    """Its file is named, and it keeps its own name."""
    edit_weights(shards / "model-00002-of-00003.safetensors", lambda weights: weights.update({name: mx.zeros((2, 2))}))
    message = error_of(shards)
    assert str(shards / "model-00002-of-00003.safetensors") in message
    assert name.replace("model.language_model.", "language_model.model.") in message


def test_scales_without_a_matrix_are_unexpected(folder: Path) -> None:
    """Only matrices of the model are quantized."""
    name = "language_model.model.layers.0.mlp.extra_proj.scales"
    edit_weights(folder / "model.safetensors", lambda weights: weights.update({name: mx.zeros((2, 2))}))
    message = error_of(folder)
    assert str(folder / "model.safetensors") in message and name in message


def test_tensor_in_both_layouts(folder: Path) -> None:
    """Neither of two tensors for one place is taken in silence."""
    edit_weights(folder / "model.safetensors", lambda weights: weights.update({OWN_NORM: mx.zeros(64)}))
    assert OWN_NORM in error_of(folder)


def test_tensor_in_two_files(folder: Path) -> None:
    """Files of an earlier download beside the present ones, without an index that says which count."""
    mx.save_safetensors(str(folder / "model-00001-of-00002.safetensors"), {NORM: mx.zeros(64)})
    message = error_of(folder)
    assert OWN_NORM in message and "model-00001-of-00002.safetensors" in message and "model.safetensors" in message


def test_tensor_of_another_shape(folder: Path) -> None:
    edit_weights(folder / "model.safetensors", lambda weights: weights.update({NORM: mx.zeros(65)}))
    message = error_of(folder)
    assert OWN_NORM in message and "(64,)" in message and "(65,)" in message


@pytest.mark.parametrize("kind", ["scales", "biases"])
def test_missing_tensor_of_a_quantized_matrix(kind: str, quantized: Path) -> None:
    file = edit_weights(quantized / "model.safetensors", lambda weights: weights.pop(f"{QUANTIZED}.{kind}"))
    message = error_of(quantized)
    assert f"{QUANTIZED}.{kind}" in message and file.name in message


@pytest.mark.parametrize(
    "section",
    [{}, {"quantization": {"group_size": 64, "bits": 4, QUANTIZED: False}}],
    ids=["no section", "layer excluded"],
)
def test_scales_that_the_config_does_not_know(section: dict[str, Any], quantized: Path) -> None:
    """Quantized in the file, and not according to `config.json`."""
    edit_json(quantized / "config.json", lambda config: (config.pop("quantization"), config.update(section)))
    message = error_of(quantized)
    assert f"{QUANTIZED}.scales" in message and "model.safetensors" in message


# Files


def read_index(folder: Path) -> dict[str, str]:
    weight_map: dict[str, str] = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    return weight_map


def test_shard_that_is_not_there(shards: Path) -> None:
    (shards / "model-00003-of-00003.safetensors").unlink()
    message = error_of(shards)
    assert str(shards / "model.safetensors.index.json") in message and "model-00003-of-00003.safetensors" in message
    assert "model-00001-of-00003.safetensors" not in message


@pytest.mark.parametrize("kept", [-1, 5000, 100, 8, 3, 0])
def test_truncated_shard(kept: int, shards: Path) -> None:
    """Cut in the numbers, in the header, in its length, and empty."""
    file = shards / "model-00002-of-00003.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    message = error_of(shards)
    assert f"{file} is truncated" in message and f"{file.stat().st_size}" in message


def test_file_of_another_kind(folder: Path) -> None:
    """What git leaves where large files were not fetched."""
    file = folder / "model.safetensors"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3798024\n")
    assert f"{file} is truncated or not a safetensors file" in error_of(folder)


def test_damaged_header(folder: Path) -> None:
    file = folder / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:8] + b"[" + content[9:])
    assert f"{file} has no valid safetensors header" in error_of(folder)


@pytest.mark.parametrize("content", ["", "[]", '{"weight_map": ["model.safetensors"]}', "{}"])
def test_damaged_index(content: str, shards: Path) -> None:
    index = shards / "model.safetensors.index.json"
    index.write_text(content)
    assert str(index) in error_of(shards)


def test_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    message = error_of(folder)
    assert str(folder) in message and "no *.safetensors file" in message


def test_no_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert str(folder) in error_of(folder)


# config.json


@pytest.mark.parametrize("model_type", ["minicpmv4_9", "no_such_model"])
def test_config_of_a_model_that_nobody_has(model_type: str, folder: Path) -> None:
    """Not ours, so mlx-vlm says so in its words."""
    edit_json(folder / "config.json", lambda config: config.update(model_type=model_type))
    assert f"Model type {model_type} not supported" in error_of(folder)


def test_config_of_another_model(folder: Path) -> None:
    """A relation of this model with the same tensors is not this model."""
    edit_json(folder / "config.json", lambda config: config.update(model_type="minicpmv4_7"))
    with pytest.raises(ValueError, match=r"config\.json has model_type 'minicpmv4_7', expected"):
        check_checkpoint(folder)


UNSUPPORTED: list[tuple[str, dict[str, Any], str]] = [
    ("", {"drop_vision_last_layer": True}, "drop_vision_last_layer = True"),
    ("", {"merge_kernel_size": [3, 3]}, "merge_kernel_size = (3, 3)"),
    ("", {"merger_times": 0}, "merger_times = 0"),
    ("", {"insert_layer_id": 3}, "insert_layer_id = 3"),
    ("", {"downsample_mode": "8x"}, "downsample_mode must be one of '4x', '16x', not '8x'"),
    ("", {"image_token_id": None}, "image_token_id, found None"),
    ("", {"model_type": "MiniCPMV4_6"}, "model_type 'MiniCPMV4_6'"),
    ("text_config", {"hidden_act": "gelu"}, "text_config.hidden_act = 'gelu'"),
    ("text_config", {"attn_output_gate": False}, "text_config.attn_output_gate = False"),
    ("text_config", {"layer_types": ["sliding_attention"] * 4}, "text_config.layer_types[0] = 'sliding_attention'"),
    ("text_config", {"num_hidden_layers": 5}, "num_hidden_layers = 5"),
    ("text_config", {"rope_parameters": {"rope_type": "yarn"}}, "text_config.rope_parameters.rope_type = 'yarn'"),
    ("vision_config", {"hidden_act": "gelu"}, "vision_config.hidden_act = 'gelu'"),
    ("vision_config", {"window_kernel_size": [4, 4]}, "vision_config.window_kernel_size = (4, 4)"),
    ("vision_config", {"num_attention_heads": 5}, "num_attention_heads = 5"),
]


@pytest.mark.parametrize(("section", "values", "told"), UNSUPPORTED, ids=[told for _, _, told in UNSUPPORTED])
def test_unsupported_value(section: str, values: dict[str, Any], told: str, folder: Path) -> None:
    """The value is quoted under its name."""
    edit_json(folder / "config.json", lambda config: (config[section] if section else config).update(values))
    assert told in error_of(folder)


def test_unsupported_value_with_its_file(folder: Path) -> None:
    edit_json(folder / "config.json", lambda config: config.update(insert_layer_id=3))
    assert str(folder / "config.json") in error_of(folder)
