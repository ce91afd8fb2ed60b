"""Processor options in requests to mlx-vlm's server.

mlx-vlm's request schemas let unknown fields pass, and its server drops them. Those that name an option of our
processor are checked here while the arguments of a request are built, before anything of it is queued, and travel to
`prepare_inputs` beside the server's own image options, for its token counts as for its answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from fastapi import HTTPException
from mlx_vlm.server.generation import GenerationArguments

from minicpmv46.plugin.inputs import OPTIONS, refuse_misspelt
from minicpmv46.processing import MiniCPMV46Processor


class BadRequest(HTTPException):
    """A request that no server of this model could answer.

    Some endpoints turn this class into its status, the others turn every exception into 400 and quote its text.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(status_code=400, detail=reason)

    def __str__(self) -> str:
        return str(self.detail)


@dataclass
class RequestArguments(GenerationArguments):
    """mlx-vlm's arguments of a request, and its processor options."""

    processor_options: dict[str, Any] = field(default_factory=dict)

    def preprocessing_kwargs(self) -> dict[str, Any]:
        """What `prepare_inputs` gets for this request."""
        return {**super().preprocessing_kwargs(), **self.processor_options}


def build_gen_args(
    original: Callable[..., GenerationArguments],
    request: Any,
    processor: MiniCPMV46Processor,
    *args: Any,
    **kwargs: Any,
) -> GenerationArguments:
    """`mlx_vlm.server.request_normalization._build_gen_args`, with the request's processor options."""
    options = request_options(request, processor)
    return with_processor_options(original(request, processor, *args, **kwargs), options)


def with_processor_options(arguments: GenerationArguments, options: dict[str, Any]) -> GenerationArguments:
    """`arguments` with options of the processor; itself where there are none."""
    if not options:
        return arguments
    values = {f.name: getattr(arguments, f.name) for f in fields(arguments)}
    return RequestArguments(**values, processor_options=options)


def request_options(request: Any, processor: MiniCPMV46Processor) -> dict[str, Any]:
    """Options of the processor among a request's fields, or in its field `processor_kwargs`.

    Raises:
        BadRequest: a field is almost the name of an option, an option in `processor_kwargs` is unknown, one is given
            twice, or has a value that the processor does not take.
    """
    given = {name: getattr(request, name, None) for name in getattr(request, "model_fields_set", ())}
    nested = given.get("processor_kwargs")
    nested = {} if nested is None else nested
    try:
        refuse_misspelt(getattr(request, "model_extra", None) or (), names=(*OPTIONS, "processor_kwargs"))
        if not isinstance(nested, Mapping):
            raise TypeError(f"processor_kwargs must be an object of options, not {nested!r}")
        if unknown := sorted(set(nested) - set(OPTIONS)):
            raise TypeError(f"processor_kwargs has unknown options {', '.join(unknown)}; known: {', '.join(OPTIONS)}")
        options = {name: value for name, value in given.items() if name in OPTIONS and value is not None}
        if twice := sorted(set(nested) & set(options)):
            raise TypeError(f"{', '.join(twice)} stands in the request and in its processor_kwargs")
        options |= {name: value for name, value in nested.items() if value is not None}
        _check_values(processor, options)
    except (TypeError, ValueError) as error:
        raise BadRequest(str(error)) from error
    return options


def _check_values(processor: MiniCPMV46Processor, options: Mapping[str, Any]) -> None:
    processor.options.updated("the request", **{n: v for n, v in options.items() if n != "video_metadata"})
