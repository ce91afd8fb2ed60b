"""The fused chains are their formulas, in float32 and rounded once in narrower types."""

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from minicpmv46 import fused

X, Y = (np.random.RandomState(seed).standard_normal((3, 7, 40)) * 6 for seed in (1, 2))
X[0, 0, :4] = -200, 200, -1e-8, 0  # where an exponential would overflow


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(x / 2))


CHAINS: dict[str, tuple[Callable[..., mx.array], Callable[..., np.ndarray], int]] = {
    "gelu": (fused.gelu_tanh, lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))), 1),
    "swiglu": (fused.swiglu, lambda x, y: x * sigmoid(x) * y, 2),
    "sigmoid gate": (fused.sigmoid_gate, lambda x, y: x * sigmoid(y), 2),
    "silu gate": (lambda x, y: fused.silu_gate(x, y[0, 0], y), lambda x, y: x * y[0, 0] * y * sigmoid(y), 2),
    "residual": (fused.add_residual, lambda x, y: x + y, 2),
    "convolution": (
        lambda x, y: fused.convolve_silu([x, y, x], [y[:1, :1], x[:1, :1], x[1:2, :1]]),
        lambda x, y: (z := x * y[0, 0] + y * x[0, 0] + x * x[1, 0]) * sigmoid(z),
        2,
    ),
}


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16])
@pytest.mark.parametrize("name", CHAINS)
def test_equals_formula(name: str, dtype: mx.Dtype) -> None:
    chain, formula, count = CHAINS[name]
    given = [mx.array(x.astype(np.float32)).astype(dtype) for x in (X, Y)[:count]]
    found = chain(*given)
    expected = formula(*(np.array(x.astype(mx.float32)).astype(np.float64) for x in given))
    tolerance = {mx.float32: 2e-6, mx.bfloat16: 2**-8, mx.float16: 2**-11}[found.dtype]  # half a unit in the last place
    np.testing.assert_allclose(np.array(found.astype(mx.float32)), expected, rtol=tolerance * 1.01, atol=2e-6)


def test_gelu_of_the_library() -> None:
    x = mx.array(X.astype(np.float32))
    np.testing.assert_allclose(fused.gelu_tanh(x), nn.gelu_approx(x), rtol=0, atol=2e-6)
