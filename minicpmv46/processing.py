"""The processor: prompts, images and videos to the arrays that the model takes.

Options travel as arguments of one call and are never kept, so one processor serves any number of threads. The result
carries each visual unit's size and token count (`image_units`), so nothing has to be repeated at generation and
units of both compressions can share a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from transformers import BatchFeature

from .image import VisualUnits, flatten_images, image_units, on_host, pack_units, read_image
from .processor_options import (
    SAMPLING_OPTIONS,
    SLICE_OPTIONS,
    ImageProcessor,
    VideoProcessor,
    load_processor_options,
    save_processor_options,
    with_options,
)
from .prompt import check_placeholders, expand_placeholders, image_placeholder, video_placeholder
from .resize import resize_image
from .tokenizer import encode, load_tokenizer, special_tokens, token_id
from .video import flatten_videos, open_video, video_units
from .workers import map_ahead

IMAGE_OPTIONS = SLICE_OPTIONS
VIDEO_OPTIONS = (*SLICE_OPTIONS, *SAMPLING_OPTIONS, "do_sample_frames")


@dataclass(frozen=True)
class MediaInputs:
    """Images and videos of a call, ready for the prompt and for the model.

    Attributes:
        images, videos: text that replaces each image's and each video's placeholder.
        units: visual units, images' first, with the id of the token that they fill.
    """

    images: list[str]
    videos: list[str]
    units: list[tuple[VisualUnits, int]]


class MiniCPMV46Processor:
    """Tokenizer and image and video options of one checkpoint.

    Args:
        tokenizer: a fast tokenizer.
        image_processor: options of images.
        video_processor: options of videos.
        chat_template: Jinja template; None takes the tokenizer's.
    """

    def __init__(
        self,
        tokenizer: Any,
        image_processor: ImageProcessor | None = None,
        video_processor: VideoProcessor | None = None,
        chat_template: str | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.image_processor = image_processor or ImageProcessor()
        self.video_processor = video_processor or VideoProcessor()
        self.chat_template = chat_template if chat_template is not None else tokenizer.chat_template
        self.special_tokens = special_tokens(tokenizer)
        self.image_token, self.video_token = self.special_tokens.image_token, self.special_tokens.video_token
        self.image_token_id = token_id(tokenizer, self.image_token)
        self.video_token_id = token_id(tokenizer, self.video_token)

    @classmethod
    def from_pretrained(cls, path: str | Path, **hub_options: Any) -> MiniCPMV46Processor:
        """Read a processor from a folder or a hub repository.

        Args:
            path: folder, or repository id.
            hub_options: `revision`, `token`, `cache_dir`, `force_download`, `local_files_only` of a download.

        Raises:
            ValueError: a file holds values that are not supported, or the tokenizer lacks a placeholder token.
            OSError: the tokenizer's files are missing.
        """
        folder = Path(path)
        if not folder.is_dir():
            from huggingface_hub import snapshot_download

            folder = Path(snapshot_download(str(path), allow_patterns=["*.json", "*.jinja", "*.txt"], **hub_options))
        image_processor, video_processor = load_processor_options(folder)
        return cls(load_tokenizer(folder), image_processor, video_processor)

    def with_defaults(
        self,
        *,
        downsample_mode: str | None = None,
        max_slice_nums: int | None = None,
        slice_mode: bool | None = None,
        scale_resolution: int | None = None,
        use_image_id: bool | None = None,
        max_num_frames: int | None = None,
        stack_frames: int | None = None,
        do_sample_frames: bool | None = None,
    ) -> MiniCPMV46Processor:
        """This processor with other defaults, for callers that pass no options on; `self` stays as it is.

        Args: options of `__call__`; None keeps the checkpoint's.

        Raises:
            ValueError: an option has a value that is not supported.
        """
        _check_switches(use_image_id=use_image_id, do_sample_frames=do_sample_frames)
        slicing = {
            "downsample_mode": downsample_mode,
            "max_slice_nums": max_slice_nums,
            "slice_mode": slice_mode,
            "scale_resolution": scale_resolution,
        }
        sampling = {"max_num_frames": max_num_frames, "stack_frames": stack_frames}
        image, video = self.image_processor, self.video_processor
        changed = copy(self)
        changed.image_processor = with_options(
            image, {"slicing": with_options(image.slicing, slicing), "use_image_id": use_image_id}
        )
        changed.video_processor = with_options(
            video,
            {
                "slicing": with_options(video.slicing, slicing),
                "sampling": with_options(video.sampling, sampling),
                "do_sample_frames": do_sample_frames,
            },
        )
        return changed

    def save_pretrained(self, folder: str | Path) -> None:
        """Write tokenizer, template and options in the official layout; `from_pretrained` reads them back."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_processor_options(folder, self.image_processor, self.video_processor)
        self.tokenizer.save_pretrained(folder)
        if self.chat_template is not None:
            (folder / "chat_template.jinja").write_text(self.chat_template, encoding="utf-8")

    def __call__(
        self,
        text: str | Sequence[str],
        images: Any = None,
        videos: Any = None,
        *,
        downsample_mode: str | None = None,
        max_slice_nums: int | None = None,
        slice_mode: bool | None = None,
        scale_resolution: int | None = None,
        use_image_id: bool | None = None,
        max_num_frames: int | None = None,
        stack_frames: int | None = None,
        do_sample_frames: bool | None = None,
        fps: float | Sequence[float] | None = None,
        nframes: int | None = None,
        min_frames: int | None = None,
        max_frames: int | None = None,
        video_metadata: Any = None,
        images_kwargs: Mapping[str, Any] | None = None,
        videos_kwargs: Mapping[str, Any] | None = None,
        add_special_tokens: bool = False,
        padding: bool = True,
        padding_side: str = "left",
        return_tensors: str | None = None,
        with_places: bool = False,
    ) -> BatchFeature:
        """Turn prompts with placeholders, and their media, into model inputs. None takes the checkpoint's default.

        Args:
            text: one prompt or several, with one `<|image_pad|>` an image and one `<|video_pad|>` a video.
            images: images of all prompts in order; see `image.read_image` for what one may be.
            videos: videos of all prompts in order: paths, arrays of frames, lists of frames.
            downsample_mode: "16x" or "4x" tokens, for images and videos.
            max_slice_nums: largest number of slices of an image or a frame.
            slice_mode: False keeps overviews only.
            scale_resolution: side in pixels of a unit's square.
            use_image_id: number the images and videos in the prompt.
            max_num_frames: largest number of main frames of a video.
            stack_frames: pictures a second, 1 without stacking.
            do_sample_frames: False uses all frames of videos that are given decoded.
            fps: main frames a second, one for all videos or one a video; 1 is the official rate.
            nframes, min_frames, max_frames: mlx-vlm's frame counts; see `sampling.SamplingOptions`.
            video_metadata: for decoded videos, one entry a video with total_num_frames, fps and duration.
            images_kwargs, videos_kwargs: options for images or for videos only; they win over the plain ones.
            add_special_tokens: passed to the tokenizer.
            padding, padding_side: whether and where shorter prompts are padded.
            return_tensors: None or "np" for numpy arrays, "mlx" for MLX arrays.
            with_places: give `pixel_values` two more columns, each patch's row and column in its unit; the model
                passes over them.

        Returns:
            `input_ids` and `attention_mask`, int32 [prompts, length]; with media also `pixel_values`, float32
            [patches, patch_size**2 * 3], and `image_units`, int32 [units, 4]: patch rows, patch columns, tokens, and
            the id of the token that the unit fills. Images' units come first, then videos'.

        Raises:
            ValueError: media and placeholders differ in number, media cannot be read, an option has a value that is
                not supported.
            TypeError: an option is unknown.
        """
        if return_tensors not in (None, "np", "mlx"):
            raise ValueError(f"return_tensors must be None, 'np' or 'mlx', not {return_tensors!r}")
        if padding_side not in ("left", "right"):
            raise ValueError(f"padding_side must be 'left' or 'right', not {padding_side!r}")
        _check_switches(use_image_id=use_image_id, do_sample_frames=do_sample_frames)
        texts = [text] if isinstance(text, str) else list(text) if isinstance(text, Sequence) else []
        if not texts or not all(isinstance(entry, str) for entry in texts):
            raise ValueError(f"text must be a prompt or a list of prompts, not {text!r}")
        shared = {
            "downsample_mode": downsample_mode,
            "max_slice_nums": max_slice_nums,
            "slice_mode": slice_mode,
            "scale_resolution": scale_resolution,
        }
        image_options = _merge(shared, images_kwargs, IMAGE_OPTIONS, "images_kwargs")
        sampled = {"max_num_frames": max_num_frames, "stack_frames": stack_frames, "do_sample_frames": do_sample_frames}
        video_options = _merge({**shared, **sampled}, videos_kwargs, VIDEO_OPTIONS, "videos_kwargs")

        image_list, video_list = flatten_images(images), flatten_videos(videos)
        check_placeholders(texts, len(image_list), len(video_list), self.special_tokens)
        metadata = _one_each(video_metadata, len(video_list), "video_metadata")
        rates = _one_each(fps, len(video_list), "fps", shared=True)
        counts = {"nframes": nframes, "min_frames": min_frames, "max_frames": max_frames}
        media = self._process_media(image_list, video_list, metadata, rates, counts, image_options, video_options)
        expanded = expand_placeholders(
            texts,
            media.images,
            media.videos,
            self.special_tokens,
            use_image_id=self.image_processor.use_image_id if use_image_id is None else use_image_id,
        )
        data = encode(
            self.tokenizer,
            expanded,
            add_special_tokens=add_special_tokens,
            side=padding_side if padding else None,
        )
        if media.units:
            self._check_tokens(data["input_ids"], media)
            data["pixel_values"] = pack_units([units for units, _ in media.units], places=with_places)
            data["image_units"] = np.array(
                [
                    (rows, cols, tokens, own_id)
                    for units, own_id in media.units
                    for (rows, cols), tokens in zip(units.plan.patch_grids, units.plan.token_counts, strict=True)
                ],
                dtype=np.int32,
            )
        if return_tensors == "mlx":
            import mlx.core as mx

            data = {k: mx.array(v) if isinstance(v, np.ndarray) else v for k, v in data.items()}
        return BatchFeature(data)

    def _process_media(
        self,
        images: list[Any],
        videos: list[Any],
        metadata: list[Any],
        rates: list[Any],
        counts: Mapping[str, int | None],
        image_options: Mapping[str, Any],
        video_options: Mapping[str, Any],
    ) -> MediaInputs:
        slicing = with_options(self.image_processor.slicing, image_options)
        levels = self.image_processor.pixels.image_levels()

        def process_image(entry: tuple[int, Any]) -> VisualUnits:
            index, source = entry
            image = read_image(source, f"image {index}")
            return image_units((image.height, image.width), partial(resize_image, image), slicing, levels)

        image_results = list(map_ahead(process_image, enumerate(map(on_host, images))))

        video_slicing = with_options(self.video_processor.slicing, video_options)
        sampling = with_options(self.video_processor.sampling, {**video_options, **counts})
        if counts["max_frames"] is not None:
            limit = with_options(sampling, {"max_num_frames": counts["max_frames"]}).max_num_frames
            sampling = replace(sampling, max_num_frames=min(limit, sampling.max_num_frames))
        sample = video_options.get("do_sample_frames")
        sample = self.video_processor.do_sample_frames if sample is None else sample
        video_results = []
        for index, video in enumerate(videos):
            name = f"video {index}"
            source = open_video(video, metadata[index], name, sample=sample)
            rated = with_options(sampling, {"fps": rates[index]})
            video_results.append(video_units(source, rated, video_slicing, self.video_processor.pixels, name))
        tokens = self.special_tokens
        return MediaInputs(
            images=[image_placeholder(units.plan, tokens) for units in image_results],
            videos=[video_placeholder([units.plan for units in clip], tokens) for clip in video_results],
            units=[
                *((units, self.image_token_id) for units in image_results),
                *((units, self.video_token_id) for clip in video_results for units in clip),
            ],
        )

    def _check_tokens(self, input_ids: Any, media: MediaInputs) -> None:
        """Every visual token must have its place in the tokenized prompt."""
        ids = np.concatenate([np.asarray(row).ravel() for row in input_ids])
        for token, own_id in ((self.image_token, self.image_token_id), (self.video_token, self.video_token_id)):
            wanted = sum(sum(units.plan.token_counts) for units, unit_id in media.units if unit_id == own_id)
            found = int((ids == own_id).sum())
            if found != wanted:
                raise ValueError(f"the tokenizer made {found} {token} tokens of {wanted} in the prompt")

    def apply_chat_template(
        self,
        conversation: Sequence[Any],
        *,
        chat_template: str | None = None,
        tokenize: bool = False,
        add_generation_prompt: bool = False,
        return_dict: bool = False,
        return_tensors: str | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        **template_variables: Any,
    ) -> Any:
        """Render messages with the checkpoint's template; further keywords are the template's variables.

        With `tokenize`, the images and videos that the messages name (`{"type": "image", "image": …}`, or `path` or
        `url`) are processed with the options in `processor_kwargs`; the result is `input_ids`, or with `return_dict`
        all inputs of the model.
        """
        prompt = self.tokenizer.apply_chat_template(
            conversation,
            chat_template=chat_template or self.chat_template,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            **template_variables,
        )
        if not tokenize:
            return prompt
        inputs = self(
            prompt,
            images=list(_sources(conversation, "image")),
            videos=list(_sources(conversation, "video")) or None,
            return_tensors=return_tensors,
            **(processor_kwargs or {}),
        )
        return inputs if return_dict else inputs["input_ids"]

    def decode(self, token_ids: Any, **options: Any) -> str:
        """Tokenizer's `decode`."""
        return self.tokenizer.decode(token_ids, **options)

    def batch_decode(self, sequences: Any, **options: Any) -> list[str]:
        """Tokenizer's `batch_decode`."""
        return self.tokenizer.batch_decode(sequences, **options)


