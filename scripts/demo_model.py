"""The demo model before it is trained, and a batched forward.

The model is the official class of transformers. `Batched` shares its weights and differs in one thing: units of one
grid, of all pictures of a batch, go through the vision side together, where the official forward takes them one by one.
`check_equal` in `train_demo.py` holds the two against each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  as everybody calls it

from scripts.demo_batches import Grid

PAPER = 0.8  # normalized level of the pictures' background


def make_model(folder: Path, seed: int = 46) -> Any:
    """The official model for a folder's `config.json` with first weights of a usual scale.

    The official class draws some weights of the window merger from a unit normal distribution, which suits a trained
    encoder and no other.
    """
    from transformers import AutoConfig, MiniCPMV4_6ForConditionalGeneration

    torch.manual_seed(seed)
    model = MiniCPMV4_6ForConditionalGeneration(AutoConfig.from_pretrained(folder)).float()
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear) and "lm_head" not in name:
                last = name.endswith(("out_proj", "o_proj", "down_proj", "fc2", "vit_merger.linear_2"))
                module.weight.normal_(0, (0.4 if last else 1.0) / math.sqrt(module.in_features))
                if module.bias is not None:
                    module.bias.zero_()
            elif name.endswith("linear_attn"):
                module.A_log.copy_(torch.log(torch.linspace(0.02, 1.0, module.A_log.numel())))
                module.dt_bias.zero_()
        tower = model.model.vision_tower
        # Neighbouring places look alike, and patches first look at what is like them: near, and of one colour. Light
        # paper is nothing. (No gain was measured in 250 steps; the shipped weights started so.)
        embeddings = tower.embeddings
        embeddings.position_embedding.weight.copy_(waves(embeddings.num_patches_per_side, embeddings.embed_dim))
        embeddings.patch_embedding.weight.normal_(0, 1 / math.sqrt(3 * 14 * 14))
        embeddings.patch_embedding.bias.copy_(-PAPER * embeddings.patch_embedding.weight.sum((1, 2, 3)))
        for layer in tower.encoder.layers:
            layer.self_attn.k_proj.weight.copy_(layer.self_attn.q_proj.weight)
        model.model.language_model.embed_tokens.weight.normal_(0, 0.06)
    return model


def waves(side: int, width: int) -> Tensor:
    """Sines and cosines of rows and columns, [side * side, width]."""
    periods = torch.logspace(math.log10(3), math.log10(2 * side), width // 4)
    angles = torch.arange(side)[:, None] * 2 * math.pi / periods
    one = torch.cat([angles.sin(), angles.cos()], dim=1)  # [side, width / 2]
    rows, cols = one[:, None].expand(-1, side, -1), one[None].expand(side, -1, -1)
    return torch.cat([rows, cols], dim=-1).reshape(side * side, width)


class Batched:
    """The official model's computations for many requests at once.

    Args:
        model: `MiniCPMV4_6ForConditionalGeneration`, whose weights are used where they are.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.tower, self.merger = model.model.vision_tower, model.model.merger
        self.text = model.model.language_model

    def features(self, patches: Tensor, grid: Grid, merge: bool) -> tuple[Tensor, Tensor]:
        """Features of units of one grid: [units, rows * cols, 14 * 14 * 3] to [units, tokens, width].

        Beside them, what the encoder has of each patch where the window merger stands, [units, rows * cols, width].
        """
        inner = h = self.inner(patches, grid)
        if merge:
            h = self.window_merge(h, grid)
            grid = grid[0] // 2, grid[1] // 2
        for layer in self.tower.encoder.layers[self.tower.config.insert_layer_id + 1 :]:
            h = block(layer, h)
        h = self.tower.post_layernorm(h)
        merged = self.merger.mlp[0](squares(h, grid).flatten(2))
        return merged.reshape(len(patches), grid[0] * grid[1] // 4, -1), inner

    def inner(self, patches: Tensor, grid: Grid) -> Tensor:
        """What the encoder has of each patch where the window merger stands."""
        embeddings = self.tower.embeddings
        weight = embeddings.patch_embedding.weight.permute(0, 2, 3, 1).flatten(1)
        side = embeddings.num_patches_per_side
        rows, cols = (torch.arange(n) * side // n for n in grid)
        places = (rows[:, None] * side + cols).flatten()
        h = F.linear(patches, weight, embeddings.patch_embedding.bias) + embeddings.position_embedding(places)
        for layer in self.tower.encoder.layers[: self.tower.config.insert_layer_id + 1]:
            h = block(layer, h)
        return h

    def window_merge(self, h: Tensor, grid: Grid) -> Tensor:
        merger = self.tower.vit_merger
        units, _, width = h.shape
        h = squares(h, grid).flatten(0, 1)  # [windows, 4, width]
        h = h + attention(merger.self_attn, merger.layer_norm1(h))
        r = merger.linear_2(merger.act(merger.linear_1(merger.pre_norm(h.flatten(1)))))
        return (h.mean(dim=1) + r).reshape(units, -1, width)

    def hidden(
        self, ids: Tensor, groups: Sequence[tuple[Tensor, Grid, bool, Tensor]]
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Hidden states of right-padded prompts, [rows, length, width], and what `features` gives for each group.

        Args:
            ids: [rows, length]; what follows a row's end does not reach it.
            groups: patches, grid and mode of units, and the places that they fill in `ids.flatten()`, [units, tokens].
        """
        embeds = self.text.embed_tokens(ids)
        flat = embeds.flatten(0, 1)
        seen = []
        for patches, grid, merge, places in groups:
            found, inner = self.features(patches, grid, merge)
            seen.append((found, inner))
            flat = flat.index_copy(0, places.flatten(), found.flatten(0, 1).to(flat.dtype))
        return self.text(inputs_embeds=flat.view_as(embeds), use_cache=False).last_hidden_state, seen


def block(layer: Any, h: Tensor) -> Tensor:
    h = h + attention(layer.self_attn, layer.layer_norm1(h))
    return h + layer.mlp(layer.layer_norm2(h))


def attention(module: Any, x: Tensor) -> Tensor:
    """Unmasked attention with an official module's projections, [batch, length, width]."""
    q, k, v = (
        projection(x).unflatten(-1, (module.num_heads, -1)).transpose(1, 2)
        for projection in (module.q_proj, module.k_proj, module.v_proj)
    )
    out = F.scaled_dot_product_attention(q, k, v, scale=module.scaling)
    return module.out_proj(out.transpose(1, 2).flatten(2))


def squares(h: Tensor, grid: Grid) -> Tensor:
    """[units, rows * cols, D] to [units, rows/2 * cols/2, 4, D], in reading order."""
    units, _, width = h.shape
    rows, cols = grid
    h = h.view(units, rows // 2, 2, cols // 2, 2, width).transpose(2, 3)
    return h.reshape(units, rows * cols // 4, 4, width)
