"""A small MiniCPM-V 4.6 that ships with this package and answers without network; see `checkpoint/README.md`.

`python -m minicpmv46.demo` prints the checkpoint's folder, for `--model`.
"""

from pathlib import Path

CHECKPOINT = Path(__file__).parent / "checkpoint"
SAMPLES = Path(__file__).parent / "samples"


def path() -> str:
    """Folder of the demo checkpoint, in the official layout."""
    return str(CHECKPOINT)


def sample(name: str) -> str:
    """Path of a sample picture or clip, such as "read.png"; raises `FileNotFoundError` naming those there are."""
    file = SAMPLES / name
    if not file.is_file():
        raise FileNotFoundError(f"no sample {name!r}; there are {', '.join(sorted(f.name for f in SAMPLES.iterdir()))}")
    return str(file)
