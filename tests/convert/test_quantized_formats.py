"""Every quantized format and recipe, what the folders hold, and what they answer."""

from itertools import product
from pathlib import Path

import mlx.nn as nn
import mlx_vlm
import pytest
from mlx_vlm.convert import QUANT_RECIPES
from mlx_vlm.utils import load_model
from support import cases
from support.conversions import convert_here, parameters, read_json
from support.quantized import (
    FORMATS,
    MXFP4,
    MXFP8,
    NVFP4,
    QUANTIZED,
    TOKENS,
    Folders,
    Matrices,
    affine,
    assert_answers_as,
    assert_loads_as,
    assert_stored_as,
    expected_matrices,
    plain_model,
    recipe_matrices,
)
from support.running import python


@pytest.mark.parametrize("name", [name for name in QUANTIZED if "awq" not in name])
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


@pytest.mark.parametrize(("recipe", "variant"), [*product(QUANT_RECIPES, ("base", "untied")), ("mixed_4_6", "ocr")])
def test_mixed_recipe(recipe: str, variant: str, source: Folders, tmp_path: Path) -> None:
    """Each of mlx-vlm's recipes; they replace the model's own choice."""
    folder = convert_here(source(variant), tmp_path / recipe, quantize=True, quant_predicate=recipe)
    matrices = recipe_matrices(recipe, variant)
    assert_stored_as(folder, parameters(load_model(source(variant))), matrices)
    if variant != "untied":
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


def test_command_answers_from_a_quantized_folder(converted: Folders, folder: Path) -> None:
    """mlx_vlm.generate on the folder that mlx_vlm.convert wrote."""
    picture = folder / "picture.png"
    cases.BY_NAME["mode_l"].pictures[0].load().save(picture)
    model, processor = mlx_vlm.load(str(converted("awq")))
    prompt = mlx_vlm.apply_chat_template(processor, model.config, "Describe this image", num_images=1)
    expected = mlx_vlm.generate(model, processor, prompt, image=[str(picture)], max_tokens=TOKENS, temperature=0.0).text
    assert expected
    request = ("--image", picture, "--prompt", "Describe this image", "--max-tokens", str(TOKENS), "--temperature", "0")
    done = python("-m", "mlx_vlm.generate", "--model", converted("awq"), *request, folder=folder)
    assert (done.returncode, done.stdout.decode()) == (0, f"{expected}\n"), done.stderr.decode()


@pytest.mark.parametrize("name", [name for name in QUANTIZED if name not in ("mixed", "group128")])
def test_config_names_what_is_not_as_asked_for(name: str, converted: Folders) -> None:
    """`config.json` has what was asked for, and an entry for every matrix that is stored otherwise."""
    section = read_json(converted(name) / "config.json")["quantization"]
    asked = {key: value for key, value in section.items() if not isinstance(value, dict)}
    recipe = FORMATS[name].recipe
    assert recipe is not None
    assert asked == recipe.mlp
    others = {path: how for path, how in expected_matrices(name).items() if how != asked}
    assert {path: how for path, how in section.items() if isinstance(how, dict)} == others


@pytest.mark.parametrize("name", ["nvfp4", "nvfp4 untied", "mxfp8"])
def test_quantized_activations(name: str, converted: Folders) -> None:
    """`--quantize-activations` takes every linear layer of the modes that it is for; MLX runs it on GPUs."""
    model = load_model(converted(name), lazy=True, quantize_activations=True)
    kinds = {path.rpartition(".")[2]: type(module) for path, module in model.named_modules() if "scales" in module}
    assert kinds.pop("embed_tokens") is nn.QuantizedEmbedding
    assert set(kinds.values()) == {nn.QQLinear}
