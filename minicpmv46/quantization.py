"""How many bits each matrix of the decoder gets in a quantized form.

Every decode step reads the decoder's matrices and the tied embedding once. At four bits the usual recipe leaves the
embedding and the delta nets whole, and a step of the real model reads 1,060 MB; with everything in four bits it reads
423 MB and answers worse. This recipe reads 495 MB. Its KL to float32 is below the usual one's on the demo checkpoint
(6.0e-4, 1.07e-3) and above it on random weights of the real widths (0.061, 0.042).

The MLPs have the bits that were asked for; what is more sensitive for its size has one or two more. Sensitivity is the
KL with one kind of matrix quantized, on the same two checkpoints.

The vision encoder and its mergers stay whole: a decode step does not read them, and encoding a picture is bound by
arithmetic, which quantized matrices do not spare. So do convolutions and norms, of which a step reads 1 MB.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from typing import Any

DECODER = "language_model."


@dataclass(frozen=True)
class Form:
    """How a matrix is stored: the arguments of `mx.quantize`."""

    group_size: int
    bits: int
    mode: str = "affine"


@dataclass(frozen=True)
class Row:
    """How matrices are stored: affine with so many bits above those asked for, in other modes as asked for or else."""

    extra_bits: int = 0
    instead: Mapping[str, Form] = field(default_factory=dict)  # by mode


# No matrix gets more bits than these unless more are asked for: a step would read too much. MLX has no seven.
ENOUGH_BITS = 6
# The finer of the modes that linear layers of nvfp4 may have: `--quantize-activations` refuses all others.
MXFP8 = Form(32, 8, "mxfp8")

# 35 % of the decoder's weights, and what bears few bits best.
MLP = Row()
# 34 %. On the demo checkpoint six bits here with four elsewhere were hardly better than four everywhere. Affine bits
# are finer than mxfp8 for their size, so the embedding is affine in every mode; `--quantize-activations` leaves it be.
EMBEDDING = Row(1, {"mxfp4": Form(64, 5), "nvfp4": Form(64, 5), "mxfp8": Form(64, 8)})
HEAD = Row(1, {"mxfp4": Form(64, 5), "nvfp4": MXFP8})
# 20 %. They write the state, and the small `in_proj_b` decides how much of it is replaced.
DELTA_INPUTS = Row(1, {"mxfp4": Form(64, 5)})
# 11 %. The values of attention and the outputs of both kinds of mixing are the most sensitive for their size.
ATTENTION = DELTA_OUTPUT = Row(2, {"mxfp4": Form(64, 6), "nvfp4": MXFP8})

# Matrices that read the same input share a row: they are stacked to one product, which needs one form.
RECIPE = {
    **dict.fromkeys(("gate_proj", "up_proj", "down_proj"), MLP),
    "embed_tokens": EMBEDDING,
    "lm_head": HEAD,  # of models that are not tied
    **dict.fromkeys(("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a"), DELTA_INPUTS),
    **dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), ATTENTION),
    "out_proj": DELTA_OUTPUT,
}

_asked: ContextVar[Form | None] = ContextVar("asked", default=None)


@contextmanager
def asked_for(form: Form) -> Iterator[None]:
    """Within it, `predicate` gives the recipe for `form`; mlx-vlm tells a model's predicate nothing of it."""
    token = _asked.set(form)
    try:
        yield
    finally:
        _asked.reset(token)


def predicate(path: str) -> bool | dict[str, Any]:
    """What `nn.quantize` is to do with the module at `path`.

    Returns:
        False to leave it whole, True for the form asked for, or the arguments of another. Outside of `asked_for`
        every matrix of the decoder gets the form asked for.
    """
    name = path.rpartition(".")[2]
    if not path.startswith(DECODER) or name not in RECIPE:
        return False
    asked = _asked.get()
    if asked is None:
        return True
    form = form_of(name, asked)
    return form == asked or asdict(form)


def form_of(name: str, asked: Form) -> Form:
    """The form of the matrices of a name in `RECIPE`; never fewer bits than asked for."""
    row = RECIPE[name]
    if asked.mode != "affine":
        return row.instead.get(asked.mode, asked)
    return Form(asked.group_size, max(asked.bits, min(asked.bits + row.extra_bits, ENOUGH_BITS)))
