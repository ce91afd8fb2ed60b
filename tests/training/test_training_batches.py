"""Loss and gradients of padded batches, which must be those of their rows alone.

The logits of a row alone are tied to the official implementation by other tests.
"""

import math
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_vlm import load
from mlx_vlm.trainer import VisionDataset, VLMTrainingArgs
from mlx_vlm.trainer.vlm.sft.dataset import VisionDataset as RowDataset
from mlx_vlm.trainer.vlm.sft.runtime import collate_vlm_batch, vlm_sft_loss
from mlx_vlm.trainer.vlm.sft.trainer import iterate_batches
from support.training_rows import IMAGE, ROWS, VISION, absolute, parameters, row, row_inputs, text

from minicpmv46 import gated_delta


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
    ("several images", "ocr", True),
    ("video", "ocr", False),
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
    if (name, kind) == ("several images", "ocr"):  # slices of the tall one, each at its own size
        assert samples[0]["image_units"][-4:, :2].tolist() == [[6, 6]] * 4
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

    idle = VISION if name == "text" else ("vit_merger.",) if kind in ("4x", "ocr") else ("-",)
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


def test_no_kernel_in_training(base: Any, monkeypatch: Any) -> None:
    """Training keeps to the form of the delta rule whose gradients are tested here."""

    def kernel(*arguments: Any) -> Any:
        raise AssertionError("the kernel ran")

    monkeypatch.setattr(gated_delta, "has_kernel", lambda keys, values: True)
    monkeypatch.setattr(mx.fast, "gated_delta_update", kernel)
    model, _ = load(str(base()))
    ids = mx.array([[5, 6, 7]])
    with pytest.raises(AssertionError, match="kernel"):
        model(ids)
    model.train()
    nn.value_and_grad(model, lambda m: m(ids).logits.square().sum())(model)
