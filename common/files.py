"""Where the repository is, and files that appear whole or not at all. Imports without MindSpore."""
import csv
import io
import os
from pathlib import Path
from typing import Any, Iterable, Sequence

from common.errors import UserError

ROOT = Path(__file__).resolve().parents[1]  # of the repository
DATA = ROOT / "common" / "data"


def write_whole(path: str | Path, content: bytes | str) -> None:
    """Write a file under a temporary name and rename it, so that a reader never meets half of it; text is UTF-8.

    Raises:
        UserError: if it cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        os.replace(temporary, path)
    except OSError as error:
        if path.parent.is_dir():
            temporary.unlink(missing_ok=True)
        raise UserError(f"'{path}' cannot be written ({error.strerror or error}).") from None


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


def make_folder(key: str, folder: Path) -> None:
    """Make a folder, or raise a UserError that names the key."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{key}: {folder} cannot be made a folder ({error.strerror}); give another one.") from error
