"""One training per run folder: a lock that its owner's death opens. Imports no MindSpore."""
import errno
import fcntl
import logging
import os
import socket
from pathlib import Path

from common.errors import UserError, reason

NAME = ".lock"

logger = logging.getLogger(__name__)


class FolderLock:
    """Says that this process writes to a folder.

    It is a record lock (POSIX) on a hidden file: the system opens it when the process ends, however it ends; forked
    data workers do not inherit it; and over NFS it holds between machines. The file itself stays and means nothing.

    Args:
        folder: the folder, which exists.
    """

    def __init__(self, folder: Path):
        self.path = Path(folder) / NAME
        self.descriptor: int | None = None

    def take(self) -> None:
        """Take the lock until the end of the process.

        Raises:
            UserError: if another process has it, or its file cannot be written.
        """
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    owner = os.read(descriptor, 300).decode(errors="replace").strip() or "another process"
                    os.close(descriptor)
                    raise UserError(f"ckpt_save_dir: {self.path.parent} belongs to a training that still runs, {owner};"
                                    " wait for its end, or choose another folder.") from None
                logger.warning("%s cannot be locked (%s): see to it yourself that no other training writes there",
                               self.path.parent, reason(error))  # some shared file systems have no locks
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        except OSError as error:
            raise UserError(f"ckpt_save_dir: {self.path.parent} cannot be written ({reason(error)}).") from error
        self.descriptor = descriptor

    def check(self) -> None:
        """Check that the folder is still the one that was locked.

        Raises:
            UserError: if it was removed or replaced.
        """
        if self.descriptor is None:
            return
        try:
            same = os.path.samestat(os.fstat(self.descriptor), os.stat(self.path))
        except FileNotFoundError:
            same = False
        except OSError:  # a shared file system that does not answer just now
            return
        if not same:
            raise UserError(f"ckpt_save_dir: {self.path.parent} was removed, moved or replaced while the training "
                            "wrote to it, so the training stops; put it back and start again to go on from its last "
                            "checkpoint.")
