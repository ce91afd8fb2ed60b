"""One request to mlx-vlm's server: its arguments, its inputs, and whose fault it is where they cannot be made.

mlx-vlm makes one `GenerationArguments` for a request and asks it for the keywords of `apply_chat_template` and of
`prepare_inputs`. Ours hands itself to our versions of both, so that everything that is about a request is in one
place: options, variables of the template, videos of the messages, the inputs that were made before a stream opened.
What a client did wrong becomes a `BadRequestError` there and nowhere else; every other exception stays an error of the
server.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fastapi import HTTPException
from mlx_vlm.server.generation import GenerationArguments, PromptTooLongError

from minicpmv46.plugin.messages import REQUEST, restore_videos
from minicpmv46.plugin.stops import UntilStop

# Longest text of an error; a request's values may be of any size.
MAX_SENTENCE = 400
THOUGHTS_END = "</think>"


class BadRequestError(PromptTooLongError, HTTPException):
    """A request that no server of this model could answer: status 400 and one sentence.

    Where mlx-vlm's endpoints tell the client's mistakes from the server's, they know them by one of these two classes.
    """

    def __init__(self, reason: object) -> None:
        # Names in it may hold what no answer can, half an emoji.
        sentence = " ".join(str(reason).encode(errors="backslashreplace").decode().split())
        if len(sentence) > MAX_SENTENCE:
            sentence = f"{sentence[: MAX_SENTENCE - 1]}…"
        HTTPException.__init__(self, status_code=400, detail=sentence)

    def __str__(self) -> str:
        return str(self.detail)


class Preparation:
    """The last inputs that were made for a request, until its generation has them.

    mlx-vlm asks up to three times for the same: for a chat's length, before a stream opens, and to generate.
    """

    def __init__(self, request: Any = None) -> None:
        self.request = request
        self._made: tuple[Any, dict[str, Any]] | None = None

    def inputs(self, make: partial[dict[str, Any]]) -> dict[str, Any]:
        """What `make` returns, from the last time where its arguments are the same."""
        key = (make.args, make.keywords)
        if self._made is None or self._made[0] != key:
            self._made = None  # not two at once
            self._made = (key, make())
        return dict(self._made[1])

    def release(self) -> None:
        self._made = None


# mlx-vlm builds the arguments of a request more than once, always in the task that answers it.
_preparation: ContextVar[Preparation | None] = ContextVar("minicpmv46_preparation", default=None)


def preparation_of(request: Any) -> Preparation:
    """What all arguments that are built of one request share."""
    current = _preparation.get()
    if current is None or current.request is not request:
        current = Preparation(request)
        _preparation.set(current)
    return current


@dataclass
class RequestArguments(GenerationArguments):
    """mlx-vlm's arguments of a request, and what only our model takes.

    Attributes:
        processor_options: options of the processor.
        template_variables: variables of the chat template.
        stop: texts at which the answer ends.
        user_contents: contents of the user messages as the client sent them, where one of them has a video; mlx-vlm
            drops it from the messages.
        preparation: the request's inputs.
    """

    processor_options: dict[str, Any] = field(default_factory=dict)
    template_variables: dict[str, Any] = field(default_factory=dict)
    stop: tuple[str, ...] = ()
    user_contents: Sequence[Any] | None = None
    preparation: Preparation = field(default_factory=Preparation, repr=False, compare=False)

    def preprocessing_kwargs(self) -> dict[str, Any]:
        """Keywords of `prepare_inputs`, this object among them."""
        return {**super().preprocessing_kwargs(), **self.processor_options, REQUEST: self}

    def to_template_kwargs(self) -> dict[str, Any]:
        """Keywords of `apply_chat_template`, this object among them."""
        return {**super().to_template_kwargs(), **self.template_variables, REQUEST: self}

    def to_generate_kwargs(self) -> dict[str, Any]:
        """Keywords of `generate`, which hands them to the model too."""
        return {name: value for name, value in super().to_generate_kwargs().items() if name != REQUEST}

    def prompt(self, messages: Any, render: Callable[[Any], Any]) -> Any:
        """`render` of the messages that mlx-vlm made of the request, with the videos back in their places.

        Raises:
            BadRequestError: they cannot be rendered.
        """
        try:
            return render(messages if self.user_contents is None else restore_videos(messages, self.user_contents))
        except ValueError as error:
            raise BadRequestError(error) from error

    def inputs(self, make: partial[dict[str, Any]]) -> dict[str, Any]:
        """The inputs that `make` makes, or made before.

        Raises:
            BadRequestError: they cannot be made of the request's prompt, media and options.
        """
        try:
            return self.preparation.inputs(make)
        except ValueError as error:
            raise BadRequestError(error) from error


def check_before_stream(
    original: Callable[..., None],
    generator: Any,
    prompt: str,
    images: Any = None,
    audio: Any = None,
    args: Any = None,
    videos: Any = None,
) -> None:
    """`ResponseGenerator.validate_context_budget`: all that can be the client's fault is found before a stream opens.

    The original looks at nothing where no context size is configured.
    """
    generator.wait_until_ready()
    generator._preprocess_request(prompt, images=images, audio=audio, videos=videos, **args.preprocessing_kwargs())
    try:
        original(generator, prompt, images, audio, args, videos)
    except PromptTooLongError as error:  # as a class of ours, which `_anthropic_error_response` knows
        raise BadRequestError(error) from error


def generate(
    original: Callable[..., Any],
    generator: Any,
    prompt: str,
    images: Any = None,
    audio: Any = None,
    args: Any = None,
    videos: Any = None,
) -> tuple[Any, Any]:
    """`ResponseGenerator.generate`: the answer ends at a stop text, and the inputs are kept no longer."""
    arguments: RequestArguments = args
    try:
        context, tokens = original(generator, prompt, images, audio, arguments, videos)
    finally:
        arguments.preparation.release()
    if not arguments.stop:
        return context, tokens
    thoughts_end = arguments.thinking_end_token or THOUGHTS_END
    return context, UntilStop(tokens, arguments.stop, after=thoughts_end if arguments.enable_thinking else None)


def refused(error: BaseException | None) -> BadRequestError | None:
    """The bad request that an exception is, or that mlx-vlm was handling when it raised it."""
    return next((e for e in (error, error and error.__context__) if isinstance(e, BadRequestError)), None)


def error_response(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """`_anthropic_error_response` while a bad request is handled, which gets 500 once the arguments are built."""
    bad = refused(sys.exc_info()[1])
    return original(*args, **kwargs) if bad is None else original(bad.status_code, str(bad))
