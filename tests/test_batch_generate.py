"""Batches of requests with media, texts and options mixed at random: each row answers as it does alone.

Alone means one `generate` call, or, where keys and values are quantized, one row on mlx-vlm's single caches: its
batches quantize from the first token on, all attention layers but the last, and `generate` does otherwise.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_vlm import batch_generate, generate, load
from mlx_vlm.generate.ar import BatchGenerator
from mlx_vlm.models.cache import QuantizedKVCache
from mlx_vlm.prompt_utils import apply_chat_template
from mlx_vlm.turboquant import TurboQuantKVCache
from mlx_vlm.utils import prepare_inputs
from PIL import Image
from support.pictures import MEDIA, Clip, Picture, media_of
from support.tiny import STOP_TOKENS

from minicpmv46.plugin import batches

NEW_TOKENS = 10


@dataclass(frozen=True)
class Request:
    """A user's question with its media and processor options."""

    text: str
    images: tuple[Picture, ...] = ()
    clips: tuple[Clip, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)

    def media(self) -> dict[str, Any]:
        """Keywords of `prepare_inputs`."""
        return {**self.options, **media_of(self.images, self.clips)}


def question(model: Any, processor: Any, request: Request) -> str:
    """The rendered prompt."""
    video = {"video": ["clip"] * len(request.clips)} if request.clips else {}
    return apply_chat_template(processor, model.config, request.text, num_images=len(request.images), **video)


def lone(loaded: tuple[Any, Any], request: Request, max_tokens: int = NEW_TOKENS) -> Any:
    """`generate`'s result."""
    media = {{"images": "image", "videos": "video"}.get(name, name): value for name, value in request.media().items()}
    return generate(*loaded, question(*loaded, request), max_tokens=max_tokens, temperature=0.0, **media)


def words(count: int, seed: int) -> str:
    random = np.random.RandomState(seed)
    return " ".join("".join(chr(97 + c) for c in random.randint(0, 26, random.randint(1, 9))) for _ in range(count))


# Units of a quarter of the side have a sixteenth of the tokens, and cost as little: most requests are asked that way.
SMALL = {"scale_resolution": 112}
ONE_UNIT, STRIP, SLICED = Picture("waves", (63, 91)), Picture("tiles", (31, 290)), Picture("waves", (300, 270))
POOL = {
    "one word": Request("Hi"),
    "seven words": Request(words(7, 1)),
    "twenty words": Request(words(20, 2)),
    "one unit": Request("a", (ONE_UNIT,)),
    "one unit, 4x": Request("What?", (ONE_UNIT,), options={**SMALL, "downsample_mode": "4x"}),
    "slices": Request(words(3, 3), (SLICED,), options=SMALL),
    "strip": Request("Read it.", (STRIP,), options={**SMALL, "max_slice_nums": 4, "use_image_id": False}),
    "two images": Request("Compare", (Picture("roof.png"), ONE_UNIT), options=SMALL),
    "clip": Request("What moves?", clips=(Clip("temple.png", 20, 10, (64, 112)),), options=SMALL),
    "image and clip": Request(words(5, 4), (STRIP,), (Clip("waves", 3, 1, (57, 43)),), SMALL),
}
NAMES = list(POOL)


@pytest.fixture(scope="module")
def loaded(checkpoint: Callable[[str], Path]) -> tuple[Any, Any]:
    """Eight layers, two of them attention: of these mlx-vlm's batches quantize the first."""
    model, processor = load(str(checkpoint("untied")))
    processor.tokenizer.stopping_criteria.reset(model.config.eos_token_id)
    return model, processor


