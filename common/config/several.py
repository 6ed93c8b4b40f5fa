"""Several checkpoints on one command line. Imports no MindSpore."""
import os
import re
from pathlib import Path
from typing import Sequence

from common.config.options import CALLER_VARIABLE, Config, names_of
from common.errors import UserError


def each_checkpoint(argv: Sequence[str], schema: type[Config]) -> list[list[str]]:
    """Return the command line, or, where ``ckpt_path`` names several checkpoints, one for each of them.

    They are named with commas between them, or by a folder, which means all its ``.ckpt`` files in the order of the
    numbers in their names.

    Raises:
        UserError: if a folder holds none.
    """
    words, names = list(argv), names_of(schema)
    for place, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if not flag.startswith("--") or names.get(flag[2:].replace("-", "_")) != "ckpt_path":
            continue
        value = value if equals else words[place + 1] if place + 1 < len(words) else ""
        rest = words[place + 1:] if equals else words[place + 2:]
        if paths := _checkpoints(value):
            return [[*words[:place], flag, path, *rest] for path in paths]
    return [words]


def _checkpoints(value: str) -> list[str]:
    """Return the files that a value means; nothing where it is one file."""
    path = Path(value).expanduser()
    if value and path.is_dir():
        files = sorted(path.glob("*.ckpt"), key=lambda file: [int(part) if part.isdigit() else part for part in
                                                              re.split(r"(\d+)", file.name)])
        if not files:
            raise UserError(f"ckpt_path: the folder {value} holds no .ckpt file.")
        return [str(file) for file in files]
    if "," not in value or path.exists():
        return []
    caller = os.environ.get(CALLER_VARIABLE, "")  # a launch script makes the first path absolute, and not the others
    return [os.path.join(caller, part.strip()) for part in value.split(",") if part.strip()]
