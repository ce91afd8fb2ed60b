"""Options of the processor in requests to mlx-vlm's server.

The server's requests may have any field, but only those that mlx-vlm knows travel on to the processor. Ours join
them: in the arguments of a request, from where mlx-vlm takes the keywords of `prepare_inputs`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from fastapi import HTTPException
from mlx_vlm.server.generation import GenerationArguments

from minicpmv46.plugin.inputs import OPTIONS, refuse_misspelt
from minicpmv46.processing import MiniCPMV46Processor

# The name that the command line has for the same options, as one object.
NESTED = "processor_kwargs"


@dataclass
class RequestArguments(GenerationArguments):
    """mlx-vlm's arguments of a request, with our processor's options among the keywords of preprocessing."""

    processor_options: dict[str, Any] = field(default_factory=dict)

    def preprocessing_kwargs(self) -> dict[str, Any]:
        return {**super().preprocessing_kwargs(), **self.processor_options}


class RefusedRequest(HTTPException):
    """Status 400 with a sentence, wherever in an endpoint the arguments are built; other errors may become a 500."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(400, str(reason))

    def __str__(self) -> str:
        return str(self.detail)


def with_processor_options(
    arguments: GenerationArguments, request: Any, processor: MiniCPMV46Processor
) -> GenerationArguments:
    """`arguments` with the options of the processor that `request` names, checked.

    Raises:
        RefusedRequest: a field is almost the name of an option, or an option has a value that is not supported.
    """
    try:
        options = request_options(getattr(request, "model_extra", None) or {})
        if not options:
            return arguments
        processor.check_options(**options)
    except (TypeError, ValueError) as error:
        raise RefusedRequest(error) from error
    known = {f.name: getattr(arguments, f.name) for f in fields(GenerationArguments)}
    return RequestArguments(**known, processor_options=options)


def request_options(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Options among the fields of a request that mlx-vlm does not know, and in its object `processor_kwargs`."""
    refuse_misspelt((NESTED, *extra), names=(*OPTIONS, NESTED))
    nested = extra.get(NESTED) or {}
    if not isinstance(nested, Mapping):
        raise ValueError(f"{NESTED} must be an object with options, not {nested!r}")
    if unknown := sorted(set(nested) - set(OPTIONS)):
        raise ValueError(f"{NESTED} has unknown options {', '.join(unknown)}; known: {', '.join(OPTIONS)}")
    # As with mlx-vlm's own fields, null means the default.
    return {name: value for name, value in {**nested, **extra}.items() if name in OPTIONS and value is not None}
