"""What a row of the table in `patches.py` says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from minicpmv46.plugin.ours import Keywords

# "load": without it no checkpoint of ours is loaded. "server": the server says that it is not there. "optional": a
# feature is missing, and the row says which.
Need = Literal["load", "server", "optional"]


@dataclass(frozen=True)
class Patch:
    """A function that hands what is ours to us.

    Attributes:
        module, name: where it is defined; a method is `Class.method`.
        argument, is_ours: the parameter by which a call is known to be ours, and the question asked of its value and
            of the call's keywords.
        instead: our function, `module:name`, which takes the same arguments; imported when it is first called.
        why: what goes wrong without it.
        until: what mlx-vlm would have to offer to do without.
        around: whether `instead` gets the original first, before the arguments.
        need: what is not there without it.
        after: the modules of mlx-vlm after whose execution the row is applied; empty for `module` itself.
    """

    module: str
    name: str
    argument: str
    is_ours: Callable[[Any, Keywords], bool]
    instead: str
    why: str
    until: str
    around: bool = False
    need: Need = "load"
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """An entry for our model types in a dict of mlx-vlm.

    Attributes:
        module, name: the dict.
        value, value_of: what is entered, or the name in `module` of what is entered.
        why, until: as for a patch.
    """

    module: str
    name: str
    why: str
    until: str
    value: str = ""
    value_of: str = ""
    need: Need = "load"
    after: tuple[str, ...] = ()
