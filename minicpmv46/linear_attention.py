"""The decoder's linear attention: a gated delta net.

What is unusual: a short causal convolution over q, k and v together; q and k have length one; the state's decay and
step come from the token, per head; the output is normalized per head and multiplied by the SiLU of a gate.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
from mlx_vlm.models.cache import ArraysCache

from .config import TextConfig
from .fused import convolve_silu, delta_gates, silu_gate
from .gated_delta import gated_delta_rule
from .stacked import Stack

# What fla's L2 normalization, which the checkpoint was trained with, adds to the sum of squares.
L2_EPS = 1e-6


class GatedRMSNorm(nn.Module):
    """RMSNorm times SiLU of a gate; its weight is used as it is stored."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = mx.ones((size,))
        self.eps = eps

    def __call__(self, x: mx.array, gate: mx.array) -> mx.array:
        """x, float32, and gate of the same shape; returns gate's dtype."""
        return silu_gate(mx.fast.rms_norm(x, None, self.eps), self.weight, gate)


class CausalConv1d(nn.Module):
    """Depthwise convolution over time, with SiLU; the caller supplies the tokens before the first."""

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        self.weight = mx.zeros((channels, kernel_size, 1))

    def __call__(self, x: mx.array) -> mx.array:
        """[batch, kernel_size - 1 + length, channels] to float32 [batch, length, channels]."""
        kernel_size = self.weight.shape[1]
        length = x.shape[1] - kernel_size + 1
        weights = list(mx.split(self.weight.squeeze(-1).T, kernel_size))  # [1, channels] each
        return convolve_silu([x[:, i : i + length] for i in range(kernel_size)], weights)


class GatedDeltaNet(nn.Module):
    """Linear attention with a short convolution before and a gated norm after."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.key_heads, self.value_heads = config.linear_num_key_heads, config.linear_num_value_heads
        self.key_dim, self.value_dim = config.linear_key_head_dim, config.linear_value_head_dim
        self.history = config.linear_conv_kernel_dim - 1
        keys, values = self.key_heads * self.key_dim, self.value_heads * self.value_dim
        self.in_proj_qkv = nn.Linear(config.hidden_size, 2 * keys + values, bias=False)
        self.in_proj_z = nn.Linear(config.hidden_size, values, bias=False)
        self.in_proj_b = nn.Linear(config.hidden_size, self.value_heads, bias=False)
        self.in_proj_a = nn.Linear(config.hidden_size, self.value_heads, bias=False)
        self.conv1d = CausalConv1d(2 * keys + values, config.linear_conv_kernel_dim)
        self.dt_bias = mx.ones((self.value_heads,))
        self.A_log = mx.zeros((self.value_heads,))
        # q is not divided by sqrt(key_dim), and neither is y then: the norm takes it away, where its eps grows alike.
        self.norm = GatedRMSNorm(self.value_dim, config.rms_norm_eps * self.key_dim)
        self.out_proj = nn.Linear(values, config.hidden_size, bias=False)
        # RMS normalization times this is L2 normalization. The underscore keeps it out of the parameters.
        self._unit = mx.array([self.key_dim**-0.5] * self.key_dim)
        self._inputs = Stack()

    def __call__(self, x: mx.array, mask: mx.array | None, cache: ArraysCache | None) -> mx.array:
        """x [batch, length, hidden], zero where `mask`, bool [batch, length], is False for padding."""
        batch, length, _ = x.shape
        inputs = (self.in_proj_qkv, self.in_proj_z, self.in_proj_b, self.in_proj_a)
        qkv, z, b, a = self._inputs(x, inputs, generating=cache is not None)

        keys = self.key_heads * self.key_dim
        qk, v = mx.split(self._convolve(qkv, cache), [2 * keys], axis=-1)
        qk = mx.fast.rms_norm(
            qk.reshape(batch, length, 2 * self.key_heads, self.key_dim), self._unit, L2_EPS / self.key_dim
        )
        q, k = mx.split(qk, 2, axis=2)  # [B, L, key heads, key_dim]
        v = v.reshape(batch, length, self.value_heads, self.value_dim)
        padding = None if mask is None else mask[..., None]
        g, decay, beta, _ = delta_gates(a, b, self.A_log, self.dt_bias, padding)

        def update(state: mx.array | None, _: int | None = None) -> tuple[mx.array, mx.array]:
            return gated_delta_rule(q, k, v, g, decay, beta, state, differentiable=self.training)

        if cache is None:
            y, _ = update(None)
        else:
            y, _ = cache.update_recurrent(1, length, update)
            cache.advance(length)
        y = self.norm(y, z.reshape(batch, length, self.value_heads, self.value_dim))
        return self.out_proj(y.reshape(batch, length, -1))

    def _convolve(self, qkv: mx.array, cache: ArraysCache | None) -> mx.array:
        """Convolution and SiLU over the new tokens, float32, with the last tokens before them from the cache."""
        past = None if cache is None else cache[0]
        if past is None:
            past = mx.zeros((qkv.shape[0], self.history, qkv.shape[-1]), dtype=qkv.dtype)
        window = mx.concatenate([past, qkv], axis=1)
        if cache is not None:
            kept = cache.update_window(0, window, self.history, lengths=cache.lengths)
            # What the cache keeps is taken out before going on; else every layer's window lives until the cache is
            # evaluated, 25 MB a layer for 2,048 tokens.
            window = mx.depends(window, kept)
        return self.conv1d(window)
