"""What the demo checkpoint answers on cases that it has not seen, in every way of running it: prints a table.

    python scripts/demo/evaluate.py [--cases 300] [--ways official float32 bf16 8bit 4bit mxfp4 nvfp4 builtin]

`official` is transformers' implementation in float32, which needs torch; the others are this port, after conversion by
mlx-vlm, and mlx-vlm's own port (`builtin`), which gets the options in the files that it reads. A case counts where the
whole answer is right. The last lines say how many requests failed and, for each way, on how many cases the text is the
official one, right or wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np

from minicpmv46.demo import CHECKPOINT
from minicpmv46.slicing import SliceOptions
from scripts.demo import newcomer
from scripts.demo.cases import Case
from scripts.demo.plain_tasks import PLAIN, unseen

NEW_TOKENS = 20
# Pictures of any kind are drawn for this unit, so that all checkpoints get the same ones (but see `Row.own_unit`).
DRAWN_FOR = SliceOptions(scale_resolution=224)
FAILED = "(failed)"
PACKAGES = ("mlx-vlm", "mlx", "transformers", "torch", "pillow")
WAYS = ("official", "float32", "bf16", "8bit", "4bit", "mxfp4", "nvfp4", "builtin")
CONVERSIONS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "bf16": {"dtype": "bfloat16"},
    "8bit": {"quantize": True, "q_bits": 8},
    "4bit": {"quantize": True, "q_bits": 4},
    "mxfp4": {"quantize": True, "q_mode": "mxfp4", "q_bits": None, "q_group_size": None},
    "nvfp4": {"quantize": True, "q_mode": "nvfp4", "q_bits": None, "q_group_size": None},
}
Answer = Callable[[Case, dict[str, Any]], str]


@dataclass(frozen=True)
class Row:
    """A row of the table: a skill, how many tokens and slices it gets, and whose pictures it asks about.

    Pictures of a row with `own_unit` are drawn for the checkpoint's unit, those of the others for `DRAWN_FOR`.
    """

    name: str
    skill: str
    options: dict[str, Any]
    any_picture: bool = False
    own_unit: bool = False

    def case(self, index: int, slicing: SliceOptions) -> Case:
        """Case `index`, which training never draws; `slicing` is the checkpoint's."""
        if not self.any_picture:
            return unseen(self.skill, index)
        return newcomer.drawn(self.skill, index, slicing if self.own_unit else DRAWN_FOR)

    def count(self, cases: int) -> int:
        """How many of `cases` there are."""
        return min(cases, len(newcomer.FREE)) if self.skill == "free" else cases


PLAIN_ROWS = (
    Row("read", "read", {}),
    Row("object", "object", {}),
    Row("count", "count", {}),
    Row("two", "two", {}),
    Row("clip", "clip", {}),
    Row("text", "text", {}),
    Row("read, 4x", "read", {"downsample_mode": "4x"}),
    Row("small, 16x, slices", "small", {}),
    Row("small, 16x, no slices", "small", {"max_slice_nums": 1}),
    Row("small, 4x, no slices", "small", {"downsample_mode": "4x", "max_slice_nums": 1}),
)
NEWCOMER_ROWS = (
    Row("any picture: read", "read", {}, True),
    Row("any picture: read across slices", "across", {}, True, own_unit=True),
    Row("any picture: object", "object", {}, True),
    Row("any picture: count", "count", {}, True),
    Row("any picture: two", "two", {}, True),
    Row("any clip", "clip", {}, True),
    Row("free questions", "free", {}, True),
    Row("drawn for its unit: read", "read", {}, True, own_unit=True),
    Row("drawn for its unit: count", "count", {}, True, own_unit=True),
)
ROWS = PLAIN_ROWS + NEWCOMER_ROWS
BY_CHARACTER = ("any picture: read", "any picture: read across slices", "drawn for its unit: read")
assert {row.skill for row in PLAIN_ROWS} == set(PLAIN)


def slicing_of(folder: Path) -> SliceOptions:
    """How a checkpoint slices pictures."""
    options = json.loads((folder / "processor_config.json").read_text())["image_processor"]
    return SliceOptions(scale_resolution=options["scale_resolution"])


def media_of(case: Case) -> dict[str, Any]:
    """What `generate` takes beside the prompt."""
    media: dict[str, Any] = {"image": list(case.images)} if case.images else {}
    if case.frames is not None:
        media |= {"video": [case.frames], "video_metadata": [case.video_metadata]}
    return media


