"""Every stage of every case against the official implementation, computed side by side. Needs torch."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import stages
from support.cases import CASES, Case
from support.sizes import geometry_inputs

pytest.importorskip("torch")
pytest.importorskip("torchvision")

from support import oracle
from support.golden_data import GeometryInput

from minicpmv46.resize import resize_frame
from minicpmv46.vision import position_ids


@pytest.fixture(scope="session")
def official(checkpoint: Callable[[str], Path]) -> Callable[[str], oracle.Oracle]:
    """The official model and processor of a variant."""
    return cache(lambda variant: oracle.Oracle(checkpoint(variant)))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_stages(case: Case, official: Any, model: Any, processor: Any) -> None:
    expected = official(case.variant).run(case)
    inputs = stages.process(processor(case.variant), case)

    np.testing.assert_array_equal(inputs["input_ids"][0], expected["input_ids"])
    if len(expected["tokens"]):
        np.testing.assert_array_equal(inputs["image_units"][:, :2], expected["target_sizes"])
        np.testing.assert_array_equal(inputs["image_units"][:, 2], expected["tokens"])
        np.testing.assert_array_equal(inputs["pixel_values"], expected["pixel_values"])

    result = stages.run(model(case.variant), inputs, case.new_tokens, len(expected["logits"]))
    if len(expected["tokens"]):
        stages.assert_close(result["vision_features"], expected["vision_features"], stages.TOLERANCE, "vision features")
    # From the official features: single positions magnify float32's last bits a hundredfold, in the oracle too.
    hidden = stages.hidden_states(model(case.variant), inputs, expected["vision_features"])
    stages.assert_close(hidden, expected["hidden_states"], stages.TOLERANCE, "hidden states")
    stages.assert_close(result["logits"], expected["logits"], stages.TOLERANCE, "logits")
    np.testing.assert_array_equal(result["greedy"], expected["greedy"])


@pytest.mark.parametrize("videos", [False, True], ids=["images", "videos"])
def test_geometry(videos: bool) -> None:
    """Sizes, grids and token counts for thousands of sizes, modes and slice limits."""
    rows = [GeometryInput(*row) for row in geometry_inputs(8000, seed=int(videos))]
    assert len(rows) >= 5000
    for given in rows:
        stages.assert_plan(given, oracle.official_geometry(given, videos))


def test_frame_resize() -> None:
    """Frames are resized to the bit as torchvision does, enlarging and reducing."""
    import torch
    from torchvision.transforms.v2 import functional
    from torchvision.transforms.v2.functional import InterpolationMode

    random = np.random.RandomState(5)
    for i in range(200):
        height, width, new_height, new_width = (int(2 ** random.uniform(2, 9)) for _ in range(4))
        frame = random.randint(0, 256, (height, width, 3)).astype(np.uint8)
        if i % 2:
            frame = np.sort(np.sort(frame, axis=0), axis=1)
        expected = functional.resize(
            torch.from_numpy(frame).permute(2, 0, 1), [new_height, new_width], InterpolationMode.BICUBIC, antialias=True
        )
        actual = resize_frame(frame, (new_height, new_width))
        np.testing.assert_array_equal(actual, expected.permute(1, 2, 0).numpy(), err_msg=str((i, frame.shape)))


def test_positions() -> None:
    """The integer position table equals the official bucketing for every side that a picture can have."""
    import torch
    from transformers.vision_utils import get_vision_nearest_position_ids

    for side in (*range(1, 400), 714, 1024, 2857, 5003):
        expected = get_vision_nearest_position_ids(torch.tensor([[side, 3]]), 70)
        np.testing.assert_array_equal(np.array(position_ids((side, 3), 70)), expected.numpy(), err_msg=str(side))
