"""Loading in several processes: each has the whole model."""

from typing import Any

import mlx.core as mx
import pytest
from mlx_vlm import load
from mlx_vlm.utils import sharded_load
from support.plain_requests import WAVES, Loaded, ask


def test_loading_for_several_processes(loaded: Loaded, checkpoint: Any, capsys: Any) -> None:
    """The model is not split: every process loads all of it, and asking for a split is refused."""
    path, group = str(checkpoint("untied")), mx.distributed.init()
    for kind, word in (("tensor_group", "tensor parallelism"), ("pipeline_group", "pipeline parallelism")):
        with pytest.raises(ValueError, match=f"does not support {word}"):
            sharded_load(path, **{kind: group})
    own = sharded_load(path)
    assert ask(own, "Hi", WAVES).token_ids == ask(loaded, "Hi", WAVES).token_ids


def test_ocr(checkpoint: Any) -> None:
    own, alone = (load_in(str(checkpoint("ocr"))) for load_in in (sharded_load, load))
    options = {"small_image_upsize": "adaptive"}
    assert ask(own, "Hi", WAVES, **options).token_ids == ask(alone, "Hi", WAVES, **options).token_ids
