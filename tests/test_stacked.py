"""Projections of one input run as one product in generation, and nobody else notices."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map
from mlx_vlm.quant.calibration import collect_activation_stats
from mlx_vlm.trainer.peft.lora_layers import LoRALinear
from support.loading import load_model

from minicpmv46 import stacked
from minicpmv46.model import Model
from minicpmv46.stacked import Stack

IDS = mx.array([[5, 6, 7, 8, 9]])
# What the base variant's four layers stack: three delta nets' inputs, one attention's, four MLPs'.
STACKS = 8


@pytest.fixture
def fresh(checkpoint: Callable[[str], Path]) -> Model:
    """A model that no other test has used or uses."""
    return load_model(checkpoint("base"))


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each try to build a stack, whether there is one now."""
    tries: list[bool] = []
    build = stacked._build

    def counted(projections: Any) -> Any:
        made = build(projections)
        tries.append(made.product is not None)
        return made

    monkeypatch.setattr(stacked, "_build", counted)
    return tries


def generated(model: Model) -> mx.array:
    """Logits with a cache, in two calls, which is how generation runs."""
    lm = model.language_model
    cache = lm.make_cache()
    first = lm(IDS[:, :4], cache=cache).logits
    return mx.concatenate([first, lm(IDS[:, 4:], cache=cache).logits], axis=1)


def whole(model: Model) -> mx.array:
    """The same logits without a cache."""
    return model.language_model(IDS).logits


def parameters(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: np.array(value) for name, value in tree_flatten(model.parameters())}


def assert_close(actual: mx.array, expected: mx.array) -> None:
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * mx.abs(expected).max().item())


def test_only_generation_stacks_and_only_once(fresh: Model, built: list[bool]) -> None:
    expected = whole(fresh)
    assert built == []
    assert_close(generated(fresh), expected)
    assert built == [True] * STACKS
    assert_close(generated(fresh), expected)
    assert_close(whole(fresh), expected)
    assert built == [True] * STACKS


def test_names_values_and_memory_stay(fresh: Model) -> None:
    """Weights become views of the stacks: what is saved is what was loaded, and nothing is held twice."""
    before = parameters(fresh)
    weight = fresh.language_model.layers[0].mlp.gate_proj.weight.nbytes
    mx.eval(fresh.parameters())
    mx.clear_cache()
    held = mx.get_active_memory()
    mx.eval(generated(fresh), fresh.parameters())
    mx.clear_cache()
    assert mx.get_active_memory() - held < weight
    after = parameters(fresh)
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_memory_while_stacking() -> None:
    """Stacks are made one after another: never all weights twice."""
    pairs = [(nn.Linear(1024, 512, bias=False), nn.Linear(1024, 512, bias=False)) for _ in range(16)]
    mx.eval([projection.parameters() for pair in pairs for projection in pair])
    stacks = [Stack() for _ in pairs]
    x = mx.ones((1, 1024))
    mx.eval(x)
    one = sum(projection.weight.nbytes for projection in pairs[0])
    mx.clear_cache()
    mx.reset_peak_memory()
    held = mx.get_active_memory()
    mx.eval([stack(x, pair, generating=True) for stack, pair in zip(stacks, pairs, strict=True)])
    assert one <= mx.get_peak_memory() - held < 3 * one


@pytest.mark.parametrize("change", ["update", "assignment", "set_dtype", "quantize", "lora"])
def test_what_is_replaced_is_used(fresh: Model, change: str) -> None:
    """After each way in which weights or layers change, generation gives what the changed model gives."""
    before = generated(fresh)
    layer = fresh.language_model.layers[1]
    if change == "update":
        fresh.update(tree_map(lambda x: x * 1.5 if mx.issubdtype(x.dtype, mx.floating) else x, fresh.parameters()))
    elif change == "assignment":
        layer.mlp.up_proj.weight = layer.mlp.up_proj.weight * 2
    elif change == "set_dtype":
        fresh.set_dtype(mx.float16)
        fresh.set_dtype(mx.float32)
        layer.linear_attn.in_proj_z.weight = -layer.linear_attn.in_proj_z.weight
    elif change == "quantize":
        nn.quantize(fresh.language_model.model, group_size=32, bits=4)
    else:
        adapter = LoRALinear.from_base(layer.mlp.up_proj, r=2)
        adapter.lora_b = mx.random.normal(adapter.lora_b.shape)
        layer.mlp.up_proj = adapter
    expected = whole(fresh)  # without a cache, by the projections themselves
    assert mx.abs(expected - before).max().item() > 1e-2
    assert_close(generated(fresh), expected)
    assert_close(generated(fresh), expected)


