"""The stages that `benchmark.py` measures, and the process that measures them for one port.

    python scripts/benchmark_stages.py --model FOLDER --stages decode-1 prefill-512

Prints a line of JSON for each stage: seconds of every call after the first, bytes of memory that it needed at most
beside what was there before, what was worked on (tokens, rows, crops). With MINICPMV46_DISABLE=1 mlx-vlm's own port is
measured. An error ends the process; `benchmark.py` then goes on behind the stage that failed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
from PIL import Image, ImageDraw

MARK = "@stage "  # before a line that is a result; libraries print lines of their own
QUESTION = "Read all visible text."
PAGE = (2480, 3508)  # A4 at 300 dots an inch, which fills 36 slices
MODES = ("16x", "4x")
PREFIX = 64  # tokens in the cache before decoding; rows of a batch are shorter by 8 each
ANSWER = 8  # tokens of a crop's answer
MOST_CALLS = 10


@dataclass(frozen=True)
class Settings:
    """How much work a stage is; `quick` and the CPU get less."""

    seconds: float  # calls are repeated for so long; a longer first call is not repeated
    decode_steps: int
    crops: int
    dtype: str  # "stored" or a type that floating-point parameters are cast to


@dataclass(frozen=True)
class Measured:
    """Results of one stage in one process."""

    seconds: tuple[float, ...]  # of each call
    work: int  # how much of `Stage.unit` a call does
    peak_bytes: int  # of MLX's memory, beside what was held before


@dataclass(frozen=True)
class Stage:
    """A stage of the table."""

    title: str
    unit: str  # what is counted in a call
    measure: Callable[[Bench], Measured] | None  # None for what `launches.py` counts
    heavy: bool = False  # left out by --quick on the CPU
    is_rate: bool = False  # told as so many a second


class Bench:
    """A loaded model and how much to do with it."""

    def __init__(self, model: Any, processor: Any, settings: Settings) -> None:
        self.model, self.processor, self.settings = model, processor, settings
        self.language_model = model.language_model
        vocabulary = model.language_model.model.embed_tokens.weight.shape[0]
        self.safe_ids = min(vocabulary, 256)  # below these there are plain bytes and no placeholders

    def timed(self, call: Callable[[], Any], work: int) -> Measured:
        """Repeat a call; the first is a warm-up that counts only where it is the only one."""
        import mlx.core as mx

        mx.clear_cache()
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        times: list[float] = []
        while not times or (sum(times) < self.settings.seconds and len(times) <= MOST_CALLS):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        peak = mx.get_peak_memory() - before
        return Measured(tuple(times[1:] or times), work, peak)

    def prompt(self, question: str = QUESTION) -> str:
        from mlx_vlm.prompt_utils import apply_chat_template

        return str(
            apply_chat_template(self.processor, self.model.config, question, num_images=1, enable_thinking=False)
        )

    def inputs(self, picture: Image.Image, **options: Any) -> dict[str, Any]:
        """Everything that the processor makes of a picture and the question."""
        from mlx_vlm.utils import prepare_inputs

        made: dict[str, Any] = prepare_inputs(self.processor, images=[picture], prompts=self.prompt(), **options)
        return made

    def ids(self, rows: int, length: int) -> np.ndarray:
        """Token ids [rows, length], the same in every process."""
        return np.random.default_rng([rows, length]).integers(0, self.safe_ids, (rows, length))


def page(width: int, height: int) -> Image.Image:
    """A page of numbers, the same everywhere."""
    random = np.random.default_rng(4)
    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    for y in range(20, height - 20, 22):
        line = " ".join(str(random.integers(10 ** random.integers(2, 6))) for _ in range(max(1, width // 60)))
        draw.text((20, y), line, fill=tuple(int(c) for c in random.integers(0, 120, 3)))
    return picture


def options_of(mode: str, slices: int | None = None) -> dict[str, Any]:
    """Processor options; 16x and the default of slices are not named, so that ports that take none do their own."""
    options: dict[str, Any] = {} if mode == "16x" else {"downsample_mode": mode}
    return options if slices is None else {**options, "max_slice_nums": slices}


def preprocess(mode: str) -> Callable[[Bench], Measured]:
    def measure(bench: Bench) -> Measured:
        import mlx.core as mx

        picture, options = page(*PAGE), options_of(mode, 36)
        tokens = 0

        def call() -> None:
            nonlocal tokens
            made = bench.inputs(picture, **options)
            mx.eval(made["pixel_values"], made["input_ids"])
            tokens = made["input_ids"].size

        found = bench.timed(call, 0)
        return replace(found, work=tokens)

    return measure


def vision(width: int, height: int, mode: str, slices: int | None = None) -> Callable[[Bench], Measured]:
    def measure(bench: Bench) -> Measured:
        import mlx.core as mx

        options = options_of(mode, slices)
        made = bench.inputs(page(width, height), **options)
        arguments = {name: value for name, value in made.items() if name != "attention_mask"}
        arguments |= {"mask": made["attention_mask"], **options}

        def call() -> None:
            mx.eval(bench.model.get_input_embeddings(**arguments).inputs_embeds)

        return bench.timed(call, made["input_ids"].size)

    return measure


def prefill(length: int) -> Callable[[Bench], Measured]:
    def measure(bench: Bench) -> Measured:
        import mlx.core as mx
        from mlx_vlm.models.cache import make_prompt_cache

        ids = mx.array(bench.ids(1, length))

        def call() -> None:
            cache = make_prompt_cache(bench.language_model)
            logits = bench.language_model(ids, cache=cache, logits_to_keep=1).logits[:, -1]
            mx.eval(logits, [entry.state for entry in cache])

        return bench.timed(call, length)

    return measure


def first_token(bench: Bench) -> Measured:
    from mlx_vlm import stream_generate

    picture = page(448, 448)

    def call() -> None:
        steps = stream_generate(
            bench.model, bench.processor, bench.prompt(), image=[picture], max_tokens=2, temperature=0.0
        )
        next(steps)
        steps.close()

    return bench.timed(call, 1)


def decode(rows: int) -> Callable[[Bench], Measured]:
    """Greedy steps as mlx-vlm's generators do them: the next is under way while the last is read."""

    def measure(bench: Bench) -> Measured:
        import mlx.core as mx
        from mlx_vlm.generate.ar import _make_cache
        from mlx_vlm.models.cache import make_prompt_cache

        model = bench.language_model
        padding = [8 * row for row in range(rows)]
        cache = make_prompt_cache(model) if rows == 1 else _make_cache(model, padding)
        ids = bench.ids(rows, PREFIX)
        for row, n in enumerate(padding):
            ids[row, :n] = 0

        def step(y: mx.array) -> mx.array:
            y = mx.argmax(model(y, cache=cache, logits_to_keep=1).logits[:, -1:], axis=-1)
            mx.async_eval(y)
            return y

        last = step(mx.array(ids))

        def call() -> None:
            nonlocal last
            for _ in range(bench.settings.decode_steps):
                following = step(last)
                last.tolist()
                last = following
            mx.eval(last)

        return bench.timed(call, rows * bench.settings.decode_steps)

    return measure


