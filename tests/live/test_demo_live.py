"""The demo checkpoint against the official implementation, and its training: started, stopped, gone on, written."""

import signal
import subprocess
import sys
from functools import partial
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("torchvision")

import torch
from mlx_vlm import load
from safetensors.torch import load_file
from support.conversions import convert_here
from transformers.models.qwen3_5 import modeling_qwen3_5

from minicpmv46.demo import CHECKPOINT
from scripts.demo.attention import BFloat16Attention
from scripts.demo.batches import Part, collate, pages
from scripts.demo.evaluate import ROWS, Answer, Row, answers_of_mlx, answers_of_official, slicing_of
from scripts.demo.heads import PERIODS, loss_of_looks, waves_of
from scripts.demo.mixture import FEWEST_PAGES
from scripts.demo.model import Batched, lengthen_chunks, make_model
from scripts.demo.optimization import FALLS, RATES, ROUNDS, rate_in_rounds
from scripts.demo.order import middles_of_tokens, token_order
from scripts.demo.plain_tasks import draw_plain
from scripts.demo.rows import make_row
from scripts.demo.run import HEAD_STEPS, load_written
from scripts.demo.stream import on_device, stream
from scripts.demo.train import EARLIER

CASES = 2
PARTS = {"vision_tower", "merger", "language_model"}
TRAIN = Path(__file__).parents[2] / "scripts" / "train_demo.py"


@pytest.fixture(scope="module")
def official() -> Answer:
    return answers_of_official(CHECKPOINT)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Answer:
    """This port in float32, as the official implementation runs here."""
    return answers_of_mlx(convert_here(CHECKPOINT, tmp_path_factory.mktemp("demo") / "float32", dtype="float32"))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_same_text(official: Answer, ours: Answer, row: Row) -> None:
    """Right or wrong: what the official implementation says, from files to text."""
    slicing = slicing_of(CHECKPOINT)
    for i in range(CASES):
        case = row.case(i, slicing)
        assert ours(case, row.options) == official(case, row.options), f"case {i}: {case.question}"


