"""What cannot be answered is refused in one sentence that names the thing and the values, before any forward pass.

Direct calls of the processor and of the model, and the same mistakes through mlx-vlm's own functions.
"""

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from cases import MEDIA, Picture
from mlx_vlm import batch_generate, generate, load
from mlx_vlm.prompt_utils import apply_chat_template
from mlx_vlm.utils import estimate_num_image_tokens
from PIL import Image
from tiny import IMAGE_PAD, VIDEO_PAD

from minicpmv46.model import LanguageModel, Model
from minicpmv46.processing import MiniCPMV46Processor

IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
PIXELS = np.random.RandomState(0).randint(0, 256, (20, 30, 3)).astype(np.uint8)
FRAMES = np.random.RandomState(1).randint(0, 256, (6, 28, 36, 3)).astype(np.uint8)
METADATA = {"total_num_frames": 6, "fps": 2.0, "duration": 3.0}
# Words of other people's errors.
FOREIGN = ("torch", "Failed to process inputs", "NoneType", "object is not", "has no attribute", "unpack", "zip()")


def refuse(call: Callable[[], Any], *words: str, kind: type[Exception] = ValueError) -> str:
    """Fail unless `call` raises `kind` with a short message that holds all of `words`; returns the message."""
    with pytest.raises(Exception) as caught:
        call()
    message = str(caught.value)
    assert isinstance(caught.value, kind), f"{type(caught.value).__name__}: {message[:500]}"
    missing = [word for word in words if word not in message]
    assert not missing, f"{missing} not in {message[:500]!r}"
    assert not [word for word in FOREIGN if word in message], message[:500]
    assert len(message) < 500, f"{len(message)} characters: {message[:200]}…"
    return message


@pytest.fixture(scope="module")
def ours(processor: Callable[[str], MiniCPMV46Processor]) -> MiniCPMV46Processor:
    return processor("base")


@pytest.fixture(scope="module")
def loaded(checkpoint: Callable[[str], Path]) -> tuple[Any, Any]:
    """Model and processor as mlx-vlm loads them."""
    return load(str(checkpoint("base")))


