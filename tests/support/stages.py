"""This project's answer to a case, stage by stage, under the names that the oracle gives its stages."""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import numpy as np

from minicpmv46.model import Model
from minicpmv46.processing import Processor
from minicpmv46.slicing import SliceOptions, plan_slices
from support.cases import Case
from support.pictures import media_of
from support.tiny import STOP_TOKENS

# Largest difference of float32 results, relative to the largest value of the reference.
TOLERANCE = 1e-4


def prompt(processor: Processor, case: Case) -> str:
    """The rendered chat, placeholders not yet expanded."""
    return processor.apply_chat_template(
        case.messages, add_generation_prompt=True, enable_thinking=case.enable_thinking
    )


def process(processor: Processor, case: Case) -> dict[str, Any]:
    """Model inputs of a case."""
    return dict(
        processor(
            prompt(processor, case),
            **media_of(case.pictures, case.clips),
            **case.options.kwargs(),
        )
    )


def run(model: Model, inputs: Mapping[str, Any], new_tokens: int, last_logits: int) -> dict[str, np.ndarray]:
    """Every stage of the model for one prompt; greedy tokens stop at a stop token."""
    ids = mx.array(inputs["input_ids"])
    media = {k: inputs[k] for k in ("pixel_values", "image_units") if k in inputs}
    result: dict[str, np.ndarray] = {}
    features = None
    if media:
        features = model.encode_images(media["pixel_values"], media["image_units"])
        result["vision_features"] = np.array(mx.concatenate(features))
    embeds = model.get_input_embeddings(ids, **media, cached_image_features=features).inputs_embeds
    decoder = model.language_model.model
    result["hidden_states"] = np.array(decoder.norm(decoder(embeds)))[0]

    cache = model.language_model.make_cache()
    logits = model.language_model(ids, embeds, cache=cache, logits_to_keep=last_logits).logits
    result["logits"] = np.array(logits)[0]
    tokens = [int(logits[0, -1].argmax())]
    while len(tokens) < new_tokens and tokens[-1] not in STOP_TOKENS:
        logits = model.language_model(mx.array([[tokens[-1]]]), cache=cache).logits
        tokens.append(int(logits[0, -1].argmax()))
    result["greedy"] = np.array(tokens, dtype=np.int32)
    return result


def assert_plan(given: Any, expected: Any) -> None:
    """Sizes, grid and token counts of one size and one set of options, as `golden_data` names them."""
    options = SliceOptions(given.downsample_mode, given.max_slice_nums, slice_mode=given.slice_mode)
    plan = plan_slices(given.height, given.width, options)
    assert plan.overview == expected.overview, given
    assert (plan.grid or (0, 0)) == expected.grid, given
    assert plan.refined == expected.refined, given
    assert tuple(plan.token_counts) == expected.unit_tokens, given


def assert_units(given: Any, expected: Any) -> None:
    """The same of MiniCPM-OCR, for "always" and "never"."""
    options = SliceOptions(
        given.downsample_mode,
        given.max_slice_nums,
        given.scale_resolution,
        slice_mode=given.slice_mode,
        small_image_upsize=given.small_image_upsize,
    )
    plan = plan_slices(given.height, given.width, options)
    rows, cols = expected.grid
    assert (plan.grid or (0, 0)) == expected.grid, given
    assert plan.patch_grids == [expected.overview, *[expected.slice_size] * (rows * cols)], given
    assert sum(plan.token_counts) == expected.tokens, given


def hidden_states(model: Model, inputs: Mapping[str, Any], vision_features: np.ndarray) -> np.ndarray:
    """The decoder alone: final hidden states of a prompt from given vision features, [tokens, hidden] of all units."""
    ids, media = mx.array(inputs["input_ids"]), {}
    if "image_units" in inputs:
        ends = np.cumsum(inputs["image_units"][:, 2])[:-1]
        features = [mx.array(unit) for unit in np.split(vision_features, ends)]
        media = {k: inputs[k] for k in ("pixel_values", "image_units")} | {"cached_image_features": features}
    decoder = model.language_model.model
    return np.array(decoder.norm(decoder(model.get_input_embeddings(ids, **media).inputs_embeds)))[0]


def assert_close(actual: np.ndarray, expected: np.ndarray, tolerance: float, stage: str) -> None:
    """Fail where a value differs by more than `tolerance` of the largest expected one."""
    assert actual.shape == expected.shape, f"{stage}: shape {actual.shape}, expected {expected.shape}"
    error = float(np.abs(actual - expected).max() / np.abs(expected).max()) if expected.size else 0.0
    assert error <= tolerance, f"{stage}: off by {error:.1e} of the largest value, allowed {tolerance:.0e}"
