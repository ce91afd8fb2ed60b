"""The flags of `python -m mlx_vlm.generate` mean what the keywords of `generate` mean."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_vlm import generate, load
from support.pictures import MEDIA
from support.plain_requests import NEW_TOKENS, ask, rendered
from support.running import python

COMMANDS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "thinking and stopping": (
        (
            *("--enable-thinking", "--thinking-budget", "1", "--thinking-start-token", "<think>"),
            *("--thinking-end-token", "</tool_call>", "--eos-tokens", "E", "</unit>"),
        ),
        {
            "thinking_budget": 1,
            "thinking_start_token": "<think>",
            "thinking_end_token": "</tool_call>",
            "eos_tokens": ["E", "</unit>"],
        },
    ),
    "penalties, limits and texts": (
        (
            *("--image", str(MEDIA / "roof.png"), "--resize-shape", "100", "--max-kv-size", "8"),
            *("--skip-special-tokens", "--repetition-penalty", "0.8", "--repetition-context-size", "3"),
            *("--presence-penalty", "-1", "--frequency-penalty", "-0.5", "--frequency-context-size", "4"),
        ),
        {
            "image": [str(MEDIA / "roof.png")],
            "resize_shape": (100, 100),
            "skip_special_tokens": True,
            "repetition_penalty": 0.8,
            "repetition_context_size": 3,
            "presence_penalty": -1.0,
            "frequency_penalty": -0.5,
            "frequency_context_size": 4,
        },
    ),
    "sampling and mixed caches": (
        (
            *("--temperature", "1.2", "--top-p", "0.95", "--top-k", "40", "--min-p", "0.01", "--seed", "5"),
            *("--kv-bits", "8", "--kv-group-size", "32", "--kv-key-scheme", "uniform"),
            *("--kv-value-scheme", "turboquant", "--kv-value-bits", "6", "--quantized-kv-start", "0"),
        ),
        {
            **{"temperature": 1.2, "top_p": 0.95, "top_k": 40, "min_p": 0.01},
            **{"kv_bits": 8, "kv_group_size": 32, "kv_key_scheme": "uniform"},
            **{"kv_value_scheme": "turboquant", "kv_value_bits": 6, "quantized_kv_start": 0},
        },
    ),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_command(name: str, folder: Path, checkpoint: Callable[[str], Path]) -> None:
    """Flags with the meaning of the keywords."""
    flags, keywords = COMMANDS[name]
    path = str(checkpoint("untied"))
    done = python(
        *("-m", "mlx_vlm.generate", "--model", path, "--prompt", "Why?", "--max-tokens", str(NEW_TOKENS)),
        *(("--temperature", "0.0") if "temperature" not in keywords else ()),
        *flags,
        folder=folder,
    )
    assert done.returncode == 0, done.stderr.decode()
    mx.random.seed(5)  # like the command, before the model is made: making it draws numbers
    own = load(path)
    thinking = "thinking_budget" in keywords
    template = {"enable_thinking": True} if thinking else {}
    prompt = rendered(own, "Why?", keywords.get("image"), thinking)
    result = generate(*own, prompt, **{"max_tokens": NEW_TOKENS, "temperature": 0.0, **template, **keywords})
    assert done.stdout.decode() == f"{result.text}\n" and len(result.text) > 3
    assert result.token_ids != ask(own, "Why?", thinking=thinking).token_ids
