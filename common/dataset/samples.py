"""Images with labels in a fixed order, loaded one by one, and what is checked and kept of their classes.

Imports no MindSpore.
"""

import dataclasses
import hashlib
import io
import json
import logging
import os
import tempfile
import weakref
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Sequence

import numpy as np
from PIL import Image

from common.config.options import Config
from common.config.origins import is_asked, place_of
from common.dataset.cache import Cache, Pixels
from common.dataset.images import Reading, load_image
from common.dataset.jpeg import Jpeg, open_picture
from common.errors import UserError

_NAMED_AT_MOST = 10  # broken images named in one log line

logger = logging.getLogger(__name__)


class Samples(ABC):
    """Images with labels, in a fixed order.

    Attributes:
        name: of the data set, for people.
        classes: class names; a label is an index into it.
        labels: int32 (n,).
        in_memory: whether loading an image is only a copy.
    """

    in_memory = False

    def __init__(self, name: str, classes: Sequence[str], labels: np.ndarray):
        self.name, self.classes, self.labels = name, list(classes), np.asarray(labels, np.int32)
        self._errors: _ErrorFile | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def load(self, index: int) -> Image.Image:
        """Return one image, RGB.

        Raises:
            UserError: if it cannot be read, naming it.
        """

    def picture(self, index: int) -> Image.Image | Jpeg | Pixels:
        """Return one image for the training, decoded or not; as ``load``, but its pixels may be OpenCV's."""
        return self.load(index)

    @abstractmethod
    def where(self, index: int) -> str:
        """Return the file (and the record) of one image, for messages."""

    @abstractmethod
    def identity(self) -> bytes:
        """Return what tells the images from others: their names without the folder, or where they have none, pixels."""

    def fingerprint(self) -> str:
        """Return a hash of classes, labels and images in their order: equal where the data are, in any folder."""
        digest = hashlib.blake2b(json.dumps(self.classes).encode(), digest_size=16)
        digest.update(self.labels.astype("<i4").tobytes())
        digest.update(self.identity())
        return digest.hexdigest()

    def count_errors(self) -> None:
        """Begin to count images that could not be read; to be called before worker processes start."""
        self._errors = self._errors or _ErrorFile()

    def note_error(self, index: int) -> None:
        """Remember, from any process, that an image could not be read."""
        if self._errors is not None:
            self._errors.add(self.where(index))

    def report_errors(self, log: logging.Logger) -> int:
        """Log how many images could not be read since the last report, and their names; return the number.

        The workers are a few batches ahead, so that the end of an epoch may count images of the next one.
        """
        names = self._errors.read() if self._errors is not None else []
        if names:
            shown = list(dict.fromkeys(names))
            more = f" and {len(shown) - _NAMED_AT_MOST} more" if len(shown) > _NAMED_AT_MOST else ""
            log.warning("on_error: skip: %d time(s) an image could not be read: %s%s", len(names),
                        ", ".join(shown[:_NAMED_AT_MOST]), more)
        return len(names)


class _ErrorFile:
    """A list of names that several processes append to: short lines, one write each, as the system keeps whole."""

    def __init__(self):
        handle, self.path = tempfile.mkstemp(prefix="unread_images_")
        os.close(handle)
        self.position = 0
        weakref.finalize(self, _remove_own, self.path, os.getpid())

    def add(self, name: str) -> None:
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(handle, f"{json.dumps(name)}\n".encode())
        finally:
            os.close(handle)

    def read(self) -> list[str]:
        with open(self.path, "rb") as file:
            file.seek(self.position)
            lines = file.read()
        self.position += len(lines)
        return [json.loads(line) for line in lines.splitlines()]


def _remove_own(path: str, owner: int) -> None:
    """Remove a file in the process that made it; a forked worker ends without."""
    if os.getpid() == owner:
        Path(path).unlink(missing_ok=True)


class EncodedSamples(Samples):
    """Images that are encoded, one after the other, in files or in parts of files."""

    reading = Reading()
    cache: Cache | None = None

    @abstractmethod
    def read(self, index: int) -> bytes:
        """Return the encoded image.

        Raises:
            UserError: if it is not there.
        """

    def load(self, index: int) -> Image.Image:
        if self.cache and self.cache.decoded:
            return self._pixels(index).image()
        return self._decode(index)

    def picture(self, index: int) -> Image.Image | Jpeg | Pixels:
        if self.cache and self.cache.decoded:
            return self._pixels(index)
        return open_picture(self._encoded(index), self.where(index), self.reading)

    def _encoded(self, index: int) -> bytes:
        if self.cache and not self.cache.decoded:
            return self.cache.encoded(self.where(index), lambda: self.read(index))
        return self.read(index)

    def _decode(self, index: int) -> Image.Image:
        return load_image(io.BytesIO(self._encoded(index)), self.reading, self.where(index))

    def _pixels(self, index: int) -> Pixels:
        return self.cache.pixels(self.where(index), lambda: np.asarray(self._decode(index)))


