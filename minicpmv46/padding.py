"""Padding of batches: which tokens of a call are none.

Rows of a batch are padded on the left (prompts of several lengths), on the right (prefix reuse, training), or both.
The caches know how much of it is left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_vlm.models.base import create_attention_mask
from mlx_vlm.models.cache import ArraysCache


@dataclass(frozen=True)
class Padding:
    """What a piece of a prompt has of padding.

    Attributes:
        mask: bool [batch, length], False for padding; None without any.
        tokens: int32 [tokens], positions of what is not padding, counted through all rows; None where the host does
            not know them.
        places: int32 [batch * length], for each position its index in `tokens`; any index where there is padding.
    """

    mask: mx.array | None = None
    tokens: mx.array | None = None
    places: mx.array | None = None

    def skip(self, block: Callable[[mx.array], mx.array], x: mx.array) -> mx.array:
        """`block` of x [batch, length, hidden], which works token by token, without work on padding."""
        if self.tokens is None or self.places is None:
            return block(x)
        packed = x.reshape(-1, x.shape[-1])[self.tokens]
        return block(packed)[self.places].reshape(x.shape)


def masks_without_cache(h: mx.array, mask: mx.array | None) -> tuple[Any, Padding]:
    """Mask of attention, and padding on either side, for a whole sequence."""
    if mask is None:
        return create_attention_mask(h), Padding()
    valid = mask.astype(mx.bool_)
    causal = mx.tri(h.shape[1], dtype=mx.bool_)
    return causal & valid[:, None, None, :], Padding(valid)  # [B, 1, L, L]


def take_padding(caches: Sequence[ArraysCache], length: int) -> Padding:
    """Padding on either side among the next `length` tokens.

    Left padding that ends within these tokens is taken from the caches, so that later steps make no mask. All caches
    of a model have the same padding. It is read on the host, once a piece of a prompt and not in decoding: mlx-vlm
    makes it from a list, and no more than subtractions follow, so that reading does not need the model's results.
    """
    cache = caches[0]
    mask = cache.make_mask(length)
    if cache.left_padding is None:
        return Padding(mask)
    if cache.lengths is not None:  # make_mask knows one side at a time
        mask = mask & (mx.arange(length) < cache.lengths[:, None])
    left = np.array(cache.left_padding)
    if left.max() <= length:
        for entry in caches:
            entry.left_padding = None
    if cache.lengths is not None:
        return Padding(mask)
    if left.max() <= 0:
        return Padding()
    real = (np.arange(length) >= left[:, None]).reshape(-1)
    if not real.any():
        return Padding(mask)
    tokens, places = np.flatnonzero(real), np.maximum(np.cumsum(real) - 1, 0)
    return Padding(mask, mx.array(tokens.astype(np.int32)), mx.array(places.astype(np.int32)))
