"""What this package relies on in mlx-vlm, and the one sentence that says which of it is not there.

mlx-vlm changes its internals between releases. Looking at all of it before a load turns a traceback from
deep inside into a statement about versions.
"""

import importlib
import re
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType

from minicpmv46 import __version__
from minicpmv46.plugin.patches import TABLE
from minicpmv46.plugin.routing import lookup, parameters
from minicpmv46.plugin.rows import Entry, Need, Patch

MINIMUM = "0.7.9"

# What our own modules use, beside the rows of the table.
USED = {
    "mlx_vlm.utils": ("AutoProcessor", "load_processor"),
    "mlx_vlm.prompt_utils": ("normalize_image_content",),
    "mlx_vlm.generate.ar": ("generate_step",),
    "mlx_vlm.models.base": (
        "InputEmbeddingsFeatures",
        "LanguageModelOutput",
        "chunked_attention",
        "create_attention_mask",
        "ensure_fused_sdpa",
        "scaled_dot_product_attention",
    ),
    "mlx_vlm.models.cache": (
        "ArraysCache.advance",
        "ArraysCache.make_mask",
        "ArraysCache.update_recurrent",
        "ArraysCache.update_window",
        "KVCache",
    ),
}
USED_BY_SERVER = {
    "mlx_vlm.server.generation": (
        "GenerationArguments.preprocessing_kwargs",
        "GenerationArguments.to_template_kwargs",
        "PromptTooLongError",
    ),
    "mlx_vlm.server.request_normalization": ("_extract_response_format_schema",),
    "mlx_vlm.server.schemas": ("ChatRequest",),
}


def problems() -> list[str]:
    """Everything that does not fit, a clause each; empty when all fits."""
    package = import_or_none("mlx_vlm")
    if package is None:
        return ["it is not installed"]
    found = []
    version = release(installed_version(package))
    if version and version < release(MINIMUM):
        found.append(f"it is older than {MINIMUM}")
    return found + missing("load", USED)


def missing(need: Need, used: Mapping[str, Sequence[str]]) -> list[str]:
    """What rows of a need and `used` ask for and is not there or not what it has to be, a clause each."""
    rows = [row for row in TABLE if row.need == need]
    names = [(row.module, row.name) for row in rows]
    names += [(row.module, row.value_of) for row in rows if isinstance(row, Entry) and row.value_of]
    names += [(module, name) for module, listed in used.items() for name in listed]
    modules = {module: import_or_none(module) for module, _ in names}
    found = [f"{module} is missing" for module, value in modules.items() if value is None]
    values = {(m, n): lookup(module, n) for m, n in names if (module := modules[m]) is not None}
    found += [f"{module}.{name} is missing" for (module, name), value in values.items() if value is None]
    for row in rows:
        value = values.get((row.module, row.name))
        if value is None:
            continue
        if isinstance(row, Entry) and not isinstance(value, dict):
            found.append(f"{row.module}.{row.name} is not a dict")
        if isinstance(row, Patch) and row.argument not in parameters(value):
            found.append(f"{row.module}.{row.name} has no parameter {row.argument}")
    return found


def require() -> None:
    """Raise RuntimeError with one sentence when the installed mlx-vlm does not fit this package."""
    if found := problems():
        package = import_or_none("mlx_vlm")
        version = "" if package is None else f" {installed_version(package)}"
        raise RuntimeError(
            f"minicpmv46 {__version__} does not fit mlx-vlm{version}: {', '.join(found)} "
            "(MINICPMV46_DISABLE=1 gives back mlx-vlm's own minicpmv4_6)."
        )


def warn_of_server() -> None:
    """Warn, in a process of mlx-vlm's server, where it cannot pass the options of a request on."""
    if "mlx_vlm.server" in sys.modules and (found := missing("server", USED_BY_SERVER)):
        from minicpmv46.guard import tell

        tell(f"this mlx-vlm's server passes no processor options of a request on: {', '.join(found)}")


def import_or_none(name: str) -> ModuleType | None:
    """Import a module of mlx-vlm; None if it or a parent does not exist. Other failures are raised."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        return None


def installed_version(package: ModuleType) -> str:
    return str(getattr(package, "__version__", "of unknown version"))


def release(version: str) -> tuple[int, ...]:
    """The release numbers of a version: 0.7.10 of "0.7.10.dev1"; () where there are none."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])
