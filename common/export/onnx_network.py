"""An ONNX file that is run by onnxruntime. Imports no MindSpore, so that it answers at once."""
import json
from pathlib import Path
from typing import Any

import numpy as np

from common.context.cores import own_cores
from common.errors import UserError


class OnnxNetwork:
    """An ONNX file that is called like a cell, on the CPU.

    Args:
        file: its path, or its content.
        threads: CPU threads; 0: one for each core that this process may use, at most 4.

    Inputs: arrays or tensors, one per input.   Output: an array or tensor, as the inputs are, or a tuple of several.

    Raises:
        UserError: if onnxruntime is missing, or the file is no whole ONNX file.
    """

    training = False

    def __init__(self, file: str | Path | bytes, threads: int = 0):
        try:
            import onnxruntime
        except ImportError:
            raise UserError("model_file: an ONNX file is run by the package onnxruntime, which is not installed; run "
                            "'pip install -r requirements.txt'.") from None
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors only
        self.threads = options.intra_op_num_threads = threads or min(4, len(own_cores()))
        name, content = ("content", file) if isinstance(file, bytes) else (str(file), str(file))
        try:
            self.session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has a class of its own for every reason
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"model_file: '{name}' is not an ONNX file that onnxruntime can run ({reason}); export it "
                            "again.") from error
        self.names = [one.name for one in self.session.get_inputs()]
        self.version = onnxruntime.__version__

    def about(self, name: str) -> Any:
        """Return what the file says about itself under a name, from JSON.

        Raises:
            KeyError: if it says nothing.
        """
        return json.loads(self.session.get_modelmeta().custom_metadata_map[name])

    def set_train(self, mode: bool = True) -> "OnnxNetwork":
        """Do nothing: a file has no training mode."""
        return self

    def __call__(self, *inputs: Any) -> Any:
        """Run the file.

        Raises:
            ValueError: if it does not take such inputs.
        """
        arrays = isinstance(inputs[0], np.ndarray)
        kind = np.asarray if arrays else type(inputs[0])  # the framework's, which is not imported for it
        try:
            found = self.session.run(None, {name: one if arrays else one.asnumpy()
                                            for name, one in zip(self.names, inputs)})
        except Exception as error:  # a class of its own for every reason
            raise ValueError(f"the ONNX file cannot be run with these inputs: {error}") from error
        return kind(found[0]) if len(found) == 1 else tuple(map(kind, found))


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
