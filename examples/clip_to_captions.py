"""Caption a clip: one text for every few seconds, with its times.

    python examples/clip_to_captions.py "my clip.mp4" -o captions.srt --seconds 10
    python examples/clip_to_captions.py clip.mp4 -o captions.jsonl --prompt "Which way does the object move?"

The ending of the output says what it is: .srt, .vtt or .jsonl. The clip is cut into segments, and the model is asked
about the frames of each, a few a second (--fps). Started again, the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import html
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from resumable import Rows, run, write_whole
from tqdm import tqdm

OUTPUTS = {".jsonl", ".srt", ".vtt"}


def arguments() -> argparse.Namespace:
    """The command line, checked before anything is loaded."""
    description, example = (__doc__ or "").split("\n\n", 1)
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=description, epilog=example, formatter_class=style)
    parser.add_argument("video", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True, help="captions.srt, captions.vtt or captions.jsonl")
    parser.add_argument("--model", default="openbmb/MiniCPM-V-4.6")
    parser.add_argument("--prompt", default="Describe what happens in this video in one sentence.")
    parser.add_argument("--mode", choices=["4x", "16x"], help="visual tokens: 4x keeps four times as many as 16x")
    parser.add_argument("--seconds", type=float, default=10, help="length of a segment (default: 10)")
    parser.add_argument("--fps", type=float, default=1, help="frames a second that are looked at (default: 1)")
    parser.add_argument("--max-tokens", type=int, default=200)
    args = parser.parse_args()
    if not args.video.is_file():
        parser.error(f"{args.video} is not a file")
    if args.output.suffix not in OUTPUTS or not args.output.absolute().parent.is_dir():
        parser.error(f"-o {args.output}: the name must end in {', '.join(sorted(OUTPUTS))}, in a folder that exists")
    if min(args.seconds, args.fps, args.max_tokens) <= 0:
        parser.error("--seconds, --fps and --max-tokens must be more than 0")
    return args


def open_clip(path: Path) -> tuple[cv2.VideoCapture, float, int]:
    """A clip, its frames a second and how many frames its file says it has."""
    clip = cv2.VideoCapture(str(path.absolute()))
    rate, count = clip.get(cv2.CAP_PROP_FPS), int(clip.get(cv2.CAP_PROP_FRAME_COUNT))
    if not clip.isOpened() or rate <= 0 or count <= 0:
        raise SystemExit(f"{path} cannot be read as a video")
    return clip, rate, count


def segments(
    clip: cv2.VideoCapture, rate: float, count: int, seconds: float, fps: float, done: int
) -> Iterator[tuple[int, list[np.ndarray]]]:
    """Number and frames of each segment but the first `done`; one segment is in memory at a time."""
    frames: list[np.ndarray] = []
    number = first = 0
    for index in range(count):
        if not clip.grab():
            break  # the file says that there are more frames than it has
        if int(index / rate / seconds) > number:
            if frames:
                yield number, frames
            number, first, frames = int(index / rate / seconds), index, []
        if number >= done and (index - first) * fps / rate >= len(frames) - 1e-6:
            frames.append(cv2.cvtColor(clip.retrieve()[1], cv2.COLOR_BGR2RGB))
    if frames:
        yield number, frames


def ask(loaded: tuple[Any, Any], frames: Sequence[np.ndarray], args: argparse.Namespace) -> str:
    """What the model says of these frames, all of which it is shown."""
    from mlx_vlm import generate
    from mlx_vlm.prompt_utils import apply_chat_template

    model, processor = loaded
    video = np.stack(frames)
    prompt = apply_chat_template(processor, model.config, args.prompt, video=[video])
    options = {"max_slice_nums": 1, "use_image_id": False, "do_sample_frames": False}
    if args.mode:
        options["downsample_mode"] = args.mode
    answer = generate(model, processor, prompt, video=[video], max_tokens=args.max_tokens, temperature=0.0, **options)
    return str(answer.text).strip()


def clock(seconds: float, point: str) -> str:
    """A time as 01:02:03,450 with this decimal point."""
    minutes, milliseconds = divmod(round(seconds * 1000), 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds // 1000:02}{point}{milliseconds % 1000:03}"


def captions(rows: Sequence[dict[str, Any]], kind: str) -> str:
    """The text of the output file. A blank line would end a caption, so its text is put on one line."""
    if kind == ".jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    point = "," if kind == ".srt" else "."
    text = "" if kind == ".srt" else "WEBVTT\n\n"
    for number, row in enumerate(rows, 1):
        said = " ".join(row["text"].split())
        said = said if kind == ".srt" else html.escape(said, quote=False)
        text += f"{number}\n{clock(row['start'], point)} --> {clock(row['end'], point)}\n{said}\n\n"
    return text


def main() -> int:
    args = arguments()
    clip, rate, count = open_clip(args.video)
    names = ("model", "prompt", "mode", "seconds", "fps", "max_tokens")
    rows = Rows(args.output, {"video": str(args.video.absolute())} | {name: getattr(args, name) for name in names})
    done = len(rows.rows)
    print(f"{args.video}: {count / rate:.1f} seconds; {done} segments captioned before")
    total = max(1, -int(-count / rate // args.seconds))
    try:
        loaded = None
        with tqdm(total=total, initial=min(done, total), unit="segment") as bar:
            for number, frames in segments(clip, rate, count, args.seconds, args.fps, done):
                if loaded is None:
                    from mlx_vlm import load

                    try:
                        loaded = load(args.model)
                    except (OSError, ValueError) as error:
                        raise SystemExit(f"{args.model} cannot be loaded: {error}") from None
                start, end = number * args.seconds, min((number + 1) * args.seconds, count / rate)
                rows.add([{"start": start, "end": end, "text": ask(loaded, frames, args)}])
                bar.update()
    finally:
        write_whole(args.output, captions(rows.rows, args.output.suffix))
        print(f"{args.output}: {len(rows.rows)} captions")
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
