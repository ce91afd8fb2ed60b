"""What `doctor MODEL` says of a checkpoint; `registration/test_doctor.py` runs the whole command."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from support import tiny
from support.conversions import convert_here

from minicpmv46.doctor import screen
from minicpmv46.doctor.checkpoint import examine, find
from minicpmv46.doctor.findings import Report
from minicpmv46.plugin.probe import attempt, port
from minicpmv46.plugin.status import Answers

Make = Callable[[str], Path]

SHARD = "model-00002-of-00003.safetensors"
REPOSITORY = "openbmb/MiniCPM-V-4.6"


def diagnose(model: Path | str, **ports: dict[str, Any]) -> Report:
    """The report on a checkpoint, where mlx works and mlx-vlm has some ports."""
    report = Report()
    if place := find(report, str(model)):
        examine(report, place, Answers({"device": {}, **{f"port {name}": facts for name, facts in ports.items()}}))
    json.dumps(report.to_dict())
    for finding in report.problems:
        assert finding.advice, finding
    return report


def text(report: Report) -> str:
    return "\n".join(screen.lines(report, colours=False))


def only_problem(report: Report) -> str:
    """The text of the one problem, with what to do."""
    [found] = report.problems
    return f"{found.text} -> {found.advice} {' '.join(found.commands)}".strip()


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return tiny.make_checkpoint(tmp_path / "shards", "bf16", shards=3)


# Whole


@pytest.mark.parametrize(
    ("variant", "head", "size"), [("base", "as the embedding", 4), ("untied", "float32", 4), ("bf16", None, 2)]
)
def test_official_layout(checkpoint: Make, variant: str, head: str | None, size: int) -> None:
    report = diagnose(checkpoint(variant))
    facts = report.facts["model"]
    dtype = "float32" if size == 4 else "bfloat16"
    assert report.problems == []
    assert (facts["model"], facts["model_type"]) == ("MiniCPM-V 4.6", "minicpmv4_6")
    assert (facts["layout"], facts["stored"]) == ("official layout", f"official layout, {dtype}")
    assert {facts["parts"][name] for name in ("vision encoder", "mergers", "attention", "delta nets", "MLPs")} == {
        dtype
    }
    assert head in (None, facts["parts"]["head"])
    assert facts["size_on_disk"] == sum(file.stat().st_size for file in checkpoint(variant).iterdir())
    assert facts["processor"] == {}
    assert f"reads {facts['bytes_of_step'] / 1e6:.2f} MB of weights" in text(report)


@pytest.mark.parametrize(
    ("options", "stored"),
    [
        ({"q_bits": 4}, "embedding: 5-bit; attention: 6-bit; delta nets: 5-bit and 6-bit; MLPs: 4-bit"),
        ({"q_mode": "mxfp4"}, "embedding: 5-bit; attention: 6-bit; delta nets: 5-bit and 6-bit; MLPs: mxfp4"),
        (
            {"q_bits": 8, "q_group_size": 32},
            "embedding, attention, delta nets, MLPs: 8-bit in groups of 32",
        ),
    ],
    ids=["4-bit", "mxfp4", "8-bit"],
)
def test_converted_by_mlx_vlm(checkpoint: Make, tmp_path: Path, options: dict[str, Any], stored: str) -> None:
    report = diagnose(convert_here(checkpoint("base"), tmp_path / "with space", quantize=True, **options))
    assert report.problems == []
    assert f"vision encoder, mergers: float32; {stored}; head: as the embedding" in [f.text for f in report.findings]
    assert report.facts["model"]["layout"] == "converted by mlx-vlm"


def test_options_of_the_processor_that_are_not_the_defaults(checkpoint: Make, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint("ocr"), tmp_path / "ocr")
    content = tiny.processor_config("ocr")
    content["image_processor"] |= {"max_slice_nums": 36, "small_image_upsize": "adaptive"}
    content["video_processor"] |= {"max_slice_nums": 1, "stack_frames": 3}
    (folder / "processor_config.json").write_text(json.dumps(content))
    report = diagnose(folder)
    assert report.problems == []
    assert report.facts["model"]["processor"] == {
        "max_slice_nums": {"default": 9, "images": 36, "videos": 1},
        "small_image_upsize": {"default": "always", "images": "adaptive"},
        "stack_frames": {"default": 1, "videos": 3},
    }
    assert "max_slice_nums 36 (images) and 1 (videos), default 9" in report.findings[-1].text


# Missing or damaged


def test_missing_shard(shards: Path) -> None:
    (shards / SHARD).unlink()
    found = only_problem(diagnose(shards))
    assert f"names files that are not there: {SHARD} -> copy, download or convert the folder again" in found


def test_truncated_shard(shards: Path) -> None:
    content = (shards / SHARD).read_bytes()
    (shards / SHARD).write_bytes(content[:-100])
    found = only_problem(diagnose(shards))
    assert f"{SHARD} is truncated: {len(content) - 100} of {len(content)} bytes -> copy" in found


@pytest.mark.parametrize("name", ["tokenizer.json", "processor_config.json"])
def test_damaged_file_beside_the_weights(shards: Path, name: str) -> None:
    (shards / name).write_text("{")
    report = diagnose(shards)
    assert name in only_problem(report)
    assert any(finding.text.startswith("whole, ") for finding in report.findings)


def test_missing_tokenizer(shards: Path) -> None:
    (shards / "tokenizer.json").unlink()
    report = diagnose(shards)
    assert "tokenizer" in only_problem(report)


# Not a checkpoint


def test_what_is_no_checkpoint(checkpoint: Make, tmp_path: Path) -> None:
    assert f"'{tmp_path}/none' is not there -> give a folder" in only_problem(diagnose(tmp_path / "none"))
    assert "'' is not there" in only_problem(diagnose(""))
    assert "'~/model' is not there" in only_problem(diagnose("~/model"))  # as a shell leaves it within quotes
    file = checkpoint("base") / "model.safetensors"
    assert f"{file} is a file -> give its folder: {file.parent}" in only_problem(diagnose(file))
    assert "has no config.json -> give the folder that has config.json" in only_problem(diagnose(tmp_path))
    inside = shutil.copytree(checkpoint("base"), tmp_path / "models" / "my model")
    assert f"has no config.json -> give '{inside}'" in only_problem(diagnose(tmp_path))
    (inside / "config.json").write_text("no JSON")
    assert f"{inside}/config.json is not valid JSON" in only_problem(diagnose(inside))
    (inside / "config.json").write_text('{"model_type": "../x"}')
    assert "has no model_type that is a name" in only_problem(diagnose(inside))


def test_a_checkpoint_of_another_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("qwen3_5", "nobodys"):
        attempt(f"port {name}", port, name)
    answers = [json.loads(line.partition(" ")[2]) for line in capsys.readouterr().out.splitlines()]
    ports = {topic.removeprefix("port "): facts for topic, facts in answers}
    for name in ports:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"model_type": name}))
    report = diagnose(tmp_path / "qwen3_5", **ports)
    assert report.problems == []
    assert "mlx-vlm loads it with its own port: " in report.findings[0].text
    assert report.findings[0].text.endswith("models/qwen3_5/qwen3_5.py")
    assert "and mlx-vlm has no port of it -> update mlx-vlm" in only_problem(diagnose(tmp_path / "nobodys", **ports))


# The hub's cache


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_repository_that_is_not_in_the_cache(cache: Path) -> None:
    found = only_problem(diagnose(REPOSITORY))
    assert "neither a folder here nor in the local Hugging Face cache" in found
    assert found.endswith(f"hf download {REPOSITORY}")
    assert list(cache.iterdir()) == []


def test_repository_in_the_cache(cache: Path, shards: Path) -> None:
    """Files are links to blobs there."""
    repository = cache / "models--openbmb--MiniCPM-V-4.6"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    for file in shards.iterdir():
        (snapshot / file.name).symlink_to(file)
    report = diagnose(REPOSITORY)
    assert report.problems == [] and report.facts["model"]["folder"] == str(snapshot)
    (shards / SHARD).write_bytes(b"")
    assert only_problem(diagnose(REPOSITORY)).endswith(f"hf download {REPOSITORY} --force-download")
    (shards / SHARD).unlink()
    assert only_problem(diagnose(REPOSITORY)).endswith(f"hf download {REPOSITORY}")


# The screen


class Terminal:
    def isatty(self) -> bool:
        return True


def test_colours_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    terminal: Any = Terminal()
    assert screen.has_colours(terminal)
    with (tmp_path / "file").open("w") as file:
        assert not screen.has_colours(file)
    monkeypatch.setenv("TERM", "dumb")
    assert not screen.has_colours(terminal)
    monkeypatch.delenv("TERM")
    monkeypatch.setenv("NO_COLOR", "1")
    assert not screen.has_colours(terminal)


def test_marks_and_columns() -> None:
    report = Report()
    report.ok("one", "well")
    report.note("two", "words " * 40)
    report.problem("three", "wrong " * 30, "advice " * 30, "command " * 30)
    plain = list(screen.lines(report, colours=False))
    assert [line[:6] for line in plain if line[:5].strip()][:-1] == [" ok   ", " --   ", " FAIL "]
    assert all(len(line) <= screen.WIDTH for line in plain if "command" not in line)
    assert sum("command" in line for line in plain) == 1 and plain[-1].startswith("1 problem;")
    colourful = list(screen.lines(report, colours=True))
    assert colourful[0] == " \x1b[32mok  \x1b[0m one           well"
    assert "\x1b[31mFAIL\x1b[0m" in "\n".join(colourful)
