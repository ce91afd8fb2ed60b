"""What a request to mlx-vlm's server says about our processor and template, in the words that clients have for it.

mlx-vlm's request schemas let unknown fields pass, and its server drops them. Those that are meant for us are read and
checked here while the arguments of a request are built, before anything of it is queued.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from functools import partial
from typing import Any

from mlx_vlm.server.generation import GenerationArguments
from mlx_vlm.server.request_normalization import _extract_response_format_schema
from mlx_vlm.server.schemas import ChatRequest
from transformers import PreTrainedTokenizerBase

from minicpmv46.checks import quote
from minicpmv46.options import own_names
from minicpmv46.plugin.inputs import OPTIONS, refuse_misspelt
from minicpmv46.plugin.messages import apply_chat_template, check_tool_call, has_video
from minicpmv46.plugin.requests import BadRequestError, RequestArguments, preparation_of
from minicpmv46.processing import Processor

# Fields with an object of processor options: mlx-vlm's flag has the first name, vLLM's field the second.
OBJECTS = ("processor_kwargs", "mm_processor_kwargs")
VARIABLES = "chat_template_kwargs"
STOP = "stop"
THINKING = "enable_thinking"

# Keywords of those who render, which are no variables of a template.
_RENDERING = {
    name
    for function in (
        apply_chat_template,
        Processor.apply_chat_template,
        PreTrainedTokenizerBase.apply_chat_template,
    )
    for name in inspect.signature(function).parameters
} | {"messages"}


def request_arguments(
    original: Callable[..., GenerationArguments],
    request: Any,
    processor: Processor,
    *args: Any,
    **kwargs: Any,
) -> RequestArguments:
    """`mlx_vlm.server.request_normalization._build_gen_args`, with what it passes over of a request.

    Raises:
        BadRequestError: a field is almost the name of one of ours, or has a value that is not taken.
    """
    try:
        check_schema(request)
        arguments = original(request, processor, *args, **kwargs)
        check_bias(arguments.logit_bias, len(processor.tokenizer))
        extra = getattr(request, "model_extra", None) or {}
        names = (*own_names(processor.options.sibling, OPTIONS), *OBJECTS, VARIABLES)
        refuse_misspelt((name for name in extra if not _of_others(name, request)), names)
        options, variables = processor_options(request, processor), template_variables(request)
        stop, contents = stop_texts(request), video_contents(request)
        for message in request.messages if isinstance(request, ChatRequest) else ():
            for call in message.tool_calls or ():  # mlx-vlm takes them apart before the template sees them
                check_tool_call(call)
    except (TypeError, ValueError) as error:
        raise BadRequestError(error) from error
    values = {f.name: getattr(arguments, f.name) for f in fields(arguments)}
    if (thinking := variables.pop(THINKING, None)) is not None and _given(request, THINKING) is None:
        values |= {"enable_thinking": thinking, "reasoning": thinking}
    return RequestArguments(
        **values,
        processor_options=options,
        template_variables=variables,
        stop=stop,
        user_contents=contents,
        preparation=preparation_of(request),
    )


def check_schema(request: Any) -> None:
    """The schema of an answer: what is none makes the compiler of grammars panic, which no endpoint catches."""
    try:
        schema = _extract_response_format_schema(request)
    except AttributeError as error:
        raise ValueError("response_format must be an object with a type") from error
    if not isinstance(schema, Mapping | str | None):
        raise ValueError(f"the schema in response_format must be an object, not {quote(schema)}")


def check_bias(bias: Any, tokens: int) -> None:
    """What is added to the logits of tokens: a token that there is not ends the server, with all its requests."""
    if bias is None:
        return
    if not isinstance(bias, Mapping):
        raise ValueError(f"logit_bias must be an object, not {quote(bias)}")
    for token, value in bias.items():
        if not 0 <= token < tokens:
            raise ValueError(f"logit_bias has token {quote(token)}; there are 0 to {tokens - 1}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"logit_bias of token {token} must be a number, not {quote(value)}")


def processor_options(request: Any, processor: Processor) -> dict[str, Any]:
    """Options of the processor among a request's fields and in its objects of options; null is no option.

    Raises:
        TypeError, ValueError: an option in an object is unknown, one is given twice, or has a value that the processor
            does not take.
    """
    options: dict[str, Any] = {}
    given_in: dict[str, str] = {}
    plain = {name: _given(request, name) for name in OPTIONS}
    for place, found in (("the request", plain), *((name, _object(request, name)) for name in OBJECTS)):
        _check_options(processor, place, found)
        found = {name: value for name, value in found.items() if value is not None}
        if twice := [name for name in found if name in options]:
            raise TypeError(f"{', '.join(twice)} stands in {given_in[twice[0]]} and in {place}")
        options |= found
        given_in |= dict.fromkeys(found, place)
    _check_options(processor, "the request", options)
    return options


def template_variables(request: Any) -> dict[str, Any]:
    """Variables of the chat template, called as vLLM calls them; a field of the request's own wins over them."""
    variables = _object(request, VARIABLES)
    if rendering := sorted(set(variables) & _RENDERING):
        raise TypeError(
            f"{VARIABLES} has {', '.join(rendering)}, which no request sets; it takes variables of the template"
        )
    refuse_misspelt(variables, (THINKING,))
    if not isinstance(variables.get(THINKING), bool | None):
        raise ValueError(f"{THINKING} in {VARIABLES} must be true or false, not {quote(variables[THINKING])}")
    return variables


