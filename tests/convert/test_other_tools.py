"""Formats of other tools, which mlx-vlm turns into its own on loading."""

import json
import shutil
from pathlib import Path

import mlx.core as mx
import pytest
from mlx_vlm.utils import load_model
from support.conversions import convert_here, read_json
from support.quantized import MXFP8, Folders, assert_answers_as, assert_loads_as, attention_and_mlps

from minicpmv46.weights import official_name


def write_fp8(tensors: dict[str, mx.array], name: str) -> mx.array:
    """Store a matrix as transformers' fine-grained fp8 does, blocks of 128 x 128; return the numbers mlx-vlm makes."""
    matrix = tensors[name].astype(mx.float32)
    rows, columns = matrix.shape
    size = (-(-rows // 128), -(-columns // 128))
    padded = mx.pad(matrix, ((0, size[0] * 128 - rows), (0, size[1] * 128 - columns)))
    scale = mx.abs(padded.reshape(size[0], 128, size[1], 128)).max(axis=(1, 3)) / 448
    spread = mx.repeat(mx.repeat(scale, 128, axis=0), 128, axis=1)[:rows, :columns]
    tensors[name] = mx.to_fp8(matrix / spread)
    tensors[f"{name}_scale_inv"] = scale
    return mx.dequantize(*mx.quantize(mx.from_fp8(tensors[name], dtype=mx.bfloat16) * spread, **MXFP8), **MXFP8)


def write_int4(tensors: dict[str, mx.array], name: str) -> mx.array:
    """Store a matrix as compressed-tensors does, symmetric and in groups of 32; return its numbers."""
    matrix = tensors.pop(name).astype(mx.float32)
    rows, columns = matrix.shape
    grouped = matrix.reshape(rows, -1, 32)
    scale = mx.abs(grouped).max(axis=-1) / 7
    integers = mx.round(grouped / scale[..., None]).reshape(rows, columns)
    words = (integers + 8).astype(mx.uint32).reshape(rows, -1, 8) << (4 * mx.arange(8, dtype=mx.uint32))
    prefix = name.removesuffix(".weight")
    tensors[f"{prefix}.weight_packed"] = words.sum(axis=-1).view(mx.int32)
    tensors[f"{prefix}.weight_scale"] = scale
    tensors[f"{prefix}.weight_shape"] = mx.array([rows, columns])
    return (integers.reshape(grouped.shape) * scale[..., None]).reshape(rows, columns)


OTHERS = {
    "fp8": (write_fp8, {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}),
    "compressed-tensors": (
        write_int4,
        {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "config_groups": {"group_0": {"weights": {"type": "int", "num_bits": 4, "group_size": 32}}},
        },
    ),
}


@pytest.mark.parametrize("variant", ["base", "ocr"])
@pytest.mark.parametrize("name", OTHERS)
def test_format_of_another_tool(name: str, variant: str, source: Folders, tmp_path: Path) -> None:
    """Loaded, answered from and converted to plain weights; where a module has no tensor at all it is named."""
    write, section = OTHERS[name]
    folder = Path(shutil.copytree(source(variant), tmp_path / name))
    tensors, plain = dict(mx.load(str(folder / "model.safetensors"))), load_model(source(variant))
    numbers = {}
    for path in attention_and_mlps(variant):
        numbers[f"{path}.weight"] = write(tensors, official_name(f"{path}.weight")).astype(mx.float32)
    mx.eval(tensors, numbers)
    mx.save_safetensors(str(folder / "model.safetensors"), tensors)
    config = read_json(folder / "config.json")
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": section}))
    plain.load_weights(list(numbers.items()), strict=False)
    assert_answers_as(folder, plain, variant)

    converted = convert_here(folder, tmp_path / "plain", dequantize=True)
    assert_loads_as(converted, {})
    assert_answers_as(converted, plain, variant)

    mx.save_safetensors(
        str(folder / "model.safetensors"), {k: v for k, v in tensors.items() if ".vision_tower." not in k}
    )
    with pytest.raises(ValueError, match=r"lacks vision_tower\.embeddings"):
        load_model(folder)