@pytest.fixture(scope="module")
def embedded(loaded: tuple[Any, Any]) -> Callable[[str], tuple[list[int], dict[str, Any]]]:
    """Ids of a request, and what mlx-vlm's server hands to its generator beside them."""
    model, processor = loaded

    @cache
    def make(name: str) -> tuple[list[int], dict[str, Any]]:
        request = POOL[name]
        inputs = prepare_inputs(processor, prompts=question(model, processor, request), **request.media())
        ids, pixels, mask = inputs.pop("input_ids"), inputs.pop("pixel_values", None), inputs.pop("attention_mask")
        features = model.get_input_embeddings(ids, pixels, mask=mask, **inputs)
        return ids[0].tolist(), {**inputs, **{k: v for k, v in features.to_dict().items() if v is not None}}

    return make


@dataclass(frozen=True)
class Scheme:
    """A way of keeping keys and values: options of a batch, and the single cache that does the same."""

    options: dict[str, Any]
    single: Callable[[], Any] | None = None


SCHEMES = {
    "float": Scheme({}),
    "uniform 8": Scheme({"kv_bits": 8, "kv_group_size": 32}, lambda: QuantizedKVCache(group_size=32, bits=8)),
    "uniform 4": Scheme({"kv_bits": 4, "kv_group_size": 32}, lambda: QuantizedKVCache(group_size=32, bits=4)),
    "turboquant 8": Scheme(
        {"kv_bits": 8, "kv_quant_scheme": "turboquant", "quantized_kv_start": 0}, lambda: TurboQuantKVCache(bits=8)
    ),
    "turboquant 3.5": Scheme({"kv_bits": 3.5, "quantized_kv_start": 0}, lambda: TurboQuantKVCache(bits=3.5)),
    "turboquant 8/4": Scheme(
        {
            "kv_bits": 8,
            "kv_quant_scheme": "turboquant",
            "kv_key_bits": 8,
            "kv_value_bits": 4,
            "quantized_kv_start": 0,
        },
        lambda: TurboQuantKVCache(bits=8, key_bits=8, value_bits=4),
    ),
}


@pytest.fixture(scope="module")
def alone(loaded: tuple[Any, Any], embedded: Any) -> Callable[[str, str], list[int]]:
    """Greedy tokens of a request alone, up to and with a stop token."""
    lm = loaded[0].language_model

    @cache
    def answer(name: str, scheme: str) -> list[int]:
        make = SCHEMES[scheme].single
        if make is None:
            return lone(loaded, POOL[name]).token_ids
        ids, extras = embedded(name)
        state = lm.make_cache()
        state[3] = make()
        logits = lm(mx.array([ids]), inputs_embeds=extras["inputs_embeds"], cache=state).logits
        found = [int(logits[0, -1].argmax())]
        while len(found) < NEW_TOKENS and found[-1] not in STOP_TOKENS:
            logits = lm(mx.array([found[-1:]]), cache=state).logits
            found.append(int(logits[0, -1].argmax()))
        return found

    return answer


def test_lone_answers_differ(alone: Any) -> None:
    """A row that gets a neighbour's answer would be seen, and from its first tokens on."""
    assert len({tuple(alone(name, "float")[:2]) for name in POOL}) == len(POOL)


