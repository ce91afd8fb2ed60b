"""One value of options, whatever border it comes in by: what is taken, what is refused, and how it is shown."""

import inspect
import json
import pydoc
import shutil
from argparse import Namespace
from collections.abc import Callable
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlx_vlm.generate import diffusion
from mlx_vlm.utils import prepare_inputs
from support.refusals import refuse

from minicpmv46.option_names import GivenOptions, HubOptions, ImageOptions, MediaOptions, VideoOptions
from minicpmv46.options import OPTIONS, UPSIZE, Options
from minicpmv46.plugin import ours as questions
from minicpmv46.plugin.model_config import ModelConfig
from minicpmv46.processing import Processor
from minicpmv46.sampling import SamplingOptions
from minicpmv46.slicing import SliceOptions
from minicpmv46.spelling import LIKELY

FRAMES = ("max_num_frames", "stack_frames", "nframes", "min_frames", "max_frames")
INTEGERS = ("max_slice_nums", "scale_resolution", *FRAMES)
SWITCHES = ("slice_mode", "use_image_id", "do_sample_frames")
GOOD: list[tuple[str, Any]] = [
    *((name, value) for name in INTEGERS for value in (1, 2, np.int64(3), np.uint8(4), None)),
    *((name, value) for name in SWITCHES for value in (True, False, np.True_, np.False_, None)),
    *(("downsample_mode", value) for value in ("4x", "16x", np.str_("4x"), None)),
    *((UPSIZE, value) for value in ("always", "never", "adaptive", np.str_("never"), None)),
    *(("fps", value) for value in (1, 0.5, np.float32(2), np.int32(3), None)),
]
BAD: list[tuple[str, Any]] = [
    *((name, value) for name in INTEGERS for value in (0, -1, 1.5, "2", True, [2], 10**7, 10**40, float("nan"))),
    *((name, value) for name in SWITCHES for value in (1, 0, "true", [], np.int64(1))),
    *(("downsample_mode", value) for value in ("8x", 16, "", ["4x"], "4x" * 10_000)),
    *((UPSIZE, value) for value in ("sometimes", True, "", ["never"], "never" * 10_000)),
    *(("fps", value) for value in (0, -1, "1", True, float("nan"), float("inf"), 10**400, 10**6)),
]
# What a checkpoint's file may say of one half or both.
IN_FILES = (*SliceOptions.__dataclass_fields__, "max_num_frames", "stack_frames")

Border = Callable[[Processor, dict[str, Any], Path], None]


def _to_file(ours: Processor, options: dict[str, Any], folder: Path) -> None:
    before = (folder / "processor_config.json").read_text()
    content = json.loads(before)
    content["image_processor" if UPSIZE in options else "video_processor"] |= options
    (folder / "processor_config.json").write_text(json.dumps(content, default=lambda value: value.item()))
    try:
        Processor.from_pretrained(folder)
    finally:
        (folder / "processor_config.json").write_text(before)


def _as_json(options: dict[str, Any]) -> dict[str, Any]:
    """What arrives where options come as JSON."""
    parsed: dict[str, Any] = json.loads(json.dumps(options, default=lambda value: value.item()))
    return parsed


def _to_command(ours: Processor, options: dict[str, Any], folder: Path) -> None:
    given = _as_json(options)
    config = ModelConfig.from_dict(json.loads((folder / "config.json").read_text()))
    try:
        keywords = diffusion.diffusion_kwargs_from_args(Namespace(processor_kwargs=given), config)
        prepare_inputs(ours, prompts="text", **keywords, **given)
    except SystemExit as end:  # with the sentence, after which the command ends
        assert end.__cause__ is not None and str(end) == f"error: {end.__cause__}"
        raise end.__cause__ from None


def _to_server(ours: Processor, fields: dict[str, Any], _: Path) -> None:
    schemas, normalization = (import_module(f"mlx_vlm.server.{name}") for name in ("schemas", "request_normalization"))
    message = {"role": "user", "content": "Hello"}
    request = schemas.ChatRequest(model="m", messages=[message], **_as_json(fields))
    assert normalization._build_gen_args(request, ours).processor_options is not None


