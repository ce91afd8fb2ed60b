"""The commands of training and of answering with an adapter, and a model that its adapter is fused into."""

import re
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_unflatten
from mlx_vlm import generate, load
from mlx_vlm.prompt_utils import apply_chat_template
from mlx_vlm.utils import save_weights
from support.running import python
from support.training_rows import ROWS, TARGETS, Run, absolute, row_inputs


@pytest.mark.usefixtures("folder")  # skips where it must
def test_commands(base: Any, data: Any, tmp_path: Path) -> None:
    """The two commands: the losses and the answer are those of Python, and not the base's answer."""
    folder = data(ROWS["one unit and slices"])
    image, prompt = str(folder / "wide.png"), "And this one?"
    places = ("--model", str(base()), "--data", str(folder), "--output-path", "out")
    flags = ("--batch-size", "2", "--iters", "3", "--steps-per-report", "1", "--learning-rate", "1e-2")
    done = python("-m", "mlx_vlm.train", *places, *flags, "--train-vision", folder=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    printed = re.findall(r"train_loss=([\d.]+)", (done.stdout + done.stderr).decode())
    here = Run(base(), folder, tmp_path / "here", "--learning-rate", "1e-2", "--train-vision")
    np.testing.assert_allclose([float(loss) for loss in printed], here.losses, rtol=1e-4)
    assert here.losses[2] < here.losses[0]

    request = ("--image", image, "--prompt", prompt, "--max-tokens", "6", "--temperature", "0", "--no-verbose")
    place = ("--model", str(base()), "--adapter-path", "out")
    answer = python("-m", "mlx_vlm.generate", *place, *request, folder=tmp_path)
    assert answer.returncode == 0, answer.stderr.decode()

    def ask(model: Any, processor: Any) -> str:
        asked = apply_chat_template(processor, model.config, prompt, num_images=1)
        return generate(model, processor, asked, image=image, max_tokens=6, temperature=0.0).text

    expected = ask(here.model, here.processor)
    assert expected.strip() and expected != ask(*load(str(base())))
    assert answer.stdout.decode().strip() == expected.strip()


def test_fused(base: Any, data: Any, tmp_path: Path) -> None:
    """mlx-vlm has no command that fuses; its layers' `fuse` gives a folder that loads like any other."""
    folder = data(ROWS["single units"])
    done = Run(base(), folder, tmp_path / "out", "--target-modules", *TARGETS)
    modules = done.model.named_modules()
    done.model.update_modules(tree_unflatten([(name, m.fuse()) for name, m in modules if hasattr(m, "fuse")]))
    shutil.copytree(base(), tmp_path / "fused")
    (tmp_path / "fused" / "model.safetensors").unlink()
    save_weights(tmp_path / "fused", done.model)
    fused, processor = load(str(tmp_path / "fused"))
    adapted, _ = load(str(base()), adapter_path=str(tmp_path / "out"))
    inputs = row_inputs((fused, processor), absolute(ROWS["single units"][1], folder))
    media = {name: inputs[name] for name in ("pixel_values", "image_units")}
    expected = adapted(inputs["input_ids"], **media).logits
    assert mx.allclose(fused(inputs["input_ids"], **media).logits, expected, rtol=1e-4, atol=1e-4)
