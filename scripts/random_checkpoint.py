"""A random MiniCPM-V 4.6 with the real one's widths, for measuring where no checkpoint is at hand.

    python scripts/random_checkpoint.py FOLDER [--text-layers 24] [--vision-layers 27]

Official layout, bfloat16, made by MLX alone. Layers cost the same whatever their weights are, so a third of the depth
tells two ports apart as the whole does. The tokenizer is the demo's; what it lacks of the 248,094 tokens is made up,
since a random head may pick any of them. Full depth takes 2.6 GB, a third 1.4 GB.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import mlx.core as mx

from minicpmv46.config import Config
from minicpmv46.demo import CHECKPOINT
from minicpmv46.model import parameter_shapes
from minicpmv46.weights import official_weights

TEXT_LAYERS, VISION_LAYERS, INSERT_LAYER = 24, 27, 6  # of the real model
VOCABULARY = 248094
UNIT_SIDE = 448  # pixels of a slice
TEXT_WIDTHS: dict[str, Any] = {
    "head_dim": 256,
    "hidden_size": 1024,
    "intermediate_size": 3584,
    "linear_key_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 16,
    "linear_value_head_dim": 128,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
}
VISION_WIDTHS: dict[str, Any] = {"hidden_size": 1152, "intermediate_size": 4304, "num_attention_heads": 16}


def config(text_layers: int, vision_layers: int) -> dict[str, Any]:
    """`config.json` of the real widths at some depth; the demo's file with other sizes and ids."""
    demo: dict[str, Any] = json.loads((CHECKPOINT / "config.json").read_text(encoding="utf-8"))
    # The window merger stays as deep, in proportion, as in the real encoder: it decides what a layer costs.
    insert = INSERT_LAYER * vision_layers // VISION_LAYERS
    shift = VOCABULARY - demo["text_config"]["vocab_size"]
    text = {
        **demo["text_config"],
        **TEXT_WIDTHS,
        "layer_types": ["full_attention" if i % 4 == 3 else "linear_attention" for i in range(text_layers)],
        "max_position_embeddings": 262144,
        "num_hidden_layers": text_layers,
        "rope_parameters": {"partial_rotary_factor": 0.25, "rope_theta": 10000000, "rope_type": "default"},
        "vocab_size": VOCABULARY,
    }
    vision = {
        **demo["vision_config"],
        **VISION_WIDTHS,
        "image_size": 980,
        "insert_layer_id": insert,
        "num_hidden_layers": vision_layers,
    }
    ids = {name: demo[name] + shift for name in ("eos_token_id", "image_token_id", "video_token_id")}
    return {**demo, **ids, "image_size": 1120, "insert_layer_id": insert, "text_config": text, "vision_config": vision}


def weight(path: str, shape: tuple[int, ...]) -> mx.array:
    """A random parameter of the module tree, bfloat16, of a size that keeps activations near one."""
    if path.endswith("embed_tokens.weight"):
        return mx.random.normal(shape, scale=0.02, dtype=mx.bfloat16)
    if path.endswith(".A_log"):
        return mx.random.uniform(-3.0, 1.0, shape, dtype=mx.bfloat16)
    if path.endswith(".bias"):
        return mx.random.normal(shape, scale=0.02, dtype=mx.bfloat16)
    if len(shape) == 1:  # norms and dt_bias
        return mx.random.uniform(0.9, 1.1, shape, dtype=mx.bfloat16)
    return mx.random.normal(shape, scale=1 / math.sqrt(math.prod(shape[1:])), dtype=mx.bfloat16)


def tokenizer() -> dict[str, Any]:
    """The demo's `tokenizer.json` with its added tokens at the real ids and a made-up token for each free id."""
    content: dict[str, Any] = json.loads((CHECKPOINT / "tokenizer.json").read_text(encoding="utf-8"))
    known, added = content["model"]["vocab"], content["added_tokens"]
    first = VOCABULARY - len(added)
    known.update({f"filler{i}": i for i in range(len(known), first)})
    for i, token in enumerate(added):
        token["id"] = first + i
    return content


def processor_config() -> dict[str, Any]:
    """The demo's `processor_config.json` with the real size of a unit."""
    content: dict[str, Any] = json.loads((CHECKPOINT / "processor_config.json").read_text(encoding="utf-8"))
    for kind in ("image_processor", "video_processor"):
        content[kind]["scale_resolution"] = UNIT_SIDE
    return content


def make(folder: Path, text_layers: int = TEXT_LAYERS, vision_layers: int = VISION_LAYERS, seed: int = 46) -> None:
    """Write the checkpoint into `folder`, which is made where it is missing.

    Raises:
        ValueError: fewer layers than one of each kind.
    """
    if text_layers < 4 or vision_layers < 1:
        raise ValueError(
            f"{text_layers} text and {vision_layers} vision layers: the decoder needs 4, one of them with full "
            "attention, and the encoder 1"
        )
    folder.mkdir(parents=True, exist_ok=True)
    settings, processor = config(text_layers, vision_layers), processor_config()
    generation = {"do_sample": False, "eos_token_id": [settings["eos_token_id"], settings["eos_token_id"] + 2]}
    files = {
        "config.json": settings,
        "generation_config.json": generation,
        "processor_config.json": processor,
        # mlx-vlm's own port reads these two.
        "preprocessor_config.json": processor["image_processor"],
        "video_preprocessor_config.json": processor["video_processor"],
        "tokenizer.json": tokenizer(),
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        shutil.copy(CHECKPOINT / name, folder / name)

    mx.random.seed(seed)
    shapes = parameter_shapes(Config.from_dict(settings))
    official = official_weights({path: weight(path, shape) for path, shape in shapes.items()})
    stored = {name: value.astype(mx.bfloat16) for name, value in official.items()}
    mx.save_safetensors(str(folder / "model.safetensors"), stored, metadata={"format": "pt"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--text-layers", type=int, default=TEXT_LAYERS)
    parser.add_argument("--vision-layers", type=int, default=VISION_LAYERS)
    arguments = parser.parse_args()
    try:
        make(arguments.folder, arguments.text_layers, arguments.vision_layers)
    except ValueError as error:
        parser.error(str(error))
    print(arguments.folder)


if __name__ == "__main__":
    main()
