"""The formats that conversions are tested in: what they store, and what a folder of one must hold and answer.

A folder is compared with the matrices of the official checkpoint, quantized here, and its answer with that of a plain
float32 model that holds the dequantized matrices: a layer that is swapped, left out or quantized by mistake shows.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_vlm
import numpy as np
from mlx_vlm.utils import load_model

from minicpmv46.model import Model
from support import cases, stages, tiny
from support.conversions import IMAGE_CASES, assert_same_tensors, generate, read_json

Folders = Callable[[str], Path]
Matrices = dict[str, dict[str, Any]]  # module path -> bits, group size and mode

TOKENS = 6

# How far logits in a type may be from float32's: 8 bits of precision lose what 11 keep, and random weights are no help.
ROUNDING = {"float32": stages.TOLERANCE, "float16": 0.02, "bfloat16": 0.15}


def affine(bits: int, group_size: int = 64) -> dict[str, Any]:
    return {"group_size": group_size, "bits": bits, "mode": "affine"}


MXFP4 = {"group_size": 32, "bits": 4, "mode": "mxfp4"}
MXFP8 = {"group_size": 32, "bits": 8, "mode": "mxfp8"}
NVFP4 = {"group_size": 16, "bits": 4, "mode": "nvfp4"}


@dataclass(frozen=True)
class Recipe:
    """How the decoder's matrices are stored."""

    mlp: dict[str, Any]
    embedding: dict[str, Any]
    delta_inputs: dict[str, Any]
    rest: dict[str, Any]  # attention, and the output of delta nets
    untied_head: dict[str, Any]

    @classmethod
    def affine(cls, mlp: int, inputs: int, rest: int, group_size: int = 64) -> "Recipe":
        """By bits; embedding and head have those of the delta nets' inputs."""
        finer, finest = affine(inputs, group_size), affine(rest, group_size)
        return cls(affine(mlp, group_size), finer, finer, finest, finer)

    def of(self, name: str) -> dict[str, Any]:
        """Form of a matrix by the last part of its path."""
        if name in ("gate_proj", "up_proj", "down_proj"):
            return self.mlp
        if name.startswith("in_proj"):
            return self.delta_inputs
        return {"embed_tokens": self.embedding, "lm_head": self.untied_head}.get(name, self.rest)


NVFP4_RECIPE = Recipe(NVFP4, affine(5), NVFP4, MXFP8, MXFP8)


@dataclass(frozen=True)
class Format:
    """A small official checkpoint, the converter's options, and how the decoder's matrices are then stored."""

    variant: str
    options: dict[str, Any] = field(default_factory=dict)
    recipe: Recipe | None = None

    @property
    def arguments(self) -> list[str]:
        """The options as the command takes them."""
        words = [[f"--{k.replace('_', '-')}", *([] if v is True else [str(v)])] for k, v in self.options.items()]
        return [word for pair in words for word in pair]


