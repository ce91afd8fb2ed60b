"""examples/clip_to_captions.py: the frames of each segment, the three kinds of output, and a run that goes on."""

import json
import sys
from pathlib import Path
from typing import Any

import cv2
import mlx_vlm
import numpy as np
import pytest
from mlx_vlm import generate, load
from mlx_vlm.prompt_utils import apply_chat_template
from support.examples import DEMO, run

from minicpmv46.demo import sample

NAME = "clip_to_captions.py"
RATE = 10  # of the demo's clips


def decoded(name: str) -> np.ndarray:
    clip = cv2.VideoCapture(sample(name))
    count = int(clip.get(cv2.CAP_PROP_FRAME_COUNT))
    return np.stack([cv2.cvtColor(clip.read()[1], cv2.COLOR_BGR2RGB) for _ in range(count)])


@pytest.mark.parametrize(
    ("seconds", "fps", "done", "expected"),
    [
        (2, 1, 0, {0: [0, 10], 1: [20, 30]}),
        (3, 1, 0, {0: [0, 10, 20], 1: [30]}),
        (1.5, 2, 0, {0: [0, 5, 10], 1: [15, 20, 25], 2: [30, 35]}),
        (2, 0.1, 0, {0: [0], 1: [20]}),
        (1, 1, 3, {3: [30]}),
        (100, 4, 0, {0: [0, 3, 5, 8, 10, 13, 15, 18, 20, 23, 25, 28, 30, 33, 35, 38]}),
    ],
)
def test_segments(seconds: float, fps: float, done: int, expected: dict[int, list[int]]) -> None:
    """Which frames of a clip of 4 seconds make which segment."""
    import clip_to_captions

    frames = decoded("right.mp4")
    clip, rate, count = clip_to_captions.open_clip(Path(sample("right.mp4")))
    assert (rate, count) == (RATE, 40)
    found = dict(clip_to_captions.segments(clip, rate, count, seconds, fps, done))
    assert found.keys() == expected.keys()
    for number, indices in expected.items():
        np.testing.assert_array_equal(np.stack(found[number]), frames[indices])


def test_captions() -> None:
    """Times with their decimal point; a blank line and what is markup in .vtt cannot end a caption or hide in it."""
    import clip_to_captions

    rows = [{"start": 0, "end": 59.9996, "text": "a <b>\n\n& c"}, {"start": 3725.25, "end": 3730, "text": "d"}]
    assert clip_to_captions.captions(rows, ".srt") == (
        "1\n00:00:00,000 --> 00:01:00,000\na <b> & c\n\n2\n01:02:05,250 --> 01:02:10,000\nd\n\n"
    )
    assert clip_to_captions.captions(rows, ".vtt").startswith(
        "WEBVTT\n\n1\n00:00:00.000 --> 00:01:00.000\na &lt;b&gt; &amp; c\n\n"
    )


def test_goes_on(tmp_path: Path) -> None:
    """The colours of a clip, a second each; the first row is of a run that was killed."""
    question = "What colour appears first?"
    clip = tmp_path / "my clip.mp4"
    clip.write_bytes(Path(sample("colours.mp4")).read_bytes())
    settings = {"video": str(clip), "model": DEMO, "prompt": question, "mode": None, "seconds": 1.0}
    settings |= {"fps": 1, "max_tokens": 200}
    lines = [json.dumps(settings), json.dumps({"start": 0.0, "end": 1.0, "text": "as it was"}), '{"start": 1.0, "en']
    (tmp_path / "captions.srt.rows.jsonl").write_text("\n".join(lines))
    answer = run(
        NAME, clip.name, "-o", "captions.srt", "--model", DEMO, "--prompt", question, "--seconds", "1", folder=tmp_path
    )
    assert answer.returncode == 0, answer.stderr
    assert "1 segments captioned before" in answer.stdout
    assert (tmp_path / "captions.srt").read_text() == (
        "1\n00:00:00,000 --> 00:00:01,000\nas it was\n\n"
        "2\n00:00:01,000 --> 00:00:02,000\nyellow\n\n"
        "3\n00:00:02,000 --> 00:00:03,000\nred\n\n"
    )


def test_whole_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One segment as long as the clip gets as many tokens and the answer that the file gets from `generate`."""
    import clip_to_captions

    model, processor = load(DEMO)
    question, clip, calls = "What happens?", sample("right.mp4"), []

    def recorded(*arguments: Any, **options: Any) -> Any:
        calls.append(generate(*arguments, **options))
        return calls[-1]

    monkeypatch.setattr(mlx_vlm, "generate", recorded)
    for mode in ("4x", "16x"):
        output = tmp_path / f"{mode}.jsonl"
        command = [NAME, clip, "-o", output, "--model", DEMO, "--prompt", question, "--seconds", "60", "--mode", mode]
        monkeypatch.setattr(sys, "argv", list(map(str, command)))
        assert clip_to_captions.main() == 0
        prompt = apply_chat_template(processor, model.config, question, video=[clip])
        options = {"max_slice_nums": 1, "use_image_id": False, "downsample_mode": mode}
        expected = generate(model, processor, prompt, video=[clip], max_tokens=20, temperature=0.0, **options)
        assert calls[-1].prompt_tokens == expected.prompt_tokens
        assert json.loads(output.read_text()) == {"start": 0.0, "end": 4.0, "text": expected.text}
    assert len(calls) == 2
    assert calls[0].prompt_tokens > calls[1].prompt_tokens


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("nowhere.mp4", "-o", "c.srt"), 2, "nowhere.mp4 is not a file"),
        (("text.mp4", "-o", "c.srt"), 1, "text.mp4 cannot be read as a video"),
        (("text.mp4", "-o", "c.txt"), 2, "the name must end in .jsonl, .srt, .vtt"),
        (("text.mp4", "-o", "c.srt", "--seconds", "0"), 2, "must be more than 0"),
    ],
)
def test_wrong_arguments(tmp_path: Path, arguments: tuple[str, ...], status: int, words: str) -> None:
    (tmp_path / "text.mp4").write_text("no clip")
    answer = run(NAME, *arguments, folder=tmp_path)
    assert (answer.returncode, answer.stdout) == (status, "")
    assert words in answer.stderr
    assert "Traceback" not in answer.stderr
