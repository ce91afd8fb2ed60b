"""What a fresh Python says of mlx, mlx-vlm and the port that mlx-vlm loads.

`status.py` runs this file's text with `python -c`: nothing of this package is imported before mlx-vlm is, so what is
told is what a user's own commands find, and what breaks here breaks no one else. Answers are lines of standard output
that begin with `MARK`.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

MARK = "minicpmv46-probe "

Facts = dict[str, Any]


def say(topic: str, facts: Mapping[str, Any]) -> None:
    print(MARK + json.dumps([topic, facts]), flush=True)


def attempt(topic: str, look: Callable[..., Facts], *arguments: Any) -> bool:
    """Say what `look` finds, or the error that it ends with; whether it found something."""
    try:
        facts = look(*arguments)
    except Exception as error:  # how mlx, mlx-vlm or a damaged file of ours fails is what was asked
        text = " ".join(str(error).split())
        say(topic, {"error": f"{type(error).__name__}: {text}"[:400]})
        return False
    say(topic, facts)
    return True


def hook() -> Facts:
    """Whether Python has started with our `.pth` line."""
    package = sys.modules.get("minicpmv46")
    return {"read": getattr(package, "read_by_site", False), "file": getattr(package, "__file__", None)}


def device() -> Facts:
    """MLX's backend, and the memory that it shares or has."""
    core: Any = importlib.import_module("mlx.core")
    if core.metal.is_available():
        backend = "Metal"
    elif hasattr(core, "cuda") and core.cuda.is_available():
        backend = "CUDA"
    else:
        backend = "CPU"
    info = core.device_info()
    memory = info.get("memory_size") or info.get("total_memory")
    if not memory:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"backend": backend, "name": info.get("device_name"), "memory_bytes": memory}


def mlx_vlm() -> Facts:
    package = importlib.import_module("mlx_vlm")
    importlib.import_module("mlx_vlm.utils")
    return {"version": getattr(package, "__version__", None), "file": package.__file__}


def port(model_type: str) -> Facts:
    """The module and the file of the model class that mlx-vlm takes for a type; None for both where it has none."""
    utils: Any = importlib.import_module("mlx_vlm.utils")
    try:
        model = utils.get_model_and_args({"model_type": model_type})[0].Model
    except ValueError as error:
        if "not supported" not in str(error):
            raise
        return {"module": None, "file": None}
    return {"module": model.__module__, "file": inspect.getfile(model)}


def demo(folder: str, picture: str, question: str) -> Facts:
    """What `mlx_vlm.load` and `generate` answer."""
    package: Any = importlib.import_module("mlx_vlm")
    prompts: Any = importlib.import_module("mlx_vlm.prompt_utils")
    model, processor = package.load(folder)
    prompt = prompts.apply_chat_template(processor, model.config, question, num_images=1)
    answer = package.generate(model, processor, prompt, image=picture, max_tokens=16, temperature=0.0).text
    return {"answer": answer.strip()}


def fit(need: str) -> Facts:
    """What of mlx-vlm this package asks for and is not there."""
    compat: Any = importlib.import_module("minicpmv46.plugin.compat")
    return {"missing": compat.missing("server", compat.USED_BY_SERVER) if need == "server" else compat.problems()}


def main(asked: Mapping[str, Any]) -> None:
    """Answer the questions of `status.ask`."""
    attempt("hook", hook)
    if attempt("device", device) and attempt("mlx-vlm", mlx_vlm):
        for model_type in asked["types"]:
            attempt(f"port {model_type}", port, model_type)
        if asked["demo"]:
            attempt("demo", demo, *asked["demo"])
        # Last, since these import this package.
        attempt("fit", fit, "load")
        attempt("server", fit, "server")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
