"""What the tests of conversions share: running mlx-vlm's converter, and looking at what it wrote."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx_vlm
import numpy as np
from mlx.utils import tree_flatten

from minicpmv46.model import Model
from minicpmv46.processing import Processor
from support import cases, golden_data
from support.running import python

Tensors = Mapping[str, mx.array]

# Recorded cases of each variant; the first of the images is one picture with the question "Describe this image".
IMAGE_CASES = {
    "base": ("mode_p_transparent", "photo_sliced", "mode_l"),
    "untied": ("photo_upscaled", "page_two_slices"),
    "bf16": ("photo_bf16", "photo_bf16_4x_sliced"),
    "ocr": ("ocr_photo", "ocr_photo_adaptive"),
}
TEXT_CASES = {
    "base": ("text_chat_system", "text_unicode", "text_literal_tags"),
    "untied": ("text_chat_untied", "text_long"),
    "bf16": ("text_bf16",),
    "ocr": ("ocr_text", "ocr_text_thinking"),
}

_BUILTIN_LOGITS = """
import json, sys
from pathlib import Path
import mlx.core as mx, numpy as np
from mlx_vlm.utils import load_model

folder, out, prompts = sys.argv[1:]
model = load_model(Path(folder))
assert type(model).__module__ == "mlx_vlm.models.minicpmv4_6.minicpmv4_6", type(model)
model.set_dtype(mx.float32)
np.savez(out, *(np.array(model(mx.array([ids])).logits[0]) for ids in json.loads(prompts)))
"""


def convert(source: Path, target: Path, *arguments: str, builtin: bool) -> Path:
    """Convert as a user does, with mlx-vlm's own port or with ours."""
    places = ("--hf-path", source, "--mlx-path", target)
    done = python("-m", "mlx_vlm.convert", *places, *arguments, folder=target.parent, builtin=builtin)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    return target


def convert_here(source: Path, target: Path, **options: Any) -> Path:
    """The same in this process with our port, a hundredth of the time; the converter's keywords as the command's."""
    mlx_vlm.convert(str(source), str(target), **{"q_bits": None, "q_group_size": None, **options})
    return target


def read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def parameters(model: nn.Module) -> dict[str, mx.array]:
    return dict(tree_flatten(model.parameters()))


def assert_same_tensors(actual: Tensors, expected: Tensors) -> None:
    """Names, types, shapes and bytes are equal."""

    def differs(name: str) -> bool:
        a, b = actual[name], expected[name]
        return a.dtype != b.dtype or a.shape != b.shape or bytes(a) != bytes(b)

    assert actual.keys() == expected.keys()
    assert [name for name in actual if differs(name)] == []


@cache
def prompts() -> list[list[int]]:
    return [golden_data.load(name)["input_ids"].tolist() for name in ("text_chat_system", "text_unicode")]


def text_logits(model: nn.Module) -> list[np.ndarray]:
    """Float32 logits of every position of `prompts`."""
    model.set_dtype(mx.float32)
    return [np.array(model(mx.array([ids])).logits[0]) for ids in prompts()]


def builtin_logits(folder: Path, out: Path) -> list[np.ndarray]:
    """What mlx-vlm's port answers in place of `text_logits`; `out` is a file to be written."""
    done = python("-c", _BUILTIN_LOGITS, folder, out, json.dumps(prompts()), folder=out.parent, builtin=True)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    with np.load(out) as file:
        return list(file.values())


def generate(model: Model, processor: Processor, variant: str, tokens: int) -> list[int]:
    """The answer that mlx-vlm gives in the first of the variant's image cases."""
    prompt = mlx_vlm.apply_chat_template(
        processor, model.config, "Describe this image", num_images=1, enable_thinking=False
    )
    picture = cases.BY_NAME[IMAGE_CASES[variant][0]].pictures[0].load()
    steps = mlx_vlm.stream_generate(model, processor, prompt, image=[picture], max_tokens=tokens, temperature=0.0)
    return [step.token for step in steps][:tokens]  # the last step comes again with the statistics
