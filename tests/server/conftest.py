"""A server of a small checkpoint whose template knows tools, and the same model in this process."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlx_vlm import load
from support import tiny
from support.endpoints import TOP
from support.serving import Server, running_server, template_with_tools


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint whose template knows tools, as the official one does."""
    folder = tiny.make_checkpoint(tmp_path_factory.mktemp("tools"))
    template = folder / "chat_template.jinja"
    template.write_text(template_with_tools(template.read_text()))
    return folder


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("server"), folder, "--top-logprobs-k", str(TOP)) as server:
        yield server


@pytest.fixture(scope="module")
def loaded(folder: Path) -> tuple[Any, Any]:
    """The same model and processor in this process."""
    return load(str(folder))