def ask(loaded: tuple[Any, Any], question: str, **media: Any) -> Any:
    """mlx-vlm's greedy result for a question and what `generate` takes beside it, from its model and processor."""
    from mlx_vlm import generate
    from mlx_vlm.prompt_utils import apply_chat_template

    model, processor = loaded
    template = {"video": ["clip"] * len(media["video"])} if "video" in media else {}
    prompt = apply_chat_template(processor, model.config, question, num_images=len(media.get("image", ())), **template)
    return generate(model, processor, prompt, max_tokens=NEW_TOKENS, temperature=0.0, **media)


def answers_of_mlx(folder: Path) -> Answer:
    """Answers through mlx-vlm, by whichever port this process has registered."""
    from mlx_vlm import load

    loaded = load(str(folder))

    def answer(case: Case, options: dict[str, Any]) -> str:
        return str(ask(loaded, case.question, **media_of(case), **{**case.options, **options}).text)

    return answer


def answers_of_official(folder: Path) -> Answer:
    """Answers of transformers' implementation in float32, with its PIL image backend."""
    import torch
    from transformers import AutoTokenizer, MiniCPMV4_6ForConditionalGeneration
    from transformers.models.minicpmv4_6.image_processing_pil_minicpmv4_6 import MiniCPMV4_6ImageProcessorPil
    from transformers.models.minicpmv4_6.processing_minicpmv4_6 import MiniCPMV4_6Processor
    from transformers.models.minicpmv4_6.video_processing_minicpmv4_6 import MiniCPMV4_6VideoProcessor
    from transformers.video_utils import VideoMetadata

    processor = MiniCPMV4_6Processor(
        image_processor=MiniCPMV4_6ImageProcessorPil.from_pretrained(folder),
        video_processor=MiniCPMV4_6VideoProcessor.from_pretrained(folder),
        tokenizer=AutoTokenizer.from_pretrained(folder),
        chat_template=(folder / "chat_template.jinja").read_text(),
    )
    model = MiniCPMV4_6ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()

    def answer(case: Case, options: dict[str, Any]) -> str:
        prompt = processor.apply_chat_template(case.messages, tokenize=False, add_generation_prompt=True)
        media: dict[str, Any] = {"images": list(case.images)} if case.images else {}
        if case.frames is not None:
            frames = torch.from_numpy(case.frames).permute(0, 3, 1, 2)
            media = {"videos": [frames], "video_metadata": [VideoMetadata(**case.video_metadata)]}
        options = {**case.options, **options}
        inputs = processor(text=prompt, return_tensors="pt", **media, **options)
        mode = {"downsample_mode": options["downsample_mode"]} if "downsample_mode" in options else {}
        with torch.no_grad():
            ids = model.generate(**inputs, **mode, max_new_tokens=NEW_TOKENS, do_sample=False)
        return str(processor.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))

    return answer


def for_builtin(folder: Path, target: Path) -> Path:
    """A copy for mlx-vlm's own port, which reads options from other files."""
    shutil.copytree(folder, target)
    options = json.loads((folder / "processor_config.json").read_text())
    for kind, name in (("image", "preprocessor_config.json"), ("video", "video_preprocessor_config.json")):
        (target / name).write_text(json.dumps(options[f"{kind}_processor"]))
    return target


def run(way: str, count: int, folder: Path, rows: Sequence[Row]) -> dict[str, list[str]]:
    """Answers of one way to `count` cases of every row; `FAILED` where the built-in port fails."""
    if way == "official":
        answer = answers_of_official(folder)
    elif way == "builtin":
        with tempfile.TemporaryDirectory() as temporary:
            answer = answers_of_mlx(for_builtin(folder, Path(temporary) / way))
    else:
        from mlx_vlm.convert import convert

        with tempfile.TemporaryDirectory() as temporary:
            target = Path(temporary) / way
            convert(str(folder), mlx_path=str(target), **CONVERSIONS[way])
            answer = answers_of_mlx(target)
    found: dict[str, list[str]] = {}
    slicing = slicing_of(folder)
    for row in rows:
        found[row.name] = []
        for i in range(row.count(count)):
            try:
                found[row.name].append(answer(row.case(i, slicing), row.options))
            except (ValueError, TypeError) as error:
                if way != "builtin":
                    raise
                print(f"{row.name}, case {i}: {type(error).__name__}: {error}", file=sys.stderr)
                found[row.name].append(FAILED)
    return found