@pytest.fixture
def idle(loaded: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """The same with a model that must not be run."""

    def called(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("the model was run")

    monkeypatch.setattr(Model, "encode_images", called)
    monkeypatch.setattr(Model, "get_input_embeddings", called)
    monkeypatch.setattr(LanguageModel, "__call__", called)
    return loaded


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that are not what their names say."""
    folder = tmp_path_factory.mktemp("broken")
    picture, clip = (MEDIA / "flower.png").read_bytes(), (MEDIA / "pan_short.mp4").read_bytes()
    (folder / "half.png").write_bytes(picture[: len(picture) // 2])
    (folder / "half.mp4").write_bytes(clip[: len(clip) // 2])
    (folder / "empty.png").touch()
    (folder / "empty.mp4").touch()
    (folder / "words.png").write_text("no picture")
    (folder / "words.mp4").write_text("no clip")
    (folder / "folder.png").mkdir()
    return folder


# Images


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("none.png", "No such file"),
        ("folder.png", "directory"),
        ("empty.png", "cannot identify"),
        ("words.png", "cannot identify"),
        ("half.png", "truncated"),
    ],
)
def test_image_file(ours: MiniCPMV46Processor, broken: Path, name: str, word: str) -> None:
    """The second image of two, so that the number is worth something; the path is in the message."""
    for source in (str(broken / name), broken / name):
        refuse(lambda source=source: ours(IMAGE * 2, images=[PIXELS, source]), "image 1", name, word)


def test_image_data(ours: MiniCPMV46Processor) -> None:
    """Open files and data URIs; an error must not repeat the data."""
    data = (MEDIA / "flower.png").read_bytes()
    refuse(lambda: ours(IMAGE, images=io.BytesIO(data[:30_000])), "image 0", "BytesIO", "truncated")
    refuse(lambda: ours(IMAGE, images=Image.open(io.BytesIO(data[:30_000]))), "image 0", "truncated")
    refuse(lambda: ours(IMAGE, images="data:image/png;base64"), "image 0", "comma")
    for content, word in ((data[:30_000], "truncated"), (b"no picture" * 1000, "cannot identify")):
        uri = f"data:image/png;base64,{base64.b64encode(content).decode()}"
        refuse(lambda uri=uri: ours(IMAGE, images=uri), "image 0", word)


@pytest.mark.parametrize(
    ("value", "word"),
    [(5, "int"), (2.5, "float"), ({"url": "a.png"}, "dict"), (object(), "object"), (b"\x89PNG", "bytes")],
    ids=lambda value: type(value).__name__,
)
def test_not_an_image(ours: MiniCPMV46Processor, value: Any, word: str) -> None:
    refuse(lambda: ours(IMAGE, images=value), "image 0", word)
    refuse(lambda: ours(IMAGE * 2, images=[PIXELS, value]), "image 1", word)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (PIXELS.astype(np.float32) / 255, ("float32", "uint8")),
        (PIXELS.astype(np.int64), ("int64", "uint8")),
        (PIXELS > 9, ("bool", "uint8")),
        (PIXELS[..., :2], ("(20, 30, 2)",)),
        (PIXELS[0, 0], ("(3,)",)),
        (np.stack([PIXELS, PIXELS]), ("(2, 20, 30, 3)",)),
        (PIXELS[:0], ("no pixels", "0x30")),
        (PIXELS[:, :0], ("no pixels", "20x0")),
        (Image.new("RGB", (0, 7)), ("no pixels", "7x0")),
        (mx.zeros((9, 9, 3)), ("float32", "uint8")),
    ],
    ids=lambda value: "" if isinstance(value, tuple) else f"{type(value).__name__}{getattr(value, 'shape', '')}",
)
def test_image_array(ours: MiniCPMV46Processor, value: Any, words: tuple[str, ...]) -> None:
    """Arrays of pixels are uint8 with one, three or four channels, and hold a pixel."""
    refuse(lambda: ours(IMAGE, images=[value]), "image 0", *words)


@pytest.mark.parametrize(
    ("size", "mode", "grid", "tokens"),
    [
        ((1, 1), "16x", (32, 32), 64),
        ((1, 10_000), "16x", (4, 2856), 714),
        ((10_000, 1), "16x", (3200, 4), 800),
        ((1, 10_000), "4x", (2, 2858), 1429),
    ],
)
def test_extreme_images_follow_the_rule(
    ours: MiniCPMV46Processor, size: tuple[int, int], mode: str, grid: tuple[int, int], tokens: int
) -> None:
    """As many pixels as 448x448 has, in the image's shape, however long that gets; worked out by hand."""
    height, width = size
    inputs = ours(IMAGE, images=Image.new("RGB", (width, height), (9, 200, 60)), downsample_mode=mode)
    np.testing.assert_array_equal(inputs["image_units"], [[*grid, tokens, IMAGE_PAD]])
    assert (inputs["input_ids"] == IMAGE_PAD).sum() == tokens
    assert inputs["pixel_values"].shape == (grid[0] * grid[1], 588)
    assert estimate_num_image_tokens(ours, height, width, downsample_mode=mode) == tokens


def test_sizes_without_pixels(ours: MiniCPMV46Processor) -> None:
    refuse(lambda: estimate_num_image_tokens(ours, 0, 20), "0x20")
    refuse(lambda: estimate_num_image_tokens(ours, 20, -1), "20x-1")
    refuse(lambda: estimate_num_image_tokens(ours, 20, 20, max_slice_nums=0), "max_slice_nums", "0")
    refuse(lambda: estimate_num_image_tokens(ours, 20, 20, max_slices=9), "'max_slices'", kind=TypeError)


# Videos


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("none.mp4", "no file"),
        ("empty.mp4", "open"),
        ("words.mp4", "open"),
        ("half.mp4", "open"),
        ("folder.png", "no file"),
    ],
)
def test_video_file(ours: MiniCPMV46Processor, broken: Path, name: str, word: str) -> None:
    refuse(lambda: ours(VIDEO * 2, videos=[FRAMES, str(broken / name)]), "video 1", name, word)


