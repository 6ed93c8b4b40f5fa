"""The records of a run, one per epoch: ``history.jsonl``. Imports no MindSpore."""
import json
import logging
import math
from pathlib import Path
from typing import Any, Iterable

from common.errors import UserError
from common.files import write_whole

HISTORY = "history.jsonl"

logger = logging.getLogger(__name__)


def as_json(row: dict[str, Any]) -> dict[str, Any]:
    """Return a record as JSON can hold it: numbers that are not finite become null."""
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}


def write_history(file: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write ``history.jsonl`` whole.

    Raises:
        UserError: if that is not possible.
    """
    write_whole(file, "".join(json.dumps(as_json(row)) + "\n" for row in rows))


def read_history(path: str | Path) -> list[dict[str, Any]]:
    """Read ``history.jsonl``, one JSON object per line.

    A process that is killed while it writes leaves half a line, and one that resumes may continue that very line:
    what cannot be read is left out with a warning.

    Raises:
        UserError: if there is no such file.
    """
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"history '{path}' cannot be read ({error.strerror}); "
                        "it is the file history.jsonl in the folder of a run.") from None
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (RecursionError, ValueError):  # no JSON, or numbers of thousands of digits
            row = None
        if isinstance(row, dict) and "epoch" in row:
            rows.append(row)
        else:
            logger.warning("%s: line %d is not a whole record and is left out", path, number)
    return rows
