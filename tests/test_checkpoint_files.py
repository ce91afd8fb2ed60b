"""What stands in the place of a checkpoint's files: each is read within a bound, or refused with its path.

No code of a folder runs, nothing outside it is named by an index, and what is no regular file is not opened.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx_vlm
import pytest
from support import tiny

from minicpmv46.checkpoint import check_checkpoint
from minicpmv46.files import JSON_BYTES, TOKENIZER_BYTES, parse_json, read_json
from minicpmv46.processing import Processor

JSON_FILES = (
    *("config.json", "generation_config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json"),
    "model.safetensors.index.json",
)
CONTENTS: dict[str, bytes] = {
    "empty": b"",
    "blank": b" \n",
    "binary": bytes(range(256)) * 8,
    "zeros": bytes(4096),
    "UTF-16": '\ufeff{"model_type": "minicpmv4_6"}'.encode("utf-16-le"),
    "UTF-8 with a mark": b'\xef\xbb\xbf{"model_type": "minicpmv4_6"}',
    "nested objects": b'{"model_type": "minicpmv4_6", "x": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
    "nested lists": b'{"model_type": "minicpmv4_6", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "nested a little": b'{"model_type": "minicpmv4_6", "x": ' + b"[" * 200 + b"]" * 200 + b"}",
    "a list": b"[1, 2]",
    "a text": b'"minicpmv4_6"',
    "a number": b"1",
    "cut off": b'{"model_type": "minicpmv4_6", "x": [1, 2',
    "a key twice": b'{"model_type": "minicpmv4_6", "model_type": "minicpmv4_6"}',
    "NaN": b'{"model_type": "minicpmv4_6", "x": NaN}',
    "a float without end": b'{"model_type": "minicpmv4_6", "x": 1e999}',
    "an integer without end": b'{"model_type": "minicpmv4_6", "x": ' + b"1" * 100_000 + b"}",
    "half of a pair": b'{"model_type": "minicpmv4_6", "x": "\\ud800"}',
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole checkpoint in three files."""
    return tiny.make_checkpoint(tmp_path / "folder", shards=3)


def load(folder: Path) -> None:
    """Both halves of a load, in mlx-vlm's order."""
    check_checkpoint(folder)
    Processor.from_pretrained(folder)


def error_of(folder: Path, loader: Callable[[Any], Any] = load) -> str:
    with pytest.raises((ValueError, OSError)) as raised:
        loader(folder)
    assert len(str(raised.value)) < 1000
    return str(raised.value)


