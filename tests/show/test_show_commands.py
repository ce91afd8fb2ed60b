"""What users type: `python -m minicpmv46 tokens`, `slices` and `frames`."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from support.pictures import MEDIA
from support.running import python

import minicpmv46
from minicpmv46.commands import main
from minicpmv46.option_names import OPTIONS
from minicpmv46.show.arguments import HELP

PAGE, CLIP = str(MEDIA / "page.png"), str(MEDIA / "pan_short.mp4")

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A command in an empty folder: status, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> tuple[int, str, str]:
        status = main(arguments)
        return status, *capsys.readouterr()

    return command


def test_tokens_as_typed(tmp_path: Path) -> None:
    """One file cannot be read: its line says why, the others are shown, the status is 1. Nothing heavy is loaded."""
    (tmp_path / "a page.png").write_bytes(Path(PAGE).read_bytes())
    (tmp_path / "text.png").write_text("not a picture")
    code = "from minicpmv46.commands import main; import sys; status = main(sys.argv[1:]); "
    code += "print({'mlx', 'mlx_vlm', 'torch', 'transformers'} & set(sys.modules), file=sys.stderr); sys.exit(status)"
    done = python("-c", code, "tokens", "a page.png", "text.png", "gone.png", CLIP, folder=tmp_path)
    lines = done.stdout.decode().splitlines()
    assert done.returncode == 1 and done.stderr.decode().strip() == "set()"
    assert lines[1].startswith("a page.png ") and "620x877" in lines[1]
    assert lines[2].startswith("text.png  cannot read 'text.png': cannot identify its format")
    assert lines[3] == "gone.png  cannot read 'gone.png': No such file or directory"
    assert "frames" in lines[4] and lines[5].startswith("together ")


def test_slices_and_frames_as_typed(tmp_path: Path) -> None:
    done = python("-m", "minicpmv46", "slices", PAGE, "-o", "my slices.png", "--mode", "4x", folder=tmp_path)
    assert done.returncode == 0 and not done.stderr, done.stderr.decode()
    with Image.open(tmp_path / "my slices.png") as image:
        assert f"saved: my slices.png ({image.width} x {image.height} pixels)" in done.stdout.decode()
    assert "2 slices (1 across, 2 down) and an overview, mode 4x" in done.stdout.decode()
    done = python("-m", "minicpmv46", "frames", CLIP, "-o", "sheet.jpg", folder=tmp_path)
    assert done.returncode == 0 and not done.stderr, done.stderr.decode()
    with Image.open(tmp_path / "sheet.jpg") as image:
        assert image.format == "JPEG" and image.width > 400


def test_json_of_tokens(run: Run) -> None:
    status, output, _ = run("tokens", PAGE, "gone.png", CLIP, "--json", "--stack-frames", "3", "--max-slice-nums", "1")
    found = json.loads(output)
    assert status == 1
    page, gone, clip = found["media"]
    counts = minicpmv46.count_tokens(PAGE, CLIP, stack_frames=3, max_slice_nums=1)
    assert (found["visual_tokens"], found["prompt_tokens"]) == (counts.visual, counts.prompt)
    assert (page["width"], page["height"], page["grid"], page["slices"]) == (620, 877, None, [])
    assert page["overview"]["tokens"] == page["visual_tokens"]["16x"]
    assert gone == {"name": "gone.png", "error": "cannot read 'gone.png': No such file or directory"}
    assert [picture["frames"] for picture in clip["pictures"]] == [list(p.frames) for p in counts.media[1].pictures]
    assert [picture["seconds"] for picture in clip["pictures"]] == [list(p.seconds) for p in counts.media[1].pictures]


def test_json_makes_a_picture_only_where_it_is_asked_for(run: Run, tmp_path: Path) -> None:
    status, output, _ = run("slices", PAGE, "--json")
    assert status == 0 and json.loads(output)["output"] is None and not list(tmp_path.iterdir())
    (medium,) = json.loads(output)["media"]
    assert medium["grid"] == {"rows": 2, "columns": 1} and len(medium["slices"]) == 2
    assert medium["visual_tokens"]["16x"] == medium["overview"]["tokens"] + sum(s["tokens"] for s in medium["slices"])
    status, output, _ = run("frames", CLIP, "--json", "-o", "sheet.png")
    assert status == 0 and json.loads(output)["output"] == "sheet.png" and (tmp_path / "sheet.png").exists()


def test_options_of_a_checkpoint(run: Run, checkpoint: Callable[[str], Path]) -> None:
    """A folder's options and context, the official ones of a model, and options that win over both."""
    for model in (str(checkpoint("ocr")), "minicpm_ocr"):
        found = json.loads(run("tokens", PAGE, "--json", "--model", model)[1])
        assert (found["model"], found["mode"]) == ("MiniCPM-OCR 1.0", "4x")
    found = json.loads(run("slices", PAGE, "--json", "--model", "minicpm_ocr", "--mode", "16x")[1])
    assert found["mode"] == "16x"
    for upsize in ("never", "always"):
        flags = ("--model", "minicpm_ocr", "--small-image-upsize", upsize, "--slice-mode", "false")
        assert run("tokens", PAGE, *flags)[0] == 0
    context = json.loads((checkpoint("base") / "config.json").read_text())["text_config"]["max_position_embeddings"]
    assert json.loads(run("tokens", PAGE, "--json", "--model", str(checkpoint("base")))[1])["context"] == context


