"""Conversions with this project: every format and recipe, what the folders hold, and what they answer.

A folder is compared with the matrices of the official checkpoint, quantized here, and its answer with that of a plain
float32 model that holds the dequantized matrices: a layer that is swapped, left out or quantized by mistake shows.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import cases
import golden_data
import mlx.core as mx
import mlx_vlm
import numpy as np
import pytest
import stages
import tiny
from conversions import (
    IMAGE_CASES,
    TEXT_CASES,
    assert_same_tensors,
    builtin_logits,
    convert,
    convert_here,
    generate,
    parameters,
    python,
    read_json,
    text_logits,
)
from mlx_vlm.convert import QUANT_RECIPES
from mlx_vlm.quant import apply_awq, collect_activation_stats
from mlx_vlm.utils import load_model

from minicpmv46.model import Model
from minicpmv46.processing import MiniCPMV46Processor
from minicpmv46.weights import official_name, official_weights

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
class Format:
    """A small official checkpoint, the converter's options, and how the decoder's matrices are then stored."""

    variant: str
    options: dict[str, Any] = field(default_factory=dict)
    stored: dict[str, Any] | None = None

    @property
    def arguments(self) -> list[str]:
        """The options as the command takes them."""
        words = [[f"--{k.replace('_', '-')}", *([] if v is True else [str(v)])] for k, v in self.options.items()]
        return [word for pair in words for word in pair]


# Converted by the command.
COMMANDS = {
    "bf16": Format("bf16"),
    "4bit": Format("base", {"quantize": True}, affine(4)),
    "5bit": Format("bf16", {"quantize": True, "q_bits": 5}, affine(5)),
    "6bit": Format("untied", {"quantize": True, "q_bits": 6}, affine(6)),
    "8bit": Format("bf16", {"quantize": True, "q_bits": 8}, affine(8)),
    "mxfp4": Format("bf16", {"quantize": True, "q_mode": "mxfp4"}, MXFP4),
    "mxfp8": Format("base", {"quantize": True, "q_mode": "mxfp8"}, MXFP8),
    "nvfp4": Format("bf16", {"quantize": True, "q_mode": "nvfp4"}, NVFP4),
    "awq": Format("base", {"quantize": True, "quant_method": "awq"}, affine(4)),
    "mixed": Format("untied", {"quantize": True, "quant_predicate": "mixed_4_6"}),
}
# Converted by the same function in this process.
CALLS = {
    "float32": Format("base"),
    "untied": Format("untied"),
    "1bit": Format("bf16", {"quantize": True, "q_bits": 1}, affine(1)),  # modules of mlx-vlm's own
    "3bit": Format("base", {"quantize": True, "q_bits": 3}, affine(3)),
    "group32": Format("bf16", {"quantize": True, "q_group_size": 32}, affine(4, 32)),
    # Rows of 64 are not divisible: only the wider matrices are quantized.
    "group128": Format("untied", {"quantize": True, "q_group_size": 128, "q_bits": 8}, affine(8, 128)),
}
PLAIN = ("bf16", "float32", "untied")
FORMATS = COMMANDS | CALLS
QUANTIZED = [name for name in FORMATS if name not in PLAIN]


def decoder_matrices(variant: str) -> list[str]:
    """What is quantized where no recipe says otherwise: the decoder's MLPs and its full attention."""
    paths = []
    for i, kind in enumerate(tiny.VARIANTS[variant].layer_types):
        paths += [f"layers.{i}.mlp.{name}_proj" for name in ("gate", "up", "down")]
        paths += [f"layers.{i}.self_attn.{name}_proj" for name in "qkvo"] if kind == "full_attention" else []
    return [f"language_model.model.{path}" for path in paths]


def other_matrices(variant: str) -> list[str]:
    """What recipes quantize besides: delta nets, embeddings, head and mergers; the vision encoder stays whole."""
    paths = [
        f"language_model.model.layers.{i}.linear_attn.{name}"
        for i, kind in enumerate(tiny.VARIANTS[variant].layer_types)
        if kind == "linear_attention"
        for name in ("in_proj_qkv", "in_proj_z", "in_proj_a", "in_proj_b", "out_proj")
    ]
    paths += [f"vit_merger.self_attn.{name}_proj" for name in ("q", "k", "v", "out")]
    paths += ["vit_merger.linear_1", "vit_merger.linear_2", "merger.mlp.0.linear_1", "merger.mlp.0.linear_2"]
    paths += ["language_model.model.embed_tokens"]
    return paths + ([] if tiny.VARIANTS[variant].tied else ["language_model.lm_head"])


