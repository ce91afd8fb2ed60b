"""The model that the tests of generation options share."""

from collections.abc import Callable
from pathlib import Path

import pytest
from mlx_vlm import load
from support.plain_requests import Loaded


@pytest.fixture(scope="module")
def loaded(checkpoint: Callable[[str], Path]) -> Loaded:
    """Eight layers, two of them attention."""
    return load(str(checkpoint("untied")))
