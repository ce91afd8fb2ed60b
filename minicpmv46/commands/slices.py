"""A picture of how an image is cut: its grid, pixels and tokens of each unit, and the overview beside it.

No weights are read. With --json the plan is printed, and the picture is made only where -o is given.
"""

from __future__ import annotations

import argparse
import json

EXAMPLE = """  python -m minicpmv46 slices page.png -o slices.png
  python -m minicpmv46 slices page.png -o slices.png --mode 4x --max-slice-nums 36"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from minicpmv46.option_names import ImageOptions
    from minicpmv46.show.arguments import add_options, add_output

    parser.add_argument("image", metavar="IMAGE", help="an image, or its URL")
    add_output(parser)
    add_options(parser, ImageOptions.__annotations__)


def run(arguments: argparse.Namespace) -> int:
    from minicpmv46.option_names import ImageOptions
    from minicpmv46.show.arguments import check_output, opens_as, options_given, refuse, save
    from minicpmv46.show.slices import draw_slices, plan_slices_of, texts_of
    from minicpmv46.show.tokens import file_name

    try:
        options = options_given(arguments, ImageOptions.__annotations__)
        output = check_output(arguments, arguments.image)
    except (TypeError, ValueError, OSError) as error:
        refuse("slices", error)
        return 2
    try:
        picture, counts = plan_slices_of(arguments.image, file_name(arguments.image, "image"), options)
        saved = save(draw_slices(picture, counts), output) if output else None
    except (ValueError, OSError, MemoryError) as error:
        hint = "; it is a video, which the command frames shows" if opens_as(arguments.image, "video") else ""
        refuse("slices", error, hint)
        return 1
    medium = counts.media[0]
    if arguments.json:
        print(json.dumps({**counts.to_dict(), "output": arguments.output}, indent=2))
    else:
        print("\n".join([medium.name, *texts_of(medium.pictures[0].plan, counts), f"saved: {saved}"]))
    return 0
