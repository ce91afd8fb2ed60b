"""The checkpoint that `parity.py` compares: where it lies, whether both sides can load it, and what they need."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

from minicpmv46.checkpoint import check_checkpoint, read_config, read_tensors
from minicpmv46.config import Config
from minicpmv46.files import read_json, shortened
from scripts.parity_answers import digest_of_files

OFFICIAL = {"minicpmv4_6": "openbmb/MiniCPM-V-4.6", "minicpm_ocr": "openbmb/MiniCPM-OCR-1.0"}
DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
FILES = ("*.json", "*.jinja", "*.txt", "*.safetensors")
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
GB = 1_000_000_000
# Measured on Linux: while it loads, a side holds the weights in float32 and the pages of the file in bfloat16; torch
# and what it brings take 0.9 GB, pictures and layers at work the rest.
BYTES_PER_PARAMETER = 6
BESIDE_WEIGHTS = 1.5 * GB


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in the official layout.

    Attributes:
        folder: where it lies.
        name: repository or name of the folder, without the path that leads there.
        model_type: of `config.json`.
        parameters: their number.
        dtype: in which most of them are stored.
        sha256: of all files that the two sides read.
    """

    folder: Path
    name: str
    model_type: str
    parameters: int
    dtype: str
    sha256: str

    @property
    def memory(self) -> float:
        """Bytes that either side needs in float32; they run one after the other."""
        return BYTES_PER_PARAMETER * self.parameters + BESIDE_WEIGHTS


def find(model: str) -> tuple[Path, str]:
    """Folder and name of a checkpoint folder or a repository, which is downloaded where the cache lacks it.

    Raises:
        ValueError: there is no such folder, and it is no repository's name.
        OSError: it cannot be downloaded.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder, folder.resolve().name
    if folder.exists():
        raise ValueError(f"{model} is a file; give the checkpoint's folder")
    if not REPOSITORY.fullmatch(model):
        raise ValueError(f"{model}: no such folder, and no repository like {OFFICIAL['minicpmv4_6']}")
    return download(model), model


def download(repository: str) -> Path:
    """The folder of a repository in the hub's cache; what is missing is downloaded, after its size was said."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(repository, allow_patterns=list(FILES), local_files_only=True))
        check_checkpoint(folder)
        return folder
    except (OSError, ValueError):
        pass  # the cache lacks it, or a part of it
    try:
        files = snapshot_download(repository, allow_patterns=list(FILES), dry_run=True)
        size = sum(file.file_size for file in files if file.will_download)
        print(f"{repository}: downloading {size / GB:.1f} GB into the cache of huggingface_hub", flush=True)
        return Path(snapshot_download(repository, allow_patterns=list(FILES)))
    except OSError as error:
        raise OSError(f"{repository} is not whole in the cache and cannot be downloaded: {shortened(error)}") from error


def inspect(folder: Path, name: str) -> Checkpoint:
    """What is compared; all files are read.

    Raises:
        OSError: a file is missing.
        ValueError: the folder is damaged or another model's, or transformers cannot load it.
    """
    params = read_config(folder)
    config = Config.from_dict(params)
    instead = f"give the checkpoint it was converted from, as {OFFICIAL[config.model_type]}"
    for section in ("quantization", "quantization_config"):
        if params.get(section):
            raise ValueError(f"{name} is quantized ({section} in config.json): there is no exact answer; {instead}")
    tensors = read_tensors(folder, config)
    if other := sorted(
        tensor.name for tensor in tensors.values() if not tensor.name.startswith(("model.", "lm_head."))
    ):
        raise ValueError(f"{name} has the layout of mlx-vlm ({other[0]}), which transformers does not load; {instead}")
    check_checkpoint(folder)
    if not (folder / "chat_template.jinja").exists() and not _has_template(folder):
        raise ValueError(f"{name} has no chat template (chat_template.jinja), so there is no prompt to compare")
    sizes: dict[str, int] = {}
    for tensor in tensors.values():
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + math.prod(tensor.shape)
    return Checkpoint(
        folder=folder,
        name=name,
        model_type=config.model_type,
        parameters=sum(sizes.values()),
        dtype=DTYPES[max(sizes, key=lambda dtype: sizes[dtype])],
        sha256=digest_of_files({file for pattern in FILES for file in folder.glob(pattern)}),
    )


def _has_template(folder: Path) -> bool:
    path = folder / "tokenizer_config.json"
    return path.exists() and "chat_template" in read_json(path)


def machine_memory() -> int:
    """Bytes of this machine's memory."""
    memory: int = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return memory


def check_memory(checkpoint: Checkpoint, memory: int) -> str:
    """The estimate as a sentence; raises `ValueError` where the machine has less."""
    told = (
        f"{checkpoint.parameters / 1e6:,.0f} million parameters: about {checkpoint.memory / GB:.1f} GB of memory for "
        f"either side in float32, one after the other; this machine has {memory / GB:.1f} GB"
    )
    if checkpoint.memory > memory:
        raise ValueError(f"{told}. Use a larger machine, or --force to try it with swapping")
    return told
