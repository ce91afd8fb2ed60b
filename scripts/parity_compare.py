"""Two answers to a case, compared stage by stage. Needs neither torch nor MLX."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

# Largest difference of float32 results, relative to the largest value of the official one.
TOLERANCE = 1e-4
CLOSE = {"features": "vision_features", "hidden": "hidden_states", "logits": "logits"}
STAGES = ("ids", "pixels", *CLOSE, "greedy")
Answer = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Found:
    """One stage of one case.

    Attributes:
        equal: whether it is what the official implementation gives.
        shown: in the table's cell.
        error: relative to the largest official value; None for stages that are compared exactly.
        why: what differs, in words; empty where nothing does.
    """

    equal: bool
    shown: str
    error: float | None = None
    why: str = ""


def relative_error(ours: np.ndarray, official: np.ndarray) -> float:
    """The largest difference by the largest official value; infinite where a shape differs or a value is NaN."""
    if ours.shape != official.shape:
        return float("inf")
    if not official.size:
        return 0.0
    error = float(np.abs(ours.astype(np.float64) - official).max() / np.abs(official).max())
    return error if np.isfinite(error) else float("inf")


def mean_error(found: np.ndarray, reference: np.ndarray) -> float:
    """Root mean square of the difference by that of the reference, which one outlier does not decide."""
    if found.shape != reference.shape:
        return float("inf")
    if not reference.size:
        return 0.0
    difference = found.astype(np.float64) - reference
    error = float(np.linalg.norm(difference) / np.linalg.norm(reference.astype(np.float64)))
    return error if np.isfinite(error) else float("inf")


def agreeing(ours: np.ndarray, official: np.ndarray) -> int:
    """Number of first tokens that are the same."""
    length = min(len(ours), len(official))
    different = np.flatnonzero(ours[:length] != official[:length])
    return int(different[0]) if len(different) else length


def compare(ours: Answer, official: Answer) -> dict[str, Found]:
    """All stages in float32; what was not shown has no pixels and features."""
    found = {"ids": _ids(ours["input_ids"], official["input_ids"])}
    if len(official["pixel_values"]) or len(ours["pixel_values"]):
        found["pixels"] = _pixels(ours["pixel_values"], official["pixel_values"])
    for stage, name in CLOSE.items():
        if stage != "features" or "pixels" in found:
            found[stage] = _close(ours[name], official[name])
    found["greedy"] = _greedy(ours["greedy"], official)
    return found


def _ids(ours: np.ndarray, official: np.ndarray) -> Found:
    if np.array_equal(ours, official):
        return Found(True, "equal")
    same = agreeing(ours, official)
    return Found(
        False, "differ", None, f"{len(ours):,} ids, officially {len(official):,}; the first {same:,} are the same"
    )


def _pixels(ours: np.ndarray, official: np.ndarray) -> Found:
    if np.array_equal(ours, official):
        return Found(True, "equal")
    if ours.shape != official.shape:
        return Found(False, "differ", None, f"{len(ours):,} patches, officially {len(official):,}")
    patches = int((ours != official).any(axis=1).sum())
    largest = relative_error(ours, official)
    return Found(False, "differ", None, f"{patches:,} of {len(ours):,} patches differ, by up to {largest:.1e}")


def _close(ours: np.ndarray, official: np.ndarray) -> Found:
    error = relative_error(ours, official)
    if error <= TOLERANCE:
        return Found(True, f"{error:.1e}", error)
    if ours.shape != official.shape:
        return Found(False, "differ", error, f"shape {ours.shape}, officially {official.shape}")
    return Found(False, f"{error:.1e}", error, f"off by {error:.1e} of the largest value, allowed {TOLERANCE:.0e}")


def _greedy(ours: np.ndarray, official: Answer) -> Found:
    tokens = official["greedy"]
    same = agreeing(ours, tokens)
    if same == len(ours) == len(tokens):
        return Found(True, f"{same} of {len(tokens)}")
    why = f"{len(ours)} tokens, officially {len(tokens)}"
    if same < min(len(ours), len(tokens)):
        margin = float(official["greedy_margin"][same] / np.abs(official["logits"]).max())
        why = f"token {same + 1} differs; officially it is ahead by {margin:.1e} of the largest logit"
        why += ", less than float32 tells apart" if margin <= TOLERANCE else ""
    return Found(False, f"{same} of {len(tokens)}", None, why)


@dataclass(frozen=True)
class Rounded:
    """A stage in the checkpoint's own dtype: how far both are from the official float32 answer."""

    ours: float
    official: float

    @property
    def ratio(self) -> float:
        """Below 1 ours is nearer; 1 where both are exact."""
        if self.official == 0.0:
            return 1.0 if self.ours == 0.0 else float("inf")
        return self.ours / self.official


def compare_rounded(ours: Answer, official: Answer, reference: Answer) -> dict[str, Rounded]:
    """The stages of real numbers in another dtype, by mean errors; `reference` is the official float32 answer."""
    return {
        stage: Rounded(mean_error(ours[name], reference[name]), mean_error(official[name], reference[name]))
        for stage, name in CLOSE.items()
        if reference[name].size
    }
