"""The one router that applies every row of the table in `patches.py`."""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from minicpmv46.plugin.patches import TABLE
from minicpmv46.plugin.rows import Entry, Patch
from minicpmv46.siblings import SIBLINGS

ROW = "__minicpmv46_row__"  # attribute of a replacement: its row

Function = Callable[..., Any]
Replaced = list[tuple[Function, Function]]


def modules_of(row: Patch | Entry) -> tuple[str, ...]:
    """The modules of mlx-vlm after whose execution a row is applied."""
    return row.after or (row.module,)


def apply(module_name: str) -> Replaced:
    """Apply the rows that wait for a module, which has been executed; applying them again changes nothing.

    A name that this mlx-vlm does not have is passed over: `compat` reports it when a checkpoint of ours is loaded,
    since importing mlx-vlm for another model must not fail because of us.

    Returns:
        Functions of modules that were replaced, each original with its replacement.
    """
    replaced = []
    for row in TABLE:
        if module_name in modules_of(row):
            module = importlib.import_module(row.module)
            if isinstance(row, Entry):
                _enter(row, module)
            elif (pair := _replace(row, module)) is not None:
                replaced.append(pair)
    return replaced


def rebind(replaced: Replaced) -> None:
    """Put replacements wherever their originals were imported by name before we came."""
    replacements = {id(original): replacement for original, replacement in replaced}
    for module in list(sys.modules.values()):
        if isinstance(module, ModuleType):
            for name, value in dict(vars(module)).items():
                if id(value) in replacements:
                    setattr(module, name, replacements[id(value)])


def resolve(path: str) -> Any:
    """Our function `module:name`.

    Raises:
        RuntimeError: the module cannot be imported, or a file of ours is not whole; the text says what to do.
    """
    module, _, name = path.partition(":")
    try:
        _check_files()
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # a damaged file may fail in any way
        if isinstance(error, RuntimeError):  # mlx-vlm does not fit, or this very error
            raise
        from minicpmv46.guard import damage

        raise RuntimeError(damage(error)) from error


@functools.cache
def _check_files() -> None:
    from minicpmv46.plugin.whole import cut_off

    if found := cut_off():
        from minicpmv46.guard import damage

        raise RuntimeError(damage(found))


def lookup(module: ModuleType, name: str) -> Any:
    """The value of a dotted name; None where it is not there."""
    value: Any = module
    for part in name.split("."):
        value = getattr(value, part, None)
    return value


def parameters(function: Function) -> Sequence[str]:
    return list(inspect.signature(function).parameters)


def routed(row: Patch, original: Function) -> Function | None:
    """What stands in for `original`; None where it has no such parameter."""
    names = parameters(original)
    if row.argument not in names:
        return None
    position = names.index(row.argument)

    @functools.wraps(original)
    def function(*args: Any, **kwargs: Any) -> Any:
        value = args[position] if position < len(args) else kwargs.get(row.argument)
        if not row.is_ours(value, kwargs):
            return original(*args, **kwargs)
        instead = resolve(row.instead)
        return instead(original, *args, **kwargs) if row.around else instead(*args, **kwargs)

    setattr(function, ROW, row)
    return function


def _replace(row: Patch, module: ModuleType) -> tuple[Function, Function] | None:
    owner_name, _, name = row.name.rpartition(".")
    owner = lookup(module, owner_name) if owner_name else module
    held = vars(owner).get(name) if owner is not None else None
    # A class or static method holds the function that is replaced.
    method = type(held) if isinstance(held, (classmethod, staticmethod)) else None
    original = getattr(held, "__func__", held)
    if not callable(original) or hasattr(original, ROW):
        return None
    function = routed(row, original)
    if function is None:
        return None
    setattr(owner, name, function if method is None else method(function))
    return (original, function) if owner is module else None


class Entered(str):
    """A text of ours in a dict of mlx-vlm; `instead_of` is what was there, None for nothing."""

    instead_of: str | None = None


def _enter(row: Entry, module: ModuleType) -> None:
    names = lookup(module, row.name)
    value = row.value or lookup(module, row.value_of)
    if not isinstance(names, dict) or value is None:
        return
    for model_type in SIBLINGS:
        if row.value and not isinstance(names.get(model_type), Entered):
            entered = Entered(row.value)
            entered.instead_of = names.get(model_type)
            names[model_type] = entered
        elif not row.value:
            names[model_type] = value
