"""The operations of a compiled graph that keep lists of positions on a CPU."""
import math
import re
from pathlib import Path

import mindspore as ms

OPERATION = re.compile(r"%\d+\(.*?\) = PrimFunc_"
                       r"(Add|Sub|Mul|Div|RealDiv|Maximum|Minimum|Pow|SelectV?2?|BroadcastTo|FloorMod|Transpose)\(")


def shapes(text: str) -> list[tuple[int, ...]]:
    return [tuple(map(int, re.findall(r"\d+", found))) for found in re.findall(r"<Tensor\[\w+\], \(([^)]*)\)", text)]


def broadcasts(cell, batch, tmp_path: Path, least: int, always: tuple[str, ...] = ()) -> list[str]:
    """Compile a cell, and name its broadcasts of at least so many numbers; single numbers are none, but in ``always``.

    The framework writes its graphs down where it is asked to: there is no other way to see the gradient's.
    """
    ms.set_context(mode=ms.GRAPH_MODE, save_graphs=1, save_graphs_path=str(tmp_path))
    try:
        cell(batch)
    finally:
        ms.set_context(save_graphs=0)
    lines = [line for path in tmp_path.rglob("*graph_build*.ir") for line in path.read_text().splitlines()]
    assert lines
    found = []
    for line, types in zip(lines, lines[1:]):
        if operation := OPERATION.search(line):
            operands, (result,) = map(shapes, types.split("->"))
            if math.prod(result) >= least and (operation[1] in always or any(
                    shape and math.prod(shape) != math.prod(result) for shape in operands)):
                found.append(f"{operation[1]} {operands}")
    return found
