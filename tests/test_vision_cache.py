"""mlx-vlm's cache of visual features, in `generate` and in the server's engine: what is encoded again, and what not."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_vlm import load
from mlx_vlm.prompt_utils import apply_chat_template
from mlx_vlm.server.generation import ResponseGenerator
from mlx_vlm.vision_cache import VisionFeatureCache, processed_image_key
from support import golden_data
from support.asking import answer, greedy, prepared
from support.cases import BY_NAME

from minicpmv46.plugin.requests import RequestArguments


@pytest.fixture(scope="module")
def loaded(checkpoint: Callable[[str], Path]) -> Callable[[str], tuple[Any, Any]]:
    """Model and processor of a variant as users get them."""
    return cache(lambda variant="base": load(str(checkpoint(variant))))


def test_vision_cache(loaded: Any, encodings: list[int]) -> None:
    """The same image is encoded once, whatever is asked about it; another image is encoded anew."""
    features = VisionFeatureCache()
    golden = golden_data.load("odd_448x448")["greedy"].tolist()
    for _ in range(2):
        assert answer(loaded, "odd_448x448", vision_cache=features).token_ids == golden
        assert len(encodings) == 1
    model, processor = loaded("untied")
    image = BY_NAME["odd_448x448"].pictures[0].load()
    other_question = apply_chat_template(processor, model.config, "What?", num_images=1)
    cached = greedy(model, processor, other_question, 4, image=[image], vision_cache=features)
    assert len(encodings) == 1
    assert cached.token_ids == greedy(model, processor, other_question, 4, image=[image]).token_ids
    assert len(encodings) == 2 and len(features) == 1
    flipped = image.rotate(180)
    greedy(model, processor, other_question, 4, image=[flipped], vision_cache=features)
    assert len(encodings) == 3 and len(features) == 2


def test_vision_cache_keeps_compressions_apart(loaded: Any, encodings: list[int]) -> None:
    """One image of which 4x and 16x make the very same pixels: both are encoded, both answers are right."""
    model, processor = loaded("untied")
    image = BY_NAME["odd_448x448"].pictures[0].load()
    prompt = apply_chat_template(processor, model.config, "Describe this image", num_images=1)
    inputs = {mode: prepared(processor, prompt, image=[image], downsample_mode=mode) for mode in ("16x", "4x")}
    assert mx.array_equal(inputs["16x"]["pixel_values"], inputs["4x"]["pixel_values"])
    plain = {mode: greedy(model, processor, prompt, 6, image=[image], downsample_mode=mode) for mode in inputs}
    assert plain["16x"].token_ids != plain["4x"].token_ids
    encodings.clear()
    features = VisionFeatureCache()
    for mode in ("16x", "4x", "16x", "4x"):
        kept = greedy(model, processor, prompt, 6, image=[image], downsample_mode=mode, vision_cache=features)
        assert kept.token_ids == plain[mode].token_ids
    assert len(encodings) == 2


def test_vision_cache_of_the_server(loaded: Any, encodings: list[int]) -> None:
    """`get_input_embeddings` fills and reads the cache itself when it gets one with a key."""
    model, processor = loaded("untied")
    inputs = prepared(processor, "<|image_pad|> a", image=[BY_NAME["photo_upscaled"].pictures[0].load()])
    arguments = {k: inputs[k] for k in ("pixel_values", "image_units")}
    key = processed_image_key(**arguments)
    expected = model.get_input_embeddings(inputs["input_ids"], **arguments).inputs_embeds
    features = VisionFeatureCache()
    for _ in range(2):
        embeds = model.get_input_embeddings(
            inputs["input_ids"], **arguments, vision_cache=features, _image_key=key
        ).inputs_embeds
        assert mx.array_equal(embeds, expected)
    assert len(encodings) == 2 and len(features) == 1


def test_vision_cache_in_the_servers_engine(checkpoint: Any, loaded: Any, encodings: list[int]) -> None:
    """The server's engine encodes a picture once a mode and slice setting, and the answers stay right."""
    images = [BY_NAME["odd_448x448"].pictures[0].load()]
    model, processor = loaded("untied")
    prompt = apply_chat_template(processor, model.config, "Describe this image", num_images=1)
    settings: list[dict[str, Any]] = [
        {},
        {"downsample_mode": "4x"},
        {"scale_resolution": 112, "max_slice_nums": 2},
        {"scale_resolution": 112, "max_slice_nums": 2, "downsample_mode": "4x"},
    ]
    expected = [greedy(model, processor, prompt, 4, image=images, **options).token_ids for options in settings]
    assert len(set(map(tuple, expected))) == len(settings)
    encodings.clear()
    engine = ResponseGenerator(str(checkpoint("untied")), vision_cache=VisionFeatureCache())
    try:
        engine.wait_until_ready()
        for i, options in [*enumerate(settings), *enumerate(settings)]:
            arguments = RequestArguments(max_tokens=4, temperature=0, processor_options=options)
            _, tokens = engine.generate(prompt, images, args=arguments)
            assert [token.token for token in tokens] == expected[i], options
        assert len(encodings) == len(engine.vision_cache) == len(settings)
    finally:
        engine.stop_and_join()
