"""Arguments that the commands `tokens`, `slices` and `frames` share."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from ..decoding import open_image
from ..options import Options, check_names
from .checkpoint import options_of
from .media import Kind, kind_of

# What `--help` says of each option of the processor. A test compares the names.
HELP = {
    "downsample_mode": "16x, or 4x for four times the visual tokens (default: the checkpoint's; MiniCPM-V 4.6 16x)",
    "max_slice_nums": "largest number of slices of an image or a frame beside its overview (9)",
    "slice_mode": "true, or false for overviews only",
    "scale_resolution": "side in pixels of the square whose area a unit has (448)",
    "use_image_id": "true, or false for images without numbers in the prompt",
    "small_image_upsize": "of MiniCPM-OCR: always, never or adaptive",
    "max_num_frames": "largest number of main frames (128)",
    "stack_frames": "pictures a second: 3 or 5 add pictures composed of the frames between (1)",
    "fps": "main frames a second (1)",
    "nframes": "exact number of main frames",
    "min_frames": "main frames at least",
    "max_frames": "main frames at most",
}
# Endings of files that a picture is saved as.
ENDINGS = (".png", ".jpg", ".jpeg", ".webp")


def add_options(parser: argparse.ArgumentParser, names: Iterable[str]) -> None:
    """`--model`, and those of the processor's options that have a help text, with dashes."""
    parser.add_argument(
        "--model",
        help="folder of a checkpoint, or its name in the hub's cache: its options and its context hold; no weights are "
        "read (default: official MiniCPM-V 4.6)",
    )
    group = parser.add_argument_group("options of the processor")
    for name in names:
        if name in HELP:
            flags = [f"--{name.replace('_', '-')}", *(["--mode"] if name == "downsample_mode" else [])]
            group.add_argument(*flags, dest=name, type=_value, metavar="VALUE", help=HELP[name])


def _value(text: str) -> Any:
    """A number, true or false, or the text itself; the options check what they take."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, (bool, int, float)) else text


def options_given(arguments: argparse.Namespace, names: Iterable[str]) -> Options:
    """Options of `--model` with those of the command line; raises `TypeError` or `ValueError` for wrong ones."""
    names = list(names)
    options = options_of(arguments.model)
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name, None) is not None}
    check_names(options.sibling, given, names, "the command line")
    return options.updated("the command line", **given)


def add_output(parser: argparse.ArgumentParser) -> None:
    """`-o`."""
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help=f"where to save the picture ({', '.join(ENDINGS)}); a file that is there is replaced",
    )


def check_output(arguments: argparse.Namespace, source: str) -> Path | None:
    """Where the picture is to be saved, None where only JSON is asked for.

    Raises:
        ValueError: before any work, where it cannot be saved there, or `source` would be overwritten.
    """
    if arguments.output is None:
        if arguments.json:
            return None
        raise ValueError("say where to save the picture: -o out.png")
    path = Path(arguments.output)
    if path.is_dir():
        raise ValueError(f"-o {path} is a folder; give the name of a file")
    if path.suffix.lower() not in ENDINGS:
        raise ValueError(f"-o {path}: the name must end in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}")
    if not path.parent.is_dir():
        raise ValueError(f"-o {path}: there is no folder {path.parent}")
    if path.exists() and Path(source).exists() and path.samefile(source):
        raise ValueError(f"-o {path} is the file that is read; give another name")
    return path


def save(picture: Image.Image, path: Path) -> str:
    """Write a picture, whole or not at all; what was written, for people."""
    content = BytesIO()
    picture.save(content, Image.registered_extensions()[path.suffix.lower()], optimize=True)
    path.write_bytes(content.getvalue())
    return f"{path} ({picture.width} x {picture.height} pixels)"


def opens_as(source: str, kind: Kind) -> bool:
    """Whether a file that could not be read as asked is of the other kind."""
    if not Path(source).is_file() or kind_of(source) != kind:
        return False
    if kind == "video":
        return True
    try:
        open_image(source, "image")
    except ValueError:
        return False
    return True


def refuse(command: str, error: Exception, hint: str = "") -> None:
    """Say in one sentence on standard error what is wrong."""
    sentence = str(error).removeprefix("image 0: ").removeprefix("video 0: ")
    print(f"python -m minicpmv46 {command}: {sentence}{hint}", file=sys.stderr)
