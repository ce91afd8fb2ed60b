"""The benchmark: what it counts, the checkpoint it makes, what it does with a port that fails, what it tells."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import mlx.core as mx
import mlx_vlm
import pytest
from support.conversions import convert_here, read_json
from support.running import python

from minicpmv46.config import Config
from minicpmv46.demo import CHECKPOINT
from minicpmv46.model import Model, parameter_shapes
from scripts import benchmark, benchmark_report, launches, random_checkpoint
from scripts.benchmark_stages import STAGES

REAL_PARAMETERS = 1_300_428_016  # of the official configuration
SCRIPTS = Path(__file__).parents[1] / "scripts"


def values(*shape: int, kind: mx.Dtype = mx.bfloat16) -> mx.array:
    x = mx.ones(shape, dtype=kind)
    mx.eval(x)
    return x


def number(*arrays: mx.array) -> int:
    return sum(launches.count(*arrays).values())


def test_operations_are_counted_and_views_are_not() -> None:
    x, y = values(2, 3), values(3, 4)
    assert launches.count(x @ y + 1) == {"Matmul": 1, "Add": 1}
    assert launches.count((x @ y).reshape(4, 2).T[1:]) == {"Matmul": 1}
    assert launches.count(x.astype(mx.float32) * 2, x @ y) == {"AsType": 1, "Multiply": 1, "Matmul": 1}
    chain = mx.compile(lambda x: mx.sigmoid(x) * x + 1, shapeless=True)
    assert number(chain(x)) == 1


def test_a_fused_operation_is_one_launch() -> None:
    """A norm in one type, the rotation, attention and the delta rule, whose two results come from one kernel."""
    x = values(1, 2, 1, 4)
    assert number(launches.rms_norm(x, values(4), 1e-6)) == 1
    assert number(launches.rope(x, 4, offset=3)) == 1
    assert number(launches.attention(x, values(1, 1, 5, 4), values(1, 1, 5, 4), scale=1.0)) == 1
    q, v, gates, state = values(1, 1, 2, 4), values(1, 1, 2, 3), values(1, 1, 2), values(1, 2, 3, 4)
    assert number(*launches.delta_rule(q, q, v, gates, gates, state)) == 1
    kernel = launches.metal_kernel(name="any", source="")
    assert number(*kernel([x], output_shapes=[(2,), (3,)], output_dtypes=[mx.float32, mx.float32])) == 1


def test_casts_for_fused_operations_are_counted() -> None:
    """MLX's norm widens its input for a float32 weight, and what is computed for attention's keys belongs to it."""
    x = values(1, 2, 1, 4)
    assert number(launches.rms_norm(x, values(4, kind=mx.float32), 1e-6)) == 2
    assert number(launches.attention(x, x + 1, x * 2, scale=1.0)) == 3


@pytest.mark.parametrize("variant", ["base", "untied"])
def test_step_bytes(model: Callable[[str], Model], variant: str) -> None:
    """All of the decoder, with the table of embeddings only where it is the head too."""
    language_model = model(variant).language_model
    shapes = parameter_shapes(model(variant).config.architecture)
    sizes = {path: 4 * math.prod(shape) for path, shape in shapes.items() if path.startswith("language_model.")}
    table = sizes["language_model.model.embed_tokens.weight"] if variant == "untied" else 0
    assert launches.step_bytes(language_model) == sum(sizes.values()) - table


def test_step_bytes_of_a_quantized_form(tmp_path: Path) -> None:
    """Four bits read less, and are counted as they are stored."""
    stored = mlx_vlm.load(str(CHECKPOINT))[0].language_model
    folder = convert_here(CHECKPOINT, tmp_path / "4bit", quantize=True, q_bits=4)
    smaller = mlx_vlm.load(str(folder))[0].language_model
    saved = launches.step_bytes(stored) - launches.step_bytes(smaller)
    layers = stored.model.layers
    mlp = sum(x.nbytes for layer in layers for x in (layer.mlp.gate_proj.weight, layer.mlp.down_proj.weight))
    assert saved > mlp / 2  # 16 bits become 4 and a half


def test_random_checkpoint_has_the_real_sizes() -> None:
    settings = random_checkpoint.config(24, 27)
    shapes = parameter_shapes(Config.from_dict(settings))
    assert sum(math.prod(shape) for shape in shapes.values()) == REAL_PARAMETERS
    assert (settings["image_token_id"], settings["video_token_id"], settings["eos_token_id"]) == (
        248056,
        248057,
        248044,
    )
    assert settings["insert_layer_id"] == settings["vision_config"]["insert_layer_id"] == 6


def test_random_checkpoint_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made small here, it loads, and whatever token a random head picks has a text."""
    heads = {"linear_num_key_heads": 2, "linear_num_value_heads": 2, "num_attention_heads": 2}
    monkeypatch.setattr(random_checkpoint, "TEXT_WIDTHS", {"hidden_size": 32, "intermediate_size": 64, **heads})
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    monkeypatch.setattr(random_checkpoint, "VISION_WIDTHS", vision)
    random_checkpoint.make(tmp_path, text_layers=4, vision_layers=3)
    model, processor = mlx_vlm.load(str(tmp_path))
    assert len(processor.tokenizer) == random_checkpoint.VOCABULARY
    assert None not in processor.tokenizer.convert_ids_to_tokens(range(random_checkpoint.VOCABULARY))
    prompt = mlx_vlm.apply_chat_template(processor, model.config, "What is it?", num_images=1)
    picture = str(CHECKPOINT.parent / "samples" / "star.png")
    answer = mlx_vlm.generate(model, processor, prompt, image=[picture], max_tokens=3, temperature=0.0)
    assert answer.generation_tokens == 3


