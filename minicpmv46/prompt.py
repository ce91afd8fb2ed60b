"""Placeholders: the text that stands for an image or a video before tokenization.

The chat template writes one `<|image_pad|>` or `<|video_pad|>` for each; here they become as many as the model has
visual tokens, framed unit by unit. Text of the user is never rewritten: what looks like `<image>` or `<slice>` in it
is tokenized as it stands, as the official processor does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .slicing import SlicePlan


@dataclass(frozen=True)
class SpecialTokens:
    """The checkpoint's names for the tokens that frame visual units."""

    image_token: str = "<|image_pad|>"
    video_token: str = "<|video_pad|>"
    image_start_token: str = "<image>"
    image_end_token: str = "</image>"
    slice_start_token: str = "<slice>"
    slice_end_token: str = "</slice>"
    image_id_start_token: str = "<image_id>"
    image_id_end_token: str = "</image_id>"


def unit_placeholder(plan: SlicePlan, media_token: str, tokens: SpecialTokens) -> str:
    """Text of one overview with its slices: slices of a row adjoin, rows are joined by a line break."""
    overview, *slices = plan.token_counts
    text = tokens.image_start_token + media_token * overview + tokens.image_end_token
    if plan.grid is None:
        return text
    rows, cols = plan.grid
    pieces = [tokens.slice_start_token + media_token * n + tokens.slice_end_token for n in slices]
    return text + "\n".join("".join(pieces[row * cols : (row + 1) * cols]) for row in range(rows))


def image_placeholder(plan: SlicePlan, tokens: SpecialTokens) -> str:
    """Text that replaces one `<|image_pad|>`, without its id."""
    return unit_placeholder(plan, tokens.image_token, tokens)


def video_placeholder(plans: Sequence[SlicePlan], tokens: SpecialTokens) -> str:
    """Text that replaces one `<|video_pad|>`, without its id: the frames one after the other."""
    return "".join(unit_placeholder(plan, tokens.video_token, tokens) for plan in plans)


def check_characters(texts: Sequence[str]) -> None:
    """Raise `ValueError` where a text has half an emoji, which no tokenizer reads; clients cut such in UTF-16."""
    for i, text in enumerate(texts):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half = error.object[error.start]
            raise ValueError(f"prompt {i} has half a character, {half!r} at {error.start}; send whole ones") from error


def count_placeholders(texts: Sequence[str], kind: str, token: str, given: Sequence[int] | int) -> list[int]:
    """How many placeholders each text has.

    Args:
        kind: "image" or "video", for errors.
        given: images or videos of each text, or the number of all, which come in the texts' order. As many as there
            are texts are one each, as mlx-vlm pairs them.

    Raises:
        ValueError: there are more or fewer placeholders than images or videos.
    """
    found = [text.count(token) for text in texts]
    total = given if isinstance(given, int) else sum(given)
    each = [1] * len(texts) if total == given == len(texts) else None if isinstance(given, int) else list(given)
    if sum(found) == total and each in (None, found):
        return found
    told = f"the prompt has {_of(sum(found), f'{token} placeholder')}, but {_given(total, kind)}"
    if sum(found) > total:
        todo = f"give one for each {token}, or take it out of the prompt (batch_generate wants the bare question)"
    elif sum(found) < total:
        todo = f"add a {token} for each (apply_chat_template of mlx_vlm does, told num_images or video)"
    else:
        assert each is not None
        i, wanted = next((i, n) for i, n in enumerate(each) if n != found[i])
        told = f"prompt {i} has {_of(found[i], f'{token} placeholder')}, but {_given(wanted, kind)}"
        todo = f"put each {token} into the prompt of its {kind}, or give {kind}s as a list of lists, one a prompt"
    rows = f" (the prompts have {', '.join(map(str, found[:8]))}{', …' * (len(found) > 8)})" if len(texts) > 1 else ""
    raise ValueError(f"{told}{rows}; {todo}")


def _of(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def _given(count: int, kind: str) -> str:
    return f"{_of(count, kind)} {'were' if count != 1 else 'was'} given"


def expand_placeholders(
    texts: Sequence[str],
    images: Sequence[str],
    videos: Sequence[str],
    tokens: SpecialTokens,
    *,
    use_image_id: bool,
) -> list[str]:
    """Replace each placeholder of `texts` by the next text of `images` or `videos`.

    Ids count from 0 in each text, images and videos apart. Raises `ValueError` where there are not as many.
    """
    for kind, token, given in (("image", tokens.image_token, images), ("video", tokens.video_token, videos)):
        count_placeholders(["".join(texts)], kind, token, len(given))
    pending = {tokens.image_token: iter(images), tokens.video_token: iter(videos)}
    pattern = re.compile("|".join(map(re.escape, pending)))

    expanded = []
    for text in texts:
        seen = dict.fromkeys(pending, 0)

        def replacement(match: re.Match[str], seen: dict[str, int] = seen) -> str:
            token = match.group()
            prefix = f"{tokens.image_id_start_token}{seen[token]}{tokens.image_id_end_token}" if use_image_id else ""
            seen[token] += 1
            return prefix + next(pending[token])

        expanded.append(pattern.sub(replacement, text))
    return expanded
