"""What a cloud delivers as archives becomes the folders that the readers know. Imports no MindSpore."""
import logging
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Sequence

from common.config.datasets import CIFAR10, CIFAR100
from common.dataset.archive import marker_of, unpack_once
from common.dataset.once import in_progress, once
from common.dataset.sources import EVAL_FOLDERS, TRAIN_FOLDERS
from common.errors import UserError, reason

_TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_CIFAR = [name for one in (CIFAR10, CIFAR100) for name in (one.folder, one.test)]

logger = logging.getLogger(__name__)


def unpack_archives(folder: Path, task: str, *, own_folders: bool = False) -> None:
    """Unpack the archives at the top of ``folder``, once; those in ``train/`` and ``val/`` are left to the readers.

    Args:
        folder: where the data was fetched to.
        task: an evaluation needs no training images, and leaves them packed.
        own_folders: an archive's contents go into a folder with its name, as OpenI does it, and not beside it. In both
            cases those of an archive for training or evaluation, by its name, go into ``train/`` or ``val/``.

    Raises:
        UserError: if an archive is damaged, or holds anything but files and folders below its top.
    """
    for file in sorted(folder.iterdir()):
        ending = next((end for end in (*_TARS, ".zip") if file.name.lower().endswith(end)), None)
        if ending is None or file.name.startswith(".") or not file.is_file():
            continue
        splits = [names[0] for names in (TRAIN_FOLDERS, EVAL_FOLDERS) if any(n in file.name.lower() for n in names)]
        split = splits[0] if len(splits) == 1 else None
        if split == TRAIN_FOLDERS[0] and task == "eval":
            continue
        target = folder / split if split else folder / file.name[:-len(ending)] if own_folders else folder
        begun = marker_of(file, target).exists() or in_progress(marker_of(file, target))
        if split and target.is_dir() and not begun:
            continue  # delivered unpacked too
        target.mkdir(exist_ok=True)
        if ending == ".zip":
            once(marker_of(file, target), lambda: _unzip(file, target))
        else:
            unpack_once(file, target, class_folders=split is not None)


def _unzip(file: Path, folder: Path) -> None:
    """Unpack a .zip file, and refuse one that reaches out of ``folder``; links in it become plain files."""
    logger.info("Unpacking %s into %s", file, folder)
    try:
        with zipfile.ZipFile(file) as content:
            for name in content.namelist():
                if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name:
                    raise UserError(f"{file} is refused: its member '{name}' lies outside of the archive.")
            content.extractall(folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise UserError(f"{file} is damaged, or no .zip file that can be read ({reason(error)}); fetch it "
                        "again.") from error
    except OSError as error:
        raise UserError(f"{file} could not be unpacked into {folder}: {error.strerror or error}.") from error


def data_root(folder: Path) -> Path:
    """Return the folder that the readers want: ``folder``, or the one below it where an archive has a top folder."""
    chain = [folder]
    while len(chain) < 4 and len(inside := _subfolders(chain[-1])) == 1:
        chain += inside

    def having(*groups: Sequence[str]) -> list[Path]:
        return [path for path in chain if all(any((path / name).exists() for name in names) for names in groups)]

    return (having(TRAIN_FOLDERS, EVAL_FOLDERS) + having([*TRAIN_FOLDERS, *EVAL_FOLDERS, *_CIFAR]) + [folder])[0]


def _subfolders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
