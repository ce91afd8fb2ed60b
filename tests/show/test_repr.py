"""What `repr` of a processor and a model says, in a few lines."""

from collections.abc import Callable

import mlx.nn as nn
from mlx.utils import tree_flatten

from minicpmv46 import __version__
from minicpmv46.describe import _parameters
from minicpmv46.model import Model
from minicpmv46.processing import Processor


def test_processor(processor: Callable[[str], Processor]) -> None:
    name, mode, *rest = repr(processor("ocr")).splitlines()
    assert name == f"Processor of MiniCPM-OCR 1.0 (minicpmv46 {__version__})"
    assert mode == f"  mode 4x, context {processor('ocr').options.limits.context:,} tokens" and not rest
    assert str(processor("ocr")) == repr(processor("ocr"))


def test_processor_with_other_defaults(processor: Callable[[str], Processor]) -> None:
    """Options that differ are named with the official default, once where images and videos have the same."""
    changed = processor("base").with_defaults(max_slice_nums=36, fps=2, images_kwargs={"downsample_mode": "4x"})
    assert repr(changed).splitlines()[1:] == [
        f"  mode 4x for images, 16x for videos, context {changed.options.limits.context:,} tokens",
        "  images and videos: max_slice_nums=36 (default 9)",
        "  images: downsample_mode='4x' (default '16x')",
        "  videos: fps=2.0 (default 1.0)",
    ]


def test_model(model: Callable[[str], Model]) -> None:
    name, vision, language = repr(model("base")).splitlines()
    assert name == f"MiniCPM-V 4.6 (minicpmv46 {__version__})"
    assert vision.startswith("  vision encoder and mergers: 3 layers of width 64, ")
    assert language.startswith("  language model: 4 layers of width 64 (1 attention, 3 delta nets), vocabulary 512, ")
    told = [int(line.split(" parameters")[0].split()[-1].replace(",", "")) for line in (vision, language)]
    assert sum(told) == sum(value.size for _, value in tree_flatten(model("base").parameters()))
    assert vision.endswith("parameters in float32") and language.endswith("parameters in float32")


def test_quantized_model() -> None:
    """Parameters are counted as before quantization, with their bits."""
    layer = nn.Sequential(nn.Linear(128, 64, bias=False), nn.Linear(64, 64))
    assert _parameters(layer) == f"{128 * 64 + 64 * 64 + 64:,} parameters in float32"
    nn.quantize(layer, group_size=32, bits=4, class_predicate=lambda _, m: isinstance(m, nn.Linear) and "bias" not in m)
    assert _parameters(layer) == f"{128 * 64 + 64 * 64 + 64:,} parameters in 4-bit in groups of 32 and float32"
