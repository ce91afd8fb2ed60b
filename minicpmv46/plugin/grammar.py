"""Structured output (`response_format`, JSON schemas) where there is no Metal.

mlx-vlm masks the tokens that a grammar forbids with a Metal kernel. Where that cannot run, our checkpoints' grammars
take the same mask with ordinary operations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
from mlx_vlm.structured import LLGuidanceLogitsProcessor

WORD = 32  # tokens in an entry of a bit mask


def build_json_schema_logits_processor(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """`mlx_vlm.structured.build_json_schema_logits_processor`, for a tokenizer of ours."""
    return portable(original(*args, **kwargs))


def portable(grammar: LLGuidanceLogitsProcessor) -> LLGuidanceLogitsProcessor:
    """`grammar` itself where mlx-vlm's kernel runs, else its copy that needs none."""
    return grammar if mx.metal.is_available() else PortableGrammar(grammar.grammar, grammar.llg_tokenizer)


class PortableGrammar(LLGuidanceLogitsProcessor):
    """mlx-vlm's processor, with operations of any backend in place of its kernel."""

    def clone(self) -> PortableGrammar:
        return PortableGrammar(self.grammar, self.llg_tokenizer)

    def _apply_bitmask(self, logits: Any) -> Any:
        return mask_logits(logits, self._fill_next_token_mask())


def mask_logits(logits: mx.array, mask: mx.array) -> mx.array:
    """Logits [rows, vocabulary] with -inf where the bits of `mask`, int32 [rows, words], are 0 or end before."""
    bits = (mask.view(mx.uint32)[..., None] >> mx.arange(WORD, dtype=mx.uint32)) & 1
    allowed = bits.reshape(mask.shape[0], -1)[:, : logits.shape[-1]].astype(mx.bool_)
    beyond = logits.shape[-1] - allowed.shape[-1]
    return mx.where(mx.pad(allowed, [(0, 0), (0, max(beyond, 0))]), logits, -mx.inf)
