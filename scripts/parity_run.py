"""The two sides of a parity run: processes of their own, which compute the answers that are not saved yet."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.parity_answers import PARTIAL, answer_path, digest_of_files, key
from scripts.parity_cases import Case
from scripts.parity_model import Checkpoint

HERE = Path(__file__).resolve().parent
SHARED = ("parity_answers.py", "parity_cases.py")


class RunError(RuntimeError):
    """A side did not finish; the text says which and why."""


@dataclass(frozen=True)
class Side:
    """An implementation: who computes its answers, and what they depend on besides checkpoint, case and dtype.

    Attributes:
        name: official or ours.
        python: interpreter of its environment.
        package: Python files of the port, whose change makes saved answers old; none for the official side.
        versions: of what computes.
        device: where it computes.
    """

    name: str
    python: str
    package: tuple[Path, ...]
    versions: Mapping[str, str]
    device: str

    @property
    def worker(self) -> Path:
        return HERE / f"parity_{self.name}.py"

    def identity(self) -> dict[str, Any]:
        files = [self.worker, *(HERE / name for name in SHARED)]
        code = digest_of_files(files) + digest_of_files(self.package)
        return {"versions": dict(self.versions), "device": self.device, "code": code}

    def environment(self) -> dict[str, str]:
        """Environment of its process. MLX multiplies float32 in TF32 on NVIDIA unless told otherwise."""
        fixed = {"HF_HUB_OFFLINE": "1", "PYTHONUTF8": "1", "MLX_ENABLE_TF32": "0", "TOKENIZERS_PARALLELISM": "false"}
        if self.name == "ours":
            return {**os.environ, **fixed, "MINICPMV46_DISABLE": "0"}
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return {**kept, **fixed, "MINICPMV46_DISABLE": "1"}


@dataclass(frozen=True)
class Run:
    """All cases on one side in one dtype."""

    side: Side
    dtype: str
    answers: Mapping[str, Path]
    reference: Mapping[str, Path]  # official float32 answers, whose features our hidden states start from

    @property
    def name(self) -> str:
        return f"{self.side.name}-{self.dtype}"

    @property
    def missing(self) -> dict[str, Path]:
        return {case: path for case, path in self.answers.items() if not path.exists()}


def plan(
    folder: Path, checkpoint: Checkpoint, cases: Mapping[str, Case], official: Side, ours: Side, dtypes: tuple[str, ...]
) -> list[Run]:
    """The runs in order: the official one before ours of each dtype; float32 first."""
    digests = {name: case.digest() for name, case in cases.items()}

    def paths(side: Side, dtype: str, **more: str) -> dict[str, Path]:
        common = {"model": checkpoint.sha256, "dtype": dtype, **side.identity(), **more}
        keys = {name: key(case=digest, **common) for name, digest in digests.items()}
        return {name: answer_path(folder, f"{side.name}-{dtype}", name, found) for name, found in keys.items()}

    runs = []
    for dtype in dtypes:
        theirs = paths(official, dtype)
        reference = theirs if dtype == "float32" else {}
        # Our hidden states in float32 start from the official features, so they depend on that answer's key too.
        related = {"official": key(**official.identity())} if reference else {}
        runs.append(Run(official, dtype, theirs, {}))
        runs.append(Run(ours, dtype, paths(ours, dtype, **related), reference))
    return runs


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold an output folder; raises `RunError` where another run holds it. Removes what a killed run left."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunError(f"another run is writing to {folder}; wait for it, or name another --output") from error
        for partial in folder.glob(f"*/*{PARTIAL}"):
            partial.unlink()
        yield


def compute(run: Run, checkpoint: Checkpoint, logs: Path) -> None:
    """Compute the answers that are missing; raises `RunError`."""
    saved = len(run.answers) - len(run.missing)
    if saved:
        print(f"{run.side.name} {run.dtype}: {saved} of {len(run.answers)} cases are saved already", flush=True)
    if not run.missing:
        return
    job = {
        "folder": str(checkpoint.folder.resolve()),
        "model_type": checkpoint.model_type,
        "dtype": run.dtype,
        "answers": {case: str(path.resolve()) for case, path in run.missing.items()},
        "official": {case: str(path.resolve()) for case, path in run.reference.items()},
    }
    log = logs / f"{run.name}.log"
    with tempfile.TemporaryDirectory() as temporary, log.open("w", encoding="utf-8") as errors:
        (Path(temporary) / "job.json").write_text(json.dumps(job), encoding="utf-8")
        command = [run.side.python, str(run.side.worker), str(Path(temporary) / "job.json")]
        process = subprocess.Popen(command, env=run.side.environment(), stderr=errors)
        try:
            status = process.wait()
        finally:  # answers appear whole, so a process may be ended at any time
            if process.poll() is None:
                process.terminate()
                process.wait()
    if status:
        raise RunError(f"{run.side.name} {run.dtype} failed: {reason(log, status)}\nThe whole of it is in {log}")


def reason(log: Path, status: int) -> str:
    """Why a process ended, in a line."""
    if status == -signal.SIGKILL:
        return "it was killed, probably for lack of memory; what it finished is kept"
    if status < 0:
        return f"it was ended by {signal.Signals(-status).name}"
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1][:400] if lines else f"exit status {status}"