def test_random_checkpoint_needs_layers_of_both_kinds(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="3 text and 1 vision layers"):
        random_checkpoint.make(tmp_path, text_layers=3, vision_layers=1)


def test_both_ports_are_measured_and_a_failure_is_told(tmp_path: Path) -> None:
    """The built-in port refuses 4x: the table says so, and the stages behind it are measured."""
    stages = ("vision-448-4x", "decode-1", "launches-1", "bytes")
    done = python(
        *(SCRIPTS / "benchmark.py", "--model", CHECKPOINT, "--output", tmp_path / "out", "--quick", "--rounds", "1"),
        *("--stages", *stages),
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stderr.decode()
    record = read_json(tmp_path / "out" / "benchmark.json")
    found = {port: {} for port in benchmark.PORTS}
    for run in record["runs"]:
        found[run["port"]].update(run["results"])
    assert all(set(results) == set(stages) for results in found.values())
    assert found["built-in"].pop("vision-448-4x")["error"].startswith("ValueError: MiniCPM-V vision feature token")
    assert not any("error" in result for results in found.values() for result in results.values())
    assert found["built-in"]["launches-1"]["count"] != found["ours"]["launches-1"]["count"]

    table = (tmp_path / "out" / "benchmark.md").read_text()
    assert table in done.stdout.decode()
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ")[1:] for line in table.splitlines() if "|" in line}
    failed, ours, ratio, *_ = rows[STAGES["vision-448-4x"].title]
    assert failed.startswith("fails: ValueError") and ours.endswith("s") and ratio == ""
    assert float(rows[STAGES["decode-1"].title][2]) > 0
    assert "torch" not in record["versions"]
    drawn = ElementTree.parse(tmp_path / "out" / "benchmark.svg").getroot()
    assert {STAGES[name].title for name in stages} <= {text.text for text in drawn.iter() if text.text}


def test_worker_leaves_torch_alone(tmp_path: Path) -> None:
    code = "import sys; from scripts import benchmark, launches, quality; sys.exit('torch' in sys.modules)"
    command = f"import sys; sys.path.insert(0, {str(SCRIPTS.parent)!r}); {code}"
    assert python("-c", command, folder=tmp_path).returncode == 0


RESULTS: dict[str, Any] = {
    "decode-1": (
        {"built-in": [{"seconds": [0.4, 0.2], "work": 16}, {"seconds": [0.3], "work": 16}]},
        {"ours": [{"seconds": [0.1], "work": 16}, {"seconds": [0.2, 0.2], "work": 16}]},
    ),
    "preprocess-4x": (
        {"built-in": [{"seconds": [0.5], "work": 100, "peak_bytes": 5}]},
        {"ours": [{"seconds": [1.0], "work": 400, "peak_bytes": 5}]},
    ),
}


def test_ratios_and_their_spread() -> None:
    """Of the best call of each round; how much faster ours is."""
    builtin, ours = RESULTS["decode-1"]
    row = benchmark_report.make_row("decode-1", {**builtin, **ours})
    assert row.ratios == pytest.approx((2.0, 1.5))
    assert row.ratio == "1.75 (1.50 to 2.00)"
    assert row.values == {"built-in": "64 tokens/s", "ours": "107 tokens/s"}


def test_ports_that_do_different_work_are_told() -> None:
    builtin, ours = RESULTS["preprocess-4x"]
    [note] = benchmark_report.make_row("preprocess-4x", {**builtin, **ours}).notes
    assert "100 tokens in the built-in port, 400 in ours" in note


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stages", "vison"], "no stage begins with 'vison'; there are preprocess-16x"),
        (["--rounds", "0"], "--rounds 0: at least one round is needed"),
        (["--layers", "3"], "--layers 3: from 4"),
        (["--layers", "8", "--model", str(CHECKPOINT)], "--layers is for the random checkpoint"),
        (["--model", "no-such-folder"], "no-such-folder: no such folder, and no repository"),
        (["--output", str(CHECKPOINT / "config.json")], "a file is there; name a folder"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        benchmark.parse(arguments)
    assert raised.value.code == 2
    assert message in capsys.readouterr().err


def test_stages_are_chosen_by_their_beginnings() -> None:
    assert benchmark.chosen(["decode", "bytes"], False) == ("decode-1", "decode-4", "decode-8", "bytes")
    assert benchmark.chosen(None, False) == tuple(STAGES)
    assert "vision-page-16x" not in benchmark.chosen(None, True)


def test_port_that_was_not_asked_for() -> None:
    """Timings of one port must not pass for the other's."""
    benchmark.check_port("ours", "minicpmv46.model")
    with pytest.raises(SystemExit, match="where the built-in port was to be measured"):
        benchmark.check_port("built-in", "minicpmv46.model")


def test_last_error() -> None:
    log = 'Traceback (most recent call last):\n  File "x"\nValueError: it is wrong\n'
    assert benchmark.last_error(log, 1) == "ValueError: it is wrong"
    assert benchmark.last_error("", -9) == "killed by SIGKILL"
