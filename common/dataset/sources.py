"""Where the images of a run come from: class folders, CIFAR's binary files, the digits, or a JSON list of images.

``open_samples`` finds the data of a split and returns ``Samples``, which load one image after the other by its index.
Imports no MindSpore.
"""
import json
import os
from pathlib import Path
from typing import Any, Sequence

from common.config.datasets import DATASETS, is_cifar
from common.config.options import Config
from common.dataset.archive import marker_of, unpack_once
from common.dataset.cifar import read_cifar
from common.dataset.classes import check_classes, check_same_classes, load_classes, save_classes
from common.dataset.digits import CLASSES as DIGITS, load_digits
from common.dataset.images import EXTENSIONS, load_image
from common.dataset.once import in_progress
from common.dataset.samples import ArraySamples, FileSamples, Samples
from common.errors import UserError

__all__ = ["ArraySamples", "EXTENSIONS", "FileSamples", "Samples", "check_classes", "check_same_classes",
           "load_classes", "load_image", "open_samples", "save_classes"]

TRAIN_FOLDERS, EVAL_FOLDERS = ("train",), ("val", "validation", "valid", "test")


def open_samples(config: Config, split: str) -> Samples:
    """Find the images of a split; archives that lie there are unpacked, CIFAR is fetched where ``download`` says so.

    Args:
        config: dataset, data_dir, eval_dir, img_ids, download, task.
        split: ``train`` or ``eval``.

    Raises:
        UserError: if there is nothing, or something else than expected.
    """
    if config.dataset == "digits":
        images, labels = load_digits(split)
        return ArraySamples("digits", DIGITS, labels, images, [(f"digits ({split})", len(labels))])
    if is_cifar(config.dataset):
        found = read_cifar(config, split)
        return ArraySamples(DATASETS[config.dataset].title, found.classes, found.labels, found.images, found.sources)
    if split == "train" and config.img_ids:
        return _read_list(config, Path(config.img_ids), Path(config.data_dir))
    if split == "train" and config.dataset == "list":
        raise UserError("dataset: list needs img_ids: the JSON file that lists the images.")
    if split == "eval" and config.eval_dir.lower().endswith(".json"):
        return _read_list(config, Path(config.eval_dir), Path(config.data_dir))
    return _read_folder(_split_folder(config, split), split, unlabelled=config.task == "pretrain")


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
    if split == "eval" and config.task == "eval" and not any((root / name).is_dir() for name in TRAIN_FOLDERS):
        return root  # evaluation alone: the folder that the user named is what he means
    others = ", ".join(f"{name}/" for name in names)
    raise UserError(f"data_dir: {root} has no folder for {'training' if split == 'train' else 'evaluation'} ({others})"
                    + ("." if split == "train" else "; set eval_dir, or val_while_train: false to train without."))


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


def _read_folder(folder: Path, split: str, unlabelled: bool = False) -> FileSamples:
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


def _read_list(config: Config, file: Path, folder: Path) -> FileSamples:
    """Read a JSON list: ``["a/b.jpg", ...]``, ``[["a/b.jpg", label], ...]`` or ``{"a/b.jpg": label, ...}``.

    A label is a number, or the name of a class; without one it is the first folder of the path. Numbers need not use
    all of the ``num_classes`` that were given.
    """
    if not file.is_absolute() and not file.is_file() and (folder / file).is_file():
        file = folder / file
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"img_ids: {file} cannot be read ({error.strerror}); looked in {Path.cwd()} and in "
                        f"{folder}.") from error
    except ValueError as error:
        raise UserError(f"img_ids: {file} is no JSON file ({error}).") from error
    entries = list(content.items()) if isinstance(content, dict) else content
    if not isinstance(entries, list) or not entries:
        raise UserError(f"img_ids: {file} lists no images; allowed: a list of paths, a list of [path, label], or a "
                        "table {path: label}.")
    paths, labels = zip(*(_entry(entry, number, file) for number, entry in enumerate(entries)))
    first = os.path.join(folder, paths[0])
    if not os.path.exists(first):
        raise UserError(f"img_ids: the first image of {file}, {paths[0]}, is not in {folder}; paths are relative to "
                        "data_dir.")
    if all(isinstance(label, int) for label in labels):
        if min(labels) < 0:
            raise UserError(f"img_ids: {file} has the label {min(labels)}; labels begin at 0.")
        count = max(max(labels) + 1, config.num_classes if "num_classes" in config.given else 0)
        return FileSamples(file.stem, [str(n) for n in range(count)], labels, folder, paths)
    if "" in labels and config.task != "pretrain":
        raise UserError(f"img_ids: {file} has no label for {paths[labels.index('')]}; give [path, label], or put the "
                        "image into a folder named like its class.")
    classes = sorted(set(map(str, labels)))
    number = {name: index for index, name in enumerate(classes)}
    return FileSamples(file.stem, classes, [number[str(label)] for label in labels], folder, paths)


def _entry(entry: Any, number: int, file: Path) -> tuple[str, str | int]:
    """Return path and label of one entry of a list."""
    if isinstance(entry, str):
        return entry, Path(entry).parts[0] if len(Path(entry).parts) > 1 else ""
    if (isinstance(entry, (list, tuple)) and len(entry) == 2 and isinstance(entry[0], str)
            and isinstance(entry[1], (str, int)) and not isinstance(entry[1], bool)):
        return entry[0], entry[1]
    raise UserError(f"img_ids: entry {number} of {file} is {entry!r}; allowed: a path, or [path, label].")
