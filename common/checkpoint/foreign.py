"""Files with tensors of other programs: PyTorch and safetensors, read without ever running code from them."""
import json
import math
import struct
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Mapping

import numpy as np

from common.checkpoint.names import FORMAT, META
from common.checkpoint.pickled import Strided, read_torch
from common.errors import UserError
from common.files import written_whole

# where training programs keep the weights inside their checkpoints; averaged weights first, as they are evaluated
PARTS = ("state_dict_ema", "model_ema", "ema", "state_dict", "model")
TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
         "U8": "u1", "BOOL": "?"}
EXPANDED = 2**24  # elements that a tensor may have beyond those of its storage, by repeating them


@dataclass(frozen=True)
class Source:
    """The weights in a file of another program.

    Attributes:
        tensors: name -> array; bfloat16 comes as float32.
        part: which part of a training program's checkpoint they are; empty for plain weights.
        ignored: name -> reason, for entries that are left out.
        meta: what a file of this zoo says about itself; empty for others.
    """

    tensors: dict[str, np.ndarray]
    part: str = ""
    ignored: dict[str, str] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """Return the tensors of a ``.pth``, ``.pt``, ``.bin`` or ``.safetensors`` file by name; see ``read``."""
    return read(path).tensors


def read(path: str | Path) -> Source:
    """Read a file of PyTorch or of safetensors; neither needs torch, and no code in a file is ever run.

    Wrappers such as ``state_dict`` are taken off, averaged weights being preferred, and so is the prefix ``module.``.

    Raises:
        UserError: if the file is missing, empty, damaged, of another kind, or needs code to be read.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"ckpt_path: {path} {'is a folder' if path.is_dir() else 'does not exist'}.")
    with path.open("rb") as file:
        start = file.read(9)
    if not start:
        raise UserError(f"ckpt_path: {path} is empty.")
    if start[8:] == b"{":
        tensors, meta = _read_safetensors(path)
        return replace(_source(path, tensors), meta=meta)
    if start.startswith((b"PK\x03\x04", b"\x80")):
        return _source(path, read_torch(path))
    raise UserError(f"ckpt_path: {path} is neither a PyTorch nor a safetensors file; a .pth, .pt, .bin or .safetensors "
                    "file is needed.")


def _read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Parse the format: 8 bytes of header length, JSON header, data. The usual package cannot read bfloat16 alone."""
    tensors, meta = {}, {}
    with path.open("rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        begin, size = 8 + length, path.stat().st_size
        try:
            header = json.loads(file.read(length)) if begin <= size else None
            for name, entry in header.items():
                if name == "__metadata__":
                    meta = json.loads(entry.get(META, "{}"))
                    meta["config"] = dict(meta.get("config", {}))
                    continue
                kind, (first, last) = np.dtype(TYPES[entry["dtype"]]), entry["data_offsets"]
                if not 0 <= first <= last <= size - begin or last - first != math.prod(entry["shape"]) * kind.itemsize:
                    raise ValueError(name)
                file.seek(begin + first)
                array = np.frombuffer(file.read(last - first), kind).reshape(entry["shape"])
                tensors[name] = _widen(array) if entry["dtype"] == "BF16" else array
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise UserError(f"ckpt_path: {path} is a damaged or truncated safetensors file, or holds a type of numbers "
                            f"that is not one of {', '.join(TYPES)}.") from error
    return tensors, meta


def _widen(bfloat16: np.ndarray) -> np.ndarray:
    return (bfloat16.astype(np.uint32) << 16).view(np.float32)


def _array(tensor: Strided) -> np.ndarray:
    """Read a tensor's elements out of its storage.

    Raises:
        ValueError: if they are not all there.
    """
    storage, shape, strides = tensor.storage, tensor.shape, tensor.strides
    numbers = np.frombuffer(storage.read(), TYPES[storage.kind])
    end = 1 + tensor.offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    size = math.prod(shape)
    if len(numbers) != storage.count or min((tensor.offset, *shape, *strides)) < 0 or size and end > len(numbers) \
            or size > max(len(numbers), EXPANDED):
        raise ValueError(shape)
    numbers = _widen(numbers) if storage.kind == "BF16" else numbers
    bytes_apart = [stride * numbers.itemsize for stride in strides]
    return np.ascontiguousarray(np.lib.stride_tricks.as_strided(numbers[tensor.offset:], shape, bytes_apart))


def _source(path: Path, content: Any) -> Source:
    """Take the weights out of what a file holds."""
    parts = []
    while isinstance(content, Mapping) and (found := [p for p in PARTS if isinstance(content.get(p), Mapping)]):
        parts.append(found[0])
        content = content[found[0]]
        if len(parts) > len(PARTS):
            raise UserError(f"ckpt_path: {path} holds a dictionary that contains itself.")
    if not isinstance(content, Mapping):
        raise UserError(f"ckpt_path: {path} holds a {type(content).__name__} and no dictionary of tensors.")
    tensors, ignored = {}, {}
    for name, value in content.items():
        name = str(name).removeprefix("module.")
        if not isinstance(value, (Strided, np.ndarray)):
            ignored[name] = "not a tensor"
        elif name.endswith("num_batches_tracked"):
            ignored[name] = "a counter that BatchNorm does not need"
        else:
            try:
                tensors[name] = _array(value) if isinstance(value, Strided) else value
            except Exception as error:  # whatever a damaged file makes of a tensor's description
                raise UserError(f"ckpt_path: {path} is damaged or truncated: {name} cannot be read.") from error
    if not tensors:
        raise UserError(f"ckpt_path: {path} holds no tensors; its entries are {', '.join(list(ignored)[:5])}.")
    return Source(tensors, ".".join(parts), ignored)


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray], meta: Mapping[str, Any] | None = None) -> None:
    """Write a safetensors file that is whole or absent.

    Args:
        path: the file.
        tensors: name -> value.
        meta: what it holds, as JSON values.

    Raises:
        UserError: if it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        with written_whole(path, "out") as unfinished:
            save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, unfinished,
                      metadata={"format": "pt", META: json.dumps({"format": FORMAT, **(meta or {})})})
    except SafetensorError as error:
        raise UserError(f"out: '{path}' cannot be written ({error}).") from error
