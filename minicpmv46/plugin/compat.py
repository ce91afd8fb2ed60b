"""What this package relies on in mlx-vlm, and the one sentence that says which of it is not there.

mlx-vlm changes its internals between releases. Looking at all of it before a load turns a traceback from
deep inside into a statement about versions.
"""

import importlib
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from types import ModuleType

from minicpmv46 import __version__

MINIMUM = "0.7.9"

NEEDED = {
    "mlx_vlm.utils": (
        "MODEL_REMAPPING",
        "AutoProcessor",
        "load_image",
        "load_model",
        "load_processor",
        "prepare_inputs",
        "resize_image",
        "save_config",
        "save_weights",
    ),
    "mlx_vlm.prompt_utils": (
        "MODEL_CONFIG",
        "MessageFormat.LIST_WITH_IMAGE_FIRST",
        "apply_chat_template",
    ),
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
# What only requests to the server need: without it the server answers with the checkpoint's options.
SERVER = {
    "mlx_vlm.server.anthropic": ("_anthropic_error_response",),
    "mlx_vlm.server.generation": (
        "GenerationArguments.preprocessing_kwargs",
        "GenerationArguments.to_template_kwargs",
        "PromptTooLongError",
        "ResponseGenerator.generate",
        "ResponseGenerator.validate_context_budget",
    ),
    "mlx_vlm.server.request_normalization": ("_build_gen_args", "_extract_response_format_schema"),
}
TABLES = ("mlx_vlm.utils.MODEL_REMAPPING", "mlx_vlm.prompt_utils.MODEL_CONFIG")  # written to: must be dicts


def problems() -> list[str]:
    """Everything that does not fit, a clause each; empty when all fits."""
    package = import_or_none("mlx_vlm")
    if package is None:
        return ["it is not installed"]
    found = []
    version = release(installed_version(package))
    if version and version < release(MINIMUM):
        found.append(f"it is older than {MINIMUM}")
    return found + missing(NEEDED)


def missing(needed: Mapping[str, Sequence[str]]) -> list[str]:
    """Which modules and attributes are not there, or not what they have to be, a clause each."""
    found = []
    for module_name, attributes in needed.items():
        module = import_or_none(module_name)
        if module is None:
            found.append(f"{module_name} is missing")
            continue
        for attribute in attributes:
            name = f"{module_name}.{attribute}"
            value = lookup(module, attribute)
            if value is None:
                found.append(f"{name} is missing")
            elif name in TABLES and not isinstance(value, dict):
                found.append(f"{name} is not a dict")
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
    if "mlx_vlm.server" in sys.modules and (found := missing(SERVER)):
        warnings.warn(
            f"this mlx-vlm's server passes no processor options of a request on: {', '.join(found)}",
            RuntimeWarning,
            stacklevel=2,
        )


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


def lookup(module: ModuleType, attribute: str) -> object | None:
    value: object | None = module
    for name in attribute.split("."):
        value = getattr(value, name, None)
    return value
