"""Pictures of what the gates of a gMLP mix: for a token, how much of every other one, over the image's grid."""
import numpy as np

from common.pictures.heat_map import mark_place, signed_map
from common.pictures.sheet import Row
from gmlp.src.gmlp import GMLP

BLOCKS = 8  # most blocks that are shown
PLACES = [(row, column) for row in (0.25, 0.75) for column in (0.1, 0.5, 0.9)]  # of the tokens, as shares


def filter_rows(network: GMLP) -> list[Row]:
    """Return a row for each of some blocks, with the filters of some tokens: rows of the spatial projection W.

    Source: the paper, figure 4.
    """
    grid, rows = network.stem.grid, []
    places = dict.fromkeys(tuple(round(share * (side - 1)) for share, side in zip(shares, grid)) for shares in PLACES)
    for number in np.unique(np.linspace(0, len(network.blocks) - 1, BLOCKS).astype(int)).tolist():
        weight = network.blocks[number].gate.proj.weight.asnumpy().astype(np.float32)
        row = []
        for at in places:
            picture = signed_map(weight[at[0] * grid[1] + at[1]].reshape(grid))
            middle = [(place + 0.5) / side for place, side in zip(at, grid)]
            row.append((mark_place(picture, middle), f"block {number + 1}, token {at[0] + 1}, {at[1] + 1}"))
        rows.append(row)
    return rows
