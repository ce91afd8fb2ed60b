"""This port's answers for `parity.py`, which starts this file: loaded by mlx-vlm, as users load it.

In float32 the hidden states are computed from the official vision features: single positions magnify float32's last
bits a hundredfold, in the official implementation too. Logits and tokens come from this port's own features.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import mlx.core as mx
import mlx_vlm
import numpy as np
from support.pictures import media_of

import minicpmv46  # noqa: F401  registers, also where the wheel's .pth file is not installed
from scripts.parity_answers import costs, read_answer, write_answer
from scripts.parity_cases import Case, cases

LAST_LOGITS = 4
VALUES_PER_PATCH = 14 * 14 * 3


def inputs_of(processor: Any, case: Case) -> dict[str, Any]:
    """This port's processor's output for a case."""
    prompt = processor.apply_chat_template(
        case.messages, add_generation_prompt=True, enable_thinking=case.enable_thinking
    )
    return dict(processor(prompt, **media_of(case.pictures, case.clips), **case.options.kwargs()))


def numbers(x: mx.array) -> np.ndarray:
    return np.array(x.astype(mx.float32))


def answer_of(model: Any, processor: Any, case: Case, official_features: np.ndarray | None) -> dict[str, np.ndarray]:
    """Every stage of a case. The hidden states are from the official features where they are given."""
    inputs = inputs_of(processor, case)
    ids = mx.array(inputs["input_ids"])
    media: dict[str, Any] = {k: inputs[k] for k in ("pixel_values", "image_units") if k in inputs}
    language, decoder = model.language_model, model.language_model.model
    result = {
        "input_ids": np.array(inputs["input_ids"])[0].astype(np.int32),
        "pixel_values": np.zeros((0, VALUES_PER_PATCH), np.float32),
    }
    features = None
    if media:
        result["pixel_values"] = np.array(media["pixel_values"])[:, :VALUES_PER_PATCH]
        features = model.encode_images(media["pixel_values"], media["image_units"])
        result["vision_features"] = numbers(mx.concatenate(features))
    else:
        result["vision_features"] = np.zeros((0, model.config.architecture.text_config.hidden_size), np.float32)
    embeds = model.get_input_embeddings(ids, **media, cached_image_features=features).inputs_embeds

    given = embeds
    if features is not None and official_features is not None and len(official_features) == sum(map(len, features)):
        units = np.split(official_features, np.cumsum([len(unit) for unit in features])[:-1])
        given = model.get_input_embeddings(ids, **media, cached_image_features=list(map(mx.array, units))).inputs_embeds
    result["hidden_states"] = numbers(decoder.norm(decoder(given)).astype(given.dtype))[0]

    cache = language.make_cache()
    logits = language(ids, embeds, cache=cache, logits_to_keep=LAST_LOGITS).logits
    result["logits"] = numbers(logits)[0]
    tokens = [int(logits[0, -1].argmax())]
    while len(tokens) < case.new_tokens and tokens[-1] not in language.stop_tokens:
        logits = language(mx.array([[tokens[-1]]]), cache=cache).logits
        tokens.append(int(logits[0, -1].argmax()))
    return result | {"greedy": np.array(tokens, dtype=np.int32)}


def load(folder: str, dtype: str) -> tuple[Any, Any]:
    """Model and processor by mlx-vlm; raises `RuntimeError` where that is not this port."""
    model, processor = mlx_vlm.load(folder)
    for loaded in (model, processor):
        if not type(loaded).__module__.startswith("minicpmv46."):
            raise RuntimeError(f"mlx-vlm loaded {type(loaded).__module__}, which is not this port")
    if dtype == "float32":
        model.set_dtype(mx.float32)
        mx.eval(model.parameters())
    return model, processor


def main(job: Mapping[str, Any]) -> None:
    print(f"ours {job['dtype']}: loading", flush=True)
    model, processor = load(job["folder"], job["dtype"])
    known = cases(job["model_type"])
    for name, path in job["answers"].items():
        start = time.perf_counter()
        official = job["official"].get(name)
        features = read_answer(Path(official))["vision_features"] if official else None
        answer = answer_of(model, processor, known[name], features)
        seconds = time.perf_counter() - start
        write_answer(Path(path), answer | costs(seconds, mx.get_peak_memory()))
        print(f"ours {job['dtype']}: {name}, {len(answer['input_ids']):,} tokens, {seconds:.1f} s", flush=True)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
