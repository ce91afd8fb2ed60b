"""mlx-vlm's question whether a drafter fits a model of ours: none does."""

from typing import Any

from minicpmv46.model import no_speculation


def validate_drafter_compatibility(target_model: Any, draft_model: Any, draft_kind: str | None) -> None:
    """`mlx_vlm.speculative.drafters.validate_drafter_compatibility`; always raises `ValueError`."""
    raise ValueError(no_speculation(target_model.config.architecture.sibling))
