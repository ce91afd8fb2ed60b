"""The whole model: visual units are encoded and take the places that the prompt keeps for them.

`LanguageModel`, `VisionModel` and `Model` have the interface that mlx-vlm calls. Their module tree is that of the
mlx-community layout, so that what is quantized with this port can be read by others.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Protocol, cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten
from mlx_vlm.models.base import InputEmbeddingsFeatures, LanguageModelOutput

from . import quantization
from .config import Config
from .decoder import Decoder, DecoderLayer, make_cache
from .describe import describe_model
from .merger import WINDOW, Merger, WindowAttentionMerger
from .siblings import Sibling
from .units import check_rows, packed, read_units
from .vision import Grid, VisionModel
from .weights import is_float32_parameter, rename_weights

__all__ = ["LanguageModel", "Model", "VisionModel"]

# With these mlx-vlm asks the target of speculative decoding for more than logits. No drafter is supported; ignoring
# them would end in an error far from here.
SPECULATIVE_ARGUMENTS = ("capture_layer_ids", "return_hidden", "return_shared_kv", "skip_logits", "speculative_verify")

# Units of one grid are encoded together up to this many patches, one slice of 448 pixels: without a fused kernel its
# attention scores are 67 MB a layer. On the CPU eight slices at once were no faster. Small crops share a run.
MAX_BATCH_PATCHES = 1024


def no_speculation(sibling: Sibling) -> str:
    """What to say where a drafter is given."""
    if sibling.drafter:
        told = f"the drafter of {sibling.name} ({sibling.drafter}) is not supported here yet, nor is another"
    else:
        told = f"{sibling.name} has no drafter and takes none"
    return f"{told} (speculative decoding): leave the draft model out"


class LanguageModel(nn.Module):
    """Decoder and head."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config.text_config
        self.model_type = config.text_config.model_type
        self.sibling = config.sibling
        self.stop_tokens = frozenset(config.eos_token_id)
        self.model = Decoder(config.text_config)
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)

    def __call__(
        self,
        inputs: mx.array | None,
        inputs_embeds: mx.array | None = None,
        mask: mx.array | None = None,
        cache: list[Any] | None = None,
        logits_to_keep: int | None = None,
        **mlx_vlm_kwargs: Any,
    ) -> LanguageModelOutput:
        """Next-token logits.

        Args:
            inputs: token ids [batch, length]; not used where `inputs_embeds` is given.
            inputs_embeds: [batch, length, hidden].
            mask: [batch, length], 0 for padding; only without a cache.
            cache: from `make_cache`; updated in place.
            logits_to_keep: number of last positions to compute logits for; None computes all.
            mlx_vlm_kwargs: mlx-vlm passes on everything the processor returned; none of it is used here.

        Raises:
            ValueError: a drafter's arguments are among `mlx_vlm_kwargs`.
        """
        if any(mlx_vlm_kwargs.get(name) not in (None, False) for name in SPECULATIVE_ARGUMENTS):
            raise ValueError(no_speculation(self.sibling))
        embeds = self.model.embed_tokens(inputs) if inputs_embeds is None else inputs_embeds
        h = self.model(embeds, mask, cache, keep=logits_to_keep or None)
        h = self.model.norm(h).astype(embeds.dtype)
        head = self.lm_head if "lm_head" in self else self.model.embed_tokens.as_linear
        return LanguageModelOutput(logits=head(h))

    def make_cache(self) -> list[Any]:
        """An empty cache for one request."""
        return make_cache(self.config)

    @property
    def layers(self) -> list[DecoderLayer]:
        return self.model.layers

    @property
    def head_dim(self) -> int:
        return self.config.head_dim

    @property
    def n_kv_heads(self) -> int:
        return self.config.num_key_value_heads


class HasArchitecture(Protocol):
    """What mlx-vlm calls a model's config: it reads from and writes to it."""

    model_type: str
    architecture: Config


