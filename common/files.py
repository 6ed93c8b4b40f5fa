"""Where the repository is, and files that appear whole or not at all. Imports without MindSpore."""
import contextlib
import csv
import io
import os
import time
from pathlib import Path
from typing import Any, Iterable, Iterator, Sequence

from common.errors import UserError, reason

ROOT = Path(__file__).resolve().parents[1]  # of the repository
DATA = ROOT / "common" / "data"


@contextlib.contextmanager
def written_whole(path: str | Path, key: str = "") -> Iterator[Path]:
    """Give a name beside ``path`` to write to; what is there at the end of the block becomes ``path``.

    So a reader never meets half a file, also after a crash of the machine. The name has the ending of ``path``, because
    some writers look at it. The folder is made if it is missing.

    Raises:
        UserError: if the file cannot be written, naming ``key``; ``path`` is as it was then.
    """
    path = Path(path)
    unfinished = path.with_name(f".{path.stem}.{os.getpid()}.unfinished{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield unfinished
        with open(unfinished, "rb") as written:
            os.fsync(written.fileno())
        os.replace(unfinished, path)
    except OSError as error:
        raise UserError(f"{key}{': ' if key else ''}'{path}' cannot be written ({reason(error)}).") from error
    finally:
        for left in (unfinished, unfinished.with_suffix(".tmp")):  # the framework writes there first
            with contextlib.suppress(OSError):
                left.unlink()


def remove_unfinished(folder: Path, age: float = 0) -> None:
    """Remove what ``written_whole`` has left in a folder where processes were killed.

    Args:
        age: seconds; what is younger stays, because somebody may be writing it.
    """
    for left in folder.glob(".*.unfinished.*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime >= age:
                left.unlink()


def write_whole(path: str | Path, content: bytes | str) -> None:
    """Write a file that is whole or absent; text is UTF-8.

    Raises:
        UserError: if it cannot be written.
    """
    with written_whole(path) as unfinished:
        unfinished.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


def write_rows(path: str | Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file (RFC 4180) whole.

    Raises:
        UserError: if it cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows(rows)
    write_whole(path, text.getvalue())


def make_folder(key: str, folder: str | Path) -> Path:
    """Make a folder, and those above it.

    Raises:
        UserError: if that is not possible, naming the key that says where.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{key}: {folder} cannot be made a folder ({reason(error)}); give another one.") from error
    return Path(folder)
