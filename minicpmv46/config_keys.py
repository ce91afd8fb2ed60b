"""Keys of `config.json` that change nothing in the computation, with the checks of those that others read."""

from __future__ import annotations

from .checks import Check, switch
from .schema import number, section, size, text, texts, token_id, token_ids

# Sides in pixels.
PIXELS = size(65_536)

# What transformers and mlx-vlm write into any section.
GENERIC_CHECKS: dict[str, Check] = {
    "architectures": texts,
    "bos_token_id": token_ids,
    "eos_token_id": token_ids,
    "pad_token_id": token_ids,
    "sep_token_id": token_ids,
    "decoder_start_token_id": token_ids,
    "dtype": text,
    "torch_dtype": text,
    "model_type": text,
    "transformers_version": text,
    "tokenizer_class": text,
    "id2label": section,
    "label2id": section,
    "attention_dropout": number(0, 1),
    "initializer_range": number(0, 1e6),
    "use_cache": switch,
}
GENERIC = frozenset(
    (
        *GENERIC_CHECKS,
        *("attn_implementation", "chunk_size_feed_forward", "dropout", "finetuning_task", "hidden_dropout"),
        *("is_encoder_decoder", "output_attentions", "output_hidden_states", "problem_type", "return_dict"),
        *("prefix", "task_specific_params", "is_decoder", "add_cross_attention", "cross_attention_hidden_size"),
        *("tie_encoder_decoder", "pruned_heads", "torchscript", "use_bfloat16", "tf_legacy_loss"),
        *("name_or_path", "unsloth_fixed", "unsloth_version"),  # of tools for training
    )
)
# Heads for drafting (`mtp_*`) are not part of the model; the state of the delta nets is float32 always.
TEXT_CHECKS: dict[str, Check] = {
    "full_attention_interval": size(1024),
    "tie_word_embeddings": switch,
    "mamba_ssm_dtype": text,
}
TEXT = frozenset((*TEXT_CHECKS, "attn_output_gate", "hidden_act", "mlp_only_layers", "rope_parameters", "rope_scaling"))
# Position ids are the same on all three axes here, so sections and interleaving of MRoPE change nothing.
ROPE = ("rope_type", "type", "rope_theta", "partial_rotary_factor", "mrope_section", "mrope_interleaved")
# The root's sizes repeat those of the vision section; quantization is mlx-vlm's, and sampling is generation's.
# `image_size` and `drop_vision_last_layer` are of MiniCPM-V 4.6. MiniCPM-OCR's official class does not have them, and
# passes over them where a folder has them all the same.
ROOT_CHECKS: dict[str, Check] = {
    "image_size": PIXELS,
    "patch_size": PIXELS,
    "auto_map": section,
    "generation_config": section,
    "do_sample": switch,
    "temperature": number(0, 1e6),
    "top_p": number(0, 1),
    "top_k": size(2**31 - 1, -1),
    "vision_start_token_id": token_id,
    "vision_end_token_id": token_id,
    "image_token_index": token_id,
    "video_token_index": token_id,
}
ROOT = frozenset(
    (
        *ROOT_CHECKS,
        *("drop_vision_last_layer", "insert_layer_id", "quantization", "quantization_config"),
        *("repetition_penalty", "max_length", "max_new_tokens", "min_p", "presence_penalty", "frequency_penalty"),
        *("language_model_only", "version"),
    )
)
