"""Position tables: the fixed sine-cosine table of two axes, and the change of a table to another grid. NumPy only."""
import math

import numpy as np

from common.errors import UserError

BASE = 10000  # the longest wave, in positions
BICUBIC = -0.75  # the parameter a of the cubic convolution, as in PyTorch


def sine_cosine_table(dim: int, grid: tuple[int, int]) -> np.ndarray:
    """Return the fixed table of a grid of patches, with a row of zeros in front for the class token.

    A quarter of the columns each holds sin(c w), cos(c w), sin(r w), cos(r w) of column c and row r, with frequencies w
    from 1 down to nearly 1 / 10000. The column comes first: the official code calls it "h", but means the horizontal.

    Source: Vaswani et al. 2017, section 3.5, in the form of He et al. 2021. Computed in float64.

    Args:
        dim: width of the tokens.
        grid: rows and columns of patches.

    Returns:
        float32 (1, 1 + rows * columns, dim).

    Raises:
        UserError: if ``dim`` is not a multiple of 4.
    """
    if dim % 4:
        raise UserError(f"embed_dim: {dim} is not a multiple of 4, which the sine-cosine positions of a masked "
                        "autoencoder need (decoder_embed_dim alike).")
    rows, columns = np.meshgrid(np.arange(grid[0]), np.arange(grid[1]), indexing="ij")
    frequencies = float(BASE) ** -(np.arange(dim // 4) / (dim // 4))
    parts = []
    for position in (columns, rows):
        angles = np.outer(position.ravel(), frequencies)
        parts += [np.sin(angles), np.cos(angles)]
    table = np.concatenate(parts, axis=1)
    return np.concatenate([np.zeros((1, dim)), table])[None].astype(np.float32)


def resize_table(table: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Fit a position table to another grid of patches: bicubic, half-pixel centres, without antialiasing.

    Args:
        table: float32 (1, 1 + side * side, dim) of a square grid; the first row is the class token's and is kept.
        grid: rows and columns of the new grid.

    Returns:
        float32 (1, 1 + rows * columns, dim).

    Raises:
        UserError: if the old grid is not square.
    """
    side = math.isqrt(table.shape[1] - 1)
    if side * side != table.shape[1] - 1:
        raise UserError(f"ckpt_path: its position table has {table.shape[1] - 1} patches, which is no square grid, so "
                        f"it cannot be fitted to {grid[0]} x {grid[1]} patches; use the image_size of its training.")
    squares = table[0, 1:].reshape(side, side, -1).astype(np.float64)
    down, across = (_bicubic_matrix(side, length) for length in grid)
    resized = np.einsum("ri,cj,ijd->rcd", down, across, squares).reshape(1, -1, table.shape[2])
    return np.concatenate([table[:, :1], resized.astype(np.float32)], axis=1)


def _bicubic_matrix(length: int, wanted: int) -> np.ndarray:
    """Return the weights (wanted, length) with which ``length`` values make ``wanted``; beyond the ends they repeat."""
    matrix = np.zeros((wanted, length))
    for row in range(wanted):
        centre = (row + 0.5) * length / wanted - 0.5
        first = math.floor(centre) - 1
        for tap in range(first, first + 4):
            matrix[row, min(max(tap, 0), length - 1)] += _cubic(abs(centre - tap))
    return matrix


def _cubic(distance: float) -> float:
    """The cubic convolution kernel. Source: Keys 1981, equation 4 with the parameter ``BICUBIC``."""
    if distance <= 1:
        return ((BICUBIC + 2) * distance - (BICUBIC + 3)) * distance ** 2 + 1
    return BICUBIC * (((distance - 5) * distance + 8) * distance - 4)
