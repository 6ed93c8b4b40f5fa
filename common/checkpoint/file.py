"""Checkpoints: written atomically, checked when read, complete enough that resuming equals never having stopped."""
import contextlib
import json
import os
from pathlib import Path
from typing import Any, Mapping

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor

from common.errors import UserError

META = "zoo_meta"  # name of the JSON text inside a checkpoint that says what it holds


def save_checkpoint(path: Path, tensors: Mapping[str, Parameter | Tensor | np.ndarray], meta: Mapping[str, Any]) -> Path:
    """Write a checkpoint under a temporary name and rename it, so that ``path`` is always whole or absent.

    Args:
        path: ends in ``.ckpt``.
        tensors: name -> value.
        meta: what the checkpoint holds, as JSON values; see ``common.tasks.train``.

    Raises:
        UserError: if the file cannot be written.
    """
    path = Path(path)
    unfinished = path.with_name(f".{path.stem}.{os.getpid()}.unfinished.ckpt")
    content = [{"name": name, "data": value if isinstance(value, Tensor) else Tensor(value)}
               for name, value in tensors.items()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        ms.save_checkpoint(content, str(unfinished), append_dict={META: json.dumps(dict(meta))}, crc_check=True)
        os.chmod(unfinished, 0o644)  # the framework writes 0400
        with open(unfinished, "rb") as written:
            os.fsync(written.fileno())
        os.replace(unfinished, path)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"ckpt_save_dir: cannot write {path}: {_short(error)}") from error
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink()
    return path


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


def _short(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200]
