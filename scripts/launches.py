"""What a decode step costs a GPU, counted without one: kernel launches, and bytes of weights that it reads.

    python scripts/launches.py FOLDER [--rows 4] [--padded]

Prints a line of JSON. A model this small is as fast as its launches and bytes let it be, and both can be counted
anywhere. Launches are the operations in MLX's graph of one step, in the types that the folder is stored in. What one
kernel does on a GPU counts as one, though it may be many operations here: norms, rotary embedding, attention, the delta
rule. Views count nothing. With MINICPMV46_DISABLE=1 mlx-vlm's own port is counted.
"""

from __future__ import annotations

import argparse
import collections
import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import mlx.core as mx
from mlx.utils import tree_flatten

PROMPT = 8  # tokens before the step
VIEWS = {
    *("AsStrided", "Broadcast", "Depends", "ExpandDims", "Flatten", "Reshape", "Slice", "Split", "Squeeze"),
    *("StopGradient", "Transpose", "Unflatten"),
}
NODE = re.compile(r'label ?= ?"(\w+)", shape=rectangle')

# Operations that no model uses stand for fused ones, so that nothing else is counted for them; values do not matter.
NORM, ROTATION, ATTENTION, DELTA_OUTPUT, DELTA_STATE = mx.erf, mx.erfinv, mx.expm1, mx.arctanh, mx.arccosh
METAL_KERNEL = mx.arctan


def rms_norm(x: mx.array, weight: mx.array | None, eps: float, **_: Any) -> mx.array:
    """The kernel takes one type; MLX casts what is given in a narrower one."""
    kind = x.dtype if weight is None else _wider(x, weight)
    return NORM(x.astype(kind))


def layer_norm(x: mx.array, weight: mx.array | None, bias: mx.array | None, eps: float, **_: Any) -> mx.array:
    return rms_norm(x, weight, eps)


def rope(x: mx.array, *_: Any, **__: Any) -> mx.array:
    return ROTATION(x)


def attention(q: mx.array, k: mx.array, v: mx.array, **_: Any) -> mx.array:
    return _after(ATTENTION(q), k, v)


def delta_rule(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    decay: mx.array,
    beta: mx.array,
    state: mx.array | None = None,
    mask: mx.array | None = None,
    **_: Any,
) -> tuple[mx.array, mx.array]:
    """Two results of one kernel: `count` takes one of them off."""
    if state is None:
        state = mx.zeros((v.shape[0], v.shape[2], v.shape[3], k.shape[3]))
    inputs = [x for x in (q, k, decay, beta, state, mask) if x is not None]
    return _after(DELTA_OUTPUT(v), *inputs), _after(DELTA_STATE(state), v)


def metal_kernel(*_: Any, **__: Any) -> Callable[..., list[mx.array]]:
    """A kernel that a port brings itself, such as the built-in one's attention over padded rows."""

    def launch(
        inputs: list[mx.array], output_shapes: list[tuple[int, ...]], output_dtypes: list[mx.Dtype], **_: Any
    ) -> list[mx.array]:
        made = [mx.zeros(shape, kind) for shape, kind in zip(output_shapes, output_dtypes, strict=True)]
        mx.eval(made)
        first = _after(METAL_KERNEL(made[0]), *inputs)
        return [first, *(_after(x, first) for x in made[1:])]

    return launch


def _wider(x: mx.array, y: mx.array) -> mx.Dtype:
    return (mx.zeros((1,), x.dtype) + mx.zeros((1,), y.dtype)).dtype


def _after(x: mx.array, *others: mx.array) -> mx.array:
    """x, computed after the others, which so belong to the graph."""
    return mx.depends(x, list(others))


