"""What a source is, an image or a video, and the options that it is looked at with."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

from ..checks import quote
from ..frames import HEAD, flatten_videos, is_container
from ..limits import Limits
from ..media import OpenMedia, open_media
from ..options import Options, check_names
from ..sources import locate

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..option_names import GivenOptions

Kind = Literal["image", "video"]


def options_for(processor: Any, where: str, known: Iterable[str], **given: Unpack[GivenOptions]) -> Options:
    """Options of a processor, or the official ones of MiniCPM-V 4.6, with those that are given.

    Args:
        where: where they were given, for errors.
        known: names of the options that may be given there.

    Raises:
        TypeError: an option is unknown, or `processor` is not one of this package's.
        ValueError: an option has a value that is not supported.
    """
    if processor is None:
        options = Options(limits=Limits.of_environment())
    elif isinstance(getattr(processor, "options", None), Options):
        options = processor.options
    else:
        raise TypeError(
            f"{where}: processor must be the one that mlx_vlm.load returns for a checkpoint of these models, "
            f"not {quote(processor)}"
        )
    check_names(options.sibling, given, known, where)
    return options.updated(where, **given)


def kind_of(source: Any) -> Kind:
    """Whether a source is an image or a video; files are told by their content, not by their names.

    A GIF that moves is a video. What is neither counts as an image, whose error says what can be read.
    """
    if isinstance(source, (list, tuple)):
        return "video"
    if not isinstance(source, (str, Path, BytesIO)):
        return "video" if not isinstance(source, Image.Image) and np.ndim(source) > 3 else "image"
    try:
        content = locate(source)
        with BytesIO(content) if isinstance(content, bytes) else content.open("rb") as stream:
            head = stream.read(HEAD)
            stream.seek(0)
            return "video" if is_container(head) and not _is_picture(stream) else "image"
    except (OSError, ValueError):
        return "image"


def _is_picture(stream: Any) -> bool:
    """Whether a file that begins as videos do is an image: AVIF and HEIF share the container of MP4."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its size, which is looked at where it is opened
            with Image.open(stream) as image:
                return not getattr(image, "is_animated", False)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


def open_sources(sources: Iterable[Any], metadata: Any, options: Options) -> tuple[list[Kind], OpenMedia]:
    """Kind of each source, and images and videos of one prompt, opened and held against the limits.

    Args:
        metadata: `video_metadata` of a call, one entry a video.

    Raises:
        ValueError: a source cannot be opened, is larger than the limits, or the options do not fit it.
    """
    # What is fetched is fetched once.
    held = [fetched(source) for source in sources]
    kinds = [kind_of(source) for source in held]
    images = [source for source, kind in zip(held, kinds, strict=True) if kind == "image"]
    videos = [one_video(source) for source, kind in zip(held, kinds, strict=True) if kind == "video"]
    options.limits.check("media", "the images and videos are", len(held))
    opened = open_media(images, videos, metadata, None, options)
    opened.costs()
    return kinds, opened


def fetched(source: Any) -> Any:
    """A URL's content; everything else as it is."""
    if isinstance(source, str) and source.lower().startswith(("http://", "https://", "data:")):
        try:
            content = locate(source)
        except (OSError, ValueError) as error:
            raise ValueError(f"cannot read {quote(source)}: {str(error)[:200]}") from error
        return BytesIO(content) if isinstance(content, bytes) else content
    return source


def one_video(source: Any) -> Any:
    """A video as the processor takes it; raises `ValueError` where a list holds several."""
    videos = flatten_videos(source)
    if len(videos) != 1:
        raise ValueError(
            "a list is one video and holds its frames; give several images or videos each as an argument of its own"
        )
    return videos[0]
