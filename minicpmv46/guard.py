"""What stands in mlx-vlm's way where this package is damaged.

mlx-vlm goes on as it was for other models. A checkpoint of ours is refused with a sentence, since mlx-vlm's own port,
which answers otherwise, would take it without a word. This file needs nothing of the package: the `.pth` line loads it
by itself where the package cannot be imported.
"""

import os
import sys
import warnings
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

MODEL_TYPES = ("minicpmv4_6", "minicpm_ocr")  # `siblings.SIBLINGS`
REFUSED = "mlx_vlm.models.minicpmv46"
LOADER = "mlx_vlm.utils"


def damage(error: BaseException | str) -> str:
    """What is wrong with this package, and what to do."""
    found = error if isinstance(error, str) else " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return (
        f"minicpmv46 is damaged and does not load {' or '.join(MODEL_TYPES)} ({found}): "
        "reinstall it, or set MINICPMV46_DISABLE=1 to use mlx-vlm's own port"
    )


def tell(message: str) -> None:
    """Warn; on standard error where warnings are errors, since an import of mlx-vlm must not fail because of us."""
    try:
        warnings.warn(message, RuntimeWarning, stacklevel=3)
    except Exception:  # also what a program's own `warnings.showwarning` raises
        if sys.stderr is not None:
            print(f"RuntimeWarning: {message}", file=sys.stderr)


class Guard:
    """A finder that sends mlx-vlm's loader for our model types to a module that cannot be imported."""

    def __init__(self, message: str) -> None:
        self.message = message
        self.searching = False

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if fullname == REFUSED:
            raise RuntimeError(self.message)
        if fullname != LOADER or self.searching:
            return None
        tell(self.message)
        self.searching = True
        try:
            spec = find_spec(fullname)
        finally:
            self.searching = False
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_redirect(module: ModuleType) -> None:
                execute(module)
                redirect(module)

            spec.loader.exec_module = execute_and_redirect  # type: ignore[method-assign]
        return spec


def redirect(utils: ModuleType) -> None:
    names = getattr(utils, "MODEL_REMAPPING", None)
    if isinstance(names, dict):
        names.update(dict.fromkeys(MODEL_TYPES, REFUSED.rpartition(".")[2]))


def install(error: BaseException) -> None:
    """Refuse our checkpoints because of `error` from now on; mlx-vlm may be imported already."""
    value = os.environ.get("MINICPMV46_DISABLE", "").strip().lower()
    if value not in ("", "0", "false", "no", "off", "n", "f"):
        return
    # By name: Python reads `.pth` files twice in a virtual environment, and this file is then loaded twice.
    if any(type(finder).__module__ == __name__ for finder in sys.meta_path):
        return
    message = damage(error)
    sys.meta_path.insert(0, Guard(message))
    if LOADER in sys.modules:
        tell(message)
        redirect(sys.modules[LOADER])
