"""Folders that the tests of conversions share: official ones, and what the converter makes of them."""

import json
from functools import cache
from pathlib import Path

import pytest
from support import tiny
from support.conversions import convert, convert_here
from support.quantized import CALLS, COMMANDS, Folders


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Official folder of a variant whose processor options are not the usual ones."""

    @cache
    def make(variant: str) -> Path:
        folder = tiny.make_checkpoint(tmp_path_factory.mktemp("source"), variant)
        options = tiny.processor_config(variant)
        options["image_processor"] |= {"max_slice_nums": 4, "use_image_id": False, "image_mean": [0.5, 0.25, 0.125]}
        options["image_processor"] |= {"scale_resolution": 112}  # few patches: here it is the decoder that changes
        mode = "16x" if variant == "ocr" else "4x"
        options["video_processor"] |= {"max_num_frames": 7, "stack_frames": 3, "downsample_mode": mode}
        options["image_processor"] |= {"small_image_upsize": "adaptive"} if variant == "ocr" else {}
        (folder / "processor_config.json").write_text(json.dumps(options))
        return folder

    return make


@pytest.fixture(scope="session")
def converted(source: Folders, tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Folder of a format."""

    @cache
    def make(name: str) -> Path:
        target = tmp_path_factory.mktemp("converted") / name
        if name in COMMANDS:
            return convert(source(COMMANDS[name].variant), target, *COMMANDS[name].arguments, builtin=False)
        return convert_here(source(CALLS[name].variant), target, **CALLS[name].options)

    return make
