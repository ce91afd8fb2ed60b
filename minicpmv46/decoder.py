"""Qwen3.5 hybrid decoder: gated delta nets, with full attention in every fourth layer.

What is unusual: full attention multiplies its output by a sigmoid gate that comes out of `q_proj`, normalizes q and k
per head, and rotates only the first quarter of each head; positions are the same on all MRoPE axes here, so the
rotation is the ordinary one. RMSNorm weights are offsets from one; `weights` adds the one, in float32, on loading.
Positions, lengths and padding live in the caches, nothing of a request is kept on a module.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_vlm.models.base import create_attention_mask, scaled_dot_product_attention
from mlx_vlm.models.cache import ArraysCache, KVCache

from .config import TextConfig
from .gated_delta import gated_delta_rule

# What fla's L2 normalization, which the checkpoint was trained with, adds to the sum of squares.
L2_EPS = 1e-6


class RMSNorm(nn.Module):
    """x / rms(x) * weight, computed in the wider of both dtypes and returned in x's."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = mx.ones((size,))
        self.eps = eps

    def __call__(self, x: mx.array) -> mx.array:
        return mx.fast.rms_norm(x, self.weight, self.eps).astype(x.dtype)


class RMSNormGated(nn.Module):
    """RMSNorm times SiLU of a gate; its weight is used as it is stored."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = mx.ones((size,))
        self.eps = eps

    def __call__(self, x: mx.array, gate: mx.array) -> mx.array:
        """x, float32, and gate of the same shape; returns gate's dtype."""
        h = mx.fast.rms_norm(x, self.weight.astype(mx.float32), self.eps)
        return (h * nn.silu(gate.astype(mx.float32))).astype(gate.dtype)


