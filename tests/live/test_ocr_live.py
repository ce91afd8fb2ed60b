"""MiniCPM-OCR from transformers' own classes, saved by them, through mlx-vlm's commands. Needs torch.

The folder holds what `save_pretrained` writes and nothing else. Answers must be transformers' greedy ones, in float32.
"""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from support import tiny
from support.conversions import read_json
from support.pictures import MEDIA
from support.running import python

pytest.importorskip("torch")
pytest.importorskip("torchvision")

import torch
import transformers
from mlx_vlm import generate, load
from mlx_vlm.prompt_utils import apply_chat_template
from transformers.models.minicpm_ocr.configuration_minicpm_ocr import MiniCPMOcrConfig
from transformers.models.minicpm_ocr.image_processing_minicpm_ocr import MiniCPMOcrImageProcessor
from transformers.models.minicpm_ocr.modeling_minicpm_ocr import MiniCPMOcrForConditionalGeneration
from transformers.models.minicpm_ocr.processing_minicpm_ocr import MiniCPMOcrProcessor
from transformers.models.minicpm_ocr.video_processing_minicpm_ocr import MiniCPMOcrVideoProcessor
from transformers.video_utils import VideoMetadata

from minicpmv46.processing import Processor

TOKENS = 8
TEXT = {
    **{"vocab_size": tiny.VOCAB_SIZE, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 4},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 8192},
    **{"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 8},
}
VISION = {
    **{"hidden_size": 32, "intermediate_size": 72, "num_hidden_layers": 3, "num_attention_heads": 2},
    **{"image_size": 448, "patch_size": 14},
}


def random_model() -> MiniCPMOcrForConditionalGeneration:
    """A model of the official class, with numbers large enough that answers depend on what is shown."""
    config = MiniCPMOcrConfig(
        text_config=TEXT,
        vision_config=VISION,
        insert_layer_id=1,
        image_token_id=tiny.IMAGE_PAD,
        video_token_id=tiny.VIDEO_PAD,
    )
    torch.manual_seed(7)
    model = MiniCPMOcrForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim < 2:
                value.add_(0.2 * torch.randn_like(value))
            else:
                loud = {"o_proj.weight": 6.0, "mlp.0.linear_2.weight": 4.0}
                scale = next((loud[end] for end in loud if name.endswith(end)), 1.25)
                value.normal_(0, 0.5 if "embed" in name else scale / value[0].numel() ** 0.5)
    stops = list(tiny.STOP_TOKENS)
    model.generation_config = transformers.GenerationConfig(eos_token_id=stops, pad_token_id=tiny.ENDOFTEXT)
    return model


@dataclass(frozen=True)
class Official:
    """transformers' own objects, and the folder that they saved."""

    folder: Path
    model: MiniCPMOcrForConditionalGeneration
    processor: MiniCPMOcrProcessor

    @torch.inference_mode()
    def answer(self, request: "Request") -> list[int]:
        """Greedy tokens. The model is told a token mode only where the processor is."""
        parts = [{"type": request.kind}] if request.kind else []
        messages = [{"role": "user", "content": [*parts, {"type": "text", "text": request.question}]}]
        text = self.processor.apply_chat_template(messages, add_generation_prompt=True, enable_thinking=False)
        batch = self.processor(text=[text], return_tensors="pt", **request.media(), **request.options)
        mode = {name: value for name, value in request.options.items() if name == "downsample_mode"}
        out = self.model.generate(**batch, **mode, max_new_tokens=TOKENS, do_sample=False)
        tokens: list[int] = out[0, batch["input_ids"].shape[1] :].tolist()
        return tokens


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Official:
    torch.set_num_threads(1)
    files, folder = tiny.make_checkpoint(tmp_path_factory.mktemp("tokenizer"), "ocr"), tmp_path_factory.mktemp("saved")
    processor = MiniCPMOcrProcessor(
        image_processor=MiniCPMOcrImageProcessor(),
        video_processor=MiniCPMOcrVideoProcessor(),
        tokenizer=transformers.AutoTokenizer.from_pretrained(files),
        chat_template=(files / "chat_template.jinja").read_text(encoding="utf-8"),
    )
    model = random_model()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return Official(folder, model, processor)