class FileSamples(EncodedSamples):
    """Image files below one folder. Names are kept as one array of bytes: a million of them take 50 MB, not 500."""

    def __init__(self, name: str, classes: Sequence[str], labels: Sequence[int], folder: Path, files: Sequence[str]):
        super().__init__(name, classes, np.asarray(labels, np.int32))
        self.folder = os.fspath(folder)
        self.files = np.array([os.fsencode(file) for file in files])

    def where(self, index: int) -> str:
        return os.path.join(self.folder, os.fsdecode(self.files[index]))

    def identity(self) -> bytes:
        return b"\0".join(self.files.tolist())

    def read(self, index: int) -> bytes:
        try:
            with open(self.where(index), "rb") as file:
                return file.read()
        except OSError as error:
            raise UserError(f"{self.where(index)} is no image that can be read ({error.strerror}); remove it, or set "
                            "on_error: skip.") from error


class ArraySamples(Samples):
    """Images that are in memory: uint8 (n, H, W, 3)."""

    in_memory = True

    def __init__(self, name: str, classes: Sequence[str], labels: np.ndarray, images: np.ndarray,
                 sources: Sequence[tuple[str, int]]):
        super().__init__(name, classes, labels)
        self.images, self.sources = images, list(sources)

    def identity(self) -> bytes:
        return self.images.tobytes()

    def load(self, index: int) -> Image.Image:
        return Image.fromarray(self.images[index])

    def where(self, index: int) -> str:
        for file, count in self.sources:
            if index < count:
                return f"{file} record {index}"
            index -= count
        raise IndexError(index)


def fit_batch(config: Config, n: int, world_size: int) -> Config:
    """Lower a batch that is larger than the ``n`` training images, where the user did not ask for it, and say so."""
    step, share = config.batch_size * config.accumulation_steps * world_size, n // world_size
    if n >= step or not share or is_asked(config, "batch_size") or is_asked(config, "accumulation_steps"):
        return config
    accumulated = min(config.accumulation_steps, share)
    fitted = dataclasses.replace(config, batch_size=share // accumulated, accumulation_steps=accumulated)
    logger.warning("batch_size: %d instead of %d (%s): there are %d training images.", fitted.batch_size,
                   config.batch_size, place_of(config, "batch_size"), n)
    return fitted


def steps_of_epoch(config: Config, n: int, world_size: int) -> int:
    """Return the optimizer steps of one epoch of a training: once through ``n`` images, or what ``sink_size`` says.

    As in MindSpore ``sink_size`` counts batches and makes an epoch of them: E epochs are E x sink_size batches, through
    the data as often as that takes. Here also where nothing is sent ahead (a CPU, ``dataset_sink_mode: false``), so
    that the old zoo's "epochs 1, sink_size 5" for a profile is five batches everywhere.

    Raises:
        UserError: if ``sink_size`` is no whole number of steps; see also ``count_steps``.
    """
    steps = count_steps(config, n, world_size)
    if config.sink_size < 1:
        return steps
    if config.sink_size % config.accumulation_steps:
        raise UserError(f"sink_size: {config.sink_size} batches are not a whole number of steps of accumulation_steps: "
                        f"{config.accumulation_steps} batches each.")
    return config.sink_size // config.accumulation_steps


def count_steps(config: Config, n: int, world_size: int) -> int:
    """Return the optimizer steps of one epoch over ``n`` images.

    A step takes batch_size x accumulation_steps x world_size images. ``drop_remainder: false`` fills the last step with
    the first images of the epoch, so that every image is seen and every batch has the same shape.

    Raises:
        UserError: if the images do not fill one step, and filling up is not asked for.
    """
    step = config.batch_size * config.accumulation_steps * world_size
    if not config.drop_remainder:
        return -(-n // step)
    if n < step:
        factors = [f"batch_size {config.batch_size}"]
        factors += [f"accumulation_steps {config.accumulation_steps}"] if config.accumulation_steps > 1 else []
        factors += [f"{world_size} devices"] if world_size > 1 else []
        raise UserError(f"{' x '.join(factors)} is larger than the {n} training images, so that an epoch would have no "
                        "step; lower batch_size.")
    return n // step


