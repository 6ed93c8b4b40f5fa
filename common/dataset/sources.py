"""Where the images of a run come from: class folders, CIFAR's binary files, the digits, a list of images,
or shards.

``open_samples`` finds the data of a split and returns ``Samples``, which load one image after the other by its index.
Imports no MindSpore.
"""
import logging
import os
from pathlib import Path
from typing import Sequence

import numpy as np

from common.config.datasets import DATASETS, is_cifar
from common.config.options import Config
from common.config.origins import is_asked, place_of
from common.dataset.archive import marker_of, unpack_once
from common.dataset.cache import Cache
from common.dataset.cifar import read_cifar
from common.dataset.classes import check_classes, check_same_classes, load_classes, save_classes
from common.dataset.digits import CLASSES as DIGITS, load_digits
from common.dataset.images import EXTENSIONS, load_image, reading_of
from common.dataset.lists import LISTS, read_list
from common.dataset.once import in_progress
from common.dataset.samples import ArraySamples, EncodedSamples, FileSamples, Samples
from common.dataset.shard_samples import is_sharded, open_shards
from common.errors import UserError
from common.logger import Waiting

__all__ = ["ArraySamples", "EXTENSIONS", "FileSamples", "Samples", "check_classes", "check_same_classes",
           "load_classes", "load_image", "open_samples", "save_classes"]

logger = logging.getLogger(__name__)

TRAIN_FOLDERS, EVAL_FOLDERS = ("train",), ("val", "validation", "valid", "test")


def open_samples(config: Config, split: str) -> Samples:
    """Find the images of a split; archives that lie there are unpacked, CIFAR is fetched where ``download`` says so.

    Args:
        config: dataset, data_dir, eval_dir, img_ids, download, task, exif, max_image_pixels and the data_cache keys.
        split: ``train`` or ``eval``.

    Raises:
        UserError: if there is nothing, or something else than expected.
    """
    samples = _find(config, split)
    if isinstance(samples, EncodedSamples):
        samples.reading = reading_of(config)
        if config.data_cache:
            samples.cache = Cache(config.data_cache, config.data_cache_gb, config.data_cache_form == "decoded")
    return samples


def _find(config: Config, split: str) -> Samples:
    if config.dataset == "digits":
        images, labels = load_digits(split)
        return ArraySamples("digits", DIGITS, labels, images, [(f"digits ({split})", len(labels))])
    if is_cifar(config.dataset):
        found = read_cifar(config, split)
        return ArraySamples(DATASETS[config.dataset].title, found.classes, found.labels, found.images, found.sources)
    if split == "train" and config.img_ids:
        places = [Path(folder) / config.img_ids for folder in (".", config.data_dir)]
        if is_asked(config, "img_ids") or any(place.is_file() for place in places):
            return read_list(config, Path(config.img_ids), Path(config.data_dir))
        logger.warning("img_ids: there is no %s (%s); all images of %s are used", config.img_ids,
                       place_of(config, "img_ids"), config.data_dir)
    elif split == "train" and config.dataset == "list":
        raise UserError("dataset: list needs img_ids: the file that lists the images.")
    if split == "eval" and Path(config.eval_dir).suffix.lower() in LISTS:
        return read_list(config, Path(config.eval_dir), Path(config.data_dir))
    folder = _split_folder(config, split)
    if is_sharded(folder):
        return open_shards(folder)
    samples = read_folder(folder, split, unlabelled=config.task == "pretrain")
    return _set_aside(samples, config, split) if _shares_images(config) else samples


def _shares_images(config: Config) -> bool:
    """Whether one folder holds the images of the training and those of the evaluation."""
    return bool(config.val_share) and not config.eval_dir and not any((Path(config.data_dir) / name).is_dir()
                                                                      for name in EVAL_FOLDERS)


def _set_aside(samples: FileSamples, config: Config, split: str) -> FileSamples:
    """Return one of the two parts of a folder: in the order of their names, every so many images of a class are for
    the evaluation, and at least one of two."""
    kept = np.zeros(len(samples), bool)
    for label in range(len(samples.classes)):
        of_class = np.flatnonzero(samples.labels == label)
        numbers = np.floor(np.arange(len(of_class) + 1) * config.val_share + 1e-9)
        evaluated = np.diff(numbers) > 0
        if len(of_class) > 1 and not evaluated.any():
            evaluated[-1] = True
        kept[of_class] = evaluated == (split == "eval")
    if split == "eval":
        logger.warning("data_dir: %s has no val/: %d of its %d images are for the evaluation and not trained on, %g %% "
                       "of every class (val_share).", config.data_dir, kept.sum(), len(kept), 100 * config.val_share)
    return FileSamples(samples.name, samples.classes, samples.labels[kept], Path(samples.folder),
                       [file for file, keep in zip(map(os.fsdecode, samples.files), kept) if keep])


