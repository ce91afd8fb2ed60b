"""Names and types of the options that a call may give, for type checkers, completion and `help()`.

Fields of the classes that use them have their defaults and checks (`options.py`); a test compares both.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypedDict, TypeVar

from .siblings import DownsampleMode
from .slicing import SmallImageUpsize

_FunctionT = TypeVar("_FunctionT", bound=Callable[..., Any])


class MediaOptions(TypedDict, total=False):
    """Options of images and of videos. None takes the checkpoint's.

    downsample_mode: "16x", or "4x" for four times the visual tokens.
    max_slice_nums: largest number of slices of an image or a frame, beside its overview.
    slice_mode: False keeps overviews only.
    scale_resolution: side in pixels of a unit's square.
    use_image_id: number the images and videos in the prompt.
    """

    downsample_mode: DownsampleMode | None
    max_slice_nums: int | None
    slice_mode: bool | None
    scale_resolution: int | None
    use_image_id: bool | None


class ImageOptions(MediaOptions, total=False):
    """Options of images.

    small_image_upsize: of MiniCPM-OCR: "always" enlarges a small image to a unit's area, "never" keeps its size,
        "adaptive" decides for each image and slice by the size of its letters.
    """

    small_image_upsize: SmallImageUpsize | None


class VideoOptions(MediaOptions, total=False):
    """Options of videos.

    max_num_frames: largest number of main frames of a video.
    stack_frames: pictures a second, 1 without stacking.
    do_sample_frames: False uses all frames of videos that are given decoded.
    fps: main frames a second, one for all videos or one a video; 1 is the official rate.
    nframes, min_frames, max_frames: mlx-vlm's frame counts; see `sampling.SamplingOptions`.
    """

    max_num_frames: int | None
    stack_frames: int | None
    do_sample_frames: bool | None
    fps: float | Sequence[float] | None
    nframes: int | None
    min_frames: int | None
    max_frames: int | None


class GivenOptions(ImageOptions, VideoOptions, total=False):
    """Options of a call.

    images_kwargs, videos_kwargs: options of images or of videos only; they win over the others.
    """

    images_kwargs: ImageOptions | None
    videos_kwargs: VideoOptions | None


class HubOptions(TypedDict, total=False):
    """Options of a download from the hub, those of `huggingface_hub.snapshot_download`."""

    revision: str | None
    token: str | bool | None
    cache_dir: str | None
    force_download: bool
    local_files_only: bool


class LoadOptions(HubOptions, GivenOptions, total=False):
    """Options of `from_pretrained`."""


OPTIONS = tuple(GivenOptions.__annotations__)


def naming(kind: Any) -> Callable[[_FunctionT], _FunctionT]:
    """Decorator of a function that ends in `**given: Unpack[kind]`: its signature names the options."""

    def decorate(function: _FunctionT) -> _FunctionT:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        named = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation.__forward_arg__)
            for name, annotation in kind.__annotations__.items()
        ]
        function.__signature__ = signature.replace(parameters=[*own, *named])  # type: ignore[attr-defined]
        return function

    return decorate
