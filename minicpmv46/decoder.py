"""Qwen3.5 hybrid decoder: gated delta nets, with full attention in every fourth layer.

What is unusual: full attention multiplies its output by a sigmoid gate that comes out of `q_proj`, normalizes q and k
per head, and rotates only the first quarter of each head; positions are the same on all MRoPE axes here, so the
rotation is the ordinary one. RMSNorm weights are offsets from one; `weights` adds the one, in float32, on loading.
Between blocks the hidden states are float32, so that norms, whose weights are float32, need no casts on their way in.
Positions, lengths and padding live in the caches, nothing of a request is kept on a module.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_vlm.models.base import create_attention_mask, scaled_dot_product_attention
from mlx_vlm.models.cache import ArraysCache, KVCache

from .config import TextConfig
from .fused import add_residual, masked_cast, scaled_cast, sigmoid_gate, swiglu
from .linear_attention import GatedDeltaNet
from .padding import Padding, masks_without_cache, take_padding
from .stacked import Stack


class Attention(nn.Module):
    """Causal grouped-query attention with an output gate."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim, self.rotary_dim, self.rope_theta = config.head_dim, config.rotary_dim, config.rope_theta
        self.scale, self.eps = config.head_dim**-0.5, config.rms_norm_eps
        bias = config.attention_bias
        self.q_proj = nn.Linear(config.hidden_size, 2 * self.num_heads * self.head_dim, bias=bias)
        self.k_proj = nn.Linear(config.hidden_size, self.num_kv_heads * self.head_dim, bias=bias)
        self.v_proj = nn.Linear(config.hidden_size, self.num_kv_heads * self.head_dim, bias=bias)
        self.o_proj = nn.Linear(self.num_heads * self.head_dim, config.hidden_size, bias=bias)
        self.q_norm = nn.RMSNorm(self.head_dim, self.eps)
        self.k_norm = nn.RMSNorm(self.head_dim, self.eps)
        # Which of q's and k's heads are q's; the underscore keeps it out of the parameters.
        self._is_q = mx.array([[True]] * self.num_heads + [[False]] * self.num_kv_heads)
        self._inputs = Stack()

    def __call__(self, x: mx.array, mask: mx.array | str | None, cache: Any, keep: int | None = None) -> mx.array:
        """x [batch, length, hidden]; `cache` a KV cache or None; `keep` as in `DecoderLayer`."""
        batch, length, _ = x.shape
        heads, kv_heads = self.num_heads, self.num_kv_heads
        # Batched caches count positions per row, from -padding, so that each row's first token is at 0.
        offset = 0 if cache is None else cache.offset
        if keep is None or keep >= length:
            inputs = (self.q_proj, self.k_proj, self.v_proj)
            q_gate, k, v = self._inputs(x, inputs, generating=cache is not None)
            q, gate = mx.split(q_gate.reshape(batch, length, heads, -1), 2, axis=-1)
            qk = mx.concatenate([q, k.reshape(batch, length, kv_heads, -1)], axis=2)
            q, k = mx.split(self._normalize_rotate(qk, self._is_q, offset), [heads], axis=1)
        else:
            k, v = self.k_proj(x), self.v_proj(x)
            q_gate = self.q_proj(x[:, -keep:])
            q, gate = mx.split(q_gate.reshape(batch, keep, heads, -1), 2, axis=-1)
            q = self._normalize_rotate(q, self._is_q[:heads], offset + length - keep)
            k = self._normalize_rotate(k.reshape(batch, length, kv_heads, -1), self._is_q[heads:], offset)
            mask = mask[..., -keep:, :] if isinstance(mask, mx.array) else mask
        v = v.reshape(batch, length, kv_heads, self.head_dim).transpose(0, 2, 1, 3)

        if cache is not None:
            k, v = cache.update_and_fetch(k, v)
        out = scaled_dot_product_attention(q, k, v, cache=cache, scale=self.scale, mask=mask)
        out = sigmoid_gate(out.transpose(0, 2, 1, 3), gate)  # [B, L, heads, head_dim]
        return self.o_proj(out.reshape(batch, -1, heads * self.head_dim))

    def _normalize_rotate(self, x: mx.array, is_q: mx.array, offset: int | mx.array) -> mx.array:
        """RMSNorm and rotation of heads [B, L, heads, head_dim], those of q where `is_q`; [B, heads, L, head_dim]."""
        h = mx.fast.rms_norm(x.astype(mx.float32), None, self.eps)
        h = scaled_cast(x.dtype)(h, is_q, self.q_norm.weight, self.k_norm.weight).transpose(0, 2, 1, 3)
        return mx.fast.rope(h, self.rotary_dim, traditional=False, base=self.rope_theta, scale=1.0, offset=offset)


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self._inputs = Stack()

    def __call__(self, x: mx.array, generating: bool) -> mx.array:
        gate, up = self._inputs(x, (self.gate_proj, self.up_proj), generating=generating)
        return self.down_proj(swiglu(gate, up))


