"""Every value of `config.json`: a wrong type or a value out of range is refused by its name, whatever it is.

Nothing is built from a value before it is checked: the same folders fail as fast as whole ones load.
"""

import copy
import json
import math
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import tiny

from minicpmv46.checkpoint import check_checkpoint
from minicpmv46.config import Config, TextConfig, VisionConfig
from minicpmv46.model import parameter_shapes

INTEGERS = [
    *(("", name) for name in ("image_token_id", "merger_times", "insert_layer_id")),
    *(
        ("text_config", f.name)
        for f in fields(TextConfig)
        if f.type == "int"  # annotations are texts
    ),
    *(("vision_config", f.name) for f in fields(VisionConfig) if f.type == "int"),
]
NUMBERS = [
    ("text_config", "rms_norm_eps"),
    ("text_config.rope_parameters", "rope_theta"),
    ("text_config.rope_parameters", "partial_rotary_factor"),
    ("vision_config", "layer_norm_eps"),
]
SWITCHES = [("", "tie_word_embeddings"), ("text_config", "attention_bias"), ("text_config", "attn_output_gate")]
OTHERS = [
    *(("", name) for name in ("downsample_mode", "merge_kernel_size", "drop_vision_last_layer")),
    *(("text_config", name) for name in ("layer_types", "hidden_act", "model_type")),
    *(("vision_config", name) for name in ("window_kernel_size", "hidden_act", "model_type")),
]
SECTIONS = ["text_config", "vision_config", "text_config.rope_parameters"]

WRONG: tuple[Any, ...] = ("12", "", "x" * 100_000, [], [12], {}, {"a": 1}, math.nan, math.inf, -math.inf)
NO_INTEGERS = (*WRONG, None, True, False, 12.0, 1.5, -1, -(10**12), 10**12, 10**400)
NO_NUMBERS = (*WRONG, None, True, 0, 0.0, -1e-6, -1, 1e16, 1e308, 10**400, 1e-320)


def with_value(section: str, name: str, value: Any) -> dict[str, Any]:
    """The base variant's config with another value."""
    params = copy.deepcopy(tiny.config("base"))
    target = params
    for part in filter(None, section.split(".")):
        target = target[part]
    target[name] = value
    return params


def error_of(params: dict[str, Any]) -> str:
    with pytest.raises(ValueError) as raised:
        Config.from_dict(params)
    assert len(str(raised.value)) < 500
    return str(raised.value)


@pytest.mark.parametrize(("section", "name"), INTEGERS)
def test_integers(section: str, name: str) -> None:
    """Also a zero, except where it counts from there."""
    zero = () if name.endswith(("_id",)) else (0,)
    for value in (*NO_INTEGERS, *zero):
        message = error_of(with_value(section, name, value))
        assert f"{section}.{name}".lstrip(".") in message, value


@pytest.mark.parametrize(("section", "name"), NUMBERS)
def test_numbers(section: str, name: str) -> None:
    for value in NO_NUMBERS:
        assert f"{section}.{name} = " in error_of(with_value(section, name, value)), value


@pytest.mark.parametrize(("section", "name"), SWITCHES)
def test_switches(section: str, name: str) -> None:
    for value in (*WRONG, None, 0, 1, "no", "true"):
        assert f"{section}.{name}".lstrip(".") in error_of(with_value(section, name, value)), value


@pytest.mark.parametrize(("section", "name"), OTHERS)
def test_other_values(section: str, name: str) -> None:
    for value in (*WRONG, 0, 1, True, 10**12, [2, 2.0], [True, True], [None] * 4, "linear_attention"):
        assert f"{section}.{name}".lstrip(".") in error_of(with_value(section, name, value)), value


@pytest.mark.parametrize("section", SECTIONS)
def test_sections(section: str) -> None:
    parent, _, name = section.rpartition(".")
    for value in ([], [1], "", "x", 0, 5, True, 1.5):
        assert f"{section} must be an object" in error_of(with_value(parent, name, value)), value