def put(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    path.write_bytes(content)


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("name", JSON_FILES)
def test_json_that_is_none(name: str, content: str, folder: Path) -> None:
    put(folder / name, CONTENTS[content])
    assert str(folder / name) in error_of(folder)


@pytest.mark.parametrize("content", [name for name in CONTENTS if name not in ("a number", "a list")])
def test_config_through_mlx_vlm(content: str, folder: Path) -> None:
    """A folder is known as ours by its processor's file too."""
    put(folder / "config.json", CONTENTS[content])
    assert str(folder / "config.json") in error_of(folder, lambda f: mlx_vlm.load(str(f)))


@pytest.mark.parametrize("kind", ["fifo", "folder", "device"])
@pytest.mark.parametrize("name", [*JSON_FILES, "model-00002-of-00003.safetensors", "chat_template.jinja"])
def test_not_a_regular_file(name: str, kind: str, folder: Path) -> None:
    """Refused before it is opened: a FIFO waits for ever, a device has no end."""
    path = folder / name
    path.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    assert f"{path} is not a regular file" in error_of(folder)
    if kind == "fifo" and name == "config.json":
        assert str(path) in error_of(folder, lambda f: mlx_vlm.load(str(f)))


@pytest.mark.parametrize("name", JSON_FILES)
def test_too_large(name: str, folder: Path) -> None:
    """Refused by its size, not read."""
    (folder / name).touch()
    os.truncate(folder / name, 2**40)
    highest = TOKENIZER_BYTES if name == "tokenizer.json" else JSON_BYTES
    message = error_of(folder)
    assert str(folder / name) in message and f"at most {highest:,}" in message


@pytest.mark.parametrize("name", ["chat_template.jinja"])
def test_text_that_is_none(name: str, folder: Path) -> None:
    put(folder / name, bytes(range(256)))
    assert f"{folder / name} is not text" in error_of(folder)


def test_number_that_is_none_is_named() -> None:
    content = b'{"a": {"b": [1, {"c": -Infinity}]}, "d": NaN}'
    with pytest.raises(ValueError, match=r"^here is not valid JSON: a\.b\.1\.c = '-Infinity' is not a finite number$"):
        parse_json(content, "here")


def test_links_as_in_the_hub_s_cache(folder: Path, tmp_path: Path) -> None:
    """Files there are links to blobs outside the folder."""
    cached, blobs = tmp_path / "snapshot", tmp_path / "blobs"
    cached.mkdir()
    blobs.mkdir()
    for i, file in enumerate(folder.iterdir()):
        file.rename(blobs / f"{i}")
        (cached / file.name).symlink_to(f"../blobs/{i}")
    mlx_vlm.load(str(cached))


# What config.json may make happen


@pytest.mark.parametrize("value", ["model.py", "sub/model.py", "/model.py", "", None, False, 1, ["model.py"]])
@pytest.mark.parametrize("model_type", ["minicpmv4_6", "MiniCPMV4_6"])
def test_file_of_code_is_refused_and_not_run(model_type: str, value: Any, folder: Path) -> None:
    """mlx-vlm would import it."""
    code = f"open({str(folder / 'ran')!r}, 'w')\n"
    (folder / "model.py").write_text(code)
    (folder / "sub").mkdir()
    (folder / "sub" / "model.py").write_text(code)
    config = read_json(folder / "config.json") | {"model_type": model_type, "model_file": value}
    (folder / "config.json").write_text(json.dumps(config))
    message = error_of(folder, lambda f: mlx_vlm.load(str(f)))
    assert str(folder / "config.json") in message
    assert ("model_file" if model_type == "minicpmv4_6" else "model_type") in message
    assert not (folder / "ran").exists()


def test_code_of_a_tokenizer_is_not_run(folder: Path) -> None:
    (folder / "code.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")
    config = read_json(folder / "tokenizer_config.json")
    config |= {"auto_map": {"AutoTokenizer": [None, "code.Tokenizer"]}, "tokenizer_class": "Tokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    try:
        Processor.from_pretrained(folder)
    except ValueError as error:
        assert str(folder) in str(error)
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("value", [5, True, ["a"], [{"name": "default", "template": 5}], {"a": 1}])
def test_template_that_is_no_text(value: Any, folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    config = read_json(folder / "tokenizer_config.json") | {"chat_template": value}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    error_of(folder)


def test_folder_of_experts(folder: Path) -> None:
    (folder / "offload_index.json").write_text("{}")
    assert str(folder / "offload_index.json") in error_of(folder)


# The index


@pytest.mark.parametrize(
    "name",
    [
        *("../outside.safetensors", "sub/../../outside.safetensors", "/outside.safetensors", "..\\outside.safetensors"),
        *("model.npz", "model.gguf", "config.json", "", ".", "a\0b.safetensors", "x" * 300 + ".safetensors"),
        *(None, 1, True, ["model.safetensors"], {"a": 1}, "no\nline.safetensors", "x" * 100_000),
    ],
)
def test_names_in_an_index(name: Any, folder: Path) -> None:
    """They stay in the folder, and are names of safetensors files."""
    shutil.copy(folder / "model-00001-of-00003.safetensors", folder.parent / "outside.safetensors")
    index = folder / "model.safetensors.index.json"
    content = read_json(index)
    content["weight_map"][next(iter(content["weight_map"]))] = name
    index.write_text(json.dumps(content))
    message = error_of(folder)
    assert str(index) in message and "weight_map['" in message


@pytest.mark.parametrize("weight_map", [None, [], ["a"], "a", 1, {}])
def test_map_of_an_index(weight_map: Any, folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    message = error_of(folder)
    assert str(index) in message and "weight_map" in message


# The tokenizer


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(model={}),
        lambda c: c.update(model=None),
        lambda c: c["model"].update(vocab=[]),
        lambda c: c["model"].update(merges=[["a"]]),
        lambda c: c["model"]["merges"].append(["nobody", "knows"]),
        lambda c: c.update(added_tokens=[]),
        lambda c: c.update(added_tokens=5),
        lambda c: c.update(pre_tokenizer={"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated"}),
        lambda c: c.update(normalizer={"type": "none such"}),
        lambda c: c.clear(),
    ],
)
def test_tokenizer_that_is_none(change: Callable[[dict[str, Any]], object], folder: Path) -> None:
    content = read_json(folder / "tokenizer.json")
    change(content)
    (folder / "tokenizer.json").write_text(json.dumps(content))
    try:
        Processor.from_pretrained(folder)
    except (ValueError, OSError) as error:
        assert str(folder) in str(error) and len(str(error)) < 1000


def test_tokenizer_that_is_not_there(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    assert str(folder) in error_of(folder)


@pytest.mark.parametrize("value", [True, 0, -1, 1.5, "12", [], {}, 10**40])
def test_longest_prompt_of_a_tokenizer(value: Any, folder: Path) -> None:
    config = read_json(folder / "tokenizer_config.json") | {"model_max_length": value}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    message = error_of(folder)
    assert str(folder / "tokenizer_config.json") in message and "model_max_length" in message
