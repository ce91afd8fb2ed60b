"""Elementwise chains, each one kernel launch through `mx.compile`.

Only elementwise operations stand here: norms, products and attention are kernels of their own. Chains compute in
float32 and round once, at their end. `shapeless` keeps one trace for all lengths.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial

import mlx.core as mx
import mlx.nn as nn

TWICE_SQRT_2_OVER_PI = 2 * math.sqrt(2 / math.pi)

_elementwise = partial(mx.compile, shapeless=True)


@_elementwise
def add_residual(h: mx.array, r: mx.array) -> mx.array:
    """The float32 residual stream plus what a block of any dtype adds."""
    return h + r.astype(mx.float32)


@_elementwise
def gelu_tanh(x: mx.array) -> mx.array:
    """GELU in its tanh form, in x's dtype: 0.5 (1 + tanh(y)) is the sigmoid of 2y.

    `nn.gelu_approx` is the same in two launches and twice the time on the CPU: it takes a power and a tanh.
    """
    h = x.astype(mx.float32)
    return (h * mx.sigmoid(h * (TWICE_SQRT_2_OVER_PI + TWICE_SQRT_2_OVER_PI * 0.044715 * (h * h)))).astype(x.dtype)


@_elementwise
def swiglu(gate: mx.array, up: mx.array) -> mx.array:
    """SiLU of `gate` times `up`, in their dtype."""
    return (_silu(gate.astype(mx.float32)) * up.astype(mx.float32)).astype(gate.dtype)


@_elementwise
def sigmoid_gate(x: mx.array, gate: mx.array) -> mx.array:
    """x times the sigmoid of `gate`, in x's dtype."""
    return (x.astype(mx.float32) * mx.sigmoid(gate.astype(mx.float32))).astype(x.dtype)


@_elementwise
def silu_gate(x: mx.array, weight: mx.array, gate: mx.array) -> mx.array:
    """x times `weight` times the SiLU of `gate`, in gate's dtype."""
    return (x * weight.astype(mx.float32) * _silu(gate.astype(mx.float32))).astype(gate.dtype)


@_elementwise
def convolve_silu(taps: list[mx.array], weights: list[mx.array]) -> mx.array:
    """SiLU of the sum of each tap times its weight, float32.

    The sum is taken in pairs: `mx.compile` fuses chains of 11 operations at most.
    """
    terms = [tap.astype(mx.float32) * weight.astype(mx.float32) for tap, weight in zip(taps, weights, strict=True)]
    while len(terms) > 1:
        terms = [sum(terms[i + 1 : i + 2], terms[i]) for i in range(0, len(terms), 2)]
    return _silu(terms[0])


@_elementwise
def delta_gates(
    a: mx.array, b: mx.array, A_log: mx.array, dt_bias: mx.array, mask: mx.array | None = None
) -> tuple[mx.array, mx.array, mx.array, mx.array]:
    """The delta rule's gates, float32: logarithm of the decay, the decay, the step size, and a value without use.

    Where `mask` is False the decay is 1 and the step 0. The last value joins decay and step to one chain; without it
    each would be a launch of its own.
    """
    a, b, A_log, dt_bias = (x.astype(mx.float32) for x in (a, b, A_log, dt_bias))
    g = -mx.exp(A_log) * nn.softplus(a + dt_bias)
    beta = mx.sigmoid(b)
    if mask is not None:
        g, beta = mx.where(mask, g, 0), mx.where(mask, beta, 0)
    decay = mx.exp(g)
    return g, decay, beta, decay * beta


@cache
def masked_cast(dtype: mx.Dtype) -> Callable[[mx.array, mx.array], mx.array]:
    """A function of x and a mask: x as `dtype`, zero where the mask is False."""
    return _elementwise(lambda x, mask: mx.where(mask, x, 0).astype(dtype))


@cache
def scaled_cast(dtype: mx.Dtype) -> Callable[[mx.array, mx.array, mx.array, mx.array], mx.array]:
    """A function of x, a mask and two weights: x times the first weight where the mask is True, else the second."""
    return _elementwise(lambda x, first, w, other: (x * mx.where(first, w, other)).astype(dtype))


def _silu(x: mx.array) -> mx.array:
    return x * mx.sigmoid(x)
