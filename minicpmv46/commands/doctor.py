"""Say whether mlx-vlm uses this package here, and if not why. Looks at versions, the backend, the hook in this Python,
the ports that mlx-vlm loads, and asks the demo checkpoint, which ships with the package; with MODEL also at a
checkpoint. Nothing is downloaded. Ends with status 1 where it found a problem, and every problem says what to do.
"""

from __future__ import annotations

import argparse
import json
import sys

EXAMPLE = """\
  python -m minicpmv46 doctor
  python -m minicpmv46 doctor openbmb/MiniCPM-V-4.6
  python -m minicpmv46 doctor --no-demo --json "my models/MiniCPM-V-4.6-4bit\""""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="a checkpoint's folder, or a repository that is in the local Hugging Face cache",
    )
    parser.add_argument("--no-demo", action="store_true", help="do not load the demo checkpoint, which takes seconds")


def run(arguments: argparse.Namespace) -> int:
    try:
        from minicpmv46.doctor import screen
        from minicpmv46.doctor.findings import Report
        from minicpmv46.doctor.run import examine
    except Exception as error:  # a damaged file may fail in any way
        print(f"minicpmv46 is damaged ({type(error).__name__}: {error}): reinstall it")
        return 1

    waiting = "asking a fresh Python how mlx-vlm loads, which takes some seconds ..."
    if arguments.json or not sys.stderr.isatty():
        waiting = ""
    print(waiting, end="\r" if waiting else "", file=sys.stderr, flush=True)
    report: Report = examine(arguments.model, not arguments.no_demo)
    print(" " * len(waiting), end="\r" if waiting else "", file=sys.stderr, flush=True)
    if arguments.json:
        print(json.dumps(report.to_dict(), indent=2))
    else:
        print(*screen.lines(report, screen.has_colours(sys.stdout)), sep="\n")
    return 1 if report.problems else 0
