"""Transposes, as a training on a CPU computes them.

There the framework's operation keeps a list of positions, 8 bytes per number, from its compilation until the process
ends (2.10). Pieces put together in another order, and products with the identity, give the same numbers in the same
time without one. ``lean`` asks for them; without it all is one transpose, which exported files and cards have.
"""
import mindspore as ms
from mindspore import ops

WIDEST = 512  # of an identity; above it the product takes longer than a transpose


def swapped(x, lean: bool):
    """(B, M, N) -> (B, N, M)."""
    samples, rows, columns = x.shape
    if not lean or min(rows, columns) > WIDEST:
        return x.swapaxes(1, 2)
    if rows < columns:
        return ops.BatchMatMul(transpose_a=True)(x, identities(samples, rows, x.dtype))
    return ops.BatchMatMul(transpose_b=True)(identities(samples, columns, x.dtype), x)


def identities(samples: int, size: int, dtype: ms.Type):
    """Return (samples, size, size)."""
    return ops.tile(ops.eye(size, size, dtype), (samples, 1, 1))


def apart(x, heads: int, lean: bool):
    """(B, N, h d) -> (B, h, N, d): from tokens to heads."""
    samples, tokens, width = x.shape
    if heads == 1:
        return x.expand_dims(1)
    if lean:
        return ops.concat(ops.split(x, width // heads, -1), 1).reshape(samples, heads, tokens, width // heads)
    return x.reshape(-1, tokens, heads, width // heads).transpose(0, 2, 1, 3)


def together(x, lean: bool):
    """(B, h, N, d) -> (B, N, h d): from heads to tokens."""
    samples, heads, tokens, width = x.shape
    if heads == 1:
        return x.reshape(-1, tokens, width)
    if lean:
        return ops.concat(ops.split(x, 1, 1), -1).reshape(samples, tokens, heads * width)
    return x.transpose(0, 2, 1, 3).reshape(-1, tokens, heads * width)
