"""The processor: options belong to a call, prompts may be of any length, threads do not disturb each other."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from support import stages, tiny
from support.cases import BY_NAME

from minicpmv46.config import Config
from minicpmv46.processing import Processor


def pictures() -> list[Any]:
    return [BY_NAME[name].pictures[0].load() for name in ("photo_sliced", "page_sliced", "tiny_3x5")]


def same(a: Any, b: Any) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def test_threads_with_different_options(processor: Any) -> None:
    """Every call gets what it gets alone, whatever runs beside it."""
    shared = processor("base")
    images = pictures()
    calls = [
        {"downsample_mode": mode, "max_slice_nums": slices, "use_image_id": ids}
        for mode in ("16x", "4x")
        for slices in (1, 9)
        for ids in (True, False)
    ] * 3

    def call(i: int) -> Any:
        text = ["<|image_pad|>" + "word " * (i % 5), "<|image_pad|>"]
        return shared(text, images=[images[i % 3], images[(i + 1) % 3]], **calls[i])

    alone = [call(i) for i in range(len(calls))]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(call, range(len(calls))))
    assert all(same(a, b) for a, b in zip(alone, together, strict=True))
    assert shared.tokenizer.backend_tokenizer.padding is None


def test_padding(processor: Any) -> None:
    texts = ["a", "a much longer prompt than that"]
    rows = [processor("base")(text)["input_ids"][0] for text in texts]
    left = processor("base")(texts)
    right = processor("base")(texts, padding_side="right")
    pad = len(rows[1]) - len(rows[0])
    np.testing.assert_array_equal(left["input_ids"][0], [tiny.ENDOFTEXT] * pad + list(rows[0]))
    np.testing.assert_array_equal(right["input_ids"][0], list(rows[0]) + [tiny.ENDOFTEXT] * pad)
    np.testing.assert_array_equal(left["attention_mask"].sum(1), [len(row) for row in rows])
    ragged = processor("base")(texts, padding=False)["input_ids"]
    assert [len(row) for row in ragged] == [len(row) for row in rows]


def test_mlx_arrays(processor: Any) -> None:
    given = {"text": "<|image_pad|>", "images": pictures()[0]}
    arrays, mlx_arrays = processor("base")(**given), processor("base")(**given, return_tensors="mlx")
    for name, value in arrays.items():
        assert isinstance(mlx_arrays[name], mx.array)
        np.testing.assert_array_equal(np.array(mlx_arrays[name]), value)


def test_options_for_one_modality(processor: Any) -> None:
    """`images_kwargs` and `videos_kwargs` win over the plain options, for their own media only."""
    clip = BY_NAME["clip_short"].clips[0]
    given = {
        "text": "<|image_pad|><|video_pad|>",
        "images": pictures()[0],
        "videos": [clip.load()],
        "video_metadata": [clip.metadata],
        "max_slice_nums": 1,
    }
    plain = processor("base")(**given)["image_units"]
    mixed = processor("base")(**given, videos_kwargs={"downsample_mode": "4x"})["image_units"]
    images = plain[:, 3] == tiny.IMAGE_PAD
    np.testing.assert_array_equal(mixed[images[: len(mixed)]][:1], plain[images])
    assert (plain[:, 2] * 16 == plain[:, 0] * plain[:, 1]).all()
    frames = mixed[mixed[:, 3] == tiny.VIDEO_PAD]
    assert len(frames) and (frames[:, 2] * 4 == frames[:, 0] * frames[:, 1]).all()


def test_modes_share_a_batch(processor: Any, model: Any) -> None:
    """Units of both compressions and kinds encode together as they do apart."""
    images = pictures()
    modes = ("4x", "16x", "4x")
    parts = [
        processor("base")("<|image_pad|>", images=i, downsample_mode=m) for i, m in zip(images, modes, strict=True)
    ]
    apart = [f for part in parts for f in model("base").encode_images(part["pixel_values"], part["image_units"])]
    together = model("base").encode_images(
        np.concatenate([part["pixel_values"] for part in parts]),
        np.concatenate([part["image_units"] for part in parts]),
    )
    for a, b in zip(apart, together, strict=True):
        stages.assert_close(np.array(b), np.array(a), 1e-6, "features")


def test_padded_training_rows(processor: Any, model: Any) -> None:
    """Collated rows, [batch, patches, …] with zero rows in `image_units`, are the rows themselves."""
    parts = [processor("base")("<|image_pad|>", images=image) for image in pictures()[1:]]
    patches = max(len(part["pixel_values"]) for part in parts)
    units = max(len(part["image_units"]) for part in parts)
    pixel_values = np.stack([np.pad(p["pixel_values"], ((0, patches - len(p["pixel_values"])), (0, 0))) for p in parts])
    image_units = np.stack([np.pad(p["image_units"], ((0, units - len(p["image_units"])), (0, 0))) for p in parts])
    collated = model("base").encode_images(pixel_values, image_units)
    alone = [f for p in parts for f in model("base").encode_images(p["pixel_values"], p["image_units"])]
    for a, b in zip(alone, collated, strict=True):
        stages.assert_close(np.array(b), np.array(a), 1e-6, "features")


def test_special_tokens_without_the_tokenizers_help(checkpoint: Any, tmp_path: Any) -> None:
    """A tokenizer whose configuration lost the names of the placeholder tokens, as conversion leaves it."""
    for path in checkpoint("base").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    for name in ("extra_special_tokens", "model_specific_special_tokens", "image_token", "video_token"):
        config.pop(name, None)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    bare = Processor.from_pretrained(tmp_path)
    full = Processor.from_pretrained(checkpoint("base"))
    case = BY_NAME["photo_sliced"]
    assert same(stages.process(bare, case), stages.process(full, case))


def test_token_counts_without_pixels(processor: Any) -> None:
    for image in pictures():
        for options in ({}, {"downsample_mode": "4x", "max_slice_nums": 2}, {"slice_mode": False}):
            units = processor("base")("<|image_pad|>", images=image, **options)["image_units"]
            counted = processor("base").image_processor.num_image_tokens(image.height, image.width, **options)
            assert counted == units[:, 2].sum()


def test_placeholder_ids_follow_the_configuration(processor: Any) -> None:
    config = Config.from_dict(tiny.config("base"))
    assert processor("base").image_token_id == config.image_token_id
    assert processor("base").video_token_id == config.video_token_id


def test_tokenized_chat(processor: Any) -> None:
    """Media that messages name are processed as if they had been passed beside the rendered prompt."""
    image, clip = pictures()[0], BY_NAME["clip_short"].clips[0]
    path = Path(__file__).parent / "data" / "media" / "pan_short.mp4"

    def messages(*parts: Any) -> list[dict[str, Any]]:
        return [{"role": "user", "content": [*parts, {"type": "text", "text": "What is it?"}]}]

    ours, options = processor("base"), {"max_slice_nums": 2}
    named = messages({"type": "image", "image": image}, {"type": "video", "path": str(path)})
    prompt = ours.apply_chat_template(named, add_generation_prompt=True)
    expected = ours(prompt, images=[image], videos=[str(path)], **options)
    chat = {"tokenize": True, "add_generation_prompt": True, "processor_kwargs": options}
    assert same(ours.apply_chat_template(named, return_dict=True, **chat), expected)
    np.testing.assert_array_equal(ours.apply_chat_template(named, **chat), expected["input_ids"])

    both = [messages({"type": "image_url", "image_url": {"url": str(path.with_name("roof.png"))}}), messages()]
    assert ours.apply_chat_template(both, **chat).shape[0] == 2
    with pytest.raises(ValueError, match=re.escape("1 <|image_pad|> placeholder, but 0 images")):
        ours.apply_chat_template(messages({"type": "image"}), **chat)
    frames = {"type": "video", "video": clip.load()}
    assert len(ours.apply_chat_template(messages(frames), return_dict=True, **chat)["image_units"]) >= len(clip.load())


@pytest.mark.parametrize("option", ["max_slice_num", "downsample", "do_resize"])
def test_misspelt_options(processor: Any, option: str) -> None:
    with pytest.raises(TypeError, match=option):
        processor("base")("hello", **{option: 1})
    with pytest.raises(TypeError, match=option):
        processor("base")("hello", images_kwargs={option: 1})