def replace_fused_operations() -> None:
    """Let one operation stand for each fused one, in mlx and in the modules of either port; for this process."""
    stand_ins: dict[str, Callable[..., Any]] = {
        "rms_norm": rms_norm,
        "layer_norm": layer_norm,
        "rope": rope,
        "scaled_dot_product_attention": attention,
        "gated_delta_update": delta_rule,
        "metal_kernel": metal_kernel,
    }
    for name, stand_in in stand_ins.items():
        setattr(mx.fast, name, stand_in)
    mx.metal.is_available = lambda: True
    for name, module in list(sys.modules.items()):
        if name.startswith(("minicpmv46", "mlx_vlm.models")):
            _replace_in(module)


def _replace_in(module: ModuleType) -> None:
    """Names under which a module holds the delta rule's kernel, and our question whether it runs here."""
    replacements: dict[str, Callable[..., Any]] = {
        "gated_delta_kernel": delta_rule,
        "gated_delta_ops": delta_rule,
        "has_kernel": lambda *_, **__: True,
    }
    for name, stand_in in replacements.items():
        if callable(getattr(module, name, None)):
            setattr(module, name, stand_in)


def cache_states(cache: list[Any]) -> list[mx.array]:
    states: list[mx.array] = []
    for entry in cache:
        state = entry.state if isinstance(entry.state, (list, tuple)) else [entry.state]
        states += [x for x in state if isinstance(x, mx.array)]
    return states


def count(*arrays: mx.array) -> dict[str, int]:
    """Launches of the graph of some arrays by kind of operation, most frequent first."""
    graph = io.StringIO()
    mx.export_to_dot(graph, *arrays)
    kinds = collections.Counter(NODE.findall(graph.getvalue()))
    kinds.subtract({"ArcCosh": kinds["ArcCosh"]})  # the delta rule's second result
    return {name: n for name, n in kinds.most_common() if n and name not in VIEWS}


def decode_step(language_model: Any, rows: int, padded: bool) -> dict[str, int]:
    """Launches of a decode step behind a prompt, by kind.

    Args:
        rows: rows of the batch.
        padded: rows of different lengths in the caches of mlx-vlm's batch generator, padded on the left; else rows of
            one length in the model's own caches.
    """
    from mlx_vlm.generate.ar import _make_cache

    if padded:
        cache = _make_cache(language_model, [row % PROMPT for row in range(rows)])
    else:
        cache = language_model.make_cache()
    prompt = mx.array([list(range(5, 5 + PROMPT))] * rows)
    token = mx.array([[4]] * rows)
    for ids in (prompt, token):  # the first step of all may do what later ones find done
        mx.eval(language_model(ids, cache=cache).logits, cache_states(cache))
    return count(language_model(token, cache=cache).logits, *cache_states(cache))


def step_bytes(language_model: Any) -> int:
    """Bytes of weights that a decode step reads; of a table that is not the head too it reads a row, so nothing."""
    weights: dict[str, mx.array] = dict(tree_flatten(language_model.parameters()))
    untied = any(name.startswith("lm_head.") for name in weights)
    return sum(x.nbytes for name, x in weights.items() if not (untied and name.startswith("model.embed_tokens.")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="a checkpoint, or a repository of the hub")
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--padded", action="store_true", help="rows of different lengths, as in mlx-vlm's batches")
    arguments = parser.parse_args()
    if arguments.rows < 1:
        parser.error(f"--rows {arguments.rows}: a batch has at least one row")

    import minicpmv46  # noqa: F401  registers, also where the wheel's .pth file is not installed

    mx.set_default_device(mx.cpu)
    from mlx_vlm import load

    model, _ = load(arguments.folder)
    found = {"port": type(model).__module__, "layers": len(model.language_model.layers), "rows": arguments.rows}
    found |= {"padded": arguments.padded, "bytes": step_bytes(model.language_model)}
    replace_fused_operations()
    kinds = decode_step(model.language_model, arguments.rows, arguments.padded)
    print(json.dumps({**found, "launches": sum(kinds.values()), "kinds": kinds}))


if __name__ == "__main__":
    main()