# Converted by the command.
COMMANDS = {
    "bf16": Format("bf16"),
    "4bit": Format("base", {"quantize": True}, Recipe.affine(4, 5, 6)),
    "5bit": Format("bf16", {"quantize": True, "q_bits": 5}, Recipe.affine(5, 6, 6)),
    "6bit": Format("untied", {"quantize": True, "q_bits": 6}, Recipe.affine(6, 6, 6)),
    "8bit": Format("bf16", {"quantize": True, "q_bits": 8}, Recipe.affine(8, 8, 8)),
    "mxfp4": Format(
        "bf16", {"quantize": True, "q_mode": "mxfp4"}, Recipe(MXFP4, affine(5), affine(5), affine(6), affine(5))
    ),
    "mxfp8": Format("base", {"quantize": True, "q_mode": "mxfp8"}, Recipe(MXFP8, affine(8), MXFP8, MXFP8, MXFP8)),
    "nvfp4": Format("bf16", {"quantize": True, "q_mode": "nvfp4"}, NVFP4_RECIPE),
    "awq": Format("base", {"quantize": True, "quant_method": "awq"}, Recipe.affine(4, 5, 6)),
    "mixed": Format("untied", {"quantize": True, "quant_predicate": "mixed_4_6"}),
}
# Converted by the same function in this process.
CALLS = {
    "float32": Format("base"),
    "untied": Format("untied"),
    "1bit": Format("bf16", {"quantize": True, "q_bits": 1}, Recipe.affine(1, 2, 3)),  # modules of mlx-vlm's own
    "2bit": Format("untied", {"quantize": True, "q_bits": 2}, Recipe.affine(2, 3, 4)),
    "3bit": Format("base", {"quantize": True, "q_bits": 3}, Recipe.affine(3, 4, 5)),
    "4bit untied": Format("untied", {"quantize": True, "q_bits": 4}, Recipe.affine(4, 5, 6)),
    "nvfp4 untied": Format("untied", {"quantize": True, "q_mode": "nvfp4"}, NVFP4_RECIPE),
    "group32": Format("bf16", {"quantize": True, "q_group_size": 32}, Recipe.affine(4, 5, 6, 32)),
    # Rows of 64 are not divisible: only the wider matrices are quantized.
    "group128": Format("untied", {"quantize": True, "q_group_size": 128}, Recipe.affine(4, 5, 6, 128)),
}
# MiniCPM-OCR in every format.
OCR = {
    "ocr": Format("ocr"),
    **{
        f"ocr {bits}bit": Format("ocr", {"quantize": True, "q_bits": bits}, Recipe.affine(bits, inputs, rest))
        for bits, inputs, rest in ((1, 2, 3), (2, 3, 4), (3, 4, 5), (4, 5, 6), (5, 6, 6), (6, 6, 6), (8, 8, 8))
    },
    **{f"ocr {name}": replace(COMMANDS[name], variant="ocr") for name in ("mxfp4", "mxfp8", "nvfp4", "awq")},
}
CALLS |= OCR
COMMANDS |= {name: CALLS.pop(name) for name in ("ocr", "ocr 4bit")}
PLAIN = ("bf16", "float32", "untied", "ocr")
FORMATS = COMMANDS | CALLS
QUANTIZED = [name for name in FORMATS if name not in PLAIN]


# What mlx-vlm's recipes quantize besides; the vision encoder stays whole.
MERGERS = [f"vit_merger.self_attn.{name}_proj" for name in ("q", "k", "v", "out")]
MERGERS += ["vit_merger.linear_1", "vit_merger.linear_2", "merger.mlp.0.linear_1", "merger.mlp.0.linear_2"]


def attention_and_mlps(variant: str) -> list[str]:
    """The decoder's matrices but for delta nets, embedding and head."""
    paths = []
    for i, kind in enumerate(tiny.VARIANTS[variant].layer_types):
        paths += [f"layers.{i}.mlp.{name}_proj" for name in ("gate", "up", "down")]
        paths += [f"layers.{i}.self_attn.{name}_proj" for name in "qkvo"] if kind == "full_attention" else []
    return [f"language_model.model.{path}" for path in paths]


def decoder_matrices(variant: str) -> list[str]:
    """What is quantized where the user chooses nothing else: everything that a decode step multiplies with."""
    delta_nets = [
        f"language_model.model.layers.{i}.linear_attn.{name}"
        for i, kind in enumerate(tiny.VARIANTS[variant].layer_types)
        if kind == "linear_attention"
        for name in ("in_proj_qkv", "in_proj_z", "in_proj_a", "in_proj_b", "out_proj")
    ]
    head = [] if tiny.VARIANTS[variant].tied else ["language_model.lm_head"]
    return attention_and_mlps(variant) + delta_nets + ["language_model.model.embed_tokens"] + head


def recipe_matrices(recipe: str, variant: str) -> Matrices:
    """A mixed recipe: more bits for embeddings and head, and for values and down projections of some layers."""
    low, high = (int(bits) for bits in recipe.removeprefix("mixed_").split("_"))
    layers = (0, 3, 6, 7) if variant == "untied" else (2, 3)
    favoured = {"language_model.model.embed_tokens", "language_model.lm_head"}
    for layer in layers:
        favoured |= {f"language_model.model.layers.{layer}.{name}" for name in ("mlp.down_proj", "self_attn.v_proj")}
    if 0 in layers:  # the recipe takes what is outside of the decoder for layer 0
        favoured.add("vit_merger.self_attn.v_proj")
    paths = decoder_matrices(variant) + MERGERS
    return {path: affine(high if path in favoured else low) for path in paths}


def expected_matrices(name: str) -> Matrices:
    if name == "mixed":
        return recipe_matrices("mixed_4_6", "untied")
    recipe, variant = FORMATS[name].recipe, FORMATS[name].variant
    if recipe is None:
        return {}
    wide = ("o_proj", "out_proj", "down_proj")
    paths = [path for path in decoder_matrices(variant) if name != "group128" or path.endswith(wide)]
    return {path: recipe.of(path.rpartition(".")[2]) for path in paths}


