"""The import hook through which mlx-vlm finds this package.

mlx-vlm has no entry points, so its tables are patched right after their modules have been executed, and
`mlx_vlm.models.minicpmv46` resolves to `arch.py` beside this file.
"""

import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

ARCHITECTURE = "mlx_vlm.models.minicpmv46"
PATCHES = {
    "mlx_vlm.apc_coordinator": "patch_prefix_cache",
    "mlx_vlm.generate.ar": "patch_batches",
    "mlx_vlm.utils": "patch_utils",
    "mlx_vlm.prompt_utils": "patch_prompt_utils",
    "mlx_vlm.quant_utils": "patch_quantization",
    "mlx_vlm.server.anthropic": "patch_anthropic",
    "mlx_vlm.server.generation": "patch_generator",
    "mlx_vlm.server.request_normalization": "patch_requests",
    "mlx_vlm.speculative.drafters": "patch_drafters",
    "mlx_vlm.structured": "patch_structured",
    "mlx_vlm.trainer.peft.utils": "patch_adapters",
}


def patch(module: ModuleType) -> None:
    """Apply our patch to one executed module of mlx-vlm; a failure is told and leaves the module usable."""
    try:
        from minicpmv46.plugin import patches

        getattr(patches, PATCHES[module.__name__])(module)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        message = f"minicpmv46 could not take over minicpmv4_6 in {module.__name__}: {error}"
        warnings.warn(message, RuntimeWarning, stacklevel=2)


class PatchingLoader(Loader):
    """Another loader, with our patch applied once it has executed the module."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # Hand the module its own loader first: nothing of ours is to be seen in it afterwards.
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        patch(module)


class Finder(MetaPathFinder):
    """Finder for our architecture and for the modules of mlx-vlm that we patch."""

    def __init__(self) -> None:
        self.searching: set[str] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == ARCHITECTURE:
            return spec_from_file_location(fullname, Path(__file__).with_name("arch.py"))
        # A finder of the same kind as ours asks us again while we ask it: answer that one with None.
        if fullname not in PATCHES or fullname in self.searching:
            return None
        self.searching.add(fullname)
        try:
            spec = find_elsewhere(fullname, path, target)
        finally:
            self.searching.discard(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = PatchingLoader(spec.loader)
        return spec


FINDER = Finder()


def find_elsewhere(fullname: str, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
    for finder in sys.meta_path:
        find_spec = getattr(finder, "find_spec", None)
        if finder is not FINDER and find_spec is not None:
            spec: ModuleSpec | None = find_spec(fullname, path, target)
            if spec is not None:
                return spec
    return None


def install() -> None:
    """Put the finder first and patch what mlx-vlm has imported already; a second time changes nothing."""
    if FINDER not in sys.meta_path:
        sys.meta_path.insert(0, FINDER)
    for name in PATCHES:
        if name in sys.modules:
            patch(sys.modules[name])
