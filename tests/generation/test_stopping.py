"""Stop tokens, limits of length, what the text shows, and the box that images are shrunk into."""

import pytest
from mlx_vlm import generate
from support.plain_requests import NEW_TOKENS, SMALL, WAVES, Loaded, ask, rendered


def test_more_stop_tokens(loaded: Loaded) -> None:
    """As ids and as words, until a call without them; a word stands for its last token after a space."""
    encode = loaded[1].tokenizer.encode
    free = ask(loaded, "Why?").token_ids
    words = [[free[0]], [free[4]], ["<|im_start|>"], ["i"], ["i", free[3]]]
    for stops, position in zip(words, (0, 4, 0, free.index(encode(" i")[-1]), 3), strict=True):
        result = ask(loaded, "Why?", eos_tokens=stops)
        assert (result.token_ids, result.finish_reason) == (free[: position + 1], "stop"), stops
        again = ask(loaded, "Why?")  # mlx-vlm keeps them until then
        assert (again.token_ids, again.finish_reason) == (free, "length")


def test_limits_of_length(loaded: Loaded) -> None:
    free = ask(loaded, "Why?")
    for limit in (0, 1, 5):
        result = ask(loaded, "Why?", max_tokens=limit)
        assert result.token_ids == free.token_ids[:limit] and result.finish_reason == "length"


def test_skip_special_tokens(loaded: Loaded) -> None:
    plain, skipped = ask(loaded, "Hi", WAVES), ask(loaded, "Hi", WAVES, skip_special_tokens=True)
    assert skipped.token_ids == plain.token_ids
    for result, skip in ((plain, False), (skipped, True)):
        text = loaded[1].tokenizer.decode(plain.token_ids, skip_special_tokens=skip)
        # Bytes that are no UTF-8 are shown differently when they are streamed.
        assert result.text.replace("\ufffd", "") == text.replace("\ufffd", "")
    assert plain.text != skipped.text


@pytest.mark.parametrize(("shape", "size"), [((200,), (200, 180)), ((90, 200), (100, 90))])
def test_resize_shape(loaded: Loaded, shape: tuple[int, ...], size: tuple[int, int]) -> None:
    """One number is both sides of the box; `size` is height and width of the 300x270 image in it."""
    height, width = size
    result = ask(loaded, "Hi", WAVES, resize_shape=shape)
    model, processor = loaded
    resized = WAVES.load().resize((width, height))
    options = {"max_tokens": NEW_TOKENS, "temperature": 0.0, **SMALL}
    expected = generate(model, processor, rendered(loaded, "Hi", resized), image=[resized], **options)
    assert (result.token_ids, result.prompt_tokens) == (expected.token_ids, expected.prompt_tokens)
