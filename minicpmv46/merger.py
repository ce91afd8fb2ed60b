"""The two places where four neighbouring tokens become one.

`WindowAttentionMerger` (the checkpoint's `vit_merger`) works inside the encoder in 16x mode: attention within 2x2
windows, then an MLP with tanh GELU, with the mean of the four as residual. `Merger` ends the vision side in both
modes: an MLP with exact (erf) GELU into the decoder's width, `merger_times` rounds.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from .config import Config, VisionConfig
from .fused import gelu_tanh
from .vision import Grid, VisionAttention

# Both mergers take squares of two by two tokens.
SIDE = 2
WINDOW = SIDE * SIDE


def windows(x: mx.array, grid: Grid) -> mx.array:
    """Group [units, rows * cols, D] into [units, rows/2 * cols/2, 4, D], squares and their tokens in reading order."""
    units, _, dim = x.shape
    rows, cols = grid
    if rows % SIDE or cols % SIDE:
        raise ValueError(f"a grid of {rows}x{cols} tokens cannot be merged in squares of {SIDE}x{SIDE}")
    x = x.reshape(units, rows // SIDE, SIDE, cols // SIDE, SIDE, dim).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(units, rows * cols // WINDOW, WINDOW, dim)


class WindowAttentionMerger(nn.Module):
    """Quarter the tokens after an encoder layer."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        merged = WINDOW * config.hidden_size
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = VisionAttention(config)
        self.pre_norm = nn.LayerNorm(merged, eps=config.layer_norm_eps)
        self.linear_1 = nn.Linear(merged, WINDOW * config.intermediate_size)
        self.linear_2 = nn.Linear(WINDOW * config.intermediate_size, config.hidden_size)

    def __call__(self, x: mx.array, grid: Grid) -> mx.array:
        """[units, rows * cols, D] to [units, rows/2 * cols/2, D]."""
        units, length, dim = x.shape
        x = windows(x, grid).reshape(-1, WINDOW, dim)
        x = x + self.self_attn(self.layer_norm1(x))
        r = self.linear_2(gelu_tanh(self.linear_1(self.pre_norm(x.reshape(-1, WINDOW * dim)))))
        return (x.mean(axis=1) + r).reshape(units, length // WINDOW, dim)


class DownsampleMLP(nn.Module):
    """Four tokens of `hidden_size` side by side to one of `output_size`."""

    def __init__(self, hidden_size: int, output_size: int) -> None:
        super().__init__()
        merged = WINDOW * hidden_size
        self.pre_norm = nn.LayerNorm(merged, eps=1e-6)
        self.linear_1 = nn.Linear(merged, merged)
        self.linear_2 = nn.Linear(merged, output_size)

    def __call__(self, x: mx.array) -> mx.array:
        return self.linear_2(nn.gelu(self.linear_1(self.pre_norm(x))))


class Merger(nn.Module):
    """Quarter the tokens `merger_times` times; the last round maps to the decoder's width."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        vision, text = config.vision_config.hidden_size, config.text_config.hidden_size
        self.mlp = [
            DownsampleMLP(vision, text if i == config.merger_times - 1 else vision) for i in range(config.merger_times)
        ]

    def __call__(self, x: mx.array, grid: Grid) -> mx.array:
        """[units, rows * cols, D] to [units, rows * cols / 4**merger_times, decoder width]."""
        for mlp in self.mlp:
            x = mlp(windows(x, grid).flatten(2))
            grid = grid[0] // SIDE, grid[1] // SIDE
        return x