@pytest.mark.parametrize("training", [False, True])
def test_gradients_after_generation(fresh: Model, training: bool) -> None:
    """They are those of a model that never generated, for every parameter."""

    def gradients(model: Model) -> dict[str, np.ndarray]:
        model.train(training)
        return parameters_of(nn.value_and_grad(model, lambda m: m(IDS).logits.square().mean())(model)[1])

    def parameters_of(tree: Any) -> dict[str, np.ndarray]:
        return {name: np.array(value) for name, value in tree_flatten(tree)}

    expected = gradients(fresh)
    fresh.eval()
    mx.eval(generated(fresh))
    found = gradients(fresh)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-5 * np.abs(value).max() + 1e-12, err_msg=name)


def test_calibration_sees_every_layer(fresh: Model) -> None:
    """mlx-vlm's AWQ looks at what each `nn.Linear` is given, also of a model that has generated, with a cache too."""
    lm = fresh.language_model
    expected = generated(fresh)
    linears = {path for path, module in lm.named_modules() if isinstance(module, nn.Linear)}
    assert collect_activation_stats(lm, lambda: mx.eval(lm(IDS).logits)).keys() == linears
    assert collect_activation_stats(lm, lambda: mx.eval(generated(fresh))).keys() == linears
    assert_close(generated(fresh), expected)


def test_stale_stacks_are_let_go(fresh: Model) -> None:
    """Where weights were replaced, a call that may build none does not keep the old ones alive."""
    mlp = fresh.language_model.layers[0].mlp
    generated(fresh)
    assert mlp._inputs._built is not None
    fresh.update(tree_map(lambda x: x + 0, fresh.parameters()))
    whole(fresh)
    assert mlp._inputs._built is None


def layers(**changes: Any) -> list[nn.Module]:
    """Two projections of one input, the second changed."""
    first, second = nn.Linear(64, 32, bias=changes.get("first_bias", False)), nn.Linear(64, 96, bias=False)
    if bits := changes.get("bits"):
        first, second = (nn.QuantizedLinear.from_linear(p, 32, b) for p, b in zip((first, second), bits, strict=True))
    return [first, second]


@pytest.mark.parametrize(
    ("changes", "stacks"),
    [({}, True), ({"bits": (4, 4)}, True), ({"bits": (4, 6)}, False), ({"first_bias": True}, False)],
    ids=["plain", "4-bit", "two numbers of bits", "a bias in one"],
)
def test_what_can_be_stacked(changes: dict[str, Any], stacks: bool, built: list[bool]) -> None:
    """What cannot is computed one by one."""
    projections = tuple(layers(**changes))
    x = mx.random.normal((2, 3, 64))
    expected = [projection(x) for projection in projections]
    stack = Stack()
    for _ in range(2):
        for out, value in zip(stack(x, projections, generating=True), expected, strict=True):
            assert_close(out, value)
    assert built == [stacks]


@pytest.mark.parametrize("mode", ["mxfp4", "mxfp8", "nvfp4"])
def test_formats_without_biases(mode: str, built: list[bool]) -> None:
    projections = tuple(nn.QuantizedLinear.from_linear(nn.Linear(64, rows, bias=False), mode=mode) for rows in (32, 96))
    x = mx.random.normal((5, 64))
    expected = [projection(x) for projection in projections]
    for out, value in zip(Stack()(x, projections, generating=True), expected, strict=True):
        assert_close(out, value)
    assert built == [True]
