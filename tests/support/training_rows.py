"""Rows of text, images and videos that the tests of training train on, and one call of `mlx_vlm.train`."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx_vlm.train as command
import pytest
from mlx.utils import tree_flatten
from mlx_vlm import load
from mlx_vlm.prompt_utils import apply_chat_template
from mlx_vlm.trainer import TrainingCallback
from mlx_vlm.utils import prepare_inputs

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


TARGETS = (
    "v_proj",
    "in_proj_qkv",
    "merger.mlp.0.linear_2",
    "vit_merger.self_attn.q_proj",
    "vision_tower.encoder.layers.2.mlp.fc1",
)


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
