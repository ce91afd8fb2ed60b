"""Both layouts of a checkpoint: the official one, and what mlx-vlm's converter makes of it with its own port.

Conversions and mlx-vlm's own answers come from fresh interpreters, its port with this project switched off. What the
converter makes with this project is in `convert/`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx_vlm
import numpy as np
import pytest
from mlx_vlm.quant_utils import dequantize_model
from mlx_vlm.utils import load_model, save_weights
from support import cases, golden_data, stages, tiny
from support.conversions import (
    IMAGE_CASES,
    TEXT_CASES,
    assert_same_tensors,
    convert,
    convert_here,
    generate,
    parameters,
    read_json,
    text_logits,
)
from support.conversions import builtin_logits as run_builtin

from minicpmv46.model import Model
from minicpmv46.processing import Processor

Folders = Callable[[str], Path]


@dataclass(frozen=True)
class Conversion:
    """A small official checkpoint and the converter's arguments."""

    variant: str
    arguments: tuple[str, ...] = ()


# The published conversions start from bfloat16; a float32 source shows more of what a conversion loses.
CONVERSIONS = {
    "float32": Conversion("base", ("--dtype", "float32")),
    "untied": Conversion("untied"),
    "bf16": Conversion("bf16"),
    "4bit": Conversion("base", ("-q",)),
    "5bit": Conversion("bf16", ("-q", "--q-bits", "5")),
    "8bit": Conversion("bf16", ("-q", "--q-bits", "8")),
    "mxfp4": Conversion("bf16", ("-q", "--q-mode", "mxfp4")),
    "nvfp4": Conversion("bf16", ("-q", "--q-mode", "nvfp4")),
    "mxfp8": Conversion("base", ("-q", "--q-mode", "mxfp8")),
    # A recipe with an entry for every layer; it quantizes embeddings, head, delta nets and mergers too.
    "mixed": Conversion("untied", ("-q", "--quant-predicate", "mixed_4_6")),
}
QUANTIZED = [name for name, conversion in CONVERSIONS.items() if "-q" in conversion.arguments]


