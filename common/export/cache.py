"""ONNX files made once for a checkpoint, kept beside it in the hidden folder ``.onnx``. Imports no MindSpore.

A file is called ``CHECKPOINT.KEY.DIGEST.onnx``: the key says what it was made from, the digest what it holds, so that a
damaged one is noticed and made again. Files appear whole, and several processes may make the same one at once.
"""
import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any, Iterable, Mapping

from common.files import remove_unfinished, write_whole

FOLDER = ".onnx"
KEPT = 4  # files in a folder; the one that was used longest ago goes first
UNFINISHED = 3600  # seconds after which nobody writes any more


class OnnxCache:
    """The file of one checkpoint and one use of it.

    Args:
        checkpoint: path of the checkpoint.
        facts: what the file follows from besides: JSON values.
        sources: Python files that it follows from.

    Raises:
        OSError: if the checkpoint cannot be read.
    """

    def __init__(self, checkpoint: str | Path, facts: Mapping[str, Any], sources: Iterable[Path]):
        self.checkpoint = Path(checkpoint).expanduser()
        self.folder = self.checkpoint.parent / FOLDER
        found = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
        for path in (self.checkpoint, *sorted(sources)):
            with open(path, "rb") as file:
                while part := file.read(1 << 20):
                    found.update(part)
        self.start = f"{self.checkpoint.name}.{found.hexdigest()[:16]}."

    def find(self) -> bytes | None:
        """Return the content of the file; ``None`` if there is none that is whole."""
        for path in self._files():
            if not path.name.startswith(self.start):
                continue
            with contextlib.suppress(OSError):  # another process may remove it
                content = path.read_bytes()
                if path.name == self._name(content):
                    with contextlib.suppress(OSError):
                        os.utime(path)
                    return content
                path.unlink()
        return None

    def keep(self, content: bytes) -> None:
        """Write the file, and remove those that are not needed any more.

        Raises:
            UserError: if it cannot be written.
        """
        write_whole(self.folder / self._name(content), content)
        remove_unfinished(self.folder, UNFINISHED)
        for number, path in enumerate(self._files()):
            if number >= KEPT or not (self.checkpoint.parent / path.name.rsplit(".", 3)[0]).exists():
                with contextlib.suppress(OSError):
                    path.unlink()

    def _name(self, content: bytes) -> str:
        return f"{self.start}{hashlib.sha256(content).hexdigest()[:16]}.onnx"

    def _files(self) -> list[Path]:
        """Return the files of all checkpoints, the one that was used last first."""
        found = []
        for path in self.folder.glob("[!.]*.onnx"):
            with contextlib.suppress(OSError):
                found.append((path.stat().st_mtime, path))
        return [path for _, path in sorted(found, reverse=True)]
