"""Placeholders in prompts."""

from typing import Any

import pytest

from minicpmv46.prompt import (
    SpecialTokens,
    count_placeholders,
    expand_placeholders,
    image_placeholder,
    video_placeholder,
)
from minicpmv46.slicing import SliceOptions, plan_slices

TOKENS = SpecialTokens(image_token="I", video_token="V")


def test_overview_and_rows_of_slices() -> None:
    plan = plan_slices(1000, 700, SliceOptions(max_slice_nums=4))
    assert plan.grid == (2, 2)
    overview, each = plan.token_counts[0], plan.token_counts[1]
    row = f"<slice>{'I' * each}</slice>" * 2
    assert image_placeholder(plan, TOKENS) == f"<image>{'I' * overview}</image>{row}\n{row}"


def test_frames_adjoin() -> None:
    plan = plan_slices(64, 112, SliceOptions(max_slice_nums=1))
    frame = f"<image>{'V' * plan.token_counts[0]}</image>"
    assert video_placeholder([plan, plan], TOKENS) == frame * 2


def test_ids_count_per_prompt_and_kind() -> None:
    texts = ["a I b V c I", "I V V"]
    expanded = expand_placeholders(texts, ["1", "2", "3"], ["x", "y", "z"], TOKENS, use_image_id=True)

    def number(k: int) -> str:
        return f"<image_id>{k}</image_id>"

    assert expanded == [
        f"a {number(0)}1 b {number(0)}x c {number(1)}2",
        f"{number(0)}3 {number(0)}y {number(1)}z",
    ]
    assert expand_placeholders(["I"], ["1"], [], TOKENS, use_image_id=False) == ["1"]


def test_text_is_not_rewritten() -> None:
    """What a user writes between placeholders stays, also where it looks like a frame or a replacement."""
    text = "<image>./</image> (<slice>) \\1 \\g<0> I </think>"
    assert expand_placeholders([text], ["\\1"], [], TOKENS, use_image_id=False) == [text.replace("I", "\\1")]


@pytest.mark.parametrize(
    ("texts", "given", "words"),
    [
        (["II", ""], 2, ("prompt 0 has 2", "1 image was", "2, 0")),  # as many as prompts: one each
        (["", "II"], [1, 1], ("prompt 0 has 0", "1 image was", "0, 2")),
        (["I", "II", "I"], [1, 1, 2], ("prompt 1 has 2", "1 image was", "1, 2, 1")),
        (["I", "I"], [2, 1], ("has 2 I", "3 images were", "add a I")),
        (["II", "I"], [1, 1], ("has 3 I", "2 images were", "take it out")),
        (["I"], 2, ("the prompt has 1 I", "2 images were", "add a I")),
    ],
)
def test_counts_must_match_in_each_prompt(texts: list[str], given: Any, words: tuple[str, ...]) -> None:
    """Also where the sums agree; the sentence says which prompt has how many, and what to do."""
    with pytest.raises(ValueError) as caught:
        count_placeholders(texts, "image", "I", given)
    assert not [word for word in words if word not in str(caught.value)], caught.value


@pytest.mark.parametrize(
    ("texts", "given"), [(["II", ""], [2, 0]), (["II", "I"], 3), (["II", "I"], [2, 1]), (["I", "I"], 2), (["III"], 3)]
)
def test_counts_that_match(texts: list[str], given: Any) -> None:
    assert count_placeholders(texts, "image", "I", given) == [text.count("I") for text in texts]


@pytest.mark.parametrize(
    ("text", "images", "videos", "message"),
    [
        ("II", ["1"], [], "2 I placeholders, but 1 image was"),
        ("", ["1", "2"], [], "0 I placeholders, but 2 images were"),
        ("I", ["1"], ["x"], "0 V placeholders, but 1 video was"),
        ("V", [], [], "1 V placeholder, but 0 videos were"),
    ],
)
def test_counts_must_match(text: str, images: list[str], videos: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        expand_placeholders([text], images, videos, TOKENS, use_image_id=True)
