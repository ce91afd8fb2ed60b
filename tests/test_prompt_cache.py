"""Turns of a chat with `PromptCacheState`: what is kept of a turn changes no answer of the next."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_vlm import load
from mlx_vlm.generate.common import PromptCacheState
from mlx_vlm.prompt_utils import apply_chat_template
from support import golden_data
from support.asking import greedy, prepared, rendered
from support.cases import BY_NAME
from support.pictures import Picture
from support.tiny import IM_END, IM_START


@pytest.fixture(scope="module")
def loaded(checkpoint: Callable[[str], Path]) -> Callable[[str], tuple[Any, Any]]:
    """Model and processor of a variant as users get them."""
    return cache(lambda variant="base": load(str(checkpoint(variant))))


class Conversation:
    """Two turns as id lists, so that the second one really continues the first one's tokens."""

    def __init__(self, loaded: Any, name: str, state: PromptCacheState | None) -> None:
        self.case = BY_NAME[name]
        self.model, self.processor = loaded(self.case.variant)
        self.state = state

    def ask(self, ids: list[int], **media_inputs: Any) -> Any:
        extra = {"prompt_cache_state": self.state} if self.state is not None else {}
        return greedy(self.model, self.processor, "", 6, input_ids=mx.array([ids]), **media_inputs, **extra)

    def inputs(self, prompt: str, images: list[Any]) -> tuple[list[int], dict[str, Any]]:
        inputs = prepared(self.processor, prompt, image=images) if images else prepared(self.processor, prompt)
        kept = {key: inputs[key] for key in ("pixel_values", "image_units") if key in inputs}
        return inputs["input_ids"][0].tolist(), kept


QUESTION = "<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("name", ["photo_upscaled", "text_chat_untied"])
def test_second_turn_continues_the_first(loaded: Any, name: str) -> None:
    """A follow-up question reads only its own tokens, and is answered as if everything had been read."""
    warm, cold = Conversation(loaded, name, PromptCacheState()), Conversation(loaded, name, None)
    images = [picture.load() for picture in warm.case.pictures]
    first, media_inputs = warm.inputs(rendered(warm.model, warm.processor, warm.case), images)
    reply = warm.ask(first, **media_inputs)
    assert reply.token_ids == golden_data.load(name)["greedy"][:6].tolist()

    more = warm.processor.tokenizer.encode(QUESTION.format("And why?"))
    assert more.count(IM_START) == 2 and more[0] == IM_END
    second = first + reply.token_ids + more
    warm_reply = warm.ask(second, **media_inputs)
    assert warm_reply.cached_tokens == len(first) + len(reply.token_ids)
    assert warm_reply.token_ids == cold.ask(second, **media_inputs).token_ids
    # Other words from the first token on: a recurrent state cannot be rolled back, so all is read again.
    other = warm.processor.tokenizer.encode("x") + second[1:]
    again = warm.ask(other, **media_inputs)
    assert again.cached_tokens == 0
    assert again.token_ids == cold.ask(other, **media_inputs).token_ids


def test_second_turn_adds_an_image(loaded: Any) -> None:
    """The new image is seen although a cache of the first turn is there."""
    name = "photo_upscaled"
    warm, cold = Conversation(loaded, name, PromptCacheState()), Conversation(loaded, name, None)
    roof, flower = Picture("roof.png").load(), Picture("flower.png").load()
    prompt = rendered(warm.model, warm.processor, warm.case)
    first, media_inputs = warm.inputs(prompt, [roof])
    reply = warm.ask(first, **media_inputs)
    ids, both = warm.inputs(prompt + QUESTION.format("<|image_pad|>\nAnd this?"), [roof, flower])
    second = first + reply.token_ids + ids[len(first) :]
    assert ids[: len(first)] == first
    warm_reply = warm.ask(second, **both)
    assert warm_reply.token_ids == cold.ask(second, **both).token_ids
    _, other = warm.inputs(prompt + QUESTION.format("<|image_pad|>\nAnd this?"), [roof, flower.rotate(180)])
    assert warm_reply.token_ids != cold.ask(second, **other).token_ids, "the second image has no influence"


def test_second_turn_through_the_template(loaded: Any) -> None:
    """A chat with a cache between its turns is answered like the same chat without one."""
    case = BY_NAME["chat_two_pictures"]
    model, processor = loaded(case.variant)
    images = [picture.load() for picture in case.pictures]
    state = PromptCacheState()
    for count, shown in ((1, 1), (3, 2), (5, 2)):
        messages = case.messages[:count]
        prompt = apply_chat_template(processor, model.config, messages, num_images=shown)
        plain = greedy(model, processor, prompt, 6, image=images[:shown])
        kept = greedy(model, processor, prompt, 6, image=images[:shown], prompt_cache_state=state)
        assert kept.token_ids == plain.token_ids
        # The think block at the end of each prompt is not in the next one, and a recurrent state cannot go back.
        assert kept.cached_tokens == 0
    assert plain.token_ids == golden_data.load(case.name)["greedy"][:6].tolist()
