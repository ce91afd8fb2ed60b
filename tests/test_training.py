"""Training as users do it: `python -m mlx_vlm.train` on rows of text, images and videos of different sizes.

A padded batch must have the loss and the gradients of its rows alone, whose logits other tests tie to the official
implementation; adapters must be where the options say, and answer after loading as the trained model did in memory.
"""

import json
import math
import re
import shutil
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx_vlm.train as command
import numpy as np
import pytest
import tiny
from cases import MEDIA, Picture
from mlx.utils import tree_flatten, tree_unflatten
from mlx_vlm import convert, generate, load
from mlx_vlm.prompt_utils import apply_chat_template
from mlx_vlm.trainer import TrainingCallback, VisionDataset, VLMTrainingArgs, unfreeze_modules
from mlx_vlm.trainer.vlm.sft.dataset import VisionDataset as RowDataset
from mlx_vlm.trainer.vlm.sft.runtime import collate_vlm_batch, vlm_sft_loss
from mlx_vlm.trainer.vlm.sft.trainer import iterate_batches
from mlx_vlm.utils import prepare_inputs, save_weights
from test_commands import python

from minicpmv46 import gated_delta
from minicpmv46.decoder import DecoderLayer
from minicpmv46.vision import EncoderLayer

SIZES = {"one.png": (70, 100), "other.png": (112, 56), "wide.png": (120, 260), "tall.png": (330, 90)}
VISION = ("vision_tower.", "vit_merger.", "merger.")
CLIPS = ("pan_short.mp4", "jump.mp4")
VIDEO, IMAGE = {"type": "video"}, {"type": "image"}


def row(question: Any, answer: str, **media: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages, **media}


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


