"""The commands of `python -m minicpmv46`, a file each.

A command's file has `EXAMPLE`, the command lines that its `--help` shows, `add_arguments(parser)` and
`run(arguments) -> int`, which prints the answer and returns the exit status: 0 where all is well, 1 where it found a
problem or could not do what was asked. Wrong arguments end with status 2, as argparse ends. Its docstring is the help
text. `doctor` must run where mlx-vlm, or a part of this package, is missing: import such things in `run`.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import textwrap
from collections.abc import Sequence
from types import ModuleType

from minicpmv46 import __version__

DESCRIPTION = "MiniCPM-V 4.6 and MiniCPM-OCR 1.0 for mlx-vlm. Every command has --help and --json."

COMMANDS: tuple[str, ...] = ("doctor", "tokens", "slices", "frames")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` (default: those of this process) name; its exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(prog="python -m minicpmv46", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"minicpmv46 {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    chosen = next((name for name in given if not name.startswith("-")), None)
    if chosen not in COMMANDS:  # help, or an error that names all commands
        for name in COMMANDS:
            commands.add_parser(name, help=_summary(name))
        parser.parse_args(given)
        raise AssertionError("argparse ends where no command is given")
    # Nothing of the others is imported, so that `doctor` runs where one of them is damaged.
    try:
        module = _module(chosen)
    except Exception as error:  # a damaged file may fail in any way
        found = f"{type(error).__name__}: {error}"
        print(f"{chosen} cannot be imported ({found}): install what is missing, or minicpmv46 again", file=sys.stderr)
        return 1
    _add(commands, chosen, module)
    status: int = module.run(parser.parse_args(given))
    return status


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"minicpmv46.commands.{name}")


def _add(commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, module: ModuleType) -> None:
    command = commands.add_parser(
        name,
        description=textwrap.fill(_text(module), 90),
        epilog=f"example:\n{module.EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--json", action="store_true", help="print JSON instead of text")
    module.add_arguments(command)


def _summary(name: str) -> str:
    """The line that the list of commands has for one."""
    try:
        return _text(_module(name)).partition(".")[0]
    except Exception as error:  # a damaged file may fail in any way
        return f"cannot be imported ({type(error).__name__}); `python -m minicpmv46 doctor` says more"


def _text(module: ModuleType) -> str:
    return " ".join((module.__doc__ or "").split())