def _split_folder(config: Config, split: str) -> Path:
    """Return the folder of the class folders of a split."""
    key = "eval_dir" if split == "eval" and config.eval_dir else "data_dir"
    root = Path(getattr(config, key))
    if not getattr(config, key):
        raise UserError("data_dir: empty; give the folder of the images, with train/ and val/ in it.")
    if not root.is_dir():
        raise UserError(f"{key}: {root} is no folder (working directory {Path.cwd()}).")
    names = TRAIN_FOLDERS if split == "train" else EVAL_FOLDERS
    _unpack_at_root(root, names)
    for name in names:
        if (root / name).is_dir():
            return root / name
    if split == "train" and not any((root / name).is_dir() for name in EVAL_FOLDERS) or key == "eval_dir":
        return root
    if split == "eval" and _shares_images(config):
        return next((root / name for name in TRAIN_FOLDERS if (root / name).is_dir()), root)
    if split == "eval" and config.task == "eval" and not any((root / name).is_dir() for name in TRAIN_FOLDERS):
        return root  # evaluation alone: the folder that the user named is what he means
    others = ", ".join(f"{name}/" for name in names)
    raise UserError(f"data_dir: {root} has no folder for {'training' if split == 'train' else 'evaluation'} ({others})"
                    + ("." if split == "train" else "; set eval_dir, or val_while_train: false to train without, "
                       "or val_share: 0.2 to set a fifth of the images aside."))


def _archives(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir()
                  if file.name.lower().endswith((".tar", ".tar.gz", ".tgz")) and not file.name.startswith("."))


def _unpack_at_root(root: Path, names: Sequence[str]) -> None:
    """Unpack ``imagenet_train.tar`` and the like beside which there is no ``train/`` yet."""
    if set(_class_folders(root)) - {*TRAIN_FOLDERS, *EVAL_FOLDERS}:
        return  # these are class folders, and what belongs to them has been unpacked here
    folder = next((root / name for name in names if (root / name).is_dir()), root / names[0])
    for file in _archives(root):
        if any(name in file.name.lower() for name in names):
            busy = in_progress(marker_of(file, folder))
            if busy or not folder.is_dir():
                try:
                    folder.mkdir(exist_ok=True)
                except OSError as error:
                    raise UserError(f"{folder} cannot be made a folder: {error.strerror}.") from error
                unpack_once(file, folder, class_folders=True)


def _class_folders(folder: Path) -> list[str]:
    """Return the names of the class folders, sorted: the order of the labels."""
    return sorted(entry.name for entry in os.scandir(folder)
                  if entry.is_dir() and not entry.name.startswith((".", "__MACOSX")))


def read_folder(folder: Path, split: str, unlabelled: bool = False) -> FileSamples:
    """Read a folder of class folders. Other files are ignored; archives are unpacked where there are no folders.

    Without labels the images may also lie in the folder itself.
    """
    classes = _class_folders(folder)
    archives = _archives(folder)
    markers = [marker_of(file, folder) for file in archives]
    if not classes or any(marker.exists() or in_progress(marker) for marker in markers):
        for file in archives:  # those with a marker are skipped; there is one archive per class, or one for all
            unpack_once(file, folder, class_folders=True)
        classes = _class_folders(folder)
    while len(classes) == 1 and not any(map(_is_image, os.listdir(folder / classes[0]))) and _class_folders(
            folder / classes[0]):
        folder, classes = folder / classes[0], _class_folders(folder / classes[0])  # an archive's own top folder
    if unlabelled and not classes and any(map(_is_image, os.listdir(folder))):
        classes = ["."]
    files: list[str] = []
    labels: list[int] = []
    empty = []
    with Waiting(lambda: f"Counting the images in {folder}, {len(files)} so far"):
        for label, name in enumerate(classes):
            found = _images_below(folder, name)
            files += found
            labels += [label] * len(found)
            if not found:
                empty.append(name)
    wanted = f"images ({', '.join(EXTENSIONS)})"
    if not classes:
        loose = sum(map(_is_image, os.listdir(folder)))
        again = "".join(f" (delete {marker} to unpack again)" for marker in markers[:1])
        raise UserError(f"{folder} holds {f'{loose} images, but ' if loose else ''}no class folders{again}; it should "
                        f"hold one folder per class with {wanted} in it.")
    if not files:
        raise UserError(f"{folder} has {len(classes)} class folders, but no {wanted} in them.")
    if empty and split == "train":
        raise UserError(f"{folder} has class folders without {wanted}: {', '.join(empty[:5])}"
                        f"{' and others' if len(empty) > 5 else ''}; fill or remove them.")
    name = folder.parent.name if folder.name in TRAIN_FOLDERS + EVAL_FOLDERS else folder.name
    return FileSamples(name, classes, labels, folder, files)


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def _images_below(folder: Path, name: str) -> list[str]:
    """Return the images in a class folder and below it, relative to ``folder``, in a fixed order."""
    found = []
    for path, folders, files in os.walk(folder / name, followlinks=True):
        folders.sort()
        inside = os.path.relpath(path, folder)
        found += [os.path.join(inside, file) for file in sorted(files) if _is_image(file)]
    return found
