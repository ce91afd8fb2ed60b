"""A small MiniCPM-V 4.6 that ships with this package and answers without network; see `checkpoint/README.md`.

`python -m minicpmv46.demo` prints the checkpoint's folder, for `--model`.
"""

from pathlib import Path

_HERE = Path(globals().get("__file__", "minicpmv46/demo/__init__.py")).parent  # a frozen module has no file
CHECKPOINT = _HERE / "checkpoint"
SAMPLES = _HERE / "samples"


def path() -> str:
    """Folder of the demo checkpoint, in the official layout; raises `FileNotFoundError` where it is not a folder."""
    _require_folder(CHECKPOINT)
    return str(CHECKPOINT)


def sample(name: str) -> str:
    """Path of a sample picture or clip, such as "read.png"; raises `FileNotFoundError` naming those there are."""
    _require_folder(SAMPLES)
    file = SAMPLES / name
    if not file.is_file():
        raise FileNotFoundError(f"no sample {name!r}; there are {', '.join(sorted(f.name for f in SAMPLES.iterdir()))}")
    return str(file)


def _require_folder(folder: Path) -> None:
    """mlx-vlm reads folders only, so in a zip or an application without files the demo is not to be had."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder: the demo needs an unpacked package, as pip installs it")