@pytest.mark.parametrize(
    ("videos", "words"),
    [
        ([], ("videos", "empty")),
        ([[]], ("empty",)),
        (FRAMES[:0], ("video 0", "no frames")),
        ([FRAMES[:0]], ("video 0", "no frames")),
        (5, ("video", "int")),
        ([5], ("video", "int")),
        ({"a": 1}, ("video", "dict")),
        (FRAMES[0], ("video", "(28, 36, 3)")),
        (FRAMES[0, 0], ("video", "(36, 3)")),
        (FRAMES.astype(np.float32), ("video 0", "frame 0", "float32", "uint8")),
        ([[FRAMES[0], FRAMES[1].astype(np.float64)]], ("video 0", "frame 1", "float64")),
        ([[FRAMES[0], FRAMES[1, :, :, :2]]], ("video 0", "frame 1", "(28, 36, 2)")),
        ([[FRAMES[0], None, FRAMES[1]]], ("video 0", "frame 1", "None")),
        ([[FRAMES[0], 7]], ("video 0", "frame 1", "int")),
    ],
    ids=range(14),
)
def test_video_frames(ours: MiniCPMV46Processor, videos: Any, words: tuple[str, ...]) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        ours(VIDEO, videos=videos)
    assert not [word for word in words if word not in str(caught.value)], f"{words}: {caught.value}"


def test_frames_of_different_sizes(ours: MiniCPMV46Processor) -> None:
    """They cannot be composed into one picture; one by one they are as good as any."""
    frames = [*FRAMES[:5], FRAMES[5][:20]]
    refuse(
        lambda: ours(VIDEO, videos=[frames], video_metadata=METADATA, stack_frames=3),
        "video 0",
        "differ in size",
        "4, 5",
    )
    assert len(ours(VIDEO, videos=[frames], video_metadata=METADATA)["image_units"]) == 3


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ([METADATA, METADATA], ("video_metadata", "2", "1")),
        ([], ("video_metadata", "0", "1")),
        ({**METADATA, "total_num_frames": 9}, ("video 0", "video_metadata", "9", "6")),
        ({**METADATA, "total_num_frames": 0}, ("video 0", "total_num_frames=0")),
        ({**METADATA, "fps": -2.0}, ("video 0", "fps=-2.0")),
        ({**METADATA, "fps": "fast"}, ("video 0", "fps", "fast")),
        ({**METADATA, "duration": -1.0}, ("video 0", "duration=-1.0")),
        ({**METADATA, "duration": 30.0}, ("video 0", "30.0", "6 frames")),
        ("2 fps", ("video 0", "video_metadata", "str")),
    ],
    ids=lambda value: "" if isinstance(value, tuple) else str(value)[:60],
)
def test_video_metadata(ours: MiniCPMV46Processor, metadata: Any, words: tuple[str, ...]) -> None:
    refuse(lambda: ours(VIDEO, videos=[FRAMES], video_metadata=metadata), *words)


def test_one_metadata_for_two_videos(ours: MiniCPMV46Processor) -> None:
    refuse(lambda: ours(VIDEO * 2, videos=[FRAMES, FRAMES], video_metadata=METADATA), "video_metadata", "2 videos")


def test_stacking_needs_a_frame_rate(ours: MiniCPMV46Processor) -> None:
    refuse(lambda: ours(VIDEO, videos=FRAMES, stack_frames=3), "video 0", "stack_frames = 3", "video_metadata")


# Counts


@pytest.mark.parametrize(("token", "argument", "kind"), [(IMAGE, "images", "image"), (VIDEO, "videos", "video")])
def test_placeholders_and_media(ours: MiniCPMV46Processor, token: str, argument: str, kind: str) -> None:
    """Both numbers are in the message, whichever is larger; over all prompts of a call."""
    one = PIXELS if kind == "image" else FRAMES
    for text, media, found, given in (
        (token * 3, [one, one], "3", "2"),
        (token, [one, one, one, one], "1", "4"),
        ("none", [one], "0", "1"),
        ([token, token * 2], [one, one], "3", "2"),
    ):
        message = refuse(lambda text=text, media=media: ours(text, **{argument: media}), token, f"{given} {kind}")
        assert message.startswith(f"the prompt has {found} "), message
    refuse(lambda: ours(token), f"1 {token} placeholder,", f"0 {kind}s")


