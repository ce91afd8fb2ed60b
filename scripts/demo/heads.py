"""What the demo model learns beside the answers: what patches show, what tokens hold, and where a character stands."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  as everybody calls it

from scripts.demo.batches import Batch
from scripts.demo.drawing import COLOURS, KINDS, parts_of
from scripts.demo.labels import CELL_SLOTS, IGNORED, MOST, POINTS, SLOTS
from scripts.demo.model import Batched, Encoded, Groups

KIND_COUNT, COLOUR_COUNT = len(KINDS), len(COLOURS) + 1
PERIODS = (2.0, 1.0, 0.5, 0.25)  # of the waves that tell a place, in sides of a unit
PLACES = 4.0  # weight of their loss; at 1 the encoder is slow to keep places
TOLD = 0.1  # weight of the points as tokens tell them, which need know of them no more than what they hold
ORDER = 0.5  # weight of ranks and counts
# Most points are background, and have no colour; most tokens hold nothing.
KIND_WEIGHTS = torch.tensor([0.1] + [1.0] * (KIND_COUNT - 1))
COLOUR_WEIGHTS = torch.tensor([0.02] + [1.0] * (COLOUR_COUNT - 1))
SLOT_WEIGHTS = torch.tensor([0.3] + [1.0] * (KIND_COUNT - 1))


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
    """What the encoder learns beside the answers, and only while it is trained.

    What the points of each patch show is told from what the encoder has of a patch where the window merger stands, and
    again from each token of its features, for all patches that the token covers. A letter or an object may cover
    several tokens, so a token's features must also tell what the decoder needs to join them: where in its unit the
    token stands, which characters and objects have their middles in it, in order, the rank of the first of them in the
    unit, and how many the unit has. Each of the four cells that are merged to a token must tell the same of itself,
    except for the number.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        width, features = model.config.vision_config.hidden_size, model.config.text_config.hidden_size
        count = POINTS**2 * (KIND_COUNT + COLOUR_COUNT)
        self.inner = torch.nn.Linear(width, count)
        self.tokens = torch.nn.ModuleDict({str(n): torch.nn.Linear(features, n * n * count) for n in (2, 4)})
        self.slots = torch.nn.ModuleDict({str(n): torch.nn.Linear(features, SLOTS * KIND_COUNT) for n in (2, 4)})
        self.cells = torch.nn.ModuleDict({str(n): torch.nn.Linear(width, CELL_SLOTS * KIND_COUNT) for n in (2, 4)})
        self.ranks = torch.nn.Linear(features, MOST + 1)
        self.cell_ranks = torch.nn.Linear(width, MOST + 1)
        self.counts = torch.nn.Linear(features, MOST + 1)
        self.places = torch.nn.Linear(features, 4 * len(PERIODS))

    def loss(self, encoded: Encoded, features: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mean loss of a batch's points, contents and places; the share of what tokens hold that they tell right."""
        n = 4 if batch.merge else 2
        classes = torch.from_numpy(batch.classes)
        wanted = covered(classes, batch.groups, n)
        loss = PLACES * F.mse_loss(self.places(features), places_of(batch.groups, n))
        some = slice(None, None, 4)  # is enough of patches
        told_twice = (
            (1.0, self.inner(encoded.patches[some]), classes[some]),
            (TOLD, self.tokens[str(n)](features), wanted),
        )
        for weight, told, labels in told_twice:
            kinds, colours, _ = parts_of(labels.flatten())
            logits = told.view(len(kinds), -1)
            loss = loss + weight / 2 * F.cross_entropy(logits[:, :KIND_COUNT], kinds, weight=KIND_WEIGHTS)
            loss = loss + 0.15 * F.cross_entropy(logits[:, KIND_COUNT:], colours, weight=COLOUR_WEIGHTS)
        token_labels, cell_labels = torch.from_numpy(batch.told), torch.from_numpy(batch.cells)
        for told, labels in (
            (self.cells[str(n)](encoded.cells), cell_labels[:, :CELL_SLOTS]),
            (self.slots[str(n)](features), token_labels[:, :SLOTS]),
        ):
            slots = labels.flatten()
            logits = told.view(len(slots), -1)
            loss = loss + F.cross_entropy(logits, slots, weight=SLOT_WEIGHTS, ignore_index=IGNORED)
        for told, labels in (
            (self.cell_ranks(encoded.cells), cell_labels[:, CELL_SLOTS]),
            (self.ranks(features), token_labels[:, SLOTS]),
            (self.counts(features), token_labels[:, SLOTS + 1]),
        ):
            if (labels != IGNORED).any():
                loss = loss + ORDER * F.cross_entropy(told, labels, ignore_index=IGNORED)
        full = slots > 0
        right = (logits[full].argmax(-1) == slots[full]).float().mean() if full.any() else loss.new_tensor(0)
        return loss, right.detach()

    def of_page(self, batched: Batched, page: Batch, frozen: bool = False) -> tuple[Tensor, Tensor]:
        """Compute the features of pages, then the same loss and share as `loss`.

        Where the vision side is `frozen`, it gets no gradient.
        """
        with torch.set_grad_enabled(not frozen):
            features, encoded = batched.features(torch.from_numpy(page.patches), page.groups, page.merge)
        return self.loss(encoded, features, page)


def loss_of_looks(attention: Tensor, batch: Batch) -> Tensor:
    """Summed loss of two heads' attention where characters are predicted: it should be on the tokens that hold them.

    Args:
        attention: of one layer, [rows, heads, length, length]; one head of each key and value head is taught.
    """
    rows, at, tokens = torch.from_numpy(batch.looks).T
    places, which = torch.unique(rows * attention.shape[-1] + at, return_inverse=True)
    weights = attention[rows, ::2, at, tokens]  # [pairs, 2]
    shares = weights.new_zeros(len(places), weights.shape[1]).index_add(0, which, weights)
    return -shares.clamp_min(1e-6).log().mean(1).sum()
