"""Precision of a network: which cells compute in float16 or bfloat16, and which never do."""
import mindspore as ms
from mindspore import nn

from common.errors import UserError
from common.layers.cells import Float32Cell, LayerNorm, PatchProjection
from common.layers.drop_path import DropPath

LEVELS = ("O0", "O1", "O2", "O3", "bf16")
WITHOUT_BFLOAT16 = (nn.MaxPool2d,)  # Ascend has these operators for float16 and float32 alone (2.10)
MATRIX_CELLS = (nn.Dense, nn.Conv1d, nn.Conv2d, nn.Conv2dTranspose, PatchProjection)
FLOAT32_CELLS = (Float32Cell, nn.LayerNorm, nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm, nn.Softmax,
                 nn.LogSoftmax, nn.CrossEntropyLoss)


def apply_precision(network: nn.Cell, level: str) -> nn.Cell:
    """Set the precision of ``network`` in place; its parameters and their gradients stay float32.

    - O0: float32.
    - O1: matrix products and convolutions in float16, every other cell in float32.
    - O2: cells in float16, but ``FLOAT32_CELLS``, norms among them, in float32.
    - O3: like O2, and ``LayerNorm`` hands on float16; inside it is still float32.
    - bf16: like O2 in bfloat16, which has the range of float32, so that no loss scale is needed, and 8 binary digits;
      ``WITHOUT_BFLOAT16`` in float32.

    Only innermost cells are marked. The framework would cast every operation inside a marked cell in PyNative mode, but
    only its inputs in graph mode; innermost cells behave alike. What a network does between its cells therefore
    follows the types of its operands, and a network casts its own result to float32.

    Returns:
        The same network.

    Raises:
        UserError: for an unknown level.
    """
    if level not in LEVELS:
        raise UserError(f"amp_level: '{level}' is not one of {', '.join(LEVELS)}.")
    if level != "O0":
        _mark(network, level)
    return network


def _mark(cell: nn.Cell, level: str) -> None:
    children = list(cell.name_cells().values())
    if isinstance(cell, LayerNorm):
        cell.half_result = level == "O3"
    elif isinstance(cell, FLOAT32_CELLS) or (level == "bf16" and isinstance(cell, WITHOUT_BFLOAT16)):
        cell.to_float(ms.float32)
    elif children:
        for child in children:
            _mark(child, level)
    elif not isinstance(cell, DropPath):
        half = ms.bfloat16 if level == "bf16" else ms.float16
        cell.to_float(ms.float32 if level == "O1" and not isinstance(cell, MATRIX_CELLS) else half)
