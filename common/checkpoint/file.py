"""Checkpoints: written atomically, checked when read, complete enough that resuming equals never having stopped."""
import json
import os
from pathlib import Path
from typing import Any, Mapping

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor

from common.errors import UserError, reason
from common.files import written_whole

META = "zoo_meta"  # name of the JSON text inside a checkpoint that says what it holds


def save_checkpoint(path: str | Path, tensors: Mapping[str, Parameter | Tensor | np.ndarray],
                    meta: Mapping[str, Any]) -> Path:
    """Write a checkpoint that is whole or absent.

    Args:
        path: ends in ``.ckpt``.
        tensors: name -> value.
        meta: what the checkpoint holds, as JSON values; see ``common.run``.

    Raises:
        UserError: if the file cannot be written.
    """
    content = [{"name": name, "data": value if isinstance(value, Tensor) else Tensor(value)}
               for name, value in tensors.items()]
    with written_whole(path, "ckpt_save_dir") as unfinished:
        try:
            ms.save_checkpoint(content, str(unfinished), append_dict={META: json.dumps(dict(meta))}, crc_check=True)
        except (RuntimeError, ValueError) as error:  # the framework hides what the system said
            raise OSError(reason(error)) from error
        os.chmod(unfinished, 0o644)  # the framework writes 0400
    return Path(path)


def load_checkpoint(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read a checkpoint and check that it is whole.

    Returns:
        The tensors by name, and the meta data (empty for a file that another program wrote).

    Raises:
        UserError: if the file is missing, empty, truncated, or no checkpoint.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        what = "is a folder; name a .ckpt file in it" if path.is_dir() else "does not exist"
        raise UserError(f"ckpt_path: {path} {what}.")
    if path.suffix != ".ckpt":
        raise UserError(f"ckpt_path: {path} is not a .ckpt file; convert .pth and .safetensors files with "
                        "the model's pth2ckpt.py first.")
    if path.stat().st_size == 0:
        raise UserError(f"ckpt_path: {path} is empty.")
    try:
        values = ms.load_checkpoint(str(path), crc_check=True)
    except (ValueError, RuntimeError, TypeError) as error:
        raise UserError(f"ckpt_path: {path} cannot be read: it is damaged, truncated, or no checkpoint.") from error
    meta = values.pop(META, "{}")
    return {name: value.asnumpy() for name, value in values.items() if hasattr(value, "asnumpy")}, json.loads(meta)
