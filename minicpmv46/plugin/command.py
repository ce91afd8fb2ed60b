"""mlx-vlm's command: what `--processor-kwargs` may hold, and refusals that end it in one sentence.

The command is the only caller of the function that is replaced here; its result joins the keywords of generation.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn

from minicpmv46.checks import quote
from minicpmv46.options import Options, check_names
from minicpmv46.plugin.inputs import OPTIONS
from minicpmv46.plugin.messages import REQUEST

# Other arguments of `prepare_inputs`, which mlx-vlm has no flag for.
_ARGUMENTS = ("padding", "padding_side", "resize_shape")


class CommandRequest:
    """What makes the inputs of a command's request, as `requests.RequestArguments` does for the server."""

    def inputs(self, make: partial[dict[str, Any]]) -> dict[str, Any]:
        """What `make` returns; where media or options are refused, the command ends with the sentence and status 1."""
        try:
            return make()
        except ValueError as error:
            _end(error)


def diffusion_kwargs_from_args(original: Callable[..., Any], args: Any, config: Any) -> dict[str, Any]:
    """`mlx_vlm.generate.diffusion.diffusion_kwargs_from_args`, which the command calls before it generates.

    mlx-vlm pours `--processor-kwargs` into the keywords of generation, where an unknown name is lost.

    Raises:
        SystemExit: `--processor-kwargs` is no object, or has an unknown name.
    """
    try:
        _check(getattr(args, "processor_kwargs", None) or {}, config)
    except TypeError as error:
        _end(error)
    return {**original(args, config), REQUEST: CommandRequest()}


def _check(given: Any, config: Any) -> None:
    if not isinstance(given, dict):
        raise TypeError(f"--processor-kwargs must be a JSON object, not {quote(given)}")
    sibling = config.architecture.sibling
    check_names(sibling, given, (*OPTIONS, *_ARGUMENTS), "--processor-kwargs")
    options = {name: value for name, value in given.items() if name not in (*_ARGUMENTS, "video_metadata")}
    with suppress(ValueError):  # values are the processor's matter, which knows the limits; here names are checked
        Options.of(sibling).updated("--processor-kwargs", **options)


def _end(error: Exception) -> NoReturn:
    raise SystemExit(f"error: {error}") from error
