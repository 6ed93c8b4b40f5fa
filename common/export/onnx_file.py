"""ONNX files: written from what the framework exports as MINDIR, and run by onnxruntime."""
import tempfile
from pathlib import Path
from typing import Sequence

import mindspore as ms
import numpy as np
from mindspore import nn

from common.context.cores import own_cores
from common.errors import UserError
from common.export.framework import export_with_framework
from common.export.mindir_graph import read_graph
from common.export.onnx_graph import BATCHES, LARGEST, size_of, translate

Shape = tuple[int | None, ...]


def write_onnx(network: nn.Cell, inputs: Sequence[tuple[str, Shape, str]], path: Path, output_names: Sequence[str]
               ) -> None:
    """Write a network as an ONNX file.

    Args:
        network: in evaluation mode.
        inputs: name, shape and type of each; the first size, that of the batch, is ``None`` for any.
        path: the file, in a folder in which nothing else lies that ends in ``.mindir``.
        output_names: one per output of the network.

    Raises:
        UserError: if it is too large, or holds an operation that has no translation.
    """
    import onnx

    parameters = {p.name: p.asnumpy() for p in network.get_parameters()}
    if size_of(parameters) > LARGEST:
        raise UserError(f"file_format: an ONNX file holds at most 2 GB, and this network has {size_of(parameters):,} "
                        "bytes of parameters; choose MINDIR.")
    graphs = []
    for batch in BATCHES if inputs[0][1][0] is None else (inputs[0][1][0],):
        examples = [ms.Tensor(np.zeros((batch, *shape[1:]), dtype)) for _, shape, dtype in inputs]
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            export_with_framework(network, examples, Path(folder) / "network.mindir", "MINDIR")
            graphs.append(read_graph(next(Path(folder).glob("*.mindir"))))
    model = translate(graphs, parameters, [name for name, _, _ in inputs], output_names)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


class OnnxNetwork:
    """An ONNX file that is called like a cell, on the CPU.

    Args:
        path: the file.

    Inputs: tensors, one per input.   Output: a tensor, or a tuple of several.

    Raises:
        UserError: if onnxruntime is missing, or the file is no whole ONNX file.
    """

    def __init__(self, path: str | Path):
        try:
            import onnxruntime
        except ImportError:
            raise UserError("model_file: an ONNX file is run by the package onnxruntime, which is not installed; run "
                            "'pip install -c requirements.txt onnxruntime'.") from None
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors only
        options.intra_op_num_threads = min(4, len(own_cores()))
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has a class of its own for every reason
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"model_file: '{path}' is not an ONNX file that onnxruntime can run ({reason}); export it "
                            "again.") from error
        self.names = [one.name for one in self.session.get_inputs()]

    def set_train(self, mode: bool = True) -> "OnnxNetwork":
        """Do nothing: a file has no training mode."""
        return self

    def __call__(self, *inputs: ms.Tensor) -> ms.Tensor | tuple[ms.Tensor, ...]:
        """Run the file.

        Raises:
            ValueError: if it does not take such inputs.
        """
        try:
            found = self.session.run(None, {name: one.asnumpy() for name, one in zip(self.names, inputs)})
        except Exception as error:  # a class of its own for every reason
            raise ValueError(f"the ONNX file cannot be run with these inputs: {error}") from error
        return ms.Tensor(found[0]) if len(found) == 1 else tuple(map(ms.Tensor, found))


def load_onnx(path: str | Path) -> OnnxNetwork:
    """Load an ONNX file.

    Returns:
        What maps images (N, C, H, W) to what the exported network returned.

    Raises:
        UserError: if the file is missing, or cannot be run.
    """
    if not Path(path).is_file():
        raise UserError(f"model_file: there is no file '{path}'.")
    return OnnxNetwork(path)
