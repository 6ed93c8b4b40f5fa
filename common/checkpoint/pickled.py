"""PyTorch's files, read without PyTorch, and without running anything that is in them.

``torch.save`` writes a pickle, and beside it the numbers of its storages: in a zip archive, or, before PyTorch 1.6, one
after the other. A pickle is a program that may call any function there is. Here it may call what ``ALLOWED`` names:
containers, and functions of this module in the place of PyTorch's. Everything else is refused by its name.
"""
import pickle
import struct
import zipfile
from collections import Counter, OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Callable

from common.errors import UserError

LEGACY = 0x1950a86a20f9469cfc6c  # the number with which a file of before PyTorch 1.6 begins


@dataclass(frozen=True)
class Storage:
    """A row of numbers in a file.

    Attributes:
        kind: their type, by safetensors' name for it.
        count: how many there are.
        read: returns their bytes, in little-endian order.
    """

    kind: str
    count: int
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Strided:
    """A tensor: where in its storage its elements are, counted in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Options(dict):
    """The options that a training program keeps beside its weights, of which nothing is read."""

    def __setstate__(self, state: Any) -> None:
        """Take no notice: the values were read, and that is enough."""


def _tensor(storage, offset, shape, strides, *_):
    return Strided(storage, offset, tuple(shape), tuple(strides))


def _parameter(data, *_):
    return data


def _device(*_):
    return ""


BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
KINDS = {"Double": "F64", "Float": "F32", "Half": "F16", "BFloat16": "BF16", "Long": "I64", "Int": "I32",
         "Short": "I16", "Char": "I8", "Byte": "U8", "Bool": "BOOL"}
DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
ALLOWED: dict[str, Any] = {
    "collections.OrderedDict": OrderedDict, "collections.Counter": Counter, "__builtin__.set": set,
    "builtins.set": set,
    "torch.Size": tuple, "torch.device": _device, "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor, "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "argparse.Namespace": Options, "yacs.config.CfgNode": Options,  # of timm; of Swin, whose training HLG's is
} | {f"torch.{name}Storage": kind for name, kind in KINDS.items()} | {f"torch.{name}": name for name in DTYPES}
# tensors of other kinds, by what their pickles call
UNREAD = {"torch._utils._rebuild_tensor_v3": "tensors of 8-bit floating-point or other rare numbers",
          "torch._utils._rebuild_qtensor": "quantized tensors", "torch.serialization._get_layout": "sparse tensors",
          "torch._utils._rebuild_sparse_tensor": "sparse tensors",
          "torch._utils._rebuild_meta_tensor_no_storage": "tensors of the device 'meta', which have no values"
          } | {f"torch.{name}Storage": "quantized tensors" for name in ("QInt8", "QUInt8", "QInt32")}


class _Unpickler(pickle.Unpickler):
    """Reads a pickle in which nothing but ``ALLOWED`` can be called."""

    def __init__(self, file: BinaryIO, reader: Callable[[str, str], Callable[[], bytes]]):
        super().__init__(file, encoding="utf-8")
        self.reader = reader

    def find_class(self, module: str, name: str) -> Any:
        wanted = f"{module}.{name}"
        if wanted in UNREAD:
            raise UserError(f"{UNREAD[wanted]}, which are not read; save them as ordinary float32 tensors first")
        if wanted not in ALLOWED:
            raise UserError(f"Python objects besides tensors ({wanted}); code in a file is never run. If you trust it, "
                            "save its weights alone with torch.save(checkpoint['state_dict'], FILE), or whatever its "
                            "weights are called")
        return ALLOWED[wanted]

    def persistent_load(self, pid: Any) -> Storage:
        _, kind, key, _, count, *view = pid
        if kind not in BYTES or any(view):
            raise ValueError(pid)
        return Storage(kind, count, self.reader(key, kind))


def read_torch(path: Path) -> Any:
    """Return what a file of ``torch.save`` holds; its tensors as ``Strided``, whose numbers are not yet read.

    Raises:
        UserError: for a file that is damaged, or that holds anything but tensors, containers and plain options.
    """
    try:
        return _read_zip(path) if zipfile.is_zipfile(path) else _read_legacy(path)
    except UserError as error:
        raise UserError(f"ckpt_path: {path} holds {error}.") from error
    except Exception as error:  # whatever damaged bytes make of a pickle
        raise UserError(f"ckpt_path: {path} is damaged, truncated, or no file of PyTorch.") from error


def _read_zip(path: Path) -> Any:
    archive = zipfile.ZipFile(path)  # stays open as long as a storage may be read from it
    home = next(name for name in archive.namelist() if name.endswith("data.pkl")).removesuffix("data.pkl")
    if f"{home}byteorder" in archive.namelist() and archive.read(f"{home}byteorder") != b"little":
        raise UserError("numbers in the order of a big-endian machine, which are not read; save it on another")

    def reader(key: str, kind: str) -> Callable[[], bytes]:
        entry = archive.getinfo(f"{home}data/{key}")
        if entry.compress_type != zipfile.ZIP_STORED:  # PyTorch does not compress; who wants to fill the memory does
            raise ValueError(key)
        return lambda: archive.read(entry)

    with archive.open(f"{home}data.pkl") as file:
        return _Unpickler(file, reader).load()


def _read_legacy(path: Path) -> Any:
    kinds: dict[str, str] = {}
    places: dict[str, tuple[int, int]] = {}  # position and length in bytes

    def reader(key: str, kind: str) -> Callable[[], bytes]:
        kinds[key] = kind
        return lambda: _part(path, *places[key])

    with path.open("rb") as file:
        number, _, _, content, keys = (_Unpickler(file, reader).load() for _ in range(5))
        if number != LEGACY:
            raise ValueError(number)
        for key in keys:
            count, = struct.unpack("<q", file.read(8))
            places[key] = file.tell(), count * BYTES[kinds[key]]
            file.seek(places[key][1], 1)
    return content


def _part(path: Path, position: int, length: int) -> bytes:
    with path.open("rb") as file:
        file.seek(position)
        return file.read(length)
