"""What the commands `slices` and `frames` share: a file is planned, drawn, saved and told."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from typing import TypeVar

from PIL import Image

from ..options import Options
from .arguments import add_options, add_output, check_output, opens_as, options_given, refuse, save
from .counts import TokenCounts
from .media import Kind
from .tokens import file_name

_MediumT = TypeVar("_MediumT")

# For each kind: the other one, and the command that shows it.
_OTHER: dict[Kind, tuple[Kind, str]] = {"image": ("video", "frames"), "video": ("image", "slices")}


def add_arguments(parser: argparse.ArgumentParser, kind: Kind, names: Iterable[str]) -> None:
    """The file, `-o` and the options `names` of its kind."""
    parser.add_argument("file", metavar=kind.upper(), help=f"{'an' if kind == 'image' else 'a'} {kind}, or its URL")
    add_output(parser)
    add_options(parser, names)


def run(
    arguments: argparse.Namespace,
    kind: Kind,
    names: Iterable[str],
    plan: Callable[[str, str, Options], tuple[_MediumT, TokenCounts]],
    draw: Callable[[_MediumT, TokenCounts], Image.Image],
    texts_of: Callable[[TokenCounts], list[str]],
) -> int:
    """Exit status of the command: 2 for wrong arguments, 1 where the file cannot be read or drawn.

    Args:
        plan: from a source, its name and options to what is drawn and its tokens.
        texts_of: lines that say what the file is and what it takes.
    """
    try:
        options = options_given(arguments, names)
        output = check_output(arguments, arguments.file)
    except (TypeError, ValueError, OSError) as error:
        refuse(arguments.command, error)
        return 2
    try:
        medium, counts = plan(arguments.file, file_name(arguments.file, kind), options)
        saved = save(draw(medium, counts), output) if output else None
    except (ValueError, OSError, MemoryError) as error:
        other, command = _OTHER[kind]
        hint = f"; it is {'an' if other == 'image' else 'a'} {other}, which the command {command} shows"
        refuse(arguments.command, error, hint if opens_as(arguments.file, other) else "")
        return 1
    if arguments.json:
        print(json.dumps({**counts.to_dict(), "output": arguments.output}, indent=2))
    else:
        print("\n".join([counts.media[0].name, *texts_of(counts), f"saved: {saved}"]))
    return 0
