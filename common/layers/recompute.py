"""Recomputing blocks in the backward pass instead of keeping what they computed: less memory for more time."""
from mindspore import nn


def recompute_blocks(network: nn.Cell) -> int:
    """Mark the residual blocks of ``network``, the cells whose class is called ``...Block``, to be computed twice.

    Then only the inputs of blocks are kept for the backward pass. What a block computes is a function of its input,
    its weights and (seed, step), so that gradients stay the same. BatchNorm is not: computed twice, its running
    statistics would move twice. Of a block with one inside, only its largest parts without one are marked.

    Returns:
        The number of marked cells.
    """
    if type(network).__name__.endswith("Block"):
        return _mark(network)
    return sum(recompute_blocks(child) for child in network.name_cells().values())


def _mark(cell: nn.Cell) -> int:
    children = cell.name_cells().values()
    if any(hasattr(inner, "moving_variance") for _, inner in cell.cells_and_names()):
        return sum(_mark(child) for child in children)
    if not children:
        return 0  # keeps no more than it would take to compute it again
    cell.recompute()
    return 1