def right(found: list[str], wanted: list[str]) -> float:
    """Share of right answers in per cent."""
    return 100 * float(np.mean([text == answer for text, answer in zip(found, wanted, strict=True)]))


def characters(found: list[str], wanted: list[str]) -> float:
    """Share of characters that are right, in per cent: 100 less the edit distance per character."""
    wrong = sum(edits(text, answer) for text, answer in zip(found, wanted, strict=True))
    return 100 * (1 - wrong / sum(map(len, wanted)))


def edits(a: str, b: str) -> int:
    """Levenshtein's distance."""
    last = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row = [i]
        for j, y in enumerate(b, 1):
            row.append(min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (x != y)))
        last = row
    return last[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=300, help="cases of each row")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--model", type=Path, default=CHECKPOINT)
    parser.add_argument("--jobs", type=int, default=2, help="ways that run at once")
    parser.add_argument("--keep", type=Path, help="folder for the answers; those of an earlier run there are used")
    parser.add_argument("--answers", type=Path, help="write the answers of one way to this file, and no table")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="the rows whose names begin so; all without it")
    arguments = parser.parse_args()
    rows = [row for row in ROWS if arguments.rows is None or row.name.startswith(tuple(arguments.rows))]
    if arguments.answers is not None:
        [way] = arguments.ways
        arguments.answers.write_text(json.dumps(run(way, arguments.cases, arguments.model, rows)))
        return

    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)

        def answers_of(way: str) -> dict[str, list[str]]:
            """In a process of its own: the built-in port is what mlx-vlm uses where ours is told to stay away."""
            file, log = folder / f"{way}.json", folder / f"{way}.log"
            threads = str(max((os.cpu_count() or 1) // arguments.jobs, 1))
            environment = {**os.environ, "OMP_NUM_THREADS": threads}
            if way == "builtin":
                environment["MINICPMV46_DISABLE"] = "1"
            command = [sys.executable, __file__, "--ways", way, "--answers", str(file)]
            command += ["--cases", str(arguments.cases), "--model", str(arguments.model)]
            command += ["--rows", *(row.name for row in rows)]
            if not file.is_file():
                with log.open("w") as output:
                    done = subprocess.run(command, env=environment, stdout=output, stderr=output)
                if done.returncode:
                    raise SystemExit(f"{way} failed:\n{log.read_text()}")
            found: dict[str, list[str]] = json.loads(file.read_text())
            if any(len(found.get(row.name, ())) != row.count(arguments.cases) for row in rows):
                raise SystemExit(f"{file} has not {arguments.cases} cases of each row")
            return found

        with ThreadPoolExecutor(arguments.jobs) as jobs:
            answers = dict(zip(arguments.ways, jobs.map(answers_of, arguments.ways), strict=True))
    slicing = slicing_of(arguments.model)
    wanted = {row.name: [row.case(i, slicing).answer for i in range(row.count(arguments.cases))] for row in rows}
    print_table(answers, wanted, arguments.cases)


def print_table(answers: dict[str, dict[str, list[str]]], wanted: dict[str, list[str]], cases: int) -> None:
    """The table in Markdown, a column for each way."""
    print(f"| {cases} cases a row, right in % | {' | '.join(answers)} |")
    print(f"|---|{'---|' * len(answers)}")
    for name, expected in wanted.items():
        print(f"| {name} | {' | '.join(f'{right(found[name], expected):.1f}' for found in answers.values())} |")
        if name in BY_CHARACTER:
            shares = (f"{characters(found[name], expected):.1f}" for found in answers.values())
            print(f"| {name}, characters | {' | '.join(shares)} |")
    every = {way: [text for name in wanted for text in found[name]] for way, found in answers.items()}
    failed = {way: np.mean([text == FAILED for text in texts]) for way, texts in every.items()}
    print(f"| requests that fail | {' | '.join(f'{100 * share:.1f}' for share in failed.values())} |")
    if "official" in every:
        same = (np.mean([a == b for a, b in zip(t, every["official"], strict=True)]) for t in every.values())
        print(f"| same text as official | {' | '.join(f'{100 * share:.2f}' for share in same)} |")
    installed = {distribution.metadata["Name"].lower() for distribution in distributions()}
    print(f"{date.today()}: {', '.join(f'{name} {version(name)}' for name in PACKAGES if name in installed)}")


if __name__ == "__main__":
    main()
