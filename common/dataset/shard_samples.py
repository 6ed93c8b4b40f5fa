"""Images in the tar files that ``common.dataset.shards`` writes, each read directly at its place. Imports no MindSpore."""
import json
import os
from pathlib import Path
from typing import Sequence

import numpy as np

from common.dataset.samples import EncodedSamples
from common.errors import UserError

INDEX, PLACES = "shards.json", "shards.npy"  # classes and names; and where each image lies


class ShardSamples(EncodedSamples):
    """Images in tar files.

    Args:
        name: of the data set.
        classes: class names.
        folder: of the tar files.
        shards: their names.
        names: of the images, in the order of the folder that was packed.
        places: int64 (n, 4): label, shard, first byte, count of bytes of each image.
    """

    def __init__(self, name: str, classes: Sequence[str], folder: Path, shards: Sequence[str], names: Sequence[str],
                 places: np.ndarray):
        super().__init__(name, classes, places[:, 0])
        self.folder, self.shards, self.places = folder, list(shards), places
        self.names = np.array([os.fsencode(name) for name in names])
        self._open: dict[tuple[int, int], int] = {}  # (process, shard) -> descriptor

    def where(self, index: int) -> str:
        return f"{self.folder / self.shards[self.places[index, 1]]}:{os.fsdecode(self.names[index])}"

    def identity(self) -> bytes:
        return b"\0".join(self.names.tolist())

    def read(self, index: int) -> bytes:
        _, shard, first, count = self.places[index].tolist()
        try:
            data = os.pread(self._descriptor(shard), count, first)
        except OSError as error:
            raise UserError(f"{self.where(index)} cannot be read ({error.strerror}).") from error
        if len(data) < count:
            raise UserError(f"{self.where(index)} cannot be read (the shard is cut off); copy it again.")
        return data

    def _descriptor(self, shard: int) -> int:
        key = os.getpid(), shard
        if key not in self._open:
            self._open[key] = os.open(self.folder / self.shards[shard], os.O_RDONLY)
        return self._open[key]

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_open": {}}


def is_sharded(folder: Path) -> bool:
    """Whether a folder holds shards."""
    return (folder / INDEX).is_file()


def open_shards(folder: Path) -> ShardSamples:
    """Open the shards of a folder.

    Raises:
        UserError: if the index or a shard is missing or damaged.
    """
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        places = np.load(folder / PLACES)
        samples = ShardSamples(index["name"], index["classes"], folder, index["shards"], index["names"], places)
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"{folder / INDEX} or {PLACES} beside it is damaged ({error}); pack the images "
                        "again.") from error
    missing = [shard for shard in samples.shards if not (folder / shard).is_file()]
    if missing:
        raise UserError(f"{folder} lacks {', '.join(missing[:5])}{' and others' if len(missing) > 5 else ''}, which "
                        f"{INDEX} names; copy the shards again.")
    return samples
