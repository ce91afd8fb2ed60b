"""The official implementation's answers for `parity.py`, which starts this file in torch's environment.

transformers on the CPU, with deterministic algorithms. Images of MiniCPM-V 4.6 go through the Pillow backend, which is
named: the default torchvision backend resizes differently. MiniCPM-OCR has the torchvision backend alone.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import transformers
from transformers.video_utils import VideoMetadata

from scripts.parity_answers import costs, write_answer
from scripts.parity_cases import Case, cases

LAST_LOGITS = 4  # positions whose logits are kept
VALUES_PER_PATCH = 14 * 14 * 3


def official_classes(model_type: str) -> tuple[Any, Any, Any, Any]:
    """The official model, processor, image processor and video processor."""
    if model_type == "minicpmv4_6":
        from transformers.models.minicpmv4_6 import image_processing_pil_minicpmv4_6 as images
        from transformers.models.minicpmv4_6 import modeling_minicpmv4_6 as modeling
        from transformers.models.minicpmv4_6 import processing_minicpmv4_6 as processing
        from transformers.models.minicpmv4_6 import video_processing_minicpmv4_6 as videos

        return (
            modeling.MiniCPMV4_6ForConditionalGeneration,
            processing.MiniCPMV4_6Processor,
            images.MiniCPMV4_6ImageProcessorPil,
            videos.MiniCPMV4_6VideoProcessor,
        )
    from transformers.models.minicpm_ocr import image_processing_minicpm_ocr as ocr_images
    from transformers.models.minicpm_ocr import modeling_minicpm_ocr as ocr_modeling
    from transformers.models.minicpm_ocr import processing_minicpm_ocr as ocr_processing
    from transformers.models.minicpm_ocr import video_processing_minicpm_ocr as ocr_videos

    return (
        ocr_modeling.MiniCPMOcrForConditionalGeneration,
        ocr_processing.MiniCPMOcrProcessor,
        ocr_images.MiniCPMOcrImageProcessor,
        ocr_videos.MiniCPMOcrVideoProcessor,
    )


class Official:
    """A checkpoint folder in the official model and processor."""

    def __init__(self, folder: Path, model_type: str, dtype: torch.dtype) -> None:
        model, processor, images, videos = official_classes(model_type)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        template = folder / "chat_template.jinja"
        self.processor = processor(
            image_processor=images.from_pretrained(folder),
            video_processor=videos.from_pretrained(folder),
            tokenizer=tokenizer,
            chat_template=template.read_text(encoding="utf-8") if template.exists() else tokenizer.chat_template,
        )
        self.model = model.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa").eval()
        stop_tokens = self.model.generation_config.eos_token_id
        self.model.generation_config = transformers.GenerationConfig(
            do_sample=False, eos_token_id=stop_tokens, pad_token_id=tokenizer.pad_token_id
        )
        self._features: list[torch.Tensor] = []
        self._hidden: list[torch.Tensor] = []
        self.model.model.merger.register_forward_hook(lambda _m, _i, features: self._features.extend(features))
        self.model.model.register_forward_hook(lambda _m, _i, out: self._hidden.append(out.last_hidden_state[0]))

    def inputs(self, case: Case) -> dict[str, torch.Tensor]:
        """The official processor's output for a case."""
        prompt = self.processor.apply_chat_template(
            case.messages, add_generation_prompt=True, enable_thinking=case.enable_thinking
        )
        given: dict[str, Any] = case.options.kwargs()
        if case.pictures:
            given["images"] = [picture.load() for picture in case.pictures]
        if case.clips:
            given["videos"] = [clip.load() for clip in case.clips]
            given["video_metadata"] = [VideoMetadata(**clip.metadata) for clip in case.clips]
        return dict(self.processor(text=[prompt], return_tensors="pt", **given))

    @torch.inference_mode()
    def answer(self, case: Case) -> dict[str, np.ndarray]:
        """Every stage of a case, from the one pass over the prompt that greedy generation makes."""
        inputs = self.inputs(case)
        self._features.clear()
        self._hidden.clear()
        mode = case.options.downsample_mode
        out = self.model.generate(
            **inputs,
            **({} if mode is None else {"downsample_mode": mode}),
            max_new_tokens=case.new_tokens,
            output_logits=True,
            return_dict_in_generate=True,
        )
        ids, hidden = inputs["input_ids"][0], self._hidden[0]
        if len(hidden) != len(ids):
            raise RuntimeError(f"transformers read {len(hidden)} of {len(ids)} positions in its first pass")
        features = torch.cat(self._features) if self._features else hidden[:0]
        best = torch.cat(out.logits).float().topk(2).values
        return {
            "input_ids": ids.numpy().astype(np.int32),
            "pixel_values": pixel_rows(inputs),
            "vision_features": features.float().numpy(),
            "hidden_states": hidden.float().numpy(),
            "logits": self.model.lm_head(hidden[-LAST_LOGITS:]).float().numpy(),
            "greedy": out.sequences[0, len(ids) :].numpy().astype(np.int32),
            "greedy_margin": (best[:, 0] - best[:, 1]).numpy(),
        }


def pixel_rows(inputs: dict[str, torch.Tensor], patch: int = 14) -> np.ndarray:
    """Pixels [patches, 588] in this port's order of values, those of images before those of videos."""
    found = [np.zeros((0, VALUES_PER_PATCH), np.float32)]
    for name in ("pixel_values", "pixel_values_videos"):
        if name in inputs:
            _, channels, rows, _ = inputs[name].shape
            x = inputs[name][0].reshape(channels, rows, -1, patch)
            found.append(x.permute(2, 1, 3, 0).reshape(-1, rows * patch * channels).numpy())
    return np.concatenate(found)


def main(job: dict[str, Any]) -> None:
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(0)
    print(f"official {job['dtype']}: loading", flush=True)
    official = Official(Path(job["folder"]), job["model_type"], getattr(torch, job["dtype"]))
    known = cases(job["model_type"])
    for name, path in job["answers"].items():
        start = time.perf_counter()
        answer = official.answer(known[name])
        seconds = time.perf_counter() - start
        write_answer(Path(path), answer | costs(seconds))
        print(f"official {job['dtype']}: {name}, {len(answer['input_ids']):,} tokens, {seconds:.1f} s", flush=True)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
