"""Video files, batches of prompts and repeated merging against the official implementation. Needs torch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from support import stages, tiny
from support.cases import BY_NAME
from support.pictures import MEDIA

pytest.importorskip("torch")
pytest.importorskip("torchvision")

import cv2
import torch
from mlx.utils import tree_flatten, tree_unflatten
from support import oracle
from transformers.models.minicpmv4_6.modeling_minicpmv4_6 import MiniCPMV4_6Config, MiniCPMV4_6Merger
from transformers.video_utils import VideoMetadata

from minicpmv46.config import Config
from minicpmv46.merger import Merger


@pytest.fixture(scope="module")
def official(checkpoint: Callable[[str], Path]) -> oracle.Oracle:
    return oracle.Oracle(checkpoint("base"))


@pytest.mark.parametrize("path", sorted(MEDIA.glob("*.mp4")), ids=lambda path: path.stem)
@pytest.mark.parametrize(
    "options",
    [{}, {"max_num_frames": 3, "max_slice_nums": 1}, {"stack_frames": 3, "use_image_id": False}],
    ids=["defaults", "thinned", "stacked"],
)
def test_video_file(path: Path, options: dict[str, Any], official: oracle.Oracle, processor: Any) -> None:
    """A path gives what the official processor gives for all of the file's frames."""
    capture, frames = cv2.VideoCapture(str(path)), []
    while (read := capture.read())[0]:
        frames.append(read[1][..., ::-1])
    fps = capture.get(cv2.CAP_PROP_FPS)
    metadata = VideoMetadata(total_num_frames=len(frames), fps=fps, duration=len(frames) / fps)
    text = "<|im_start|>user\n<|video_pad|>\nWhat happens?<|im_end|>\n"
    expected = official.processor(
        text=[text], videos=[np.stack(frames)], video_metadata=[metadata], return_tensors="pt", **options
    )
    inputs = processor("base")(text, videos=str(path), **options)
    np.testing.assert_array_equal(inputs["input_ids"], expected["input_ids"].numpy())
    np.testing.assert_array_equal(inputs["image_units"][:, :2], expected["target_sizes_videos"].numpy())
    np.testing.assert_array_equal(inputs["pixel_values"], oracle.patch_rows(expected["pixel_values_videos"]))


def test_batch_of_prompts(official: oracle.Oracle, model: Any, processor: Any) -> None:
    """A left-padded batch of prompts with and without images, in one pass."""
    cases = [BY_NAME[name] for name in ("photo_sliced", "text_hello", "photo_no_text")]
    expected = official.batch_logits(cases)
    ours = processor("base")
    batch = ours(
        [stages.prompt(ours, case) for case in cases],
        images=[[picture.load() for picture in case.pictures] for case in cases],
    )
    arrays = {name: mx.array(value) for name, value in batch.items()}
    logits = model("base")(
        arrays["input_ids"],
        arrays["pixel_values"],
        mask=arrays["attention_mask"],
        image_units=arrays["image_units"],
        logits_to_keep=1,
    ).logits
    stages.assert_close(np.array(logits[:, -1]), expected, stages.TOLERANCE, "logits")


@pytest.mark.parametrize("times", [1, 2, 3])
def test_merger_rounds(times: int) -> None:
    """The final merger with one and with several rounds."""
    params = {**tiny.config("base"), "merger_times": times}
    torch.manual_seed(times)
    theirs = MiniCPMV4_6Merger(MiniCPMV4_6Config(**{k: v for k, v in params.items() if k != "model_type"}))
    ours = Merger(Config.from_dict(params))
    weights = {name: mx.array(value.detach().numpy()) for name, value in theirs.named_parameters()}
    assert weights.keys() == dict(tree_flatten(ours.parameters())).keys()
    ours.update(tree_unflatten(list(weights.items())))

    grids = [(16, 24), (8, 8)]
    units = [torch.randn(rows * cols, theirs.mlp[0].linear_1.in_features // 4) for rows, cols in grids]
    with torch.inference_mode():
        expected = theirs(torch.cat(units)[None], torch.tensor(grids))
    for unit, grid, features in zip(units, grids, expected, strict=True):
        actual = np.array(ours(mx.array(unit.numpy())[None], grid))[0]
        stages.assert_close(actual, features.numpy(), 1e-5, "merged features")
