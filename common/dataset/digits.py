"""The scanned digits that the repository carries, as a data set of 32 x 32 pixels, and written out in two usual forms.

``python -m common.dataset.digits write FOLDER`` writes them as CIFAR-10-style binary batches and as a
folder of PNG images, so that a demonstration walks the same readers as a training on one's own data. Source and
licence: common/data/README.md.
"""
import io
import sys
from pathlib import Path
from typing import Sequence

import numpy as np
from PIL import Image

from common.command import Parser, run
from common.errors import UserError
from common.files import DATA, write_whole

FILE = DATA / "digits.npz"
CLASSES = [str(digit) for digit in range(10)]
SIDE = 32  # pixels, as CIFAR's images
TRAIN_COUNT = 1437  # of 1,797; the other 360 are for evaluation
_HIGHEST = 16  # grey levels of the scans are 0..16
BATCHES, IMAGES = "cifar-10-batches-bin", "images"


def load_digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the digits of one part of the fixed split.

    The split is a permutation by numpy's ``RandomState(0)``, whose stream never changes between versions.

    Args:
        split: ``train`` or ``eval``.

    Returns:
        Images uint8 (n, 32, 32, 3), values 0..255, and labels int32 (n,); n is 1437 or 360.
    """
    with np.load(FILE) as data:
        scans, labels = data["images"], data["labels"]
    order = np.random.RandomState(0).permutation(len(scans))
    chosen = order[:TRAIN_COUNT] if split == "train" else order[TRAIN_COUNT:]
    images = np.stack([_enlarge(scans[i]) for i in chosen])
    return np.repeat(images[..., None], 3, axis=3), labels[chosen].astype(np.int32)


def _enlarge(scan: np.ndarray) -> np.ndarray:
    """Enlarge one scan (8, 8) of 0..16 smoothly to (32, 32) of 0..255."""
    picture = Image.fromarray(scan.astype(np.float32) * (255 / _HIGHEST)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.asarray(picture).round().clip(0, 255).astype(np.uint8)


def write_digits(folder: str | Path) -> tuple[Path, Path]:
    """Write the digits for the readers of CIFAR-10 and of class folders; files that are there are left as they are.

    Every file gets its name when it is whole, so that an interrupted call is simply repeated.

    Args:
        folder: is made; gets ``cifar-10-batches-bin/`` and ``images/{train,val}/<class>/<n>.png``.

    Returns:
        The two folders.

    Raises:
        UserError: if the folder cannot be written to, or holds other data under these names.
    """
    batches, pictures = Path(folder) / BATCHES, Path(folder) / IMAGES
    try:
        _write(batches / "batches.meta.txt", "\n".join(CLASSES).encode() + b"\n")
        for split, file, name in (("train", "data_batch_1.bin", "train"), ("eval", "test_batch.bin", "val")):
            images, labels = load_digits(split)
            planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
            _write(batches / file, np.hstack([labels[:, None].astype(np.uint8), planes]).tobytes())
            for number, (image, label) in enumerate(zip(images, labels)):
                path = pictures / name / CLASSES[label] / f"{number:04d}.png"
                if not path.exists():
                    encoded = io.BytesIO()
                    Image.fromarray(image).save(encoded, format="PNG")
                    _write(path, encoded.getvalue())
    except OSError as error:
        raise UserError(f"the digits cannot be written to {folder}: {error.strerror or error}.") from error
    return batches, pictures


def _write(path: Path, content: bytes) -> None:
    if path.exists():
        if path.stat().st_size != len(content):
            raise UserError(f"the digits cannot be written to {path.parent}: {path.name} is there and holds something "
                            "else; choose another folder.")
        return
    write_whole(path, content)


def main(argv: Sequence[str]) -> str:
    """Write the digits where the command line says; returns what to tell.

    Raises:
        UserError: if they cannot be written there.
    """
    parser = Parser("common.dataset.digits", "Write the digits of this repository as files.")
    parser.add_argument("command", choices=["write"])
    parser.add_argument("folder", help="gets cifar-10-batches-bin/ and images/{train,val}/CLASS/*.png")
    batches, pictures = write_digits(parser.parse_args(argv).folder)
    return f"The digits as CIFAR-10 batches: {batches}\nThe digits as class folders:    {pictures}"


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))
