"""The demo model before it is trained, and a batched forward.

The model is the official class of transformers. `Batched` shares its weights and differs in one thing: the units of all
pictures of a batch go through the vision side together, where the official forward takes them one by one.
`check_equal` in `train.py` holds the two against each other.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  as everybody calls it

from scripts.demo.attention import BFloat16Attention
from scripts.demo.batches import Batch, Grid

Groups = list[tuple[int, Grid]]  # how many units of which grid

PAPER = 0.8  # normalized level of the pictures' background
LONG = 300  # patches of a unit from which `BFloat16Attention` is the faster one
GAIN = 3.0  # of the first patch embedding, against the places


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
        # Neighbouring places look alike, and light paper is nothing.
        embeddings = tower.embeddings
        embeddings.position_embedding.weight.copy_(waves(embeddings.num_patches_per_side, embeddings.embed_dim))
        embeddings.patch_embedding.weight.copy_(GAIN * cosines(embeddings.embed_dim, 14))
        embeddings.patch_embedding.bias.copy_(-PAPER * embeddings.patch_embedding.weight.sum((1, 2, 3)))
        model.model.language_model.embed_tokens.weight.normal_(0, 0.06)
    return model


def cosines(count: int, side: int) -> Tensor:
    """The lowest waves of a patch's discrete cosine transform, [count, 3, side, side]: brightness mostly, then colour.

    A stroke that moves by a pixel changes them little. From random weights the encoder needed 250 steps instead of 200
    to tell an eighth of the letters of plain pages.
    """
    places, waves_ = torch.arange(side) + 0.5, torch.arange(side)[:, None]
    lines = torch.cos(math.pi * waves_ * places / side) * math.sqrt(2 / side)
    lines[0] /= math.sqrt(2)
    slow_first = sorted(
        ((i, j) for i in range(side) for j in range(side)), key=lambda pair: pair[0] ** 2 + pair[1] ** 2
    )
    colours = torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, 0.0], [0.5, 0.5, -1.0]])
    colours /= colours.norm(dim=1, keepdim=True)
    found = []
    for colour, share in zip(colours, (count - 2 * (count // 8), count // 8, count // 8), strict=True):
        found += [colour[:, None, None] * torch.outer(lines[i], lines[j]) for i, j in slow_first[:share]]
    return torch.stack(found)


def waves(side: int, width: int) -> Tensor:
    """Sines and cosines of rows and columns, [side * side, width]."""
    periods = torch.logspace(math.log10(3), math.log10(2 * side), width // 4)
    angles = torch.arange(side)[:, None] * 2 * math.pi / periods
    one = torch.cat([angles.sin(), angles.cos()], dim=1)  # [side, width / 2]
    rows, cols = one[:, None].expand(-1, side, -1), one[None].expand(side, -1, -1)
    return torch.cat([rows, cols], dim=-1).reshape(side * side, width)


class Encoded(NamedTuple):
    """What the encoder has on its way to the features.

    Attributes:
        patches: of each patch where the window merger stands, [patches, width].
        cells: of each of what the merger joins by fours, [tokens * 4, width], row by row.
    """

    patches: Tensor
    cells: Tensor


class Seen(NamedTuple):
    """What the batched forward gives.

    Attributes:
        hidden: last hidden states, [rows, length, width].
        attention: of the last layer that has any, [rows, heads, length, length].
        features: of units' tokens, or None without pictures.
        encoded: what the encoder has of patches and of cells, or None without pictures.
    """

    hidden: Tensor
    attention: Tensor
    features: Tensor | None
    encoded: Encoded | None


class Batched:
    """The official model's computations for many requests at once.

    Args:
        model: `MiniCPMV4_6ForConditionalGeneration`, whose weights are used where they are.
        bfloat16: whether the vision side multiplies matrices in bfloat16, which some CPUs do at more than twice the
            speed; all else stays in float32.
    """

    def __init__(self, model: Any, bfloat16: bool = False) -> None:
        self.model, self.bfloat16 = model, bfloat16
        self.tower, self.merger = model.model.vision_tower, model.model.merger
        self.text = model.model.language_model
        self.text.set_attn_implementation("eager")  # which gives its weights

    def features(self, patches: Tensor, groups: Groups, merge: bool) -> tuple[Tensor, Encoded]:
        """Features of units, [patches of all units, 14 * 14 * 3] to [tokens of all units, width], and the way there.

        Args:
            groups: how many units of which grid, in the order of `patches`.
            merge: whether the window merger runs (16x).
        """
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            features, encoded = self.encode(patches, groups, merge)
        return features.float(), encoded

    def encode(self, patches: Tensor, groups: Groups, merge: bool) -> tuple[Tensor, Encoded]:
        embeddings, layers = self.tower.embeddings, self.tower.encoder.layers
        weight = embeddings.patch_embedding.weight.permute(0, 2, 3, 1).flatten(1)
        places = torch.cat([self.positions(grid).repeat(count) for count, grid in groups])
        h = F.linear(patches, weight, embeddings.patch_embedding.bias) + embeddings.position_embedding(places)
        after = self.tower.config.insert_layer_id + 1
        for layer in layers[:after]:
            h = block(layer, h, groups)
        inner = h
        if merge:
            h = self.window_merge(squares(h, groups))
            groups = [(count, (rows // 2, cols // 2)) for count, (rows, cols) in groups]
        for layer in layers[after:]:
            h = block(layer, h, groups)
        cells = self.tower.post_layernorm(h)
        return self.merger.mlp[0](squares(cells, groups).flatten(1)), Encoded(inner, cells)

    def positions(self, grid: Grid) -> Tensor:
        side = self.tower.embeddings.num_patches_per_side
        rows, cols = (torch.arange(n) * side // n for n in grid)
        return (rows[:, None] * side + cols).flatten()

    def window_merge(self, h: Tensor) -> Tensor:
        """[windows, 4, width] to [windows, width]."""
        merger = self.tower.vit_merger
        h = h + attention(merger.self_attn, merger.layer_norm1(h).flatten(0, 1), [(len(h), (2, 2))]).view_as(h)
        return h.mean(dim=1) + merger.linear_2(merger.act(merger.linear_1(merger.pre_norm(h.flatten(1)))))

    def hidden(self, batch: Batch, frozen: bool = False) -> Seen:
        """Hidden states, attention and features of right-padded prompts; what follows a row's end does not reach it.

        Where the vision side is `frozen`, it gets no gradient.
        """
        embeds = self.text.embed_tokens(torch.from_numpy(batch.ids))
        features = encoded = None
        if batch.groups:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
                features, encoded = self.features(torch.from_numpy(batch.patches), batch.groups, batch.merge)
            flat = embeds.flatten(0, 1).index_copy(0, torch.from_numpy(batch.places), features)
            embeds = flat.view_as(embeds)
        out = self.text(inputs_embeds=embeds, use_cache=False, output_attentions=True)
        return Seen(out.last_hidden_state, out.attentions[-1], features, encoded)


def block(layer: Any, h: Tensor, groups: Groups) -> Tensor:
    h = h + attention(layer.self_attn, layer.layer_norm1(h), groups)
    return h + layer.mlp(layer.layer_norm2(h))


def attention(module: Any, x: Tensor, groups: Groups) -> Tensor:
    """Unmasked attention within each unit with an official module's projections, [patches of all units, width]."""
    weight = torch.cat([module.q_proj.weight, module.k_proj.weight, module.v_proj.weight])
    bias = torch.cat([module.q_proj.bias, module.k_proj.bias, module.v_proj.bias])
    projected = F.linear(x, weight, bias)
    if len(groups) == 1:
        return module.out_proj(within(module, projected, *groups[0]))
    parts = []
    for part, (count, grid) in zip(projected.split([n * g[0] * g[1] for n, g in groups]), groups, strict=True):
        parts.append(within(module, part, count, grid))
    return module.out_proj(torch.cat(parts))


def within(module: Any, projected: Tensor, count: int, grid: Grid) -> Tensor:
    """Attention within units of one grid, of queries, keys and values [patches, 3 * width]."""
    q, k, v = projected.float().view(count, grid[0] * grid[1], 3, module.num_heads, -1).permute(2, 0, 3, 1, 4)
    with torch.autocast("cpu", enabled=False):  # in bfloat16, torch's own attention is slower
        if projected.dtype == torch.bfloat16 and grid[0] * grid[1] >= LONG:
            out = BFloat16Attention.apply(q, k, v, module.scaling)
        else:
            out = F.scaled_dot_product_attention(q, k, v, scale=module.scaling)
    return out.transpose(1, 2).flatten(0, 1).flatten(1)


def squares(h: Tensor, groups: Groups) -> Tensor:
    """[patches of all units, D] to [their squares of 2 x 2, 4, D], in reading order."""
    parts = []
    for part, (count, (rows, cols)) in zip(h.split([n * g[0] * g[1] for n, g in groups]), groups, strict=True):
        grid = part.view(count, rows // 2, 2, cols // 2, 2, -1).transpose(2, 3)
        parts.append(grid.reshape(count * rows * cols // 4, 4, -1))
    return torch.cat(parts)