def recipe_matrices(recipe: str, variant: str) -> Matrices:
    """A mixed recipe: more bits for embeddings and head, and for values and down projections of some layers."""
    low, high = (int(bits) for bits in recipe.removeprefix("mixed_").split("_"))
    layers = {"base": (2, 3), "untied": (0, 3, 6, 7)}[variant]
    favoured = {"language_model.model.embed_tokens", "language_model.lm_head"}
    for layer in layers:
        favoured |= {f"language_model.model.layers.{layer}.{name}" for name in ("mlp.down_proj", "self_attn.v_proj")}
    if 0 in layers:  # the recipe takes what is outside of the decoder for layer 0
        favoured.add("vit_merger.self_attn.v_proj")
    paths = decoder_matrices(variant) + other_matrices(variant)
    return {path: affine(high if path in favoured else low) for path in paths}


def expected_matrices(name: str) -> Matrices:
    if name == "mixed":
        return recipe_matrices("mixed_4_6", "untied")
    stored, variant = FORMATS[name].stored, FORMATS[name].variant
    if stored is None:
        return {}
    wide = [path for path in decoder_matrices(variant) if path.endswith(("o_proj", "down_proj"))]
    paths = wide if stored["group_size"] == 128 else decoder_matrices(variant)
    return {path: stored for path in paths}


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


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Official folder of a variant whose processor options are not the usual ones."""

    @cache
    def make(variant: str) -> Path:
        folder = tiny.make_checkpoint(tmp_path_factory.mktemp("source"), variant)
        options = tiny.processor_config()
        options["image_processor"] |= {"max_slice_nums": 4, "use_image_id": False, "image_mean": [0.5, 0.25, 0.125]}
        options["image_processor"] |= {"scale_resolution": 112}  # few patches: here it is the decoder that changes
        options["video_processor"] |= {"max_num_frames": 7, "stack_frames": 3, "downsample_mode": "4x"}
        (folder / "processor_config.json").write_text(json.dumps(options))
        return folder

    return make


@pytest.fixture(scope="session")
def converted(source: Folders, tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Folder of a format."""

    @cache
    def make(name: str) -> Path:
        target = tmp_path_factory.mktemp("converted") / name
        if name in COMMANDS:
            return convert(source(COMMANDS[name].variant), target, *COMMANDS[name].arguments, builtin=False)
        return convert_here(source(CALLS[name].variant), target, **CALLS[name].options)

    return make


# Plain formats


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


@pytest.mark.parametrize("name", ["bf16", "untied"])
def test_plain_conversion_gives_the_same_answer(name: str, converted: Folders, source: Folders) -> None:
    """Through mlx-vlm, image included, from folder to tokens."""
    variant = FORMATS[name].variant
    answers = [generate(*mlx_vlm.load(str(f)), variant, TOKENS) for f in (converted(name), source(variant))]
    assert answers[0] == answers[1]
    assert len(answers[0]) == TOKENS


@pytest.mark.parametrize("name", ["bf16", "mixed"])
def test_builtin_port_reads_our_conversions(name: str, converted: Folders, tmp_path: Path) -> None:
    """What we write is read by others, in either layout: without images the two ports are the same function."""
    ours = text_logits(load_model(converted(name)))
    for actual, expected in zip(ours, builtin_logits(converted(name), tmp_path / "logits.npz"), strict=True):
        stages.assert_close(actual, expected, stages.TOLERANCE, "logits")


