"""What mlx-vlm's trainers ask of a model of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from minicpmv46.model import Model

PROJECTOR = "multi_modal_projector"  # mlx-vlm's most general name for what joins vision to text
MERGERS = ("vit_merger", "merger")


def unfreeze_modules(original: Callable[..., Any], model: Model, module_names: Iterable[str]) -> Any:
    """`mlx_vlm.trainer.peft.utils.unfreeze_modules`, with our mergers where projectors are named."""
    names = list(module_names)
    return original(model, [*names, *MERGERS] if PROJECTOR in names else names)
