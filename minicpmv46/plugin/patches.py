"""What changes in the modules of mlx-vlm that `hook.PATCHES` names, and when they ask us.

Every replaced function serves our `model_type` (or our processor) itself and hands everything else to the
original unchanged. A name that this mlx-vlm does not have is passed over here; `compat` reports it when one
of our checkpoints is loaded, since importing mlx-vlm for another model must not fail because of us.
"""

import functools
import importlib
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from minicpmv46.config import MODEL_TYPE
from minicpmv46.plugin import compat
from minicpmv46.plugin.hook import ARCHITECTURE
from minicpmv46.plugin.routing import (
    MARK,
    Function,
    argument,
    checkpoint_model_type,
    declared_model_type,
    folder_model_type,
    is_our_language_model,
    is_our_model,
    is_our_processor,
    replace,
)

HUB_OPTIONS = ("revision", "token", "cache_dir", "force_download", "local_files_only")
POSITION_OF_ARGUMENTS = 4  # of `args` in the methods of `ResponseGenerator`
PROJECTOR = "multi_modal_projector"  # mlx-vlm's most general name for what joins vision to text


def patch_utils(utils: ModuleType) -> None:
    """Make `mlx_vlm.utils` resolve, load and feed our checkpoints through this package."""
    # First of all what reports the rest.
    if callable(getattr(utils, "load_model", None)):
        replace(utils, "load_model", checked_load)
    else:
        replace(utils, "get_model_and_args", checked_resolution)

    remapping = getattr(utils, "MODEL_REMAPPING", None)
    if isinstance(remapping, dict):
        remapping[MODEL_TYPE] = ARCHITECTURE.rpartition(".")[2]

    auto_processor = getattr(utils, "AutoProcessor", None)
    if auto_processor is not None and not isinstance(auto_processor, ProcessorRouter):
        utils.AutoProcessor = ProcessorRouter(auto_processor)  # type: ignore[attr-defined]

    replace(utils, "prepare_inputs", functools.partial(routed_inputs, "prepare_inputs"))
    # For training only, so `compat` does not ask for it. mlx-vlm's trainers, and nothing else, call it for a row;
    # without it they say that they cannot collate image_units.
    replace(utils, "process_inputs_with_fallback", functools.partial(routed_inputs, "training_inputs"))
    replace(utils, "save_weights", routed_weights)
    replace(utils, "save_config", routed_config)


def patch_prompt_utils(prompt_utils: ModuleType) -> None:
    """Make `mlx_vlm.prompt_utils` build our messages with image entries, as the official template wants."""
    formats = getattr(prompt_utils, "MODEL_CONFIG", None)
    image_first = compat.lookup(prompt_utils, "MessageFormat.LIST_WITH_IMAGE_FIRST")
    if isinstance(formats, dict) and image_first is not None:
        formats[MODEL_TYPE] = image_first

    replace(prompt_utils, "apply_chat_template", routed_template)


def patch_quantization(quant_utils: ModuleType) -> None:
    """Make `mlx_vlm.quant_utils` say to our model's `quant_predicate` what was asked for.

    Where the function is not there, every matrix of the decoder gets the bits asked for.
    """
    replace(quant_utils, "quantize_model", with_form)


def patch_prefix_cache(apc_coordinator: ModuleType) -> None:
    """Make `mlx_vlm.apc_coordinator` keep our prompts where the next turn of a chat finds them.

    `compat` does not ask for it: without it the answers are the same, read from the beginning. mlx-vlm could ask
    the language model where its prompts are to be kept.
    """
    owner = getattr(apc_coordinator, "APCCoordinator", None)
    original = getattr(owner, "checkpoint_lengths", None)
    if owner is not None and callable(original) and not getattr(original, MARK, False):
        replacement = functools.wraps(original)(kept_lengths(original))
        setattr(replacement, MARK, True)
        owner.checkpoint_lengths = replacement


def patch_batches(ar: ModuleType) -> None:
    """Make `mlx_vlm.generate.ar` read pictures of different sizes in one batch.

    `compat` does not ask for it: without it the answers are the same, one picture after the other.
    """
    if callable(getattr(ar, "group_images_by_shape", None)):
        replace(ar, "group_images_by_shape", grouped)
        replace(ar, "batch_generate", of_any_sizes)


def patch_adapters(adapters: ModuleType) -> None:
    """Make `mlx_vlm.trainer.peft.utils` train our mergers with the vision encoder."""
    replace(adapters, "unfreeze_modules", with_mergers)


def patch_requests(request_normalization: ModuleType) -> None:
    """Make mlx-vlm's server hand on what a request says about our processor and template (see `compat.SERVER`)."""
    replace(request_normalization, "_build_gen_args", routed_arguments)


