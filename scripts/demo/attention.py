"""Attention of the vision side in training: within units of several sizes, and within windows of four patches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  as everybody calls it

Groups = list[tuple[int, int]]  # how many units of how many patches
LONG = 300  # patches of a unit from which `BFloat16Attention` is the faster one


class BFloat16Attention(torch.autograd.Function):
    """Unmasked attention that multiplies in bfloat16 and keeps the weights of all pairs for the gradient.

    torch's `scaled_dot_product_attention` computes them anew. On a CPU that multiplies in bfloat16, forward and
    backward of 8 units of 576 patches took 54 ms, and 92 ms with torch's in float32.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """Queries, keys and values in float32, [units, heads, patches, dim], to the outputs, of the same shape."""
        inputs = [x.to(torch.bfloat16) for x in (q * scale, k, v)]
        parts, weights = [], []
        for query, key, value in zip(*inputs, strict=True):  # the scores of one unit fit in the cache
            weights.append(torch.bmm(query, key.mT).softmax(-1))
            parts.append(torch.bmm(weights[-1], value))
        out = torch.stack(parts).float()
        ctx.save_for_backward(*inputs, out, *weights)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        queries, keys, values, out, *weights = ctx.saved_tensors
        means = (grads[0] * out).sum(-1, keepdim=True).to(torch.bfloat16)
        found = []
        for i, (grad, weight) in enumerate(zip(grads[0].to(torch.bfloat16), weights, strict=True)):
            scores = torch.bmm(grad, values[i].mT).sub_(means[i]).mul_(weight)
            found.append((torch.bmm(scores, keys[i]), torch.bmm(scores.mT, queries[i]), torch.bmm(weight.mT, grad)))
        q, k, v = (torch.stack(parts).float() for parts in zip(*found, strict=True))
        return q * ctx.scale, k, v, None


def within_units(projected: Tensor, heads: int, groups: Groups) -> Tensor:
    """Unmasked attention within each unit, of queries, keys and values [patches of all units, 3 * width]."""
    if projected.is_cuda and projected.dtype == torch.bfloat16:
        return flash(projected, heads, groups)
    parts = []
    with torch.autocast(projected.device.type, enabled=False):  # in bfloat16, torch's own attention is slower on CPUs
        for part, (count, size) in zip(projected.split([k * n for k, n in groups]), groups, strict=True):
            q, k, v = part.float().view(count, size, 3, heads, -1).permute(2, 0, 3, 1, 4)
            if projected.dtype == torch.bfloat16 and size >= LONG:
                out = BFloat16Attention.apply(q, k, v, q.shape[-1] ** -0.5)
            else:
                out = F.scaled_dot_product_attention(q, k, v)
            parts.append(out.transpose(1, 2).flatten(0, 1).flatten(1))
    return torch.cat(parts)


def flash(projected: Tensor, heads: int, groups: Groups) -> Tensor:
    """The same in bfloat16 on CUDA, in one kernel for units of all sizes."""
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (part.view(len(part), heads, -1) for part in projected.chunk(3, dim=1))
    sizes = torch.tensor([0, *(size for count, size in groups for _ in range(count))], dtype=torch.int32)
    starts = sizes.cumsum(0, dtype=torch.int32).to(projected.device, non_blocking=True)
    longest = max(size for _, size in groups)
    return varlen_attn(q, k, v, starts, starts, longest, longest).flatten(1)


def within_windows(projected: Tensor, heads: int) -> Tensor:
    """Unmasked attention within windows, of queries, keys and values [windows, 4, 3 * width]: [windows, 4, width]."""
    q, k, v = projected.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    if not projected.is_cuda:
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    scores = (q * q.shape[-1] ** -0.5) @ k.mT  # more windows than torch's own attention takes there
    return (scores.softmax(-1).to(v.dtype) @ v).transpose(1, 2).flatten(2)
