"""The demo model before it is trained, and a batched forward.

The model is the official class of transformers. `Batched` shares its weights and differs in one thing: the units of all
pictures of a batch go through the vision side together, where the official forward takes them one by one.
`check_equal` in `train.py` holds the two against each other.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  as everybody calls it

from scripts.demo.attention import Groups, within_units, within_windows
from scripts.demo.batches import Text, View

PAPER = 0.8  # normalized level of the pictures' background
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
        cells: of each of what the merger joins by fours, [tokens * 4, width], token by token.
    """

    patches: Tensor
    cells: Tensor


class Seen(NamedTuple):
    """What the decoder gives.

    Attributes:
        hidden: last hidden states, [rows, length, width].
        attention: of the last layer that has any, [rows, heads, length, length].
    """

    hidden: Tensor
    attention: Tensor


def lengthen_chunks(size: int = 128) -> None:
    """Let the official linear attention take longer chunks: a GPU waits for many small products, a CPU does not."""
    from transformers.models.qwen3_5 import modeling_qwen3_5

    official = modeling_qwen3_5.torch_chunk_gated_delta_rule
    modeling_qwen3_5.torch_chunk_gated_delta_rule = partial(official, chunk_size=size)


class Batched:
    """The official model's computations for many requests at once.

    Args:
        model: `MiniCPMV4_6ForConditionalGeneration`, whose weights are used where they are.
        bfloat16: whether the vision side multiplies matrices in bfloat16, which GPUs and some CPUs do at more than
            twice the speed; all else stays in float32.
    """

    def __init__(self, model: Any, bfloat16: bool = False) -> None:
        self.model, self.bfloat16 = model, bfloat16
        self.tower, self.merger = model.model.vision_tower, model.model.merger
        self.text = model.model.language_model
        self.text.set_attn_implementation("eager")  # which gives its weights

    def features(self, views: list[View]) -> list[tuple[Tensor, Encoded]]:
        """Features of the units of each view, [tokens of all units, width], and the way there.

        Views of one mode are encoded together.
        """
        found: dict[int, tuple[Tensor, Encoded]] = {}
        for merge in (False, True):
            some = [i for i, view in enumerate(views) if view.merge == merge]
            if some:
                device = views[some[0]].patches.device.type
                with torch.autocast(device, torch.bfloat16, enabled=self.bfloat16):
                    features, encoded = self.encode([views[i] for i in some], merge)
                patches = encoded.patches.split([len(views[i].patches) for i in some])
                tokens = [len(views[i].middles) for i in some]
                cells = encoded.cells.split([4 * count for count in tokens])
                of_views = zip(some, features.float().split(tokens), patches, cells, strict=True)
                found |= {i: (part, Encoded(*way)) for i, part, *way in of_views}
        return [found[i] for i in range(len(views))]

    def joined(self, seen: list[tuple[Tensor, Encoded]]) -> Tensor:
        """The features of all views, one after the other; there may be none."""
        none = self.text.embed_tokens.weight[:0]
        return torch.cat([none, *(features for features, _ in seen)])

    def encode(self, views: list[View], merge: bool) -> tuple[Tensor, Encoded]:
        embeddings, layers = self.tower.embeddings, self.tower.encoder.layers
        groups = [group for view in views for group in view.groups]
        weight = embeddings.patch_embedding.weight.permute(0, 2, 3, 1).flatten(1)
        patches = torch.cat([view.patches for view in views]).float() / 127.5 - 1
        positions = torch.cat([view.positions for view in views])
        h = F.linear(patches, weight, embeddings.patch_embedding.bias) + embeddings.position_embedding(positions)
        after = self.tower.config.insert_layer_id + 1
        for layer in layers[:after]:
            h = block(layer, h, groups)
        inner = h
        if merge:
            h = self.window_merge(h.view(-1, 4, h.shape[1]))
            groups = [(count, patches // 4) for count, patches in groups]
        for layer in layers[after:]:
            h = block(layer, h, groups)
        cells = self.tower.post_layernorm(h)
        return self.merger.mlp[0](cells.view(-1, 4 * cells.shape[1])), Encoded(inner, cells)

    def window_merge(self, h: Tensor) -> Tensor:
        """[windows, 4, width] to [windows, width]."""
        merger = self.tower.vit_merger
        projected = project(merger.self_attn, merger.layer_norm1(h))
        h = h + merger.self_attn.out_proj(within_windows(projected, merger.self_attn.num_heads))
        return h.mean(dim=1) + merger.linear_2(merger.act(merger.linear_1(merger.pre_norm(h.flatten(1)))))

    def hidden(self, text: Text, features: Tensor) -> Seen:
        """Hidden states and attention of right-padded prompts; what follows a row's end does not reach it.

        Args:
            features: of all views of the part, [tokens, width].
        """
        embeds = self.text.embed_tokens(text.ids)
        embeds = embeds.flatten(0, 1).index_copy(0, text.places, features[text.tokens]).view_as(embeds)
        out = self.text(inputs_embeds=embeds, use_cache=False, output_attentions=True)
        return Seen(out.last_hidden_state, out.attentions[-1])


def block(layer: Any, h: Tensor, groups: Groups) -> Tensor:
    attention = layer.self_attn
    projected = project(attention, layer.layer_norm1(h))
    h = h + attention.out_proj(within_units(projected, attention.num_heads, groups))
    return h + layer.mlp(layer.layer_norm2(h))


def project(attention: Any, x: Tensor) -> Tensor:
    """Queries, keys and values by an official module's weights: [..., width] to [..., 3 * width]."""
    weight = torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight])
    bias = torch.cat([attention.q_proj.bias, attention.k_proj.bias, attention.v_proj.bias])
    return F.linear(x, weight, bias)