@pytest.mark.parametrize(
    ("scheme", "seed"),
    [
        *(("float", seed) for seed in range(10)),
        *(("uniform 8", 8), ("uniform 4", 9), ("turboquant 8", 2), ("turboquant 3.5", 6), ("turboquant 8/4", 6)),
    ],
)
def test_random_batches(loaded: tuple[Any, Any], embedded: Any, alone: Any, scheme: str, seed: int) -> None:
    """One to eight requests of the pool, each with a limit of its own; some arrive later and one may be cancelled."""
    model, processor = loaded
    random = np.random.RandomState(seed)
    rows = [(NAMES[random.randint(len(NAMES))], int(random.randint(1, NEW_TOKENS + 1))) for _ in range(8 - seed % 8)]
    first = int(random.randint(1, len(rows) + 1))
    arrivals = {0: rows[:first], int(random.randint(1, 8)): rows[first:]}
    cancelled_at = int(random.randint(2, 12))
    together = int(random.randint(1, 5))
    generator = BatchGenerator(
        model.language_model,
        processor,
        prefill_batch_size=together,
        completion_batch_size=together + int(random.randint(0, 6)),
        prefill_step_size=(16, None, 33, 2048, 7)[seed % 5],
        **SCHEMES[scheme].options,
    )
    wanted: dict[int, list[int]] = {}
    found: dict[int, list[int]] = {}
    for step in range(1000):
        if new := arrivals.pop(step, None):
            prompts = [embedded(name) for name, _ in new]
            extras = [dict(kwargs) for _, kwargs in prompts]
            uids = generator.insert([ids for ids, _ in prompts], [limit for _, limit in new], prompt_kwargs=extras)
            for uid, (name, limit) in zip(uids, new, strict=True):
                wanted[uid], found[uid] = alone(name, scheme)[:limit], []
        if step == cancelled_at and seed % 2:
            last = max(wanted)
            generator.remove(last)
            wanted[last] = wanted[last][: len(found[last])]
        for response in generator.next()[1]:
            found[response.uid].append(response.token)
        if not arrivals and not generator.has_work:
            break
    generator.close()
    assert found == wanted


# mlx-vlm's `batch_generate`: one image a row at most, the first rows have them; videos likewise.

ROWS = [words(1 + 5 * i, 10 + i) for i in range(8)]
PICTURES = (ONE_UNIT, STRIP, Picture("gradient", (63, 91), seed=2), SLICED)  # two of one shape


@pytest.mark.parametrize("seed", range(4))
def test_random_batch_generate(loaded: tuple[Any, Any], seed: int) -> None:
    """Texts come back in the order of the prompts, whatever mlx-vlm groups, pads and sorts."""
    model, processor = loaded
    random = np.random.RandomState(seed)
    count = (7, 8, 3, 1)[seed]
    shown = int(random.randint(0, min(count, 4) + 1))
    pictures = [PICTURES[random.randint(4)] for _ in range(shown)]
    limits = [int(random.randint(1, NEW_TOKENS + 1)) for _ in range(count)]
    batch = batch_generate(
        model,
        processor.with_defaults(scale_resolution=112),
        images=[picture.load() for picture in pictures] or None,
        prompts=ROWS[:count],
        max_tokens=limits,
        group_by_shape=bool(seed % 2),
        prefill_step_size=(2048, 13, None)[seed % 3],
    )
    images = [(picture,) for picture in pictures] + [()] * (count - shown)
    requests = [Request(text, image, options=SMALL) for text, image in zip(ROWS, images, strict=False)]
    expected = [lone(loaded, request, limit).text for request, limit in zip(requests, limits, strict=True)]
    assert batch.texts == expected


def test_pictures_of_different_sizes_make_one_batch(loaded: tuple[Any, Any], encodings: list[int]) -> None:
    """Without `group_by_shape`, which keeps its meaning where it is given; rows keep their limits and processors."""
    model, processor = loaded
    small = processor.with_defaults(scale_resolution=112)
    pictures = (SLICED, ONE_UNIT, STRIP, PICTURES[2])  # three shapes
    images = [picture.load() for picture in pictures]

    def never(token: int) -> Callable[[mx.array, mx.array], mx.array]:
        return lambda tokens, logits: mx.where(mx.arange(logits.shape[-1]) == token, -mx.inf, logits)

    requests = [Request(text, (picture,), options=SMALL) for text, picture in zip(ROWS, pictures, strict=False)]
    requests += [Request(text) for text in ROWS[4:6]]  # without a picture: a batch of their own
    limits = [9, 4, 7, 8, 5, 6]
    banned = [never(lone(loaded, request, 1).token_ids[0]) for request in requests]

    def batch(**options: Any) -> list[str]:
        encodings.clear()
        processors = {"logits_processors": [[ban] for ban in banned]}
        rows = {"images": images, "prompts": ROWS[:6], "max_tokens": limits, **processors}
        return batch_generate(model, small, **rows, **options).texts

    texts = batch()
    assert len(encodings) == 1
    assert batch(group_by_shape=True) == texts and len(encodings) == 3
    assert batch(group_by_shape=False) == texts and len(encodings) == 1
    encodings.clear()
    assert batch_generate(model, small, images, None, ROWS[:4], 2, False, True).texts and len(encodings) == 3
    for text, request, limit, ban in zip(texts, requests, limits, banned, strict=True):
        media = {"image": [picture.load() for picture in request.images]} if request.images else {}
        alone = generate(
            model,
            small,
            question(*loaded, request),
            max_tokens=limit,
            temperature=0.0,
            logits_processors=[ban],
            **media,
        )
        assert text == alone.text
        assert text != lone(loaded, request, limit).text


