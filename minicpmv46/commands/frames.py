"""A contact sheet of the frames of a video that are used, with their times.

With --stack-frames 3 or 5 the composed pictures are shown as the model sees them. No weights are read. With --json the
frames are printed, and the sheet is made only where -o is given.
"""

from __future__ import annotations

import argparse

EXAMPLE = """  python -m minicpmv46 frames clip.mp4 -o frames.png --max-slice-nums 1
  python -m minicpmv46 frames clip.mp4 -o frames.png --max-slice-nums 1 --fps 2 --max-num-frames 32"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from minicpmv46.option_names import VideoOptions
    from minicpmv46.show import command

    command.add_arguments(parser, "video", VideoOptions.__annotations__)


def run(arguments: argparse.Namespace) -> int:
    from minicpmv46.option_names import VideoOptions
    from minicpmv46.show import command
    from minicpmv46.show.frames import draw_frames, sample_video, texts_of

    names = VideoOptions.__annotations__
    return command.run(
        arguments, "video", names, sample_video, draw_frames, lambda counts: texts_of(counts.media[0], counts)
    )