# Two rows each, of different lengths. Rows name images in a column of their own, and videos also in their messages.
ROWS = {
    "text": [row("Hello", "Hello to you, too."), row("What?", "No.")],
    "one unit and slices": [
        row("What is it?", "Tiles.", images=["one.png"]),
        row("And this one?", "A wide wave.", images="wide.png"),
    ],
    "several images": [
        row("Compare them.", "One is tall.", images=["one.png", "tall.png"]),
        row([text("First"), IMAGE, text("second"), IMAGE, IMAGE], "Yes", images=["wide.png", "other.png", "one.png"]),
    ],
    "one size": [row("This?", "Tiles.", images=["one.png"]), row("That?", "More tiles.", images=["one.png"])],
    "single units": [row("This?", "Tiles.", images=["one.png"]), row("That one?", "Noise.", images=["other.png"])],
    "video": [
        row([VIDEO, text("What happens?")], "It moves.", videos=[CLIPS[0]]),
        row([text("And here?"), VIDEO], "It jumps, twice.", videos=CLIPS[1]),
    ],
    "image and video": [
        row([VIDEO, text("Is this"), IMAGE, text("in it?")], "Yes.", images=["one.png"], videos=[CLIPS[1]]),
        row([IMAGE, text("and"), VIDEO], "Waves", images=["tall.png"], videos=[CLIPS[0]]),
    ],
}
PAIRS = [
    {"prompt": "What is it?", "chosen": "Tiles.", "rejected": "A wave, I think", "answer": "a", "images": ["one.png"]},
    {"prompt": "And this?", "chosen": "Noise.", "rejected": "No", "answer": "b", "images": ["other.png"]},
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[dict[str, Any]]], Path]:
    """Writes rows to a folder that has the media beside them."""
    media = tmp_path_factory.mktemp("media")
    for kind, (name, size) in zip(("tiles", "noise", "waves", "gradient"), SIZES.items(), strict=True):
        Picture(kind, size).load().save(media / name)
    for name in CLIPS:
        shutil.copy(MEDIA / name, media / name)

    def write(rows: list[dict[str, Any]]) -> Path:
        folder = tmp_path_factory.mktemp("rows") / "data"
        shutil.copytree(media, folder)
        (folder / "train.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in rows))
        return folder

    return write


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Checkpoints whose files ask for units of 112 instead of 448 pixels, so that images have few tokens."""
    made: dict[str, Path] = {}

    def make(kind: str = "base") -> Path:
        if kind not in made:
            folder = tmp_path_factory.mktemp("checkpoint") / "model"
            if kind in ("4-bit", "8-bit"):
                convert(str(make()), str(folder), quantize=True, q_bits=int(kind[0]), q_group_size=32)
            else:
                tiny.make_checkpoint(folder, kind if kind in tiny.VARIANTS else "base")
                options = tiny.processor_config()
                for section in ("image_processor", "video_processor"):
                    options[section] |= {"scale_resolution": 112, "max_slice_nums": 4}
                    options[section]["downsample_mode"] = "4x" if kind == "4x" else "16x"
                (folder / "processor_config.json").write_text(json.dumps(options))
            made[kind] = folder
        return made[kind]

    return make


class Run(TrainingCallback):
    """One call of `mlx_vlm.train`, with the model that it trained and the losses that it reported."""

    def __init__(self, model: Path, data: Path, out: Path, *flags: str) -> None:
        self.losses: list[float] = []
        loaded: list[tuple[Any, Any]] = []
        plan = ("--batch-size", "2", "--iters", "3", "--steps-per-report", "1", "--learning-rate", "1e-3")
        places = ("--model", str(model), "--data", str(data), "--output-path", str(out))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(command, "_load_model", lambda task, path: loaded.append(load(path)) or loaded[-1])
            command.run(*command.parse_args([*places, *plan, *flags]), self)
        self.model, self.processor = loaded[0]
        self.model.eval()

    def on_train_loss_report(self, metrics: dict[str, Any]) -> None:
        self.losses.append(metrics["train_loss"])


def falling(losses: list[float]) -> bool:
    return len(losses) >= 3 and all(b < a for a, b in pairwise(losses))


def parameters(model: nn.Module) -> dict[str, mx.array]:
    return dict(tree_flatten(model.parameters()))


# Batches


def absolute(entry: dict[str, Any], folder: Path) -> dict[str, Any]:
    media = {key: entry[key] for key in ("images", "videos") if key in entry}
    lists = {key: [names] if isinstance(names, str) else names for key, names in media.items()}
    return entry | {key: [str(folder / name) for name in names] for key, names in lists.items()}


def row_inputs(loaded: tuple[Any, Any], entry: dict[str, Any]) -> dict[str, mx.array]:
    """What a request of the same messages gives."""
    images, videos = entry.get("images", []), entry.get("videos", [])
    prompt = apply_chat_template(
        loaded[1], loaded[0].config, entry["messages"], num_images=len(images), add_generation_prompt=False
    )
    return prepare_inputs(loaded[1], images=images, videos=videos, prompts=prompt)


def summed_loss(model: Any, inputs: dict[str, mx.array], counted: mx.array) -> mx.array:
    """Negative log-likelihood of the `counted` tokens of one row, from the logits of the row alone."""
    ids = inputs["input_ids"][:, :-1]
    media = {name: inputs[name] for name in ("pixel_values", "image_units") if name in inputs}
    logits = model(ids, **media).logits[0]
    targets = inputs["input_ids"][0, 1:]
    loss = mx.logsumexp(logits, axis=-1) - mx.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
    return (loss * counted[1:]).sum()


BATCHES = [(name, "base", False) for name in ROWS] + [
    ("one unit and slices", "4x", True),
    ("text", "value_heads", True),
]


@pytest.mark.parametrize(("name", "kind", "completions"), BATCHES)
def test_batch_is_its_rows(base: Any, data: Any, name: str, kind: str, completions: bool) -> None:
    """Loss and all gradients of a padded batch are the rows' own, and reach every part that took part."""
    model, processor = loaded = load(str(base(kind)))
    model.train()
    folder = data(ROWS[name])
    rows = [absolute(entry, folder) for entry in ROWS[name]]
    dataset = RowDataset(rows, model.config, processor, config={"train_on_completions": completions})
    samples = [dataset[i] for i in range(2)]
    pad = processor.tokenizer.pad_token_id
    batch = collate_vlm_batch(samples, 2048, pad_token_id=pad, image_token_id=model.config.image_token_id)
    (loss, _), gradients = nn.value_and_grad(model, lambda m: vlm_sft_loss(m, batch, train_on_completions=completions))(
        model
    )

    total, count, summed = 0.0, 0, {}
    for entry, sample in zip(rows, samples, strict=True):
        inputs = row_inputs(loaded, entry)
        assert mx.array_equal(inputs["input_ids"][0], sample["input_ids"])
        ids = inputs["input_ids"]
        counted = sample["completion_mask"] if completions else mx.ones(ids.shape[1])
        alone, own = nn.value_and_grad(model, lambda m, i=inputs, c=counted: summed_loss(m, i, c))(model)
        total, count = total + alone.item(), count + int(counted[1:].sum())
        for path, value in tree_flatten(own):
            summed[path] = summed.get(path, 0) + value
    assert loss.item() == pytest.approx(total / count, rel=1e-5)

    idle = VISION if name == "text" else ("vit_merger.",) if kind == "4x" else ("-",)
    for path, value in tree_flatten(gradients):
        expected = summed[path] / count
        if path.startswith(idle):
            assert not mx.any(value).item(), path
            continue
        # Softmax takes no notice of a key's bias: its gradient is rounding, to be measured by the weight's.
        scale = mx.abs(summed[path.replace("k_proj.bias", "k_proj.weight")]).max().item() / count
        assert scale > 0, path
        assert mx.abs(value - expected).max().item() < 2e-5 * scale, path


def test_gradients_are_slopes(base: Any, data: Any) -> None:
    """A small step against the gradient of a part of the model lowers the loss as the gradient says."""
    model, _ = loaded = load(str(base()))
    model.train()
    folder = data(ROWS["several images"])
    inputs = row_inputs(loaded, absolute(ROWS["several images"][0], folder))
    counted = mx.ones(inputs["input_ids"].shape[1]) / inputs["input_ids"].shape[1]
    _, gradients = nn.value_and_grad(model, lambda m: summed_loss(m, inputs, counted))(model)
    start = parameters(model)
    for part in ("language_model.", *VISION):
        slopes = {name: g for name, g in tree_flatten(gradients) if name.startswith(part)}
        norm = math.sqrt(sum(g.square().sum().item() for g in slopes.values()))
        losses = []
        for change in (-0.02 / norm, 0.02 / norm):
            moved = {name: start[name] + change / norm * g for name, g in slopes.items()}
            model.load_weights(list(moved.items()), strict=False)
            losses.append(summed_loss(model, inputs, counted).item())
        model.load_weights(list(start.items()))
        assert losses[1] - losses[0] == pytest.approx(0.04, rel=0.02), part


def test_batches_of_the_older_trainer(base: Any, data: Any) -> None:
    """`SFTTrainer` concatenates what differs in shape and stacks what does not; both give the rows' embeddings."""
    model, processor = loaded = load(str(base()))
    for name in ("one unit and slices", "several images", "one size", "single units"):
        folder = data(ROWS[name])
        rows = [absolute(entry, folder) for entry in ROWS[name]]
        batch = next(iter(iterate_batches(VisionDataset(rows, model.config.to_dict(), processor), 2, 2048)))
        media = {name: batch[name] for name in ("pixel_values", "image_units")}
        embeds = model.get_input_embeddings(batch["input_ids"], **media).inputs_embeds
        for i, entry in enumerate(rows):
            inputs = row_inputs(loaded, entry)
            alone = model.get_input_embeddings(**inputs).inputs_embeds[0]
            assert mx.allclose(embeds[i, : len(alone)], alone, atol=1e-6), name


@pytest.mark.parametrize(
    "messages",
    [
        ROWS["one unit and slices"][0]["messages"],
        [
            {"role": "system", "content": "Be brief."},
            *row("Question?", "First answer.")["messages"],
            *row([text("And"), IMAGE, text("this?")], "Zwölf 漢 <b> tiles.")["messages"],
        ],
    ],
)
def test_completion_mask(base: Any, data: Any, messages: list[dict[str, Any]]) -> None:
    """Completion-only losses count the last answer and the token that ends it, nothing else."""
    model, processor = load(str(base()))
    folder = data([])
    rows = [{"messages": messages, "images": [str(folder / "wide.png")]}]
    sample = RowDataset(rows, model.config, processor, config=VLMTrainingArgs(train_on_completions=True))[0]
    ids, mask = np.array(sample["input_ids"]), np.array(sample["completion_mask"]).astype(bool)
    assert processor.tokenizer.decode(ids[mask]) == messages[-1]["content"] + "<|im_end|>\n"
    assert processor.tokenizer.decode(ids[~mask]).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


# Two steps and more


@pytest.mark.parametrize(
    ("name", "kind"),
    [("text", "base"), ("one unit and slices", "bf16"), ("several images", "4x"), ("video", "base")],
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


TARGETS = (
    "v_proj",
    "in_proj_qkv",
    "merger.mlp.0.linear_2",
    "vit_merger.self_attn.q_proj",
    "vision_tower.encoder.layers.2.mlp.fc1",
)
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
            assert mx.array_equal(own[name], value) == (not name.startswith(prefixes or "-")), name

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


def test_no_kernel_in_training(base: Any, monkeypatch: Any) -> None:
    """mlx-vlm's kernel for the delta nets, used on Metal, has no gradient."""

    def kernel(*arguments: Any) -> Any:
        raise AssertionError("the kernel ran")

    monkeypatch.setattr(gated_delta, "has_kernel", lambda key_dim: True)
    monkeypatch.setattr(gated_delta, "gated_delta_kernel", kernel)
    model, _ = load(str(base()))
    ids = mx.array([[5, 6, 7]])
    with pytest.raises(AssertionError, match="kernel"):
        model(ids)
    model.train()
    nn.value_and_grad(model, lambda m: m(ids).logits.square().sum())(model)


# Objectives other than the likelihood


@pytest.mark.parametrize("algorithm", ["orpo", "dpo", "grpo"])
def test_preferences_and_rewards(base: Any, data: Any, tmp_path: Path, algorithm: str) -> None:
    rewards = tmp_path / "rewards.py"
    rewards.write_text("def length(*, completions, **rest):\n    return [float(len(c)) for c in completions]\n")
    flags = ["--algorithm", algorithm]
    if algorithm == "grpo":
        flags += ["--group-size", "2", "--max-completion-length", "5", "--temperature", "1.5", "--iters", "2"]
        flags += ["--reward-functions-file", str(rewards), "--reward-functions", "length"]
    done = Run(base(), data(PAIRS), tmp_path / "out", *flags)
    if algorithm == "grpo":  # its loss is about zero whatever is learned
        trained = dict(tree_flatten(done.model.trainable_parameters()))
        assert all(mx.any(value).item() and mx.isfinite(value).all().item() for value in trained.values())
    else:
        assert falling(done.losses)
    if algorithm == "dpo":  # before the first step the policy is the reference
        assert done.losses[0] == pytest.approx(math.log(2), abs=1e-5)


# Commands


def test_commands(base: Any, data: Any, tmp_path: Path) -> None:
    """The two commands: the losses and the answer are those of Python, and not the base's answer."""
    if python("-c", "import sys; sys.exit('minicpmv46' not in sys.modules)", folder=tmp_path).returncode:
        pytest.skip("this environment has minicpmv46's .pth file not installed (pip install -e .)")
    folder = data(ROWS["one unit and slices"])
    image, prompt = str(folder / "wide.png"), "And this one?"
    places = ("--model", str(base()), "--data", str(folder), "--output-path", "out")
    flags = ("--batch-size", "2", "--iters", "3", "--steps-per-report", "1", "--learning-rate", "1e-2")
    done = python("-m", "mlx_vlm.train", *places, *flags, "--train-vision", folder=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    printed = re.findall(r"train_loss=([\d.]+)", (done.stdout + done.stderr).decode())
    here = Run(base(), folder, tmp_path / "here", "--learning-rate", "1e-2", "--train-vision")
    np.testing.assert_allclose([float(loss) for loss in printed], here.losses, rtol=1e-4)
    assert here.losses[2] < here.losses[0]

    request = ("--image", image, "--prompt", prompt, "--max-tokens", "6", "--temperature", "0", "--no-verbose")
    place = ("--model", str(base()), "--adapter-path", "out")
    answer = python("-m", "mlx_vlm.generate", *place, *request, folder=tmp_path)
    assert answer.returncode == 0, answer.stderr.decode()

    def ask(model: Any, processor: Any) -> str:
        asked = apply_chat_template(processor, model.config, prompt, num_images=1)
        return generate(model, processor, asked, image=image, max_tokens=6, temperature=0.0).text

    expected = ask(here.model, here.processor)
    assert expected.strip() and expected != ask(*load(str(base())))
    assert answer.stdout.decode().strip() == expected.strip()


def test_fused(base: Any, data: Any, tmp_path: Path) -> None:
    """mlx-vlm has no command that fuses; its layers' `fuse` gives a folder that loads like any other."""
    folder = data(ROWS["single units"])
    done = Run(base(), folder, tmp_path / "out", "--target-modules", *TARGETS)
    modules = done.model.named_modules()
    done.model.update_modules(tree_unflatten([(name, m.fuse()) for name, m in modules if hasattr(m, "fuse")]))
    shutil.copytree(base(), tmp_path / "fused")
    (tmp_path / "fused" / "model.safetensors").unlink()
    save_weights(tmp_path / "fused", done.model)
    fused, processor = load(str(tmp_path / "fused"))
    adapted, _ = load(str(base()), adapter_path=str(tmp_path / "out"))
    inputs = row_inputs((fused, processor), absolute(ROWS["single units"][1], folder))
    media = {name: inputs[name] for name in ("pixel_values", "image_units")}
    expected = adapted(inputs["input_ids"], **media).logits
    assert mx.allclose(fused(inputs["input_ids"], **media).logits, expected, rtol=1e-4, atol=1e-4)


# Wrong use


def causes(error: BaseException | None) -> Iterator[str]:
    while error is not None:
        yield str(error)
        error = error.__cause__ or error.__context__


VIDEO_ROW = ROWS["video"][0]
WRONG: dict[str, tuple[dict[str, Any], tuple[str, ...], tuple[str, ...]]] = {
    "fewer images than places": (
        row([IMAGE, text("and"), IMAGE], "Yes.", images=["one.png"]),
        (),
        ("2 <|image_pad|> placeholders", "1 image"),
    ),
    "no images for a place": (row([IMAGE, text("?")], "Yes."), (), ("1 <|image_pad|> placeholder", "0 images")),
    "video without a place": (row("?", "Yes.", videos=[CLIPS[0]]), (), ("0 <|video_pad|> placeholders", "1 video")),
    "missing file": (row("?", "Yes.", images=["none.png"]), (), ("none.png",)),
    "not an image": (row("?", "Yes.", images=["train.jsonl"]), (), ("image 0", "train.jsonl")),
    "audio": (row("?", "Yes.", audio=["a.wav", "b.wav"]), (), ("a.wav",)),
    "cut image": (ROWS["one unit and slices"][1], ("--max-seq-length", "12"), ("max_seq_length=12", "image")),
    "cut video": (VIDEO_ROW, ("--max-seq-length", "12"), (f"tokens of id {tiny.VIDEO_PAD}", "must not be cut")),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_rows(base: Any, data: Any, tmp_path: Path, case: str) -> None:
    """A clear error, before anything is trained or saved."""
    entry, flags, words = WRONG[case]
    with pytest.raises((ValueError, OSError)) as caught:
        Run(base(), data([entry]), tmp_path / "out", "--batch-size", "1", *flags)
    found = " <- ".join(causes(caught.value))
    assert all(word in found for word in words), found
    assert not (tmp_path / "out").exists()