def train(*arguments: str) -> str:
    command = [sys.executable, str(TRAIN), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_training_knows_where_tokens_stand() -> None:
    """As sines and cosines of the middle of the patches that each token joins."""
    for grid in ((8, 12), (12, 4)):
        middles = torch.cartesian_prod(*((torch.arange(n) + 0.5) / n for n in grid))
        for n in (2, 4):
            joined = middles[torch.from_numpy(token_order(grid, n))].view(-1, n * n, 2).mean(1)
            told = waves_of(torch.from_numpy(middles_of_tokens(grid, n)).float()).view(len(joined), 2, 2, len(PERIODS))
            for i, period in enumerate(PERIODS):
                angles = 2 * torch.pi * joined / period
                torch.testing.assert_close(told[..., i], torch.stack([angles.sin(), angles.cos()], dim=-1))


def lines_of(count: int, mode: str = "16x") -> Part:
    """Requests about plain lines."""
    processor = load(str(CHECKPOINT))[1]
    cases = [draw_plain("read", np.random.default_rng(seed)) for seed in range(count)]
    return on_device(collate([make_row(processor, case, {"downsample_mode": mode}) for case in cases]), "cpu")


def test_training_looks_at_what_is_read() -> None:
    """The loss of the attention is 0 where all of it is on the right tokens, of the right rows, and high elsewhere."""
    [text] = lines_of(3).texts
    rows, length = text.ids.shape
    right = torch.zeros(rows, 4, length, length)
    for row, at, token in text.looks:
        right[row, :, at, token] = 1
    right /= right.sum(-1, keepdim=True).clamp_min(1)
    assert loss_of_looks(right, text).abs() < 1e-3
    assert loss_of_looks(right.flip(0), text) > 10


def test_training_repeats_what_it_keeps() -> None:
    """Each third step is one of those kept, the oldest, once there are enough; other processes draw the same."""
    alone, ahead, again = (
        list(islice(stream(partial(pages, 46, part=0, parts=FEWEST_PAGES), range(12), workers, "cpu", kept), 12))
        for workers, kept in ((0, 0), (1, 0), (0, 2))
    )
    for one, other in zip(alone, ahead, strict=True):
        assert torch.equal(one.patches, other.patches) and torch.equal(one.told, other.told)
    order = [next(i for i, one in enumerate(alone) if torch.equal(one.patches, view.patches)) for view in again]
    assert order == [0, 1, 2, 3, 4, 5, 1, 6, 7, 3, 8, 9]


def test_longer_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """They change how the official linear attention computes, and not what."""
    official = modeling_qwen3_5.torch_chunk_gated_delta_rule
    monkeypatch.setattr(modeling_qwen3_5, "torch_chunk_gated_delta_rule", official)  # put back after the test
    torch.manual_seed(46)
    inputs = [torch.randn(2, 300, 4, 32) for _ in range(3)]
    options = {"g": -torch.rand(2, 300, 4), "beta": torch.rand(2, 300, 4), "use_qk_l2norm_in_kernel": True}
    lengthen_chunks()
    short, long = (f(*inputs, **options)[0] for f in (official, modeling_qwen3_5.torch_chunk_gated_delta_rule))
    assert 0 < (long - short).norm() < 1e-5 * short.norm()


def test_attention_in_bfloat16() -> None:
    """Outputs and gradients against torch's attention in float32: within the precision of bfloat16."""
    torch.manual_seed(46)
    inputs = [torch.randn(3, 5, 160, 32, requires_grad=True) for _ in range(3)]
    weights, scale = torch.randn(3, 5, 160, 32), 32**-0.5
    found = []
    for out in (
        torch.nn.functional.scaled_dot_product_attention(*inputs, scale=scale),
        BFloat16Attention.apply(*inputs, scale),
    ):
        found.append((out.detach(), *torch.autograd.grad((out * weights).sum(), inputs)))
    for exact, short in zip(*found, strict=True):
        assert 0 < (short - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize("mode", ["16x", "4x"])
def test_training_in_bfloat16(mode: str) -> None:
    """With the vision side in bfloat16 the gradients of all weights point where they do in float32."""
    part = lines_of(3, mode)
    model = make_model(CHECKPOINT)
    load_written(model, CHECKPOINT)
    [text], gradients = part.texts, []
    for bfloat16 in (False, True):
        batched = Batched(model, bfloat16=bfloat16)
        hidden = batched.hidden(text, batched.joined(batched.features(part.views))).hidden.flatten(0, 1)[text.asked]
        model.zero_grad()
        torch.nn.functional.cross_entropy(model.lm_head(hidden), text.labels.flatten()[text.asked]).backward()
        gradients.append({name: p.grad.flatten() for name, p in model.named_parameters() if p.grad is not None})
    patches = next(name for name in gradients[0] if name.endswith("patch_embedding.weight"))
    assert not torch.equal(gradients[0][patches], gradients[1][patches])  # it is computed in bfloat16
    for name, exact in gradients[0].items():
        if not name.endswith("k_proj.bias"):  # adds the same to all scores of a query: its gradient is 0 and rounding
            alike = torch.nn.functional.cosine_similarity(exact, gradients[1][name], dim=0)
            assert alike > 0.98, f"{name}: {alike}"


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    """The parts of the model whose weights are others."""
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    return {part for part in PARTS if any(name.startswith(f"model.{part}.") for name in changed)}


def test_training(tmp_path: Path) -> None:
    """Training computes what the official model computes, goes on where it stopped, and writes what mlx-vlm loads."""
    run, written = str(tmp_path / "run"), tmp_path / "checkpoint"
    steps = ("--page-steps", "1", "--decoder-steps", "1", "--steps", "2")
    stages = ("1 of 1 of the pages", "1 of 1 of the decoder", "1 of 2 of the answers", "2 of 2 of the answers")
    outputs, weights = [], []
    for _ in stages:
        outputs.append(train(run, *steps, "--minutes", "0"))
        weights.append(torch.load(Path(run) / "state.pt")["model"])
    assert [moved(*pair) for pair in pairwise(weights)] == [{"language_model"}, PARTS, PARTS]
    assert float(outputs[0].split("official forward: ")[1].split()[0]) < 1e-4
    for output, stage in zip(outputs, stages, strict=True):
        assert f"stopped at step {stage}" in output
    train(run, "--export", str(written))

    for name in ("config.json", "tokenizer.json", "processor_config.json", "chat_template.jinja"):
        assert (written / name).read_text() == (CHECKPOINT / name).read_text(), name
    load(str(written))  # raises where a weight is missing or has another shape

    train(run, "--export", str(tmp_path / "mean"), "--average", str(CHECKPOINT))
    mean, shipped = (load_file(folder / "model.safetensors") for folder in (tmp_path / "mean", CHECKPOINT))
    for name, weight in shipped.items():
        expected = (1 - EARLIER) * weights[-1][name] + EARLIER * weight.float()
        torch.testing.assert_close(mean[name].float(), expected, rtol=2**-8, atol=1e-6, msg=name)


def test_training_begins_with_a_checkpoint(tmp_path: Path) -> None:
    """`--start` takes its weights as they are, and teaches the heads, which it has not, first, over several runs."""
    more = ("--steps", str(ROUNDS[-1] + 1), "--minutes", "0")
    for step, start in enumerate((("--start", str(CHECKPOINT)), ()), 1):
        assert f"stopped at step {step} of {HEAD_STEPS} of the heads" in train(str(tmp_path), *start, *more)
    begun, shipped = torch.load(tmp_path / "state.pt")["model"], load_file(CHECKPOINT / "model.safetensors")
    for name, weight in shipped.items():
        assert torch.equal(begun[name], weight.float()), name


def test_training_ends_with_its_command(tmp_path: Path) -> None:
    """Its processes end when it is killed, also where a shell has made them ignore Ctrl-C."""
    ignored = partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
    command, pipe = [sys.executable, str(TRAIN), str(tmp_path)], subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=subprocess.STDOUT, text=True, preexec_fn=ignored) as process:
        assert process.stdout is not None
        assert "parameters" in process.stdout.readline()
        process.kill()
        process.communicate(timeout=60)  # until no process has its output open


def test_rate_falls_and_begins_anew() -> None:
    """In each round it rises for 100 steps and is 0 at the end; a round that the last step cuts off ends there.

    A short round falls while it rises: its peak is what is left of the rate after the rise.
    """
    begins, ends = (0, *ROUNDS), (*ROUNDS, ROUNDS[-1] + 2000)
    for begin, end, rate, fall in zip(begins, ends, RATES, FALLS, strict=True):
        rates = [rate_in_rounds(step, ends[-1]) for step in range(begin, end)]
        assert rates[0] == pytest.approx(rate / 100)
        assert rates[-1] < 0.01 * rate
        left = (end - begin - 99) / (fall * (end - begin))
        assert max(rates) == pytest.approx(rate * min(left, 1), rel=0.005)
    assert rate_in_rounds(999, 1000) < 0.01 * RATES[0]
