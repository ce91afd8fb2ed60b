"""The processor's files: what is saved is read back, from the official files and from those of mlx-vlm's converter."""

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import mlx_vlm.utils
import numpy as np
import pytest
from support import cases, golden_data, stages, tiny
from support.conversions import convert, read_json

from minicpmv46.options import ImageProcessor, VideoProcessor
from minicpmv46.processing import Processor
from minicpmv46.siblings import MINICPM_OCR

Folders = Callable[[str], Path]

# One in each token mode, with slices in one and literal tags in the other.
CASES = ("photo_sliced", "page_five_slices_4x", "photo_literal_tags")
OPTIONS = {
    "image_processor": {"max_slice_nums": 4, "use_image_id": False, "slice_mode": False, "scale_resolution": 224},
    "video_processor": {"max_num_frames": 7, "stack_frames": 3, "downsample_mode": "4x", "do_sample_frames": False},
}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, checkpoint: Folders) -> Folders:
    """A checkpoint folder by its kind."""

    @cache
    def make(kind: str) -> Path:
        if kind == "official":
            return checkpoint("base")
        target = tmp_path_factory.mktemp("processor") / kind
        if kind == "converted":
            return convert(checkpoint("base"), target, builtin=True)
        if kind == "split":  # the official options in a file for each half
            split = shutil.copytree(checkpoint("base"), target)
            sections = read_json(split / "processor_config.json")
            (split / "processor_config.json").unlink()
            (split / "preprocessor_config.json").write_text(json.dumps(sections["image_processor"]))
            (split / "video_preprocessor_config.json").write_text(json.dumps(sections["video_processor"]))
            return split
        raise ValueError(kind)

    return make


def with_options(source: Path, target: Path, changes: dict[str, dict[str, Any]]) -> Path:
    """A copy of a folder with other options in the sections of `processor_config.json`."""
    shutil.copytree(source, target)
    content = read_json(target / "processor_config.json")
    for section, values in changes.items():
        content[section] |= values
    (target / "processor_config.json").write_text(json.dumps(content))
    return target


def assert_same_processor(actual: Processor, expected: Processor) -> None:
    """Options, template, special tokens and tokenizer are equal."""
    assert actual.image_processor == expected.image_processor
    assert actual.video_processor == expected.video_processor
    assert actual.chat_template == expected.chat_template
    assert actual.special_tokens == expected.special_tokens
    assert (actual.image_token_id, actual.video_token_id) == (expected.image_token_id, expected.video_token_id)
    a, b = actual.tokenizer, expected.tokenizer
    assert a.special_tokens_map == b.special_tokens_map
    assert (a.pad_token_id, a.eos_token_id) == (b.pad_token_id, b.eos_token_id)
    assert a.backend_tokenizer.to_str() == b.backend_tokenizer.to_str()


def assert_same_inputs(actual: dict[str, Any], expected: dict[str, Any]) -> None:
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(actual[key], value, err_msg=key)


@pytest.mark.parametrize("kind", ["official", "converted", "split"])
def test_saved_processor_is_read_back(kind: str, folder: Folders, tmp_path: Path) -> None:
    """In itself, in a folder that holds nothing else, and in the recorded ids and pixels."""
    before = Processor.from_pretrained(folder(kind))
    before.save_pretrained(tmp_path / "new" / "folder")
    after = Processor.from_pretrained(tmp_path / "new" / "folder")
    assert_same_processor(after, before)
    for name in CASES:
        golden, inputs = golden_data.load(name), stages.process(after, cases.BY_NAME[name])
        assert_same_inputs(inputs, stages.process(before, cases.BY_NAME[name]))
        np.testing.assert_array_equal(inputs["input_ids"][0], golden["input_ids"], err_msg=name)
        assert golden_data.sha256(inputs["pixel_values"]) == golden["pixel_sha256"], name


