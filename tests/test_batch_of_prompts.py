"""`batch_generate` on lists of prompts: each row is answered as `generate` answers it alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlx_vlm import batch_generate, load
from mlx_vlm.prompt_utils import apply_chat_template
from support.asking import greedy
from support.pictures import MEDIA, Picture

PROMPTS = [
    "Hi",
    "Describe this image in a few words.",
    "Write the numbers from one to ten, then backwards, and then say which of them are prime.",
    "Why?",
]


@pytest.fixture(scope="module")
def base(checkpoint: Callable[[str], Path]) -> tuple[Any, Any]:
    """Model and processor as users get them."""
    return load(str(checkpoint("base")))


def alone(base: tuple[Any, Any], prompt: str, max_tokens: int, **keywords: Any) -> str:
    model, processor = base
    text = apply_chat_template(
        processor,
        model.config,
        prompt,
        num_images=len(keywords.get("image", ())),
        **({"video": keywords["video"]} if "video" in keywords else {}),
    )
    return greedy(model, processor, text, max_tokens, **keywords).text


def test_batch_of_texts(base: tuple[Any, Any]) -> None:
    """Prompts and limits of different lengths."""
    model, processor = base
    limits = [3, 12, 7, 9]
    batch = batch_generate(model, processor, prompts=PROMPTS, max_tokens=limits)
    expected = [alone(base, prompt, limit) for prompt, limit in zip(PROMPTS, limits, strict=True)]
    assert len(set(expected)) == len(PROMPTS)
    assert batch.texts == expected


def test_batch_of_images_and_texts(base: tuple[Any, Any]) -> None:
    """Images of two shapes, two of one shape, and a prompt without one."""
    model, processor = base
    roof = Picture("roof.png").load()
    images = [roof, Picture("waves", (300, 200)).load(), roof.rotate(180)]
    batch = batch_generate(model, processor, images=images, prompts=PROMPTS, max_tokens=8)
    expected = [alone(base, prompt, 8, image=[image]) for prompt, image in zip(PROMPTS, images, strict=False)]
    expected.append(alone(base, PROMPTS[3], 8))
    assert batch.texts == expected
    assert batch.image_sizes == [(147, 220), (300, 200), (147, 220), None]
    together = batch_generate(model, processor, images=images, prompts=PROMPTS, max_tokens=8, group_by_shape=False)
    assert together.texts == expected


def test_batch_of_images_and_videos(base: tuple[Any, Any]) -> None:
    """Rows with an image and a video, with a video only, and with neither."""
    model, processor = base
    videos = [str(MEDIA / "pan_short.mp4"), str(MEDIA / "jump.mp4")]
    image = str(MEDIA / "roof.png")
    batch = batch_generate(model, processor, images=[image], videos=videos, prompts=PROMPTS[:3], max_tokens=6, fps=1.0)
    assert batch.texts == [
        alone(base, PROMPTS[0], 6, image=[image], video=videos[:1], fps=1.0),
        alone(base, PROMPTS[1], 6, video=videos[1:], fps=1.0),
        alone(base, PROMPTS[2], 6),
    ]
