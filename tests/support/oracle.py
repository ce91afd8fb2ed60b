"""The official implementation as an oracle: transformers' models in float32 on the cases. Needs torch.

Images of MiniCPM-V 4.6 go through the Pillow backend, named explicitly: the default torchvision backend resizes
differently. MiniCPM-OCR has the torchvision backend alone.
The token mode goes to the processor and to the model, which do not tell each other. Everything comes back as
numpy arrays in the layout of the port: one row a patch, (row in patch, column in patch, channel) flattened,
images' units before videos' units.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import AutoConfig, AutoTokenizer, GenerationConfig
from transformers.models.minicpm_ocr.image_processing_minicpm_ocr import (
    MiniCPMOcrImageProcessor,
    adaptive_upsize_resolution,
)
from transformers.models.minicpm_ocr.modeling_minicpm_ocr import MiniCPMOcrForConditionalGeneration
from transformers.models.minicpm_ocr.processing_minicpm_ocr import MiniCPMOcrProcessor
from transformers.models.minicpm_ocr.video_processing_minicpm_ocr import MiniCPMOcrVideoProcessor
from transformers.models.minicpmv4_6.image_processing_pil_minicpmv4_6 import MiniCPMV4_6ImageProcessorPil
from transformers.models.minicpmv4_6.modeling_minicpmv4_6 import MiniCPMV4_6ForConditionalGeneration
from transformers.models.minicpmv4_6.processing_minicpmv4_6 import MiniCPMV4_6Processor
from transformers.models.minicpmv4_6.video_processing_minicpmv4_6 import MiniCPMV4_6VideoProcessor
from transformers.video_utils import VideoMetadata

from support.case import Case
from support.golden_data import Geometry, GeometryInput, SamplingInput, Units, UnitsInput

LAST_LOGITS = 4  # positions whose logits are kept


class Classes(NamedTuple):
    """The official classes of a model."""

    model: Any
    processor: Any
    image_processor: Any
    video_processor: Any


CLASSES = {
    "minicpmv4_6": Classes(
        MiniCPMV4_6ForConditionalGeneration,
        MiniCPMV4_6Processor,
        MiniCPMV4_6ImageProcessorPil,
        MiniCPMV4_6VideoProcessor,
    ),
    "minicpm_ocr": Classes(
        MiniCPMOcrForConditionalGeneration, MiniCPMOcrProcessor, MiniCPMOcrImageProcessor, MiniCPMOcrVideoProcessor
    ),
}


def official_processor(folder: Path) -> Any:
    """The official processor of a checkpoint folder."""
    classes = CLASSES[AutoConfig.from_pretrained(folder).model_type]
    return classes.processor(
        image_processor=classes.image_processor.from_pretrained(folder),
        video_processor=classes.video_processor.from_pretrained(folder),
        tokenizer=AutoTokenizer.from_pretrained(folder),
        chat_template=(Path(folder) / "chat_template.jinja").read_text(encoding="utf-8"),
    )


class Oracle:
    """A checkpoint folder in the official model and processor.

    One thread: models this small only lose time to more, ten times over on a busy machine.
    """

    def __init__(self, folder: Path, attention: str = "sdpa", threads: int = 1) -> None:
        torch.set_num_threads(threads)
        classes = CLASSES[AutoConfig.from_pretrained(folder).model_type]
        self.processor = official_processor(folder)
        self.model = classes.model.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention).eval()
        stop_tokens = GenerationConfig.from_pretrained(folder).eos_token_id
        self.model.generation_config = GenerationConfig(
            do_sample=False, eos_token_id=stop_tokens, pad_token_id=self.processor.tokenizer.pad_token_id
        )
        self._features: list[torch.Tensor] = []
        self.model.model.merger.register_forward_hook(lambda _m, _i, features: self._features.extend(features))

    def prompt(self, case: Case) -> str:
        """The rendered chat, placeholders not yet expanded."""
        return self.processor.apply_chat_template(
            case.messages, add_generation_prompt=True, enable_thinking=case.enable_thinking
        )

    def process(self, case: Case, **options: Any) -> dict[str, torch.Tensor]:
        """The official processor's output for a case; `options` override the case's own."""
        inputs: dict[str, Any] = {**case.options.kwargs(), **options}
        if case.pictures:
            inputs["images"] = [picture.load() for picture in case.pictures]
        if case.clips:
            inputs["videos"] = [clip.load() for clip in case.clips]
            inputs["video_metadata"] = [VideoMetadata(**clip.metadata) for clip in case.clips]
        return dict(self.processor(text=[self.prompt(case)], return_tensors="pt", **inputs))

    @torch.inference_mode()
    def run(self, case: Case) -> dict[str, np.ndarray]:
        """Every stage of a case.

        - `input_ids`, `attention_mask`: [positions] int32
        - `pixel_values`: [patches, 588] float32; `image_patches`: how many of them are images'
        - `target_sizes`: [units, 2] and `tokens`: [units] int32
        - `vision_features`: [tokens, hidden]; `hidden_states`: [positions, hidden] after the final norm
        - `logits`: [min(4, positions), vocabulary] of the last positions
        - `greedy`: [new tokens] int32, the stop token included; `greedy_margin`: how far each was ahead
        """
        inputs = self.process(case)
        patches, target_sizes = _units(inputs)
        self._features.clear()
        hidden = self.model.model(**inputs, downsample_mode=case.downsample_mode).last_hidden_state[0]
        features = list(self._features)
        result = {
            "input_ids": inputs["input_ids"][0].numpy().astype(np.int32),
            "attention_mask": inputs["attention_mask"][0].numpy().astype(np.int32),
            "pixel_values": patches,
            "target_sizes": target_sizes,
            "image_patches": np.array(target_sizes[: len(inputs.get("target_sizes", ()))].prod(-1).sum()),
            "tokens": np.array([len(unit) for unit in features], dtype=np.int32),
            "vision_features": (torch.cat(features) if features else hidden[:0]).numpy(),
            "hidden_states": hidden.numpy(),
            "logits": self.model.lm_head(hidden[-LAST_LOGITS:]).numpy(),
        }
        return result | self._generate(inputs, case)

    def _generate(self, inputs: dict[str, torch.Tensor], case: Case) -> dict[str, np.ndarray]:
        out = self.model.generate(
            **inputs,
            downsample_mode=case.downsample_mode,
            max_new_tokens=case.new_tokens,
            output_logits=True,
            return_dict_in_generate=True,
        )
        best = torch.cat(out.logits).topk(2).values
        return {
            "greedy": out.sequences[0, inputs["input_ids"].shape[1] :].numpy().astype(np.int32),
            "greedy_margin": (best[:, 0] - best[:, 1]).numpy(),
        }

    @torch.inference_mode()
    def batch_logits(self, cases: list[Case]) -> np.ndarray:
        """[rows, vocabulary] logits of the last position of a left-padded batch of cases."""
        texts = [self.prompt(case) for case in cases]
        inputs: dict[str, Any] = cases[0].options.kwargs()
        if any(case.options != cases[0].options for case in cases):
            raise ValueError("a batch has one set of options")
        pictures = [picture.load() for case in cases for picture in case.pictures]
        clips = [clip for case in cases for clip in case.clips]
        if pictures:
            inputs["images"] = pictures
        if clips:
            inputs["videos"] = [clip.load() for clip in clips]
            inputs["video_metadata"] = [VideoMetadata(**clip.metadata) for clip in clips]
        batch = self.processor(text=texts, padding=True, padding_side="left", return_tensors="pt", **inputs)
        out = self.model(**batch, downsample_mode=cases[0].downsample_mode)
        return out.logits[:, -1].numpy()

    @torch.inference_mode()
    def trace(self, case: Case) -> dict[str, np.ndarray]:
        """First output of every module in one forward pass, by official name: to find where a port parts."""
        seen: dict[str, np.ndarray] = {}

        def keep(name: str, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            if isinstance(first, torch.Tensor):
                seen.setdefault(name, first.numpy().copy())

        hooks = [
            module.register_forward_hook(lambda _m, _i, output, name=name: keep(name, output))
            for name, module in self.model.named_modules()
        ]
        try:
            self.model(**self.process(case), downsample_mode=case.downsample_mode)
        finally:
            for hook in hooks:
                hook.remove()
        return seen

    def logits(self, input_ids: np.ndarray) -> np.ndarray:
        """[positions, vocabulary] logits of a text-only sequence of token ids."""
        with torch.inference_mode():
            return self.model(input_ids=torch.from_numpy(np.asarray(input_ids, np.int64))[None]).logits[0].numpy()


def patch_rows(packed: torch.Tensor, patch: int = 14) -> np.ndarray:
    """Official pixels [1, channels, patch, patches * patch] as rows [patches, patch * patch * channels]."""
    _, channels, rows, _ = packed.shape
    x = packed[0].reshape(channels, rows, -1, patch)
    return x.permute(2, 1, 3, 0).reshape(-1, rows * patch * channels).contiguous().numpy()


def _units(inputs: dict[str, torch.Tensor]) -> tuple[np.ndarray, np.ndarray]:
    pixels = [inputs[name] for name in ("pixel_values", "pixel_values_videos") if name in inputs]
    sizes = [inputs[name] for name in ("target_sizes", "target_sizes_videos") if name in inputs]
    if not pixels:
        return np.zeros((0, 14 * 14 * 3), np.float32), np.zeros((0, 2), np.int32)
    patches = np.concatenate([patch_rows(x) for x in pixels])
    return patches, torch.cat(sizes).numpy().astype(np.int32)


def level_table(kind: str) -> np.ndarray:
    """[256] float32: what the official rescaling and normalisation make of each grey level.

    Pillow's backend, of "images", computes in another order than torchvision's, of "videos" and "ocr_images", so their
    tables differ in the last bit of some entries.
    """
    levels = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :], (3, 1, 256))
    mean, std, scale = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 1 / 255
    if kind != "images":
        official = {"videos": MiniCPMV4_6VideoProcessor, "ocr_images": MiniCPMOcrImageProcessor}[kind]()
        frames = torch.from_numpy(levels.copy())[None].float()
        out = official.rescale_and_normalize(frames, True, scale, True, mean, std)
        return out[0, 0, 0].numpy()
    images = MiniCPMV4_6ImageProcessorPil()
    return images.normalize(images.rescale(levels, scale), mean, std)[0, 0].astype(np.float32)


_SIZING = {False: MiniCPMV4_6ImageProcessorPil(), True: MiniCPMV4_6VideoProcessor()}


def official_geometry(given: GeometryInput, videos: bool = False) -> Geometry:
    """Sizes, grid and token counts from the official sizing functions, without touching a pixel."""
    sizing = _SIZING[videos]
    size, resolution, patch = (given.height, given.width), 448, 14
    mode, merge = given.downsample_mode, 4 if given.downsample_mode == "4x" else 16
    grid = sizing.get_sliced_grid(size, given.max_slice_nums, resolution) if given.slice_mode else None
    overview = sizing.find_best_resize(size, resolution, patch, downsample_mode=mode, allow_upscale=grid is None)
    tokens = [overview[0] // patch * (overview[1] // patch) // merge]
    if grid is None:
        return Geometry(overview, (0, 0), None, tuple(tokens))
    refined = sizing.get_refine_size(size, grid, resolution, patch, downsample_mode=mode, allow_upscale=True)
    rows, columns = grid
    cut = (refined[0] // rows // patch, refined[1] // columns // patch)
    tokens += [cut[0] * cut[1] // merge] * (rows * columns)
    return Geometry(overview, (rows, columns), refined, tuple(tokens))


class _Sizing(MiniCPMOcrImageProcessor):
    """The official steps on pictures without pixels, which take no time."""

    def resize(self, image: torch.Tensor, size: Any, **_: Any) -> torch.Tensor:
        return torch.zeros(1).expand(len(image), size.height, size.width)

    def rescale_and_normalize(self, images: torch.Tensor, *_: Any) -> torch.Tensor:
        return images

    def reshape_by_patch(self, image: torch.Tensor, patch_size: int) -> torch.Tensor:
        return image[:, :0, :0]


_OCR_SIZING = _Sizing()


def official_units(given: UnitsInput) -> Units:
    """What MiniCPM-OCR's image processor makes of a picture of a size, "always" or "never"."""
    processor = _OCR_SIZING
    options = {name: value for name, value in asdict(given).items() if name not in ("height", "width")}
    out = processor._preprocess(
        [torch.zeros(1).expand(3, given.height, given.width)],
        resample=processor.resample,
        rescale_factor=1 / 255,
        image_mean=processor.image_mean,
        image_std=processor.image_std,
        patch_size=processor.patch_size,
        return_tensors=None,
        disable_grouping=True,
        **dict.fromkeys(("do_resize", "do_rescale", "do_normalize"), True),
        **options,
    )
    overview, *slices = [(int(rows), int(cols)) for rows, cols in out["target_sizes"]]
    rows, cols = out["grids"][0]
    if slices != slices[:1] * (rows * cols):
        raise ValueError(f"slices differ in size or number for {given}")
    divisor = 4 if given.downsample_mode == "4x" else 16
    tokens = [rows * cols // divisor for rows, cols in (overview, *slices)]
    return Units((rows, cols), overview, slices[0] if slices else None, sum(tokens))


def official_upsize(pixels: np.ndarray, scale_resolution: int) -> int | None:
    """What the official classifier says of uint8 [height, width, 3]."""
    return adaptive_upsize_resolution(np.ascontiguousarray(pixels.transpose(2, 0, 1)), scale_resolution)


def official_target_sizes(pixels: np.ndarray, **options: Any) -> list[list[int]]:
    """Patch rows and columns of each unit that MiniCPM-OCR's image processor makes of uint8 [height, width, 3]."""
    sizes: list[list[int]] = _OCR_SIZING([pixels], disable_grouping=True, **options)["target_sizes"].tolist()
    return sizes


def official_frame_indices(given: SamplingInput) -> list[int]:
    """Frames the official code takes from a clip: main frames, then sub-frames."""
    metadata = VideoMetadata(total_num_frames=given.total_num_frames, fps=given.fps, duration=given.duration)
    indices = _SIZING[True].sample_frames(
        metadata, max_num_frames=given.max_num_frames, stack_frames=given.stack_frames
    )
    return [int(i) for i in indices]