@pytest.mark.parametrize("kind", ["official", "converted", "split"])
def test_saved_files_are_the_official_ones(kind: str, folder: Folders, tmp_path: Path) -> None:
    """Options under their official names and classes, and the template byte by byte, whatever was read."""
    Processor.from_pretrained(folder(kind)).save_pretrained(tmp_path)
    assert read_json(tmp_path / "processor_config.json") == tiny.processor_config()
    assert (tmp_path / "chat_template.jinja").read_bytes() == (tiny.DATA / "chat_template.jinja").read_bytes()
    assert not list(tmp_path.glob("*preprocessor_config.json"))


def test_saving_again_writes_the_same_files(folder: Folders, tmp_path: Path) -> None:
    for source, target in ((folder("converted"), tmp_path / "1"), (tmp_path / "1", tmp_path / "2")):
        Processor.from_pretrained(source).save_pretrained(target)
    names = sorted(file.name for file in (tmp_path / "1").iterdir())
    assert names == ["chat_template.jinja", "processor_config.json", "tokenizer.json", "tokenizer_config.json"]
    for name in names:
        assert (tmp_path / "2" / name).read_bytes() == (tmp_path / "1" / name).read_bytes(), name


def test_options_of_both_halves_are_kept(folder: Folders, tmp_path: Path) -> None:
    """Every option that differs from the usual one is read, saved and used."""
    source = with_options(folder("official"), tmp_path / "source", OPTIONS)
    before = Processor.from_pretrained(source)
    assert before.image_processor.slicing.max_slice_nums == 4
    assert before.video_processor.sampling.stack_frames == 3
    before.save_pretrained(tmp_path / "saved")
    after = Processor.from_pretrained(tmp_path / "saved")
    assert_same_processor(after, before)
    assert read_json(tmp_path / "saved" / "processor_config.json") == read_json(source / "processor_config.json")
    inputs = stages.process(after, cases.BY_NAME["photo_sliced"])
    assert_same_inputs(inputs, stages.process(before, cases.BY_NAME["photo_sliced"]))
    assert len(inputs["image_units"]) == 1


@pytest.mark.parametrize(
    ("kind", "names", "wrap"),
    [
        ("official", ("image_mean", "image_std"), list),
        ("converted", ("norm_mean", "norm_std"), list),
        ("converted", ("mean", "std"), lambda values: [[values]]),  # as the built-in port's class writes them
    ],
)
def test_mean_and_deviation(
    kind: str, names: tuple[str, str], wrap: Callable[[Any], Any], folder: Folders, tmp_path: Path
) -> None:
    """Under each of their names, with the numbers that are there and not the usual ones."""
    values = ((0.5, 0.25, 0.125), (0.5, 1.0, 2.0))
    changes = {name: wrap(list(value)) for name, value in zip(names, values, strict=True)}
    if "norm_mean" in names:
        changes |= {"mean": None, "std": None}
    source = with_options(folder(kind), tmp_path / "source", {"image_processor": changes})
    processor = Processor.from_pretrained(source)
    assert (processor.image_processor.pixels.image_mean, processor.image_processor.pixels.image_std) == values
    processor.save_pretrained(tmp_path / "saved")
    saved = read_json(tmp_path / "saved" / "processor_config.json")["image_processor"]
    assert (tuple(saved["image_mean"]), tuple(saved["image_std"])) == values
    grey = np.full((56, 56, 3), 255, np.uint8)
    pixels = processor(f"{processor.image_token}", images=[grey])["pixel_values"].reshape(-1, 3)
    assert {tuple(row) for row in pixels.tolist()} == {(1.0, 0.75, 0.4375)}


def test_converted_video_half_is_the_image_half(folder: Folders) -> None:
    """The converter writes no section for videos; what both share is taken from the image's, the rest is usual."""
    processor = Processor.from_pretrained(folder("converted"))
    assert processor.image_processor == ImageProcessor()
    assert processor.video_processor == VideoProcessor()


def test_missing_option_files_mean_the_official_defaults(folder: Folders, tmp_path: Path) -> None:
    shutil.copytree(folder("official"), tmp_path, dirs_exist_ok=True)
    (tmp_path / "processor_config.json").unlink()
    assert_same_processor(Processor.from_pretrained(tmp_path), Processor.from_pretrained(folder("official")))


OCR = {**OPTIONS["image_processor"], "small_image_upsize": "adaptive", "downsample_mode": "16x"}


