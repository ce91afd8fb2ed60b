"""What images and videos come to in tokens: numbers, a table, and JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..sampling import VideoMetadata
from ..siblings import DOWNSAMPLE_MODES, DownsampleMode
from ..slicing import Size, SlicePlan
from .media import Kind
from .table import html_table, text_table


@dataclass(frozen=True)
class SeenPicture:
    """An image, a frame of a video, or a picture that is composed of frames.

    Attributes:
        plan: how it is cut, in the mode in use.
        frames: indices of the video's frames that it shows; empty for an image.
        seconds: their times; empty for an image, and where the frame rate is not known.
    """

    plan: SlicePlan
    frames: tuple[int, ...] = ()
    seconds: tuple[float, ...] = ()


@dataclass(frozen=True)
class MediumTokens:
    """Tokens of one image or video.

    Attributes:
        name: file name, or "image 0".
        pictures: one for an image; of a video those that the model sees, in its order.
        visual: visual tokens in each mode.
        prompt: all tokens in each mode, markers included.
        mode: the mode in use.
        metadata: of a video, where it is known.
    """

    name: str
    kind: Kind
    pictures: tuple[SeenPicture, ...]
    visual: dict[DownsampleMode, int]
    prompt: dict[DownsampleMode, int]
    mode: DownsampleMode
    metadata: VideoMetadata | None = None

    @property
    def size(self) -> Size:
        """(height, width) in pixels of the image, or of the first picture of a video."""
        return self.pictures[0].plan.size

    @property
    def slices(self) -> int:
        """Slices of all pictures."""
        return sum(len(picture.plan.slice_sizes) for picture in self.pictures)

    def to_dict(self) -> dict[str, Any]:
        """The same for JSON; sizes are named by width and height."""
        entry: dict[str, Any] = {"name": self.name, "kind": self.kind, **_size(self.size)}
        if self.kind == "image":
            entry |= _plan(self.pictures[0].plan)
        else:
            clip = self.metadata
            entry["video"] = clip and {"frames": clip.total_num_frames, "fps": clip.fps, "seconds": clip.duration}
            entry["slices"] = self.slices
            entry["pictures"] = [
                {"frames": list(p.frames), "seconds": list(p.seconds), **_size(p.plan.size), **_plan(p.plan)}
                for p in self.pictures
            ]
        return entry | {"visual_tokens": self.visual, "prompt_tokens": self.prompt}


@dataclass(frozen=True)
class TokenCounts:
    """Tokens of the images and videos of one prompt; prints as a table.

    Attributes:
        model: name of the model whose processor has these options.
        mode: the mode in use.
        context: tokens that a prompt may have.
        media: one entry an image or video, in the order in which they were given.
    """

    model: str
    mode: DownsampleMode
    context: int
    media: tuple[MediumTokens, ...]

    @property
    def visual(self) -> int:
        """Visual tokens of all, in the mode in use."""
        return sum(medium.visual[medium.mode] for medium in self.media)

    @property
    def prompt(self) -> int:
        """All tokens that the prompt gets for them, in the mode in use."""
        return sum(medium.prompt[medium.mode] for medium in self.media)

    @property
    def share(self) -> float:
        """Part of the context that they take, 1 for all of it."""
        return self.prompt / self.context

    def to_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        return {
            "model": self.model,
            "mode": self.mode,
            "context": self.context,
            "media": [medium.to_dict() for medium in self.media],
            "visual_tokens": self.visual,
            "prompt_tokens": self.prompt,
            "context_share": self.share,
        }

    def rows(self) -> list[list[str]]:
        """The table: a head, a row a medium, and the sum where there are several."""
        modes = _modes(self.mode)
        counts = [f"{kind} {mode}" for mode in modes for kind in ("visual", "prompt")]
        rows = [["", "pixels", "slices", *counts, "of context"]]
        for medium in self.media:
            numbers = [f"{n[mode]:,}" for mode in modes for n in (medium.visual, medium.prompt)]
            share = percent(medium.prompt[medium.mode] / self.context)
            rows.append([medium.name, _pixels(medium), _slices(medium), *numbers, share])
        if len(self.media) > 1:
            sums = [sum(n[mode] for n in column) for mode in modes for column in self._columns()]
            rows.append(["together", "", "", *(f"{n:,}" for n in sums), percent(self.share)])
        return rows

    def _columns(self) -> tuple[list[dict[DownsampleMode, int]], list[dict[DownsampleMode, int]]]:
        return [medium.visual for medium in self.media], [medium.prompt for medium in self.media]

    @property
    def note(self) -> str:
        """What is counted, and with which model's options."""
        lines = [
            f"{self.model}, {self.mode} in use, context {self.context:,} tokens.",
            "visual: tokens that image features fill; prompt: these and the markers around them, all that it gets.",
        ]
        if self.prompt > self.context:
            lines.append("They are more than the context: the processor refuses such a prompt.")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"{text_table(self.rows())}\n{self.note}"

    def _repr_html_(self) -> str:
        return html_table(self.rows(), self.note)


def _modes(first: DownsampleMode) -> list[DownsampleMode]:
    return sorted(DOWNSAMPLE_MODES, key=lambda mode: mode != first)


def _pixels(medium: MediumTokens) -> str:
    height, width = medium.size
    return f"{width}x{height}" + (f", {len(medium.pictures)} frames" if medium.kind == "video" else "")


def _slices(medium: MediumTokens) -> str:
    grid = medium.pictures[0].plan.grid
    if medium.kind == "video" or grid is None:
        return str(medium.slices)
    return f"{medium.slices} ({grid[1]}x{grid[0]})"


def percent(share: float) -> str:
    return f"{100 * share:.1f}%" if share >= 0.0005 or share == 0 else "<0.1%"


def _size(size: Size) -> dict[str, int]:
    return {"width": size[1], "height": size[0]}


def _plan(plan: SlicePlan) -> dict[str, Any]:
    """Units of a picture for JSON: what the overview and each slice have in pixels and tokens."""
    overview, *slices = [
        {**_size(size), "tokens": tokens}
        for size, tokens in zip((plan.overview, *plan.slice_sizes), plan.token_counts, strict=True)
    ]
    grid = plan.grid and {"rows": plan.grid[0], "columns": plan.grid[1]}
    return {"grid": grid, "overview": overview, "slices": slices}