def test_image_for_a_video_placeholder(ours: MiniCPMV46Processor) -> None:
    refuse(lambda: ours(VIDEO, images=PIXELS), "0 <|image_pad|>", "1 image")
    refuse(lambda: ours(IMAGE, videos=FRAMES), "1 <|image_pad|>", "0 images")


# Options


@pytest.mark.parametrize("value", ["2x", "16", "", 16, True, ["4x"]], ids=repr)
def test_downsample_mode(ours: MiniCPMV46Processor, value: Any) -> None:
    refuse(lambda: ours(IMAGE, images=PIXELS, downsample_mode=value), "downsample_mode", "'4x', '16x'", repr(value))
    refuse(lambda: ours(VIDEO, videos=FRAMES, videos_kwargs={"downsample_mode": value}), "downsample_mode", repr(value))


@pytest.mark.parametrize("value", [0, -1, 2.5, 9.0, True, "9", [9]], ids=repr)
@pytest.mark.parametrize("name", ["max_slice_nums", "scale_resolution"])
def test_image_numbers(ours: MiniCPMV46Processor, name: str, value: Any) -> None:
    """Also where the option is not used: a video without frames to slice, a text."""
    words = (name, "integer of at least 1", repr(value))
    refuse(lambda: ours(IMAGE, images=PIXELS, **{name: value}), *words)
    refuse(lambda: ours(IMAGE, images=PIXELS, images_kwargs={name: value}), *words)
    refuse(lambda: ours(VIDEO, videos=FRAMES, **{name: value}), *words)
    refuse(lambda: ours("text", **{name: value}), *words)


@pytest.mark.parametrize("value", [0, -1, 2.5, True, "3"], ids=repr)
@pytest.mark.parametrize("name", ["stack_frames", "max_num_frames", "nframes", "min_frames"])
def test_video_numbers(ours: MiniCPMV46Processor, name: str, value: Any) -> None:
    refuse(
        lambda: ours(VIDEO, videos=FRAMES, video_metadata=METADATA, **{name: value}),
        name,
        "integer of at least 1",
        repr(value),
    )


@pytest.mark.parametrize("name", ["nframes", "min_frames"])
def test_more_frames_than_there_are(ours: MiniCPMV46Processor, name: str) -> None:
    refuse(
        lambda: ours(VIDEO, videos=FRAMES, video_metadata=METADATA, **{name: 7}), "video 0", f"{name} = 7", "6 frames"
    )


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), "1", True], ids=repr)
def test_fps(ours: MiniCPMV46Processor, value: Any) -> None:
    words = ("fps", "positive", repr(value))
    refuse(lambda: ours(VIDEO, videos=FRAMES, video_metadata=METADATA, fps=value), *words)
    refuse(lambda: ours(VIDEO * 2, videos=[FRAMES] * 2, video_metadata=[METADATA] * 2, fps=[1.0, value]), *words)


def test_fps_of_another_number_of_videos(ours: MiniCPMV46Processor) -> None:
    refuse(lambda: ours(VIDEO, videos=FRAMES, video_metadata=METADATA, fps=[1.0, 2.0]), "fps has 2", "1 video")


@pytest.mark.parametrize("name", ["slice_mode", "use_image_id"])
@pytest.mark.parametrize("value", [1, "yes"], ids=repr)
def test_switches(ours: MiniCPMV46Processor, name: str, value: Any) -> None:
    refuse(lambda: ours(IMAGE, images=PIXELS, **{name: value}), name, repr(value))


def test_unknown_options(ours: MiniCPMV46Processor) -> None:
    """A misspelt option must not be passed over."""
    refuse(lambda: ours(IMAGE, images=PIXELS, max_slice_num=36), "'max_slice_num'", kind=TypeError)
    for argument, own, unknown in (
        ("images_kwargs", "max_slice_nums", ("max_slice_num", "stack_frames", "use_image_id")),
        ("videos_kwargs", "stack_frames", ("stack_frame", "size")),
    ):
        for name in unknown:
            refuse(
                lambda argument=argument, name=name: ours("text", **{argument: {name: 1}}),
                *(argument, name, own),
                kind=TypeError,
            )