def crops(bench: Bench) -> Measured:
    """Regions of a document, each of another size, with a short answer."""
    from mlx_vlm import batch_generate

    n, random = bench.settings.crops, np.random.default_rng(3)
    pictures = [page(int(random.integers(240, 460)), int(random.integers(60, 130))) for _ in range(n)]
    questions = [QUESTION] * n

    def call() -> None:
        batch_generate(bench.model, bench.processor, images=pictures, prompts=questions, max_tokens=ANSWER)

    return bench.timed(call, n)


STAGES: dict[str, Stage] = {
    **{f"preprocess-{m}": Stage(f"preprocess a page of 36 slices, {m}", "tokens", preprocess(m)) for m in MODES},
    **{f"vision-448-{m}": Stage(f"vision, 448×448, {m}", "tokens", vision(448, 448, m)) for m in MODES},
    **{f"vision-1344-{m}": Stage(f"vision, 1344×1344, {m}", "tokens", vision(1344, 1344, m), True) for m in MODES},
    **{
        f"vision-page-{m}": Stage(f"vision, a page of 36 slices, {m}", "tokens", vision(*PAGE, m, 36), True)
        for m in MODES
    },
    "prefill-128": Stage("prefill of 128 tokens", "tokens", prefill(128)),
    "prefill-512": Stage("prefill of 512 tokens", "tokens", prefill(512), True),
    "ttft": Stage("first token, image of 448×448", "requests", first_token, True),
    "decode-1": Stage("decode, one row", "tokens", decode(1), is_rate=True),
    "decode-4": Stage("decode, 4 rows of different lengths", "tokens", decode(4), is_rate=True),
    "decode-8": Stage("decode, 8 rows of different lengths", "tokens", decode(8), is_rate=True),
    "crops": Stage("crops of different sizes, `batch_generate`", "crops", crops, is_rate=True),
    "launches-1": Stage("kernel launches of a decode step, one row", "launches", None),
    "launches-4": Stage("kernel launches of a decode step, 4 padded rows", "launches", None),
    "bytes": Stage("weights that a decode step reads", "bytes", None),
}


def load(folder: str, dtype: str) -> tuple[Any, Any]:
    """Model and processor through mlx-vlm, floating-point parameters in another type if `dtype` names one."""
    import mlx.core as mx
    from mlx.utils import tree_map
    from mlx_vlm import load as load_with_mlx_vlm

    model, processor = load_with_mlx_vlm(folder)
    if dtype != "stored":
        kind = getattr(mx, dtype)

        def cast(x: mx.array) -> mx.array:
            return x.astype(kind) if mx.issubdtype(x.dtype, mx.floating) else x

        model.update(tree_map(cast, model.parameters()))
    mx.eval(model.parameters())
    return model, processor


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--stages", nargs="+", choices=[name for name, s in STAGES.items() if s.measure], required=True)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--decode-steps", type=int, default=16)
    parser.add_argument("--crops", type=int, default=8)
    parser.add_argument("--dtype", choices=("stored", "float32", "bfloat16", "float16"), default="stored")
    given = parser.parse_args(arguments)

    import minicpmv46  # noqa: F401  registers, also where the wheel's .pth file is not installed

    settings = Settings(given.seconds, given.decode_steps, given.crops, given.dtype)
    bench = Bench(*load(given.model, given.dtype), settings)
    print(MARK + json.dumps({"port": type(bench.model).__module__}), flush=True)
    for name in given.stages:
        print(MARK + json.dumps({"begins": name}), flush=True)
        measure = STAGES[name].measure
        assert measure is not None
        found = measure(bench)
        line = {"stage": name, "seconds": found.seconds, "work": found.work, "peak_bytes": found.peak_bytes}
        print(MARK + json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
