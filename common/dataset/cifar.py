"""The binary versions of CIFAR-10 and CIFAR-100: found, unpacked or fetched where they are missing, and read whole.

Source: Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images",
https://www.cs.toronto.edu/~kriz/cifar.html.
A record is the label (CIFAR-100: the coarse and the fine label, one byte each) and 3 x 32 x 32 bytes, red plane first.
"""
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.config.datasets import CIFAR10, CIFAR100, DATASETS, Cifar
from common.config.options import Config
from common.dataset.archive import download, marker_of, unpack_once
from common.dataset.once import in_progress, once
from common.errors import UserError
from common.files import make_folder

ADDRESS = "https://www.cs.toronto.edu/~kriz"
ADDRESS_VARIABLE = "ZOO_CIFAR_URL"  # environment: a mirror of ADDRESS

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Records:
    """What was read: images uint8 (n, 32, 32, 3), labels int32 (n,), class names, (file, number of records)."""

    images: np.ndarray
    labels: np.ndarray
    classes: list[str]
    sources: list[tuple[str, int]]


def read_cifar(config: Config, split: str) -> Records:
    """Read the training or the evaluation records of ``config.dataset``.

    Args:
        config: dataset, data_dir, eval_dir, download.
        split: ``train`` or ``eval``.

    Raises:
        UserError: if files are missing, of a wrong size, or of the other CIFAR.
    """
    layout = DATASETS[config.dataset]
    files = _find_or_get(config, layout, split)
    classes = _class_names(config, layout)
    images, labels = zip(*(_read(file, layout, len(classes)) for file in files))
    return Records(np.concatenate(images), np.concatenate(labels), classes,
                   [(str(file), len(part)) for file, part in zip(files, labels)])


def _bases(config: Config, split: str) -> list[Path]:
    """The folders that the user named, the most particular first."""
    named = [config.eval_dir, config.data_dir] if split == "eval" else [config.data_dir]
    return [Path(name) for name in named if name]


def _find(bases: list[Path], layout: Cifar, split: str) -> list[Path]:
    """Return the files of a split in the first folder that has them, in the order of their numbers."""
    pattern = layout.train if split == "train" else layout.test
    for base in bases:
        apart = [base.with_name(layout.test_folder) if base.name == layout.folder else base / layout.test_folder]
        for folder in (base, *(apart if split == "eval" else []), base / layout.folder):
            files = [file for file in folder.glob(pattern) if file.is_file()]
            if files:
                return sorted(files, key=lambda file: (len(file.name), file.name))
    return []


def _find_or_get(config: Config, layout: Cifar, split: str) -> list[Path]:
    bases = _bases(config, split)
    if not bases:
        raise UserError(f"data_dir: empty; give the folder of {layout.title} ({layout.expected}).")
    homes = [base.parent if base.name == layout.folder else base for base in bases]
    files = _find(bases, layout, split)
    for file in dict.fromkeys(home / layout.archive for home in [*bases, *homes]):
        busy = in_progress(marker_of(file, file.parent))
        if file.is_file() and (busy or not files):
            unpack_once(file, file.parent)
            files = _find(bases, layout, split)
    if not files:
        _refuse_other_kinds(bases, layout)
    if not files and config.download:
        _fetch(homes[-1] / layout.archive, layout)
        files = _find(bases, layout, split)
    if not files:
        where = " or ".join(dict.fromkeys(str(base) for base in bases))
        markers = [marker_of(home / layout.archive, home) for home in homes]
        where += "".join(f" (though {m} says it was unpacked: delete that file)" for m in markers[:1] if m.exists())
        raise UserError(f"data_dir: {where} lacks the {'training' if split == 'train' else 'test'} files of "
                        f"{layout.title} ({layout.expected}); set download: true, or put them or {layout.archive} from "
                        f"{ADDRESS}/{layout.archive} there (working directory {Path.cwd()}).")
    if split == "eval" and config.eval_dir and Path(config.eval_dir) not in list(files[0].parents)[:2]:
        logger.warning("eval_dir %s has no %s; %s is used", config.eval_dir, layout.test, files[0])
    return files


def _fetch(file: Path, layout: Cifar) -> None:
    url = f"{os.environ.get(ADDRESS_VARIABLE, ADDRESS).rstrip('/')}/{layout.archive}"
    make_folder("data_dir", file.parent)
    once(file, lambda: download(url, file, layout.md5))
    unpack_once(file, file.parent)


def _refuse_other_kinds(bases: list[Path], layout: Cifar) -> None:
    """Say so when a folder holds the other CIFAR, or the version for Python."""
    other = _other(layout)
    for base in bases:
        if _find([base], other, "train") or _find([base], other, "eval"):
            raise UserError(f"dataset: {layout.key}, but {base} holds {other.title} ({other.expected}); set dataset: "
                            f"{other.key}, or give the folder of {layout.title}.")
        if any((folder / name).is_file() for folder in (base, base / "cifar-10-batches-py", base / "cifar-100-python")
               for name in ("data_batch_1", "train", "test_batch", "test", "batches.meta", "meta")):
            raise UserError(f"data_dir: {base} holds the Python version of CIFAR; the binary version is needed, "
                            f"{layout.archive} from {ADDRESS}/{layout.archive}, which download: true fetches.")


def _other(layout: Cifar) -> Cifar:
    return CIFAR100 if layout.key == CIFAR10.key else CIFAR10


def _class_names(config: Config, layout: Cifar) -> list[str]:
    """Return the names in the file beside the records, of either split, or the numbers of the classes."""
    bases = _bases(config, "eval")[::-1]
    for base in bases:
        for folder in (base, base / layout.folder):
            file = folder / layout.class_names
            if file.is_file():
                names = [line.strip() for line in file.read_text(encoding="utf-8", errors="replace").splitlines()]
                return [name for name in names if name]
    return [str(number) for number in range(layout.classes)]


def _read(file: Path, layout: Cifar, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Read one file: images uint8 (n, 32, 32, 3) and labels int32 (n,)."""
    try:
        content = np.fromfile(file, np.uint8)
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}.") from error
    if content.size == 0 or content.size % layout.record:
        other = _other(layout)
        hint = (f"; it looks like {other.title}, so set dataset: {other.key}"
                if content.size and content.size % other.record == 0 else f"; fetch {layout.archive} again")
        raise UserError(f"{file} has {content.size} bytes, which is no whole number of records of {layout.title} "
                        f"({layout.record} bytes each){hint}.")
    records = content.reshape(-1, layout.record)
    labels = records[:, layout.label_bytes - 1].astype(np.int32)
    wrong = np.flatnonzero(labels >= classes)
    if wrong.size:
        raise UserError(f"{file} is no file of {layout.title}: record {wrong[0]} has the label {labels[wrong[0]]}, but "
                        f"there are {classes} classes.")
    planes = records[:, layout.label_bytes:].reshape(-1, 3, 32, 32)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels
