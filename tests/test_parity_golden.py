"""Every stage against the recorded answers of the official implementation, without torch."""

from typing import Any

import golden_data
import numpy as np
import pytest
import stages
from cases import CASES, Case

LEVEL = 2 / 255  # one of 256 levels, in normalized pixels


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_stages(case: Case, model: Any, processor: Any) -> None:
    golden = golden_data.load(case.name)
    inputs = stages.process(processor(case.variant), case)

    np.testing.assert_array_equal(inputs["input_ids"][0], golden["input_ids"])
    np.testing.assert_array_equal(inputs["attention_mask"][0], golden["attention_mask"])
    if len(golden["tokens"]):
        np.testing.assert_array_equal(inputs["image_units"][:, :2], golden["target_sizes"])
        np.testing.assert_array_equal(inputs["image_units"][:, 2], golden["tokens"])
        check_pixels(inputs, golden, images_only=not case.clips)

    tolerance = stages.VIDEO_TOLERANCE if case.clips else stages.TOLERANCE
    result = stages.run(model(case.variant), inputs, case.new_tokens, len(golden["logits"]))
    if len(golden["tokens"]):
        rows = result["vision_features"][golden["vision_rows"]]
        stages.assert_close(rows, golden["vision_features"], tolerance, "vision features")
    rows = result["hidden_states"][golden["hidden_rows"]]
    stages.assert_close(rows, golden["hidden_states"], tolerance, "hidden states")
    stages.assert_close(result["logits"], golden["logits"], tolerance, "logits")
    np.testing.assert_array_equal(result["greedy"], golden["greedy"])


def check_pixels(inputs: dict[str, Any], golden: dict[str, Any], images_only: bool) -> None:
    """Images are bit-equal; frames are within two levels on the recorded rows."""
    pixels = inputs["pixel_values"]
    assert pixels.shape == golden["pixel_shape"]
    if images_only:
        units = golden_data.unit_crc(pixels, inputs["image_units"][:, :2])
        np.testing.assert_array_equal(units, golden["unit_crc"], err_msg="units whose pixels differ")
        assert golden_data.sha256(pixels) == golden["pixel_sha256"]
    difference = np.abs(pixels[golden["pixel_rows"]] - golden["pixel_values"])
    assert difference.max() <= (0 if images_only else 2.01 * LEVEL)


def test_geometry() -> None:
    from minicpmv46.slicing import SliceOptions, plan_slices

    rows = golden_data.geometry()
    assert len(rows) >= 500
    for given, expected in rows:
        options = SliceOptions(given.downsample_mode, given.max_slice_nums, slice_mode=given.slice_mode)  # type: ignore[arg-type]
        plan = plan_slices(given.height, given.width, options)
        assert plan.overview == expected.overview, given
        assert (plan.grid or (0, 0)) == expected.grid, given
        assert plan.refined == expected.refined, given
        assert tuple(plan.token_counts) == expected.unit_tokens, given


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
