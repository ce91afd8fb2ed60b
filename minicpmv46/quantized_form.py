"""How `config.json` says that matrices are quantized, and what a quantized matrix looks like in a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from .checks import names, one_of, option
from .files import shortened
from .schema import check_fields, check_values, exactly, section, size, text

# Group size and bits of each mode where none are given; all modes but the first have no others.
MODES = {"affine": (64, 4), "mxfp4": (32, 4), "mxfp8": (32, 8), "nvfp4": (16, 4)}
_WORD = 32  # bits


@dataclass(frozen=True)
class Form:
    """How a matrix is stored: the arguments of `mx.quantize`."""

    group_size: int = option(64, size(1024))
    bits: int = option(4, size(8))
    mode: str = option("affine", one_of(*MODES))

    @property
    def beside(self) -> tuple[str, ...]:
        """Names of the tensors beside the packed weight."""
        return ("scales", "biases") if self.mode == "affine" else ("scales",)

    def stored(self, kind: str, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """Shape and types of the `weight`, `scales` or `biases` of a matrix of `shape` = (outputs, inputs)."""
        *outputs, inputs = shape
        if kind == "weight":
            return (*outputs, inputs * self.bits // _WORD), ("U32",)
        return (*outputs, inputs // self.group_size), ("F32", "F16", "BF16") if self.mode == "affine" else ("U8",)


@dataclass(frozen=True)
class Quantization:
    """The section `quantization`: one form for all matrices that have scales, and others by module."""

    usual: Form | None
    own: Mapping[str, Form | None]

    @classmethod
    def from_dict(cls, params: Mapping[str, Any]) -> Quantization:
        """Read from a whole `config.json`; raises `ValueError` with the name of a value that cannot be."""
        for name in ("quantization", "quantization_config"):
            if params.get(name) is not None:
                check_values(section(name, params[name]), {"quant_method": text}, f"{name}.")
        found = params.get("quantization")
        if found is None:
            return cls(None, {})
        for name in ("group_size", "bits"):
            if name not in found:
                raise ValueError(f"quantization has no {name}")
        own: dict[str, Form | None] = {}
        for name, value in found.items():
            if value is False:
                own[name] = None
            elif isinstance(value, Mapping):
                own[name] = _form(f"quantization.{shortened(name, 100)}.", value)
                if unknown := value.keys() - {f.name for f in fields(Form)}:
                    raise ValueError(
                        f"quantization.{shortened(name, 100)} has {names(unknown)}, which MLX does not know"
                    )
        return cls(_form("quantization.", found), own)

    def form(self, module: str) -> Form | None:
        """How a module is quantized; None where it is not."""
        for name in (module, module.removeprefix("language_model.")):
            if name in self.own:
                return self.own[name]
        return self.usual


def _form(prefix: str, values: Mapping[str, Any]) -> Form:
    mode = one_of(*MODES)(f"{prefix}mode", values.get("mode", "affine"))
    usual = dict(zip(("group_size", "bits"), MODES[mode], strict=True))
    given = {name: values[name] for name in usual if name in values}
    form = Form(**{**usual, **given}, mode=mode)
    check_fields(form, prefix)
    for name in given:
        if mode != "affine":
            exactly(f"{prefix}{name}", given[name], (usual[name],))
    return form
