"""Options of a checkpoint for commands: of a folder, of the hub's cache, or the official ones of a model."""

from __future__ import annotations

from pathlib import Path

from ..checks import quote
from ..files import read_json
from ..limits import Limits
from ..options import Options
from ..processor_files import load_options
from ..siblings import MINICPM_V_4_6, SIBLINGS


def options_of(model: str | None) -> Options:
    """Options and context of a checkpoint; its weights and its tokenizer are not read.

    Args:
        model: a folder; a repository that the hub's cache has, nothing is downloaded; a model type, whose official
            options hold; None takes those of MiniCPM-V 4.6.

    Raises:
        ValueError: there is no such checkpoint, it is another model's, or its files have values that are not supported.
    """
    if model is None or model in SIBLINGS:
        return Options.of(SIBLINGS[model] if model else MINICPM_V_4_6, Limits.of_environment())
    folder = _folder(model)
    if not (folder / "config.json").is_file():
        raise ValueError(f"{quote(model)} has no config.json, so it is no checkpoint")
    found = read_json(folder / "config.json").get("model_type")
    if found not in SIBLINGS:
        raise ValueError(f"{quote(model)} is a checkpoint of model_type {quote(found)}, not of {_types()}")
    return load_options(folder)


def _folder(model: str) -> Path:
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError) as error:
        raise ValueError(
            f"there is no folder {quote(model)}, and the hub's cache has no checkpoint of this name; "
            f"--model {' and --model '.join(SIBLINGS)} take the official options without files"
        ) from error


def _types() -> str:
    return " or ".join(map(repr, SIBLINGS))
