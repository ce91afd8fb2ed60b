"""A picture of how an image is cut: its grid, pixels and tokens of each unit, and the overview beside it.

No weights are read. With --json the plan is printed, and the picture is made only where -o is given.
"""

from __future__ import annotations

import argparse

EXAMPLE = """  python -m minicpmv46 slices page.png -o slices.png
  python -m minicpmv46 slices page.png -o slices.png --mode 4x --max-slice-nums 36"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from minicpmv46.option_names import ImageOptions
    from minicpmv46.show import command

    command.add_arguments(parser, "image", ImageOptions.__annotations__)


def run(arguments: argparse.Namespace) -> int:
    from minicpmv46.option_names import ImageOptions
    from minicpmv46.show import command
    from minicpmv46.show.slices import draw_slices, plan_slices_of, texts_of

    names = ImageOptions.__annotations__
    return command.run(
        arguments,
        "image",
        names,
        plan_slices_of,
        draw_slices,
        lambda counts: texts_of(counts.media[0].pictures[0].plan, counts),
    )
