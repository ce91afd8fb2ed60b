"""What the demo checkpoint answers on cases that it has not seen, in every way of running it: prints a table.

    python scripts/evaluate_demo.py [--cases 300] [--ways official float32 bf16 8bit 4bit mxfp4 nvfp4 builtin]

`official` is transformers' implementation in float32, which needs torch; the others are this port, after conversion by
mlx-vlm, and mlx-vlm's own port (`builtin`). A case counts where the whole answer is right.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np

from minicpmv46.demo import CHECKPOINT
from scripts.demo_tasks import SKILLS, Case, unseen

NEW_TOKENS = 12
WAYS = ("official", "float32", "bf16", "8bit", "4bit", "mxfp4", "nvfp4", "builtin")
CONVERSIONS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "bf16": {"dtype": "bfloat16"},
    "8bit": {"quantize": True, "q_bits": 8},
    "4bit": {"quantize": True, "q_bits": 4},
    "mxfp4": {"quantize": True, "q_mode": "mxfp4"},
    "nvfp4": {"quantize": True, "q_mode": "nvfp4"},
}
Answer = Callable[[Case, dict[str, Any]], str]


@dataclass(frozen=True)
class Row:
    """A row of the table: a skill, how many tokens and slices it gets."""

    name: str
    skill: str
    options: dict[str, Any]


ROWS = (
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
assert {row.skill for row in ROWS} == set(SKILLS)


def messages(case: Case) -> list[dict[str, Any]]:
    parts = [{"type": "image"}] * len(case.images) + [{"type": "video"}] * (case.frames is not None)
    return [{"role": "user", "content": [*parts, {"type": "text", "text": case.question}] if parts else case.question}]


def metadata(case: Case) -> dict[str, Any]:
    count = len(case.frames) if case.frames is not None else 0
    return {"total_num_frames": count, "fps": 1.0, "duration": float(count)}


def answers_of_mlx(folder: Path) -> Answer:
    """Answers through mlx-vlm, by whichever port this process has registered."""
    from mlx_vlm import generate, load
    from mlx_vlm.prompt_utils import apply_chat_template

    model, processor = load(str(folder))

    def answer(case: Case, options: dict[str, Any]) -> str:
        media: dict[str, Any] = {"image": list(case.images)} if case.images else {}
        count = {"num_images": len(case.images)}
        template: dict[str, Any] = {}
        if case.frames is not None:
            media |= {"video": [case.frames], "video_metadata": [metadata(case)]}
            template = {"video": ["clip"]}
        prompt = apply_chat_template(processor, model.config, case.question, **count, **template)
        options = {**case.options, **options}
        return str(generate(model, processor, prompt, max_tokens=NEW_TOKENS, temperature=0.0, **media, **options).text)

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
        prompt = processor.apply_chat_template(messages(case), tokenize=False, add_generation_prompt=True)
        media: dict[str, Any] = {"images": list(case.images)} if case.images else {}
        if case.frames is not None:
            frames = torch.from_numpy(case.frames).permute(0, 3, 1, 2)
            media = {"videos": [frames], "video_metadata": [VideoMetadata(**metadata(case))]}
        options = {**case.options, **options}
        inputs = processor(text=prompt, return_tensors="pt", **media, **options)
        mode = {"downsample_mode": options["downsample_mode"]} if "downsample_mode" in options else {}
        with torch.no_grad():
            ids = model.generate(**inputs, **mode, max_new_tokens=NEW_TOKENS, do_sample=False)
        return str(processor.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))

    return answer


def run(way: str, count: int, folder: Path) -> dict[str, list[str]]:
    """Answers of one way to `count` cases of every row; "" where a request fails."""
    if way == "official":
        answer = answers_of_official(folder)
    elif way == "builtin":
        answer = answers_of_mlx(folder)
    else:
        from mlx_vlm.convert import convert

        target = Path(tempfile.mkdtemp()) / way
        convert(str(folder), mlx_path=str(target), **CONVERSIONS[way])
        answer = answers_of_mlx(target)
    found: dict[str, list[str]] = {}
    for row in ROWS:
        found[row.name] = []
        for i in range(count):
            try:
                found[row.name].append(answer(unseen(row.skill, i), row.options))
            except (ValueError, TypeError) as error:
                if way != "builtin":
                    raise
                found[row.name].append(f"({type(error).__name__})")
    return found


def right(row: Row, found: list[str]) -> float:
    """Share of right answers in per cent."""
    return 100 * float(np.mean([text == unseen(row.skill, i).answer for i, text in enumerate(found)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=300, help="cases of each row")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--model", type=Path, default=CHECKPOINT)
    parser.add_argument("--answers", type=Path, help="write the answers of one way to this file, and no table")
    arguments = parser.parse_args()
    if arguments.answers is not None:
        [way] = arguments.ways
        arguments.answers.write_text(json.dumps(run(way, arguments.cases, arguments.model)))
        return

    # Each way in a process of its own: the built-in port is what mlx-vlm uses where ours is told to stay away.
    answers: dict[str, dict[str, list[str]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for way in arguments.ways:
            file = Path(folder) / f"{way}.json"
            environment = {**os.environ, **({"MINICPMV46_DISABLE": "1"} if way == "builtin" else {})}
            command = [sys.executable, __file__, "--ways", way, "--answers", str(file)]
            command += ["--cases", str(arguments.cases), "--model", str(arguments.model)]
            subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
            answers[way] = json.loads(file.read_text())
    print(f"| {arguments.cases} cases a row, right in % | {' | '.join(answers)} |")
    print(f"|---|{'---|' * len(answers)}")
    for row in ROWS:
        print(f"| {row.name} | {' | '.join(f'{right(row, found[row.name]):.1f}' for found in answers.values())} |")
    if "official" in answers:
        same = {
            way: np.mean(
                [a == b for row in ROWS for a, b in zip(found[row.name], answers["official"][row.name], strict=True)]
            )
            for way, found in answers.items()
        }
        print(f"| same text as official | {' | '.join(f'{100 * share:.1f}' for share in same.values())} |")


if __name__ == "__main__":
    main()