class Model(nn.Module):
    """Vision encoder, mergers and language model."""

    def __init__(self, config: HasArchitecture) -> None:
        super().__init__()
        self.config = config
        self.model_type = config.model_type
        architecture = config.architecture
        self.merger_times = architecture.merger_times
        self.vision_tower = VisionModel(architecture.vision_config)
        self.vit_merger = WindowAttentionMerger(architecture.vision_config)
        self.merger = Merger(architecture)
        self.language_model = LanguageModel(architecture)

    def __repr__(self) -> str:
        """A few lines; `nn.Module`'s own prints the whole tree, as `print(model.language_model)` still does."""
        return describe_model(self)

    def __call__(
        self,
        input_ids: mx.array,
        pixel_values: mx.array | None = None,
        mask: mx.array | None = None,
        cache: list[Any] | None = None,
        **kwargs: Any,
    ) -> LanguageModelOutput:
        """Logits of a whole prompt; see `get_input_embeddings` and `LanguageModel` for the arguments."""
        features = self.get_input_embeddings(input_ids, pixel_values, mask=mask, **kwargs)
        return self.language_model(
            input_ids,
            inputs_embeds=features.inputs_embeds,
            mask=mask,
            cache=cache,
            logits_to_keep=kwargs.get("logits_to_keep"),
        )

    def get_input_embeddings(
        self,
        input_ids: mx.array,
        pixel_values: Any = None,
        mask: mx.array | None = None,
        image_units: Any = None,
        cached_image_features: Sequence[mx.array] | None = None,
        vision_cache: Any = None,
        _image_key: str | None = None,
        **mlx_vlm_kwargs: Any,
    ) -> InputEmbeddingsFeatures:
        """Embed a prompt, with visual features in the places of placeholder tokens.

        Args:
            input_ids: [batch, length].
            pixel_values: patches as the processor gives them, [patches, p * p * 3], also of several prompts one
                after another, or [batch, patches, …] with padded rows; further columns are passed over. None for
                text, and where a cache holds the visual part of the prompt already.
            mask: not needed, positions are the caches' matter.
            image_units: [units, 4] or [batch, units, 4] as the processor gives them; rows of zeros are padding.
            cached_image_features: result of `encode_images` for the same arguments.
            vision_cache, _image_key: where mlx-vlm's server keeps features between requests.
            mlx_vlm_kwargs: generation options and processor outputs that concern others.

        Raises:
            ValueError: placeholders and features differ in number.
        """
        embeds = self.language_model.model.embed_tokens(input_ids)
        if pixel_values is None:
            return InputEmbeddingsFeatures(inputs_embeds=embeds)

        units = read_units(pixel_values, image_units, self._placeholders())
        features = cached_image_features
        if features is None and vision_cache is not None and _image_key is not None:
            features = vision_cache.get(_image_key)
        if features is None:
            features = self.encode_images(pixel_values, image_units=image_units)
            if vision_cache is not None and _image_key is not None:
                mx.eval(features)
                vision_cache.put(_image_key, features)

        counts = [len(f) for f in features]
        if counts != [unit.tokens for unit in units]:
            raise ValueError(f"visual features of {counts} tokens for units of {[unit.tokens for unit in units]}")

        ids = np.array(input_ids)
        for token_id in self._placeholders():
            own = [f for f, unit in zip(features, units, strict=True) if unit.token_id == token_id]
            check_rows((ids == token_id).sum(axis=1), [u for u in units if u.token_id == token_id], token_id)
            if not own:
                continue
            rows = mx.concatenate(own).astype(embeds.dtype)
            places = input_ids == token_id
            order = mx.maximum(mx.cumsum(places.reshape(-1).astype(mx.int32)) - 1, 0)
            embeds = mx.where(places[..., None], rows[order].reshape(embeds.shape), embeds)
        return InputEmbeddingsFeatures(inputs_embeds=embeds)

    def encode_images(self, pixel_values: Any, image_units: Any = None, **mlx_vlm_kwargs: Any) -> list[mx.array]:
        """Features of each visual unit, [tokens, decoder width] each, in the processor's order.

        Units of one grid run together; the compression follows from each unit's token count.
        """
        units = read_units(pixel_values, image_units, self._placeholders())
        vision = self.config.architecture.vision_config
        patches = packed(pixel_values, units)[:, : vision.patch_size**2 * vision.num_channels]
        groups: dict[tuple[Grid, int], list[int]] = {}
        for i, unit in enumerate(units):
            groups.setdefault((unit.grid, unit.tokens), []).append(i)

        features: dict[int, mx.array] = {}
        for (grid, tokens), members in groups.items():
            vit_merger = self.vit_merger if self._uses_vit_merger(grid, tokens) else None
            step = max(1, MAX_BATCH_PATCHES // (grid[0] * grid[1]))
            for first in range(0, len(members), step):
                batch = members[first : first + step]
                stacked = mx.stack([patches[units[i].start : units[i].start + units[i].patches] for i in batch])
                h = self.vision_tower(stacked, grid, vit_merger)
                merged = self.merger(h, grid if vit_merger is None else (grid[0] // 2, grid[1] // 2))
                features.update(zip(batch, merged, strict=True))
        return [features[i] for i in range(len(units))]

    def _placeholders(self) -> list[int]:
        """Ids of the tokens that units fill; a checkpoint may have none for videos."""
        architecture = self.config.architecture
        return [i for i in (architecture.image_token_id, architecture.video_token_id) if i is not None]

    def _uses_vit_merger(self, grid: Grid, tokens: int) -> bool:
        """Whether so many tokens of a grid mean 16x (True) or 4x (False)."""
        kept = tokens * WINDOW**self.merger_times
        if kept * WINDOW == grid[0] * grid[1]:
            return True
        if kept == grid[0] * grid[1]:
            return False
        raise ValueError(f"a grid of {grid[0]}x{grid[1]} patches cannot become {tokens} tokens")

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """Names and layouts of either checkpoint layout to this module tree; idempotent."""
        return rename_weights(weights, self.config.architecture)

    def make_cache(self) -> list[Any]:
        """An empty cache for one request; programs built on mlx-vlm ask the whole model for it."""
        return self.language_model.make_cache()

    @property
    def layers(self) -> list[DecoderLayer]:
        return self.language_model.layers

    @staticmethod
    def cast_predicate(path: str) -> bool:
        """Which parameters `mlx_vlm.convert --dtype` may cast."""
        return not is_float32_parameter(path)

    @staticmethod
    def quant_predicate(path: str, module: nn.Module) -> bool | dict[str, Any]:
        """How `mlx_vlm.convert -q` quantizes a module; `quantization` has the recipe."""
        return quantization.predicate(path)


def parameter_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Module paths and shapes of all parameters before quantization; nothing is computed for them."""
    model = Model(cast(HasArchitecture, SimpleNamespace(model_type=config.model_type, architecture=config)))
    parameters = cast(list[tuple[str, mx.array]], tree_flatten(model.parameters()))
    return {path: value.shape for path, value in parameters}