BORDERS: dict[str, Border] = {
    "call": lambda ours, options, _: ours("text", **options),
    "images_kwargs": lambda ours, options, _: ours("text", images_kwargs=options),
    "videos_kwargs": lambda ours, options, _: ours("text", videos_kwargs=options),
    "with_defaults": lambda ours, options, _: ours.with_defaults(**options),
    "generate": lambda ours, options, _: prepare_inputs(ours, prompts="text", **options),
    "processor_kwargs": lambda ours, options, _: ours.apply_chat_template(
        [{"role": "user", "content": "Hello"}], tokenize=True, processor_kwargs=options
    ),
    "num_image_tokens": lambda ours, options, _: ours.image_processor.num_image_tokens(20, 30, **options),
    "file": _to_file,
    "--processor-kwargs": _to_command,
    "request": _to_server,
    "request's processor_kwargs": lambda ours, options, folder: _to_server(ours, {"processor_kwargs": options}, folder),
}
# Not there as JSON has it, or not an error there: numbers are read before they come.
JSON = ("file", "--processor-kwargs", "request", "request's processor_kwargs")


def takes(border: str, name: str) -> bool:
    if border in ("images_kwargs", "num_image_tokens"):
        return name in ImageOptions.__annotations__
    if border == "videos_kwargs":
        return name in VideoOptions.__annotations__
    return name in (IN_FILES if border == "file" else GivenOptions.__annotations__)


@pytest.fixture(scope="module")
def ours(processor: Callable[[str], Processor]) -> Processor:
    """Of the model that has all options."""
    return processor("ocr")


@pytest.fixture
def folder(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint("ocr"), tmp_path / "folder"))


@pytest.mark.parametrize("border", BORDERS)
def test_every_border_takes_the_same_values(ours: Processor, border: str, folder: Path) -> None:
    for name, value in GOOD:
        if takes(border, name):
            BORDERS[border](ours, {name: value}, folder)


@pytest.mark.parametrize("border", BORDERS)
def test_every_border_refuses_the_same_values(ours: Processor, border: str, folder: Path) -> None:
    """In a sentence that names the option and shows the value, shortened; also where no image or video uses it."""
    for name, value in BAD:
        above = isinstance(value, int) and value > 10**5  # only a ceiling is against it, which a plain count has not
        finite = border not in JSON or not isinstance(value, (float, np.generic))
        if takes(border, name) and finite and not (above and border == "num_image_tokens"):
            words = (name, "limit") if above and name != "fps" else (name,)
            refuse(lambda name=name, value=value: BORDERS[border](ours, {name: value}, folder), *words)


@pytest.mark.parametrize("border", [border for border in BORDERS if border not in ("generate", "file", "request")])
@pytest.mark.parametrize("name", ["max_slice_num", "slices", "mode", "downsample", "num_frames", "frames", "nonsense"])
def test_every_border_refuses_unknown_names(ours: Processor, border: str, name: str, folder: Path) -> None:
    """With the known ones, and the one that was meant where that can be guessed."""
    guess = LIKELY.get(name, "")
    words = (name, "max_slice_nums", guess if takes(border, guess) else "")
    kind = ValueError if border.startswith("request") else TypeError  # a bad request is a ValueError
    refuse(lambda: BORDERS[border](ours, {name: 1}, folder), *words, kind=kind)


