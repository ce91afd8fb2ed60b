"""What a whole checkpoint holds: its layout, how each part is stored, and what a decode step reads of it.

Counted from the headers of its files; no weights are read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .config import Config
from .quantized_form import MODES, Form
from .shards import DTYPES, Tensor
from .weights import is_offset_norm

# Part -> the module paths of its parameters.
PARTS = {
    "vision encoder": re.compile(r"vision_tower\."),
    "mergers": re.compile(r"(vit_)?merger\."),
    "embedding": re.compile(r"language_model\.model\.embed_tokens\."),
    "attention": re.compile(r"language_model\.model\.layers\.\d+\.self_attn\."),
    "delta nets": re.compile(r"language_model\.model\.layers\.\d+\.linear_attn\."),
    "MLPs": re.compile(r"language_model\.model\.layers\.\d+\.mlp\."),
    "head": re.compile(r"language_model\.lm_head\."),
}
DECODER = "language_model."
_TABLE = "language_model.model.embed_tokens."

_NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
# Matrices, and the convolution that embeds patches. The convolutions of the delta nets, which have three axes, biases
# and norms are small, and are not quantized.
_AXES = (2, 4)


@dataclass(frozen=True)
class Contents:
    """A checkpoint that `check_checkpoint` has found whole.

    Attributes:
        config: its `config.json`.
        tensors: what the files' headers say, by module path.
        forms: how matrices are quantized, by module.
        other_format: the format of a checkpoint that mlx-vlm turns into its own on loading, "" for all others.
    """

    config: Config
    tensors: Mapping[str, Tensor]
    forms: Mapping[str, Form]
    other_format: str = ""

    @property
    def layout(self) -> str:
        official = any(tensor.name != path for path, tensor in self.tensors.items())
        return "official layout" if official else "converted by mlx-vlm"

    @property
    def summary(self) -> str:
        """The layout, and how the decoder's matrices are stored."""
        return f"{self.layout}, {self.other_format or _joined(self._stored(DECODER))}"

    @property
    def parts(self) -> dict[str, str]:
        """How the matrices of each part are stored."""
        stored = {name: self._stored(pattern) for name, pattern in PARTS.items()}
        if self.config.tie_word_embeddings:
            stored["head"] = ["as the embedding"]
        return {name: _joined(labels) for name, labels in stored.items()}

    @property
    def bytes_of_step(self) -> int | None:
        """Bytes of weights that one decode step reads, None where mlx-vlm turns them into other ones on loading.

        Of an embedding that is not the head too a step reads one row, which is counted as nothing.
        """
        if self.other_format:
            return None
        unread = () if self.config.tie_word_embeddings else (_TABLE,)
        return sum(
            math.prod(tensor.shape) * _width(path, tensor)
            for path, tensor in self.tensors.items()
            if path.startswith(DECODER) and not path.startswith(unread)
        )

    def _stored(self, where: str | re.Pattern[str]) -> list[str]:
        """How the matrices of some module paths are stored: those with the fewest bits first, then whole ones."""
        labels = set()
        for path, tensor in self.tensors.items():
            module, _, kind = path.rpartition(".")
            inside = path.startswith(where) if isinstance(where, str) else where.match(path)
            if inside and len(tensor.shape) in _AXES and not (module in self.forms and kind != "weight"):
                labels.add(
                    _label(self.forms[module]) if module in self.forms else _NAMES.get(tensor.dtype, tensor.dtype)
                )
        return sorted(labels, key=lambda label: (label in _NAMES.values(), label[0].isdigit(), label))


def _width(path: str, tensor: Tensor) -> int:
    """Bytes of a number once it is loaded."""
    return 4 if tensor.name != path and is_offset_norm(path) else DTYPES[tensor.dtype]


def _label(form: Form) -> str:
    if form.mode != "affine":
        return form.mode
    usual, _ = MODES[form.mode]
    return f"{form.bits}-bit" + (f" in groups of {form.group_size}" if form.group_size != usual else "")


def _joined(labels: Iterable[str]) -> str:
    *first, last = labels
    return f"{', '.join(first)} and {last}" if first else last
