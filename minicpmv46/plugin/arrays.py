"""Arrays as `image` and `video` of mlx-vlm's `generate`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PIL import Image


def stream_generate(
    original: Callable[..., Any],
    model: Any,
    processor: Any,
    prompt: Any,
    image: Any = None,
    audio: Any = None,
    video: Any = None,
    **kwargs: Any,
) -> Any:
    """`mlx_vlm.generate.dispatch.stream_generate`, which asks whether its media are true; an array cannot say that."""
    return original(model, processor, prompt, _listed(image), audio, _listed(video), **kwargs)


def _listed(media: Any) -> Any:
    return [media] if hasattr(media, "__array__") and not isinstance(media, Image.Image) else media
