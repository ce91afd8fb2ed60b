"""The delta rule's two forms are the same rule, at awkward lengths and with states, padding and grouped heads."""

import mlx.core as mx
import numpy as np
import pytest

from minicpmv46 import gated_delta
from minicpmv46.fused import delta_gates
from minicpmv46.gated_delta import gated_delta_rule, has_kernel, unit_lower_inverse


def inputs(
    batch: int, length: int, key_heads: int, value_heads: int, key_dim: int, value_dim: int
) -> dict[str, mx.array]:
    random = np.random.RandomState(length)

    def unit(*shape: int) -> np.ndarray:
        x = random.standard_normal(shape)
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    arrays = {
        "q": unit(batch, length, key_heads, key_dim) * key_dim**-0.5,
        "k": unit(batch, length, key_heads, key_dim),
        "v": random.standard_normal((batch, length, value_heads, value_dim)),
        # Decays from none to almost all, in one sequence.
        "g": -np.exp(random.uniform(-9, 3, (batch, length, value_heads))),
        "beta": random.uniform(0, 1, (batch, length, value_heads)),
        "state": random.standard_normal((batch, value_heads, value_dim, key_dim)),
    }
    return {name: mx.array(x.astype(np.float32)) for name, x in arrays.items()}


def rule(q, k, v, g, beta, state, **options):  # type: ignore[no-untyped-def]
    return gated_delta_rule(q, k, v, g, mx.exp(g), beta, state, **options)


def padded(given: dict[str, mx.array], mask: np.ndarray) -> dict[str, mx.array]:
    """Tokens outside of `mask` as the decoder gives them: decay 1 and step 0."""
    left = mx.array(mask)[..., None]
    return {**given, "g": mx.where(left, given["g"], 0), "beta": mx.where(left, given["beta"], 0)}


def recurrent_step(q, k, v, g, beta, state):  # type: ignore[no-untyped-def]
    """One token, with gradients: q, k [B, H, key_dim], v [B, H, value_dim], g, beta [B, H]."""
    state = state * mx.exp(g)[..., None, None]
    remembered = (state * k[..., None, :]).sum(-1)
    state = state + ((v - remembered) * beta[..., None])[..., None] * k[..., None, :]
    return (state * q[..., None, :]).sum(-1), state


