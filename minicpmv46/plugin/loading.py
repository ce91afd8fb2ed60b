"""mlx-vlm's `load_model` for our checkpoints: mlx-vlm, this package and the folder are looked at before it starts."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from minicpmv46 import __version__
from minicpmv46.guard import tell
from minicpmv46.plugin.compat import warn_of_server
from minicpmv46.plugin.patches import ARCHITECTURE, TABLE
from minicpmv46.plugin.routing import apply, resolve
from minicpmv46.plugin.rows import Patch

_log = logging.getLogger("minicpmv46")

# Models whose port in mlx-vlm this package was made to replace.
REPLACED = ("minicpmv4_6",)


def load_model(original: Callable[..., Any], model_path: str | Path, *args: Any, **kwargs: Any) -> Any:
    """`mlx_vlm.utils.load_model`, and a line in the log that says which port has loaded what.

    Raises:
        RuntimeError: this mlx-vlm does not fit, or a module of this package cannot be imported.
        OSError, ValueError: `check_checkpoint` refuses the folder.
    """
    # Here, since mlx-vlm hides an ImportError that names the model's module.
    resolve(f"{ARCHITECTURE}:Model")
    for row in TABLE:
        if isinstance(row, Patch) and row.module in sys.modules:
            try:
                resolve(row.instead)
            except RuntimeError as error:
                # What is not needed may fail for a name that this mlx-vlm does not have.
                if row.need == "load" or not _is_missing_elsewhere(error.__cause__):
                    raise
    warn_of_server()
    # Here, since its imports are looked at above.
    from minicpmv46.checkpoint import check_checkpoint

    contents = check_checkpoint(Path(model_path))
    _tell_of_another_port(contents.config.model_type)
    apply("mlx_vlm.utils")  # the processor is asked for next: again in front of whoever patched AutoProcessor since
    model = original(model_path, *args, **kwargs)
    _log.info("minicpmv46 %s loaded %s (%s)", __version__, contents.config.sibling.name, contents.summary)
    return model


def _tell_of_another_port(model_type: str) -> None:
    """Say which port is used where mlx-vlm has one that this package was not made to replace."""
    from mlx_vlm.utils import MODEL_REMAPPING

    theirs = getattr(MODEL_REMAPPING.get(model_type), "instead_of", None) or find_spec(f"mlx_vlm.models.{model_type}")
    if theirs and model_type not in REPLACED:
        tell(f"mlx-vlm has a port of {model_type} too; minicpmv46's is used (MINICPMV46_DISABLE=1 uses mlx-vlm's)")


def _is_missing_elsewhere(error: BaseException | None) -> bool:
    return isinstance(error, ImportError) and not str(error.name).startswith("minicpmv46")
