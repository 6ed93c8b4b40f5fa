"""Every moment of a run at which a file changes, and what a kill or a full disk at that moment would leave.

Python tells of every file operation before it is done. A copy of the run folder made then is what the next process would
find if this one were killed; an error raised then is a disk that is full. So one process sees all the moments.
"""
import errno
import os
import shutil
import sys
from pathlib import Path
from typing import Callable

# what Python tells of: name -> whether it writes to the path (of opening: if it is opened for writing)
OPERATIONS = ("open", "os.rename", "os.remove", "os.mkdir", "os.chmod", "os.truncate", "shutil.copyfile")


class Moments:
    """Calls a function before every file operation in a folder, inside a ``with`` block.

    Args:
        folder: the folder that is watched.
        act: called with the number of the operation, from 0, and its description.
    """

    current: "Moments | None" = None
    hooked = False

    def __init__(self, folder: Path, act: Callable[[int, str], None]):
        self.folder, self.act, self.count, self.busy = str(folder), act, 0, False

    def __enter__(self) -> "Moments":
        Moments.current = self
        if not Moments.hooked:
            sys.addaudithook(_tell)  # stays for ever
            Moments.hooked = True
        return self

    def __exit__(self, *_) -> None:
        Moments.current = None

    def tell(self, event: str, arguments: tuple) -> None:
        paths = [str(path) for path in arguments[:2] if isinstance(path, (str, os.PathLike))]
        if self.busy or not any(path.startswith(self.folder) for path in paths):
            return
        if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        self.busy = True
        try:
            number, self.count = self.count, self.count + 1
            self.act(number, f"{event} {' '.join(Path(path).name for path in paths)}")
        finally:
            self.busy = False


def _tell(event: str, arguments: tuple) -> None:
    if Moments.current is not None and event in OPERATIONS:
        Moments.current.tell(event, arguments)


WRITES = ("open", "shutil.copyfile", "os.mkdir")  # what fails where the disk is full


def copies(folder: Path, into: Path, run: Callable[[], object]) -> tuple[list[tuple[Path, str]], list[str]]:
    """Run something and return copies of the folder, with what came next, and all its file operations.

    There is a copy for every state in which the folder was before an operation; a log, which nobody reads, is no state.
    """
    found: list[tuple[Path, str]] = []
    operations: list[str] = []
    before: dict[str, tuple[int, int, int]] = {}

    def copy(number: int, what: str) -> None:
        nonlocal before
        operations.append(what)
        if not folder.exists():
            return
        state = {str(path): (status.st_ino, status.st_size, status.st_mtime_ns) for path in folder.rglob("*")
                 if not path.name.startswith("log_rank") and (status := path.stat())}
        if found and state == before:
            found[-1] = (found[-1][0], f"{found[-1][1]} {what}")
        else:
            found.append((Path(shutil.copytree(folder, into / f"{number:04d}")), what))
        before = state

    with Moments(folder, copy):
        run()
    return found, operations


def disk_full_at(folder: Path, number: int, run: Callable[[], object]) -> bool:
    """Run something on a disk that is full from the given file operation on; return whether it came to that."""
    full = [False]

    def fail(current: int, what: str) -> None:
        if current >= number and what.startswith(WRITES):
            full[0] = True
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), what)

    with Moments(folder, fail):
        run()
    return full[0]
