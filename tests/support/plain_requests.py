"""Requests without options, which the tests of generation options compare with, and their arrays."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx_vlm import generate
from mlx_vlm.prompt_utils import apply_chat_template
from mlx_vlm.utils import prepare_inputs

from support.pictures import Picture

NEW_TOKENS = 12
SMALL = {"scale_resolution": 112}  # a unit costs a sixteenth
WAVES = Picture("waves", (300, 270))  # slices
REFUSAL = "MiniCPM-V 4.6 has no drafter and takes none"

Loaded = tuple[Any, Any]


def rendered(loaded: Loaded, text: str, image: Any = None, thinking: bool = False) -> str:
    model, processor = loaded
    variables = {"enable_thinking": True} if thinking else {}
    return apply_chat_template(processor, model.config, text, num_images=int(image is not None), **variables)


def ask(loaded: Loaded, text: str, image: Picture | None = None, thinking: bool = False, **keywords: Any) -> Any:
    """`generate`'s result for a question, greedy unless told otherwise."""
    media = {"image": [image.load()], **SMALL} if image is not None else {}
    template = {"enable_thinking": True} if thinking else {}
    options = {"max_tokens": NEW_TOKENS, "temperature": 0.0, **media, **template, **keywords}
    return generate(*loaded, rendered(loaded, text, image, thinking), **options)


def prepared(loaded: Loaded, text: str, image: Picture | None = None, thinking: bool = False) -> dict[str, Any]:
    """Arrays of the same question."""
    media = {"images": [image.load()], **SMALL} if image is not None else {}
    inputs = prepare_inputs(loaded[1], prompts=rendered(loaded, text, image, thinking), **media)
    return {name: inputs[name] for name in ("input_ids", "pixel_values", "image_units") if name in inputs}


def continued(loaded: Loaded, inputs: dict[str, Any], tokens: Sequence[int], count: int) -> list[int]:
    """Greedy tokens after a prompt and what is taken as answered already."""
    ids = mx.concatenate([inputs["input_ids"], mx.array([list(tokens)], dtype=mx.int32)], axis=1)
    return generate(*loaded, "", max_tokens=count, temperature=0.0, **{**inputs, "input_ids": ids}).token_ids


def token_id(loaded: Loaded, token: str) -> int:
    (found,) = loaded[1].tokenizer.encode(token, add_special_tokens=False)
    return int(found)