def by_definition(q, k, v, g, beta, state, mask=None):  # type: ignore[no-untyped-def]
    """The three lines of the rule in float64, token by token and head by head."""
    q, k, v, g, beta, state = (np.array(x, dtype=np.float64) for x in (q, k, v, g, beta, state))
    y = np.zeros(v.shape)
    share = v.shape[2] // k.shape[2]
    for b in range(v.shape[0]):
        for h in range(v.shape[2]):
            s = state[b, h]
            for t in range(v.shape[1]):
                if mask is not None and not mask[b, t]:
                    continue
                key, query = k[b, t, h // share], q[b, t, h // share]
                s = np.exp(g[b, t, h]) * s
                s = s + beta[b, t, h] * np.outer(v[b, t, h] - s @ key, key)
                y[b, t, h] = s @ query
            state[b, h] = s
    return y, state


def assert_rule(given: dict[str, mx.array], mask: np.ndarray | None = None) -> None:
    """The result is that of the definition, at the tokens that the mask leaves."""
    y, state = rule(**(given if mask is None else padded(given, mask)))
    expected_y, expected_state = by_definition(**given, mask=mask)
    left = slice(None) if mask is None else mask
    np.testing.assert_allclose(np.array(state), expected_state, rtol=0, atol=5e-6)
    np.testing.assert_allclose(np.array(y)[left], expected_y[left], rtol=0, atol=2e-6)


@pytest.mark.parametrize("length", [1, 2, 5, 63, 64, 65, 130])
@pytest.mark.parametrize("heads", [(2, 2), (2, 6)], ids=["equal heads", "grouped heads"])
def test_equals_definition(length: int, heads: tuple[int, int]) -> None:
    given = inputs(2, length, *heads, key_dim=12, value_dim=20)
    assert_rule(given)


@pytest.mark.parametrize("length", [1, 9])
def test_what_the_kernel_is_given(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Metal kernel cannot run here; MLX's own operations of the same call take its place."""
    calls = []
    update = mx.fast.gated_delta_update
    monkeypatch.setattr(gated_delta, "has_kernel", lambda keys, values: True)
    monkeypatch.setattr(mx.fast, "gated_delta_update", lambda *given: calls.append(len(given)) or update(*given))
    given = inputs(2, length, 2, 4, key_dim=32, value_dim=8)
    mask = np.random.RandomState(2).uniform(size=(2, length)) < 0.7
    assert_rule(given, mask)
    assert calls == [6]


@pytest.mark.parametrize(
    ("keys", "values", "expected"),
    [
        ((16, 128), (16, 128), True),
        ((4, 32), (4, 32), False),
        ((16, 128), (16, 64), False),
        ((16, 128), (24, 128), False),
    ],
)
def test_heads_of_the_kernel(
    keys: tuple[int, int], values: tuple[int, int], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not has_kernel(keys, values)  # on the CPU
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    monkeypatch.setattr(mx, "default_device", lambda: mx.gpu)
    assert has_kernel(keys, values) is expected


def test_gates() -> None:
    """The decoder's gates are the formulas of the paper, in float32 from any dtype; padding decays by 1, writes 0."""
    random = np.random.RandomState(5)
    a, b = (random.standard_normal((2, 3, 4)) * 4 for _ in range(2))
    A_log, dt_bias = random.uniform(-2, 2, 4), random.standard_normal(4)
    mask = np.array([[False, True, True], [True, True, False]])
    given = [mx.array(x.astype(np.float32)) for x in (a, b, A_log, dt_bias)]
    g, decay, beta, _ = delta_gates(*given)
    expected = -np.exp(A_log) * np.log1p(np.exp(a + dt_bias))
    np.testing.assert_allclose(g, expected, rtol=1e-5)
    np.testing.assert_allclose(decay, np.exp(expected), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(beta, 1 / (1 + np.exp(-b)), rtol=1e-5)
    masked = delta_gates(*given, mx.array(mask)[..., None])
    for value, plain, padding in zip(masked, (g, decay, beta), (0, 1, 0), strict=False):
        np.testing.assert_array_equal(value, np.where(mask[..., None], plain, padding))
    assert delta_gates(*(x.astype(mx.bfloat16) for x in given))[0].dtype == mx.float32


@pytest.mark.parametrize("length", [1, 70, 130])
def test_gradients(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training goes around the kernel, and has the gradients of the definition, step by step, for every input."""
    monkeypatch.setattr(gated_delta, "has_kernel", lambda keys, values: True)
    given = inputs(2, length, 2, 2, key_dim=8, value_dim=12)
    mask = np.random.RandomState(3).uniform(size=(2, length)) < 0.8
    left = mx.array(mask)
    weights = mx.array(np.random.RandomState(4).standard_normal((2, length, 2, 12)).astype(np.float32))

    def loss(given: dict[str, mx.array], definition: bool) -> mx.array:
        if not definition:
            y, state = rule(**padded(given, mask), differentiable=True)
        else:
            state, steps = given["state"], []
            for t in range(length):
                step = {name: given[name][:, t] for name in ("q", "k", "v", "g", "beta")}
                y, new = recurrent_step(**step, state=state)
                state = mx.where(left[:, t, None, None, None], new, state)
                steps.append(y)
            y = mx.stack(steps, axis=1)
        return (y * weights * left[..., None, None]).sum() + state.square().sum()

    found, expected = (mx.grad(loss)(given, definition) for definition in (False, True))
    for name in given:
        scale = mx.abs(expected[name]).max().item()
        assert scale > 0
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-5 * scale, err_msg=name)


def test_empty_state() -> None:
    given = inputs(1, 7, 2, 2, 8, 8)
    zeros = {**given, "state": mx.zeros_like(given["state"])}
    for a, b in zip(rule(**{**given, "state": None}), rule(**zeros), strict=True):
        assert mx.array_equal(a, b)


@pytest.mark.parametrize("length", [1, 9, 70])
def test_masked_tokens_change_nothing(length: int) -> None:
    given = inputs(2, length, 2, 4, 8, 16)
    mask = np.random.RandomState(1).uniform(size=(2, length)) < 0.5
    assert_rule(given, mask)


def test_split_anywhere() -> None:
    given = inputs(1, 100, 2, 2, 8, 8)
    whole_y, whole_state = rule(**given)
    parts, state = [], given["state"]
    for part in (slice(0, 1), slice(1, 40), slice(40, 99), slice(99, 100)):
        piece = {name: given[name][:, part] for name in ("q", "k", "v", "g", "beta")}
        y, state = rule(**piece, state=state)
        parts.append(y)
    np.testing.assert_allclose(np.array(mx.concatenate(parts, axis=1)), np.array(whole_y), rtol=0, atol=2e-6)
    np.testing.assert_allclose(np.array(state), np.array(whole_state), rtol=0, atol=5e-6)


@pytest.mark.parametrize("size", [1, 2, 16, 64])
def test_unit_lower_inverse(size: int) -> None:
    """Also where entries are near one, as correlated keys make them, and a power series would overflow."""
    lower = np.tril(np.random.RandomState(size).uniform(0.5, 1, (3, size, size)), -1)
    inverse = np.array(unit_lower_inverse(mx.array(lower.astype(np.float32))))
    np.testing.assert_allclose(inverse @ (np.eye(size) + lower), np.broadcast_to(np.eye(size), lower.shape), atol=1e-4)
