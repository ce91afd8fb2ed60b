"""The comparison with the official implementation, without torch: what it refuses, keeps, compares and tells.

In place of the official side's saved answers lie those of this port, so that everything behind them can be tried;
`live/test_parity_script_live` runs both sides.
"""

import json
import os
import shutil
import signal
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from support.conversions import convert_here, read_json
from support.running import python

from scripts import parity, parity_environment, parity_model, parity_ours, parity_report, parity_run
from scripts.parity_answers import PARTIAL, read_answer, write_answer
from scripts.parity_cases import QUICK, cases
from scripts.parity_compare import TOLERANCE, compare
from scripts.parity_model import GB, Checkpoint

SCRIPT = Path(parity.__file__)
REAL = Checkpoint(Path("real"), "openbmb/MiniCPM-V-4.6", "minicpmv4_6", 1_300_428_016, "bfloat16", "0")


def run(*arguments: str | Path, folder: Path) -> tuple[int, str, str]:
    done = python(SCRIPT, *arguments, folder=folder)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_memory_is_estimated_first() -> None:
    told = parity_model.check_memory(REAL, 16 * GB)
    assert "1,300 million parameters" in told and f"{REAL.memory / GB:.1f} GB of memory" in told
    assert REAL.memory > 8.7 * GB  # which the official side took on Linux
    with pytest.raises(ValueError, match=r"this machine has 4\.0 GB\. Use a larger machine, or --force"):
        parity_model.check_memory(REAL, 4 * GB)


def test_a_checkpoint_is_known_by_all_of_its_files(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint("bf16"), tmp_path / "my model"))
    first = parity_model.inspect(*parity_model.find(str(folder)))
    assert (first.name, first.model_type, first.dtype) == ("my model", "minicpmv4_6", "bfloat16")
    assert parity_model.inspect(folder, "my model") == first
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text(encoding="utf-8") + " ", encoding="utf-8")
    assert parity_model.inspect(folder, "my model").sha256 != first.sha256