def quantize(matrix: mx.array, how: Mapping[str, Any]) -> dict[str, mx.array]:
    return dict(zip(("weight", "scales", "biases"), mx.quantize(matrix, **how), strict=False))


def dequantize(tensors: Mapping[str, mx.array], path: str, how: Mapping[str, Any], wide: bool = True) -> mx.array:
    """A stored matrix in plain numbers, computed in float32 where `wide`, as a model in float32 uses it."""
    parts = [tensors.get(f"{path}.{kind}") for kind in ("weight", "scales", "biases")]
    if wide:
        parts = [x if x is None or mx.issubdtype(x.dtype, mx.integer) else x.astype(mx.float32) for x in parts]
        return mx.dequantize(*parts, **how).astype(mx.float32)
    return mx.dequantize(*parts, **how)


def stored_tensors(folder: Path) -> dict[str, mx.array]:
    """All tensors of a folder; its index must name them, and where they are."""
    files = sorted(folder.glob("*.safetensors"))
    tensors = {file.name: dict(mx.load(str(file))) for file in files}
    index = read_json(folder / "model.safetensors.index.json")
    assert index["weight_map"] == {name: file for file, own in tensors.items() for name in own}
    joint = {name: value for own in tensors.values() for name, value in own.items()}
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in joint.values())
    return joint


def assert_stored_as(folder: Path, original: Mapping[str, mx.array], matrices: Matrices) -> None:
    """The weights of a folder: `matrices` quantized, everything else of `original` as it was; and its config."""
    tensors = stored_tensors(folder)
    expected = {path: value for path, value in original.items() if path.rpartition(".")[0] not in matrices}
    for path, how in matrices.items():
        expected |= {f"{path}.{kind}": value for kind, value in quantize(original[f"{path}.weight"], how).items()}
        if f"{path}.bias" in original:
            expected[f"{path}.bias"] = original[f"{path}.bias"]
    assert_same_tensors(tensors, expected)
    assert_loads_as(folder, matrices)


def assert_loads_as(folder: Path, matrices: Matrices) -> None:
    """The modules that mlx-vlm makes of the folder's config are quantized as `matrices` says, and no other is."""
    modules = dict(load_model(folder, lazy=True).named_modules())
    found = {
        path: {"group_size": module.group_size, "bits": module.bits, "mode": module.mode}
        for path, module in modules.items()
        if "scales" in module
    }
    assert found == matrices
    config = read_json(folder / "config.json")
    assert ("quantization" in config) == ("quantization_config" in config) == bool(matrices)


def plain_model(folder: Path, source: Path, matrices: Matrices) -> Model:
    """The official checkpoint's model in float32, with the numbers of a quantized folder in plain matrices."""
    model: Model = load_model(source)
    tensors = stored_tensors(folder)
    numbers = {path: value for path, value in tensors.items() if path.rpartition(".")[0] not in matrices}
    numbers |= {f"{path}.weight": dequantize(tensors, path, how) for path, how in matrices.items()}
    numbers |= {path: value for path, value in tensors.items() if path.endswith(".bias")}
    model.load_weights(list(numbers.items()), strict=True)
    model.set_dtype(mx.float32)
    return model


def assert_answers_as(folder: Path, plain: Model, variant: str) -> None:
    """Through mlx-vlm, picture included, a folder gives the logits and the answer of a plain float32 model."""
    model, processor = mlx_vlm.load(str(folder))
    inputs = stages.process(processor, cases.BY_NAME[IMAGE_CASES[variant][0]])
    expected = stages.run(plain, inputs, TOKENS, 4)
    dtype = tiny.VARIANTS[variant].dtype
    stages.assert_close(own_logits(model, inputs), expected["logits"], ROUNDING[dtype], f"{dtype} logits")
    if dtype != "float32":
        model.set_dtype(mx.float32)  # so that what is compared depends on what is stored only
        stages.assert_close(own_logits(model, inputs), expected["logits"], stages.TOLERANCE, "logits")
    assert generate(model, processor, variant, TOKENS) == expected["greedy"].tolist()


def own_logits(model: Model, inputs: Mapping[str, Any]) -> np.ndarray:
    """Logits of the last positions in the types that the model has, for `ROUNDING`."""
    arrays = {name: mx.array(value) for name, value in inputs.items() if name != "attention_mask"}
    return np.array(model(**arrays, logits_to_keep=4).logits[0].astype(mx.float32))
