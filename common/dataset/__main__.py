"""Look at a folder of images before a training does.

    python -m common.dataset check FOLDER      counts, classes, broken, odd and doubled images, sizes, balance

FOLDER holds train/ and val/, or class folders. Every image is decoded. The exit code is 1 if something is wrong: an
image that cannot be read, a class without images, a class of val/ that train/ has not, or an image in both. Imports no
MindSpore.
"""
import argparse
import hashlib
import io
import multiprocessing
import sys
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Sequence

import numpy as np
from PIL import Image
from tqdm import tqdm

from common.command import Parser, run
from common.context.cores import own_cores
from common.dataset.images import is_turned, load_image
from common.dataset.samples import EncodedSamples
from common.dataset.shard_samples import is_sharded, open_shards
from common.dataset.sources import EVAL_FOLDERS, TRAIN_FOLDERS, read_folder
from common.errors import UserError

_SHOWN = 10  # names of one kind


@dataclass(frozen=True)
class Found:
    """What is known of one image: why it cannot be read (empty: it can), its size, what is odd, and its content."""

    broken: str
    size: tuple[int, int]
    odd: str
    content: bytes


def look(samples: EncodedSamples, index: int) -> Found:
    """Decode one image."""
    try:
        data = samples.read(index)
        image = load_image(io.BytesIO(data), name=samples.where(index))
        with Image.open(io.BytesIO(data)) as stored:
            odd = "turned by EXIF" if is_turned(data) else stored.mode if stored.mode != "RGB" else ""
        return Found("", image.size, odd, hashlib.blake2b(data, digest_size=16).digest())
    except UserError as error:
        return Found(str(error), (0, 0), "", b"")


def check(root: Path, workers: int) -> tuple[str, bool]:
    """Return the report on a folder, and whether nothing is wrong.

    Raises:
        UserError: if there are no images.
    """
    folders = {split: next((root / name for name in names if (root / name).is_dir()), None)
               for split, names in (("train", TRAIN_FOLDERS), ("val", EVAL_FOLDERS))}
    folders = {split: folder for split, folder in folders.items() if folder} or {"images": root}
    lines, wrong = [], []
    classes, contents = {}, {}
    for split, folder in folders.items():
        samples = open_shards(folder) if is_sharded(folder) else read_folder(folder, "eval")
        with multiprocessing.get_context("fork").Pool(workers) as pool:
            found = list(tqdm(pool.imap(partial(look, samples), range(len(samples)), chunksize=16), total=len(samples),
                              desc=split, unit="image", leave=False, disable=None))
            pool.close()
            pool.join()  # else SIGTERM ends them, which a library in this process may have taken: seen once, a hang
        lines += describe(split, samples, found, wrong)
        classes[split] = set(samples.classes)
        listed(f"class in {split} alone, so that there is nothing to tell apart",
               samples.classes if len(samples.classes) == 1 else [], wrong)
        contents[split] = {image.content: samples.where(index) for index, image in enumerate(found) if image.content}
    if len(folders) == 2:
        listed("class(es) of val that train has not", sorted(classes["val"] - classes["train"]), wrong)
        listed("class(es) of train that val has not", sorted(classes["train"] - classes["val"]), lines)
        both = contents["train"].keys() & contents["val"].keys()
        listed("image(s) in train and in val", [f"{contents['train'][c]} = {contents['val'][c]}" for c in sorted(both)],
               wrong)
    return "\n".join(lines + [f"WRONG: {line}" for line in wrong] + ([] if wrong else ["Nothing is wrong."])), not wrong


def describe(split: str, samples: EncodedSamples, found: Sequence[Found], wrong: list[str]) -> list[str]:
    """Return what there is in one folder, and add to ``wrong`` what should not be."""
    counts = np.bincount(samples.labels, minlength=len(samples.classes))
    sides = np.array([image.size for image in found if not image.broken] or [(0, 0)])
    lines = [f"{split}: {len(samples):,} images of {len(samples.classes)} classes, {counts.min()} to {counts.max()} per "
             f"class; width {sides[:, 0].min()} to {sides[:, 0].max()} (median {np.median(sides[:, 0]):g}), height "
             f"{sides[:, 1].min()} to {sides[:, 1].max()} (median {np.median(sides[:, 1]):g})"]
    places, odd = defaultdict(list), defaultdict(list)
    for index, image in enumerate(found):
        places[image.content].append(samples.where(index))
        odd[image.odd].append(samples.where(index))
    for kind in sorted(odd.keys() - {""}):
        listed(f"image(s) of {split} {kind if kind.startswith('turned') else f'of mode {kind}'}", odd[kind], lines)
    listed(f"image(s) of {split} more than once", [" = ".join(names) for content, names in places.items()
                                                   if content and len(names) > 1], lines)
    listed(f"class(es) of {split} without images", [name for name, n in zip(samples.classes, counts) if not n], wrong)
    listed(f"image(s) of {split} that cannot be read", [image.broken for image in found if image.broken], wrong)
    return lines


def listed(what: str, names: Sequence[str], lines: list[str]) -> None:
    """Add a line with the first of the names, if there are any."""
    if names:
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        lines.append(f"{len(names)} {what}: {'; '.join(names[:_SHOWN])}{more}")


def main(argv: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    good = True

    def action(words: Sequence[str]) -> str:
        nonlocal good
        parser = Parser("common.dataset", __doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("what", choices=("check",))
        parser.add_argument("folder", type=Path)
        parser.add_argument("--workers", type=int, default=len(own_cores()), help="processes (all cores)")
        options = parser.parse_args(words)
        if not options.folder.is_dir():
            raise UserError(f"{options.folder} is no folder.")
        if options.workers < 1:
            raise UserError(f"workers: {options.workers} is not a positive number.")
        said, good = check(options.folder, options.workers)
        return said

    return run(action, argv) or (0 if good else 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
