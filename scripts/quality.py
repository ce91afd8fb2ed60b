"""How far one checkpoint's answers are from another's, such as a quantized form's from the one it was made of.

    python scripts/quality.py FOLDER --against REFERENCE
    python scripts/quality.py quantized --against original --texts report.txt --images receipt.jpg page.png

Compares the distributions of the next token. On texts, both read what stands there. On questions about pictures, or
without one, the reference answers greedily and both read its answer, so that they are compared along one path. Without
`--texts` and `--images` the pictures of the demo and some questions serve.

KL divergence is that of FOLDER's distribution from the reference's, in nats a token; "same first choice" is the share
of positions where both find the same token likeliest. Both models run as they are stored, one after the other; the
reference's distributions wait on the disk, 1 MB a position for the real vocabulary.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import mlx.core as mx
import numpy as np

from minicpmv46.config import Config
from minicpmv46.demo import SAMPLES

PIECE = 64  # positions whose distributions are in memory at once
PREFILL = 512  # tokens that are read at once where no distribution is needed
CONTEXT = 1024  # tokens of a text that are read in one go; what follows starts anew
PICTURE_PROMPT = "Describe this image."
# Questions about the demo's pictures, as it was trained on them.
DEMO_PICTURES = {
    "read.png": "What does it say?",
    "small.png": "What does it say?",
    "star.png": "What is in the image?",
    "circle.png": "What is in the image?",
    "three.png": "How many objects are there?",
}
QUESTIONS = ("What is 7 plus 8?", "What is the capital of France?", "Why is the sky blue? Answer in two sentences.")


@dataclass(frozen=True)
class Passage:
    """Tokens that both models read, from `first` on also as what is to be predicted."""

    name: str
    kind: str  # "texts" or "answers"
    ids: np.ndarray  # [length]
    first: int
    media: Mapping[str, Any] = field(default_factory=dict)  # what the processor made of a picture

    @property
    def positions(self) -> int:
        return len(self.ids) - self.first


@dataclass(frozen=True)
class Comparison:
    """What differs in a passage, an entry for each position."""

    kl: np.ndarray
    same: np.ndarray  # whether both find one token likeliest
    reference_loss: np.ndarray  # -log p of the token that stands there
    loss: np.ndarray


@dataclass(frozen=True)
class Summary:
    """A row of the table."""

    positions: int
    mean_kl: float
    largest_kl: float
    same_first_choice: float
    reference_perplexity: float
    perplexity: float


def vocabulary(folder: Path) -> int:
    """Number of tokens of a checkpoint; raises `ValueError` where a folder holds none of this model."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder; name one that holds a checkpoint")
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} holds no config.json; name the folder of a checkpoint")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return Config.from_dict(config).text_config.vocab_size


def check_folders(folder: Path, against: Path) -> None:
    """Raise `ValueError` with one sentence where two folders cannot be compared."""
    own, others = vocabulary(folder), vocabulary(against)
    if own != others:
        raise ValueError(f"{folder} has a vocabulary of {own} tokens, {against} one of {others}")


def load(folder: Path) -> tuple[Any, Any]:
    """Model and processor through mlx-vlm; ends with what is wrong with the folder's files."""
    from mlx_vlm import load as load_with_mlx_vlm

    import minicpmv46  # noqa: F401  registers, also where the wheel's .pth file is not installed

    try:
        loaded: tuple[Any, Any] = load_with_mlx_vlm(str(folder))
    except (OSError, ValueError) as error:
        raise SystemExit(f"{folder} cannot be loaded: {error}") from error
    return loaded


def text_passages(processor: Any, file: Path, positions: int) -> list[Passage]:
    """The beginning of a text in pieces of `CONTEXT` tokens; the first token of each is not predicted."""
    ids = np.array(processor.tokenizer.encode(file.read_text(encoding="utf-8"), add_special_tokens=False))
    ids = ids[: positions + 1]
    pieces = [ids[i : i + CONTEXT] for i in range(0, len(ids), CONTEXT)]
    passages = [Passage(file.name, "texts", piece, 1) for piece in pieces if len(piece) > 1]
    if not passages:
        raise SystemExit(f"{file} is too short: a text needs two tokens at least")
    return passages


