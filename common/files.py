"""Files that appear whole or not at all. Imports without MindSpore."""
import os
from pathlib import Path

from common.errors import UserError


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
