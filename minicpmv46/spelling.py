"""Names of options that nobody knows: which known one they mean, and the error that says so."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from .checks import names, quote

# Names that people try, and the option that they mean.
LIKELY = {
    "max_slices": "max_slice_nums",
    "num_slices": "max_slice_nums",
    "slices": "max_slice_nums",
    "slice_nums": "max_slice_nums",
    "max_slice_num": "max_slice_nums",
    "slicing": "slice_mode",
    "downsample": "downsample_mode",
    "downsampling": "downsample_mode",
    "mode": "downsample_mode",
    "token_mode": "downsample_mode",
    "compression": "downsample_mode",
    "resolution": "scale_resolution",
    "upsize": "small_image_upsize",
    "upscale": "small_image_upsize",
    "upsampling": "small_image_upsize",
    "image_upsize": "small_image_upsize",
    "small_upsize": "small_image_upsize",
    "small_image_upscale": "small_image_upsize",
    "image_id": "use_image_id",
    "image_ids": "use_image_id",
    "num_frames": "nframes",
    "frames": "max_num_frames",
    "n_frames": "nframes",
    "max_nframes": "max_num_frames",
    "stack": "stack_frames",
    "sample_frames": "do_sample_frames",
    "frame_rate": "fps",
    "video_fps": "fps",
    "image_kwargs": "images_kwargs",
    "video_kwargs": "videos_kwargs",
}
# Likeness from which a name counts as a misspelt option; mlx-vlm's own names stay far below.
SIMILAR = 0.85


def meant(name: str, known: Iterable[str]) -> str | None:
    """The known option that an unknown name almost is; None where there is none."""
    known = list(known)
    if LIKELY.get(name) in known:
        return LIKELY[name]
    return next(iter(get_close_matches(name, known, n=1, cutoff=SIMILAR)), None)


def refuse_unknown(given: Iterable[str], known: Iterable[str], where: str) -> None:
    """Raise `TypeError` where `given` has names that are not known, with the known ones and the one that was meant."""
    known = list(known)
    if unknown := [name for name in given if name not in known]:
        guesses = [f"; {quote(name)} is probably {guess!r}" for name in unknown[:5] if (guess := meant(name, known))]
        raise TypeError(f"{where} has unknown options {names(unknown)}{''.join(guesses)}; known: {', '.join(known)}")
