"""Every stage against the recorded answers of the official implementation, without torch."""

from typing import Any

import numpy as np
import pytest
from support import golden_data, stages
from support.cases import CASES, Case


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_stages(case: Case, model: Any, processor: Any) -> None:
    golden = golden_data.load(case.name)
    inputs = stages.process(processor(case.variant), case)

    np.testing.assert_array_equal(inputs["input_ids"][0], golden["input_ids"])
    np.testing.assert_array_equal(inputs["attention_mask"][0], golden["attention_mask"])
    if len(golden["tokens"]):
        np.testing.assert_array_equal(inputs["image_units"][:, :2], golden["target_sizes"])
        np.testing.assert_array_equal(inputs["image_units"][:, 2], golden["tokens"])
        assert inputs["pixel_values"].shape == golden["pixel_shape"]
        units = golden_data.unit_crc(inputs["pixel_values"], inputs["image_units"][:, :2])
        np.testing.assert_array_equal(units, golden["unit_crc"], err_msg="units whose pixels differ")
        assert golden_data.sha256(inputs["pixel_values"]) == golden["pixel_sha256"]

    result = stages.run(model(case.variant), inputs, case.new_tokens, len(golden["logits"]))
    if len(golden["tokens"]):
        rows = result["vision_features"][golden["vision_rows"]]
        stages.assert_close(rows, golden["vision_features"], stages.TOLERANCE, "vision features")
    rows = result["hidden_states"][golden["hidden_rows"]]
    stages.assert_close(rows, golden["hidden_states"], stages.TOLERANCE, "hidden states")
    stages.assert_close(result["logits"], golden["logits"], stages.TOLERANCE, "logits")
    np.testing.assert_array_equal(result["greedy"], golden["greedy"])


def test_geometry() -> None:
    rows = golden_data.geometry()
    assert len(rows) >= 500
    for given, expected in rows:
        stages.assert_plan(given, expected)


def test_sampling() -> None:
    from minicpmv46.sampling import SamplingOptions, VideoMetadata, sample_units

    rows = golden_data.sampling()
    assert len(rows) >= 200
    for given, expected in rows:
        metadata = VideoMetadata(given.total_num_frames, given.fps, given.duration)
        main = [unit[0] for unit in sample_units(metadata, SamplingOptions(given.max_num_frames))]
        assert main == expected[: len(main)], given
        units = sample_units(metadata, SamplingOptions(given.max_num_frames, given.stack_frames))
        if given.stack_frames == 1:
            assert len(main) == len(expected), given
        # Official sampling lists sub-frames of seconds without a main frame too; nothing shows them, nor reads them.
        assert {index for unit in units for index in unit} <= set(expected), given