class DecoderLayer(nn.Module):
    """Pre-norm block around either kind of mixing."""

    def __init__(self, config: TextConfig, index: int) -> None:
        super().__init__()
        self.is_linear = config.layer_types[index] == "linear_attention"
        if self.is_linear:
            self.linear_attn = GatedDeltaNet(config)
        else:
            self.self_attn = Attention(config)
        # MLX's own class, which mlx-vlm's AWQ looks for.
        self.input_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)

    def __call__(
        self, h: mx.array, attention_mask: Any, padding: Padding, cache: Any, dtype: mx.Dtype, keep: int | None = None
    ) -> mx.array:
        """One layer.

        Args:
            h: float32 [batch, length, hidden].
            attention_mask: for attention; a delta net takes that of `padding`.
            padding: of these tokens.
            cache: this layer's entry of the cache, or None.
            dtype: in which the blocks compute.
            keep: number of last positions to return, for the last layer; None returns all.
        """
        x = self.input_layernorm(h)
        if self.is_linear:
            mask = padding.mask
            x = x.astype(dtype) if mask is None else masked_cast(dtype)(x, mask[..., None])
            r = self.linear_attn(x, mask, cache)
            r = r if keep is None else r[:, -keep:]
        else:
            r = self.self_attn(x.astype(dtype), attention_mask, cache, keep)
        h = add_residual(h if keep is None else h[:, -keep:], r)
        x = self.post_attention_layernorm(h).astype(dtype)
        return add_residual(h, padding.skip(partial(self.mlp, generating=cache is not None), x))


class Decoder(nn.Module):
    """Embeddings and layers, up to the final norm."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = [DecoderLayer(config, i) for i in range(config.num_hidden_layers)]
        self.norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self._kinds = config.layer_types

    def __call__(
        self,
        embeds: mx.array,
        mask: mx.array | None = None,
        cache: list[Any] | None = None,
        keep: int | None = None,
    ) -> mx.array:
        """Hidden states before the final norm, float32.

        Args:
            embeds: [batch, length, hidden] embeddings, in the dtype that the blocks compute in.
            mask: [batch, length], 0 for padding; only without a cache, which knows its padding itself.
            cache: one entry a layer from `make_cache`, or its batched form.
            keep: number of last positions to return; None returns all. The caches take in all of them.
        """
        if cache is None:
            attention_mask, padding = masks_without_cache(embeds, mask)
        else:
            attention = [entry for entry, kind in zip(cache, self._kinds, strict=True) if kind == "full_attention"]
            delta = [entry for entry, kind in zip(cache, self._kinds, strict=True) if kind == "linear_attention"]
            attention_mask = create_attention_mask(embeds, attention[0]) if attention else None
            padding = take_padding(delta, embeds.shape[1]) if delta else Padding()

        h = embeds.astype(mx.float32)
        *first, last = zip(self.layers, cache or [None] * len(self.layers), strict=True)
        for layer, entry in first:
            h = layer(h, attention_mask, padding, entry, embeds.dtype)
        # The last layer often works on one position a row. It passes over no padding, so that what comes out for a
        # position does not depend on how many are asked for.
        layer, entry = last
        return layer(h, attention_mask, Padding(padding.mask), entry, embeds.dtype, keep)


def make_cache(config: TextConfig) -> list[Any]:
    """An empty cache: convolution window and state for delta nets, keys and values for attention."""
    return [ArraysCache(size=2) if kind == "linear_attention" else KVCache() for kind in config.layer_types]
