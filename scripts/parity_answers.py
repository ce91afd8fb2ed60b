"""The saved answers of a parity run: one .npz file for each implementation, dtype and case.

A file's name ends in a key made of all that an answer depends on, so an answer is computed anew when the checkpoint, a
version, the code or the case changed. Files appear whole: they are written under another name and renamed. Needs
neither torch nor MLX.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import sys
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

PARTIAL = ".partial"
_KEY = 16  # hexadecimal digits


def key(**parts: Any) -> str:
    """A short digest of everything that an answer depends on."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:_KEY]


def digest_of_files(files: Iterable[Path]) -> str:
    """Sha256 of the names and contents of files."""
    total = hashlib.sha256()
    for file in sorted(files):
        total.update(file.name.encode() + b"\0")
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                total.update(block)
    return total.hexdigest()


def answer_path(folder: Path, run: str, case: str, answer_key: str) -> Path:
    """Where the answer to a case lies; `run` is for example official-float32."""
    return folder / run / f"{case}-{answer_key}.npz"


def write_answer(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Save an answer and remove earlier ones of the same case."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + PARTIAL)
    with partial.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]  # mypy takes names for options
    os.replace(partial, path)
    for other in path.parent.glob(f"{path.stem[: -_KEY - 1]}-*.npz"):
        if other != path and len(other.stem) == len(path.stem):
            other.unlink()


def read_answer(path: Path) -> dict[str, np.ndarray]:
    """A saved answer; raises `ValueError` with its path where the file is damaged."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (zipfile.BadZipFile, EOFError, ValueError) as error:
        raise ValueError(f"{path} is no answer of a parity run ({error}): remove it and run again") from error


def costs(seconds: float, other_peak: int = 0) -> dict[str, np.ndarray]:
    """What an answer took, to be saved with it: seconds, and this process's largest memory so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"seconds": np.array(seconds), "peak_bytes": np.array(max(peak, other_peak), dtype=np.int64)}