def _sources(conversation: Any, kind: str) -> Iterator[Any]:
    """Images or videos that one conversation, or several, name in their messages, in order."""
    for message in conversation:
        if not isinstance(message, Mapping):
            yield from _sources(message, kind)
            continue
        content = message.get("content")
        parts = content if isinstance(content, (list, tuple)) else ()
        for part in (part for part in parts if isinstance(part, Mapping)):
            if part.get("type") in (kind, f"{kind}_url") or (part.get("type") is None and kind in part):
                keys = (kind, "path", "url", f"{kind}_url")
                source = next((part[key] for key in keys if part.get(key) is not None), None)
                if source is not None:
                    yield source["url"] if isinstance(source, Mapping) else source


def _merge(
    shared: Mapping[str, Any], own: Mapping[str, Any] | None, names: Sequence[str], argument: str
) -> dict[str, Any]:
    if own is not None and not isinstance(own, Mapping):
        raise TypeError(f"{argument} must be a mapping of options, not {own!r}")
    unknown = set(own or ()) - set(names)
    if unknown:
        raise TypeError(f"{argument} has unknown options {', '.join(sorted(unknown))}; known: {', '.join(names)}")
    return {**shared, **(own or {})}


def _check_switches(**switches: object) -> None:
    for name, value in switches.items():
        if not isinstance(value, bool | None):
            raise ValueError(f"{name} must be True or False, not {value!r}")


def _one_each(value: Any, count: int, argument: str, *, shared: bool = False) -> list[Any]:
    """One entry a video: a list of as many, one entry for a single video, or (`shared`) one for all."""
    if isinstance(value, (list, tuple)):
        if len(value) != count:
            raise ValueError(f"{argument} has {len(value)} entries for {count} videos")
        return list(value)
    if value is not None and count > 1 and not shared:
        raise ValueError(f"{argument} has one entry for {count} videos")
    return [value] * count
