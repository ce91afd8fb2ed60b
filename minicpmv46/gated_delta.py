"""The gated delta rule: a linear attention whose state is corrected towards each new value.

For every head, with state S [value_dim, key_dim], decay exp(g) and step size beta:

    S <- exp(g_t) S
    S <- S + beta_t (v_t - S k_t) k_t^T
    y_t = S q_t

`recurrent_step` is that, for one token. `chunked` is the same for many tokens by matrix products: within a chunk the
corrections solve a unit lower-triangular system. All math is float32. On Metal, mlx-vlm's kernel takes over.
"""

from __future__ import annotations

import mlx.core as mx
from mlx_vlm.models.qwen3_5.gated_delta import gated_delta_kernel

# Tokens a chunk; the work inside a chunk grows with its square.
CHUNK = 64


def gated_delta_rule(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    g: mx.array,
    beta: mx.array,
    state: mx.array | None = None,
    mask: mx.array | None = None,
    differentiable: bool = False,
) -> tuple[mx.array, mx.array]:
    """Run the rule over a sequence.

    Args:
        q, k: float32 [batch, length, key heads, key_dim], normalized; q scaled.
        v: float32 [batch, length, value heads, value_dim]; consecutive value heads share a key head.
        g: float32 [batch, length, value heads], logarithm of the decay, at most 0.
        beta: float32 [batch, length, value heads].
        state: float32 [batch, value heads, value_dim, key_dim]; None starts from zeros.
        mask: bool [batch, length]; where False the state passes unchanged and y is unspecified.
        differentiable: keep to operations that have gradients; mlx-vlm's kernel has none.

    Returns:
        y, float32 [batch, length, value heads, value_dim], and the new state.
    """
    if state is None:
        state = mx.zeros((v.shape[0], v.shape[2], v.shape[3], k.shape[3]), dtype=mx.float32)
    if has_kernel(k.shape[3]) and not differentiable:
        return gated_delta_kernel(q, k, v, mx.exp(g), beta, state, mask)
    repeats = v.shape[2] // k.shape[2]
    if repeats > 1:
        q, k = mx.repeat(q, repeats, axis=2), mx.repeat(k, repeats, axis=2)
    if mask is not None:
        g = mx.where(mask[..., None], g, 0)
        beta = mx.where(mask[..., None], beta, 0)
    if q.shape[1] == 1:
        y, state = recurrent_step(q[:, 0], k[:, 0], v[:, 0], g[:, 0], beta[:, 0], state)
        return y[:, None], state
    return chunked(q, k, v, g, beta, state)


def has_kernel(key_dim: int) -> bool:
    """Whether mlx-vlm's kernel runs here: on Metal, with heads that fill its 32 lanes."""
    return mx.metal.is_available() and mx.default_device() == mx.gpu and key_dim % 32 == 0


def recurrent_step(
    q: mx.array, k: mx.array, v: mx.array, g: mx.array, beta: mx.array, state: mx.array
) -> tuple[mx.array, mx.array]:
    """One token: q, k [B, H, key_dim], v [B, H, value_dim], g, beta [B, H], state [B, H, value_dim, key_dim]."""
    state = state * mx.exp(g)[..., None, None]
    remembered = (state * k[..., None, :]).sum(-1)
    state = state + ((v - remembered) * beta[..., None])[..., None] * k[..., None, :]
    return (state * q[..., None, :]).sum(-1), state


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
        return mx.moveaxis(x.reshape(batch, chunks, size, *x.shape[2:]), 3, 1)

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
