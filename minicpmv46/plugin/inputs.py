"""mlx-vlm's `prepare_inputs` for our processor.

mlx-vlm decodes videos and flattens transparency before a processor is asked, at its own rates and without the
processor's options, and it tokenizes prompts without media past the processor. Here everything goes to the processor,
with mlx-vlm's video flags and those of its keywords that are the processor's options.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_vlm.generate.ar import generate_step

from minicpmv46 import options
from minicpmv46.checks import quote
from minicpmv46.model import no_speculation
from minicpmv46.plugin.messages import REQUEST
from minicpmv46.processing import Processor
from minicpmv46.spelling import meant

# Keywords that go to the processor.
OPTIONS = (*options.OPTIONS, "video_metadata")
# Keywords that people try, and the argument of mlx-vlm that they mean.
ARGUMENTS = {"num_videos": "video"}


def prepare_inputs(
    processor: Processor,
    images: Any = None,
    audio: Any = None,
    videos: Any = None,
    prompts: Any = None,
    image_token_index: int | None = None,
    resize_shape: tuple[int, int] | None = None,
    add_special_tokens: bool = False,
    padding: bool = True,
    padding_side: str = "left",
    pad_to_uniform_size: bool = False,
    return_tensors: str = "mlx",
    **kwargs: Any,
) -> dict[str, mx.array]:
    """Inputs of a request, with `mlx_vlm.utils.prepare_inputs`' signature.

    `kwargs` holds generation options too; those that name an option of the processor go to it.

    Raises:
        ValueError: audio or a drafter is given, or what the processor raises.
        TypeError: a keyword is almost the name of an option, or another program's name for one.
    """
    request = kwargs.pop(REQUEST, None)
    make = partial(
        _make_inputs,
        processor,
        prompts,
        audio=audio,
        keywords=kwargs,
        images=_given(images),
        videos=_given(videos),
        resize_shape=resize_shape,
        add_special_tokens=add_special_tokens,
        padding=padding,
        padding_side=padding_side,
    )
    return make() if request is None else request.inputs(make)


def _make_inputs(
    processor: Processor, prompts: Any, *, audio: Any, keywords: Mapping[str, Any], **arguments: Any
) -> dict[str, mx.array]:
    """What the processor makes of its `arguments` and of its options among `keywords`."""
    if audio is not None and (not hasattr(audio, "__len__") or len(audio) > 0):
        raise ValueError(f"{processor.options.sibling.name} takes no audio")
    if keywords.get("draft_model") is not None:  # generation would ask the drafter for its layers first
        raise ValueError(no_speculation(processor.options.sibling))
    refuse_misspelt(keywords, options.own_names(processor.options.sibling, OPTIONS))
    given = {name: keywords[name] for name in OPTIONS if keywords.get(name) is not None}
    # mlx-vlm's prefix cache knows pictures by `pixel_values` alone. Without the places, blank pictures of one area but
    # of other shapes are the same to it.
    inputs = processor(prompts, with_places=True, **arguments, **given)
    # Evaluated here: mlx-vlm's server prepares requests on threads of their own.
    return {name: mx.array(value) if isinstance(value, np.ndarray) else value for name, value in inputs.items()}


def training_inputs(
    processor: Processor,
    prompts: Any,
    images: Any,
    audio: Any,
    add_special_tokens: bool = False,
    return_tensors: str = "mlx",
    **kwargs: Any,
) -> dict[str, mx.array]:
    """A row of a training set, with the signature of `mlx_vlm.utils.process_inputs_with_fallback`.

    mlx-vlm drops axes of size 1 before it collates rows, and then cannot put one unit beside several. A single unit
    gets a row of zeros, which is padding.
    """
    inputs = prepare_inputs(processor, images, audio, prompts=prompts, add_special_tokens=add_special_tokens, **kwargs)
    units = inputs.get("image_units")
    if units is not None and units.shape[0] == 1:
        inputs["image_units"] = mx.pad(units, [(0, 1), (0, 0)])
    return inputs


def refuse_misspelt(keywords: Iterable[str], names: Sequence[str]) -> None:
    """mlx-vlm lets unknown keywords pass down to where they are lost; those that were meant for us stop here."""
    known = {*names, *inspect.signature(generate_step).parameters}
    for keyword in keywords:
        if keyword not in known and (guess := ARGUMENTS.get(keyword) or meant(keyword, names)):
            raise TypeError(f"unknown option {quote(keyword)}; did you mean {guess!r}?")


def _given(media: Any) -> Any:
    return None if media is not None and hasattr(media, "__len__") and len(media) == 0 else media