def answer_passage(
    loaded: tuple[Any, Any], question: str, picture: Path | None, tokens: int, options: Mapping[str, Any]
) -> Passage:
    """A question with the greedy answer of the loaded model, its end included."""
    from mlx_vlm.prompt_utils import apply_chat_template
    from mlx_vlm.utils import prepare_inputs

    model, processor = loaded
    pictures = [] if picture is None else [str(picture)]
    prompt = apply_chat_template(processor, model.config, question, num_images=len(pictures), enable_thinking=False)
    inputs = prepare_inputs(processor, images=pictures or None, prompts=prompt, **(options if pictures else {}))
    ids = np.array(inputs["input_ids"])[0]
    media = {name: value for name, value in inputs.items() if name not in ("input_ids", "attention_mask")}
    media = {name: value for name, value in media.items() if value is not None}
    answer = greedy(model, ids, media, tokens, stop_tokens(model))
    name = question if picture is None else f"{picture.name}: {question}"
    return Passage(name, "answers", np.concatenate([ids, answer]), len(ids), media)


def stop_tokens(model: Any) -> set[int]:
    stops = model.config.eos_token_id
    return set(stops) if isinstance(stops, (list, tuple)) else {stops}


def embed(model: Any, ids: np.ndarray, media: Mapping[str, Any]) -> mx.array:
    """Embeddings of a passage, [1, length, hidden], with visual features at their places."""
    arguments = {"pixel_values": None, **media}
    embeds: mx.array = model.get_input_embeddings(mx.array(ids[None]), mask=None, **arguments).inputs_embeds
    return embeds


def read(model: Any, cache: list[Any], ids: np.ndarray, embeds: mx.array) -> None:
    """Bring tokens into the cache; their logits are not needed."""
    for start in range(0, len(ids), PREFILL):
        piece = slice(start, start + PREFILL)
        model.language_model(mx.array(ids[None, piece]), inputs_embeds=embeds[:, piece], cache=cache, logits_to_keep=1)
        mx.eval([entry.state for entry in cache])


def greedy(model: Any, ids: np.ndarray, media: Mapping[str, Any], tokens: int, stops: set[int]) -> np.ndarray:
    """The likeliest continuation, at most `tokens` long, [length]."""
    from mlx_vlm.models.cache import make_prompt_cache

    cache = make_prompt_cache(model.language_model)
    embeds = embed(model, ids, media)
    read(model, cache, ids[:-1], embeds[:, :-1])
    logits = model.language_model(mx.array(ids[None, -1:]), inputs_embeds=embeds[:, -1:], cache=cache).logits
    answer: list[int] = []
    while len(answer) < tokens:
        answer.append(int(np.argmax(np.array(logits[0, -1].astype(mx.float32)))))
        if answer[-1] in stops:
            break
        logits = model.language_model(mx.array([answer[-1:]]), cache=cache).logits
    return np.array(answer)


def log_probabilities(model: Any, passage: Passage) -> Iterator[mx.array]:
    """Float32 logarithms of the distributions of a passage's predicted tokens, [at most PIECE, vocabulary]."""
    from mlx_vlm.models.cache import make_prompt_cache

    cache = make_prompt_cache(model.language_model)
    embeds = embed(model, passage.ids, passage.media)
    begin = passage.first - 1  # the token before the first that is predicted
    read(model, cache, passage.ids[:begin], embeds[:, :begin])
    for start in range(begin, len(passage.ids) - 1, PIECE):
        piece = slice(start, min(start + PIECE, len(passage.ids) - 1))
        ids = mx.array(passage.ids[None, piece])
        logits = model.language_model(ids, inputs_embeds=embeds[:, piece], cache=cache).logits[0].astype(mx.float32)
        yield logits - mx.logsumexp(logits, axis=-1, keepdims=True)


def remember(model: Any, passages: Sequence[Passage], folder: Path) -> None:
    """Write the reference's distributions, a file for each piece."""
    for i, passage in enumerate(passages):
        for j, found in enumerate(log_probabilities(model, passage)):
            np.save(folder / f"{i}-{j}.npy", np.array(found))
        print(f"reference: {passage.name}, {passage.positions} positions", file=sys.stderr, flush=True)


def compare(model: Any, passage: Passage, files: Iterator[Path]) -> Comparison:
    """The loaded model beside what `remember` wrote for a passage."""
    pieces = []
    targets = passage.ids[passage.first :]
    for start, (found, file) in enumerate(zip(log_probabilities(model, passage), files, strict=False)):
        known = mx.array(np.load(file))
        token = mx.array(targets[start * PIECE : start * PIECE + len(known)])[:, None]
        columns = (
            (mx.exp(known) * (known - found)).sum(-1),
            mx.argmax(known, -1) == mx.argmax(found, -1),
            -mx.take_along_axis(known, token, -1)[:, 0],
            -mx.take_along_axis(found, token, -1)[:, 0],
        )
        pieces.append([np.array(column) for column in columns])
    return Comparison(*(np.concatenate(column) for column in zip(*pieces, strict=True)))


