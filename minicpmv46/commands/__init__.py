"""The commands of `python -m minicpmv46`, a file each.

A command's file has `EXAMPLE`, the command lines that its `--help` shows, `add_arguments(parser)` and
`run(arguments) -> int`, which prints the answer and returns the exit status: 0 where all is well, 1 where it found a
problem or could not do what was asked. Wrong arguments end with status 2, as argparse ends. Its docstring is the help
text. `doctor` must run where mlx-vlm, or a part of this package, is missing: import such things in `run`.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence

COMMANDS: tuple[str, ...] = ("tokens", "slices", "frames")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` (default: those of this process) name; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m minicpmv46", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    modules = {name: importlib.import_module(f"minicpmv46.commands.{name}") for name in COMMANDS}
    for name, module in modules.items():
        text = " ".join((module.__doc__ or "").split())
        command = commands.add_parser(
            name,
            help=text.partition(".")[0],
            description=text,
            epilog=f"example:\n{module.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument("--json", action="store_true", help="print JSON instead of text")
        module.add_arguments(command)
    parsed = parser.parse_args(arguments)
    status: int = modules[parsed.command].run(parsed)
    return status