def stop_texts(request: Any) -> tuple[str, ...]:
    """OpenAI's `stop`, a text or a list, and the `stop_sequences` of Anthropic's streams, where mlx-vlm reads none."""
    stop = _given(request, STOP)
    if stop is None and getattr(request, "stream", False):
        stop = getattr(request, "stop_sequences", None)
    texts = [] if stop is None else [stop] if isinstance(stop, str) else stop
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{STOP} must be a text or a list of texts, not {quote(stop)}")
    return tuple(text for text in texts if text)


def video_contents(request: Any) -> list[Any] | None:
    """Contents of a chat's user messages, where one of them has a video.

    Raises:
        ValueError: there is a video where mlx-vlm's server takes none.
    """
    chat = isinstance(request, ChatRequest)
    for role, content in _messages(request):
        if has_video(content) and not (chat and role == "user"):
            place = f"a message of role {quote(role)}" if chat else "this endpoint"
            raise ValueError(f"{place} takes no video; send it in a user message to /v1/chat/completions")
    contents = [content for role, content in _messages(request) if role == "user"]
    return contents if any(map(has_video, contents)) else None


def _messages(request: Any) -> Iterator[tuple[Any, Any]]:
    """Role and content of the messages in a request of any endpoint."""
    entries = getattr(request, "messages", None) or getattr(request, "input", None)
    for entry in entries if isinstance(entries, list) else ():
        get = entry.get if isinstance(entry, Mapping) else partial(getattr, entry)
        yield get("role", None), get("content", None)


def _object(request: Any, name: str) -> dict[str, Any]:
    value = _given(request, name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be an object, not {quote(value)}")
    return dict(value)


def _given(request: Any, name: str) -> Any:
    """A field that the client sent; None where it did not."""
    return getattr(request, name, None) if name in getattr(request, "model_fields_set", ()) else None


def _of_others(name: str, request: Any) -> bool:
    """Whether a field that could be meant for us is another server's: text-generation-webui has `mode: "instruct"`."""
    return name == "mode" and not re.fullmatch(r"\d+x?", str(getattr(request, name, "")), re.IGNORECASE)


def _check_options(processor: Processor, place: str, options: Mapping[str, Any]) -> None:
    """Names and values; a video's metadata show with the video whether they fit."""
    processor.options.updated(place, **{name: value for name, value in options.items() if name != "video_metadata"})
