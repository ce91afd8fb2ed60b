"""Plain conversions, loaded by transformers: the official implementation finds its own layout. Needs torch."""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from support import stages, tiny
from support.cases import BY_NAME
from support.conversions import IMAGE_CASES, convert_here
from support.loading import load_model

pytest.importorskip("torch")
pytest.importorskip("torchvision")

import torch
from support import oracle

from minicpmv46.processing import Processor

Folders = Callable[[str], Path]

# Conversion -> variant.
VARIANT = {
    **{"bf16": "bf16", "sharded": "untied", "cast": "base", "4bit_dequantized": "base", "mixed_dequantized": "bf16"},
    **{"ocr": "ocr", "ocr cast": "ocr", "ocr 4bit_dequantized": "ocr"},
}


@pytest.fixture(scope="module")
def converted(checkpoint: Folders, tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Folder of a conversion."""

    @cache
    def make(name: str) -> Path:
        source, target = checkpoint(VARIANT[name]), tmp_path_factory.mktemp("live") / name
        if name in ("bf16", "ocr"):
            return convert_here(source, target)
        if name.endswith("cast"):
            return convert_here(source, target, dtype="bfloat16")
        if name == "sharded":
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("mlx_vlm.utils.make_shards", shards)
                return convert_here(source, target)
        recipe = "mixed_4_6" if name == "mixed_dequantized" else None
        quantized = convert_here(source, target.with_name("quantized"), quantize=True, quant_predicate=recipe)
        return convert_here(quantized, target, dequantize=True)

    return make


def shards(weights: Mapping[str, mx.array]) -> list[dict[str, mx.array]]:
    parts: list[Any] = np.array_split(list(weights), 3)
    return [{str(path): weights[str(path)] for path in part} for part in parts]


def classes(name: str) -> oracle.Classes:
    """The official classes of a conversion."""
    return oracle.CLASSES[tiny.VARIANTS[VARIANT[name]].model_type]


def load(name: str, folder: Path, dtype: Any = "auto") -> Any:
    """The official model, every weight of which is in the folder and no other."""
    torch.set_num_threads(1)
    model, report = classes(name).model.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    assert not any(report.values()), report
    return model.eval()


@pytest.mark.parametrize("name", VARIANT)
def test_transformers_loads_every_weight(name: str, converted: Folders, checkpoint: Folders) -> None:
    """In the checkpoint's type, with its stop tokens; the numbers are the official checkpoint's where none are lost."""
    ours, official = load(name, converted(name)), load(name, checkpoint(VARIANT[name]))
    assert ours.dtype == official.dtype
    assert ours.generation_config.to_dict() == official.generation_config.to_dict()
    assert ours.state_dict().keys() == official.state_dict().keys()
    if "dequantized" not in name:
        dtype = torch.float32 if name in ("sharded", "ocr") else torch.bfloat16
        for path, value in official.state_dict().items():
            actual, expected = ours.state_dict()[path].to(dtype).float(), value.to(dtype).float()
            # Of norm weights w, what is less than the last bit of 1 + w is not kept.
            tolerance = 2**-24 if path.endswith("norm.weight") else 0.0
            assert float((actual - expected).abs().max()) <= tolerance, path


@pytest.mark.parametrize("name", ["bf16", "cast", "ocr cast"])
@torch.inference_mode()
def test_bfloat16_logits(name: str, converted: Folders, checkpoint: Folders) -> None:
    """A bfloat16 conversion computes in transformers what the official checkpoint does there, to the bit."""
    case = BY_NAME[IMAGE_CASES[VARIANT[name]][0]]
    inputs = oracle.Oracle(checkpoint(VARIANT[name])).process(case)
    inputs["pixel_values"] = inputs["pixel_values"].to(torch.bfloat16)
    ours, official = (load(name, f, torch.bfloat16) for f in (converted(name), checkpoint(VARIANT[name])))
    actual, expected = (model(**inputs, logits_to_keep=4).logits for model in (ours, official))
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("name", ["bf16", "mixed_dequantized", "ocr", "ocr 4bit_dequantized"])
def test_transformers_answers_as_we_do(name: str, converted: Folders) -> None:
    """Prompt ids, pixels, logits and tokens of one converted folder, by the official code and by ours, float32."""
    case = BY_NAME[IMAGE_CASES[VARIANT[name]][0]]
    expected = oracle.Oracle(converted(name)).run(case)
    inputs = stages.process(Processor.from_pretrained(converted(name)), case)
    np.testing.assert_array_equal(inputs["input_ids"][0], expected["input_ids"])
    np.testing.assert_array_equal(inputs["pixel_values"], expected["pixel_values"])
    result = stages.run(load_model(converted(name)), inputs, case.new_tokens, len(expected["logits"]))
    stages.assert_close(result["logits"], expected["logits"], stages.TOLERANCE, "logits")
    np.testing.assert_array_equal(result["greedy"], expected["greedy"])


@pytest.mark.parametrize("name", ["bf16", "ocr"])
def test_official_processor(name: str, converted: Folders, checkpoint: Folders) -> None:
    """The official processor reads the converted folder, with the same options, ids and pixels."""
    folders = (converted(name), checkpoint(VARIANT[name]))
    ours, official = (classes(name).processor.from_pretrained(folder) for folder in folders)
    for part in ("tokenizer", "image_processor", "video_processor"):
        assert type(getattr(ours, part)) is type(getattr(official, part)), part
    assert type(ours) is type(official)
    assert ours.chat_template == official.chat_template
    assert ours.image_processor.to_dict() == official.image_processor.to_dict()
    assert ours.video_processor.to_dict() == official.video_processor.to_dict()
    assert ours.tokenizer.backend_tokenizer.to_str() == official.tokenizer.backend_tokenizer.to_str()
    assert ours.tokenizer.special_tokens_map == official.tokenizer.special_tokens_map
    case = BY_NAME[IMAGE_CASES[VARIANT[name]][0]]
    picture = case.pictures[0].load()
    results = []
    for processor in (ours, official):
        text = processor.apply_chat_template(case.messages, add_generation_prompt=True)
        results.append(processor(text=[text], images=[picture], return_tensors="pt"))
    assert results[0].keys() == results[1].keys()
    for key, value in results[1].items():
        assert torch.equal(torch.as_tensor(results[0][key]), torch.as_tensor(value)), key