WRONG = {
    ("tokens", PAGE, "--mode", "8x"): "downsample_mode must be one of '4x', '16x', not '8x'",
    ("tokens", PAGE, "--max-slice-nums", "many"): "max_slice_nums must be an integer of at least 1, not 'many'",
    ("tokens", PAGE, "--max-slice-nums", "0"): "max_slice_nums must be an integer of at least 1, not 0",
    ("tokens", PAGE, "--fps", "-1"): "fps must be a positive number, not -1",
    ("tokens", PAGE, "--small-image-upsize", "never"): "small_image_upsize, which MiniCPM-V 4.6 does not have",
    ("tokens", PAGE, "--model", "nowhere/model"): "there is no folder 'nowhere/model'",
    ("tokens", PAGE, "--model", "."): "'.' has no config.json",
    ("slices", PAGE): "say where to save the picture: -o out.png",
    ("slices", PAGE, "-o", "out.tgz"): "the name must end in .png",
    ("slices", PAGE, "-o", "."): "-o . is a folder",
    ("slices", PAGE, "-o", "gone/out.png"): "there is no folder gone",
    ("slices", PAGE, "-o", PAGE): "is the file that is read; give another name",
    ("frames", CLIP, "-o", "out.png", "--stack-frames", "x"): "stack_frames must be an integer of at least 1, not 'x'",
}


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_wrong_arguments(run: Run, arguments: tuple[str, ...], tmp_path: Path) -> None:
    """Refused before any work in one line with status 2, and no file is made."""
    status, output, error = run(*arguments)
    assert (status, output) == (2, "") and not list(tmp_path.iterdir())
    assert error.startswith(f"python -m minicpmv46 {arguments[0]}: ") and WRONG[arguments] in error
    assert len(error.splitlines()) == 1


UNREADABLE = {
    ("slices", "gone.png"): "cannot read 'gone.png': No such file or directory",
    ("slices", CLIP): "it is a video, which the command frames shows",
    ("frames", PAGE): "it is an image, which the command slices shows",
    ("frames", "gone.mp4"): "there is no file 'gone.mp4'",
}


@pytest.mark.parametrize("arguments", UNREADABLE, ids=" ".join)
def test_what_cannot_be_read(run: Run, arguments: tuple[str, ...], tmp_path: Path) -> None:
    status, output, error = run(*arguments, "-o", "out.png")
    assert (status, output) == (1, "") and not list(tmp_path.iterdir())
    assert UNREADABLE[arguments] in error and len(error.splitlines()) == 1


def test_output_is_replaced(run: Run, tmp_path: Path) -> None:
    (tmp_path / "out.png").write_text("before")
    assert run("slices", PAGE, "-o", "out.png")[0] == 0
    with Image.open(tmp_path / "out.png") as image:
        assert image.format == "PNG"


def test_another_models_folder(run: Run, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_vl"}')
    status, _, error = run("tokens", PAGE, "--model", ".")
    assert status == 2 and "model_type 'qwen2_vl', not of 'minicpmv4_6' or 'minicpm_ocr'" in error


def test_limits_of_the_environment(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINICPMV46_LIMITS", "context=1000,slices=20")
    assert json.loads(run("tokens", PAGE, "--json")[1])["context"] == 1000
    status, _, error = run("tokens", PAGE, "--max-slice-nums", "21")
    assert status == 2 and "limit slices = 20" in error


@pytest.mark.parametrize("command", ["tokens", "slices", "frames"])
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main((command, "--help"))
    assert end.value.code == 0
    assert f"example:\n  python -m minicpmv46 {command} " in capsys.readouterr().out


def test_all_options_can_be_given() -> None:
    """Those of images and videos apart, and that of decoded videos, have no place on a command line."""
    assert set(HELP) == set(OPTIONS) - {"images_kwargs", "videos_kwargs", "do_sample_frames"}
