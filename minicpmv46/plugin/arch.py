"""`mlx_vlm.models.minicpmv46`: what mlx-vlm looks up in a model's module.

The import hook executes this file under that name. No `ImageProcessor` and no `AudioModel`: mlx-vlm takes
another path where they exist.
"""

from minicpmv46.plugin.compat import require

require()  # before the model's own imports from mlx-vlm, so that a missing name is told in a sentence

from minicpmv46.model import LanguageModel, Model, VisionModel  # noqa: E402
from minicpmv46.plugin.model_config import ModelConfig, TextConfig, VisionConfig  # noqa: E402

__all__ = ["LanguageModel", "Model", "ModelConfig", "TextConfig", "VisionConfig", "VisionModel"]
