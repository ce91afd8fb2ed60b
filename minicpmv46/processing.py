"""The processor: prompts, images and videos to the arrays that the model takes.

Options travel as arguments of one call and are never kept, so one processor serves any number of threads. The result
carries each visual unit's size and token count (`image_units`), so nothing has to be repeated at generation and
units of both compressions can share a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import BatchFeature

from .checks import one_of, quote
from .conversation import media_of
from .describe import describe_options
from .image import VisualUnits, pack_units
from .limits import CHARACTERS_PER_TOKEN
from .media import flatten_media, open_media
from .option_names import OPTIONS, GivenOptions, HubOptions, LoadOptions, naming
from .options import ImageProcessor, Options, VideoProcessor
from .processor_files import load_options, save_options
from .prompt import check_characters, count_placeholders, expand_placeholders, image_placeholder, video_placeholder
from .tokenizer import TextOptions, encode, load_tokenizer, special_tokens, token_id

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Processor:
    """Tokenizer and image and video options of one checkpoint.

    Args:
        tokenizer: a fast tokenizer.
        options: options of images and videos; None takes the official defaults of MiniCPM-V 4.6.
        chat_template: Jinja template; None takes the tokenizer's.
    """

    def __init__(self, tokenizer: Any, options: Options | None = None, chat_template: str | None = None) -> None:
        self.tokenizer = tokenizer
        self.options = options or Options()
        self.chat_template = chat_template if chat_template is not None else tokenizer.chat_template
        self.special_tokens = special_tokens(tokenizer)
        self.image_token, self.video_token = self.special_tokens.image_token, self.special_tokens.video_token
        self.image_token_id = token_id(tokenizer, self.image_token)
        self.video_token_id = token_id(tokenizer, self.video_token)

    def __repr__(self) -> str:
        return describe_options(self.options)

    @property
    def image_processor(self) -> ImageProcessor:
        """Options of images; mlx-vlm asks it for token counts."""
        return self.options.images

    @property
    def video_processor(self) -> VideoProcessor:
        """Options of videos."""
        return self.options.videos

    @classmethod
    @naming(LoadOptions)
    def from_pretrained(cls, path: str | Path, **given: Unpack[LoadOptions]) -> Processor:
        """Read a processor from a folder or a hub repository.

        Args:
            path: folder, or repository id.
            given: options of a download, see `option_names.HubOptions`, and those that replace the checkpoint's.

        Raises:
            TypeError: an option is unknown.
            ValueError: a file holds values that are not supported, or the tokenizer lacks a placeholder token.
            OSError: the tokenizer's files are missing.
        """
        folder, options = Path(path), dict[str, Any](given)
        hub = {name: options.pop(name) for name in HubOptions.__annotations__ if name in options}
        if not folder.is_dir():
            from huggingface_hub import snapshot_download

            folder = Path(snapshot_download(str(path), allow_patterns=["*.json", "*.jinja", "*.txt"], **hub))
        return cls(load_tokenizer(folder), load_options(folder).updated("from_pretrained", **options))

    @naming(GivenOptions)
    def with_defaults(self, **given: Unpack[GivenOptions]) -> Processor:
        """This processor with other defaults, for callers that pass no options on; `self` stays as it is.

        Args:
            given: options of `__call__`; None keeps the checkpoint's.

        Raises:
            TypeError: an option is unknown.
            ValueError: an option has a value that is not supported.
        """
        return self._with(self.options.updated("with_defaults", **given))

    def with_limits(self, **limits: int) -> Processor:
        """This processor with other ceilings of a request, `limits.Limits`; `self` stays as it is.

        Raises:
            TypeError: a limit is unknown.
            ValueError: a limit is not an integer of at least 1.
        """
        return self._with(replace(self.options, limits=self.options.limits.changed(**limits)))

    def _with(self, options: Options) -> Processor:
        changed = copy(self)
        changed.options = options
        return changed

    def save_pretrained(self, folder: str | Path) -> None:
        """Write tokenizer, template and options in the official layout; `from_pretrained` reads them back."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_options(folder, self.options)
        self.tokenizer.save_pretrained(folder)
        if self.chat_template is not None:
            (folder / "chat_template.jinja").write_text(self.chat_template, encoding="utf-8")

    @naming(GivenOptions)
    def __call__(
        self,
        text: str | Sequence[str],
        images: Any = None,
        videos: Any = None,
        *,
        video_metadata: Any = None,
        resize_shape: tuple[int, int] | None = None,
        add_special_tokens: bool = False,
        padding: bool | str = True,
        padding_side: str = "left",
        max_length: int | None = None,
        truncation: bool | str = False,
        pad_to_multiple_of: int | None = None,
        text_kwargs: Mapping[str, Any] | None = None,
        return_tensors: str | None = None,
        with_places: bool = False,
        **given: Unpack[GivenOptions],
    ) -> BatchFeature:
        """Turn prompts with placeholders, and their media, into model inputs.

        Args:
            text: one prompt or several, with one `<|image_pad|>` an image and one `<|video_pad|>` a video.
            images: images of all prompts in order, or a list of lists, one a prompt; see `decoding.open_image` for what
                an image may be. As many images as there are prompts are one each.
            videos: likewise; a video is a path, an array of frames or a list of frames.
            video_metadata: for decoded videos, one entry a video with total_num_frames, fps and duration.
            resize_shape: (width, height) that images are made to fit in first, as mlx-vlm's `--resize-shape` does.
            add_special_tokens, padding, padding_side, max_length, truncation, pad_to_multiple_of: see
                `tokenizer.TextOptions`.
            text_kwargs: the same in a mapping; they win.
            return_tensors: None or "np" for numpy arrays, "mlx" for MLX arrays.
            with_places: give `pixel_values` two more columns, each patch's row and column in its unit; the model
                passes over them.
            given: options of images and videos, see `options.GivenOptions`; None takes the checkpoint's default.

        Returns:
            `input_ids` and `attention_mask`, int32 [prompts, length]; with media also `pixel_values`, float32
            [patches, patch_size**2 * 3], and `image_units`, int32 [units, 4]: patch rows, patch columns, tokens, and
            the id of the token that the unit fills. Images' units come first, then videos'.

        Raises:
            ValueError: media and placeholders differ in number, media cannot be read, an option has a value that is
                not supported, or the call is larger than the limits.
            TypeError: an option is unknown.
        """
        if return_tensors is not None:
            one_of("np", "mlx")("return_tensors", return_tensors)
        texts = [text] if isinstance(text, str) else list(text) if isinstance(text, Sequence) else []
        if not texts or not all(isinstance(entry, str) for entry in texts):
            raise ValueError(f"text must be a prompt or a list of prompts, not {quote(text)}")
        check_characters(texts)
        text_options = TextOptions.given(
            text_kwargs,
            add_special_tokens=add_special_tokens,
            padding=padding,
            padding_side=padding_side,
            max_length=max_length,
            truncation=truncation,
            pad_to_multiple_of=pad_to_multiple_of,
        )
        options = self.options.updated("the processor", **given)
        limits = options.limits
        limits.check_options(text_options)
        for i, entry in enumerate(texts):
            limits.check("context", f"prompt {i} has tokens, at least:", len(entry) // CHARACTERS_PER_TOKEN)

        image_list, video_list, image_counts, video_counts = flatten_media(images, videos, len(texts))
        limits.check("media", "the images and videos are", len(image_list) + len(video_list))
        image_counts = count_placeholders(texts, "image", self.image_token, image_counts)
        video_counts = count_placeholders(texts, "video", self.video_token, video_counts)
        opened = open_media(image_list, video_list, video_metadata, resize_shape, options)
        opened.check_context((image_counts, video_counts))
        image_results, video_results = opened.decode()

        tokens = self.special_tokens
        expanded = expand_placeholders(
            texts,
            [image_placeholder(units.plan, tokens) for units in image_results],
            [video_placeholder([units.plan for units in clip], tokens) for clip in video_results],
            tokens,
            use_image_id=options.images.use_image_id,
        )
        data = encode(self.tokenizer, expanded, text_options)
        for i, row in enumerate(data["attention_mask"]):
            limits.check("context", f"prompt {i} has tokens:", int(np.sum(row)))
        units = [(result, self.image_token_id) for result in image_results]
        units += [(result, self.video_token_id) for clip in video_results for result in clip]
        if units:
            self._check_tokens(data["input_ids"], units)
            data["pixel_values"] = pack_units([result for result, _ in units], places=with_places)
            data["image_units"] = np.array(
                [
                    (rows, cols, count, own_id)
                    for result, own_id in units
                    for (rows, cols), count in zip(result.plan.patch_grids, result.plan.token_counts, strict=True)
                ],
                dtype=np.int32,
            )
        if return_tensors == "mlx":
            import mlx.core as mx

            data = {k: mx.array(v) if isinstance(v, np.ndarray) else v for k, v in data.items()}
        return BatchFeature(data)

    def _check_tokens(self, input_ids: Any, units: list[tuple[VisualUnits, int]]) -> None:
        """Every visual token must have its place in the tokenized prompt."""
        ids = np.concatenate([np.asarray(row).ravel() for row in input_ids])
        for token, own_id in ((self.image_token, self.image_token_id), (self.video_token, self.video_token_id)):
            wanted = sum(sum(result.plan.token_counts) for result, unit_id in units if unit_id == own_id)
            found = int((ids == own_id).sum())
            if found != wanted:
                raise ValueError(
                    f"the tokenized prompt has {found} {token} tokens of {wanted}; truncation must not cut media"
                )

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
        `url`) are processed with the options in `processor_kwargs` or among the keywords; the result is `input_ids`,
        or with `return_dict` all inputs of the model.
        """
        options = {k: template_variables.pop(k) for k in _OF_A_CALL if tokenize and k in template_variables}
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
            images=media_of(conversation, "image"),
            videos=media_of(conversation, "video") or None,
            return_tensors=return_tensors,
            **{**options, **(processor_kwargs or {})},
        )
        return inputs if return_dict else inputs["input_ids"]

    def decode(self, token_ids: Any, **options: Any) -> str:
        """Tokenizer's `decode`."""
        return self.tokenizer.decode(token_ids, **options)

    def batch_decode(self, sequences: Any, **options: Any) -> list[str]:
        """Tokenizer's `batch_decode`."""
        return self.tokenizer.batch_decode(sequences, **options)

    def post_process_image_text_to_text(
        self, generated_outputs: Any, skip_special_tokens: bool = True, **options: Any
    ) -> list[str]:
        """Texts of generated ids, without white space around them."""
        texts = self.batch_decode(generated_outputs, skip_special_tokens=skip_special_tokens, **options)
        return [text.strip() for text in texts]


# Keywords of `apply_chat_template` that are options of a call and no variables of the template.
_OF_A_CALL = (*OPTIONS, *(f.name for f in fields(TextOptions)))

MiniCPMV46Processor = Processor  # its name in version 0.1.0
