"""What `parity.py` prints and saves: two tables, a line with the result, and JSON with every number."""

from __future__ import annotations

import platform
import subprocess
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scripts.parity_answers import read_answer
from scripts.parity_compare import CLOSE, STAGES, TOLERANCE, Found, Rounded, agreeing, compare, compare_rounded
from scripts.parity_model import Checkpoint, machine_memory
from scripts.parity_run import Run

DECIDES = (
    f"Rows of float32 decide: ids, pixels and greedy tokens must be equal, all else within {TOLERANCE:.0e} of the "
    "largest official value."
)
GB = 1_000_000_000


@dataclass(frozen=True)
class Row:
    """A case: stages in float32, and those in the checkpoint's own dtype where they were computed."""

    name: str
    tokens: int
    new_tokens: int
    found: Mapping[str, Found]
    rounded: Mapping[str, Rounded]
    agreeing: Mapping[str, int]  # first greedy tokens that are the official float32 ones, by side
    costs: Mapping[str, Mapping[str, float]]  # seconds and peak_bytes by run

    @property
    def equal(self) -> bool:
        return all(stage.equal for stage in self.found.values())


def make_row(name: str, runs: list[Run]) -> Row:
    """Read a case's answers and compare them; raises `ValueError` where one is damaged."""
    answers = {run.name: read_answer(run.answers[name]) for run in runs}
    official, ours, *own = answers.values()
    rounded = compare_rounded(own[1], own[0], official) if own else {}
    agreed = {
        side: agreeing(x["greedy"], official["greedy"]) for side, x in zip(("official", "ours"), own, strict=False)
    }
    costs = {run: {k: float(x[k]) for k in ("seconds", "peak_bytes")} for run, x in answers.items()}
    found = compare(ours, official)
    return Row(name, len(official["input_ids"]), len(official["greedy"]), found, rounded, agreed, costs)


def processor_name() -> str:
    """The processor as its maker calls it."""
    if platform.system() == "Darwin":
        done = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True)
        return done.stdout.strip() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def record(checkpoint: Checkpoint, runs: list[Run], rows: list[Row]) -> dict[str, Any]:
    """Everything that a reader of a report asks. No path of the machine is in it."""
    sides = {run.side.name: run.side for run in runs}
    return {
        "result": "equal" if all(row.equal for row in rows) else "different",
        "decided_by": DECIDES,
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "model": {
            "name": checkpoint.name,
            "model_type": checkpoint.model_type,
            "parameters": checkpoint.parameters,
            "dtype": checkpoint.dtype,
            "sha256": checkpoint.sha256,
        },
        "machine": {
            "system": platform.platform(),
            "processor": processor_name(),
            "memory_bytes": machine_memory(),
        },
        **{name: {"device": side.device, "versions": dict(side.versions)} for name, side in sides.items()},
        "tolerance": TOLERANCE,
        "cases": [
            {
                "name": row.name,
                "tokens": row.tokens,
                "equal": row.equal,
                "float32": {stage: asdict(found) for stage, found in row.found.items()},
                "own_dtype": {stage: {**asdict(x), "ratio": x.ratio} for stage, x in row.rounded.items()},
                "own_dtype_greedy": {**row.agreeing, "of": row.new_tokens} if row.agreeing else {},
                "costs": row.costs,
            }
            for row in rows
        ],
    }


def markdown(checkpoint: Checkpoint, runs: list[Run], rows: list[Row]) -> str:
    """The tables, with what they were made on."""
    heads = ["case", "tokens", *STAGES]
    lines = ["float32, ours beside the official implementation:", "", _line(heads), _line(["---"] * len(heads))]
    for row in rows:
        cells = [_cell(row.found.get(stage)) for stage in STAGES]
        lines.append(_line([row.name, f"{row.tokens:,}", *cells]))
    if any(row.rounded for row in rows):
        lines += ["", *_rounded_table(checkpoint.dtype, rows)]
    lines += [
        "",
        DECIDES,
        f"{checkpoint.name}, {checkpoint.parameters / 1e6:,.0f} million parameters, {checkpoint.dtype}",
    ]
    for side in (run.side for run in runs if run.dtype == "float32"):
        named = ", ".join(f"{name} {version}" for name, version in side.versions.items())
        costs = [row.costs[f"{side.name}-float32"] for row in rows]
        seconds, peak = sum(cost["seconds"] for cost in costs), max(cost["peak_bytes"] for cost in costs)
        lines.append(f"{side.name}: {side.device}; {named}; {seconds:.0f} s, {peak / GB:.1f} GB in float32")
    return "\n".join(lines)


def _rounded_table(dtype: str, rows: list[Row]) -> list[str]:
    """Distances from the official float32 answer, which decide nothing."""
    heads = ["case", *(f"{stage}: ours, official, ratio" for stage in CLOSE), "greedy: ours, official"]
    lines = [
        f"{dtype}, both beside the official float32 answer (mean error; a ratio below 1 says that ours is nearer; "
        "for information, decides nothing):",
        "",
        _line(heads),
        _line(["---"] * len(heads)),
    ]
    for row in rows:
        cells = []
        for stage in CLOSE:
            found = row.rounded.get(stage)
            cells.append(f"{found.ours:.1e}, {found.official:.1e}, {found.ratio:.2f}" if found else "")
        agreed = ", ".join(f"{row.agreeing[side]} of {row.new_tokens}" for side in ("ours", "official"))
        lines.append(_line([row.name, *cells, agreed]))
    return lines


def result(rows: list[Row]) -> str:
    """The result in words: each stage that differs, the first of a case first."""
    different = [f"{row.name}: {stage}: {x.why}" for row in rows for stage, x in row.found.items() if not x.equal]
    if not different:
        return f"equal: all stages of {len(rows)} cases"
    return "\n".join([f"different: {len(different)} stages", *different])


def _cell(found: Found | None) -> str:
    if found is None:
        return ""
    return found.shown if found.equal else f"**{found.shown}**"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
