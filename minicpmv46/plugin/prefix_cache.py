"""Where mlx-vlm's automatic prefix cache keeps a prompt of ours, so that a chat's next turn finds it.

The state of the delta nets cannot be rolled back, so mlx-vlm keeps copies of it: one token before a prompt's end, and
every 2,048 tokens. The next turn's prompt differs before that end, since the template opens the answer with a think
block and leaves it out of earlier answers. Both prompts are the same up to the end of the turn that is answered.
"""

from collections.abc import Collection, Sequence


def turn_end(token_ids: Sequence[int], stop_tokens: Collection[int]) -> int:
    """Number of tokens up to the end of a prompt's last finished turn; 0 where it has none."""
    for i in range(len(token_ids), 0, -1):
        if token_ids[i - 1] in stop_tokens:
            return i
    return 0


def up_to_turn_end(
    lengths: list[int],
    token_ids: Sequence[int],
    *,
    stop_tokens: Collection[int],
    media_tokens: Collection[int],
    shortest: int,
) -> list[int]:
    """Lengths at which a prompt is kept: the last is the end of the turn that is answered.

    No more copies are kept than before. A repeated prompt reads the opening of its answer again, ten tokens or fewer.

    Args:
        lengths: where mlx-vlm keeps the prompt, ascending.
        token_ids: the prompt.
        stop_tokens: ids that end a turn.
        media_tokens: ids of placeholders; mlx-vlm does not continue before one of these.
        shortest: mlx-vlm keeps nothing that is shorter.
    """
    end = turn_end(token_ids, stop_tokens)
    if end < shortest or not lengths or any(token in media_tokens for token in token_ids[end:]):
        return lengths
    end = min(end, lengths[-1])  # users may have asked for an earlier place: APC_CHECKPOINT_GUARD_TOKENS
    return [*(n for n in lengths if n < end), end]
