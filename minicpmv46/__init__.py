"""MiniCPM-V 4.6 for mlx-vlm.

Importing this package makes mlx-vlm use it for checkpoints whose `model_type` is `minicpmv4_6`. The wheel's
`.pth` line does that import in every interpreter, so this file imports nothing that Python has not loaded
already and only waits for mlx-vlm. `MINICPMV46_DISABLE=1` leaves mlx-vlm as it was.
"""

import os
import sys

TYPE_CHECKING = False  # as type checkers read it; importing `typing` would cost more than this whole file
if TYPE_CHECKING:
    from minicpmv46.processing import MiniCPMV46Processor as MiniCPMV46Processor
    from minicpmv46.slicing import plan_slices as plan_slices

__version__ = "0.1.0"

_HOMES = {"MiniCPMV46Processor": "minicpmv46.processing", "plan_slices": "minicpmv46.slicing"}


def __getattr__(name: str) -> object:
    """Load a public name from the module that defines it, on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


class _Trigger:
    """A finder that finds nothing, and installs the import hook when mlx-vlm is about to be imported."""

    @staticmethod
    def find_spec(fullname: str, path: object = None, target: object = None) -> None:
        if fullname == "mlx_vlm":
            try:
                from minicpmv46.plugin.hook import install
            except ImportError as error:  # half of this package is gone: mlx-vlm serves other models still
                import warnings

                warnings.warn(f"minicpmv46 is damaged and not used: {error}", RuntimeWarning, stacklevel=2)
            else:
                install()


def register() -> None:
    """Take over `minicpmv4_6` in mlx-vlm, imported already or not. Calling it again changes nothing."""
    if "mlx_vlm" in sys.modules:
        from minicpmv46.plugin.hook import install

        install()
    elif _Trigger not in sys.meta_path:
        sys.meta_path.insert(0, _Trigger)


if os.environ.get("MINICPMV46_DISABLE", "") in ("", "0"):
    register()
