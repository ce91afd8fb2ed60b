"""Arrays for the model that do not fit each other: patches, units, placeholders, features."""

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_vlm import generate, load
from PIL import Image
from support.refusals import IMAGE, PIXELS, refuse
from support.tiny import IMAGE_PAD, VIDEO_PAD

from minicpmv46.processing import Processor


@pytest.fixture(scope="module")
def inputs(ours: Processor) -> dict[str, Any]:
    """One small image: 32x32 patches or so, and its prompt."""
    return dict(ours(f"{IMAGE} ?", images=PIXELS))


def embed(loaded: tuple[Any, Any], inputs: dict[str, Any], **changes: Any) -> Any:
    arguments = {**inputs, **changes}
    return loaded[0].get_input_embeddings(
        mx.array(arguments["input_ids"]),
        **{k: v for k, v in arguments.items() if k not in ("input_ids", "attention_mask")},
    )


def test_embeddings_of_good_inputs(loaded: tuple[Any, Any], inputs: dict[str, Any]) -> None:
    """What the cases below change, unchanged; zero rows at the end are padding."""
    expected = embed(loaded, inputs).inputs_embeds
    units = np.concatenate([inputs["image_units"], np.zeros((2, 4), np.int32)])
    assert mx.array_equal(embed(loaded, inputs, image_units=units).inputs_embeds, expected)


def test_embeddings_without_units(loaded: tuple[Any, Any], inputs: dict[str, Any]) -> None:
    refuse(lambda: embed(loaded, inputs, image_units=None), "image_units")


@pytest.mark.parametrize(
    ("column", "change", "words"),
    [
        (0, 4, ("patches",)),  # more patches than there are
        (2, -1, ("tokens", "grid")),  # a count that neither compression gives
        (2, 3, ("tokens", "grid")),
        (3, 1, ("tokens of id", "visual features")),  # video tokens where the prompt has image tokens
    ],
)
def test_embeddings_with_other_units(
    loaded: tuple[Any, Any], inputs: dict[str, Any], column: int, change: int, words: tuple[str, ...]
) -> None:
    units = inputs["image_units"].copy()
    units[0, column] += change
    refuse(lambda: embed(loaded, inputs, image_units=units), *words)


def test_embeddings_with_units_of_another_shape(loaded: tuple[Any, Any], inputs: dict[str, Any]) -> None:
    units = inputs["image_units"]
    refuse(lambda: embed(loaded, inputs, image_units=units[:, :3]), "image_units", "3")
    refuse(lambda: embed(loaded, inputs, image_units=units[0]), "image_units")


def test_embeddings_with_too_few_patches(loaded: tuple[Any, Any], inputs: dict[str, Any]) -> None:
    pixels = inputs["pixel_values"]
    count = len(pixels)
    refuse(lambda: embed(loaded, inputs, pixel_values=pixels[:-4]), str(count), str(count - 4), "patches")


def test_embeddings_with_patches_left_over(loaded: tuple[Any, Any], inputs: dict[str, Any]) -> None:
    """Patches of an image that no unit names: an image would be dropped without a word."""
    pixels = inputs["pixel_values"]
    refuse(
        lambda: embed(loaded, inputs, pixel_values=np.concatenate([pixels, pixels])),
        *(str(2 * len(pixels)), str(len(pixels)), "patches"),
    )


def test_embeddings_of_another_prompt(loaded: tuple[Any, Any], inputs: dict[str, Any]) -> None:
    """More and fewer placeholders than features."""
    ids, tokens = inputs["input_ids"], int(inputs["image_units"][0, 2])
    shorter = ids[:, ids[0].tolist().index(IMAGE_PAD) + 5 :]
    refuse(lambda: embed(loaded, inputs, input_ids=shorter), f"{tokens - 5} tokens", f"{tokens} visual features")
    longer = np.concatenate([ids, np.full((1, 3), IMAGE_PAD)], axis=1)
    refuse(lambda: embed(loaded, inputs, input_ids=longer), f"{tokens + 3} tokens", f"{tokens} visual features")


def test_embeddings_with_placeholders_of_no_unit(loaded: tuple[Any, Any], inputs: dict[str, Any]) -> None:
    """Placeholders that nothing fills must not be read as words."""
    ids = np.concatenate([inputs["input_ids"], np.full((1, 4), VIDEO_PAD)], axis=1)
    refuse(lambda: embed(loaded, inputs, input_ids=ids), "4 tokens", str(VIDEO_PAD))
    nothing = {name: inputs[name][:0] for name in ("pixel_values", "image_units")}
    refuse(lambda: embed(loaded, inputs, **nothing), str(IMAGE_PAD), "0 visual features")


def test_embeddings_with_features_of_another_request(loaded: tuple[Any, Any], inputs: dict[str, Any]) -> None:
    tokens = int(inputs["image_units"][0, 2])
    hidden = loaded[0].config.text_config.hidden_size
    for features in ([mx.zeros((tokens - 2, hidden))], [], [mx.zeros((tokens, hidden))] * 2):
        refuse(lambda features=features: embed(loaded, inputs, cached_image_features=features), "features")


@pytest.mark.parametrize("shape", ["flat", "rows"])
def test_embeddings_of_rows_that_agree_in_sum_only(loaded: tuple[Any, Any], ours: Processor, shape: str) -> None:
    """Two rows, two images: one each is right, both in the first row or one in halves is not."""
    one = ours([f"{IMAGE} a", f"{IMAGE} b"], images=[PIXELS, PIXELS])
    both = ours([f"{IMAGE}{IMAGE} a", "b"], images=[[PIXELS, PIXELS], []])
    units, pixels = one["image_units"], one["pixel_values"]
    if shape == "rows":
        units, pixels = units[:, None], pixels.reshape(2, -1, pixels.shape[-1])
    arguments = {"image_units": units, "pixel_values": pixels}
    assert embed(loaded, {**one, **arguments}).inputs_embeds.shape[0] == 2
    tokens = int(one["image_units"][0, 2])
    if shape == "rows":
        words = (f"row 0 of the batch has {2 * tokens} tokens", f"fill {tokens}")
        refuse(lambda: embed(loaded, {**both, **arguments}), *words)
    else:
        assert embed(loaded, {**both, **arguments}).inputs_embeds.shape[0] == 2
    ids = one["input_ids"].copy()
    places = np.argwhere(ids == IMAGE_PAD)
    (_, moved), (_, free) = places[0], np.argwhere(ids[1:] != IMAGE_PAD)[0]
    ids[0, moved], ids[1, free] = ids[1, free], IMAGE_PAD  # one token of the first image stands in the second row
    refuse(lambda: embed(loaded, {**one, **arguments, "input_ids": ids}), "row 0", f"[{tokens - 1}, {tokens + 1}]")


def test_an_image_without_a_token_for_videos(checkpoint: Any, tmp_path: Any) -> None:
    """A config.json that names none, as the official class allows."""
    folder = Path(shutil.copytree(checkpoint("base"), tmp_path / "folder"))
    arguments: Any = {"image": [Image.fromarray(PIXELS)], "max_tokens": 4, "temperature": 0.0}
    expected = generate(*load(str(folder)), f"{IMAGE} ?", **arguments)
    params = json.loads((folder / "config.json").read_text())
    del params["video_token_id"]
    (folder / "config.json").write_text(json.dumps(params))
    assert generate(*load(str(folder)), f"{IMAGE} ?", **arguments).token_ids == expected.token_ids
