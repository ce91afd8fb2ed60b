"""SigLIP2 vision encoder on packed patches.

What is unusual: patches come already cut, so the patch embedding is one matrix product; position embeddings are
looked up in a 70x70 table by integer arithmetic, whatever the grid; the window merger may quarter the tokens in the
middle of the encoder. Dropout does not exist here. Units of one grid form a batch, so no masks are needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn
from mlx_vlm.models.base import chunked_attention, ensure_fused_sdpa

from .config import VisionConfig
from .fused import gelu_tanh

Grid = tuple[int, int]

# Backends without a fused kernel hold all scores of a head; above this many queries they are taken in pieces.
MAX_UNFUSED_QUERIES = 2048


def attention(q: mx.array, k: mx.array, v: mx.array, scale: float) -> mx.array:
    """Unmasked attention, [batch, heads, length, head_dim] each; the reference is `softmax(q k^T * scale) v`."""
    if mx.default_device() == mx.gpu:
        return ensure_fused_sdpa(q, k, v, scale)
    if q.shape[2] > MAX_UNFUSED_QUERIES:
        return chunked_attention(q, k, v, scale, MAX_UNFUSED_QUERIES)
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale)


class VisionAttention(nn.Module):
    """Multi-head self-attention with biases, over all tokens of a unit or of a window."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.scale = 1 / math.sqrt(config.head_dim)
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def __call__(self, x: mx.array) -> mx.array:
        q, k, v = (
            proj(x).reshape(*x.shape[:2], self.num_heads, -1).transpose(0, 2, 1, 3)  # [B, heads, N, head_dim]
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        out = attention(q, k, v, self.scale).transpose(0, 2, 1, 3)
        return self.out_proj(out.reshape(x.shape))


class VisionMLP(nn.Module):
    """Two layers with tanh GELU."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def __call__(self, x: mx.array) -> mx.array:
        return self.fc2(gelu_tanh(self.fc1(x)))


class EncoderLayer(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = VisionAttention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = VisionMLP(config)

    def __call__(self, x: mx.array) -> mx.array:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class Encoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layers = [EncoderLayer(config) for _ in range(config.num_hidden_layers)]


class PatchEmbedding(nn.Module):
    """The convolution of kernel and stride `patch_size`, as one product with patches cut beforehand.

    The weight keeps MLX's convolution layout [hidden, p, p, channels], whose flattening is a patch's order.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        shape = (config.hidden_size, config.patch_size, config.patch_size, config.num_channels)
        scale = 1 / math.sqrt(math.prod(shape[1:]))
        self.weight = mx.random.uniform(-scale, scale, shape)
        self.bias = mx.zeros((config.hidden_size,))

    def __call__(self, patches: mx.array) -> mx.array:
        weight = self.weight.reshape(self.weight.shape[0], -1)
        return mx.addmm(self.bias, patches.astype(weight.dtype), weight.T)


class VisionEmbeddings(nn.Module):
    """Patch embeddings plus learned positions."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.table_side = config.num_patches_per_side
        self.patch_embedding = PatchEmbedding(config)
        self.position_embedding = nn.Embedding(config.num_patches_per_side**2, config.hidden_size)

    def __call__(self, patches: mx.array, grid: Grid) -> mx.array:
        return self.patch_embedding(patches) + self.position_embedding(position_ids(grid, self.table_side))


def position_ids(grid: Grid, table_side: int) -> mx.array:
    """Table row of each patch of `grid`, int32 [rows * cols]: patch i of n takes bucket `i * table_side // n`.

    Equal to the official bucketing of `i / n` in float32 for every side up to 5,999 (checked); float32 division in
    MLX would be off by one for some sides.
    """
    rows, cols = (mx.arange(n, dtype=mx.int32) * table_side // n for n in grid)
    return (rows[:, None] * table_side + cols).reshape(-1)


class VisionModel(nn.Module):
    """The encoder.

    `vit_merger` is an argument, since checkpoints in the mlx-community layout keep it beside the encoder.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.model_type = config.model_type
        self.insert_layer_id = config.insert_layer_id
        self.embeddings = VisionEmbeddings(config)
        self.encoder = Encoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def __call__(
        self, patches: mx.array, grid: Grid, vit_merger: Callable[[mx.array, Grid], mx.array] | None = None
    ) -> mx.array:
        """Encode units of one grid.

        Args:
            patches: [units, rows * cols, patch_size**2 * channels], normalized pixels.
            grid: rows and columns of patches.
            vit_merger: applied after layer `insert_layer_id`; None keeps all tokens (4x).

        Returns:
            [units, tokens, hidden], a quarter of the patches with `vit_merger`, else as many.
        """
        h = self.embeddings(patches, grid)
        for i, layer in enumerate(self.encoder.layers):
            h = layer(h)
            if i == self.insert_layer_id and vit_merger is not None:
                h = vit_merger(h, grid)
        return self.post_layernorm(h)
