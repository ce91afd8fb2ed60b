"""What users type: `python -m mlx_vlm.generate …`, where nothing imports this package but its own `.pth` line.

The printed answer must be the one of the same request through Python, which is built here from media that were
decoded and resized beforehand; where the request is a recorded case, it must be the official answer.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from mlx_vlm import generate, load
from mlx_vlm.prompt_utils import apply_chat_template
from support import golden_data
from support.cases import BY_NAME
from support.pictures import MEDIA, MP4_FILES, Picture
from support.running import python


@pytest.fixture(scope="module")
def loaded(checkpoint: Callable[[str], Path]) -> Callable[[str], tuple[Any, Any]]:
    """Model and processor of a variant as users get them."""
    return cache(lambda variant="base": load(str(checkpoint(variant))))


def decoded(name: str) -> tuple[np.ndarray, dict[str, Any]]:
    """All frames of a committed clip and what its container says."""
    frames, fps, height, width = MP4_FILES[name]
    capture = cv2.VideoCapture(str(MEDIA / name))
    clip = np.stack([cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB) for _ in range(frames)])
    capture.release()
    assert clip.shape == (frames, height, width, 3)
    return clip, {"total_num_frames": frames, "fps": fps, "duration": frames / fps}


@dataclass(frozen=True)
class Command:
    """Flags beside `--model`, `--max-tokens` and `--temperature`, and the same request for Python.

    Attributes:
        golden: recorded case that this is.
        images, video: media of the request in Python, already decoded.
        keywords: other arguments of `generate`; `template` those of the chat template.
    """

    flags: tuple[str, ...]
    prompt: str
    golden: str | None = None
    variant: str = "base"
    images: tuple[Any, ...] = ()
    video: str | None = None
    system: str | None = None
    keywords: dict[str, Any] = field(default_factory=dict)
    template: dict[str, Any] = field(default_factory=dict)
    tokens: int = 8


def media(name: str) -> str:
    return str(MEDIA / name)


def half() -> Any:
    """`temple.png`, 640x427, in a box of 320x300."""
    return Picture("temple.png").load().resize((320, 213))


PLAIN_VIDEO = '{"max_num_frames": 32, "stack_frames": 1, "max_slice_nums": 1, "use_image_id": false}'
PLAIN = {"max_slice_nums": 1, "use_image_id": False}

COMMANDS = {
    "image": Command(
        ("--image", media("temple.png")),
        "Describe this image",
        "photo_sliced",
        images=(Picture("temple.png").load(),),
    ),
    "video": Command(
        ("--video", media("pan_short.mp4"), "--fps", "1", "--processor-kwargs", PLAIN_VIDEO),
        "Describe this video",
        video="pan_short.mp4",
        keywords=PLAIN,
    ),
    "image 4x": Command(
        (
            "--image",
            media("temple.png"),
            "--processor-kwargs",
            '{"downsample_mode": "4x", "max_slice_nums": 36}',
        ),
        "Describe this image",
        "photo_sliced_4x",
        images=(Picture("temple.png").load(),),
        keywords={"downsample_mode": "4x"},
    ),
    "many slices": Command(
        ("--image", "waves.png", "--processor-kwargs", '{"max_slice_nums": 36}'),
        "Read it.",
        "large_1500x1100_36",
        images=(Picture("waves", (1500, 1100)).load(),),
        keywords={"max_slice_nums": 36},
    ),
    "two images, piecewise": Command(
        ("--image", media("roof.png"), media("flower.png"), "--prefill-step-size", "7"),
        "Compare the two images",
        "two_photos",
        images=(Picture("roof.png").load(), Picture("flower.png").load()),
    ),
    "system, video, thinking, frame count": Command(
        (
            "--system",
            "Be brief.",
            "--video",
            media("jump.mp4"),
            "--video-num-frames",
            "2",
            "--enable-thinking",
            "--processor-kwargs",
            '{"stack_frames": 2, "max_slice_nums": 1}',
        ),
        "What happens?",
        video="jump.mp4",
        system="Be brief.",
        keywords={"nframes": 2, "stack_frames": 2, "max_slice_nums": 1},
        template={"enable_thinking": True},
    ),
    "image and video": Command(
        (
            "--image",
            media("roof.png"),
            "--video",
            media("pan_long.mp4"),
            "--fps",
            "0.5",
            "--video-max-frames",
            "2",
        ),
        "Is the image in the video?",
        images=(Picture("roof.png").load(),),
        video="pan_long.mp4",
        keywords={"fps": 0.5, "max_frames": 2},
    ),
    "text": Command(("--prefill-step-size", "3"), "Hello!", "text_hello", tokens=16),
    "text, thinking": Command(
        ("--enable-thinking",), "Why is the sky blue?", "text_thinking", template={"enable_thinking": True}
    ),
    "quantized cache": Command(
        ("--kv-bits", "8", "--kv-group-size", "32", "--quantized-kv-start", "0"),
        " ".join(f"Line {i} of the page is about river {i * 7 % 13}." for i in range(20)),
        variant="untied",
        keywords={"kv_bits": 8, "kv_group_size": 32, "quantized_kv_start": 0},
    ),
    "ocr: image": Command(
        ("--image", media("temple.png")),
        "Describe this image",
        "ocr_photo",
        "ocr",
        images=(Picture("temple.png").load(),),
    ),
    "ocr: adaptive": Command(
        ("--image", media("slide.png"), "--processor-kwargs", '{"small_image_upsize": "adaptive"}'),
        "Read all text.",
        "ocr_slide_adaptive",
        "ocr",
        images=(Picture("slide.png").load(),),
        keywords={"small_image_upsize": "adaptive"},
    ),
    "ocr: video": Command(
        ("--video", media("pan_short.mp4"), "--fps", "1", "--processor-kwargs", PLAIN_VIDEO),
        "Describe this video",
        variant="ocr",
        video="pan_short.mp4",
        keywords=PLAIN,
    ),
    "resized image": Command(
        ("--image", media("temple.png"), "--resize-shape", "320", "300"),
        "Describe this image",
        images=(half(),),
    ),
}


def expected(command: Command, model: Any, processor: Any) -> str:
    """The answer through Python, with frames and pixels instead of paths."""
    prompt: Any = command.prompt
    if command.system:
        prompt = [{"role": "system", "content": command.system}, {"role": "user", "content": command.prompt}]
    media_inputs: dict[str, Any] = {"image": list(command.images)} if command.images else {}
    template = dict(command.template)
    if command.video:
        frames, metadata = decoded(command.video)
        template["video"] = [command.video]
        text = apply_chat_template(processor, model.config, prompt, num_images=len(command.images), **template)
        # Straight to the processor: mlx-vlm's flags must mean what the processor's options of those names mean.
        inputs = processor(
            text,
            images=list(command.images) or None,
            videos=[frames],
            video_metadata=[metadata],
            return_tensors="mlx",
            **command.keywords,
        )
        inputs.pop("attention_mask")
        return generate(model, processor, text, max_tokens=command.tokens, temperature=0.0, **inputs).text
    text = apply_chat_template(processor, model.config, prompt, num_images=len(command.images), **template)
    result = generate(
        model, processor, text, max_tokens=command.tokens, temperature=0.0, **media_inputs, **command.keywords
    )
    if command.golden:
        assert result.token_ids == golden_data.load(command.golden)["greedy"].tolist()
        assert BY_NAME[command.golden].variant == command.variant
    return result.text


@pytest.mark.parametrize("name", COMMANDS)
def test_command(name: str, folder: Path, checkpoint: Callable[[str], Path], loaded: Any) -> None:
    command = COMMANDS[name]
    if "waves.png" in command.flags:
        command.images[0].save(folder / "waves.png")
    done = python(
        *("-m", "mlx_vlm.generate", "--model", str(checkpoint(command.variant)), *command.flags),
        *("--prompt", command.prompt, "--max-tokens", str(command.tokens), "--temperature", "0.0"),
        folder=folder,
    )
    assert done.returncode == 0, done.stderr.decode()
    text = expected(command, *loaded(command.variant))
    assert len(text) > 3
    assert done.stdout.decode() == f"{text}\n", done.stderr.decode()


def test_short_form_of_the_command(folder: Path, checkpoint: Callable[[str], Path], loaded: Any) -> None:
    """`python -m mlx_vlm generate`, with `--verbose`: the files, the prompt with its placeholder and the counts."""
    done = python(
        *("-m", "mlx_vlm", "generate", "--model", str(checkpoint("base")), "--image", media("roof.png")),
        *("--prompt", "What is it?", "--max-tokens", "4", "--temperature", "0.0", "--verbose"),
        folder=folder,
    )
    output = done.stdout.decode()
    assert done.returncode == 0, done.stderr.decode()
    assert "<|im_start|>user\n<|image_pad|>\nWhat is it?<|im_end|>" in output
    model, processor = loaded("base")
    prompt = apply_chat_template(processor, model.config, "What is it?", num_images=1)
    result = generate(model, processor, prompt, image=[media("roof.png")], max_tokens=4, temperature=0.0)
    assert f"Prompt: {result.prompt_tokens} tokens" in output and result.text in output


REFUSED = {
    "value": (("--processor-kwargs", '{"downsample_mode": "8x"}'), "downsample_mode must be one of '4x', '16x', not"),
    "name": (("--processor-kwargs", '{"max_slices": 3}'), "'max_slices' is probably 'max_slice_nums'"),
    "missing": (("--image", "not there.png"), "image 0: cannot read 'not there.png': No such file or directory"),
    "missing video": (("--video", "not there.mp4"), "video 0: there is no file 'not there.mp4'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_command_that_is_refused(name: str, folder: Path, checkpoint: Callable[[str], Path]) -> None:
    """It ends with one line that says why, without a traceback, and nothing is printed as an answer."""
    flags, words = REFUSED[name]
    done = python(
        *("-m", "mlx_vlm.generate", "--model", str(checkpoint("base")), "--image", media("roof.png")),
        *("--prompt", "What is it?", *flags),
        folder=folder,
    )
    assert done.returncode == 1 and not done.stdout
    (line,) = done.stderr.decode().strip().splitlines()
    assert line.startswith("error: ") and words in line
