"""mlx-vlm's command: what `--processor-kwargs` may hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minicpmv46.checks import quote
from minicpmv46.options import check_names
from minicpmv46.plugin.inputs import OPTIONS

# Other arguments of `prepare_inputs`, which mlx-vlm has no flag for.
_ARGUMENTS = ("padding", "padding_side", "resize_shape")


def diffusion_kwargs_from_args(original: Callable[..., Any], args: Any, config: Any) -> Any:
    """`mlx_vlm.generate.diffusion.diffusion_kwargs_from_args`, which the command calls before it generates.

    mlx-vlm pours `--processor-kwargs` into the keywords of generation, where an unknown name is lost.

    Raises:
        TypeError: `--processor-kwargs` is no object, or has an unknown name.
    """
    given = getattr(args, "processor_kwargs", None) or {}
    if not isinstance(given, dict):
        raise TypeError(f"--processor-kwargs must be a JSON object, not {quote(given)}")
    check_names(config.architecture.sibling, given, (*OPTIONS, *_ARGUMENTS), "--processor-kwargs")
    return original(args, config)
