"""A request on which the port is compared with the official implementation.

A case names a small checkpoint (`tiny.VARIANTS`), a chat with its pictures and clips inside the turns, and
the processor's options. Every machine sees the same pixels (`pictures`); `Case.digest` says whether a recorded file
still belongs to its case. Nothing here needs torch.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from support import tiny
from support.pictures import Clip, Picture


@dataclass(frozen=True)
class Turn:
    """One message. A string is plain string content; a tuple is a list of parts, media where they stand."""

    role: str
    content: "str | tuple[str | Picture | Clip, ...]"

    def message(self) -> dict[str, Any]:
        if isinstance(self.content, str):
            return {"role": self.role, "content": self.content}
        return {"role": self.role, "content": [_part(part) for part in self.content]}


def _part(part: "str | Picture | Clip") -> dict[str, str]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    return {"type": "image" if isinstance(part, Picture) else "video"}


@dataclass(frozen=True)
class Options:
    """Processor options of a request; None leaves the checkpoint's default."""

    downsample_mode: str | None = None
    max_slice_nums: int | None = None
    slice_mode: bool | None = None
    use_image_id: bool | None = None
    stack_frames: int | None = None
    max_num_frames: int | None = None

    def kwargs(self) -> dict[str, Any]:
        """The options that are set."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class OcrOptions(Options):
    """Those of a model that has `small_image_upsize`; in a class of its own, as digests hold the class."""

    small_image_upsize: str | None = None
    scale_resolution: int | None = None


@dataclass(frozen=True)
class Case:
    """One request. `pictures` and `clips` are its media in order of appearance."""

    name: str
    turns: tuple[Turn, ...]
    options: Options = field(default_factory=Options)
    variant: str = "base"
    enable_thinking: bool = False
    new_tokens: int = 8

    @property
    def messages(self) -> list[dict[str, Any]]:
        """Messages for a chat template, with empty image and video items as placeholders."""
        return [turn.message() for turn in self.turns]

    @property
    def pictures(self) -> list[Picture]:
        return [part for part in self._parts() if isinstance(part, Picture)]

    @property
    def clips(self) -> list[Clip]:
        return [part for part in self._parts() if isinstance(part, Clip)]

    @property
    def downsample_mode(self) -> str:
        return self.options.downsample_mode or tiny.MODES[tiny.VARIANTS[self.variant].model_type]

    def _parts(self) -> Iterator["str | Picture | Clip"]:
        for turn in self.turns:
            if not isinstance(turn.content, str):
                yield from turn.content

    def digest(self) -> str:
        """Sha256 of everything that goes in: the definition and every pixel."""
        parts = [repr((self.turns, self.options, self.variant, self.enable_thinking, self.new_tokens)).encode()]
        for picture in self.pictures:
            image = picture.load()
            parts += [
                repr((image.mode, image.size)).encode(),
                image.tobytes(),
                bytes(image.getpalette() or []),
            ]
        for clip in self.clips:
            parts.append(clip.load().tobytes())
        return hashlib.sha256(b"|".join(parts)).hexdigest()


def ask(*parts: "str | Picture | Clip") -> tuple[Turn, ...]:
    return (Turn("user", parts),)
