"""Checkpoints: written atomically, checked when read, complete enough that resuming equals never having stopped."""
import contextlib
import json
import os
from pathlib import Path
from typing import Any, Iterator, Mapping

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor

from common.checkpoint.names import FORMAT, META
from common.errors import UserError, reason
from common.files import written_whole


def save_checkpoint(path: str | Path, tensors: Mapping[str, Parameter | Tensor | np.ndarray],
                    meta: Mapping[str, Any]) -> Path:
    """Write a checkpoint that is whole or absent.

    Args:
        path: ends in ``.ckpt``.
        tensors: name -> value.
        meta: what the checkpoint holds, as JSON values; see ``common.run.training``.

    Raises:
        UserError: if the file cannot be written.
    """
    content = [{"name": name, "data": value if isinstance(value, Tensor) else Tensor(value)}
               for name, value in tensors.items()]
    with written_whole(path, "ckpt_save_dir") as unfinished:
        try:
            ms.save_checkpoint(content, str(unfinished), append_dict={META: json.dumps({"format": FORMAT, **meta})},
                               crc_check=True)
        except (RuntimeError, ValueError) as error:  # the framework hides what the system said
            raise OSError(reason(error)) from error
        os.chmod(unfinished, 0o644)  # the framework writes 0400
    return Path(path)


class Damaged(UserError):
    """A file that is no whole checkpoint."""


def load_checkpoint(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read a checkpoint and check that it is whole.

    Returns:
        The tensors by name, and the meta data (empty for a file that another program wrote).

    Raises:
        Damaged: if the file is empty, truncated, changed, or no checkpoint.
        UserError: if it is missing, of a format that is newer than this program, or cannot be read for another reason.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        what = "is a folder; name a .ckpt file in it" if path.is_dir() else "does not exist"
        raise UserError(f"ckpt_path: {path} {what}.")
    if path.suffix != ".ckpt":
        raise UserError(f"ckpt_path: {path} is not a .ckpt file; convert .pth and .safetensors files with "
                        "the model's pth2ckpt.py first.")
    size = path.stat().st_size
    if size == 0:
        raise Damaged(f"ckpt_path: {path} is empty.")
    try:
        with _page_cache_counts_as_free():
            values = ms.load_checkpoint(str(path), crc_check=True)
        meta = json.loads(values.pop(META, "{}"))
    except (ValueError, RuntimeError, TypeError, MemoryError) as error:
        if _caused_by(error, MemoryError):
            raise UserError(f"ckpt_path: {path} cannot be read: its {size / 1e6:.0f} MB do not fit into the memory "
                            "that this process may use; the file itself need not be damaged.") from error
        if system := _caused_by(error, OSError):
            raise UserError(f"ckpt_path: {path} cannot be read ({reason(system)}).") from error
        raise Damaged(f"ckpt_path: {path} cannot be read: it is damaged, truncated, or no checkpoint.") from error
    if (number := meta.pop("format", 0)) > FORMAT:
        raise UserError(f"ckpt_path: {path} has the format {number}, of a newer version of this repository; this one "
                        f"reads formats up to {FORMAT}: update it.")
    return {name: value.asnumpy() for name, value in values.items() if hasattr(value, "asnumpy")}, meta


@contextlib.contextmanager
def _page_cache_counts_as_free() -> Iterator[None]:
    """Keep the framework from refusing files that are larger than the memory without any use at this moment.

    It asks ``os.sysconf`` for the free pages, to which those of the page cache do not count, although the system gives
    them to whoever needs them: after a data set was read, hardly any page is free. Nothing public turns the check off;
    it is left out where the system does not know the number, so this is answered. Real lack of memory is still noticed.
    """
    known = os.sysconf

    def sysconf(name: str | int) -> int:
        if name == "SC_AVPHYS_PAGES":
            raise ValueError("unrecognized configuration name")
        return known(name)

    os.sysconf = sysconf
    try:
        yield
    finally:
        os.sysconf = known


def _caused_by(error: BaseException | None, kind: type[BaseException]) -> BaseException | None:
    """Return the error of a kind from which another one came."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error