def test_many_pictures_make_several_batches(
    loaded: tuple[Any, Any], encodings: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch has a bound, so that memory has one; the order of the answers is that of the pictures."""
    model, processor = loaded
    small = processor.with_defaults(scale_resolution=112)
    images = [picture.load() for picture in (STRIP, ONE_UNIT, SLICED, PICTURES[2], ONE_UNIT)]
    expected = [
        batch_generate(model, small, [image], prompts=[text], max_tokens=5).texts[0]
        for image, text in zip(images, ROWS[:5], strict=True)
    ]
    images[3] = np.asarray(images[3])  # has no height and width of its own
    monkeypatch.setattr(batches, "MAX_ROWS", 2)
    encodings.clear()
    assert batch_generate(model, small, images=images, prompts=ROWS[:5], max_tokens=5).texts == expected
    assert len(encodings) == 3


@pytest.mark.parametrize("scheme", ["uniform 8", "turboquant 8"])
def test_batch_generate_with_quantized_caches(loaded: tuple[Any, Any], scheme: str) -> None:
    """Each row's text is that of a batch of this row only."""
    model, processor = loaded
    small = processor.with_defaults(scale_resolution=112)
    images = [ONE_UNIT.load()]

    def texts(images: Any, prompts: Sequence[str]) -> list[str]:
        options = SCHEMES[scheme].options
        return batch_generate(model, small, images=images, prompts=prompts, max_tokens=NEW_TOKENS, **options).texts

    ones = texts(images, ROWS[:1]) + [texts(None, [text])[0] for text in ROWS[1:4]]
    assert texts(images, ROWS[:4]) == ones


def test_mixed_schemes_are_refused_in_batches(loaded: tuple[Any, Any]) -> None:
    """mlx-vlm's own limit, told in its own words."""
    with pytest.raises(NotImplementedError, match="mixed key/value KV quantization schemes"):
        batch_generate(*loaded, prompts=ROWS[:2], kv_bits=8, kv_group_size=32, kv_value_scheme="turboquant")


def test_random_batch_with_videos(loaded: tuple[Any, Any]) -> None:
    """Rows with an image and a video, with either, with a short text and with a long one."""
    model, processor = loaded
    paths = [str(MEDIA / "pan_short.mp4"), str(MEDIA / "jump.mp4"), str(MEDIA / "pan_short.mp4")]
    images = [STRIP.load(), ONE_UNIT.load()]
    small = processor.with_defaults(scale_resolution=112)
    batch = batch_generate(
        model, small, images=images, videos=paths, prompts=ROWS[:5], max_tokens=[4, 9, 6, 8, 5], fps=[1.0, 0.5, 2.0]
    )
    for row, limit in enumerate([4, 9, 6, 8, 5]):
        media: dict[str, Any] = {"image": images[row : row + 1]}
        if row < len(paths):
            media |= {"video": paths[row : row + 1], "fps": [1.0, 0.5, 2.0][row]}
        prompt = apply_chat_template(
            small, model.config, ROWS[row], num_images=len(media["image"]), video=media.get("video")
        )
        text = generate(model, small, prompt, max_tokens=limit, temperature=0.0, **media).text
        assert batch.texts[row] == text, row


# mlx-vlm's generator closes what its constructor did not make.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_options_of_a_batch(loaded: tuple[Any, Any]) -> None:
    """`batch_generate` takes no processor options and says so; a processor with other defaults brings them."""
    model, processor = loaded
    options = {**SMALL, "downsample_mode": "4x", "max_slice_nums": 2}
    pictures = [SLICED, ONE_UNIT]
    images = [picture.load() for picture in pictures]
    with pytest.raises(TypeError, match="downsample_mode"):
        batch_generate(model, processor, images=images, prompts=ROWS[:2], downsample_mode="4x")
    batch = batch_generate(
        model, processor.with_defaults(**options), images=images, prompts=ROWS[:2], max_tokens=NEW_TOKENS
    )
    requests = [Request(text, (picture,), options=options) for text, picture in zip(ROWS, pictures, strict=False)]
    assert batch.texts == [lone(loaded, request).text for request in requests]
    assert batch.texts[0] != lone(loaded, Request(ROWS[0], (SLICED,), options=SMALL)).text


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"downsample_mode": "4x", "max_slice_nums": 2, "scale_resolution": 224, "use_image_id": False},
        {"slice_mode": False, "max_num_frames": 2, "stack_frames": 3},
        {"do_sample_frames": False, **SMALL},
    ],
    ids=str,
)
def test_other_defaults(loaded: tuple[Any, Any], options: dict[str, Any]) -> None:
    """Options as defaults mean what they mean in a call, for images and videos, and a call's own still win."""
    processor = loaded[1]
    clip = Clip("temple.png", 6, 2.5, (64, 112))
    media = {"images": [SLICED.load()], "videos": [clip.load()], "video_metadata": [clip.metadata]}
    changed, prompt = processor.with_defaults(**options), "<|image_pad|><|video_pad|>"
    for own in ({}, {"downsample_mode": "16x", "use_image_id": True, "max_slice_nums": 3}):
        expected, inputs = processor(prompt, **media, **{**options, **own}), changed(prompt, **media, **own)
        assert expected.keys() == inputs.keys()
        for name in expected:
            np.testing.assert_array_equal(inputs[name], expected[name], err_msg=name)
    assert processor.image_processor.to_dict() == loaded[1].with_defaults().image_processor.to_dict()


