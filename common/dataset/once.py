"""Work that several processes need and one of them does. Imports no MindSpore."""
import logging
import math
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Callable

from common.errors import UserError

logger = logging.getLogger(__name__)


STALE_SECONDS = 60.0  # a lock without a sign of life for so long belongs to a process that died
_HEARTBEAT_SECONDS = 5.0


def once(marker: Path, work: Callable[[], None], *, stale: float = STALE_SECONDS, poll: float = 0.2,
         patience: float = math.inf) -> None:
    """Run ``work`` in one of the processes that call this at the same time; the others wait until it is done.

    Args:
        marker: the file that says it is done; ``work`` need not make it.
        work: what to do once.
        stale: seconds without a sign of life after which a waiting process takes over.
        poll: seconds between two looks.
        patience: seconds after which a process gives up waiting for one that still works.

    Raises:
        UserError: what ``work`` raised, in the processes that waited too; or where nothing can be written.
        TimeoutError: when the patience has run out.
    """
    lock, failure = _beside(marker, "lock"), _beside(marker, "failed")
    waited, seen, since = False, None, time.monotonic()
    latest = since + patience
    while not marker.exists():
        try:
            lock.mkdir()
        except FileExistsError:
            waited = True
            sign = _modified(lock)
            if sign != seen:
                seen, since = sign, time.monotonic()
            elif sign is not None and time.monotonic() - since > stale:
                _remove_stale(lock)
            if time.monotonic() > latest:
                raise TimeoutError(f"{marker} was not made within {patience:g} seconds") from None
            time.sleep(poll)
            continue
        except OSError as error:
            raise UserError(f"{marker.parent} cannot be written to ({error.strerror}); prepare the data set there by "
                            "hand, or copy it to a folder of your own.") from error
        try:
            if waited and failure.exists():
                raise UserError(failure.read_text(encoding="utf-8"))
            if not marker.exists():
                _work(marker, lock, failure, work)
        finally:
            shutil.rmtree(lock, ignore_errors=True)


def in_progress(marker: Path) -> bool:
    """Whether some process works, or died while it worked, at what ``marker`` will stand for."""
    return _beside(marker, "lock").exists() and not marker.exists()


def _work(marker: Path, lock: Path, failure: Path, work: Callable[[], None]) -> None:
    """Do the work with signs of life; leave the marker, or the sentence of what went wrong."""
    failure.unlink(missing_ok=True)
    done = threading.Event()

    def beat() -> None:
        while not done.wait(_HEARTBEAT_SECONDS):
            try:
                os.utime(lock)
            except OSError:
                return  # taken over, or removed by hand

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        work()
        if not marker.exists():
            marker.write_text("done\n", encoding="utf-8")
    except Exception as error:
        failure.write_text(str(error) or type(error).__name__, encoding="utf-8")
        raise
    finally:
        done.set()
        thread.join()


def _beside(marker: Path, what: str) -> Path:
    return marker.with_name(f".{marker.name.lstrip('.')}.{what}")


def _modified(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _remove_stale(lock: Path) -> None:
    """Take the lock of a dead process away, under another name first: of several that try, one succeeds."""
    logger.warning("%s: the process that worked here seems to have died; its work is done again", lock.parent)
    aside = lock.with_name(f"{lock.name}.{os.getpid()}")
    try:
        lock.rename(aside)
    except OSError:
        return
    shutil.rmtree(aside, ignore_errors=True)
