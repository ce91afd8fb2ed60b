"""A checkpoint: whose it is, how it is stored, what a token costs, and whether its files are whole."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minicpmv46.doctor.findings import Report
from minicpmv46.guard import MODEL_TYPES
from minicpmv46.plugin.status import Answers

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_PLAIN_TYPE = re.compile(r"[A-Za-z0-9_.-]{1,80}")
_AGAIN = "copy, download or convert the folder again"


@dataclass(frozen=True)
class Place:
    """A folder with a `config.json`.

    Attributes:
        folder: where it lies.
        repository: its name on the hub; "" for a folder that was given.
        model_type: of `config.json`; "" where it has none that can be read.
        size: bytes of all files in it.
    """

    folder: Path
    repository: str
    model_type: str
    size: int

    @property
    def is_ours(self) -> bool:
        return self.model_type.lower() in MODEL_TYPES

    def repair(self, error: BaseException) -> tuple[str, ...]:
        """What to do about a file that is missing or damaged."""
        if not self.repository:
            return (_AGAIN,)
        force = () if isinstance(error, FileNotFoundError) else ("--force-download",)
        return "download it again", " ".join(("hf download", self.repository, *force))


def find(report: Report, name: str) -> Place | None:
    """The checkpoint that `name` means, a folder or a repository in the local cache; None with a problem told."""
    folder, repository = Path(name), ""
    report.facts["model"] = {"name": name}
    if folder.is_file():
        _no_folder(report, f"{name} is a file", f"give its folder: {shlex.quote(str(folder.parent))}")
        return None
    if not name or not folder.is_dir():
        if not _REPOSITORY.fullmatch(name):
            _no_folder(report, f"{name!r} is not there", "give a folder that exists, or a repository as OWNER/NAME")
            return None
        repository, cached = name, _cached(name)
        if cached is None:
            report.problem(
                "model",
                f"{name} is neither a folder here nor in the local Hugging Face cache",
                "download it, or correct the name; mlx-vlm also downloads it on first use",
                f"hf download {name}",
            )
            return None
        folder = cached
    if not (folder / "config.json").is_file():
        inside = [str(path.parent) for depth in ("*", "*/*") for path in sorted(folder.glob(f"{depth}/config.json"))]
        hint = f"give {shlex.quote(inside[0])}" if inside else "give the folder that has config.json and *.safetensors"
        _no_folder(
            report, f"{folder} has no config.json", f"download {name} again: hf download {name}" if repository else hint
        )
        return None
    from minicpmv46.files import read_json

    try:
        found = read_json(folder / "config.json").get("model_type")
    except (OSError, ValueError) as error:
        _no_folder(report, str(error), Place(folder, repository, "", 0).repair(error)[0])
        return None
    model_type = found if isinstance(found, str) and _PLAIN_TYPE.fullmatch(found) else ""
    size = sum(_sizes(folder))
    report.facts["model"] |= {"folder": str(folder.absolute()), "model_type": model_type or None, "size_on_disk": size}
    return Place(folder, repository, model_type, size)


def _no_folder(report: Report, text: str, advice: str) -> None:
    report.problem("model", text, advice)


def _cached(repository: str) -> Path | None:
    """Its folder in the local cache of the hub."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, local_files_only=True))
    except (OSError, ValueError):  # not there, or no name that the hub has
        return None


def _sizes(folder: Path) -> Iterator[int]:
    """Bytes of each file; links to files are followed, since the hub's cache is made of them."""
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                yield (Path(parent) / name).stat().st_size
            except OSError:  # a link to nothing
                continue


def examine(report: Report, place: Place, answers: Answers) -> None:
    """Look at a checkpoint's files; those of other models only as far as their port."""
    if not place.is_ours:
        _other(report, place, answers)
        return
    if "error" in answers.facts.get("device", {"error": ""}):  # or MLX has ended that Python
        report.note("model", f"{place.folder} ({place.model_type}): not looked at, since mlx cannot be imported")
        return
    from minicpmv46.checkpoint import check_checkpoint
    from minicpmv46.siblings import SIBLINGS

    name = SIBLINGS[place.model_type.lower()].name
    facts = report.facts["model"]
    facts["model"] = name
    try:
        contents = check_checkpoint(place.folder)
    except (OSError, ValueError) as error:
        report.note("model", f"{name} ({place.model_type}) in {place.folder}")
        report.problem("files", str(error), *place.repair(error))
        contents = None
    if contents is not None:
        report.ok("model", f"{name} ({place.model_type}), {contents.layout}: {place.folder}")
        report.ok("stored", "; ".join(_grouped(contents.parts)))
        read = contents.bytes_of_step
        facts |= {
            "layout": contents.layout,
            "stored": contents.summary,
            "parts": contents.parts,
            "bytes_of_step": read,
        }
        counted = (
            f"reads {_megabytes(read)} of weights" if read is not None else f"not counted for {contents.other_format}"
        )
        report.ok("a token", f"one decode step {counted}")
        report.ok(
            "files",
            f"whole, {_megabytes(place.size)} on disk",
        )
    _processor(report, place)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.{0 if size >= 100e6 else 2}f} MB"


def _grouped(parts: Mapping[str, str]) -> list[str]:
    """Parts by how they are stored, a text each."""
    by_form: dict[str, list[str]] = {}
    for name, stored in parts.items():
        by_form.setdefault(stored, []).append(name)
    return [f"{', '.join(names)}: {stored}" for stored, names in by_form.items()]


def _processor(report: Report, place: Place) -> None:
    """Whether processor, tokenizer and template can be read, and which options are not the official defaults."""
    from minicpmv46.options import Options
    from minicpmv46.processing import Processor

    try:
        options = Processor.from_pretrained(place.folder).options
    except (OSError, ValueError, TypeError) as error:
        report.problem("processor", str(error), *place.repair(error))
        return
    usual = Options.of(options.sibling, options.limits)
    changed: dict[str, dict[str, Any]] = {}
    for half, own, default in (
        ("images", options.images.to_dict(), usual.images.to_dict()),
        ("videos", options.videos.to_dict(), usual.videos.to_dict()),
    ):
        for option, value in own.items():
            if value != default[option]:
                changed.setdefault(option, {"default": default[option]})[half] = value
    report.facts["model"]["processor"] = changed
    texts = [
        f"{option} {' and '.join(f'{values[half]} ({half})' for half in ('images', 'videos') if half in values)}"
        f", default {values['default']}"
        for option, values in changed.items()
    ]
    report.ok("processor", "; ".join(texts) or "options are the official defaults")


def _other(report: Report, place: Place, answers: Answers) -> None:
    port = answers.facts.get(f"port {place.model_type}")
    what = f"{place.folder} has model_type {place.model_type or None!r}, which is no model of this package"
    if not place.model_type:
        report.problem("model", f"{place.folder}/config.json has no model_type that is a name", _AGAIN)
    elif port is None:
        report.note("model", f"{what}; mlx-vlm cannot be asked for its port")
    elif port.get("file"):
        report.note("model", f"{what}; mlx-vlm loads it with its own port: {port['file']}")
    elif port.get("error"):
        report.problem(
            "model",
            f"{what}, and mlx-vlm's port fails: {port['error']}",
            "update mlx-vlm, or use another program for it",
        )
    else:
        report.problem(
            "model", f"{what}, and mlx-vlm has no port of it", "update mlx-vlm, or use another program for it"
        )
