"""What the demo model learns beside the answers: what patches show, what tokens hold, and where a character stands."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  as everybody calls it

from scripts.demo.batches import Text, View
from scripts.demo.drawing import COLOURS, KINDS, parts_of
from scripts.demo.labels import CELL_SLOTS, IGNORED, MOST, POINTS, SLOTS
from scripts.demo.model import Encoded

KIND_COUNT, COLOUR_COUNT = len(KINDS), len(COLOURS) + 1
PERIODS = (2.0, 1.0, 0.5, 0.25)  # of the waves that tell a place, in sides of a unit
PLACES = 4.0  # weight of their loss; at 1 the encoder is slow to keep places
TOLD = 0.1  # weight of the points as tokens tell them, which need know of them no more than what they hold
ORDER = 0.5  # weight of ranks and counts


def waves_of(middles: Tensor) -> Tensor:
    """Where tokens stand in their units, as sines and cosines: [tokens, 2] to [tokens, 4 * waves]."""
    angles = middles[:, :, None] * (2 * math.pi / torch.tensor(PERIODS, device=middles.device))
    return torch.cat([angles.sin(), angles.cos()], dim=2).flatten(1)


def mean_of(losses: Tensor, labels: Tensor) -> Tensor:
    """Mean loss of the labels that are learned; 0 where there are none."""
    return losses.sum() / (labels != IGNORED).sum().clamp_min(1)


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
        # Most points are background, and have no colour; most tokens hold nothing.
        for name, first, others in (
            ("kinds", 0.1, KIND_COUNT),
            ("colours", 0.02, COLOUR_COUNT),
            ("held", 0.3, KIND_COUNT),
        ):
            self.register_buffer(f"{name}_weights", torch.tensor([first] + [1.0] * (others - 1)), persistent=False)

    def loss(self, encoded: Encoded, features: Tensor, view: View) -> tuple[Tensor, Tensor]:
        """Mean loss of the units' points, contents and places; the share of what tokens hold that they tell right."""
        n = "4" if view.merge else "2"
        wanted = view.classes.view(len(features), -1)
        loss = PLACES * F.mse_loss(self.places(features), waves_of(view.middles))
        some = slice(None, None, 5)  # is enough of patches
        told_twice = (
            (1.0, self.inner(encoded.patches[some]), view.classes[some]),
            (TOLD, self.tokens[n](features), wanted),
        )
        for weight, told, labels in told_twice:
            kinds, colours, _ = (part.long() for part in parts_of(labels.flatten()))
            logits = told.view(len(kinds), -1)
            loss = loss + weight / 2 * F.cross_entropy(logits[:, :KIND_COUNT], kinds, weight=self.kinds_weights)
            loss = loss + 0.15 * F.cross_entropy(logits[:, KIND_COUNT:], colours, weight=self.colours_weights)
        for told, labels in (
            (self.cells[n](encoded.cells), view.cells[:, :CELL_SLOTS]),
            (self.slots[n](features), view.told[:, :SLOTS]),
        ):
            slots = labels.flatten()
            logits = told.view(len(slots), -1)
            loss = loss + F.cross_entropy(logits, slots, weight=self.held_weights, ignore_index=IGNORED)
        for told, labels in (
            (self.cell_ranks(encoded.cells), view.cells[:, CELL_SLOTS]),
            (self.ranks(features), view.told[:, SLOTS]),
            (self.counts(features), view.told[:, SLOTS + 1]),
        ):
            loss = loss + ORDER * mean_of(F.cross_entropy(told, labels, ignore_index=IGNORED, reduction="none"), labels)
        full = slots > 0
        right = (full & (logits.detach().argmax(-1) == slots)).sum() / full.sum().clamp_min(1)
        return loss, right


def loss_of_looks(attention: Tensor, text: Text) -> Tensor:
    """Summed loss of two heads' attention where characters are predicted: it should be on the tokens that hold them.

    Args:
        attention: of one layer, [rows, heads, length, length]; one head of each key and value head is taught.
    """
    rows, at, tokens = text.looks.T
    weights = attention[rows, ::2, at, tokens]  # [pairs, 2]
    shares = weights.new_zeros(text.characters, weights.shape[1]).index_add(0, text.looked, weights)
    return -shares.clamp_min(1e-6).log().mean(1).sum()
