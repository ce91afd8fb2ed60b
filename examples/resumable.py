"""Rows that survive a killed run. The long examples import this file; copy it with them.

The rows of `table.csv` are kept in `table.csv.rows.jsonl` as they are made, one JSON object a line. The same command
started again reads them and does the rest. Rows whose "error" is not empty are made anew.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

AGAIN = "Stopped. What is done is kept: the same command goes on from here."


class Rows:
    """The finished rows of an output file.

    Args:
        output: the file that is written at the end.
        settings: what the rows depend on (model, prompt, options); rows of other settings are not mixed with them.
    """

    def __init__(self, output: Path, settings: dict[str, Any]) -> None:
        self.path = output.with_name(output.name + ".rows.jsonl")
        rows: list[dict[str, Any]] = []
        if self.path.exists():
            first, *lines = self.path.read_text("utf-8").split("\n")[:-1] or [json.dumps(settings)]
            if lines and json.loads(first) != settings:
                sys.exit(
                    f"{self.path} has rows of an earlier run with other settings:\n  then {first}\n  now  "
                    f"{json.dumps(settings)}\nDelete it to start anew, or write to another file with -o."
                )
            rows = [row for row in map(json.loads, lines) if not row.get("error")]
        elif output.exists():
            sys.exit(f"{output} exists and is of no earlier run ({self.path} is not there): choose another -o")
        # Written anew without the errors and without a last line that a killed run left half written.
        write_whole(self.path, "".join(json.dumps(line) + "\n" for line in (settings, *rows)))

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows on the disk. There is no second list, since Ctrl-C could come between the write and its update."""
        _, *lines = self.path.read_text("utf-8").split("\n")[:-1]
        return [json.loads(line) for line in lines]

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        """Keep more rows; on return they are on the disk."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))
            file.flush()
            os.fsync(file.fileno())


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it is either the old one or the new one, and never half of one."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, "utf-8", newline="")
    os.replace(part, path)


def run(main: Callable[[], int]) -> int:
    """The exit status of `main`; Ctrl-C ends with a hint instead of a traceback."""
    try:
        return main()
    except KeyboardInterrupt:
        print(AGAIN, file=sys.stderr)
        return 130