@pytest.mark.parametrize("value", [0.05, 0.26, 1e-3])
def test_part_of_a_head_that_cannot_be_rotated(value: float) -> None:
    """Of 32 components one, eight and none: an odd number, or nothing."""
    params = with_value("text_config.rope_parameters", "partial_rotary_factor", value)
    if value == 0.26:
        assert Config.from_dict(params).text_config.rotary_dim == 8
    else:
        assert "partial_rotary_factor" in error_of(params)


@pytest.mark.parametrize(
    ("name", "value"), [("image_token_id", 512), ("video_token_id", 512), ("video_token_id", tiny.IMAGE_PAD)]
)
def test_placeholders_are_two_tokens_of_the_vocabulary(name: str, value: int) -> None:
    assert name in error_of(with_value("", name, value))


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        *(("", "architectures", value) for value in (["BoundaryExtractor"], ["Gemma4DSparkModel"], "MiniCPMV", 5, [5])),
        *(("", "dflash_config", value) for value in ({}, [], {"a": 1})),
        *(("text_config", "quantization_config", value) for value in ({}, [], {"quant_method": "fp8"})),
    ],
)
def test_what_makes_another_model_of_it(section: str, name: str, value: Any) -> None:
    """mlx-vlm asks these before it comes to the type."""
    assert name in error_of(with_value(section, name, value))


def test_real_values_pass() -> None:
    """Integers where numbers are meant, nulls that transformers writes."""
    params = with_value("text_config.rope_parameters", "rope_theta", 10_000_000)
    params |= {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None, "quantization": None}
    params["text_config"] |= {"layer_types": None, "rope_scaling": None, "mlp_only_layers": None}
    config = Config.from_dict(params)
    assert config.eos_token_id == () and config.text_config.rope_theta == 10_000_000


# Before anything is built


LARGE = {
    "merger_times": 8,
    "text_config": {"num_hidden_layers": 1024, "layer_types": None},
    "vision_config": {"num_hidden_layers": 1024},
}


@pytest.mark.parametrize("section", LARGE)
def test_counts_are_compared_with_the_headers(section: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A count within its ceiling that the files do not bear out: no module is made."""
    folder = tiny.make_checkpoint(tmp_path)
    params = tiny.config("base")
    params[section] = params[section] | LARGE[section] if "_config" in section else LARGE[section]
    (folder / "config.json").write_text(json.dumps(params))
    built: list[object] = []
    monkeypatch.setattr("minicpmv46.checkpoint.parameter_shapes", lambda config: built.append(config))
    with pytest.raises(ValueError, match=rf"{section}.* = (8|1024), but the weights hold \d") as raised:
        check_checkpoint(folder)
    assert str(folder / "config.json") in str(raised.value) and not built


@pytest.mark.parametrize(("section", "name"), INTEGERS)
def test_absurd_integers_cost_nothing(section: str, name: str, tmp_path: Path) -> None:
    """Through the whole check, with the file's path."""
    folder = tiny.make_checkpoint(tmp_path)
    (folder / "config.json").write_text(json.dumps(with_value(section, name, 10**12)))
    started = time.perf_counter()
    with pytest.raises(ValueError, match=name) as raised:
        check_checkpoint(folder)
    assert str(folder / "config.json") in str(raised.value) and time.perf_counter() - started < 2


# Any values


_ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)
_SMALL = st.integers(1, 96)
_PLACES = [*INTEGERS, *NUMBERS, *SWITCHES, *OTHERS, *(("", name) for name in ("eos_token_id", "video_token_id"))]


@settings(max_examples=300, deadline=None)
@given(changes=st.lists(st.tuples(st.sampled_from(_PLACES), _ANY | _SMALL), min_size=1, max_size=3))
def test_any_values(changes: list[tuple[tuple[str, str], Any]]) -> None:
    """Refused in a short sentence, or a model of which shapes can be told."""
    params = copy.deepcopy(tiny.config("base"))
    for (section, name), value in changes:
        target = params
        for part in filter(None, section.split(".")):
            target = target[part]
        target[name] = value
    try:
        config = Config.from_dict(params)
    except ValueError as error:
        assert len(str(error)) < 500
        return
    assert all(side > 0 for shape in parameter_shapes(config).values() for side in shape)
