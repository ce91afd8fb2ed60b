"""What the official processor takes beside options of media, compared with it. Needs torch."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")
pytest.importorskip("torchvision")

from support import oracle

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


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "LA", "RGBA", "PA", "1", "I;16"])
@pytest.mark.parametrize("form", ["path", "PIL", "loaded", "BytesIO"])
def test_transparency(mode: str, form: str, official: oracle.Oracle, processor: Any, tmp_path: Path) -> None:
    """A transparent colour (`tRNS`) or an alpha channel, as the official processor takes each form."""
    pixels = np.random.RandomState(5).randint(0, 4, (40, 60, 4)).astype(np.uint8) * 80
    image = Image.fromarray(pixels)
    path = tmp_path / "picture.png"
    if mode == "I;16":
        Image.fromarray(pixels[..., 0].astype(np.uint16) * 200).save(path)
    else:
        colour: Any = {"L": 80, "P": 1, "RGB": (80, 80, 160)}.get(mode)
        kept = image.convert("RGB").quantize(8) if mode in ("P", "PA") else image.convert(mode)
        if mode == "PA":  # saved as a palette with an alpha for each colour
            kept.save(path, transparency=bytes(range(0, 256, 36)))
        else:
            kept.save(path, **({} if colour is None else {"transparency": colour}))
    ours: Any = str(path)
    theirs: Any = str(path)
    if form in ("PIL", "loaded"):
        ours, theirs = Image.open(path), Image.open(path)
        if form == "loaded":
            ours.load()
    elif form == "BytesIO":
        ours = io.BytesIO(path.read_bytes())
    expected = official.processor(text=[IMAGE], images=[theirs], return_tensors="pt")["pixel_values"]
    np.testing.assert_array_equal(processor("base")(IMAGE, images=[ours])["pixel_values"], oracle.patch_rows(expected))
