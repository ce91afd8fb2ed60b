"""What the demo model learns beside the answers: what the points of each patch show, and where a character stands."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  as everybody calls it

from scripts.demo.batches import POINTS, Batch
from scripts.demo.drawing import CHARACTERS, COLOURS, KINDS, parts_of
from scripts.demo.model import Batched, Groups

KIND_COUNT, COLOUR_COUNT = len(KINDS), len(COLOURS) + 1
PERIODS = (2.0, 1.0, 0.5, 0.25)  # of the waves that tell a place, in sides of a unit
PLACES = 4.0  # weight of their loss; at 1 the encoder is slow to keep places
# Most points are background, and have no colour.
KIND_WEIGHTS = torch.tensor([0.1] + [1.0] * (KIND_COUNT - 1))
COLOUR_WEIGHTS = torch.tensor([0.02] + [1.0] * (COLOUR_COUNT - 1))


def covered(classes: Tensor, groups: Groups, n: int) -> Tensor:
    """Labels of the points of the n * n patches of each token: [patches, points] to [tokens, n * n * points]."""
    parts = []
    for part, (count, (rows, cols)) in zip(classes.split([k * g[0] * g[1] for k, g in groups]), groups, strict=True):
        squares = part.view(count, rows // n, n, cols // n, n, -1).transpose(2, 3)
        parts.append(squares.reshape(count * rows * cols // n**2, -1))
    return torch.cat(parts)


def places_of(groups: Groups, n: int) -> Tensor:
    """Where tokens of n * n patches stand in their units, as sines and cosines: [tokens, 4 * waves]."""
    frequencies = 2 * math.pi / torch.tensor(PERIODS)
    parts = []
    for count, grid in groups:
        rows, cols = (((torch.arange(side // n) + 0.5) * n / side)[:, None] * frequencies for side in grid)
        rows, cols = (torch.cat([angles.sin(), angles.cos()], dim=1) for angles in (rows, cols))
        both = [rows[:, None].expand(-1, len(cols), -1), cols[None].expand(len(rows), -1, -1)]
        parts.append(torch.cat(both, dim=-1).flatten(0, 1).repeat(count, 1))
    return torch.cat(parts)


class ClassHeads(torch.nn.Module):
    """What the encoder learns beside the answers, and only while it is trained: what the points of each patch show.

    It is told from what the encoder has of a patch where the window merger stands, and again from each token of its
    features, for all patches that the token covers. The features must also tell where in its unit a token stands: a
    letter or an object may cover several tokens, and without their places the decoder cannot join them.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        width, features = model.config.vision_config.hidden_size, model.config.text_config.hidden_size
        count = POINTS**2 * (KIND_COUNT + COLOUR_COUNT)
        self.inner = torch.nn.Linear(width, count)
        self.tokens = torch.nn.ModuleDict({str(n): torch.nn.Linear(features, n * n * count) for n in (2, 4)})
        self.places = torch.nn.Linear(features, 4 * len(PERIODS))

    def loss(self, inner: Tensor, features: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mean loss of a batch's points and places, and the share of characters' points told right from tokens."""
        n = 4 if batch.merge else 2
        classes = torch.from_numpy(batch.classes)
        wanted = covered(classes, batch.groups, n)
        losses = []
        some = slice(None, None, 4)  # is enough of patches
        for told, labels in ((self.inner(inner[some]), classes[some]), (self.tokens[str(n)](features), wanted)):
            kinds, colours, _ = parts_of(labels.flatten())
            logits = told.view(len(kinds), -1)
            losses += [
                F.cross_entropy(logits[:, :KIND_COUNT], kinds, weight=KIND_WEIGHTS),
                0.3 * F.cross_entropy(logits[:, KIND_COUNT:], colours, weight=COLOUR_WEIGHTS),
            ]
        letters = (kinds > 0) & (kinds <= len(CHARACTERS))
        right = (
            (logits[letters, :KIND_COUNT].argmax(-1) == kinds[letters]).float().mean()
            if letters.any()
            else told.new_tensor(0)
        )
        places = F.mse_loss(self.places(features), places_of(batch.groups, n))
        return torch.stack(losses).sum() / 2 + PLACES * places, right.detach()

    def of_page(self, batched: Batched, page: Batch) -> tuple[Tensor, Tensor]:
        """Compute the features of pages, then the same loss and share as `loss`."""
        features, inner = batched.features(torch.from_numpy(page.patches), page.groups, page.merge)
        return self.loss(inner, features, page)


def loss_of_looks(attention: Tensor, batch: Batch) -> Tensor:
    """Summed loss of two heads' attention where characters are predicted: it should be on the tokens that show them.

    Args:
        attention: of one layer, [rows, heads, length, length]; one head of each key and value head is taught.
    """
    rows, at, tokens = torch.from_numpy(batch.looks).T
    places, which = torch.unique(rows * attention.shape[-1] + at, return_inverse=True)
    weights = attention[rows, ::2, at, tokens]  # [pairs, 2]
    shares = weights.new_zeros(len(places), weights.shape[1]).index_add(0, which, weights)
    return -shares.clamp_min(1e-6).log().mean(1).sum()
