"""What is told of a checkpoint's files equals what MLX loads from them."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from mlx.utils import tree_flatten
from mlx_vlm.utils import load_model
from support.conversions import convert_here
from support.running import python

from minicpmv46 import __version__, demo
from minicpmv46.checkpoint import check_checkpoint
from minicpmv46.contents import PARTS
from scripts.launches import step_bytes

Make = Callable[[str], Path]

FORMS = {
    "8-bit": {"q_bits": 8},
    "4-bit": {"q_bits": 4},
    "mxfp4": {"q_mode": "mxfp4"},
    "nvfp4": {"q_mode": "nvfp4"},
}


@pytest.fixture(scope="module")
def quantized(checkpoint: Make, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("quantized")
    return {
        name: convert_here(checkpoint("base"), folder / name, quantize=True, **{"q_group_size": None, **form})
        for name, form in FORMS.items()
    }


@pytest.mark.parametrize("variant", ["base", "bf16", "untied", "ocr"])
def test_bytes_of_a_step_are_those_of_the_loaded_model(checkpoint: Make, variant: str) -> None:
    folder = checkpoint(variant)
    assert check_checkpoint(folder).bytes_of_step == step_bytes(load_model(folder).language_model)


@pytest.mark.parametrize("form", FORMS)
def test_bytes_and_bits_of_quantized_checkpoints(quantized: dict[str, Path], form: str) -> None:
    contents, model = check_checkpoint(quantized[form]), load_model(quantized[form])
    assert contents.bytes_of_step == step_bytes(model.language_model)
    assert contents.layout == "converted by mlx-vlm"
    mlp = model.language_model.model.layers[0].mlp.gate_proj
    label = f"{mlp.bits}-bit" if mlp.mode == "affine" else mlp.mode
    assert contents.parts["MLPs"] == label == form
    embedding = model.language_model.model.embed_tokens
    assert contents.parts["embedding"].startswith(f"{embedding.bits}-bit")
    assert contents.parts["vision encoder"] == contents.parts["mergers"] == "float32"


def test_every_matrix_has_a_part(checkpoint: Make) -> None:
    model = load_model(checkpoint("untied"))
    matrices = [path for path, x in tree_flatten(model.parameters()) if x.ndim in (2, 4)]
    assert {sum(bool(pattern.match(path)) for pattern in PARTS.values()) for path in matrices} == {1}


@pytest.mark.parametrize(
    ("variant", "name", "stored"),
    [
        ("base", "MiniCPM-V 4.6", "official layout, float32"),
        ("bf16", "MiniCPM-V 4.6", "official layout, bfloat16"),
        ("ocr", "MiniCPM-OCR 1.0", "official layout, float32"),
    ],
)
def test_one_line_in_the_log(
    checkpoint: Make, caplog: pytest.LogCaptureFixture, variant: str, name: str, stored: str
) -> None:
    with caplog.at_level(logging.INFO):
        load_model(checkpoint(variant))
    found = [record for record in caplog.records if record.name == "minicpmv46"]
    assert [(record.levelname, record.getMessage()) for record in found] == [
        ("INFO", f"minicpmv46 {__version__} loaded {name} ({stored})")
    ]


def test_mixed_bits_are_named_in_the_log(quantized: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "minicpmv46"):
        load_model(quantized["4-bit"])
    [message] = [record.getMessage() for record in caplog.records if record.name == "minicpmv46"]
    assert message.endswith("loaded MiniCPM-V 4.6 (converted by mlx-vlm, 4-bit, 5-bit and 6-bit)")


def test_no_logger_is_changed(folder: Path) -> None:
    """A program that configures nothing sees nothing, and one that does sees the line."""
    code = """
        import logging, sys
        import mlx_vlm

        def state():
            loggers = {None: logging.root, **logging.root.manager.loggerDict}
            return {name: (x.level, list(x.handlers)) for name, x in loggers.items() if isinstance(x, logging.Logger)}

        before = state()
        mlx_vlm.load(sys.argv[1])
        after = state()
        assert {name: after[name] for name in before} == before
        assert after["minicpmv46"] == (logging.NOTSET, [])
        print("configured", file=sys.stderr, flush=True)
        logging.basicConfig(level=logging.INFO)
        mlx_vlm.load(sys.argv[1])
    """
    done = python("-c", "if True:\n" + code, demo.path(), folder=folder)
    assert done.returncode == 0, done.stderr.decode()
    before, after = done.stderr.decode().split("configured\n")
    line = f"INFO:minicpmv46:minicpmv46 {__version__} loaded MiniCPM-V 4.6 (official layout, bfloat16)\n"
    assert "minicpmv46" not in before and line in after


def test_the_command_prints_what_it_printed(folder: Path) -> None:
    arguments = ("--model", demo.path(), "--image", demo.sample("read.png"), "--prompt", "What does it say?")
    done = python("-m", "mlx_vlm.generate", *arguments, "--no-verbose", folder=folder)
    assert (done.returncode, done.stdout.decode()) == (0, "K7RM2\n"), done.stderr.decode()
    assert b"loaded MiniCPM" not in done.stderr
