"""Images in a few large tar files, for storage that is slow with many small ones.

``python -m common.dataset.shards FOLDER OUT`` packs a folder of class folders; give OUT/train and OUT/val the same
way, and OUT as ``data_dir``. The shards are ordinary tar files, ``CLASS/NAME.jpg`` inside, which any other program
can read, with an index beside them (``common.dataset.shard_samples`` reads them). Imports no MindSpore.
"""
import argparse
import io
import json
import os
import sys
import tarfile
from pathlib import Path
from typing import Sequence

import numpy as np
from tqdm import tqdm

from common.command import Parser, run
from common.dataset.samples import EncodedSamples
from common.dataset.shard_samples import INDEX, PLACES, is_sharded
from common.dataset.sources import read_folder
from common.errors import UserError
from common.files import write_whole

_MB = 10**6


def write_shards(samples: EncodedSamples, names: Sequence[str], folder: Path, shard_bytes: int) -> list[str]:
    """Pack images, and return the names of the shards; the index comes last, so that it stands for a whole set.

    Args:
        samples: the images.
        names: what each is called inside the shards.
        folder: is made.
        shard_bytes: size at which a new shard begins.

    Raises:
        UserError: if an image cannot be read, or the folder holds shards already.
    """
    if is_sharded(folder):
        raise UserError(f"{folder} holds shards already; choose another folder, or remove them.")
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[str] = []
    places = np.empty((len(samples), 4), np.int64)
    tar = None
    try:
        for index in tqdm(range(len(samples)), desc=str(folder), unit="image", leave=False, disable=None):
            data = samples.read(index)
            if tar is None or tar.offset + len(data) > shard_bytes and tar.offset:
                if tar is not None:
                    tar.close()
                shards.append(f"{folder.name}-{len(shards):06d}.tar")
                tar = tarfile.open(folder / shards[-1], "w", format=tarfile.PAX_FORMAT)
            member = tarfile.TarInfo(names[index])
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
            padded = -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            places[index] = samples.labels[index], len(shards) - 1, tar.offset - padded, len(data)
    finally:
        if tar is not None:
            tar.close()
    with open(folder / PLACES, "wb") as file:
        np.save(file, places)
    write_whole(folder / INDEX, json.dumps({"name": samples.name, "classes": samples.classes, "shards": shards,
                                            "names": list(names)}) + "\n")
    return shards


def main(argv: Sequence[str]) -> str:
    """Pack a folder; returns what was written. Raises UserError for a mistake of the user."""
    parser = Parser("common.dataset.shards", __doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a folder of class folders, such as imagenet/train")
    parser.add_argument("out", type=Path, help="folder for the shards, such as /data/shards/train")
    parser.add_argument("--shard_mb", type=int, default=1000, help="size of a shard in units of 10**6 bytes (1000)")
    options = parser.parse_args(argv)
    if options.shard_mb < 1:
        raise UserError(f"shard_mb: {options.shard_mb} is not a positive number.")
    if not options.folder.is_dir():
        raise UserError(f"{options.folder} is no folder.")
    samples = read_folder(options.folder, "eval")
    names = [os.fsdecode(file) for file in samples.files]
    shards = write_shards(samples, names, options.out, options.shard_mb * _MB)
    return f"{len(samples):,} images of {len(samples.classes)} classes in {len(shards)} shards: {options.out}"


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))
