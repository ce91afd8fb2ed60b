"""Tests of examples/: what a user types, run on the demo checkpoint."""

from pathlib import Path

import pytest
from support.examples import EXAMPLES
from support.running import skip_without_hook


@pytest.fixture(autouse=True)
def examples(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the examples, whose files can be imported; skips where Python does not start with this package."""
    skip_without_hook(tmp_path_factory.getbasetemp())
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return EXAMPLES
