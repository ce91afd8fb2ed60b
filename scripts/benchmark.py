"""How fast this port is beside the one that mlx-vlm brings, on your machine: Metal, CUDA or CPU.

    python scripts/benchmark.py
    python scripts/benchmark.py --model openbmb/MiniCPM-V-4.6 --output results --rounds 5
    python scripts/benchmark.py --quick --stages vision decode-1

Both ports run in turn, each time in a fresh process, on the checkpoint that you name or else on a random one of the
real widths (full depth on a GPU, a third of it on the CPU), which needs no download. Writes `benchmark.md`, a table,
`benchmark.svg`, a plot, and `benchmark.json` with every number into the output folder. Where a port fails, the table
says how. On the CPU timings are of float32, which is what it computes fastest.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from scripts.benchmark_report import PORTS, markdown, shown, svg
from scripts.benchmark_stages import MARK, STAGES

HERE = Path(__file__).parent
PACKAGES = ("minicpmv46", "mlx-vlm", "mlx", "transformers", "numpy", "pillow")
MODULES = {"built-in": "mlx_vlm.models.", "ours": "minicpmv46."}
COUNTS = {"launches-1": ["--rows", "1"], "launches-4": ["--rows", "4", "--padded"]}
SLOW_PRODUCTS = 50.0  # GFLOP/s; two cores reach some hundred with a good BLAS
FULL_DEPTH, CPU_DEPTH, QUICK_DEPTH = 24, 8, 4  # text layers; those of the encoder in proportion


@dataclass(frozen=True)
class Plan:
    """What is measured, and how."""

    model: str
    stages: tuple[str, ...]
    rounds: int
    dtype: str
    seconds: float
    decode_steps: int
    crops: int

    def worker_arguments(self) -> list[str]:
        return [
            *("--model", self.model, "--dtype", self.dtype, "--seconds", str(self.seconds)),
            *("--decode-steps", str(self.decode_steps), "--crops", str(self.crops)),
        ]


def has_gpu() -> bool:
    import mlx.core as mx

    return bool(mx.metal.is_available() or mx.cuda.is_available())


def product_speed() -> float:
    """GFLOP/s of a float32 matrix product, the best of three."""
    import mlx.core as mx

    n = 1024
    x = mx.random.normal((n, n))
    mx.eval(x)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        mx.eval(x @ x)
        times.append(time.perf_counter() - start)
    return 2 * n**3 / min(times) / 1e9


def device_name() -> str:
    """The GPU's name, or the processor's and its number of cores."""
    import mlx.core as mx

    if has_gpu():
        return str(mx.device_info().get("device_name", "GPU"))
    return f"CPU {platform.machine()}, {os.cpu_count()} cores"


def versions() -> dict[str, str]:
    import minicpmv46

    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from a clone
            found[name] = minicpmv46.__version__ if name == "minicpmv46" else "missing"
    return found


def chosen(names: Sequence[str] | None, light: bool) -> tuple[str, ...]:
    """Stages by their names or the beginnings of them; raises `ValueError` for one that fits none."""
    if names is None:
        return tuple(name for name, stage in STAGES.items() if not (light and stage.heavy))
    for name in names:
        if not any(stage.startswith(name) for stage in STAGES):
            raise ValueError(f"no stage begins with {name!r}; there are {', '.join(STAGES)}")
    return tuple(stage for stage in STAGES if stage.startswith(tuple(names)))


def environment(port: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "MINICPMV46_DISABLE"}
    return kept | ({"MINICPMV46_DISABLE": "1"} if port == "built-in" else {})


def last_error(log: str, returncode: int) -> str:
    """One line on why a process ended."""
    if returncode < 0:
        return f"killed by {signal.Signals(-returncode).name}"
    lines = [line.strip() for line in log.splitlines() if line and not line.startswith(" ")]
    return (lines[-1] if lines else f"exit status {returncode}")[:160]


def check_port(port: str, module: str) -> None:
    if not module.startswith(MODULES[port]):
        raise SystemExit(f"mlx-vlm loaded {module} where the {port} port was to be measured")


def measure(port: str, stages: Sequence[str], plan: Plan) -> Iterator[tuple[str, dict[str, Any]]]:
    """Timed stages of one port with their results; behind a stage that fails another process goes on."""
    left = list(stages)
    while left:
        command = [sys.executable, str(HERE / "benchmark_stages.py"), *plan.worker_arguments(), "--stages", *left]
        begun = None
        with (
            tempfile.TemporaryFile("w+") as log,
            subprocess.Popen(command, env=environment(port), stdout=subprocess.PIPE, stderr=log, text=True) as process,
        ):
            assert process.stdout is not None
            for line in process.stdout:
                if not line.startswith(MARK):
                    continue
                found = json.loads(line.removeprefix(MARK))
                if "port" in found:
                    check_port(port, found["port"])
                elif "begins" in found:
                    begun = found["begins"]
                else:
                    left.remove(found["stage"])
                    yield found.pop("stage"), found
            returncode = process.wait()
            log.seek(0)
            text = log.read()
        if returncode == 0:
            return
        error = last_error(text, returncode)
        for name in left if begun is None else [begun]:  # it does not even load: every stage fails
            left = [other for other in left if other != name]
            yield name, {"error": error}


def count(port: str, stages: Sequence[str], plan: Plan) -> Iterator[tuple[str, dict[str, Any]]]:
    """Launches and bytes of a decode step, which are the same in every round."""
    steps = {name: COUNTS[name] for name in stages if name in COUNTS} or {"": COUNTS["launches-1"]}
    for i, (name, arguments) in enumerate(steps.items()):
        command = [sys.executable, str(HERE / "launches.py"), plan.model, *arguments]
        done = subprocess.run(command, env=environment(port), capture_output=True, text=True)
        if done.returncode:
            failed = {"error": last_error(done.stderr, done.returncode)}
            found = {"launches": failed, "bytes": failed}
        else:
            counted = json.loads(done.stdout.splitlines()[-1])
            check_port(port, counted["port"])
            found = {"launches": {"count": counted["launches"], "kinds": counted["kinds"]}}
            found["bytes"] = {"count": counted["bytes"]}
        if name:
            yield name, found["launches"]
        if i == 0 and "bytes" in stages:
            yield "bytes", found["bytes"]


def tell(place: str, port: str, name: str, found: dict[str, Any]) -> None:
    """A line of progress."""
    if "error" in found:
        text = f"fails: {found['error']}"
    else:
        value = found["count"] if "count" in found else min(found["seconds"])
        text = shown(STAGES[name], value, found.get("work", 1))
    print(f"{place:14} {port:9} {STAGES[name].title:48} {text}", flush=True)


def run(plan: Plan, output: Path) -> dict[str, Any]:
    """All rounds; the JSON file is written anew after each process, so that nothing is lost when it is stopped."""
    record: dict[str, Any] = {
        "date": datetime.now().isoformat(timespec="seconds"),
        "device": device_name(),
        "system": platform.platform(),
        "versions": versions(),
        "model": plan.model,
        "dtype": plan.dtype,
        "stages": plan.stages,
        "rounds": plan.rounds,
        "runs": [],
    }

    def keep(place: str, port: str, results: Iterator[tuple[str, dict[str, Any]]]) -> None:
        run: dict[str, Any] = {"place": place, "port": port, "results": {}}
        record["runs"].append(run)
        for name, found in results:
            tell(place, port, name, found)
            run["results"][name] = found
        (output / "benchmark.json").write_text(json.dumps(record, indent=1), encoding="utf-8")

    timed = [name for name in plan.stages if STAGES[name].measure is not None]
    counted = [name for name in plan.stages if STAGES[name].measure is None]
    for port in PORTS if counted else ():
        keep("counts", port, count(port, counted, plan))
    for i in range(plan.rounds if timed else 0):
        for port in PORTS if i % 2 == 0 else reversed(PORTS):  # what runs second finds a warmer machine
            keep(f"round {i + 1} of {plan.rounds}", port, measure(port, timed, plan))
    return record


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="checkpoint folder or repository; a random one of the real widths if left out")
    parser.add_argument("--output", type=Path, default=Path("benchmark"), help="folder for what is written")
    parser.add_argument("--rounds", type=int, help="how often both ports run (3; with --quick 2, on a slow CPU 1)")
    parser.add_argument("--stages", nargs="+", metavar="STAGE", help=f"names or their beginnings: {', '.join(STAGES)}")
    parser.add_argument(
        "--quick", action="store_true", help="less of everything; on the CPU no large pictures or prompts"
    )
    parser.add_argument("--layers", type=int, help="text layers of the random checkpoint; 24 is full depth")
    parser.add_argument("--dtype", choices=("stored", "float32", "bfloat16", "float16"), help="type of the weights")
    given = parser.parse_args(arguments)
    try:
        given.stages = chosen(given.stages, given.quick and not has_gpu())
    except ValueError as error:
        parser.error(str(error))
    if given.rounds is not None and given.rounds < 1:
        parser.error(f"--rounds {given.rounds}: at least one round is needed")
    if given.layers is not None and given.model is not None:
        parser.error("--layers is for the random checkpoint; a checkpoint that --model names has its own depth")
    if given.layers is not None and not 4 <= given.layers <= FULL_DEPTH:
        parser.error(f"--layers {given.layers}: from 4, one of them with full attention, to {FULL_DEPTH}")
    if given.model is not None and not Path(given.model).is_dir() and given.model.count("/") != 1:
        parser.error(f"--model {given.model}: no such folder, and no repository like openbmb/MiniCPM-V-4.6")
    if given.output.exists() and not given.output.is_dir():
        parser.error(f"--output {given.output}: a file is there; name a folder")
    return given


def make_model(folder: Path, layers: int) -> str:
    """The random checkpoint, made in another process, which gives its memory back."""
    encoder = max(1, round(27 * layers / FULL_DEPTH))
    print(f"making a random checkpoint of {layers} text and {encoder} vision layers", flush=True)
    command = [sys.executable, str(HERE / "random_checkpoint.py"), str(folder)]
    command += ["--text-layers", str(layers), "--vision-layers", str(encoder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return str(folder)


def main(arguments: Sequence[str] | None = None) -> None:
    given = parse(arguments)
    gpu, quick = has_gpu(), given.quick
    given.output.mkdir(parents=True, exist_ok=True)
    slow = not gpu and (speed := product_speed()) < SLOW_PRODUCTS
    if slow:
        print(f"matrix products run at {speed:.0f} GFLOP/s here, which will take long; on Linux")
        print("LD_PRELOAD=/path/to/libopenblas.so.0 before the command is 10 to 30 times as fast", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        depth = given.layers or (FULL_DEPTH if gpu else QUICK_DEPTH if quick else CPU_DEPTH)
        plan = Plan(
            model=given.model or make_model(Path(temporary) / "random", depth),
            stages=given.stages,
            rounds=given.rounds or (1 if quick and slow else 2 if quick else 3),
            dtype=given.dtype or ("stored" if gpu else "float32"),
            seconds=(1.0 if quick else 4.0),
            decode_steps=64 if gpu else 4 if quick else 16,
            crops=32 if gpu else 2 if quick else 8,
        )
        record = run(plan, given.output)
    if given.model is None:
        record["model"] = f"random weights of the real widths, {depth} of {FULL_DEPTH} text layers"
    (given.output / "benchmark.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    table = markdown(record)
    (given.output / "benchmark.md").write_text(table, encoding="utf-8")
    (given.output / "benchmark.svg").write_text(svg(record), encoding="utf-8")
    print(f"\n{table}\nwritten to {given.output.resolve()}")


if __name__ == "__main__":
    main()