@pytest.mark.parametrize("border", [border for border in BORDERS if border != "videos_kwargs"])
def test_every_border_refuses_the_option_of_another_model(
    processor: Callable[[str], Processor], border: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """MiniCPM-V 4.6 has no `small_image_upsize`; None, which is no value, is no error."""
    folder = Path(shutil.copytree(checkpoint("base"), tmp_path / "folder"))
    kind = ValueError if border.startswith(("request", "file")) else TypeError
    for value in ("always", "adaptive", "nonsense"):
        words = (UPSIZE, "MiniCPM-V 4.6", *(["MiniCPM-OCR 1.0"] if border != "file" else []))
        refuse(lambda value=value: BORDERS[border](processor("base"), {UPSIZE: value}, folder), *words, kind=kind)
    BORDERS[border](processor("base"), {UPSIZE: None}, folder)


@pytest.mark.parametrize("name", LIKELY)
def test_generate_refuses_likely_names(ours: Processor, name: str) -> None:
    """mlx-vlm passes unknown keywords down to where they are lost; these were meant for the processor."""
    refuse(lambda: prepare_inputs(ours, prompts="text", **{name: 1}), repr(name), repr(LIKELY[name]), kind=TypeError)


def test_generate_passes_other_keywords(ours: Processor) -> None:
    """mlx-vlm's own and those of programs around it."""
    others = {"temperature": 0.0, "max_tokens": 3, "skip_special_tokens": True, "top_p": 1, "custom_arg": True}
    assert prepare_inputs(ours, prompts="text", **others)["input_ids"].size


def test_files_refuse_unknown_keys(folder: Path) -> None:
    content = json.loads((folder / "processor_config.json").read_text())
    content["image_processor"] |= {"max_slices": 4}
    (folder / "processor_config.json").write_text(json.dumps(content))
    refuse(lambda: Processor.from_pretrained(folder), "image_processor", "max_slices")
    (folder / "processor_config.json").write_text(json.dumps({"max_slice_nums": 4}))
    refuse(lambda: Processor.from_pretrained(folder), "max_slice_nums", "sections")


@given(st.dictionaries(st.sampled_from(OPTIONS), st.none() | st.booleans() | st.integers() | st.floats() | st.text()))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_values_give_options_or_one_sentence(options: dict[str, Any]) -> None:
    """Whatever comes: a value whose fields all hold, or an error of the two kinds, short."""
    try:
        value = Options().updated(**options)
    except (TypeError, ValueError) as error:
        assert len(str(error)) < 1000
        return
    assert value == Options().updated(**options)
    assert type(value.images.slicing.max_slice_nums) is int and value.images.slicing.max_slice_nums >= 1
    assert type(value.videos.sampling.fps) is float and value.videos.sampling.fps > 0
    for name, given_value in options.items():
        if name in MediaOptions.__annotations__ and given_value is not None:
            assert given_value in (getattr(value.images.slicing, name, None), getattr(value.images, name, None))


def test_own_options_win() -> None:
    """Those of images and those of videos, over those of both; the others stay."""
    start = Options().updated(max_slice_nums=4)
    value = start.updated(images_kwargs={"max_slice_nums": 1}, videos_kwargs={"stack_frames": 3}, slice_mode=False)
    assert (value.images.slicing.max_slice_nums, value.videos.slicing.max_slice_nums) == (1, 4)
    assert not value.images.slicing.slice_mode and not value.videos.slicing.slice_mode
    assert value.videos.sampling == SamplingOptions(stack_frames=3)
    assert start.images.slicing == SliceOptions(max_slice_nums=4)


def test_numbers_of_the_prompt_are_one_option() -> None:
    """`use_image_id` in `images_kwargs`, as the official processor takes it."""
    for own in ("images_kwargs", "videos_kwargs"):
        assert not Options().updated(use_image_id=True, **{own: {"use_image_id": False}}).images.use_image_id
    both = {"images_kwargs": {"use_image_id": False}, "videos_kwargs": {"use_image_id": True}}
    refuse(lambda: Options().updated(**both), "use_image_id")


def test_rates_of_each_video() -> None:
    rated = Options().updated(fps=[1, 2.5])
    assert [sampling.fps for sampling in rated.videos.samplings(2)] == [1, 2.5]
    assert [sampling.fps for sampling in rated.updated(fps=3).videos.samplings(2)] == [3, 3]
    refuse(lambda: rated.videos.samplings(3), "fps has 2 entries", "3 videos")
    refuse(lambda: Options().updated(fps=[]).videos.samplings(1), "fps has 0 entries")


def test_names_are_the_fields() -> None:
    """What type checkers see is what the value has."""
    slicing = {f.name for f in fields(SliceOptions)} - {"patch_size"}
    assert set(ImageOptions.__annotations__) == slicing | {"use_image_id"}
    assert set(MediaOptions.__annotations__) == set(ImageOptions.__annotations__) - {UPSIZE}
    sampling = {f.name for f in fields(SamplingOptions)}
    assert set(VideoOptions.__annotations__) == set(MediaOptions.__annotations__) | sampling | {"do_sample_frames"}
    assert set(OPTIONS) == {*VideoOptions.__annotations__, UPSIZE, "images_kwargs", "videos_kwargs"}
    assert tuple(HubOptions.__annotations__) == questions.HUB_OPTIONS  # written twice: `ours` runs for every model
    assert set(LIKELY.values()) <= set(OPTIONS) and not set(LIKELY) & set(OPTIONS)


def test_options_are_visible(ours: Processor) -> None:
    """To completion, which asks for the signature, and to `help()`."""
    for function in (ours, ours.with_defaults):
        parameters = inspect.signature(function).parameters
        assert set(GivenOptions.__annotations__) <= set(parameters)
        assert parameters["max_slice_nums"].default is None
        assert not [p for p in parameters.values() if p.kind is p.VAR_KEYWORD]
    assert "max_slice_nums: 'int | None' = None" in pydoc.plain(pydoc.render_doc(Processor.__call__))
