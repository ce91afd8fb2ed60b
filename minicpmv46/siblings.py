"""The models that this package runs: one network, and a row for what tells each of them from the others.

All other files are about what they share. A further model with the same network is a further row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

DownsampleMode = Literal["4x", "16x"]
DOWNSAMPLE_MODES: tuple[DownsampleMode, ...] = ("4x", "16x")

ImageBackend = Literal["pil", "torchvision"]


@dataclass(frozen=True)
class Sibling:
    """One model.

    Attributes:
        model_type: of `config.json`; that of its vision section ends in `_vision`.
        name: what people call it.
        class_prefix: how the names of its classes in transformers begin.
        downsample_mode: default of the processor, for images and for videos, and of the configuration.
        tie_word_embeddings: default of the configuration.
        image_backend: which of transformers' image processors the official answers come from. Both resize by bicubic
            interpolation and normalize, and round differently.
        has_small_image_upsize: whether its image processor has the option of this name.
        drafter: the drafter that was published for it, "" for none.
    """

    model_type: str
    name: str
    class_prefix: str
    downsample_mode: DownsampleMode
    tie_word_embeddings: bool
    image_backend: ImageBackend
    has_small_image_upsize: bool
    drafter: str

    @property
    def vision_model_type(self) -> str:
        return f"{self.model_type}_vision"


MINICPM_V_4_6 = Sibling(
    model_type="minicpmv4_6",
    name="MiniCPM-V 4.6",
    class_prefix="MiniCPMV4_6",
    downsample_mode="16x",
    tie_word_embeddings=False,
    image_backend="pil",
    has_small_image_upsize=False,
    drafter="",
)
MINICPM_OCR = Sibling(
    model_type="minicpm_ocr",
    name="MiniCPM-OCR 1.0",
    class_prefix="MiniCPMOcr",
    downsample_mode="4x",
    tie_word_embeddings=True,
    image_backend="torchvision",
    has_small_image_upsize=True,
    drafter="MiniCPM-OCR-1.0-DSpark",
)
SIBLINGS: dict[str, Sibling] = {row.model_type: row for row in (MINICPM_V_4_6, MINICPM_OCR)}
