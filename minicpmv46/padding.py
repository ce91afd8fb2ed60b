"""Padding of batches: which tokens of a call are none.

Rows of a batch are padded on the left (prompts of several lengths), on the right (prefix reuse, training), or both.
The caches know how much of it is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_vlm.models.base import create_attention_mask
from mlx_vlm.models.cache import ArraysCache


def masks_without_cache(h: mx.array, mask: mx.array | None) -> tuple[Any, mx.array | None]:
    """Masks of attention and of the delta nets for a whole sequence, padded on either side."""
    if mask is None:
        return create_attention_mask(h), None
    valid = mask.astype(mx.bool_)
    causal = mx.tri(h.shape[1], dtype=mx.bool_)
    return causal & valid[:, None, None, :], valid  # [B, 1, L, L]


def padding_mask(caches: Sequence[ArraysCache], length: int) -> mx.array | None:
    """False for padding on either side among the next `length` tokens, bool [batch, length]; None without any.

    Left padding that ends within these tokens is taken from the caches, so that later steps make no mask. All caches
    of a model have the same padding. It is read on the host, once a piece of a prompt: mlx-vlm makes it from a list,
    so that reading waits for no computation of the model.
    """
    cache = caches[0]
    if cache.left_padding is None:
        return cache.make_mask(length)
    mask = cache.make_mask(length)
    if cache.lengths is not None:  # make_mask knows one side at a time
        mask = mask & (mx.arange(length) < cache.lengths[:, None])
    longest = int(np.array(cache.left_padding).max())
    if longest <= length:
        for entry in caches:
            entry.left_padding = None
    return None if longest <= 0 and cache.lengths is None else mask