@dataclass(frozen=True)
class Request:
    """A question with a file of `MEDIA` or none, and options of the processor."""

    question: str
    kind: str = ""
    file: str = ""
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> str:
        return str(MEDIA / self.file)

    def media(self) -> dict[str, Any]:
        """As arguments of the official processor, videos decoded to all of their frames."""
        if self.kind != "video":
            return {"images": [Image.open(self.path)]} if self.kind else {}
        capture, frames = cv2.VideoCapture(self.path), []
        while (read := capture.read())[0]:
            frames.append(read[1][..., ::-1])
        fps = capture.get(cv2.CAP_PROP_FPS)
        metadata = VideoMetadata(total_num_frames=len(frames), fps=fps, duration=len(frames) / fps)
        return {"videos": [np.stack(frames)], "video_metadata": [metadata]}

    def flags(self) -> list[str]:
        media = [f"--{self.kind}", self.path] if self.kind else []
        media += ["--fps", "1"] if self.kind == "video" else []
        options = ["--processor-kwargs", json.dumps(self.options)] if self.options else []
        return [*media, *options, "--prompt", self.question, "--max-tokens", str(TOKENS), "--temperature", "0"]


SLIDE = Request("Read all text.", "image", "slide.png")
REQUESTS = {
    "4x": SLIDE,
    "adaptive": replace(SLIDE, options={"small_image_upsize": "adaptive"}),
    "never, one slice": replace(SLIDE, options={"small_image_upsize": "never", "max_slice_nums": 1}),
    "16x": replace(SLIDE, options={"downsample_mode": "16x"}),
    "video": Request("What happens?", "video", "jump.mp4", {"max_slice_nums": 1, "use_image_id": False}),
    "text": Request("What is OCR?"),
}
SECTIONS = {"image_processor": "ImageProcessor", "video_processor": "VideoProcessor"}
COMMANDS = ("adaptive", "video")  # each starts an interpreter; `test_python` asks all


@pytest.fixture(scope="module")
def answers(official: Official) -> dict[str, list[int]]:
    """What transformers answers; each request gets something else."""
    found = {name: official.answer(request) for name, request in REQUESTS.items()}
    assert len({tuple(tokens) for tokens in found.values()}) == len(found)
    return found


def readable(text: str) -> str:
    """Without what stands for bytes that are no UTF-8: streamed, they are shown differently."""
    return text.replace("\ufffd", "")


def test_commands(official: Official, answers: dict[str, list[int]], folder: Path) -> None:
    """`python -m mlx_vlm.generate` on the folder that transformers saved: its answers."""
    command = ("-m", "mlx_vlm.generate", "--model", official.folder)
    with ThreadPoolExecutor(2) as pool:
        runs = {n: pool.submit(python, *command, *REQUESTS[n].flags(), folder=folder) for n in COMMANDS}
    for name, run in runs.items():
        done = run.result()
        assert done.returncode == 0, done.stderr.decode()
        kept = [token for token in answers[name] if token not in tiny.STOP_TOKENS]
        expected = readable(official.processor.decode(kept))
        assert len(expected) > 3
        assert readable(done.stdout.decode()) == f"{expected}\n", name


def ask(loaded: tuple[Any, Any], request: Request) -> list[int]:
    model, processor = loaded
    shown = {request.kind: [request.path]} if request.kind else {}
    beside = {"video": shown["video"]} if request.kind == "video" else {}
    images = int(request.kind == "image")
    prompt = apply_chat_template(processor, model.config, request.question, num_images=images, **beside)
    result = generate(model, processor, prompt, max_tokens=TOKENS, temperature=0.0, **shown, **request.options)
    return list(result.token_ids)


def test_python(official: Official, answers: dict[str, list[int]]) -> None:
    """`from mlx_vlm import load, generate`."""
    loaded = load(str(official.folder))
    assert {name: ask(loaded, request) for name, request in REQUESTS.items()} == answers


def test_a_folder_without_defaults(official: Official, answers: dict[str, list[int]], tmp_path: Path) -> None:
    """What no file says is tied and 4x; what 4.6's files say besides is known. Both as transformers reads it."""
    folder = Path(shutil.copytree(official.folder, tmp_path / "short"))
    config = read_json(folder / "config.json")
    for name in ("tie_word_embeddings", "downsample_mode", "merge_kernel_size", "merger_times"):
        del config[name]
    config |= {"image_size": 1120, "drop_vision_last_layer": False}
    (folder / "config.json").write_text(json.dumps(config))
    classes = {key: {f"{key}_type": f"MiniCPMOcr{name}"} for key, name in SECTIONS.items()}
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": "MiniCPMOcrProcessor", **classes}))

    theirs, loaded = MiniCPMOcrConfig.from_pretrained(folder), load(str(folder))
    ours = loaded[0].config.architecture
    assert (ours.tie_word_embeddings, ours.downsample_mode) == (theirs.tie_word_embeddings, theirs.downsample_mode)
    assert (ours.tie_word_embeddings, ours.downsample_mode) == (True, "4x")
    assert Processor.from_pretrained(folder).options == Processor.from_pretrained(official.folder).options
    assert ask(loaded, SLIDE) == answers["4x"]


