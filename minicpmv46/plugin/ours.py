"""How an argument of a call shows that the call is ours.

These run for every model. None of them imports our model or processor: while those are not loaded, none exists.
Each says yes only to what is ours, since our function may fail where this package is damaged.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minicpmv46.siblings import SIBLINGS

MARK = "__minicpmv46__"  # attribute of what is ours and has no class of ours: tokenizers

CONFIG_BYTES = 16_000_000  # of a file that is looked at; a longer one is no JSON then, and refused by `files`

HUB_OPTIONS = ("revision", "token", "cache_dir", "force_download", "local_files_only")

Keywords = Mapping[str, Any]  # those of the call


def is_our_model(model: object, _: Keywords) -> bool:
    return _is_instance(model, "minicpmv46.model", "Model")


def keeps_our_prompts(coordinator: object, _: Keywords) -> bool:
    """The prefix cache of a language model of ours."""
    return _is_instance(getattr(coordinator, "model", None), "minicpmv46.model", "LanguageModel")


def is_our_processor(processor: object, _: Keywords) -> bool:
    return _is_instance(processor, "minicpmv46.processing", "Processor")


def is_our_tokenizer(tokenizer: object, _: Keywords) -> bool:
    return getattr(tokenizer, MARK, False) is True


def is_our_config(config: object, _: Keywords) -> bool:
    """A config, a dict or an object."""
    value = config.get("model_type") if isinstance(config, dict) else getattr(config, "model_type", None)
    return isinstance(value, str) and value.lower() in SIBLINGS  # as mlx-vlm compares it


def is_our_folder(folder: object, keywords: Keywords) -> bool:
    """A checkpoint's folder.

    Where `config.json` is not there mlx-vlm has its own words. Where it is no JSON or has no `model_type`, the folder
    is ours if that file or the processor's names our model, so that the file is named. What is no file at all (a FIFO,
    a device) would be read without end by whoever opens it, for any model: ours refuses it.
    """
    if not isinstance(folder, str | Path):
        return False
    path = Path(folder) / "config.json"
    try:
        if not path.is_file():
            return path.exists() and not path.is_dir()
        content = _beginning(path)
        try:
            config = json.loads(content)
        except (ValueError, RecursionError):
            config = None
        if isinstance(config, dict) and isinstance(config.get("model_type"), str):
            return is_our_config(config, keywords)
        beside = Path(folder) / "processor_config.json"
        return _names_our_model(content) or (beside.is_file() and _names_our_model(_beginning(beside)))
    except (OSError, ValueError):
        return False


def _beginning(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(CONFIG_BYTES)


def _names_our_model(content: bytes) -> bool:
    text = content.replace(b"\0", b"").lower()  # in UTF-16 too
    names = (name for row in SIBLINGS.values() for name in (row.model_type, row.class_prefix))
    return any(name.lower().encode() in text for name in names)


def is_our_checkpoint(path: object, keywords: Keywords) -> bool:
    """A checkpoint's folder, or its repository on the hub."""
    if not isinstance(path, str | Path) or keywords.get("subfolder"):
        return False
    hub = {name: keywords[name] for name in HUB_OPTIONS if name in keywords}
    try:
        if Path(path).is_dir():
            # A folder of a processor alone, as `save_pretrained` writes it, has no config.json.
            alone = Path(path) / "processor_config.json"
            if not (Path(path) / "config.json").exists() and alone.is_file():
                return _names_our_model(_beginning(alone))
            return is_our_folder(path, keywords)
        from huggingface_hub import hf_hub_download

        return is_our_folder(Path(hf_hub_download(str(path), "config.json", **hub)).parent, keywords)
    except Exception:  # whatever the path, the hub or the network raises: transformers asks again, and says it
        return False


def is_our_request(arguments: object, _: Keywords) -> bool:
    """Arguments of a request to the server."""
    return _is_instance(arguments, "minicpmv46.plugin.requests", "RequestArguments")


def is_our_refusal(_: object, __: Keywords) -> bool:
    """Anything, while an exception is handled that says what is wrong with a request to our model."""
    requests = sys.modules.get("minicpmv46.plugin.requests")
    return requests is not None and requests.refused(sys.exc_info()[1]) is not None


def is_in_our_batch(_: object, keywords: Keywords) -> bool:
    """Anything, while `batch_generate` runs for our processor and leaves the division into batches to us."""
    batches = sys.modules.get("minicpmv46.plugin.batches")
    return batches is not None and batches.any_sizes.get()


def _is_instance(value: object, module: str, name: str) -> bool:
    ours = getattr(sys.modules.get(module), name, None)
    return ours is not None and isinstance(value, ours)
