"""ONNX files, written from what the framework exports as MINDIR."""
import logging
import tempfile
from pathlib import Path
from typing import Any, Sequence

import mindspore as ms
import numpy as np
from mindspore import nn

from common.errors import UserError
from common.export.framework import export_with_framework
from common.export.mindir_graph import read_graph
from common.export.onnx_graph import BATCHES, LARGEST, size_of, translate

Shape = tuple[int | None, ...]

log = logging.getLogger(__name__)


def onnx_model(network: nn.Cell, inputs: Sequence[tuple[str, Shape, str]], output_names: Sequence[str],
               folder: Path | None = None) -> Any:
    """Return the ONNX model of a network, an ``onnx.ModelProto``.

    Args:
        network: in evaluation mode.
        inputs: name, shape and type of each; the first size, that of the batch, is ``None`` for any.
        output_names: one per output of the network.
        folder: for intermediate files; ``None``: the system's.

    Raises:
        UserError: if it is too large, or holds an operation that has no translation.
    """
    parameters = {p.name: p.asnumpy() for p in network.get_parameters()}
    if size_of(parameters) > LARGEST:
        raise UserError(f"file_format: an ONNX file holds at most 2 GB, and this network has {size_of(parameters):,} "
                        "bytes of parameters; choose MINDIR.")
    def translated(*batches: int | None) -> Any:
        graphs = []
        for batch in batches:
            examples = [ms.Tensor(shape=(batch, *shape[1:]), dtype=getattr(ms, dtype)) if batch is None else
                        ms.Tensor(np.zeros((batch, *shape[1:]), dtype)) for _, shape, dtype in inputs]
            with tempfile.TemporaryDirectory(dir=folder) as inside:
                export_with_framework(network, examples, Path(inside) / "network.mindir", "MINDIR")
                graphs.append(read_graph(next(Path(inside).glob("*.mindir"))))
        return translate(graphs, parameters, [name for name, _, _ in inputs], output_names)

    wanted = inputs[0][1][0]
    try:
        return translated(wanted)
    except (UserError, RuntimeError, ValueError, TypeError) as error:  # the last three of the framework
        if wanted is not None:
            raise
        log.debug("not written for any number of images at once: %s", error)
        return translated(*BATCHES)


def write_onnx(network: nn.Cell, inputs: Sequence[tuple[str, Shape, str]], path: Path, output_names: Sequence[str]
               ) -> None:
    """Write a network as an ONNX file; see ``onnx_model``."""
    import onnx

    model = onnx_model(network, inputs, output_names, path.parent)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
