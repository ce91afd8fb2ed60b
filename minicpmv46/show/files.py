"""Tokens of files that a command line names: those that cannot be read have a line that says why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..decoding import ImageSource
from ..options import Options
from ..video import Clip
from ..workers import map_ahead
from .counts import TokenCounts
from .media import open_sources
from .tokens import Modes, count, pixels_of, plan_medium

# Characters of a file's name in a table.
LONGEST = 48


@dataclass(frozen=True)
class FileTokens:
    """Tokens of files as one prompt has them; prints as a table.

    Attributes:
        names: of all files.
        counts: of those that can be read.
        errors: what is wrong with the others, by their place among the files.
    """

    names: Sequence[str]
    counts: TokenCounts
    errors: dict[int, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The same for JSON: entries of `media` that cannot be read have `name` and `error`."""
        found = self.counts.to_dict()
        read = iter(found["media"])
        media = [
            {"name": name, "error": self.errors[i]} if i in self.errors else next(read)
            for i, name in enumerate(self.names)
        ]
        return {**found, "media": media}

    def __str__(self) -> str:
        if not self.counts.media:
            return "\n".join(self._error(i) for i in self.errors)
        head, *lines = repr(self.counts).split("\n")
        read = iter(lines)
        files = [self._error(i) if i in self.errors else next(read) for i in range(len(self.names))]
        return "\n".join([head, *files, *read])

    def _error(self, i: int) -> str:
        return f"{self.names[i]}  {self.errors[i]}"


def count_files(files: Sequence[str], options: Options) -> FileTokens:
    """Tokens of files; what is wrong with one does not keep the others from being counted."""

    def opened(file: str) -> ImageSource | Clip | str:
        try:
            _, media = open_sources([file], None, options)
            return media.images[0] if media.images else media.videos[0]
        except (OSError, ValueError) as error:
            return _sentence(error)

    def planned(source: ImageSource | Clip | str) -> Modes | str:
        try:
            return source if isinstance(source, str) else plan_medium(source, options)
        except (OSError, ValueError, MemoryError) as error:
            return _sentence(error)

    names = [shown_name(file) for file in files]
    sources = list(map_ahead(opened, files))
    plans = list(map_ahead(planned, sources, weight=pixels_of, most=options.limits.together))
    errors = {i: plan for i, plan in enumerate(plans) if isinstance(plan, str)}
    read = [
        (source, plan, name)
        for source, plan, name in zip(sources, plans, names, strict=True)
        if not isinstance(source, str) and not isinstance(plan, str)
    ]
    counts = count([entry[0] for entry in read], [entry[1] for entry in read], [entry[2] for entry in read], options)
    return FileTokens(names, counts, errors)


def _sentence(error: Exception) -> str:
    """An error's text about a file; the processor calls the only image of a prompt "image 0"."""
    message = str(error).removeprefix("image 0: ").removeprefix("video 0: ")
    return message.replace("image 0", "the image", 1).replace("video 0", "the video", 1)


def shown_name(file: str) -> str:
    """A file's name as it was typed, its beginning left out where it is long, without line breaks and the like."""
    name = "".join(c if c.isprintable() else "?" for c in file)
    return name if len(name) <= LONGEST else f"...{name[3 - LONGEST :]}"
