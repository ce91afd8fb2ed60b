"""How bad input is refused: in one sentence that names the thing and the values, before any forward pass."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
PIXELS = np.random.RandomState(0).randint(0, 256, (20, 30, 3)).astype(np.uint8)
FRAMES = np.random.RandomState(1).randint(0, 256, (6, 28, 36, 3)).astype(np.uint8)
METADATA = {"total_num_frames": 6, "fps": 2.0, "duration": 3.0}
# Words of other people's errors.
FOREIGN = ("torch", "Failed to process inputs", "NoneType", "object is not", "has no attribute", "unpack", "zip()")


def refuse(call: Callable[[], Any], *words: str, kind: type[Exception] = ValueError) -> str:
    """Fail unless `call` raises `kind` with a short message that holds all of `words`; returns the message."""
    with pytest.raises(Exception) as caught:
        call()
    message = str(caught.value)
    assert isinstance(caught.value, kind), f"{type(caught.value).__name__}: {message[:500]}"
    missing = [word for word in words if word not in message]
    assert not missing, f"{missing} not in {message[:500]!r}"
    assert not [word for word in FOREIGN if word in message], message[:500]
    assert len(message) < 500, f"{len(message)} characters: {message[:200]}…"
    return message
