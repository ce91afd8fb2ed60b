"""Configurations: defaults of the official classes, and a named error for what is not supported."""

import dataclasses
from typing import Any

import pytest
from support import tiny

from minicpmv46.config import Config, TextConfig, VisionConfig
from minicpmv46.plugin.model_config import ModelConfig


def test_defaults_are_the_official_ones() -> None:
    """Keys that a checkpoint leaves out mean what they mean officially, not what MiniCPM-V 4.6 happens to use."""
    config = Config.from_dict({"model_type": "minicpmv4_6", "image_token_id": 1, "video_token_id": 2})
    assert (config.downsample_mode, config.merge_kernel_size, config.merger_times) == ("16x", (2, 2), 1)
    assert not config.tie_word_embeddings
    assert config.vision_config == VisionConfig(768, 3072, 12, 12, 3, 224, 16, 1e-6, 6, (2, 2))
    text = config.text_config
    assert (text.vocab_size, text.hidden_size, text.num_hidden_layers, text.head_dim) == (248320, 4096, 32, 256)
    assert (text.linear_num_key_heads, text.linear_num_value_heads, text.linear_conv_kernel_dim) == (16, 32, 4)
    assert [i for i, kind in enumerate(text.layer_types) if kind == "full_attention"] == list(range(3, 32, 4))
    assert text.rotary_dim == 64


def test_defaults_of_ocr() -> None:
    """Tied and 4x where `config.json` says nothing; all else is as it is with 4.6."""
    params = {"model_type": "minicpm_ocr", "image_token_id": 1, "video_token_id": 2}
    config, other = (Config.from_dict({**params, "model_type": name}) for name in ("minicpm_ocr", "minicpmv4_6"))
    assert (config.tie_word_embeddings, config.downsample_mode) == (True, "4x")
    assert config.vision_config.model_type == "minicpm_ocr_vision"
    assert config.text_config == other.text_config
    vision = dataclasses.replace(config.vision_config, model_type=other.vision_config.model_type)
    assert vision == other.vision_config
    given = Config.from_dict({**params, "tie_word_embeddings": False, "downsample_mode": "16x"})
    assert (given.tie_word_embeddings, given.downsample_mode) == (False, "16x")


def test_what_4_6_has_besides_is_known_to_ocr() -> None:
    """Files that were made out of 4.6's; the one value that would change something is refused there too."""
    params = tiny.config("ocr")
    leftovers = {"image_size": 1120, "drop_vision_last_layer": False}
    assert Config.from_dict({**params, **leftovers}) == Config.from_dict(params)
    with pytest.raises(ValueError, match="drop_vision_last_layer"):
        Config.from_dict({**params, "drop_vision_last_layer": True})


@pytest.mark.parametrize(("variant", "other"), [("base", "minicpm_ocr"), ("ocr", "minicpmv4_6")])
def test_parts_of_the_other_model(variant: str, other: str) -> None:
    """A vision section or a class of the sibling is refused by its name; a section without a type is the model's."""
    params = tiny.config(variant)
    vision = params["vision_config"]
    with pytest.raises(ValueError, match=rf"vision_config\.model_type = '{other}_vision'"):
        Config.from_dict({**params, "vision_config": {**vision, "model_type": f"{other}_vision"}})
    own = f"{params['model_type']}_vision"
    assert Config.from_dict(params).vision_config.model_type == own
    del vision["model_type"]
    assert Config.from_dict(params).vision_config.model_type == own


def test_small_checkpoint() -> None:
    config = Config.from_dict(tiny.config("untied"))
    assert config.vision_config.insert_layer_id == 0
    assert not config.tie_word_embeddings
    assert (config.image_token_id, config.video_token_id) == (tiny.IMAGE_PAD, tiny.VIDEO_PAD)


def test_root_insert_layer_id_wins() -> None:
    """As in the official class, the root's value replaces the vision section's."""
    params = tiny.config("base")
    params["vision_config"]["insert_layer_id"] = 99
    assert Config.from_dict(params).vision_config.insert_layer_id == params["insert_layer_id"]


