"""Thinking budgets, alone and of one row in a batch."""

from typing import Any

import pytest
from mlx_vlm.generate.ar import BatchGenerator
from mlx_vlm.utils import ThinkingBudgetCriteria
from support.plain_requests import NEW_TOKENS, WAVES, Loaded, ask, continued, prepared, token_id


@pytest.mark.parametrize(
    ("image", "budget", "tokens"),
    [
        (None, 0, {}),
        (WAVES, 4, {}),
        (None, 3, {"thinking_start_token": "<|im_start|>", "thinking_end_token": "</tool_call>"}),
    ],
)
def test_thinking_budget(loaded: Loaded, image: Any, budget: int, tokens: dict[str, str]) -> None:
    """mlx-vlm closes the block once there is a token more than the budget; the answer goes on from there."""
    free = ask(loaded, "Hi", image, thinking=True).token_ids
    end = token_id(loaded, tokens.get("thinking_end_token", "</think>"))
    thoughts = [*free[: budget + 1], token_id(loaded, "\n"), end]
    assert end not in free
    result = ask(loaded, "Hi", image, thinking=True, thinking_budget=budget, **tokens).token_ids
    rest = continued(loaded, prepared(loaded, "Hi", image, thinking=True), thoughts, NEW_TOKENS - len(thoughts))
    assert result == thoughts + rest and rest
    # The next call has no budget.
    assert ask(loaded, "Hi", image, thinking=True).token_ids == free


def test_thinking_budget_without_thinking(loaded: Loaded) -> None:
    """A template that closes the block itself leaves nothing to cut."""
    assert ask(loaded, "Hi", thinking_budget=2).token_ids == ask(loaded, "Hi").token_ids


def test_thinking_budget_of_one_row(loaded: Loaded) -> None:
    """In a batch one row is cut, and its neighbour is not."""
    model, processor = loaded
    budgets = {0: 2, 1: None}
    expected = [
        ask(loaded, text, thinking=True, **({"thinking_budget": budget} if budget else {})).token_ids
        for text, budget in zip(("Count.", "Why?"), budgets.values(), strict=True)
    ]
    ids = [prepared(loaded, text, thinking=True)["input_ids"] for text in ("Count.", "Why?")]
    criteria = [
        budget
        and ThinkingBudgetCriteria(
            processor.tokenizer,
            budget,
            thinking_start_token="<think>",
            enable_thinking=True,
            prompt_preopens_thinking=True,
        )
        for budget in budgets.values()
    ]
    generator = BatchGenerator(model.language_model, processor, prefill_batch_size=2)
    generator.insert(
        [row[0].tolist() for row in ids],
        NEW_TOKENS,
        prompt_kwargs=[{"inputs_embeds": model.language_model.model.embed_tokens(row)} for row in ids],
        thinking_budget_criteria=criteria,
    )
    found: dict[int, list[int]] = {0: [], 1: []}
    while generator.has_work:
        for response in generator.next()[1]:
            found[response.uid].append(response.token)
    generator.close()
    assert list(found.values()) == expected
