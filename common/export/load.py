"""Exported files, MINDIR or ONNX, as something that can be called."""
import logging
from pathlib import Path

import mindspore as ms
from mindspore import nn

from common.errors import UserError
from common.export.onnx_network import OnnxNetwork, load_onnx

log = logging.getLogger(__name__)


def load_model(path: str | Path) -> nn.GraphCell | OnnxNetwork:
    """Load an exported file, ONNX or MINDIR by its ending.

    Raises:
        UserError: if the file is missing, or cannot be run.
    """
    return load_onnx(path) if Path(path).suffix == ".onnx" else load_mindir(path)


def load_mindir(path: str | Path) -> nn.GraphCell:
    """Load a MINDIR file.

    Returns:
        A cell that maps images (N, C, H, W) to what the exported network returned.

    Raises:
        UserError: if the file is missing, or is not a whole MINDIR file.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"model_file: there is no file '{path}'.")
    if path.suffix != ".mindir":
        raise UserError(f"model_file: '{path}' does not end in .mindir or .onnx; a checkpoint (.ckpt) is given "
                        "with --ckpt_path.")
    try:
        return nn.GraphCell(ms.load(str(path)))
    except (RuntimeError, ValueError, TypeError) as error:
        log.debug("%s: %s", path, error)
        raise UserError(f"model_file: '{path}' is not a MINDIR file, or only a part of one; export it again.") from None
