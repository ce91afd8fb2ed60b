"""Rows on disk and checkpoints with few tokens an image, for the tests of training."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlx_vlm import convert
from support import tiny
from support.pictures import MEDIA, Picture
from support.training_rows import CLIPS, SIZES


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[dict[str, Any]]], Path]:
    """Writes rows to a folder that has the media beside them."""
    media = tmp_path_factory.mktemp("media")
    for kind, (name, size) in zip(("tiles", "noise", "waves", "gradient"), SIZES.items(), strict=True):
        Picture(kind, size).load().save(media / name)
    for name in CLIPS:
        shutil.copy(MEDIA / name, media / name)

    def write(rows: list[dict[str, Any]]) -> Path:
        folder = tmp_path_factory.mktemp("rows") / "data"
        shutil.copytree(media, folder)
        (folder / "train.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in rows))
        return folder

    return write


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Checkpoints whose files ask for units of 112 instead of 448 pixels, so that images have few tokens."""
    made: dict[str, Path] = {}

    def make(kind: str = "base") -> Path:
        if kind not in made:
            folder = tmp_path_factory.mktemp("checkpoint") / "model"
            if kind in ("4-bit", "8-bit"):
                convert(str(make()), str(folder), quantize=True, q_bits=int(kind[0]), q_group_size=32)
            else:
                variant = kind if kind in tiny.VARIANTS else "base"
                tiny.make_checkpoint(folder, variant)
                options = tiny.processor_config(variant)
                for section in ("image_processor", "video_processor"):
                    options[section] |= {"scale_resolution": 112, "max_slice_nums": 4}
                    options[section] |= {"downsample_mode": "4x"} if kind == "4x" else {}
                if kind == "ocr":  # a trainer passes no options on: they are the folder's
                    options["image_processor"]["small_image_upsize"] = "adaptive"
                (folder / "processor_config.json").write_text(json.dumps(options))
            made[kind] = folder
        return made[kind]

    return make
