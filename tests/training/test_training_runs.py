"""Steps of training as users take them: what they lower, what is trained, saved and loaded again."""

import math
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_vlm import load
from mlx_vlm.trainer import unfreeze_modules
from support.training_rows import PAIRS, ROWS, TARGETS, VISION, Run, absolute, falling, parameters, row_inputs

from minicpmv46.decoder import DecoderLayer
from minicpmv46.vision import EncoderLayer


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("text", "base"), ("one unit and slices", "bf16"), ("several images", "4x"), ("video", "base")),
        ("one unit and slices", "ocr"),
    ],
)
def test_steps_lower_the_loss(base: Any, data: Any, tmp_path: Path, name: str, kind: str) -> None:
    assert falling(Run(base(kind), data(ROWS[name]), tmp_path / "out").losses)


def test_rows_of_all_kinds(base: Any, data: Any, tmp_path: Path) -> None:
    """mlx-vlm makes batches of one kind of media each out of a mixed set."""
    rows = [ROWS[name][i] for i in (0, 1) for name in ("text", "one unit and slices", "video")]
    losses = Run(base(), data(rows), tmp_path / "out", "--iters", "6").losses
    assert sum(losses[3:]) < sum(losses[:3])


def linears(model: nn.Module, *prefixes: str) -> set[str]:
    kinds = (nn.Linear, nn.QuantizedLinear)
    return {name for name, module in model.named_modules() if isinstance(module, kinds) and name.startswith(prefixes)}


TARGET_PATHS = {
    "language_model.model.layers.3.self_attn.v_proj",
    *(f"language_model.model.layers.{i}.linear_attn.in_proj_qkv" for i in range(3)),
    *TARGETS[2:],
}
# Flags, checkpoint, modules with an adapter (None: all of the decoder's matrices), prefixes of what else is trained.
MODES: dict[str, tuple[tuple[str, ...], str, set[str] | None, tuple[str, ...]]] = {
    "lora": (("--lora-dropout", "0.1"), "base", None, ()),
    "modules by name": (("--target-modules", *TARGETS), "base", TARGET_PATHS, ()),
    "vision": (("--train-vision",), "base", None, VISION),
    "full": (("--full-finetune",), "base", set(), ("",)),
    "4-bit": ((), "4-bit", None, ()),
    "8-bit, dora, vision": (("--train-vision", "--train-type", "dora"), "8-bit", None, VISION),
    "4-bit, full": (("--full-finetune",), "4-bit", set(), ("",)),
    "ocr": ((), "ocr", None, ()),
    "ocr, full": (("--full-finetune",), "ocr", set(), ("",)),
    "quantized for training": (("--quantization-bits", "4", "--quantization-group-size", "32"), "base", None, ()),
}


@pytest.mark.parametrize("mode", MODES)
def test_what_is_trained_and_its_reload(base: Any, data: Any, tmp_path: Path, mode: str) -> None:
    """Only what the options name changes; the saved folder makes the trained model out of the base."""
    flags, kind, modules, prefixes = MODES[mode]
    before, processor = load(str(base(kind)))
    folder = data(ROWS["single units"])
    done = Run(base(kind), folder, tmp_path / "out", *flags)
    assert falling(done.losses)

    trained = dict(tree_flatten(done.model.trainable_parameters()))
    adapted = {name.rpartition(".")[0] for name in trained if name.endswith(".lora_a")}
    assert adapted == (linears(before, "language_model.") if modules is None else modules)
    assert all(mx.any(trained[f"{name}.lora_b"]).item() for name in adapted)
    whole = {name for name in trained if not name.endswith((".lora_a", ".lora_b", ".m"))}
    # Full training dequantizes: its names are those of the trained model.
    names = parameters(before if adapted else done.model)
    assert whole == {name for name in names if name.startswith(prefixes or "-")}
    if mode not in ("quantized for training", "4-bit, full"):  # there the base itself is another
        own = {name.replace(".linear.", "."): value for name, value in parameters(done.model).items()}
        for name, value in parameters(before).items():
            idle = kind == "ocr" and name.startswith("vit_merger.")  # which 4x passes over
            assert mx.array_equal(own[name], value) == (idle or not name.startswith(prefixes or "-")), name

    inputs = row_inputs((before, processor), absolute(ROWS["single units"][1], folder))
    media = {name: inputs[name] for name in ("pixel_values", "image_units")}
    logits = done.model(inputs["input_ids"], **media).logits
    again, _ = load(str(base(kind)), adapter_path=str(tmp_path / "out"))
    assert mx.array_equal(again(inputs["input_ids"], **media).logits, logits)
    assert mx.abs(before(inputs["input_ids"], **media).logits - logits).max().item() > 0.1


