"""What a checkpoint says about itself, read without MindSpore and without its tensors: in a millisecond."""
import json
import mmap
from pathlib import Path
from typing import Any, Iterator

from common.checkpoint.names import FORMAT, META

_VALUES = 1                # fields of the framework's protocol buffer: Checkpoint.value
_TAG, _TENSOR = 1, 2       # of Checkpoint.Value
_CONTENT = 3               # of TensorProto; a text is stored in UTF-32


def read_meta(path: str | Path) -> dict[str, Any]:
    """Return what ``common.run.training.Run.description`` has put into a checkpoint; the rest of the file is not checked.

    Returns:
        Empty where there is none, or where the file is missing, damaged, of a newer format or something else:
        ``common.checkpoint.file.load_checkpoint`` says then what is wrong.
    """
    try:
        with open(Path(path).expanduser(), "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for number, place in _fields(data, 0, len(data)):
                if number != _VALUES:
                    break  # behind the values stands their check sum
                value = dict(_fields(data, *place))
                if data[slice(*value[_TAG])] == META.encode():
                    text = data[slice(*dict(_fields(data, *value[_TENSOR]))[_CONTENT])]
                    meta = json.loads(text.decode("utf-32-le").rstrip("\0"))
                    return meta if meta.pop("format", 0) <= FORMAT else {}
    except (OSError, ValueError, LookupError, TypeError):
        pass
    return {}


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, Any]]:
    """Yield number and value of the fields of a message: a number, or the place (start, end) of anything longer.

    Raises:
        ValueError: for what is no message of numbers, texts and messages.
    """
    while start < end:
        key, start = _number(data, start)
        value, start = _number(data, start)
        if key & 7 == 2:
            value, start = (start, start + value), start + value
        elif key & 7:
            raise ValueError("a kind of field that checkpoints do not have")
        yield key >> 3, value


def _number(data: mmap.mmap, start: int) -> tuple[int, int]:
    """Return a number of variable length, and where it ends."""
    value = shift = 0
    while True:
        byte, start = data[start], start + 1
        value, shift = value | (byte & 127) << shift, shift + 7
        if byte < 128:
            return value, start
