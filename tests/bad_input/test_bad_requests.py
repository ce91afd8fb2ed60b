"""The same mistakes through mlx-vlm's own functions, and those that only they allow."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlx_vlm import batch_generate, generate
from mlx_vlm.prompt_utils import apply_chat_template
from PIL import Image
from support.pictures import MEDIA, Picture
from support.refusals import FRAMES, IMAGE, METADATA, PIXELS, VIDEO, refuse


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
    for name, meant in (
        ("max_slice_num", "max_slice_nums"),
        ("downsample_modes", "downsample_mode"),
        ("max_slices", "max_slice_nums"),
        ("slices", "max_slice_nums"),
        ("downsample", "downsample_mode"),
        ("mode", "downsample_mode"),
        ("num_frames", "nframes"),
        ("frames", "max_num_frames"),
        ("num_videos", "video"),
    ):
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


@pytest.mark.parametrize("arguments", [[1, 2], "[1, 2]", 5, "5", '"dry"', None, "null", True], ids=repr)
def test_arguments_that_are_no_object(loaded: tuple[Any, Any], arguments: Any) -> None:
    model, processor = loaded
    call = {"type": "function", "function": {"name": "weather", "arguments": arguments}}
    messages = [{"role": "user", "content": "Rain?"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    refuse(lambda: apply_chat_template(processor, model.config, messages), "'weather'", "must be an object")


@pytest.mark.parametrize("calls", [["weather"], [5], [{"function": 5}], [{"name": 5}], [{}], "weather", 5], ids=repr)
def test_calls_that_are_none(loaded: tuple[Any, Any], calls: Any) -> None:
    model, processor = loaded
    messages = [{"role": "user", "content": "Rain?"}, {"role": "assistant", "content": "", "tool_calls": calls}]
    refuse(lambda: apply_chat_template(processor, model.config, messages), "tool call")


def test_messages_that_the_template_refuses(loaded: tuple[Any, Any]) -> None:
    model, processor = loaded
    for messages, words in (
        ([{"role": "system", "content": "Be brief."}], "no user message"),
        ([{"role": "user", "content": "a"}, {"role": "robot", "content": "b"}], "unknown role"),
        ([{"role": "user", "content": "a"}, {"role": "system", "content": "b"}], "a system message comes first"),
    ):
        refuse(lambda m=messages: apply_chat_template(processor, model.config, m), "the chat template", words)


def test_number_of_videos(loaded: tuple[Any, Any]) -> None:
    """Of videos the paths are asked for, not their number, which would be lost."""
    model, processor = loaded
    refuse(
        lambda: apply_chat_template(processor, model.config, "What moves?", num_videos=1),
        "'num_videos'",
        "video=[",
        kind=TypeError,
    )


def test_half_an_emoji(idle: tuple[Any, Any]) -> None:
    """JavaScript cuts texts anywhere; the tokenizer says of such a text that it is none."""
    refuse(ask(idle, "Why \ud83d?"), "half a character", "'\\ud83d' at 4")


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
