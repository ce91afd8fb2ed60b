"""The import hook through which mlx-vlm finds this package.

Rows of the table are applied right after the module that they wait for has been executed, and
`mlx_vlm.models.minicpmv46` is a module with the names of `arch.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from minicpmv46 import stand_back
from minicpmv46.plugin.patches import ARCHITECTURE, TABLE
from minicpmv46.plugin.routing import apply, modules_of, rebind, resolve

BUILT_IN = "mlx_vlm.models.minicpmv4_6"
PATCHED = frozenset(name for row in TABLE for name in modules_of(row))


class PatchingLoader(Loader):
    """Another loader, with our rows applied once it has executed the module."""

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
        try:
            apply(module.__name__)
        except Exception as error:  # whatever it is, the module stays usable for other models
            stand_back(error)


class ArchitectureLoader(Loader):
    """Gives a module the names of `arch.py`, which our package's own importer finds, be it a folder, a zip or else."""

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        for name in resolve("minicpmv46.plugin.arch:__all__"):
            setattr(module, name, resolve(f"minicpmv46.plugin.arch:{name}"))


class Finder(MetaPathFinder):
    """Finder for our architecture and for the modules of mlx-vlm that rows wait for."""

    def __init__(self) -> None:
        self.searching: set[str] = set()

    def find_spec(
        self, fullname: str, path: Iterable[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == ARCHITECTURE:
            source = find_spec("minicpmv46.plugin.arch")
            return ModuleSpec(fullname, ArchitectureLoader(), origin=source.origin if source else None)
        # A finder of the same kind as ours asks us again while we ask it: answer that one with None.
        if fullname not in PATCHED or fullname in self.searching:
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


def find_elsewhere(fullname: str, path: Iterable[str] | None, target: ModuleType | None) -> ModuleSpec | None:
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        if finder is not FINDER and find is not None:
            spec: ModuleSpec | None = find(fullname, path, target)
            if spec is not None:
                return spec
    return None


def install() -> None:
    """Put the finder first, and patch what mlx-vlm has imported already; a second time changes nothing."""
    if FINDER not in sys.meta_path:
        sys.meta_path.insert(0, FINDER)
        # The port of 4.7 imports parts of it too, and says nothing about a loaded model.
        if BUILT_IN in sys.modules and BUILT_IN.replace("4_6", "4_7") not in sys.modules:
            from minicpmv46.guard import tell

            tell("mlx-vlm's own minicpmv4_6 was imported before minicpmv46: what it loaded stays its, load it again")
    replaced = [pair for name in sorted(PATCHED & sys.modules.keys()) for pair in apply(name)]
    if replaced:
        rebind(replaced)