OPTIONS: dict[str, Any] = {
    "image_processor": {"small_image_upsize": "adaptive", "max_slice_nums": 5, "image_mean": (0.5, 0.25, 0.125)},
    "video_processor": {"downsample_mode": "16x", "stack_frames": 3, "max_num_frames": 9},
}


def test_files_of_the_processor(official: Official, tmp_path: Path) -> None:
    """What the official processor saves is read, and what ours saves is read by it and by ours."""
    theirs = MiniCPMOcrProcessor(
        image_processor=MiniCPMOcrImageProcessor(**OPTIONS["image_processor"]),
        video_processor=MiniCPMOcrVideoProcessor(**OPTIONS["video_processor"]),
        tokenizer=official.processor.tokenizer,
        chat_template=official.processor.chat_template,
    )
    theirs.save_pretrained(tmp_path / "theirs")
    ours = Processor.from_pretrained(tmp_path / "theirs")
    assert ours.image_processor.slicing.small_image_upsize == "adaptive"
    ours.save_pretrained(tmp_path / "ours")
    assert Processor.from_pretrained(tmp_path / "ours").options == ours.options
    again = MiniCPMOcrProcessor.from_pretrained(tmp_path / "ours")
    for section in SECTIONS:
        found = getattr(again, section).to_dict()
        assert found == getattr(theirs, section).to_dict()
        assert {name: found[name] for name in OPTIONS[section]} == OPTIONS[section]
    assert again.chat_template == theirs.chat_template
    assert again.tokenizer.backend_tokenizer.to_str() == theirs.tokenizer.backend_tokenizer.to_str()


@pytest.mark.parametrize("given", [{}, {"small_image_upsize": "adaptive"}, {"downsample_mode": "16x"}])
def test_options_of_a_load_and_of_a_chat(given: dict[str, Any], official: Official) -> None:
    """Given to `from_pretrained`, or to `apply_chat_template` in `processor_kwargs` or beside it: the same ids."""
    messages = [{"role": "user", "content": [{"type": "image", "image": SLIDE.path}, {"type": "text", "text": "Read"}]}]
    call = {"tokenize": True, "add_generation_prompt": True, "return_dict": True}
    found = []
    for kind in (Processor, MiniCPMOcrProcessor):
        plain, changed = kind.from_pretrained(official.folder), kind.from_pretrained(official.folder, **given)
        for processor, keywords in ((changed, {}), (plain, given), (plain, {"processor_kwargs": given})):
            found.append(np.asarray(processor.apply_chat_template(messages, **call, **keywords)["input_ids"]).tolist())
    assert all(ids == found[0] for ids in found)


def test_file_of_images_alone(official: Official, tmp_path: Path) -> None:
    """Where no file speaks of videos, both take the images' options for them."""
    official.processor.tokenizer.save_pretrained(tmp_path)
    MiniCPMOcrImageProcessor(**OPTIONS["image_processor"], downsample_mode="16x").save_pretrained(tmp_path)
    (tmp_path / "processor_config.json").unlink(missing_ok=True)
    theirs = MiniCPMOcrVideoProcessor.from_pretrained(tmp_path).to_dict()
    ours = Processor.from_pretrained(tmp_path).video_processor.to_dict()
    assert theirs.pop("small_image_upsize") == "adaptive"  # kept, and not used
    assert theirs == {name: tuple(x) if isinstance(x, list) else x for name, x in ours.items()}
    assert (ours["downsample_mode"], ours["max_slice_nums"]) == ("16x", 5)


def test_which_processor_a_folder_has(official: Official, tmp_path: Path) -> None:
    """The class that the processor's file names; without it, `config.json`'s model. As transformers' own choice."""
    own = transformers.AutoProcessor.from_pretrained.__func__
    for config in ("minicpm_ocr", "minicpmv4_6", None):
        folder = tmp_path / str(config)
        shutil.copytree(official.folder, folder)
        if config is None:
            (folder / "config.json").unlink()
        else:
            changed = read_json(folder / "config.json") | {"model_type": config}
            changed["vision_config"]["model_type"] = f"{config}_vision"
            changed["architectures"] = []
            (folder / "config.json").write_text(json.dumps(changed))
        theirs = own.__wrapped__(transformers.AutoProcessor, folder)
        ours = transformers.AutoProcessor.from_pretrained(folder)
        assert type(theirs) is MiniCPMOcrProcessor and type(ours) is Processor
        expected = Processor.from_pretrained(official.folder)
        assert (ours.image_processor, ours.video_processor) == (expected.image_processor, expected.video_processor)
