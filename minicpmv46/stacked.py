"""Projections that read the same input, as one product.

A decode step of a small model costs what its kernel launches cost. `in_proj_qkv|z|b|a`, `q|k|v` and `gate|up` read
the same input, so their rows can stand in one matrix. The module tree keeps the checkpoint's names: each projection's
weight becomes a view of its rows, so that nothing is stored twice, and saving, converting, LoRA and training see what
they know. Stacks serve generation only: without a cache each projection is called itself, as calibration and training
expect. A stack holds for the very arrays that it was made of, and is made anew where one of them was replaced (by an
update, an adapter, quantization).
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from itertools import chain

import mlx.core as mx
import mlx.nn as nn

# Layers that can be stacked, and their own way of being called.
_PLAIN: dict[type[nn.Module], object] = {layer: layer.__call__ for layer in (nn.Linear, nn.QuantizedLinear)}


@dataclass(frozen=True)
class _Built:
    """What was made of some projections.

    Attributes:
        identity: ids of the projections' arrays and of the function that calls them.
        arrays: those arrays; held, so that no other array can get their ids.
        product: all rows in one layer; None where the projections cannot be stacked.
        ends: row at which each projection but the last ends.
    """

    identity: tuple[int, ...]
    arrays: tuple[object, ...]
    product: nn.Module | None
    ends: tuple[int, ...] = ()


class Stack:
    """One product for several projections of one input. Not a module: what it holds are no parameters."""

    def __init__(self) -> None:
        self._built: _Built | None = None

    def __call__(self, x: mx.array, projections: tuple[nn.Module, ...], generating: bool) -> list[mx.array]:
        """Output of each projection.

        Args:
            x: [..., input].
            projections: as the module tree has them now.
            generating: use the stack, and make it where there is none for these projections.
        """
        built = self._built  # read once: several threads may generate
        if built is not None and built.identity != _identity(projections):
            built = self._built = None
        if not generating:
            return [projection(x) for projection in projections]
        if built is None:
            built = self._built = _build(projections)
        if built.product is None:
            return [projection(x) for projection in projections]
        return list(mx.split(built.product(x), built.ends, axis=-1))


def _arrays(projections: tuple[nn.Module, ...]) -> tuple[object, ...]:
    return tuple(chain.from_iterable(projection.values() for projection in projections))


def _identity(projections: tuple[nn.Module, ...]) -> tuple[int, ...]:
    # mlx-vlm's calibration replaces the function to see what each layer is given.
    return id(type(projections[0]).__call__), *map(id, _arrays(projections))


def _build(projections: tuple[nn.Module, ...]) -> _Built:
    """Stack the rows of `projections` and make their arrays views of them."""
    if not _can_stack(projections):
        return _Built(_identity(projections), _arrays(projections), None)
    rows = [projection["weight"].shape[0] for projection in projections]
    ends = [sum(rows[: i + 1]) for i in range(len(rows))]
    product = copy(projections[0])
    for name in projections[0]:
        # Rows are the first axis of weights, scales and biases of every format; groups run along the input.
        whole = mx.concatenate([projection[name] for projection in projections])
        product[name] = whole
        for projection, part in zip(projections, mx.split(whole, ends[:-1]), strict=True):
            projection[name] = part
    # Waited for, once for each stack, so that its parts are freed before the next one is made: without it the first
    # generation takes 0.5 GB more at real size.
    mx.eval([list(layer.values()) for layer in (product, *projections)])
    return _Built(_identity(projections), _arrays(projections), product, tuple(ends[:-1]))


def _can_stack(projections: tuple[nn.Module, ...]) -> bool:
    """Whether all are plain layers of one kind: the same arrays of the same types, and the same quantization."""

    def kind(layer: nn.Module) -> tuple[object, ...]:
        form = tuple(getattr(layer, name, None) for name in ("bits", "group_size", "mode"))
        arrays = tuple((name, getattr(value, "dtype", None)) for name, value in layer.items())
        return type(layer), form, arrays

    first = kind(projections[0])
    plain = _PLAIN.get(type(projections[0])) is type(projections[0]).__call__
    return plain and all(kind(projection) == first for projection in projections[1:])
