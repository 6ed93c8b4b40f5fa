"""A folder on a fast disk, or in memory (/dev/shm), that keeps images after they have been read for the first time.

Every image is one file, written under another name first: any number of processes may fill and read the folder at the
same time, also those of several runs. Imports no MindSpore.
"""
import fcntl
import hashlib
import logging
import os
from pathlib import Path
from typing import Callable

import numpy as np
from PIL import Image

from common.errors import UserError

_TOTAL = "bytes_held"
_HEAD = 8  # bytes: height and width of decoded pixels, each uint32
_GB = 10**9

logger = logging.getLogger(__name__)


class Pixels:
    """A decoded picture: uint8 RGB (H, W, 3)."""

    def __init__(self, pixels: np.ndarray):
        self.pixels, self.size = pixels, (pixels.shape[1], pixels.shape[0])

    def image(self) -> Image.Image:
        """Return it as PIL image."""
        return Image.fromarray(self.pixels)

    def crop(self, box: tuple[int, ...], size: int) -> tuple[np.ndarray, tuple[int, ...]]:
        """Return the pixels, and the box in them."""
        return self.pixels, box


class Cache:
    """Images by name, until the limit is reached; what does not fit is read from its source every time.

    An image that changes under its name is not noticed: empty the folder then.

    Args:
        folder: is made.
        limit: bytes that the folder may hold, in units of 10**9.
        decoded: keep pixels, which are larger but need no decoding, instead of the encoded files.

    Raises:
        UserError: if the folder cannot be written to.
    """

    def __init__(self, folder: str | Path, limit: float, decoded: bool):
        self.folder, self.limit, self.decoded, self.full = Path(folder), int(limit * _GB), decoded, False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / _TOTAL).touch()
        except OSError as error:
            raise UserError(f"data_cache: {folder} cannot be written to ({error.strerror}).") from error

    def encoded(self, name: str, read: Callable[[], bytes]) -> bytes:
        """Return an encoded image; ``read`` fetches it from its source."""
        path = self._path(name)
        try:
            return path.read_bytes()
        except OSError:
            data = read()
            self._keep(path, data)
            return data

    def pixels(self, name: str, read: Callable[[], np.ndarray]) -> Pixels:
        """Return a decoded image; ``read`` fetches it as uint8 (H, W, 3). Only what is looked at is read from disk."""
        path = self._path(name)
        try:
            content = np.memmap(path, np.uint8, mode="r")
            height, width = content[:_HEAD].view(np.uint32).tolist()
            return Pixels(np.asarray(content[_HEAD:]).reshape(height, width, 3))
        except (OSError, ValueError):
            pixels = read()
            self._keep(path, np.array(pixels.shape[:2], np.uint32).tobytes() + pixels.tobytes())
            return Pixels(pixels)

    def _path(self, name: str) -> Path:
        digest = hashlib.blake2b(os.fsencode(os.path.abspath(name)), digest_size=16).hexdigest()
        return self.folder / digest[:2] / f"{digest[2:]}.{'pixels' if self.decoded else 'image'}"

    def _keep(self, path: Path, data: bytes) -> None:
        """Write a file whole, if there is room; a disk that is full is only a slower run."""
        if self.full or not self._reserve(len(data)):
            return
        part = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(exist_ok=True)
            part.write_bytes(data)
            os.replace(part, path)
        except OSError as error:
            self._stop(error.strerror or str(error))
            part.unlink(missing_ok=True)

    def _reserve(self, count: int) -> bool:
        """Add to the bytes that all processes together have written, unless the limit forbids it."""
        with open(self.folder / _TOTAL, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # until the file is closed
            held = int(file.read() or 0)
            if held + count > self.limit:
                self._stop(f"data_cache_gb: {self.limit / _GB:g} is reached")
                return False
            file.seek(0)
            file.write(str(held + count).encode())
        return True

    def _stop(self, why: str) -> None:
        self.full = True
        logger.warning("data_cache: %s takes no more images (%s); the others are read from their source", self.folder,
                       why)
