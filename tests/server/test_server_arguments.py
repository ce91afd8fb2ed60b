"""The arguments of a request, in this process: what they hand to our functions, and which errors stay the server's."""

import asyncio
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlx_vlm.prompt_utils import apply_chat_template
from mlx_vlm.utils import prepare_inputs
from support.endpoints import HELLO, ROOF, arguments, question
from support.serving import ANTHROPIC, CHAT, RESPONSES, data_uri, skip_without_server

from minicpmv46.processing import Processor

skip_without_server()


@pytest.fixture
def engine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """mlx-vlm's generator of answers with our model, where its endpoints look for it."""
    import mlx_vlm.server
    from mlx_vlm.server import anthropic, openai
    from mlx_vlm.server.generation import ResponseGenerator

    import minicpmv46.plugin.request_options  # noqa: F401  - it reads signatures that the tests replace

    engine = ResponseGenerator(str(folder))
    loaded = engine.wait_until_ready()
    for module in (openai, anthropic):
        monkeypatch.setattr(module, "get_cached_model", lambda *args, **kwargs: loaded)
    monkeypatch.setattr(mlx_vlm.server.runtime, "response_generator", engine)
    monkeypatch.setattr(mlx_vlm.server.runtime, "metrics", mlx_vlm.server.generation.ServerMetricsStore())
    yield engine
    engine.stop_and_join()


def answered(endpoint: str, **body: Any) -> tuple[int, str]:
    """Status and body of an endpoint's answer, a stream read to its end."""
    from fastapi import HTTPException
    from fastapi.responses import Response
    from mlx_vlm.server.anthropic import anthropic_messages_endpoint
    from mlx_vlm.server.openai import chat_completions_endpoint, responses_endpoint
    from mlx_vlm.server.schemas import ChatRequest

    class HTTPRequest:
        headers: dict[str, str] = {}  # noqa: RUF012

        async def json(self) -> dict[str, Any]:
            return {"model": "m", **body}

    async def ask() -> tuple[int, str]:
        try:
            if endpoint == CHAT:
                response = await chat_completions_endpoint(ChatRequest(model="m", **body), HTTPRequest())
            else:
                called = {RESPONSES: responses_endpoint, ANTHROPIC: anthropic_messages_endpoint}[endpoint]
                response = await called(HTTPRequest())
        except HTTPException as error:
            return error.status_code, str(error.detail)
        if hasattr(response, "body_iterator"):
            return response.status_code, "".join([str(part) async for part in response.body_iterator])
        if isinstance(response, Response):
            return response.status_code, bytes(response.body).decode()
        return 200, response.model_dump_json()

    return asyncio.run(ask())


@pytest.mark.parametrize("error", [RuntimeError, KeyError, AttributeError, MemoryError, OSError, IndexError])
@pytest.mark.parametrize("endpoint", [CHAT, RESPONSES, ANTHROPIC])
def test_faults_of_ours(engine: Any, monkeypatch: pytest.MonkeyPatch, endpoint: str, error: type[Exception]) -> None:
    """What goes wrong in our own code stays an error of the server, and so does what goes wrong in the template."""

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise error("of ours")

    whole = Processor.__call__

    def fail_for_images(self: Any, text: Any, images: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Not where the options of a request are checked, on a text."""
        return fail() if images else whole(self, text, images, *args, **kwargs)

    for owner, failing in (("__call__", fail_for_images), ("apply_chat_template", fail)):
        with monkeypatch.context() as patched:
            patched.setattr(Processor, owner, failing)
            for stream in (False, True):
                status, detail = answered(endpoint, **question(endpoint, "?", data_uri(ROOF)), stream=stream)
                assert status >= 500 and "of ours" in detail, f"{owner}, streamed: {stream}: {status} {detail}"
    status, detail = answered(endpoint, **question(endpoint, "?", data_uri(ROOF)))
    assert status == 200, detail


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("endpoint", [CHAT, RESPONSES, ANTHROPIC])
def test_inputs_are_made_once_and_let_go(
    engine: Any, monkeypatch: pytest.MonkeyPatch, endpoint: str, stream: bool
) -> None:
    """Once a request, whatever mlx-vlm asks; its arguments do not hold them while the answer is written."""
    from minicpmv46.plugin import requests

    prompts: list[str] = []
    preparations: list[Any] = []
    whole, init = Processor.__call__, requests.Preparation.__init__

    def call(self: Any, text: Any, images: Any = None, *args: Any, **kwargs: Any) -> Any:
        if images:
            prompts.append(text)
        return whole(self, text, images, *args, **kwargs)

    def keep(self: Any, *args: Any) -> None:
        init(self, *args)
        preparations.append(self)

    monkeypatch.setattr(Processor, "__call__", call)
    monkeypatch.setattr(requests.Preparation, "__init__", keep)
    status, detail = answered(endpoint, **question(endpoint, "What?", data_uri(ROOF)), stream=stream)
    assert status == 200, detail
    assert len(prompts) == 1
    assert preparations and all(one._made is None for one in preparations)


def test_inputs_of_another_prompt(loaded: tuple[Any, Any]) -> None:
    """Kept inputs are those of the same prompt, media and options only; nobody can change them for another."""
    _, processor = loaded
    ours = arguments(processor, [HELLO])
    first = prepare_inputs(processor, prompts="One river.", **ours.preprocessing_kwargs())
    again = prepare_inputs(processor, prompts="One river.", **ours.preprocessing_kwargs())
    assert again is not first and again["input_ids"] is first["input_ids"]
    other = prepare_inputs(processor, prompts="Two rivers of the land.", **ours.preprocessing_kwargs())
    assert other["input_ids"].shape != first["input_ids"].shape
    small = dataclasses.replace(ours, processor_options={"max_slice_nums": 1})
    assert (
        prepare_inputs(processor, prompts="One river.", **small.preprocessing_kwargs())["input_ids"]
        is not (first["input_ids"])
    )
    ours.preparation.release()
    last = prepare_inputs(processor, prompts="One river.", **ours.preprocessing_kwargs())
    assert last["input_ids"] is not first["input_ids"] and (last["input_ids"] == first["input_ids"]).all()


def test_variables_of_the_template(loaded: tuple[Any, Any]) -> None:
    """Variables reach a template that asks for them."""
    model, processor = loaded
    ours = arguments(processor, [HELLO], chat_template_kwargs={"mood": ["calm"], "enable_thinking": True})
    template = "{{ mood[0] }} {{ enable_thinking }} {{ messages[0].content }}"
    prompt = apply_chat_template(processor, model.config, [HELLO], chat_template=template, **ours.to_template_kwargs())
    assert prompt == "calm True Hello!"
    assert ours.enable_thinking and ours.to_generate_kwargs()["enable_thinking"]


def test_a_template_that_is_wrong(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint without a template or with a broken one is not the client's fault."""
    for template in (None, "{% if %}"):
        monkeypatch.setattr(engine.processor, "chat_template", template)
        for endpoint in (CHAT, RESPONSES, ANTHROPIC):
            status, detail = answered(endpoint, **question(endpoint, "?"))
            assert status >= 500, detail