def test_parts_of_the_vision_side_by_name(base: Any) -> None:
    """In Python the encoder and the mergers can be asked for one by one."""
    for asked, found in ({"vision_tower": VISION[:1], "vit_merger": VISION[1:2], "merger": VISION[1:]}).items():
        model, _ = load(str(base()))
        model.freeze()
        unfreeze_modules(model, [asked])
        names = {name for name, _ in tree_flatten(model.trainable_parameters())}
        assert names == {name for name in parameters(model) if name.startswith(found)}


def test_other_models_keep_their_unfreezing() -> None:
    other = nn.Module()
    other.merger, other.multi_modal_projector = nn.Linear(2, 2), nn.Linear(2, 2)
    other.freeze()
    unfreeze_modules(other, ["multi_modal_projector"])
    assert {name for name, _ in tree_flatten(other.trainable_parameters())} == {
        "multi_modal_projector.weight",
        "multi_modal_projector.bias",
    }


def test_accumulation_checkpointing_and_resuming(base: Any, data: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """They change memory and when steps happen, not the numbers."""
    folder = data(ROWS["single units"])
    plain = Run(base(), folder, tmp_path / "plain", "--train-vision").losses
    for layer in (DecoderLayer, EncoderLayer):  # mlx-vlm patches the classes for good
        monkeypatch.setattr(layer, "__call__", layer.__call__)
    flags = ("--gradient-accumulation-steps", "2", "--iters", "4", "--grad-checkpoint", "--train-vision")
    losses = Run(base(), folder, tmp_path / "out", *flags).losses
    assert getattr(DecoderLayer.__call__, "_vlm_checkpoint_enabled", False)
    assert getattr(EncoderLayer.__call__, "_vlm_checkpoint_enabled", False)
    np.testing.assert_allclose(losses, [plain[0], plain[0], plain[1], plain[1]], rtol=1e-5)
    resumed = Run(base(), folder, tmp_path / "more", "--resume-adapter-file", str(tmp_path / "out"), "--iters", "1")
    np.testing.assert_allclose(resumed.losses, plain[2:], rtol=1e-5)


@pytest.mark.parametrize(
    ("algorithm", "kind"),
    [("orpo", "base"), ("dpo", "base"), ("grpo", "base"), ("orpo", "ocr"), ("dpo", "ocr")],
)
def test_preferences_and_rewards(base: Any, data: Any, tmp_path: Path, algorithm: str, kind: str) -> None:
    rewards = tmp_path / "rewards.py"
    rewards.write_text("def length(*, completions, **rest):\n    return [float(len(c)) for c in completions]\n")
    flags = ["--algorithm", algorithm]
    if algorithm == "grpo":
        flags += ["--group-size", "2", "--max-completion-length", "5", "--temperature", "1.5", "--iters", "2"]
        flags += ["--reward-functions-file", str(rewards), "--reward-functions", "length"]
    done = Run(base(kind), data(PAIRS), tmp_path / "out", *flags)
    if algorithm == "grpo":  # its loss is about zero whatever is learned
        trained = dict(tree_flatten(done.model.trainable_parameters()))
        assert all(mx.any(value).item() and mx.isfinite(value).all().item() for value in trained.values())
    else:
        assert falling(done.losses)
    if algorithm == "dpo":  # before the first step the policy is the reference
        assert done.losses[0] == pytest.approx(math.log(2), abs=1e-5)
