"""Compare this port with the official implementation on a checkpoint, stage by stage, on your machine.

    python scripts/parity.py openbmb/MiniCPM-V-4.6
    python scripts/parity.py openbmb/MiniCPM-OCR-1.0 --quick
    python scripts/parity.py path/to/checkpoint --cases text page --output results

Run it with the Python that has mlx-vlm and this package. The official side is transformers on the CPU, in a virtual
environment of its own, which the first run makes. Prompt ids and pixels must be equal, vision features, hidden states
and logits within 1e-4 of the largest official value, and greedy tokens equal; that is decided in float32. In the
checkpoint's own dtype, where nobody promises exactness, both sides are set beside the official float32 answer.

What is finished is kept: after Ctrl-C the same command goes on. Writes parity.json, which belongs into a report, and
parity.md into the output folder. Exit status: 0 equal, 1 different, 2 it could not be run.
"""

from __future__ import annotations

import argparse
import json
import platform
import signal
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from scripts.parity_run import Side

EQUAL, DIFFERENT, NOT_RUN, INTERRUPTED = 0, 1, 2, 130
OUR_PACKAGES = ("mlx-vlm", "mlx", "transformers", "numpy", "pillow", "opencv-python")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL", help="checkpoint folder or repository in the official layout")
    parser.add_argument("--quick", action="store_true", help="a text and one picture")
    parser.add_argument("--cases", nargs="+", metavar="NAME", help="only these cases")
    parser.add_argument("--float32-only", action="store_true", help="leave out the checkpoint's own dtype")
    parser.add_argument("--output", type=Path, help="folder for answers and reports (parity/NAME OF THE MODEL)")
    parser.add_argument(
        "--environment",
        type=Path,
        default=ROOT / ".venv-parity",
        help="the official side's virtual environment; one that is there already is used as it is (.venv-parity)",
    )
    parser.add_argument("--force", action="store_true", help="run also where the memory is too small")
    given = parser.parse_args(arguments)
    if given.quick and given.cases:
        parser.error("--quick and --cases: give one of them")
    if given.output is not None and given.output.exists() and not given.output.is_dir():
        parser.error(f"--output {given.output}: a file is there; name a folder")
    return given


def run(given: argparse.Namespace) -> int:
    """Everything after the arguments; raises what `main` tells in a sentence."""
    from scripts import parity_cases, parity_environment, parity_model, parity_report, parity_run

    folder, name = parity_model.find(given.model)
    print(f"reading {name}", flush=True)
    checkpoint = parity_model.inspect(folder, name)
    known = parity_cases.cases(checkpoint.model_type)
    wanted = parity_cases.QUICK if given.quick else given.cases or tuple(known)
    if unknown := [case for case in wanted if case not in known]:
        raise ValueError(f"--cases: no case is called {', '.join(unknown)}; there are {', '.join(known)}")
    cases = {case: known[case] for case in known if case in wanted}
    memory = parity_model.machine_memory()
    try:
        print(parity_model.check_memory(checkpoint, memory), flush=True)
    except ValueError as error:
        if not given.force:
            raise
        print(f"{error}: going on, by --force", flush=True)

    versions = parity_environment.prepare(given.environment)
    official = parity_run.Side(
        "official", str(parity_environment.python_of(given.environment)), (), versions, official_device()
    )
    ours = our_side()
    output = given.output or Path("parity") / checkpoint.name.rpartition("/")[2]
    dtypes = ("float32",) if given.float32_only else tuple(dict.fromkeys(("float32", checkpoint.dtype)))
    print(f"official: {official.device}; ours: {ours.device}", flush=True)
    with parity_run.locked(output):
        runs = parity_run.plan(output, checkpoint, cases, official, ours, dtypes)
        for part in runs:
            parity_run.compute(part, checkpoint, output)
        rows = [parity_report.make_row(case, runs) for case in cases]
        table = parity_report.markdown(checkpoint, runs, rows)
        told = parity_report.result(rows)
        content = parity_report.record(checkpoint, runs, rows)
        (output / "parity.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        (output / "parity.md").write_text(f"{table}\n\n{told}\n", encoding="utf-8")
    print(f"\n{table}\n\n{told}\nEvery number is in {output / 'parity.json'}; attach it to a report.")
    return EQUAL if all(row.equal for row in rows) else DIFFERENT


def official_device() -> str:
    from scripts.parity_report import processor_name

    return f"CPU ({processor_name()})"


def our_side() -> Side:
    """This interpreter with MLX's default device."""
    import mlx.core as mx

    import minicpmv46
    from scripts import parity_environment, parity_report, parity_run

    package = Path(minicpmv46.__file__).parent
    # Of this package the version of the code that runs, which may be a clone's beside an installed one.
    versions = {"minicpmv46": minicpmv46.__version__, **parity_environment.installed(OUR_PACKAGES)}
    kind = "Metal" if mx.metal.is_available() else "CUDA"
    gpu = mx.default_device().type == mx.gpu
    device = f"{kind} ({mx.device_info()['device_name']})" if gpu else f"CPU ({parity_report.processor_name()})"
    files = tuple(sorted(package.rglob("*.py")))
    return parity_run.Side("ours", sys.executable, files, {"python": platform.python_version(), **versions}, device)


def terminated(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    given = parse(arguments)
    missing = [name for name in ("mlx", "mlx_vlm", "huggingface_hub") if find_spec(name) is None]
    if missing:
        print(
            f"parity: this Python ({sys.executable}) has no {', '.join(missing)}. Use the one that has mlx-vlm, for "
            "example .venv/bin/python after `bash scripts/demo.sh`",
            file=sys.stderr,
        )
        return NOT_RUN
    try:
        return run(given)
    except KeyboardInterrupt:
        print("\nparity: stopped; the same command goes on where it was", file=sys.stderr)
        return INTERRUPTED
    except subprocess.CalledProcessError as error:
        print(f"parity: {' '.join(map(str, error.cmd[1:4]))} … failed with status {error.returncode}", file=sys.stderr)
        return NOT_RUN
    except (OSError, ValueError, RuntimeError) as error:
        print(f"parity: {error}", file=sys.stderr)
        return NOT_RUN


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, terminated)
    sys.exit(main())
