"""The losses of what is computed together: of pages, of answers, and of a part of a step of the whole model."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  as everybody calls it

from scripts.demo.batches import Part, Text, View
from scripts.demo.heads import loss_of_looks
from scripts.demo.run import Run

LOOKS = 0.3  # weight of the loss of the attention


def loss_of_page(run: Run, page: View, frozen: bool = False) -> tuple[Tensor, Tensor]:
    """Loss and share of `ClassHeads.loss` for pages; where the vision side is `frozen`, it gets no gradient."""
    with torch.set_grad_enabled(not frozen):
        [(features, encoded)] = run.batched.features([page])
    return run.heads.loss(encoded, features, page)


def loss_of_text(run: Run, text: Text, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Summed loss of answers, the same with that of the attention, and how many rows are right."""
    seen = run.batched.hidden(text, features)
    labels = text.labels.flatten()[text.asked]
    logits = run.model.lm_head(seen.hidden.flatten(0, 1)[text.asked])
    wrong = torch.zeros_like(text.labels).flatten()
    wrong[text.asked] = (logits.detach().argmax(-1) != labels).long()
    loss = F.cross_entropy(logits, labels, reduction="sum")
    right = (wrong.view_as(text.labels).sum(1) == 0).sum()
    return loss.detach(), loss + LOOKS * loss_of_looks(seen.attention, text), right


def loss_of_part(run: Run, part: Part, tokens: int, patches: int) -> tuple[Tensor, Tensor]:
    """The loss of a part of a step, and what `train_answers` tells of it.

    Args:
        tokens, patches: of all answers and of their pictures in the step.
    """
    views = part.views if part.page is None else [*part.views, part.page]
    seen = run.batched.features(views)
    told = [run.heads.loss(encoded, features, view) for view, (features, encoded) in zip(views, seen, strict=True)]
    nothing = torch.zeros((), device=run.device)
    classes, page, held = nothing, nothing, nothing
    for view, (loss, _) in zip(part.views, told, strict=False):
        classes = classes + loss * (len(view.patches) / patches)
    if part.page is not None:
        page, held = told[-1]
    features = run.batched.joined(seen[: len(part.views)])
    whole, answers_loss, right = classes + page, nothing, nothing
    for text in part.texts:
        loss, more, count = loss_of_text(run, text, features)
        whole, answers_loss, right = whole + more / tokens, answers_loss + loss / tokens, right + count
    return whole, torch.stack([answers_loss, right, classes.detach(), page.detach(), held])