def summarize(found: Sequence[Comparison]) -> Summary:
    def column(name: str) -> np.ndarray:
        return np.concatenate([np.asarray(getattr(each, name), dtype=np.float64) for each in found])

    return Summary(
        positions=len(column("kl")),
        mean_kl=float(column("kl").mean()),
        largest_kl=float(column("kl").max()),
        same_first_choice=float(column("same").mean()),
        reference_perplexity=math.exp(column("reference_loss").mean()),
        perplexity=math.exp(column("loss").mean()),
    )


def table(rows: Mapping[str, Summary]) -> str:
    """The rows in Markdown."""
    lines = ["| | positions | mean KL | largest KL | same first choice | perplexity, reference | perplexity |"]
    lines.append("|---|---|---|---|---|---|---|")
    for name, row in rows.items():
        cells = [name, str(row.positions), f"{row.mean_kl:.3g}", f"{row.largest_kl:.3g}"]
        cells += [f"{100 * row.same_first_choice:.2f} %", f"{row.reference_perplexity:.4g}", f"{row.perplexity:.4g}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def make_passages(loaded: tuple[Any, Any], given: argparse.Namespace) -> list[Passage]:
    """What is compared, by what the user named or by default."""
    passages = [p for file in given.texts for p in text_passages(loaded[1], file, given.positions)]
    asked: list[tuple[str, Path | None]] = [(given.prompt or PICTURE_PROMPT, file) for file in given.images]
    if not given.texts and not given.images:
        asked = [(given.prompt or question, SAMPLES / name) for name, question in DEMO_PICTURES.items()]
        asked += [(question, None) for question in QUESTIONS]
    options = given.processor_kwargs
    return passages + [answer_passage(loaded, *each, given.max_tokens, options) for each in asked]


def quality(given: argparse.Namespace) -> tuple[dict[str, Summary], dict[str, Summary]]:
    """Summaries by kind of passage, and by passage."""
    with tempfile.TemporaryDirectory() as temporary:
        kept = Path(temporary)
        loaded = load(given.against)
        passages = make_passages(loaded, given)
        remember(loaded[0], passages, kept)
        del loaded  # before the other: both may not fit into memory
        mx.clear_cache()
        model, _ = load(given.folder)
        found = []
        for i, passage in enumerate(passages):
            pieces = range(-(-passage.positions // PIECE))
            found.append(compare(model, passage, (kept / f"{i}-{j}.npy" for j in pieces)))
    kinds = {kind: [c for c, p in zip(found, passages, strict=True) if p.kind == kind] for kind in ("texts", "answers")}
    rows = {kind: summarize(each) for kind, each in kinds.items() if each}
    if len(rows) > 1:
        rows["all"] = summarize(found)
    return rows, {f"{i}: {p.name}": summarize([c]) for i, (c, p) in enumerate(zip(found, passages, strict=True))}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="checkpoint that is judged")
    parser.add_argument("--against", type=Path, required=True, metavar="REFERENCE", help="checkpoint it is judged by")
    parser.add_argument("--texts", type=Path, nargs="+", default=[], metavar="FILE", help="texts in UTF-8")
    parser.add_argument("--images", type=Path, nargs="+", default=[], metavar="FILE")
    parser.add_argument("--prompt", help=f"question about every picture (default: {PICTURE_PROMPT!r})")
    parser.add_argument("--max-tokens", type=int, default=64, help="tokens of an answer")
    parser.add_argument("--positions", type=int, default=512, help="tokens of each text, from its beginning")
    parser.add_argument("--processor-kwargs", type=json.loads, default={}, help="as for mlx_vlm.generate, in JSON")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers to this file")
    given = parser.parse_args(arguments)
    try:
        check_folders(given.folder, given.against)
    except ValueError as error:
        parser.error(str(error))
    missing = [str(file) for file in [*given.texts, *given.images] if not file.is_file()]
    if missing:
        parser.error(f"no such file: {', '.join(missing)}")
    if given.max_tokens < 1 or given.positions < 1:
        parser.error("--max-tokens and --positions must be at least 1")
    if not isinstance(given.processor_kwargs, dict):
        parser.error('--processor-kwargs must be an object such as {"downsample_mode": "4x"}')
    return given


def main(arguments: Sequence[str] | None = None) -> None:
    given = parse(arguments)
    rows, passages = quality(given)
    record = {"folder": str(given.folder), "against": str(given.against)}
    summaries = {kind: asdict(row) for kind, row in rows.items()}
    details = {name: asdict(row) for name, row in passages.items()}
    text = json.dumps({**record, **summaries, "passages": details}, indent=1)
    if given.json is not None:
        given.json.write_text(text, encoding="utf-8")
    print(table(rows))


if __name__ == "__main__":
    main()