@pytest.mark.parametrize("sections", [{}, {"image_processor": OCR, "video_processor": OPTIONS["video_processor"]}])
def test_files_of_ocr(sections: dict[str, dict[str, Any]], checkpoint: Folders, tmp_path: Path) -> None:
    """Read, saved with its own class names, and read again; what a file leaves out is OCR's default."""
    source = with_options(checkpoint("ocr"), tmp_path / "source", sections)
    before = Processor.from_pretrained(source)
    assert before.options.sibling is MINICPM_OCR
    before.save_pretrained(tmp_path / "saved")
    assert read_json(tmp_path / "saved" / "processor_config.json") == read_json(source / "processor_config.json")
    assert_same_processor(Processor.from_pretrained(tmp_path / "saved"), before)

    content = {name: {} for name in OPTIONS} | {name: dict(values) for name, values in sections.items()}
    for classes in ({"processor_class": "MiniCPMOcrProcessor"}, {}):  # without any, config.json has the model
        (source / "processor_config.json").write_text(json.dumps({**classes, **content}))
        assert_same_processor(Processor.from_pretrained(source), before)
    (source / "processor_config.json").unlink()
    assert Processor.from_pretrained(source).options == Processor.from_pretrained(checkpoint("ocr")).options


def test_whose_processor_a_folder_has(checkpoint: Folders, tmp_path: Path) -> None:
    """Where the files name different models the processor's own class is right, as in transformers."""
    for variant, other in (("base", "ocr"), ("ocr", "base")):
        folder = Path(shutil.copytree(checkpoint(variant), tmp_path / variant))
        shutil.copy(checkpoint(other) / "config.json", folder / "config.json")
        found, expected = Processor.from_pretrained(folder), Processor.from_pretrained(checkpoint(variant))
        assert found.options.sibling is expected.options.sibling
        assert_same_processor(found, expected)


@pytest.mark.parametrize("section", OPTIONS)
def test_option_that_4_6_lacks(section: str, checkpoint: Folders, tmp_path: Path) -> None:
    """Refused in its files; in OCR's it says nothing about videos, for which transformers keeps it all the same."""
    changes = {section: {"small_image_upsize": "never"}}
    folder = with_options(checkpoint("base"), tmp_path / "base", changes)
    with pytest.raises(ValueError, match=rf"{section}: 'small_image_upsize' is not supported by MiniCPM-V 4\.6"):
        Processor.from_pretrained(folder)
    found = Processor.from_pretrained(with_options(checkpoint("ocr"), tmp_path / "ocr", changes))
    upsize = "never" if section == "image_processor" else "always"
    assert found.image_processor.slicing.small_image_upsize == upsize
    assert found.video_processor == Processor.from_pretrained(checkpoint("ocr")).video_processor


@pytest.mark.parametrize("file", ["processor_config.json", "preprocessor_config.json"])
def test_file_of_images_alone(file: str, checkpoint: Folders, tmp_path: Path) -> None:
    """Videos take what both share from the images' options, as in transformers."""
    folder = Path(shutil.copytree(checkpoint("ocr"), tmp_path / "folder"))
    section = {**tiny.processor_config("ocr")["image_processor"], **OCR}
    (folder / "processor_config.json").unlink()
    (folder / file).write_text(json.dumps({"image_processor": section} if file.startswith("proc") else section))
    processor = Processor.from_pretrained(folder)
    images, videos = processor.image_processor.slicing, processor.video_processor.slicing
    assert (images.downsample_mode, images.small_image_upsize) == ("16x", "adaptive")
    assert (videos.downsample_mode, videos.small_image_upsize) == ("16x", "always")
    assert (videos.max_slice_nums, videos.scale_resolution) == (images.max_slice_nums, images.scale_resolution)


def test_folder_of_a_processor_alone(checkpoint: Folders, tmp_path: Path) -> None:
    """`transformers.AutoProcessor` reads what `save_pretrained` wrote, where no `config.json` names the model."""
    for variant, mode in (("base", "4x"), ("ocr", "16x")):
        before = Processor.from_pretrained(checkpoint(variant)).with_defaults(downsample_mode=mode)
        before.save_pretrained(tmp_path / variant)
        after = mlx_vlm.utils.AutoProcessor.from_pretrained(tmp_path / variant)
        assert type(after) is Processor
        assert_same_processor(after, before)