@pytest.mark.parametrize("argument", ["images_kwargs", "videos_kwargs"])
def test_options_that_are_no_mapping(ours: MiniCPMV46Processor, argument: str) -> None:
    with pytest.raises((ValueError, TypeError), match=argument):
        ours("text", **{argument: 5})


def test_return_tensors(ours: MiniCPMV46Processor) -> None:
    refuse(lambda: ours("text", return_tensors="pt"), "return_tensors", "'mlx'", "'pt'")


@pytest.mark.parametrize("text", [None, 5, [None], ["a", 5], b"text", []], ids=repr)
def test_text(ours: MiniCPMV46Processor, text: Any) -> None:
    """Prompts are strings, at least one."""
    with pytest.raises((ValueError, TypeError), match=r"(?i)text|prompt") as caught:
        ours(text)
    assert not [word for word in FOREIGN if word in str(caught.value) and word != "NoneType"], caught.value


# The model


@pytest.fixture(scope="module")
def inputs(ours: MiniCPMV46Processor) -> dict[str, Any]:
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


def test_embeddings_without_units(idle: tuple[Any, Any], inputs: dict[str, Any], monkeypatch: Any) -> None:
    monkeypatch.undo()
    refuse(lambda: embed(idle, inputs, image_units=None), "image_units")


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


# Through mlx-vlm


def ask(loaded: tuple[Any, Any], prompt: Any, **keywords: Any) -> Callable[[], Any]:
    return lambda: generate(*loaded, prompt, max_tokens=2, temperature=0.0, **keywords)


def test_generate_with_bad_images(idle: tuple[Any, Any], broken: Path) -> None:
    """The same errors, as they are: mlx-vlm's own wrapping does not come near."""
    roof = str(MEDIA / "roof.png")
    refuse(ask(idle, IMAGE, image=str(broken / "half.png")), "image 0", "half.png", "truncated")
    refuse(ask(idle, IMAGE * 2, image=[roof, str(broken / "none.png")]), "image 1", "none.png")
    refuse(ask(idle, IMAGE, image=[PIXELS.astype(np.float32)]), "image 0", "float32")
    refuse(ask(idle, IMAGE * 2, image=roof), "2 <|image_pad|>", "1 image")
    refuse(ask(idle, "none", image=[roof, roof]), "0 <|image_pad|>", "2 images")
    refuse(ask(idle, f"What is {IMAGE}?"), "1 <|image_pad|>", "0 images")


def test_generate_with_bad_videos(idle: tuple[Any, Any], broken: Path) -> None:
    clip = str(MEDIA / "pan_short.mp4")
    refuse(ask(idle, VIDEO, video=str(broken / "words.mp4")), "video 0", "words.mp4")
    refuse(ask(idle, VIDEO, video=[clip, clip]), "1 <|video_pad|>", "2 videos")
    refuse(ask(idle, VIDEO, video=[clip], fps=0), "fps", "0")
    refuse(ask(idle, VIDEO, video=[clip], fps=[1.0, 2.0]), "fps has 2", "1 video")
    refuse(ask(idle, VIDEO, video=[clip], nframes=31), "nframes = 31", "30 frames")
    refuse(ask(idle, VIDEO, video=[FRAMES], video_metadata=[METADATA] * 2), "video_metadata has 2", "1 video")
    refuse(ask(idle, VIDEO, video=[FRAMES], video_metadata=[METADATA], fps=0), "fps", "0")


def test_generate_with_bad_options(idle: tuple[Any, Any]) -> None:
    roof = str(MEDIA / "roof.png")
    refuse(ask(idle, IMAGE, image=roof, downsample_mode="8x"), "downsample_mode", "'8x'")
    refuse(ask(idle, IMAGE, image=roof, max_slice_nums=0), "max_slice_nums", "0")
    refuse(ask(idle, IMAGE, image=roof, images_kwargs={"max_slices": 4}), "images_kwargs", "max_slices", kind=TypeError)
    refuse(ask(idle, VIDEO, video=[FRAMES], stack_frames=0), "stack_frames", "0")
    refuse(ask(idle, "text", slice_mode="no"), "slice_mode", "'no'")