def test_defaults_that_are_not_supported(loaded: tuple[Any, Any]) -> None:
    for options, word in (({"downsample_mode": "8x"}, "8x"), ({"use_image_id": 1}, "use_image_id")):
        with pytest.raises(ValueError, match=word):
            loaded[1].with_defaults(**options)
    with pytest.raises(TypeError, match="max_slices"):
        loaded[1].with_defaults(max_slices=3)


def test_names_of_images_are_read_as_everywhere(loaded: tuple[Any, Any], tmp_path: Path) -> None:
    """In the named formats, within the limits, and with a transparent colour on white: not by mlx-vlm."""
    model, processor = loaded
    path = tmp_path / "picture.png"
    Image.new("L", (40, 30), 80).save(path, transparency=80)
    answers = batch_generate(model, processor, images=[str(path), str(path)], prompts=["What?"] * 2, max_tokens=4)
    white = [Image.new("RGB", (40, 30), "white")] * 2
    assert answers.texts == batch_generate(model, processor, images=white, prompts=["What?"] * 2, max_tokens=4).texts
    with pytest.raises(ValueError, match=r"image 1.*pixels = 1,000"):
        few = processor.with_limits(pixels=1000)
        batch_generate(model, few, images=[Image.new("RGB", (9, 9)), str(path)], prompts=["a", "b"], max_tokens=1)
    Image.new("RGB", (40, 30)).save(path, "EPS")
    with pytest.raises(ValueError, match=r"image 0.*cannot identify"):
        batch_generate(model, processor, images=str(path), prompts=["a"], max_tokens=1)