class Attention(nn.Module):
    """Causal grouped-query attention with an output gate."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim, self.rotary_dim, self.rope_theta = config.head_dim, config.rotary_dim, config.rope_theta
        self.scale = config.head_dim**-0.5
        bias = config.attention_bias
        self.q_proj = nn.Linear(config.hidden_size, 2 * self.num_heads * self.head_dim, bias=bias)
        self.k_proj = nn.Linear(config.hidden_size, self.num_kv_heads * self.head_dim, bias=bias)
        self.v_proj = nn.Linear(config.hidden_size, self.num_kv_heads * self.head_dim, bias=bias)
        self.o_proj = nn.Linear(self.num_heads * self.head_dim, config.hidden_size, bias=bias)
        self.q_norm = RMSNorm(self.head_dim, config.rms_norm_eps)
        self.k_norm = RMSNorm(self.head_dim, config.rms_norm_eps)

    def __call__(self, x: mx.array, mask: mx.array | str | None, cache: Any) -> mx.array:
        """x [batch, length, hidden]; `cache` a KV cache or None."""
        batch, length, _ = x.shape
        q, gate = mx.split(self.q_proj(x).reshape(batch, length, self.num_heads, -1), 2, axis=-1)
        k = self.k_proj(x).reshape(batch, length, self.num_kv_heads, self.head_dim)
        v = self.v_proj(x).reshape(batch, length, self.num_kv_heads, self.head_dim)

        # Batched caches count positions per row, from -padding, so that each row's first token is at 0.
        offset = 0 if cache is None else cache.offset
        q = self._rotate(self.q_norm(q).transpose(0, 2, 1, 3), offset)  # [B, heads, L, head_dim]
        k = self._rotate(self.k_norm(k).transpose(0, 2, 1, 3), offset)
        v = v.transpose(0, 2, 1, 3)
        if cache is not None:
            k, v = cache.update_and_fetch(k, v)
        out = scaled_dot_product_attention(q, k, v, cache=cache, scale=self.scale, mask=mask)
        out = out.transpose(0, 2, 1, 3) * mx.sigmoid(gate)
        return self.o_proj(out.reshape(batch, length, -1))

    def _rotate(self, x: mx.array, offset: int | mx.array) -> mx.array:
        return mx.fast.rope(x, self.rotary_dim, traditional=False, base=self.rope_theta, scale=1.0, offset=offset)


class CausalConv1d(nn.Module):
    """Depthwise convolution over time; the caller supplies the tokens before the first."""

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        self.weight = mx.zeros((channels, kernel_size, 1))

    def __call__(self, x: mx.array) -> mx.array:
        """[batch, kernel_size - 1 + length, channels] to float32 [batch, length, channels]."""
        weight = self.weight[..., 0].T.astype(mx.float32)  # [kernel_size, channels]
        length = x.shape[1] - weight.shape[0] + 1
        out = x[:, :length] * weight[0]
        for i in range(1, weight.shape[0]):
            out = out + x[:, i : i + length] * weight[i]
        return out


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
        self.norm = RMSNormGated(self.value_dim, config.rms_norm_eps)
        self.out_proj = nn.Linear(values, config.hidden_size, bias=False)

    def __call__(self, x: mx.array, mask: mx.array | None, cache: ArraysCache | None) -> mx.array:
        """x [batch, length, hidden]; `mask` bool [batch, length], False for padding."""
        batch, length, _ = x.shape
        qkv = self._convolve(self.in_proj_qkv(x), mask, cache)
        keys = self.key_heads * self.key_dim
        q, k, v = mx.split(qkv, [keys, 2 * keys], axis=-1)
        q = l2_normalize(q.reshape(batch, length, self.key_heads, self.key_dim)) * self.key_dim**-0.5
        k = l2_normalize(k.reshape(batch, length, self.key_heads, self.key_dim))
        v = v.reshape(batch, length, self.value_heads, self.value_dim)

        a, b = self.in_proj_a(x).astype(mx.float32), self.in_proj_b(x).astype(mx.float32)
        g = -mx.exp(self.A_log.astype(mx.float32)) * nn.softplus(a + self.dt_bias)

        def update(state: mx.array | None, _: int | None = None) -> tuple[mx.array, mx.array]:
            return gated_delta_rule(q, k, v, g, mx.sigmoid(b), state, mask, differentiable=self.training)

        if cache is None:
            y, _ = update(None)
        else:
            y, _ = cache.update_recurrent(1, length, update)
            cache.advance(length)

        z = self.in_proj_z(x).reshape(batch, length, self.value_heads, self.value_dim)
        return self.out_proj(self.norm(y, z).reshape(batch, length, -1))

    def _convolve(self, qkv: mx.array, mask: mx.array | None, cache: ArraysCache | None) -> mx.array:
        """Convolution and SiLU over the new tokens, float32, with the last tokens before them from the cache."""
        if mask is not None:
            qkv = mx.where(mask[..., None], qkv, 0)
        past = None if cache is None else cache[0]
        if past is None:
            past = mx.zeros((qkv.shape[0], self.history, qkv.shape[-1]), dtype=qkv.dtype)
        window = mx.concatenate([past, qkv], axis=1)
        if cache is not None:
            cache.update_window(0, window, self.history, lengths=cache.lengths)
        return nn.silu(self.conv1d(window))


def l2_normalize(x: mx.array) -> mx.array:
    """x / |x| over the last axis."""
    return x * mx.rsqrt((x * x).sum(-1, keepdims=True) + L2_EPS)


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        return self.down_proj(nn.silu(self.gate_proj(x)) * self.up_proj(x))


class DecoderLayer(nn.Module):
    """Pre-norm block around either kind of mixing."""

    def __init__(self, config: TextConfig, index: int) -> None:
        super().__init__()
        self.is_linear = config.layer_types[index] == "linear_attention"
        if self.is_linear:
            self.linear_attn = GatedDeltaNet(config)
        else:
            self.self_attn = Attention(config)
        # MLX's own class, which mlx-vlm's AWQ looks for; it returns the wider of both dtypes.
        self.input_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)

    def __call__(self, x: mx.array, mask: Any, cache: Any) -> mx.array:
        mix = self.linear_attn if self.is_linear else self.self_attn
        h = x + mix(self.input_layernorm(x).astype(x.dtype), mask, cache)
        return h + self.mlp(self.post_attention_layernorm(h).astype(x.dtype))


class Decoder(nn.Module):
    """Embeddings and layers, up to the final norm."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = [DecoderLayer(config, i) for i in range(config.num_hidden_layers)]
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self._first = {
            kind: config.layer_types.index(kind)
            for kind in ("linear_attention", "full_attention")
            if kind in config.layer_types
        }

    def __call__(self, h: mx.array, mask: mx.array | None = None, cache: list[Any] | None = None) -> mx.array:
        """Hidden states before the final norm.

        Args:
            h: [batch, length, hidden] embeddings.
            mask: [batch, length], 0 for padding; only without a cache, which knows its padding itself.
            cache: one entry a layer from `make_cache`, or its batched form.
        """
        if cache is None:
            attention_mask, delta_mask = masks_without_cache(h, mask)
            cache = [None] * len(self.layers)
        else:
            full, linear = self._first.get("full_attention"), self._first.get("linear_attention")
            attention_mask = None if full is None else create_attention_mask(h, cache[full])
            delta_mask = None if linear is None else padding_mask(cache[linear], h.shape[1])
        for layer, entry in zip(self.layers, cache, strict=True):
            h = layer(h, delta_mask if layer.is_linear else attention_mask, entry)
        return h


def masks_without_cache(h: mx.array, mask: mx.array | None) -> tuple[Any, mx.array | None]:
    """Masks of attention and of the delta nets for a whole sequence, padded on either side."""
    if mask is None:
        return create_attention_mask(h), None
    valid = mask.astype(mx.bool_)
    causal = mx.tri(h.shape[1], dtype=mx.bool_)
    return causal & valid[:, None, None, :], valid  # [B, 1, L, L]


def padding_mask(cache: ArraysCache, length: int) -> mx.array | None:
    """False for padding on either side among the next `length` tokens, bool [batch, length]; None without any."""
    mask = cache.make_mask(length)
    if cache.left_padding is not None and cache.lengths is not None:  # make_mask knows one side at a time
        mask = mask & (mx.arange(length) < cache.lengths[:, None])
    return mask


def make_cache(config: TextConfig) -> list[Any]:
    """An empty cache: convolution window and state for delta nets, keys and values for attention."""
    return [ArraysCache(size=2) if kind == "linear_attention" else KVCache() for kind in config.layer_types]
