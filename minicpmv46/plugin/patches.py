"""Everything that this package changes in mlx-vlm, a row each.

mlx-vlm has no entry points, so functions of its are replaced where they are defined, right after their module has been
executed (`hook.py`), by one that looks at an argument: what is ours goes to a function of ours, everything else to
the original unchanged (`routing.py`). For a new release of mlx-vlm read this table;
`tests/registration/test_table.py` says which rows changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from minicpmv46.plugin import ours
from minicpmv46.plugin.rows import Entry, Patch

if TYPE_CHECKING:  # what rows name, for tools that follow imports to collect an application's modules
    from minicpmv46.plugin import (  # noqa: F401
        arch,
        arrays,
        batches,
        command,
        drafters,
        grammar,
        inputs,
        loading,
        messages,
        prefix_cache,
        processors,
        request_options,
        requests,
        saving,
        training,
        whole,
    )

ARCHITECTURE = "mlx_vlm.models.minicpmv46"

ENTRY_POINTS = "entry points for models"

TABLE: tuple[Patch | Entry, ...] = (
    # Loading
    Patch(
        "mlx_vlm.utils",
        "load_model",
        argument="model_path",
        is_ours=ours.is_our_folder,
        instead="minicpmv46.plugin.loading:load_model",
        around=True,
        why="mlx-vlm passes over missing shards, hides why our modules cannot be imported, and may not fit us",
        until="a hook of a model's module before weights are read, and errors of that module shown as they are",
    ),
    Entry(
        "mlx_vlm.utils",
        "MODEL_REMAPPING",
        value=ARCHITECTURE.rpartition(".")[2],
        why="mlx-vlm finds a model by its type among its own modules: it has one of 4.6, and none of MiniCPM-OCR",
        until=ENTRY_POINTS,
    ),
    Patch(
        "transformers.models.auto.processing_auto",
        "AutoProcessor.from_pretrained",
        argument="pretrained_model_name_or_path",
        is_ours=ours.is_our_checkpoint,
        instead="minicpmv46.plugin.processors:from_pretrained",
        # Not before: who uses transformers without mlx-vlm finds it as it was. And again when mlx-vlm's own port, which
        # that of 4.7 imports, has put itself in front, where it would hide what is wrong with a processor.
        after=("mlx_vlm.utils", "mlx_vlm.models.minicpmv4_6.processing_minicpmv4_6"),
        why="mlx-vlm's loader, and programs beside it, ask AutoProcessor, whose classes for these types need torch",
        until="a model's module that names its processor",
    ),
    # Requests
    Patch(
        "mlx_vlm.utils",
        "prepare_inputs",
        argument="processor",
        is_ours=ours.is_our_processor,
        instead="minicpmv46.plugin.inputs:prepare_inputs",
        why="mlx-vlm decodes videos and flattens images before the processor is asked, and tokenizes text past it",
        until="a processor's method that takes media and options as they were given",
    ),
    Patch(
        "mlx_vlm.prompt_utils",
        "apply_chat_template",
        argument="config",
        is_ours=ours.is_our_config,
        instead="minicpmv46.plugin.messages:apply_chat_template",
        why="mlx-vlm's message builder puts a video on every message and drops video entries of content lists",
        until="messages that reach the template as they were given",
    ),
    Entry(
        "mlx_vlm.prompt_utils",
        "MODEL_CONFIG",
        value_of="MessageFormat.LIST_WITH_IMAGE_FIRST",
        why="`get_message_json` writes images of 4.6 as text that the official template does not know",
        until=ENTRY_POINTS,
    ),
    Patch(
        "mlx_vlm.generate.dispatch",
        "stream_generate",
        argument="processor",
        is_ours=ours.is_our_processor,
        instead="minicpmv46.plugin.arrays:stream_generate",
        around=True,
        need="optional",
        why="`generate(image=array)` fails with numpy's words about the truth of an array",
        until="`image is not None` in place of `image or None`",
    ),
    Patch(
        "mlx_vlm.generate.ar",
        "batch_generate",
        argument="processor",
        is_ours=ours.is_our_processor,
        instead="minicpmv46.plugin.batches:batch_generate",
        around=True,
        need="optional",
        why="a batch is made of each size of picture: crops of a document run one by one",
        until="a processor that says that its rows may differ in size, and a bound of rows",
    ),
    Patch(
        "mlx_vlm.utils",
        "group_images_by_shape",
        argument="images",
        is_ours=ours.is_in_our_batch,
        instead="minicpmv46.plugin.batches:group_images_by_shape",
        need="optional",
        why="the same; it is here that `batch_generate` divides, and it is not told for whom",
        until="the same",
    ),
    Patch(
        "mlx_vlm.apc_coordinator",
        "APCCoordinator.checkpoint_lengths",
        argument="self",
        is_ours=ours.keeps_our_prompts,
        instead="minicpmv46.plugin.prefix_cache:checkpoint_lengths",
        around=True,
        need="optional",
        why="mlx-vlm keeps a prompt one token before its end, where the next turn's differs: every turn is read anew",
        until="a language model that says where its prompts are to be kept",
    ),
    Patch(
        "mlx_vlm.structured",
        "build_json_schema_logits_processor",
        argument="tokenizer",
        is_ours=ours.is_our_tokenizer,
        instead="minicpmv46.plugin.grammar:build_json_schema_logits_processor",
        around=True,
        need="optional",
        why="grammars mask logits by a Metal kernel, so structured output fails elsewhere",
        until="a mask by ordinary operations where there is no Metal",
    ),
    Patch(
        "mlx_vlm.speculative.drafters",
        "validate_drafter_compatibility",
        argument="target_model",
        is_ours=ours.is_our_model,
        instead="minicpmv46.plugin.drafters:validate_drafter_compatibility",
        need="optional",
        why="commands and server take any drafter of our width, and then every answer fails in the model, which "
        "refuses what a drafter needs of it; told here, they say so and answer without one",
        until="a model that says that it takes no drafter",
    ),
    # Server
    Patch(
        "mlx_vlm.server.request_normalization",
        "_build_gen_args",
        argument="processor",
        is_ours=ours.is_our_processor,
        instead="minicpmv46.plugin.request_options:request_arguments",
        around=True,
        need="server",
        why="the server drops the fields of a request that it does not know: options, template variables, stop texts; "
        "and the videos of its messages",
        until="fields of a request, and messages, that reach the processor as they were given",
    ),
    Patch(
        "mlx_vlm.server.generation",
        "ResponseGenerator.validate_context_budget",
        argument="args",
        is_ours=ours.is_our_request,
        instead="minicpmv46.plugin.requests:check_before_stream",
        around=True,
        need="server",
        why="a stream opens with status 200 before its media are looked at, and then breaks off",
        until="inputs that are prepared before a stream opens",
    ),
    Patch(
        "mlx_vlm.server.generation",
        "ResponseGenerator.generate",
        argument="args",
        is_ours=ours.is_our_request,
        instead="minicpmv46.plugin.requests:generate",
        around=True,
        need="server",
        why="answers do not end at stop texts",
        until="`stop` on all endpoints",
    ),
    Patch(
        "mlx_vlm.server.anthropic",
        "_anthropic_error_response",
        argument="message",
        is_ours=ours.is_our_refusal,
        instead="minicpmv46.plugin.requests:error_response",
        around=True,
        need="server",
        why="messages get 500 for what is wrong with a request's media",
        until="an exception that every endpoint answers with 400",
    ),
    # Command
    Patch(
        "mlx_vlm.generate.diffusion",
        "diffusion_kwargs_from_args",
        argument="config",
        is_ours=ours.is_our_config,
        instead="minicpmv46.plugin.command:diffusion_kwargs_from_args",
        around=True,
        need="optional",
        why="unknown names in `--processor-kwargs` are lost; the command calls this before it generates",
        until="`--processor-kwargs` that are checked against the processor's signature",
    ),
    # Conversion
    Patch(
        "mlx_vlm.quant_utils",
        "quantize_model",
        argument="model",
        is_ours=ours.is_our_model,
        instead="minicpmv46.plugin.saving:quantize_model",
        around=True,
        need="optional",
        why="`quant_predicate` is not told what was asked for: every matrix of the decoder would get the same bits",
        until="bits, group size and mode as arguments of `quant_predicate`",
    ),
    Patch(
        "mlx_vlm.utils",
        "save_weights",
        argument="model",
        is_ours=ours.is_our_model,
        instead="minicpmv46.plugin.saving:save_weights",
        around=True,
        why="plain folders would have names that transformers does not know",
        until="a model's method that names weights for saving",
    ),
    Patch(
        "mlx_vlm.utils",
        "save_config",
        argument="config",
        is_ours=ours.is_our_config,
        instead="minicpmv46.plugin.saving:save_config",
        around=True,
        why="a dequantized folder's `config.json` would still say that it is quantized",
        until="`convert --dequantize` that removes it",
    ),
    # Training
    Patch(
        "mlx_vlm.utils",
        "process_inputs_with_fallback",
        argument="processor",
        is_ours=ours.is_our_processor,
        instead="minicpmv46.plugin.inputs:training_inputs",
        need="optional",
        why="mlx-vlm's trainers drop axes of size 1 of a row, and then cannot collate one visual unit beside several. "
        "A row of zeros after a row's units would do, but the processor's `image_units` is [units, 4] to others",
        until="collation that keeps axes",
    ),
    Patch(
        "mlx_vlm.trainer.peft.utils",
        "unfreeze_modules",
        argument="model",
        is_ours=ours.is_our_model,
        instead="minicpmv46.plugin.training:unfreeze_modules",
        around=True,
        need="optional",
        why="`--train-vision` names towers and projectors, and our mergers are not among them",
        until="a model that says which modules are its vision",
    ),
)
