"""Tokens that images and videos take in a prompt, before anything runs.

Each FILE is an image or a video, told by its content. Shown are its size, its slices, and its tokens in both modes,
counted as if all files stood in one prompt. No weights are read.
"""

from __future__ import annotations

import argparse
import json

EXAMPLE = """  python -m minicpmv46 tokens page.png clip.mp4
  python -m minicpmv46 tokens scans/*.png --mode 4x --max-slice-nums 36
  python -m minicpmv46 tokens crop.png --model openbmb/MiniCPM-OCR-1.0 --small-image-upsize adaptive"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from minicpmv46.option_names import OPTIONS
    from minicpmv46.show.arguments import add_options

    parser.add_argument("files", nargs="+", metavar="FILE", help="an image or a video, or its URL")
    add_options(parser, OPTIONS)


def run(arguments: argparse.Namespace) -> int:
    from minicpmv46.option_names import OPTIONS
    from minicpmv46.show.arguments import options_given, refuse
    from minicpmv46.show.files import count_files

    try:
        options = options_given(arguments, OPTIONS)
    except (TypeError, ValueError, OSError) as error:
        refuse("tokens", error)
        return 2
    result = count_files(arguments.files, options)
    print(json.dumps(result.to_dict(), indent=2) if arguments.json else result)
    return 1 if result.errors else 0
