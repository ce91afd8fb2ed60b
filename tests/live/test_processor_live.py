"""What the official processor takes beside options of media, compared with it. Needs torch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")
pytest.importorskip("torchvision")

import oracle

IMAGE = "<|image_pad|>"
TEXTS = ["hello", "hello world, what is this?"]


@pytest.fixture(scope="module")
def official(checkpoint: Callable[[str], Path]) -> oracle.Oracle:
    return oracle.Oracle(checkpoint("base"))


@pytest.mark.parametrize(
    "options",
    [
        {"padding": "max_length", "max_length": 40},
        {"padding": "max_length", "max_length": 40, "padding_side": "right"},
        {"padding": "longest"},
        {"truncation": True, "max_length": 5},
        {"truncation": "longest_first", "max_length": 4, "padding": "max_length"},
        {"pad_to_multiple_of": 16},
        {"max_length": 4},
        {"text_kwargs": {"padding": "max_length", "max_length": 33}},
    ],
    ids=str,
)
def test_text_options(options: dict[str, Any], official: oracle.Oracle, processor: Any) -> None:
    expected = official.processor(text=TEXTS, return_tensors="np", **options)
    inputs = processor("base")(TEXTS, **options)
    for name in ("input_ids", "attention_mask"):
        np.testing.assert_array_equal(inputs[name], expected[name], err_msg=name)


@pytest.mark.parametrize(
    "options",
    [
        {"images_kwargs": {"use_image_id": False}},
        {"images_kwargs": {"max_slice_nums": 2}, "use_image_id": False},
        {"padding": "max_length", "max_length": 400},
    ],
    ids=str,
)
def test_options_of_images(options: dict[str, Any], official: oracle.Oracle, processor: Any) -> None:
    images = [Image.new("RGB", (700, 500), (9, 200, 60)), Image.new("RGB", (30, 20))]
    expected = official.processor(text=[f"{IMAGE}{IMAGE} ?"], images=images, return_tensors="np", **options)
    inputs = processor("base")(f"{IMAGE}{IMAGE} ?", images=images, **options)
    np.testing.assert_array_equal(inputs["input_ids"], expected["input_ids"])
    np.testing.assert_array_equal(inputs["image_units"][:, :2], expected["target_sizes"])


def test_truncation_must_not_cut_media(official: oracle.Oracle, processor: Any) -> None:
    """Both refuse it."""
    image, options = Image.new("RGB", (30, 20)), {"truncation": True, "max_length": 9}
    for call in (official.processor, processor("base")):
        with pytest.raises(ValueError):
            call(text=[f"{IMAGE} ?"], images=[image], **options)


@pytest.mark.parametrize("images", ["flat", "nested", "all"])
def test_images_of_prompts(images: str, official: oracle.Oracle, processor: Any) -> None:
    red, green, blue = (Image.new("RGB", (30, 20), colour) for colour in ("red", "green", "blue"))
    texts = [f"{IMAGE}{IMAGE} a", f"{IMAGE} b"] if images != "all" else [f"{IMAGE}{IMAGE} a", "b"]
    lists: dict[str, Any] = {"flat": [red, green, blue], "nested": [[red, green], [blue]], "all": [[red, green], []]}
    given = lists[images]
    expected = official.processor(text=texts, images=given, return_tensors="pt")
    inputs = processor("base")(texts, images=given)
    np.testing.assert_array_equal(inputs["input_ids"], expected["input_ids"].numpy())
    np.testing.assert_array_equal(inputs["pixel_values"], oracle.patch_rows(expected["pixel_values"]))


def test_texts_of_generated_ids(official: oracle.Oracle, processor: Any) -> None:
    ids = processor("base").tokenizer(["  hello ", "a b<|im_end|>"])["input_ids"]
    ours = processor("base").post_process_image_text_to_text(ids)
    assert ours == official.processor.post_process_image_text_to_text(ids) == ["hello", "a b"]
