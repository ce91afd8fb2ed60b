"""What a converted folder holds beside its weights: processor files, config, index and shards."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_vlm.utils import load_model
from support import cases, stages, tiny
from support.conversions import IMAGE_CASES, TEXT_CASES, assert_same_tensors, convert_here, parameters, read_json
from support.quantized import FORMATS, Folders, stored_tensors

from minicpmv46.processing import Processor


@pytest.mark.parametrize("name", ["bf16", "untied", "4bit", "mixed", "nvfp4", "awq", "ocr", "ocr mxfp4"])
def test_processor_files(name: str, converted: Folders, source: Folders) -> None:
    """Template, options, special tokens, stop tokens, ids and pixels are those of the source."""
    folder, original = converted(name), source(FORMATS[name].variant)
    after, before = Processor.from_pretrained(folder), Processor.from_pretrained(original)
    written = {"README.md", "model.safetensors.index.json"}
    assert {f.name for f in folder.iterdir()} == {f.name for f in original.iterdir()} | written
    for file in ("chat_template.jinja", "generation_config.json"):
        assert (folder / file).read_bytes() == (original / file).read_bytes(), file
    assert read_json(folder / "processor_config.json") == read_json(original / "processor_config.json")
    assert (after.image_processor, after.video_processor) == (before.image_processor, before.video_processor)
    assert after.chat_template == before.chat_template
    assert after.special_tokens == before.special_tokens
    assert after.tokenizer.special_tokens_map == before.tokenizer.special_tokens_map
    assert after.tokenizer.backend_tokenizer.to_str() == before.tokenizer.backend_tokenizer.to_str()
    assert load_model(folder, lazy=True).config.eos_token_id == list(tiny.STOP_TOKENS)
    if FORMATS[name].variant == "ocr":
        assert after.image_processor.slicing.small_image_upsize == "adaptive"
    for case_name in (TEXT_CASES["base"][1], IMAGE_CASES["base"][0]):
        case = cases.BY_NAME[case_name]
        actual, expected = stages.process(after, case), stages.process(before, case)
        assert actual.keys() == expected.keys()
        for key, value in expected.items():
            np.testing.assert_array_equal(actual[key], value, err_msg=key)


@pytest.mark.parametrize("name", ["bf16", "4bit", "ocr", "ocr 8bit"])
def test_config_keeps_everything(name: str, converted: Folders, source: Folders) -> None:
    """Every entry of the source, with the stop tokens of generation_config.json."""
    after, before = (read_json(f / "config.json") for f in (converted(name), source(FORMATS[name].variant)))
    assert {key: after[key] for key in before} == {**before, "eos_token_id": list(tiny.STOP_TOKENS)}
    assert after["dtype"] == tiny.VARIANTS[FORMATS[name].variant].dtype


@pytest.mark.parametrize("name", ["bf16", "4bit"])
def test_shards(
    name: str, converted: Folders, source: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several files beside an index, as models of more than mlx-vlm's 5 GB get."""

    def shards(weights: Mapping[str, mx.array]) -> list[dict[str, mx.array]]:
        parts: Iterable[Any] = np.array_split(list(weights), 4)
        return [{str(path): weights[str(path)] for path in part} for part in parts]

    monkeypatch.setattr("mlx_vlm.utils.make_shards", shards)
    folder = convert_here(source(FORMATS[name].variant), tmp_path / "sharded", **FORMATS[name].options)
    files = sorted(file.name for file in folder.glob("*.safetensors"))
    assert files == [f"model-0000{i}-of-00004.safetensors" for i in range(1, 5)]
    assert_same_tensors(stored_tensors(folder), stored_tensors(converted(name)))
    assert_same_tensors(parameters(load_model(folder)), parameters(load_model(converted(name))))
    assert read_json(folder / "config.json") == read_json(converted(name) / "config.json")