def patch_generator(generation: ModuleType) -> None:
    """Make mlx-vlm's server look at a request's media before it opens a stream, and end answers at stop texts."""
    generator = getattr(generation, "ResponseGenerator", None)
    if isinstance(generator, type):
        replace(generator, "validate_context_budget", functools.partial(routed_request, "check_before_stream"))
        replace(generator, "generate", functools.partial(routed_request, "generate"))


def patch_anthropic(anthropic: ModuleType) -> None:
    """Make mlx-vlm's `/v1/messages` answer a bad request with its status; it makes 500 of every exception."""
    replace(anthropic, "_anthropic_error_response", routed_error)


def patch_drafters(drafters: ModuleType) -> None:
    """Make `mlx_vlm.speculative.drafters` find every drafter incompatible with our model.

    Its commands and its server then say so and answer without one. Where the function is not there, the model
    refuses a drafter's arguments itself.
    """
    replace(drafters, "validate_drafter_compatibility", refused_drafter)


def patch_structured(structured: ModuleType) -> None:
    """Make `mlx_vlm.structured` build grammars for our tokenizers that need no Metal."""
    replace(structured, "build_json_schema_logits_processor", portable_grammar)


class ProcessorRouter:
    """`transformers.AutoProcessor` for mlx-vlm's loader, with our processor for our checkpoints.

    It stands in front of AutoProcessor instead of patching it: importing mlx-vlm's own port patches
    `AutoProcessor.from_pretrained` for our model type, and its patch hides why a processor did not load.
    """

    def __init__(self, auto_processor: Any) -> None:
        self.auto_processor = auto_processor

    def __getattr__(self, name: str) -> Any:
        return getattr(self.auto_processor, name)

    def from_pretrained(self, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Any:
        hub = {name: kwargs[name] for name in HUB_OPTIONS if name in kwargs}
        if checkpoint_model_type(pretrained_model_name_or_path, hub) != MODEL_TYPE:
            return self.auto_processor.from_pretrained(pretrained_model_name_or_path, **kwargs)
        from minicpmv46.processing import MiniCPMV46Processor

        # mlx-vlm hands over everything `load` was called with; the rest is not for a processor.
        processor = MiniCPMV46Processor.from_pretrained(pretrained_model_name_or_path, **hub)
        setattr(processor.tokenizer, MARK, True)  # grammars are built from a tokenizer alone
        return processor


def checked_load(original: Function) -> Function:
    """`load_model`: mlx-vlm and the checkpoint are looked at before anything is read."""

    def load_model(*args: Any, **kwargs: Any) -> Any:
        folder = argument(original, 0, args, kwargs)
        if isinstance(folder, str | Path) and folder_model_type(Path(folder)) == MODEL_TYPE:
            # Says what does not fit. Here, since mlx-vlm hides an ImportError that names the model's module.
            importlib.import_module(ARCHITECTURE)
            compat.warn_of_server()
            from minicpmv46.checkpoint import check_checkpoint

            check_checkpoint(Path(folder))
        return original(*args, **kwargs)

    return load_model


def checked_resolution(original: Function) -> Function:
    """`get_model_and_args`, for an mlx-vlm whose `load_model` is gone."""

    def get_model_and_args(*args: Any, **kwargs: Any) -> Any:
        if declared_model_type(argument(original, 0, args, kwargs)) == MODEL_TYPE:
            compat.require()
        return original(*args, **kwargs)

    return get_model_and_args


def refused_drafter(original: Function) -> Function:
    def validate_drafter_compatibility(*args: Any, **kwargs: Any) -> Any:
        target = argument(original, 0, args, kwargs)
        if declared_model_type(getattr(target, "config", None)) == MODEL_TYPE:
            from minicpmv46.model import NO_SPECULATION

            raise ValueError(NO_SPECULATION)
        return original(*args, **kwargs)

    return validate_drafter_compatibility


def routed_inputs(name: str, original: Function) -> Function:
    """`original`, with `plugin.inputs.<name>` in its place for our processor."""

    def inputs(*args: Any, **kwargs: Any) -> Any:
        if not is_our_processor(argument(original, 0, args, kwargs)):
            return original(*args, **kwargs)
        ours = getattr(importlib.import_module("minicpmv46.plugin.inputs"), name)
        return ours(*args, **kwargs)

    return inputs


def kept_lengths(original: Function) -> Function:
    def checkpoint_lengths(coordinator: Any, *args: Any, **kwargs: Any) -> Any:
        lengths = original(coordinator, *args, **kwargs)
        if not is_our_language_model(coordinator.model):
            return lengths
        from minicpmv46.plugin.prefix_cache import up_to_turn_end

        token_ids, media_token_ids = (argument(original, i, (coordinator, *args), kwargs) for i in (1, 2))
        return up_to_turn_end(
            lengths,
            token_ids,
            stop_tokens=coordinator.model.stop_tokens,
            media_tokens=media_token_ids,
            shortest=coordinator.manager.exact_cache_min_tokens,
        )

    return checkpoint_lengths


def of_any_sizes(original: Function) -> Function:
    """`batch_generate`, which makes a batch of each size of picture; where `group_by_shape` is given it decides."""
    parameters = inspect.signature(original).parameters

    def batch_generate(*args: Any, **kwargs: Any) -> Any:
        named = {**dict(zip(parameters, args, strict=False)), **kwargs}
        if not is_our_processor(named.get("processor")) or "group_by_shape" in named:
            return original(*args, **kwargs)
        from minicpmv46.plugin.batches import any_sizes

        token = any_sizes.set(True)
        try:
            return original(*args, **kwargs)
        finally:
            any_sizes.reset(token)

    return batch_generate


def grouped(original: Function) -> Function:
    def group_images_by_shape(images: Any, *args: Any, **kwargs: Any) -> Any:
        from minicpmv46.plugin.batches import any_sizes, group_images

        return group_images(images) if any_sizes.get() else original(images, *args, **kwargs)

    return group_images_by_shape


def with_mergers(original: Function) -> Function:
    """`unfreeze_modules`, which `--train-vision` calls with a list of towers and projectors that lacks our mergers."""

    def unfreeze_modules(*args: Any, **kwargs: Any) -> Any:
        model, names = (argument(original, position, args, kwargs) for position in (0, 1))
        if declared_model_type(getattr(model, "config", None)) == MODEL_TYPE and PROJECTOR in (names or ()):
            return original(model, [*names, "vit_merger", "merger"])
        return original(*args, **kwargs)

    return unfreeze_modules


def portable_grammar(original: Function) -> Function:
    def build_json_schema_logits_processor(*args: Any, **kwargs: Any) -> Any:
        grammar = original(*args, **kwargs)
        if not getattr(argument(original, 0, args, kwargs), MARK, False):
            return grammar
        from minicpmv46.plugin.grammar import portable

        return portable(grammar)

    return build_json_schema_logits_processor


def with_form(original: Function) -> Function:
    def quantize_model(*args: Any, **kwargs: Any) -> Any:
        if not is_our_model(argument(original, 0, args, kwargs)):
            return original(*args, **kwargs)
        from mlx_vlm.quant_utils import get_quantization_params

        from minicpmv46.quantization import Form, asked_for

        group_size, bits, mode = (argument(original, position, args, kwargs) for position in (2, 3, 4))
        with asked_for(Form(**get_quantization_params(group_size, bits, mode or "affine"))):
            return original(*args, **kwargs)

    return quantize_model


def routed_weights(original: Function) -> Function:
    def save_weights(*args: Any, **kwargs: Any) -> None:
        if not is_our_model(argument(original, 1, args, kwargs)):
            return original(*args, **kwargs)
        from minicpmv46.plugin.saving import save_weights as save

        return save(original, *args, **kwargs)

    return save_weights


def routed_config(original: Function) -> Function:
    def save_config(*args: Any, **kwargs: Any) -> None:
        if declared_model_type(argument(original, 0, args, kwargs)) != MODEL_TYPE:
            return original(*args, **kwargs)
        from minicpmv46.plugin.saving import save_config as save

        return save(original, *args, **kwargs)

    return save_config


def routed_template(original: Function) -> Function:
    def apply_chat_template(*args: Any, **kwargs: Any) -> Any:
        if declared_model_type(argument(original, 1, args, kwargs)) != MODEL_TYPE:
            return original(*args, **kwargs)
        from minicpmv46.plugin.messages import apply_chat_template as ours

        return ours(*args, **kwargs)

    return apply_chat_template


def routed_arguments(original: Function) -> Function:
    def _build_gen_args(*args: Any, **kwargs: Any) -> Any:
        processor = argument(original, 1, args, kwargs)
        if not is_our_processor(processor):
            return original(*args, **kwargs)
        from minicpmv46.plugin.request_options import request_arguments

        request = argument(original, 0, args, kwargs)
        return request_arguments(lambda: original(*args, **kwargs), request, processor)

    return _build_gen_args


def routed_request(name: str, original: Function) -> Function:
    """A method of `ResponseGenerator`, with `plugin.requests.<name>` in its place for requests to our model."""
    signature = inspect.signature(original)

    def method(*args: Any, **kwargs: Any) -> Any:
        requests = sys.modules.get("minicpmv46.plugin.requests")  # imported with the first request to our model
        arguments = argument(original, POSITION_OF_ARGUMENTS, args, kwargs)
        if requests is None or not isinstance(arguments, requests.RequestArguments):
            return original(*args, **kwargs)
        return getattr(requests, name)(original, arguments, signature.bind(*args, **kwargs).arguments)

    return method


def routed_error(original: Function) -> Function:
    def _anthropic_error_response(*args: Any, **kwargs: Any) -> Any:
        requests = sys.modules.get("minicpmv46.plugin.requests")
        return original(*args, **kwargs) if requests is None else requests.error_response(original, *args, **kwargs)

    return _anthropic_error_response
