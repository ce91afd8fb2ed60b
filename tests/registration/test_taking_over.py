"""What the registration is for: this model and processor where they are meant, and everybody else's untouched."""

import shutil
from pathlib import Path

import pytest
from support.environments import Environment


def test_load_generate_and_convert_use_our_model(installed: Environment, checkpoint: Path) -> None:
    code = f"""
        import mlx_vlm
        from mlx_vlm.convert import convert

        def load(path):
            model, processor = mlx_vlm.load(path, trust_remote_code=True)
            assert type(model).__module__ == "minicpmv46.model"
            assert type(processor).__module__ == "minicpmv46.processing"
            return model, processor

        model, processor = load({str(checkpoint)!r})
        prompt = mlx_vlm.apply_chat_template(processor, model.config, "Hello")
        before = mlx_vlm.generate(model, processor, prompt, max_tokens=4, temperature=0)
        convert({str(checkpoint)!r}, "converted", dtype="float32")
        model, processor = load("converted")
        assert mlx_vlm.generate(model, processor, prompt, max_tokens=4, temperature=0).text == before.text
    """
    installed.run(code)


def test_builtin_ports_stay_importable_and_do_not_take_over(installed: Environment, checkpoint: Path) -> None:
    code = f"""
        import json, pathlib
        import mlx_vlm.utils
        import mlx_vlm.models.minicpmv4_6 as builtin
        import mlx_vlm.models.minicpmv4_7 as newer
        import mlx_vlm.models.minicpmv4_6.language, mlx_vlm.models.minicpmv4_6.processing_minicpmv4_6

        assert builtin.Model.__module__ == "mlx_vlm.models.minicpmv4_6.minicpmv4_6"
        assert newer.VisionModel is builtin.VisionModel
        processor = mlx_vlm.utils.load_processor(pathlib.Path({str(checkpoint)!r}))
        assert type(processor).__module__ == "minicpmv46.processing"

        # The 4.7 port still gets its own checkpoints, through its own patch of AutoProcessor.
        newer.MiniCPMV4_7Processor.from_pretrained = lambda path, **kwargs: "4.7"
        pathlib.Path("newer").mkdir(exist_ok=True)
        pathlib.Path("newer/config.json").write_text(json.dumps({{"model_type": "minicpmv4_7"}}))
        assert mlx_vlm.utils.AutoProcessor.from_pretrained("newer") == "4.7"
        assert mlx_vlm.utils.get_model_and_args({{"model_type": "minicpmv4_7"}})[0] is newer
    """
    installed.run(code)


@pytest.mark.parametrize("builtin_imported", ["", "import mlx_vlm.models.minicpmv4_6"], ids=["alone", "builtin"])
def test_processor_failure_is_shown_as_it_is(
    installed: Environment, checkpoint: Path, tmp_path: Path, builtin_imported: str
) -> None:
    shutil.copytree(checkpoint, tmp_path, dirs_exist_ok=True)
    (tmp_path / "processor_config.json").write_text('{"image_processor": {"scale_resolution": "large"}}')
    code = f"""
        import pathlib
        import mlx_vlm.utils
        from minicpmv46 import Processor

        errors = []
        for load in (Processor.from_pretrained, mlx_vlm.utils.load_processor):
            try:
                load(pathlib.Path({str(tmp_path)!r}))
            except (TypeError, ValueError) as error:
                errors.append((type(error), str(error)))
        assert len(errors) == 2 and errors[0] == errors[1], errors
        print(errors[0][1])
    """
    message = installed.run(builtin_imported, code)
    assert "scale_resolution" in message and "torch" not in message.lower()


def test_other_processors_do_not_import_ours(installed: Environment) -> None:
    installed.run("""
        import sys
        import mlx_vlm.utils, mlx_vlm.prompt_utils
        from transformers import BatchEncoding

        class Tokenizer:
            pad_token = "<pad>"

            def __call__(self, prompts, **options):
                return BatchEncoding({"input_ids": [[1]], "attention_mask": [[1]]})

        assert mlx_vlm.utils.prepare_inputs(Tokenizer(), prompts="Hello")["input_ids"].tolist() == [[1]]
        messages = mlx_vlm.prompt_utils.apply_chat_template(
            None, config={"model_type": "qwen3_5"}, prompt="Hello", return_messages=True
        )
        assert messages[0]["role"] == "user"
        assert not [name for name in sys.modules if name.startswith("minicpmv46.processing")]
    """)


def test_hub_repository_and_options_reach_our_processor(installed: Environment, checkpoint: Path) -> None:
    installed.run(f"""
        from types import SimpleNamespace

        import huggingface_hub, minicpmv46.processing
        import mlx_vlm.utils

        asked = []
        huggingface_hub.hf_hub_download = lambda *file, **options: (
            asked.append((file, options)) or {str(checkpoint / "config.json")!r}
        )
        loaded = []
        ours = SimpleNamespace(tokenizer=SimpleNamespace())
        minicpmv46.processing.Processor.from_pretrained = lambda path, **options: (
            loaded.append((path, options)) or ours
        )
        assert mlx_vlm.utils.AutoProcessor.from_pretrained("owner/name", revision="1", use_fast=True) is ours
        assert loaded == [("owner/name", {{"revision": "1"}})]
        assert asked == [(("owner/name", "config.json"), {{"revision": "1"}})]
    """)