def test_options_of_a_load(checkpoint: Folders) -> None:
    """As in transformers they replace the checkpoint's. AutoProcessor takes other libraries' arguments too."""
    given = {"small_image_upsize": "adaptive", "downsample_mode": "16x"}
    expected = Processor.from_pretrained(checkpoint("ocr")).with_defaults(**given)
    auto = mlx_vlm.utils.AutoProcessor.from_pretrained
    assert Processor.from_pretrained(checkpoint("ocr"), revision="main", **given).options == expected.options
    assert auto(checkpoint("ocr"), revision="main", trust_remote_code=True, **given).options == expected.options
    for load in (Processor.from_pretrained, auto):
        with pytest.raises(TypeError, match="max_slice_nums"):
            load(checkpoint("ocr"), max_slice_num=4)
    with pytest.raises(ValueError, match="small_image_upsize must be one of"):
        Processor.from_pretrained(checkpoint("ocr"), small_image_upsize="no")
    with pytest.raises(TypeError, match=r"from_pretrained has small_image_upsize, which MiniCPM-V 4\.6 does not have"):
        Processor.from_pretrained(checkpoint("base"), small_image_upsize="never")


def test_template_given_is_the_template_saved(folder: Folders, tmp_path: Path) -> None:
    """A template that is not the tokenizer's is kept: it is the processor's."""
    tokenizer = Processor.from_pretrained(folder("official")).tokenizer
    template = "{% for message in messages %}{{ message.content }}\n–{% endfor %}\n"
    processor = Processor(tokenizer, chat_template=template)
    processor.save_pretrained(tmp_path)
    after = Processor.from_pretrained(tmp_path)
    assert after.chat_template == template
    messages = [{"role": "user", "content": "Hello"}]
    assert after.apply_chat_template(messages) == processor.apply_chat_template(messages) == "Hello\n–"


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("processor_config.json", "{", "processor_config.json is not valid JSON"),
        ("processor_config.json", "[]", "must hold a JSON object, not list"),
        ("processor_config.json", '{"image_processor": {"do_resize": false}}', "image_processor.do_resize = False"),
        ("processor_config.json", '{"image_processor": {"downsample_mode": "2x"}}', "downsample_mode"),
        ("processor_config.json", '{"image_processor": {"image_mean": [0.5]}}', "image_mean"),
        ("processor_config.json", '{"video_processor": {"do_rescale": false}}', "video_processor.do_rescale = False"),
        ("processor_config.json", '{"video_processor": {"stack_frames": 0}}', "stack_frames"),
    ],
)
def test_unsupported_options(file: str, content: str, told: str, folder: Folders, tmp_path: Path) -> None:
    shutil.copytree(folder("official"), tmp_path, dirs_exist_ok=True)
    (tmp_path / file).write_text(content)
    with pytest.raises(ValueError) as raised:
        Processor.from_pretrained(tmp_path)
    assert told in str(raised.value)


def test_template_in_the_older_file(checkpoint: Folders, tmp_path: Path) -> None:
    """Folders saved before transformers 5 keep the template in `chat_template.json`."""
    older = Path(shutil.copytree(checkpoint("base"), tmp_path / "older"))
    template = (older / "chat_template.jinja").read_text(encoding="utf-8")
    (older / "chat_template.jinja").unlink()
    assert Processor.from_pretrained(older).chat_template is None
    (older / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    assert Processor.from_pretrained(older).chat_template == template


def test_shipped_checkpoint_is_the_tests_own(checkpoint: Folders) -> None:
    """What the demonstration runs on is what the recorded answers were made with."""
    shipped = tiny.DATA / "checkpoint"
    made = checkpoint("base")
    assert sorted(p.name for p in shipped.iterdir()) == sorted(p.name for p in made.iterdir())
    for path in made.iterdir():
        assert (shipped / path.name).read_bytes() == path.read_bytes(), path.name