@pytest.mark.parametrize(
    ("variant", "dtype"), [("base", "float16"), ("base", "bfloat16"), ("bf16", "float16"), ("bf16", "float32")]
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


# Quantized formats


@pytest.mark.parametrize("name", [name for name in QUANTIZED if name != "awq"])
def test_quantized_matrices(name: str, converted: Folders, source: Folders) -> None:
    """The matrices that the format names are quantized, to the bits that MLX makes of the official numbers."""
    original = parameters(load_model(source(FORMATS[name].variant)))
    assert_stored_as(converted(name), original, expected_matrices(name))


@pytest.mark.parametrize("name", QUANTIZED)
def test_quantized_answer(name: str, converted: Folders, source: Folders) -> None:
    """What is stored is used as it is stored."""
    variant, matrices = FORMATS[name].variant, expected_matrices(name)
    assert_loads_as(converted(name), matrices)
    assert_answers_as(converted(name), plain_model(converted(name), source(variant), matrices), variant)


@pytest.mark.parametrize("variant", ["base", "untied"])
@pytest.mark.parametrize("recipe", QUANT_RECIPES)
def test_mixed_recipe(recipe: str, variant: str, source: Folders, tmp_path: Path) -> None:
    """Each of mlx-vlm's recipes; they replace the model's own choice."""
    folder = convert_here(source(variant), tmp_path / recipe, quantize=True, quant_predicate=recipe)
    matrices = recipe_matrices(recipe, variant)
    assert_stored_as(folder, parameters(load_model(source(variant))), matrices)
    if variant == "base":
        assert_answers_as(folder, plain_model(folder, source(variant), matrices), variant)


def test_recipe_beside_another_mode(source: Folders, tmp_path: Path) -> None:
    """A recipe's layers are affine also where the mode of the rest, of which nothing is left, is another."""
    folder = convert_here(
        source("base"), tmp_path / "mixed", quantize=True, q_mode="mxfp4", quant_predicate="mixed_3_4"
    )
    assert_stored_as(folder, parameters(load_model(source("base"))), recipe_matrices("mixed_3_4", "base"))


def test_choice_for_each_layer(source: Folders, tmp_path: Path) -> None:
    """A function of Python's that chooses bits, group, mode or nothing for each module."""
    layers = "language_model.model.layers"
    chosen: Matrices = {
        "language_model.model.embed_tokens": affine(6, 32),
        f"{layers}.0.linear_attn.in_proj_qkv": affine(8),
        f"{layers}.0.linear_attn.in_proj_a": MXFP8,
        f"{layers}.1.mlp.gate_proj": MXFP4,
        f"{layers}.2.mlp.down_proj": NVFP4,
        f"{layers}.3.self_attn.q_proj": affine(2, 128),  # does not divide rows of 64: left whole
        "vision_tower.encoder.layers.1.mlp.fc1": affine(5),
        "merger.mlp.0.linear_1": affine(8, 128),
    }
    default = [f"{layers}.{i}.mlp.up_proj" for i in range(3)]
    folder = convert_here(
        source("base"),
        tmp_path / "chosen",
        quantize=True,
        q_bits=3,
        quant_predicate=lambda path, _: chosen.get(path, path in default),
    )
    matrices = {**chosen, **dict.fromkeys(default, affine(3))}
    del matrices[f"{layers}.3.self_attn.q_proj"]
    assert_stored_as(folder, parameters(load_model(source("base"))), matrices)
    assert_answers_as(folder, plain_model(folder, source("base"), matrices), "base")


def test_command_answers_from_a_quantized_folder(converted: Folders, tmp_path: Path) -> None:
    """mlx_vlm.generate on the folder that mlx_vlm.convert wrote."""
    picture = cases.BY_NAME["mode_l"].pictures[0].load()
    picture.save(tmp_path / "picture.png")
    model, processor = mlx_vlm.load(str(converted("awq")))
    prompt = mlx_vlm.apply_chat_template(processor, model.config, "Describe this image", num_images=1)
    expected = mlx_vlm.generate(
        model, processor, prompt, image=[str(tmp_path / "picture.png")], max_tokens=TOKENS, temperature=0.0
    ).text
    assert expected
    out = tmp_path / "answer.txt"
    command = (
        "import sys, contextlib, io; from mlx_vlm.generate import main\n"
        "from pathlib import Path\n"
        "out = io.StringIO()\n"
        "with contextlib.redirect_stdout(out): main()\n"
        f"Path({str(out)!r}).write_text(out.getvalue(), encoding='utf-8')"
    )
    arguments = ["--model", converted("awq"), "--image", tmp_path / "picture.png", "--prompt", "Describe this image"]
    python("-c", command, *arguments, "--max-tokens", str(TOKENS), "--temperature", "0.0", builtin=False)
    assert expected in out.read_text(encoding="utf-8")


# Activation-aware quantization


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
        error = mx.abs(dequantize(tensors, path, affine(4)) - original[f"{path}.weight"] * scale)
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
    shutil.copy(cases.MEDIA / "logo_la.png", calibration)
    options = {**COMMANDS["awq"].options, "calibration": "multimodal", "calibration_data": str(calibration)}
    folder = convert_here(source("base"), tmp_path / "awq", **options)
    assert scaled_layers(folder, source("base")) == scaled_layers(converted("awq"), source("base"))
    path = "language_model.model.layers.3.input_layernorm.weight"
    assert bytes(stored_tensors(folder)[path]) != bytes(stored_tensors(converted("awq"))[path])
    matrices = expected_matrices("awq")
    assert_loads_as(folder, matrices)
    assert_answers_as(folder, plain_model(folder, source("base"), matrices), "base")


# Converting conversions


@pytest.mark.parametrize("name", ["4bit", "8bit", "mxfp4", "mxfp8", "nvfp4", "mixed"])
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
    if name in ("mixed", "mxfp4"):
        model = load_model(folder)
        model.set_dtype(mx.float32)
        assert_answers_as(folder, model, variant)
        quantized = load_model(converted(name))
        for actual, expected in zip(text_logits(model), text_logits(quantized), strict=True):
            stages.assert_close(actual, expected, stages.TOLERANCE, "logits")


@pytest.mark.parametrize("name", ["bf16", "untied", "4bit", "mixed", "nvfp4"])
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
    rest = {path: recipe_matrices("mixed_3_8", "base")[path] for path in other_matrices("base")}
    assert_stored_as(more, parameters(load_model(source("base"))), {**expected_matrices("4bit"), **rest})


# The folder


@pytest.mark.parametrize("name", ["bf16", "untied", "4bit", "mixed", "nvfp4", "awq"])
def test_processor_files(name: str, converted: Folders, source: Folders) -> None:
    """Template, options, special tokens, stop tokens, ids and pixels are those of the source."""
    folder, original = converted(name), source(FORMATS[name].variant)
    after, before = MiniCPMV46Processor.from_pretrained(folder), MiniCPMV46Processor.from_pretrained(original)
    written = {"README.md", "model.safetensors.index.json"}
    assert {f.name for f in folder.iterdir()} == {f.name for f in original.iterdir()} | written
    for file in ("chat_template.jinja", "generation_config.json"):
        assert (folder / file).read_bytes() == (original / file).read_bytes(), file
    assert read_json(folder / "processor_config.json") == read_json(original / "processor_config.json")
    assert (after.image_processor, after.video_processor) == (before.image_processor, before.video_processor)
    assert after.chat_template == before.chat_template
    assert after.special_tokens == before.special_tokens
    assert after.tokenizer.special_tokens_map == before.tokenizer.special_tokens_map
    assert after.tokenizer.backend_tokenizer.to_str() == before.tokenizer.backend_tokenizer.to_str()
    assert load_model(folder, lazy=True).config.eos_token_id == list(tiny.STOP_TOKENS)
    for case_name in (TEXT_CASES["base"][1], IMAGE_CASES["base"][0]):
        case = cases.BY_NAME[case_name]
        actual, expected = stages.process(after, case), stages.process(before, case)
        assert actual.keys() == expected.keys()
        for key, value in expected.items():
            np.testing.assert_array_equal(actual[key], value, err_msg=key)


@pytest.mark.parametrize("name", ["bf16", "4bit"])
def test_config_keeps_everything(name: str, converted: Folders, source: Folders) -> None:
    """Every entry of the source, with the stop tokens of generation_config.json."""
    after, before = (read_json(f / "config.json") for f in (converted(name), source(FORMATS[name].variant)))
    assert {key: after[key] for key in before} == {**before, "eos_token_id": list(tiny.STOP_TOKENS)}
    assert after["dtype"] == tiny.VARIANTS[FORMATS[name].variant].dtype


@pytest.mark.parametrize("name", ["bf16", "4bit"])
def test_shards(
    name: str, converted: Folders, source: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several files beside an index, as models of more than mlx-vlm's 5 GB get."""

    def shards(weights: Mapping[str, mx.array]) -> list[dict[str, mx.array]]:
        parts: Iterable[Any] = np.array_split(list(weights), 4)
        return [{str(path): weights[str(path)] for path in part} for part in parts]

    monkeypatch.setattr("mlx_vlm.utils.make_shards", shards)
    folder = convert_here(source(FORMATS[name].variant), tmp_path / "sharded", **FORMATS[name].options)
    files = sorted(file.name for file in folder.glob("*.safetensors"))
    assert files == [f"model-0000{i}-of-00004.safetensors" for i in range(1, 5)]
    assert_same_tensors(stored_tensors(folder), stored_tensors(converted(name)))
    assert_same_tensors(parameters(load_model(folder)), parameters(load_model(converted(name))))
    assert read_json(folder / "config.json") == read_json(converted(name) / "config.json")


# Formats of other tools, which mlx-vlm turns into its own on loading


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


@pytest.mark.parametrize("name", OTHERS)
def test_format_of_another_tool(name: str, source: Folders, tmp_path: Path) -> None:
    """Loaded, answered from and converted to plain weights; where a module has no tensor at all it is named."""
    write, section = OTHERS[name]
    folder = Path(shutil.copytree(source("base"), tmp_path / name))
    tensors, plain = dict(mx.load(str(folder / "model.safetensors"))), load_model(source("base"))
    numbers = {}
    for path in decoder_matrices("base"):
        numbers[f"{path}.weight"] = write(tensors, official_name(f"{path}.weight")).astype(mx.float32)
    mx.eval(tensors, numbers)
    mx.save_safetensors(str(folder / "model.safetensors"), tensors)
    config = read_json(folder / "config.json")
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": section}))
    plain.load_weights(list(numbers.items()), strict=False)
    assert_answers_as(folder, plain, "base")

    converted = convert_here(folder, tmp_path / "plain", dequantize=True)
    assert_loads_as(converted, {})
    assert_answers_as(converted, plain, "base")

    mx.save_safetensors(
        str(folder / "model.safetensors"), {k: v for k, v in tensors.items() if ".vision_tower." not in k}
    )
    with pytest.raises(ValueError, match=r"lacks vision_tower\.embeddings"):
        load_model(folder)


# Wrong use


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantize": True, "quant_predicate": "mixed_9_9"}, "mixed_9_9"),
        ({"quantize": True, "q_bits": 7}, "bits 7 is not supported"),
        ({"quantize": True, "q_group_size": 16}, "group size 16 is not supported"),
        ({"quantize": True, "q_mode": "mxfp4", "q_bits": 8}, "mxfp4 requires group_size=32, bits=4"),
        ({"quantize": True, "q_mode": "int4"}, "int4"),
        ({"quantize": True, "dequantize": True}, "either quantize or dequantize"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(str(x) for x in value.values()),
)
def test_refused_options(options: dict[str, Any], message: str, source: Folders, tmp_path: Path) -> None:
    """One error that names the value, and no folder."""
    with pytest.raises(ValueError, match=message):
        convert_here(source("base"), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_group_size_that_divides_nothing(source: Folders, tmp_path: Path) -> None:
    """mlx-vlm passes over matrices that a group size does not divide; a folder of plain weights says it is one."""
    folder = convert_here(source("base"), tmp_path / "out", quantize=True, q_group_size=48)
    assert_loads_as(folder, {})
    assert_same_tensors(parameters(load_model(folder)), parameters(load_model(source("base"))))


def test_incomplete_source(tmp_path: Path) -> None:
    """Refused before anything is written."""
    folder = tmp_path / "incomplete"
    tiny.make_checkpoint(folder, shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="model-00002-of-00003"):
        convert_here(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_source_as_target(tmp_path: Path) -> None:
    """Refused before the weights are written over, by whatever path the folder is named."""
    folder = tiny.make_checkpoint(tmp_path / "folder")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    (tmp_path / "link").symlink_to(folder)
    for target in (folder, tmp_path / "link"):
        with pytest.raises(ValueError, match=f"{target} is the folder that the model is read from"):
            convert_here(folder, target, quantize=True)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_target_exists(converted: Folders, source: Folders, tmp_path: Path) -> None:
    """What another conversion left in a folder is replaced; a file in its place is refused."""
    shutil.copytree(converted("mixed"), tmp_path / "out")
    folder = convert_here(source("bf16"), tmp_path / "out")
    assert_same_tensors(stored_tensors(folder), stored_tensors(converted("bf16")))
    assert read_json(folder / "config.json") == read_json(converted("bf16") / "config.json")

    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="file"):
        convert_here(source("base"), tmp_path / "file")
