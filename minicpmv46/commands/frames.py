"""A contact sheet of the frames of a video that are used, with their times.

With --stack-frames 3 or 5 the composed pictures are shown as the model sees them. No weights are read. With --json the
frames are printed, and the sheet is made only where -o is given.
"""

from __future__ import annotations

import argparse
import json

EXAMPLE = """  python -m minicpmv46 frames clip.mp4 -o frames.png --max-slice-nums 1
  python -m minicpmv46 frames clip.mp4 -o frames.png --max-slice-nums 1 --fps 2 --max-num-frames 32"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from minicpmv46.option_names import VideoOptions
    from minicpmv46.show.arguments import add_options, add_output

    parser.add_argument("video", metavar="VIDEO", help="a video, or its URL")
    add_output(parser)
    add_options(parser, VideoOptions.__annotations__)


def run(arguments: argparse.Namespace) -> int:
    from minicpmv46.option_names import VideoOptions
    from minicpmv46.show.arguments import check_output, opens_as, options_given, refuse, save
    from minicpmv46.show.frames import draw_frames, sample_video, texts_of
    from minicpmv46.show.tokens import file_name

    try:
        options = options_given(arguments, VideoOptions.__annotations__)
        output = check_output(arguments, arguments.video)
    except (TypeError, ValueError, OSError) as error:
        refuse("frames", error)
        return 2
    try:
        clip, counts = sample_video(arguments.video, file_name(arguments.video, "video"), options)
        saved = save(draw_frames(clip, counts), output) if output else None
    except (ValueError, OSError, MemoryError) as error:
        hint = "; it is an image, which the command slices shows" if opens_as(arguments.video, "image") else ""
        refuse("frames", error, hint)
        return 1
    medium = counts.media[0]
    if arguments.json:
        print(json.dumps({**counts.to_dict(), "output": arguments.output}, indent=2))
    else:
        print("\n".join([medium.name, *texts_of(medium, counts), f"saved: {saved}"]))
    return 0
