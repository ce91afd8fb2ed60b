"""MiniCPM-V 4.6 and MiniCPM-OCR 1.0 for mlx-vlm.

With this package installed mlx-vlm uses it for checkpoints whose `model_type` is `minicpmv4_6` or `minicpm_ocr`; nobody
has to import it:

    python -m mlx_vlm.generate --model openbmb/MiniCPM-V-4.6 --image photo.jpg --prompt "Describe this image"

Commands:

    python -m minicpmv46 --help               all of them
    python -m minicpmv46 doctor [MODEL]       whether mlx-vlm uses this package here, and what is wrong if not
    python -m minicpmv46 tokens FILE...       sizes, slices and visual tokens of images and clips
    python -m minicpmv46 slices IMAGE -o PNG  the picture with its slices; `frames VIDEO -o PNG` for a clip
    python -m minicpmv46.demo [SAMPLE]        the folder of a small checkpoint that answers offline, or a sample

From Python: `mlx_vlm.load` gives a `Processor` of this package, whose options `help(minicpmv46.Processor)` lists.
`count_tokens`, `show_slices` and `show_frames` are the commands' functions for notebooks. Programs whose Python reads
no `.pth` files (`python -S`, `pip install --target`, frozen applications) have to import this package, before or after
mlx-vlm.

Environment variables:

    MINICPMV46_DISABLE=1                            mlx-vlm is as without this package
    MINICPMV46_LIMITS="slices=2000,context=500000"  other limits of a request, see `minicpmv46.limits`

The wheel's `.pth` line imports this file in every interpreter, so it imports nothing that Python has not loaded already
and only waits for mlx-vlm.
"""

import os
import sys

TYPE_CHECKING = False  # as type checkers read it; importing `typing` would cost more than this whole file
if TYPE_CHECKING:
    from collections.abc import Callable

    from minicpmv46.processing import MiniCPMV46Processor as MiniCPMV46Processor
    from minicpmv46.processing import Processor as Processor
    from minicpmv46.show.frames import show_frames as show_frames
    from minicpmv46.show.slices import show_slices as show_slices
    from minicpmv46.show.tokens import count_tokens as count_tokens
    from minicpmv46.slicing import plan_slices as plan_slices

__version__ = "0.2.0"

_HOMES = {
    "MiniCPMV46Processor": "minicpmv46.processing",  # the name of `Processor` in version 0.1.0
    "Processor": "minicpmv46.processing",
    "count_tokens": "minicpmv46.show.tokens",
    "show_frames": "minicpmv46.show.frames",
    "show_slices": "minicpmv46.show.slices",
    "plan_slices": "minicpmv46.slicing",
}

# Values of MINICPMV46_DISABLE, in lower case; `guard.py` knows the first ones too.
_ENABLE = ("", "0", "false", "no", "off", "n", "f")
_DISABLE = ("1", "true", "yes", "on", "y", "t")

read_by_site = False  # whether this interpreter reads our `.pth` line


def __getattr__(name: str) -> object:
    """Load a public name from the module that defines it, on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


def stand_back(error: Exception) -> None:
    """Leave mlx-vlm to other models after a failure of ours, which must not become one of theirs."""
    try:
        from minicpmv46.guard import install

        install(error)
    except Exception as second:  # the guard is damaged too
        print(f"minicpmv46 is damaged and not used: {error}; {second}", file=sys.stderr)


def _take_over() -> None:
    from minicpmv46.plugin.hook import install

    install()


def _warn_of_value() -> None:
    from minicpmv46.guard import tell

    value = os.environ["MINICPMV46_DISABLE"][:20]
    tell(f"MINICPMV46_DISABLE={value!r} is neither 1 nor 0, so minicpmv46 is not used; 0 uses it, 1 ends this warning")


def _carefully(act: "Callable[[], None]") -> None:
    try:
        act()
    except Exception as error:
        stand_back(error)


class _Trigger:
    """A finder that finds nothing, and acts when mlx-vlm is about to be imported."""

    def __init__(self, act: "Callable[[], None]") -> None:
        self.act = act

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if fullname == "mlx_vlm":
            _carefully(self.act)


def register() -> None:
    """Take over these model types in mlx-vlm, imported already or not. Calling it again changes nothing."""
    if "mlx_vlm" in sys.modules:
        _carefully(_take_over)
    elif not any(type(finder).__module__ == __name__ for finder in sys.meta_path):
        sys.meta_path.insert(0, _Trigger(_take_over))


_value = os.environ.get("MINICPMV46_DISABLE", "").strip().lower()
if _value in _ENABLE:
    register()
elif _value not in _DISABLE:
    sys.meta_path.insert(0, _Trigger(_warn_of_value))


def start() -> None:
    """What the `.pth` line calls. Defined last, so that a file which was cut off anywhere fails there."""
    global read_by_site
    read_by_site = True