def split(folder: Path, target: Path, shards: int) -> Path:
    """A copy of a folder with one weight file, its tensors in several files beside an index."""
    target.mkdir(exist_ok=True)
    for file in folder.iterdir():
        if "safetensors" not in file.name:
            (target / file.name).write_bytes(file.read_bytes())
    tensors, weight_map = mx.load(str(folder / "model.safetensors")), {}
    for i, names in enumerate(np.array_split(sorted(tensors), shards)):
        file_name = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        mx.save_safetensors(str(target / file_name), {str(name): tensors[str(name)] for name in names})
        weight_map |= {str(name): file_name for name in names}
    (target / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return target


@pytest.fixture(scope="session")
def builtin_folder(checkpoint: Folders, tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Folder of a conversion by mlx-vlm's port."""

    @cache
    def make(name: str) -> Path:
        conversion = CONVERSIONS[name]
        target = tmp_path_factory.mktemp("builtin") / name
        return convert(checkpoint(conversion.variant), target, *conversion.arguments, builtin=True)

    return make


@pytest.fixture(scope="session")
def builtin_logits(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], list[np.ndarray]]:
    """What mlx-vlm's port answers in place of `text_logits`."""
    return cache(lambda folder: run_builtin(folder, tmp_path_factory.mktemp("logits") / "logits.npz"))


# Conversions by mlx-vlm's port


def test_conversion_is_of_the_layout_meant_here(builtin_folder: Folders) -> None:
    """The converter still drops and renames what these tests are about."""
    folder = builtin_folder("bf16")
    processor, tokenizer = read_json(folder / "processor_config.json"), read_json(folder / "tokenizer_config.json")
    assert processor["processor_class"] == "MiniCPMVProcessor"
    assert processor["image_processor"]["image_processor_type"] == "MiniCPMVImageProcessor"
    assert "mean" in processor["image_processor"] and "video_processor" not in processor
    assert "extra_special_tokens" not in tokenizer and "image_start_token" not in tokenizer
    weights = mx.load(str(folder / "model.safetensors"))
    assert {name.partition(".")[0] for name in weights} == {"language_model", "merger", "vision_tower", "vit_merger"}
    assert {x.dtype for x in weights.values()} == {mx.bfloat16}


@pytest.mark.parametrize("name", ["float32", "untied"])
def test_float32_conversion_has_the_official_parameters(
    name: str, builtin_folder: Folders, checkpoint: Folders
) -> None:
    """In float32 the two layouts are the same numbers, bit for bit."""
    official = load_model(checkpoint(CONVERSIONS[name].variant))
    assert_same_tensors(parameters(load_model(builtin_folder(name))), parameters(official))


@pytest.mark.parametrize("name", ["float32", "untied"])
def test_float32_conversion_answers_as_the_official_checkpoint(name: str, builtin_folder: Folders) -> None:
    """Ids and pixels are exact, logits are the recorded official ones and so is the answer."""
    variant = CONVERSIONS[name].variant
    model, processor = mlx_vlm.load(str(builtin_folder(name)))
    for case_name in (*TEXT_CASES[variant], *IMAGE_CASES[variant]):
        case, golden = cases.BY_NAME[case_name], golden_data.load(case_name)
        inputs = stages.process(processor, case)
        np.testing.assert_array_equal(inputs["input_ids"][0], golden["input_ids"])
        result = stages.run(model, inputs, case.new_tokens, len(golden["logits"]))
        if case.pictures:
            rows = result["vision_features"][golden["vision_rows"]]
            stages.assert_close(rows, golden["vision_features"], stages.TOLERANCE, f"{case_name}: vision features")
        stages.assert_close(result["logits"], golden["logits"], stages.TOLERANCE, f"{case_name}: logits")
        np.testing.assert_array_equal(result["greedy"], golden["greedy"])
    golden = golden_data.load(IMAGE_CASES[variant][0])
    answer = generate(model, processor, variant, len(golden["greedy"]))
    assert answer[: len(golden["greedy"])] == golden["greedy"].tolist()


@pytest.mark.parametrize("name", CONVERSIONS)
def test_prompt_ids_and_pixels_are_official(name: str, builtin_folder: Folders) -> None:
    """What the converter drops from the processor's and the tokenizer's files is not missed."""
    variant = CONVERSIONS[name].variant
    processor = Processor.from_pretrained(builtin_folder(name))
    for case_name in (*TEXT_CASES[variant], *IMAGE_CASES[variant]):
        golden, inputs = golden_data.load(case_name), stages.process(processor, cases.BY_NAME[case_name])
        np.testing.assert_array_equal(inputs["input_ids"][0], golden["input_ids"], err_msg=case_name)
        if len(golden["tokens"]):
            assert golden_data.sha256(inputs["pixel_values"]) == golden["pixel_sha256"], case_name
            np.testing.assert_array_equal(inputs["image_units"][:, :2], golden["target_sizes"])
            np.testing.assert_array_equal(inputs["image_units"][:, 2], golden["tokens"])


def test_text_is_split_as_official(builtin_folder: Folders, checkpoint: Folders) -> None:
    """Vowel signs stay with their letters: the converter writes Qwen2's pattern into tokenizer.json.

    The small vocabulary has no token across such a place, so ids do not show it.
    """

    def pieces(folder: Path) -> list[Any]:
        tokenizer = Processor.from_pretrained(folder).tokenizer
        split_text: list[Any] = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("नमस्ते, ภาษาไทยนี้")
        return split_text

    assert pieces(builtin_folder("bf16")) == pieces(checkpoint("bf16"))


@pytest.mark.parametrize("name", CONVERSIONS)
def test_text_logits_equal_the_builtin_ports(
    name: str, builtin_folder: Folders, builtin_logits: Callable[[Path], list[np.ndarray]]
) -> None:
    """Without images the two ports are the same function of the same stored numbers.

    Both compute in float32, quantized matrices included (scales are widened), so only the order of additions
    differs: at most 2e-5 was measured. In bfloat16 the two round at other places and are 4 to 8% apart.
    """
    ours = text_logits(load_model(builtin_folder(name)))
    for actual, expected in zip(ours, builtin_logits(builtin_folder(name)), strict=True):
        stages.assert_close(actual, expected, stages.TOLERANCE, "logits")


@pytest.mark.parametrize("name", [name for name in CONVERSIONS if name not in ("float32", "untied")])
def test_answers_an_image_prompt(name: str, builtin_folder: Folders) -> None:
    """Image features are the official ones where the vision side is stored whole, and an answer is generated."""
    variant = CONVERSIONS[name].variant
    case = cases.BY_NAME[IMAGE_CASES[variant][0]]
    golden = golden_data.load(case.name)
    model, processor = mlx_vlm.load(str(builtin_folder(name)))
    model.set_dtype(mx.float32)  # so that what is compared depends on what is stored only
    result = stages.run(model, stages.process(processor, case), case.new_tokens, len(golden["logits"]))
    if name != "mixed":
        rows = result["vision_features"][golden["vision_rows"]]
        stages.assert_close(rows, golden["vision_features"], stages.TOLERANCE, "vision features")
    answer = generate(model, processor, variant, case.new_tokens)
    assert answer[: len(result["greedy"])] == result["greedy"].tolist()

    if name in QUANTIZED:
        # Every quantized matrix is used as one: with the same numbers in plain matrices nothing changes.
        assert any(isinstance(module, nn.QuantizedLinear) for module in model.modules())
        dequantize_model(model)
        assert not any(isinstance(module, (nn.QuantizedLinear, nn.QuantizedEmbedding)) for module in model.modules())
        model.set_dtype(mx.float32)
        plain = stages.run(model, stages.process(processor, case), case.new_tokens, len(golden["logits"]))
        stages.assert_close(result["vision_features"], plain["vision_features"], stages.TOLERANCE, "vision features")
        stages.assert_close(result["logits"], plain["logits"], stages.TOLERANCE, "logits")


def test_a_recipe_gives_what_the_builtin_port_gives(
    builtin_folder: Folders, checkpoint: Folders, tmp_path: Path
) -> None:
    """The same matrices are quantized to the same bits where mlx-vlm's recipe chooses them, not ours."""
    ours = convert_here(checkpoint("untied"), tmp_path / "ours", quantize=True, quant_predicate="mixed_4_6")
    builtin = builtin_folder("mixed")
    assert read_json(ours / "config.json")["quantization"] == read_json(builtin / "config.json")["quantization"]
    assert_same_tensors(parameters(load_model(ours)), parameters(load_model(builtin)))


def test_embedding_and_delta_nets_that_are_not_quantized(builtin_folder: Folders) -> None:
    """Published 4-bit folders quantize MLPs and attention only; the rest stays as it is stored."""
    modules = dict(load_model(builtin_folder("4bit"), lazy=True).named_modules())
    quantized = {path.rpartition(".")[2] for path, module in modules.items() if "scales" in module}
    assert quantized == {f"{name}_proj" for name in ("gate", "up", "down", "q", "k", "v", "o")}


def test_converting_a_conversion_restores_the_official_form(
    builtin_folder: Folders, checkpoint: Folders, tmp_path: Path
) -> None:
    """Norm weights are not shifted and convolutions not turned a second time; files are in the official form again."""
    again, official = convert_here(builtin_folder("float32"), tmp_path / "again"), checkpoint("base")
    assert_same_tensors(parameters(load_model(again)), parameters(load_model(builtin_folder("float32"))))
    tensors, expected = (mx.load(str(folder / "model.safetensors")) for folder in (again, official))
    assert {name: x.shape for name, x in tensors.items()} == {name: x.shape for name, x in expected.items()}
    assert read_json(again / "processor_config.json") == read_json(official / "processor_config.json")
    tokenizers = [read_json(folder / "tokenizer.json") for folder in (again, official)]
    assert tokenizers[0]["pre_tokenizer"] == tokenizers[1]["pre_tokenizer"]
    assert (again / "chat_template.jinja").read_bytes() == (official / "chat_template.jinja").read_bytes()


# The table of names


@pytest.mark.parametrize("variant", ["base", "bf16"])
def test_renaming_changes_norms_and_convolutions_only(variant: str, checkpoint: Folders, model: Any) -> None:
    """One is added in float32, since bfloat16 would round the sum, and channels come last."""
    official = mx.load(str(checkpoint(variant) / "model.safetensors"))
    own = model(variant).sanitize(dict(official))
    decoder, embeddings = "language_model.model", "vision_tower.embeddings"
    for name in ("norm", "layers.0.input_layernorm", "layers.2.post_attention_layernorm", "layers.3.self_attn.q_norm"):
        weight = own[f"{decoder}.{name}.weight"]
        assert weight.dtype == mx.float32
        stored = np.array(official[f"model.language_model.{name}.weight"].astype(mx.float32))
        np.testing.assert_array_equal(np.array(weight), 1 + stored, err_msg=name)
    conv, patches = f"{decoder}.layers.1.linear_attn.conv1d.weight", f"{embeddings}.patch_embedding.weight"
    expected = {
        conv: official["model.language_model.layers.1.linear_attn.conv1d.weight"].moveaxis(1, 2),
        patches: official["model.vision_tower.embeddings.patch_embedding.weight"].moveaxis(1, 3),
        f"{decoder}.layers.0.linear_attn.norm.weight": official[
            "model.language_model.layers.0.linear_attn.norm.weight"
        ],
        "vit_merger.linear_1.bias": official["model.vision_tower.vit_merger.linear_1.bias"],
        "merger.mlp.0.pre_norm.weight": official["model.merger.mlp.0.pre_norm.weight"],
    }
    assert_same_tensors({name: own[name] for name in expected}, expected)


@pytest.mark.parametrize("variant", ["base", "untied", "bf16"])
def test_renaming_an_official_checkpoint_twice(variant: str, checkpoint: Folders, model: Any) -> None:
    """The second time nothing changes, neither type nor byte."""
    sanitize = model(variant).sanitize
    once = sanitize(mx.load(str(checkpoint(variant) / "model.safetensors")))
    assert not any(name.startswith("model.") for name in once)
    assert_same_tensors(sanitize(dict(once)), once)


@pytest.mark.parametrize("name", ["float32", "untied", "bf16", "4bit", "mxfp4"])
def test_renaming_leaves_a_conversion_alone(name: str, builtin_folder: Folders, model: Any) -> None:
    """Tensors of the mlx-community layout pass as they are."""
    weights = mx.load(str(builtin_folder(name) / "model.safetensors"))
    assert_same_tensors(model(CONVERSIONS[name].variant).sanitize(dict(weights)), weights)


def test_each_tensor_is_read_by_its_own_name(checkpoint: Folders, model: Any) -> None:
    """A checkpoint that has some tensors in either layout, as a merged one may, is read right."""
    official = mx.load(str(checkpoint("base") / "model.safetensors"))
    renamed = model("base").sanitize(dict(official))
    layer = "language_model.model.layers.1."
    mixed = {k: v for k, v in official.items() if not k.startswith(f"model.{layer.replace('model.layers', 'layers')}")}
    mixed |= {k: v for k, v in renamed.items() if k.startswith(layer)}
    assert len(mixed) == len(official)
    assert_same_tensors(model("base").sanitize(mixed), renamed)


def test_tensors_without_a_place_are_passed_over(checkpoint: Folders, tmp_path: Path) -> None:
    """A tied head that is stored all the same, multi-token prediction and position ids."""
    tiny.make_checkpoint(tmp_path)
    weights = dict(mx.load(str(tmp_path / "model.safetensors")))
    weights["lm_head.weight"] = weights["model.language_model.embed_tokens.weight"]
    weights["mtp.fc.weight"] = mx.zeros((4, 4))
    weights["model.vision_tower.embeddings.position_ids"] = mx.arange(4)
    mx.eval(weights)
    mx.save_safetensors(str(tmp_path / "model.safetensors"), weights)
    assert_same_tensors(parameters(load_model(tmp_path)), parameters(load_model(checkpoint("base"))))


# Shards


@pytest.mark.parametrize("variant", ["base", "untied", "bf16"])
def test_sharded_official_checkpoint_loads_the_same(variant: str, checkpoint: Folders, tmp_path: Path) -> None:
    sharded = tiny.make_checkpoint(tmp_path, variant, shards=3)
    assert len(list(sharded.glob("*.safetensors"))) == 3
    assert_same_tensors(parameters(load_model(sharded)), parameters(load_model(checkpoint(variant))))


@pytest.mark.parametrize("name", ["bf16", "mixed"])
def test_sharded_conversion_loads_the_same(name: str, builtin_folder: Folders, tmp_path: Path) -> None:
    """Also where a matrix and its scales are in different files."""
    sharded = split(builtin_folder(name), tmp_path, 5)
    assert_same_tensors(parameters(load_model(sharded)), parameters(load_model(builtin_folder(name))))


# Per-layer quantization

# Module path -> what is not as the default (affine, 4 bits, groups of 64, matrices of the decoder's MLPs).
LAYERS: dict[str, dict[str, Any] | bool] = {
    "language_model.model.embed_tokens": {"group_size": 32, "bits": 6},
    "language_model.model.layers.0.linear_attn.in_proj_qkv": {"group_size": 64, "bits": 8},
    "language_model.model.layers.0.mlp.up_proj": {"group_size": 32, "bits": 5},
    "language_model.model.layers.1.mlp.gate_proj": {"group_size": 32, "bits": 4, "mode": "mxfp4"},
    "language_model.model.layers.2.mlp.down_proj": {"group_size": 16, "bits": 4, "mode": "nvfp4"},
    "language_model.model.layers.3.self_attn.v_proj": {"group_size": 32, "bits": 8, "mode": "mxfp8"},
    "language_model.model.layers.3.mlp.down_proj": False,
    "language_model.model.layers.2.mlp.up_proj": False,
    "vision_tower.encoder.layers.1.mlp.fc1": {"group_size": 64, "bits": 8},
    "vit_merger.linear_2": {"group_size": 64, "bits": 8},
    "merger.mlp.0.linear_1": {"group_size": 64, "bits": 8},
}


def quantize(source: Path, target: Path, key: Callable[[str], str] = str) -> Model:
    """Write `source` quantized by `LAYERS`, whose paths `key` turns into those of `config.json`; return the model."""
    for file in source.iterdir():
        if "safetensors" not in file.name:
            (target / file.name).write_bytes(file.read_bytes())
    model: Model = load_model(source)

    def how(path: str, module: nn.Module) -> bool | dict[str, Any]:
        return LAYERS.get(path, ".mlp." in path and path.startswith("language_model") and "_proj" in path)

    nn.quantize(model, 64, 4, class_predicate=how)
    save_weights(target, model)
    config = read_json(target / "config.json")
    config["quantization"] = {"group_size": 64, "bits": 4, **{key(path): value for path, value in LAYERS.items()}}
    (target / "config.json").write_text(json.dumps(config))
    return model


def without_language_model(path: str) -> str:
    """A path as mlx-vlm also accepts it."""
    return path.removeprefix("language_model.")


@pytest.mark.parametrize("key", [str, without_language_model])
@pytest.mark.parametrize("variant", ["base", "bf16"])
def test_per_layer_quantization(variant: str, key: Callable[[str], str], checkpoint: Folders, tmp_path: Path) -> None:
    """Every layer has the bits, group and mode of its entry, or none, and the answer is that of the model saved."""
    saved = quantize(checkpoint(variant), tmp_path, key)
    loaded, processor = mlx_vlm.load(str(tmp_path))
    assert_same_tensors(parameters(loaded), parameters(saved))
    modules = dict(loaded.named_modules())
    for path, entry in LAYERS.items():
        if isinstance(entry, dict):
            module = modules[path]
            found = {"group_size": module.group_size, "bits": module.bits, "mode": module.mode}
            assert found == {"mode": "affine", **entry}, path
        else:
            assert type(modules[path]) is nn.Linear, path
    case = cases.BY_NAME[IMAGE_CASES[variant][0]]
    for model in (loaded, saved):
        model.set_dtype(mx.float32)
    inputs = stages.process(processor, case)
    actual, expected = (stages.run(m, inputs, 2, 1) for m in (loaded, saved))
    stages.assert_close(actual["vision_features"], expected["vision_features"], 1e-6, "vision features")
    stages.assert_close(actual["logits"], expected["logits"], 1e-6, "logits")
