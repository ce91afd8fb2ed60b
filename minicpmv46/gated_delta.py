"""The gated delta rule: a linear attention whose state is corrected towards each new value.

For every head, with state S [value_dim, key_dim], decay exp(g) and step size beta:

    S <- exp(g_t) S
    S <- S + beta_t (v_t - S k_t) k_t^T
    y_t = S q_t

`mx.fast.gated_delta_update` is that, token by token, and a fused kernel on Metal for the heads of the real model.
`chunked` is the same for many tokens by matrix products, for every other backend and for training: within a chunk the
corrections solve a unit lower-triangular system. All math is float32. Padding is a token with g 0 and beta 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

# Tokens a chunk; the work inside a chunk grows with its square.
CHUNK = 32

# Heads for which MLX's Metal library has a kernel: both dimensions, and the numbers of key and value heads.
KERNEL_DIM = 128
KERNEL_HEADS = {(16, 16), (16, 32), (16, 48), (16, 64), (24, 24), (32, 32)}


def gated_delta_rule(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    g: mx.array,
    decay: mx.array,
    beta: mx.array,
    state: mx.array | None = None,
    differentiable: bool = False,
) -> tuple[mx.array, mx.array]:
    """Run the rule over a sequence.

    Args:
        q, k: float32 [batch, length, key heads, key_dim]; k normalized.
        v: float32 [batch, length, value heads, value_dim]; consecutive value heads share a key head.
        g: float32 [batch, length, value heads], logarithm of the decay, at most 0.
        decay: exp(g). One of the two is used: sums of logarithms keep more digits over a chunk, the kernel takes the
            decay itself.
        beta: float32 [batch, length, value heads].
        state: float32 [batch, value heads, value_dim, key_dim]; None starts from zeros.
        differentiable: keep to operations that have gradients on every backend.

    Returns:
        y, float32 [batch, length, value heads, value_dim], and the new state.
    """
    if state is None:
        state = mx.zeros((v.shape[0], v.shape[2], v.shape[3], k.shape[3]), dtype=mx.float32)
    if not differentiable and (q.shape[1] == 1 or has_kernel(k.shape[2:], v.shape[2:])):
        y, state = mx.fast.gated_delta_update(q, k, v, decay, beta, state)
        return y, state
    repeats = v.shape[2] // k.shape[2]
    if repeats > 1:
        q, k = mx.repeat(q, repeats, axis=2), mx.repeat(k, repeats, axis=2)
    return chunked(q, k, v, g, beta, state)


def has_kernel(keys: Sequence[int], values: Sequence[int]) -> bool:
    """Whether MLX's kernel runs here: on Metal, for these (heads, dimension) of keys and of values.

    Elsewhere `mx.fast.gated_delta_update` is several operations a token, 8 times slower than `chunked` on long inputs.
    """
    on_metal = mx.metal.is_available() and mx.default_device() == mx.gpu
    return on_metal and keys[1] == values[1] == KERNEL_DIM and (keys[0], values[0]) in KERNEL_HEADS


def chunked(
    q: mx.array, k: mx.array, v: mx.array, g: mx.array, beta: mx.array, state: mx.array
) -> tuple[mx.array, mx.array]:
    """Many tokens: q, k [B, T, H, key_dim], v [B, T, H, value_dim], g, beta [B, T, H]."""
    batch, length, heads, value_dim = v.shape
    size = min(CHUNK, 1 << (length - 1).bit_length())
    chunks = -(-length // size)

    def split(x: mx.array) -> mx.array:
        """[B, T, H, ...] to [B, H, chunks, size, ...]; the padding has beta 0 and g 0 and changes nothing."""
        x = mx.pad(x, [(0, 0), (0, chunks * size - length)] + [(0, 0)] * (x.ndim - 2))
        x = mx.moveaxis(x.reshape(batch, chunks, size, *x.shape[2:]), 3, 1)
        return mx.contiguous(x)  # copied once here, not for every product

    q, k, v, g, beta = map(split, (q, k, v, g, beta))
    beta = beta[..., None]
    causal, below = mx.tri(size, dtype=mx.bool_), mx.tri(size, k=-1, dtype=mx.bool_)
    # decay[i, j] from token j to token i sums g over the tokens between them; a difference of sums from the chunk's
    # start would lose the digits that one strong decay before them takes.
    between = mx.cumsum(mx.where(below, g[..., :, None], 0), axis=-2)
    decay = mx.where(causal, mx.exp(between), 0)  # [B, H, chunks, size, size]
    since_start = mx.exp(mx.cumsum(g, axis=-1))[..., None]
    to_end = decay[..., -1, :, None]
    whole = since_start[..., -1:, :]

    k_t = k.swapaxes(-1, -2)
    solve = unit_lower_inverse(mx.where(below, beta * decay * (k @ k_t), 0))
    corrections = solve @ (beta * v)  # what each token would write into an empty state
    reads = solve @ (beta * since_start * k)  # how the incoming state lessens it
    scores = decay * (q @ k_t)
    q = q * since_start

    outputs = []
    for c in range(chunks):
        memory = state.swapaxes(-1, -2)  # [B, H, key_dim, value_dim]
        written = corrections[:, :, c] - reads[:, :, c] @ memory
        outputs.append(q[:, :, c] @ memory + scores[:, :, c] @ written)
        state = whole[:, :, c] * state + (to_end[:, :, c] * written).swapaxes(-1, -2) @ k[:, :, c]
    y = mx.stack(outputs, axis=2).reshape(batch, heads, chunks * size, value_dim)
    return y[:, :, :length].swapaxes(1, 2), state


def unit_lower_inverse(lower: mx.array) -> mx.array:
    """Inverse of I + `lower` for strictly lower-triangular [..., N, N], N a power of two.

    By blocks of doubling size: [[P, 0], [R, Q]] has the inverse [[P', 0], [-Q' R P', Q']]. Unlike the Neumann
    series, its intermediate values are those of the inverse itself.
    """
    size = lower.shape[-1]
    index = mx.arange(size)
    inverse = mx.broadcast_to(mx.eye(size, dtype=lower.dtype), lower.shape)
    half = 1
    while half < size:
        block, side = index // (2 * half), index // half % 2
        below = (block[:, None] == block) & (side[:, None] > side)
        inverse = inverse - inverse @ mx.where(below, lower, 0) @ inverse
        half *= 2
    return inverse
