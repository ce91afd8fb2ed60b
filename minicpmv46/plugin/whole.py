"""Whether the installed files of this package are whole, by the sizes that the installer recorded.

A file that was cut off between two statements is valid Python, and would fail late and strangely.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import minicpmv46


def cut_off() -> str | None:
    """What is missing of a file, or None; also None where nobody recorded this copy: a clone, a zip, an application."""
    try:
        installed = distribution("minicpmv46")
    except PackageNotFoundError:
        return None
    recorded, ours = Path(str(installed.locate_file("minicpmv46/__init__.py"))), Path(minicpmv46.__file__ or "")
    if not (recorded.is_file() and ours.is_file() and recorded.samefile(ours)):
        return None
    for file in installed.files or ():
        path = Path(str(file.locate()))
        # The guard has its turn where something else is damaged, and tells that.
        if file.suffix == ".py" and file.size is not None and file.name != "guard.py":
            size = path.stat().st_size if path.is_file() else 0
            if size < file.size:
                return f"{file} has {size:,} of {file.size:,} bytes"
    return None