def test_what_transformers_cannot_load_is_refused(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """With the checkpoint to give instead."""
    quantized = convert_here(checkpoint("ocr"), tmp_path / "4 bit", quantize=True, q_bits=4)
    status, _, error = run(quantized, folder=tmp_path)
    assert status == parity.NOT_RUN
    assert error.startswith("parity: 4 bit is quantized") and "as openbmb/MiniCPM-OCR-1.0" in error

    renamed = Path(shutil.copytree(checkpoint("base"), tmp_path / "renamed"))
    weights = mx.load(str(renamed / "model.safetensors"))
    other = {name.replace("model.language_model.", "language_model.model."): w for name, w in weights.items()}
    mx.save_safetensors(str(renamed / "model.safetensors"), other, metadata={"format": "mlx"})
    with pytest.raises(ValueError, match=r"layout of mlx-vlm \(language_model.model.*as openbmb/MiniCPM-V-4.6"):
        parity_model.inspect(renamed, "renamed")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "required: MODEL"),
        (("file",), "file is a file; give the checkpoint's folder"),
        (("no/such/folder",), "no/such/folder: no such folder"),
        (("empty",), "empty has no config.json"),
        (("BASE", "--cases", "photo", "nope"), "no case is called nope; there are text, chat, photo"),
        (("BASE", "--quick", "--cases", "text"), "give one of them"),
        (("BASE", "--output", "file"), "a file is there"),
        (("BASE", "--environment", "."), "no virtual environment is there"),
        (("BASE", "--environment", sys.prefix), "torch missing"),
    ],
)
def test_wrong_arguments_end_with_status_2(
    arguments: tuple[str, ...],
    words: str,
    checkpoint: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    if sys.prefix in arguments and find_spec("torch"):
        pytest.skip("this environment has torch")
    try:
        status = parity.main([str(checkpoint("base")) if word == "BASE" else word for word in arguments])
    except SystemExit as exit:
        status = exit.code
    assert status == parity.NOT_RUN
    assert words in capsys.readouterr().err
    assert not (tmp_path / "parity").exists()


def test_a_repository_that_is_not_there_ends_with_a_sentence(tmp_path: Path) -> None:
    """Without network, as a command."""
    status, _, error = run("openbmb/MiniCPM-V-4.6", folder=tmp_path)
    assert status == parity.NOT_RUN and "Traceback" not in error
    assert error.startswith("parity: openbmb/MiniCPM-V-4.6 is not whole in the cache and cannot be downloaded: ")


def test_help_shows_an_example(tmp_path: Path) -> None:
    status, shown, _ = run("--help", folder=tmp_path)
    assert status == 0 and "python scripts/parity.py openbmb/MiniCPM-V-4.6" in shown


def test_versions_are_those_of_the_live_comparison() -> None:
    live = (SCRIPT.parent / "live.sh").read_text(encoding="utf-8")
    assert " ".join(parity_environment.REQUIREMENTS) in live


def wheel(folder: Path, version: str) -> None:
    """A package without contents."""
    info = f"parity_probe-{version}.dist-info"
    files = {
        "METADATA": f"Metadata-Version: 2.1\nName: parity-probe\nVersion: {version}\n",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": "",
    }
    with zipfile.ZipFile(folder / f"parity_probe-{version}-py3-none-any.whl", "w") as archive:
        for name, text in files.items():
            archive.writestr(f"{info}/{name}", text)


def test_environment_is_made_anew_if_half_made_and_then_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel(tmp_path, "1.0")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", tmp_path.as_uri())
    monkeypatch.setattr(parity_environment, "REQUIREMENTS", ("parity-probe==1.0",))
    monkeypatch.setattr(parity_environment, "BESIDE", ())
    monkeypatch.setattr(parity_environment, "SIZE", 0)
    folder = tmp_path / "an environment"
    folder.mkdir()
    (folder / parity_environment.MARK).write_text(parity_environment.INCOMPLETE, encoding="utf-8")
    (folder / "rest").touch()
    assert parity_environment.prepare(folder)["parity-probe"] == "1.0"
    assert not (folder / "rest").exists()
    (folder / "rest").touch()
    assert parity_environment.prepare(folder)["parity-probe"] == "1.0"
    assert (folder / "rest").exists()

    # One that somebody else made is not touched, also where it has another version.
    (folder / parity_environment.MARK).unlink()
    assert parity_environment.prepare(folder)["parity-probe"] == "1.0"
    monkeypatch.setattr(parity_environment, "REQUIREMENTS", ("parity-probe==2.0",))
    with pytest.raises(ValueError, match=r"has parity-probe 1\.0; it needs parity-probe==2\.0"):
        parity_environment.prepare(folder)
    assert (folder / "rest").exists()


def test_cases_are_all_different() -> None:
    for model_type in ("minicpmv4_6", "minicpm_ocr"):
        found = cases(model_type)
        assert len({case.digest() for case in found.values()}) == len(found)
        assert set(QUICK) < set(found)
        # What is shown has its mode written out: processor and model of the official side have defaults of their own.
        assert all(case.options.downsample_mode for case in found.values() if case.pictures or case.clips)


ASKED = ("text", "crop")


@pytest.fixture(scope="module")
def saved(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of answers whose official ones are those of this port, with a margin for greedy tokens."""
    folder = tmp_path_factory.mktemp("saved")
    found = parity_model.inspect(checkpoint("base"), "base")
    planned = planned_in(folder, found)
    loaded = parity_ours.load(str(found.folder), "float32")
    for name, path in planned[0].answers.items():
        answer = parity_ours.answer_of(*loaded, cases(found.model_type)[name], None)
        margin = {"greedy_margin": np.ones(len(answer["greedy"]), np.float32)}
        cost = {"seconds": np.array(1.0), "peak_bytes": np.array(10**9)}
        write_answer(path, answer | margin | cost)
    parity_run.compute(planned[1], found, folder)
    return folder


def planned_in(folder: Path, found: Checkpoint) -> list[parity_run.Run]:
    ours = parity.our_side()
    official = replace(ours, name="official", package=(), versions={"torch": "0"})
    chosen = {name: case for name, case in cases(found.model_type).items() if name in ASKED}
    return parity_run.plan(folder, found, chosen, official, ours, ("float32",))


@pytest.fixture
def runs(saved: Path, checkpoint: Callable[[str], Path], tmp_path: Path) -> list[parity_run.Run]:
    """A plan with all of its answers, in a folder of this test."""
    shutil.copytree(saved, tmp_path / "out")
    return planned_in(tmp_path / "out", parity_model.inspect(checkpoint("base"), "base"))


def rows_of(runs: list[parity_run.Run]) -> list[parity_report.Row]:
    return [parity_report.make_row(name, runs) for name in ASKED]


def test_answers_are_computed_once_compared_and_told(
    runs: list[parity_run.Run], checkpoint: Callable[[str], Path], capfd: pytest.CaptureFixture[str]
) -> None:
    official, ours = runs
    found = parity_model.inspect(checkpoint("base"), "base")
    times = {path: path.stat().st_mtime_ns for path in ours.answers.values()}
    ours.answers["crop"].unlink()
    capfd.readouterr()
    parity_run.compute(ours, found, ours.answers["crop"].parents[1])
    shown = capfd.readouterr().out
    assert "ours float32: 1 of 2 cases are saved already" in shown
    assert "float32: crop" in shown and "float32: text" not in shown
    assert ours.answers["text"].stat().st_mtime_ns == times[ours.answers["text"]]

    rows = rows_of(runs)
    assert parity_report.result(rows) == "equal: all stages of 2 cases"
    table = parity_report.markdown(found, runs, rows)
    assert "| text | 21 | equal |  |  | 0.0e+00 | 0.0e+00 | 32 of 32 |" in table
    assert "| crop | 284 | equal | equal | 0.0e+00 |" in table
    content = parity_report.record(found, runs, rows)
    assert content["result"] == "equal" and content["model"]["sha256"] == found.sha256
    assert set(content["ours"]["versions"]) >= {"minicpmv46", "mlx", "mlx-vlm", "python"}
    text = json.dumps(content)
    assert str(Path.home()) not in text and str(found.folder.parent) not in text
    assert not list(official.answers["text"].parent.glob(f"*{PARTIAL}"))


def plus_one(x: np.ndarray, index: int) -> np.ndarray:
    return x + np.eye(1, x.size, index, dtype=x.dtype)[0]


def with_nan(x: np.ndarray) -> np.ndarray:
    return np.where(x == x.max(), np.nan, x)


# The array that is altered, how, and what is said.
CHANGES = {
    "ids": ("input_ids", lambda x: plus_one(x, 5), "the first 5 are the same"),
    "pixels": ("pixel_values", lambda x: np.nextafter(x, np.float32(2)), "patches differ"),
    "features": ("vision_features", lambda x: x + 2 * TOLERANCE * np.abs(x).max(), "allowed 1e-04"),
    "hidden": ("hidden_states", with_nan, "off by inf"),
    "logits": ("logits", lambda x: x[:, :-1], "shape"),
    "greedy": ("greedy", lambda x: plus_one(x, 3), "token 4 differs; officially it is ahead"),
}


@pytest.mark.parametrize("stage", CHANGES)
def test_a_difference_is_found_and_its_stage_named(stage: str, runs: list[parity_run.Run]) -> None:
    """One saved answer is altered."""
    name, change, words = CHANGES[stage]
    path = runs[1].answers["crop"]
    answer = read_answer(path)
    write_answer(path, answer | {name: change(answer[name])})
    text, crop = rows_of(runs)
    assert text.equal and not crop.equal
    told = parity_report.result([text, crop]).splitlines()
    assert told[0] == "different: 1 stages" and told[1].startswith(f"crop: {stage}: ") and words in told[1]
    assert "**" in parity_report.markdown(REAL, runs, [text, crop])
    assert parity_report.record(REAL, runs, [text, crop])["result"] == "different"


def test_half_of_the_tolerance_passes(runs: list[parity_run.Run]) -> None:
    official = read_answer(runs[0].answers["crop"])
    logits = official["logits"] + np.float32(TOLERANCE / 2) * np.abs(official["logits"]).max()
    assert all(found.equal for found in compare(official | {"logits": logits}, official).values())


def test_a_damaged_answer_is_named(runs: list[parity_run.Run]) -> None:
    path = runs[0].answers["text"]
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=rf"{path.name} is no answer of a parity run .*: remove it"):
        rows_of(runs)


def test_keys_follow_what_an_answer_depends_on(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    found = parity_model.inspect(checkpoint("base"), "base")
    ours = parity.our_side()
    official = replace(ours, name="official", package=(), versions={"torch": "1"})
    chosen = {"text": cases(found.model_type)["text"]}

    def names(checkpoint: Checkpoint = found, theirs: parity_run.Side = official, dtype: str = "float32") -> list[str]:
        planned = parity_run.plan(tmp_path, checkpoint, chosen, theirs, ours, (dtype,))
        return [run.answers["text"].name for run in planned]

    first = names()
    assert names() == first
    for changed in (
        names(replace(found, sha256="other")),
        names(dtype="bfloat16"),
        # Our hidden states start from the official features.
        names(theirs=replace(official, versions={"torch": "2"})),
    ):
        assert not set(changed) & set(first)


def test_an_output_folder_serves_one_run(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    (folder / "ours-float32").mkdir(parents=True)
    left = folder / "ours-float32" / f"text-0123456789abcdef.npz{PARTIAL}"
    left.touch()
    with parity_run.locked(folder):
        assert not left.exists()
        with pytest.raises(parity_run.RunError, match="another run is writing"), parity_run.locked(folder):
            pass
    with parity_run.locked(folder):
        pass


def test_a_stopped_run_keeps_what_it_finished(
    runs: list[parity_run.Run], checkpoint: Callable[[str], Path], capfd: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C behind the first answer."""
    ours = runs[1]
    found = parity_model.inspect(checkpoint("base"), "base")
    folder = ours.answers["text"].parents[1]
    for path in ours.answers.values():
        path.unlink()

    def interrupt() -> None:
        while not ours.answers["text"].exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    watcher = threading.Thread(target=interrupt)
    watcher.start()
    with pytest.raises(KeyboardInterrupt):
        parity_run.compute(ours, found, folder)
        time.sleep(60)  # where it was faster than the signal
    watcher.join()
    with parity_run.locked(folder):
        parity_run.compute(ours, found, folder)
    assert "cases are saved already" in capfd.readouterr().out
    assert all(row.equal for row in rows_of(runs))


def test_a_side_that_fails_is_told_with_its_reason(
    runs: list[parity_run.Run], checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    found = replace(parity_model.inspect(checkpoint("base"), "base"), folder=tmp_path / "gone")
    runs[1].answers["text"].unlink()
    with pytest.raises(parity_run.RunError, match=r"(?s)ours float32 failed: .*gone.*ours-float32\.log"):
        parity_run.compute(runs[1], found, tmp_path)


def test_json_has_every_stage(runs: list[parity_run.Run], tmp_path: Path) -> None:
    content = parity_report.record(REAL, runs, rows_of(runs))
    (tmp_path / "parity.json").write_text(json.dumps(content), encoding="utf-8")
    text, crop = read_json(tmp_path / "parity.json")["cases"]
    assert list(text["float32"]) == ["ids", "hidden", "logits", "greedy"]
    assert list(crop["float32"]) == ["ids", "pixels", "features", "hidden", "logits", "greedy"]
    assert set(crop["costs"]) == {"official-float32", "ours-float32"}
    assert all(cost["seconds"] > 0 and cost["peak_bytes"] > 0 for cost in crop["costs"].values())