def test_generate_with_a_misspelt_option(idle: tuple[Any, Any]) -> None:
    """As `--processor-kwargs` passes it; mlx-vlm alone would lose it without a word."""
    roof = str(MEDIA / "roof.png")
    for name, meant in (("max_slice_num", "max_slice_nums"), ("downsample_modes", "downsample_mode")):
        refuse(ask(idle, IMAGE, image=roof, **{name: 4}), repr(name), repr(meant), kind=TypeError)
    refuse(ask(idle, IMAGE, image=[None]), "image 0", "None")


@pytest.mark.parametrize("shape", [(0, 10), (-5, 10), (10, 10)])
def test_generate_with_a_box_too_small(idle: tuple[Any, Any], shape: tuple[int, int]) -> None:
    """`--resize-shape` that leaves no pixel of a tall image."""
    tall = Image.new("RGB", (2, 400))
    refuse(ask(idle, IMAGE, image=[tall], resize_shape=shape), "image 0", "resize", str(shape[0]), str(shape[1]))


def test_generate_without_a_prompt(idle: tuple[Any, Any]) -> None:
    refuse(ask(idle, ""), "prompt")
    with pytest.raises((ValueError, TypeError), match="prompt"):
        ask(idle, None)()


def test_audio(idle: tuple[Any, Any]) -> None:
    """Refused wherever it can come in."""
    model, processor = idle
    refuse(ask(idle, "text", audio=["a.wav"]), "audio")
    refuse(ask(idle, IMAGE, image=str(MEDIA / "roof.png"), audio="a.wav"), "audio")
    refuse(lambda: apply_chat_template(processor, model.config, "text", num_audios=1), "audio")
    part = {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}
    refuse(lambda: apply_chat_template(processor, model.config, [{"role": "user", "content": [part]}]), "'input_audio'")
    refuse(lambda: batch_generate(model, processor, audios=["a.wav"], prompts=["a"]), "audio")


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (5, ("int",)),
        (None, ("NoneType",)),
        ([{"role": "user", "content": 5}], ("content", "int")),
        ([{"role": "user", "content": [5]}], ("int",)),
        ([{"role": "user", "content": [{"type": "pdf", "pdf": "a.pdf"}]}], ("'pdf'",)),
    ],
    ids=["int", "None", "content", "part", "type"],
)
def test_messages(loaded: tuple[Any, Any], prompt: Any, words: tuple[str, ...]) -> None:
    model, processor = loaded
    with pytest.raises(ValueError) as caught:
        apply_chat_template(processor, model.config, prompt)
    assert not [word for word in words if word not in str(caught.value)], caught.value
    assert "attribute" not in str(caught.value)


def test_image_part_without_a_type(loaded: tuple[Any, Any]) -> None:
    """The template takes such a part for an image; it must not be lost on the way."""
    model, processor = loaded
    prompts = [
        apply_chat_template(processor, model.config, [{"role": "user", "content": [{"text": "What is it?"}, part]}])
        for part in ({"type": "image"}, {"image": "a.png"}, {"image_url": "a.png"})
    ]
    assert "What is it?\n<|image_pad|><|im_end|>" in prompts[0]
    assert prompts[1:] == prompts[:1] * 2


def test_media_without_a_user_message(loaded: tuple[Any, Any]) -> None:
    model, processor = loaded
    messages = [{"role": "system", "content": "Be brief."}]
    refuse(lambda: apply_chat_template(processor, model.config, messages, num_images=2), "2 images", "user message")


def test_good_input_after_all_that(loaded: tuple[Any, Any]) -> None:
    """None of the errors leaves anything behind in the processor."""
    model, processor = loaded
    before = generate(model, processor, f"{IMAGE} ?", image=[Picture("roof.png").load()], max_tokens=4, temperature=0.0)
    for bad in ({"downsample_mode": "4x", "max_slice_nums": 0}, {"downsample_mode": "8x"}):
        with pytest.raises(ValueError):
            generate(model, processor, f"{IMAGE} ?", image=[Picture("roof.png").load()], **bad)
    after = generate(model, processor, f"{IMAGE} ?", image=[Picture("roof.png").load()], max_tokens=4, temperature=0.0)
    assert after.token_ids == before.token_ids