def test_frozen() -> None:
    config = Config.from_dict(tiny.config("base"))
    for part in (config, config.text_config, config.vision_config):
        with pytest.raises(dataclasses.FrozenInstanceError):
            part.hidden_size = 1  # type: ignore[union-attr, misc]


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("", "model_type", "minicpmv4_7"),
        ("", "image_token_id", None),
        ("", "video_token_id", "<|video_pad|>"),
        ("", "downsample_mode", "8x"),
        ("", "merge_kernel_size", [2, 4]),
        ("", "merge_kernel_size", 2),
        ("", "merger_times", 0),
        ("", "insert_layer_id", -1),
        ("", "insert_layer_id", 3),
        ("", "drop_vision_last_layer", True),
        ("", "eos_token_id", "<|im_end|>"),
        ("", "eos_token_id", [1, None]),
        ("vision_config", "hidden_act", "relu"),
        ("vision_config", "window_kernel_size", [4, 4]),
        ("vision_config", "patch_size", [14, 14]),
        ("vision_config", "num_attention_heads", 5),
        ("text_config", "hidden_act", "gelu"),
        ("text_config", "attn_output_gate", False),
        ("text_config", "mlp_only_layers", [1]),
        ("text_config", "layer_types", ["sliding_attention"] * 4),
        ("text_config", "layer_types", ["full_attention"]),
        ("text_config", "num_key_value_heads", 3),
        ("text_config", "linear_num_value_heads", 3),
        ("text_config", "rope_parameters", {"rope_type": "yarn", "rope_theta": 1e7}),
    ],
)
def test_unsupported_values_raise_with_their_name(section: str, name: str, value: Any) -> None:
    params = tiny.config("base")
    (params[section] if section else params)[name] = value
    named = "rope_type" if name == "rope_parameters" else name
    with pytest.raises(ValueError, match=named):
        Config.from_dict(params)


def test_what_mlx_vlm_does_to_a_config() -> None:
    """mlx-vlm sets stop tokens and re-parsed sections on the object it gets."""
    params = {**tiny.config("base"), "eos_token_id": list(tiny.STOP_TOKENS)}
    config = ModelConfig.from_dict(params)
    assert config.eos_token_id == list(tiny.STOP_TOKENS)
    config.eos_token_id = 7
    config.text_config = TextConfig.from_dict(params["text_config"])
    assert config.text_config == config.architecture.text_config
    assert config.to_dict()["eos_token_id"] == 7


@pytest.mark.parametrize("section", ["", "vision_config", "text_config", "rope_parameters"])
@pytest.mark.parametrize(("name", "value"), [("mrope_mode", "canvas"), ("sliding_window", 128), ("use_head", False)])
def test_unknown_keys_are_refused(section: str, name: str, value: Any) -> None:
    """They may change the computation; one without a value does not."""
    params = tiny.config("base")
    target = params["text_config"]["rope_parameters"] if section == "rope_parameters" else params.get(section, params)
    target[name] = value
    with pytest.raises(ValueError, match=f"{section or 'config.json'}.* has '{name}'"):
        Config.from_dict(params)
    target[name] = None
    Config.from_dict(params)


def test_what_transformers_and_mlx_vlm_add_is_known() -> None:
    params = tiny.config("base")
    expected = Config.from_dict(params)
    for part in (params, params["text_config"], params["vision_config"]):
        part |= {"torch_dtype": "bfloat16", "output_attentions": False, "id2label": {"0": "a"}, "return_dict": True}
    params |= {"quantization": {"bits": 4}, "audio_config": {}, "generation_config": {"top_k": 1}, "auto_map": {"a": 1}}
    params["text_config"] |= {"mtp_num_hidden_layers": 1, "mtp_other": 2}
    params["text_config"]["rope_parameters"] |= {"mrope_section": [1, 1, 1], "mrope_interleaved": True}
    assert Config.from_dict(params) == expected


def test_without_a_token_for_videos() -> None:
    """As the official class has it; images need none."""
    params = tiny.config("base")
    del params["video_token_id"]
    assert Config.from_dict(params).video_token_id is None
