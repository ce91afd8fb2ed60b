"""Damaged checkpoint folders, by the hundred: `python mutated_folders.py FOLDER SCRATCH SEED COUNT` loads each.

Run as a process of its own, whose memory is bounded. Prints a line of JSON for each folder whose end was not a load
or a refusal that names the folder, and a last line with the counts.
"""

import json
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_vlm

# Address space of the whole process; a load of the tiny checkpoint needs a fraction.
MEMORY = 6 * 2**30
SECONDS = 10

JSON_FILES = (
    *("config.json",) * 4,
    *("processor_config.json",) * 2,
    *("tokenizer_config.json",) * 2,
    "tokenizer.json",
    "generation_config.json",
    "model.safetensors.index.json",
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 7, 10**12, -(10**30), 10**400, 0.0, 0.5, 3.0, -1e-9, 1e308, 1e-320),
    *(float("nan"), float("inf"), "", "no", "12", "\ud800", "x" * 100_000, "../x", [], {}, [1], ["a", None], {"a": 1}),
    [[[[1]]]],
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """All (container, key) of a JSON value."""
    found: list[tuple[Any, Any]] = []
    if isinstance(value, (dict, list)):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            found += [(value, key), *places(value[key])]
    return found


def change_value(content: Any, pick: random.Random) -> str:
    """Delete, replace or add something; returns what."""
    container, key = pick.choice(places(content))
    what = pick.choice(("delete", "replace", "replace", "replace", "add"))
    if what == "delete":
        del container[key]
    elif what == "replace":
        container[key] = pick.choice(VALUES)
    elif isinstance(container, dict):
        container[pick.choice((f"{key}_", "x" * 5000, "model_file", "auto_map"))] = pick.choice(VALUES)
    return f"{what} {str(key)[:60]}"


def change_bytes(content: bytes, reach: int, pick: random.Random) -> bytes:
    """Cut, flip or insert bytes among the first `reach`."""
    changed, at = bytearray(content), pick.randrange(reach)
    what = pick.choice(("cut", "flip", "flip", "insert", "encode"))
    if what == "cut":
        return content[:at]
    if what == "encode":
        return pick.choice((b"", b"\xff\xfe" + content[:reach].decode("latin-1").encode("utf-16-le"), b"[" * 100_000))
    if what == "insert":
        changed[at:at] = pick.randbytes(pick.randrange(1, 9))
    else:
        for _ in range(pick.randrange(1, 4)):
            changed[pick.randrange(reach)] = pick.randrange(256)
    return bytes(changed)


def change_header(file: Path, pick: random.Random) -> str:
    """Another header before the same numbers, or other bytes in it."""
    content = file.read_bytes()
    length = 8 + int.from_bytes(content[:8], "little")
    file.unlink()  # a link
    if pick.random() < 0.4:
        file.write_bytes(change_bytes(content, length, pick))
        return "bytes of the header"
    header = json.loads(content[8:length])
    what = change_value(header, pick)
    head = json.dumps(header).encode()
    file.write_bytes(len(head).to_bytes(8, "little") + head + content[length:])
    return what


def mutate(folder: Path, pick: random.Random) -> str:
    """Change one file of a folder; returns its name and what was changed."""
    if pick.random() < 0.35:
        file = pick.choice(sorted(folder.glob("*.safetensors")))
        return f"{file.name}: {change_header(file, pick)}"
    file = folder / pick.choice([name for name in JSON_FILES if (folder / name).is_file()])
    content = file.read_bytes()
    file.unlink()
    if pick.random() < 0.2:
        file.write_bytes(change_bytes(content, len(content), pick))
        return f"{file.name}: bytes"
    values = json.loads(content)
    what = change_value(values, pick)
    file.write_text(json.dumps(values))
    return f"{file.name}: {what}"


def outcome(folder: Path, load: Callable[[Path], None]) -> str:
    """Empty where it loads; "refused" where it is refused as promised; else what happened."""
    signal.alarm(SECONDS)
    try:
        load(folder)
    except (ValueError, OSError, RuntimeError) as error:
        text = str(error)
        if str(folder) not in text:
            return f"without the folder: {type(error).__name__}: {text[:300]}"
        return "refused" if len(text) < 1000 else f"{len(text)} characters"
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:300]}"
    finally:
        signal.alarm(0)
    return ""


def load(folder: Path) -> None:
    """Load and answer one token."""
    model, processor = mlx_vlm.load(str(folder))
    ids = mx.array([processor.tokenizer("Hello")["input_ids"][:8]])
    mx.eval(model(ids).logits)


def main(source: Path, scratch: Path, seed: int, count: int) -> None:
    """Mutate and load `count` folders."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    ends = {"": 0, "refused": 0}
    for i in range(seed, seed + count):
        pick = random.Random(i)
        folder = scratch / f"folder-{i}"
        folder.mkdir()
        for file in source.iterdir():
            os.link(file, folder / file.name)
        started = time.perf_counter()
        what = mutate(folder, pick)
        end = outcome(folder, load)
        if end in ends:
            ends[end] += 1
        else:
            seconds = round(time.perf_counter() - started, 1)
            print(json.dumps({"seed": i, "what": what, "end": end, "seconds": seconds}), flush=True)
    print(json.dumps({"loaded": ends[""], "refused": ends["refused"]}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
