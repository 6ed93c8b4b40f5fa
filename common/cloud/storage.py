"""Copies between local folders and the storage of a cloud. Imports no MindSpore.

``moxing`` (for obs:// and s3://) and ``c2net`` (OpenI) exist on the cloud's machines only, and are imported only when
an address or the environment asks for them.

Sources: MoXing developer guide (mox.file.exists, is_directory, copy, copy_parallel); c2net 0.2.0 (variables);
OpenI's training guide (multi_data_url and pretrain_url are JSON lists).
"""
import contextlib
import logging
import shutil
from pathlib import Path
from types import ModuleType
from typing import Iterator

from common.config.addresses import REMOTE, base_name, is_remote
from common.errors import UserError

logger = logging.getLogger(__name__)


def bring(key: str, source: str, folder: Path, name: str = "") -> None:
    """Copy a file into ``folder``, or the contents of a folder; under ``name`` if that is given.

    Args:
        key: the key of the configuration, for messages.
        source: an address, or a local path.
        folder: is there.
        name: of the file, or of a folder in ``folder``.

    Raises:
        UserError: if the source does not exist, or cannot be copied.
    """
    file = folder / (name or base_name(source))
    if is_remote(source):
        storage = optional("moxing", key, source).file
        with failing(key, source, str(folder)):
            if not storage.exists(source):
                raise UserError(f"{key}: {source} does not exist, or may not be read.")
            if storage.is_directory(source):
                storage.copy_parallel(source, str(folder / name))
            else:
                storage.copy(source, str(file))
        return
    check_local(key, source)
    target = folder / name if Path(source).is_dir() else file
    if Path(source).resolve() != target.resolve():
        with failing(key, source, str(folder)):
            _copy(key, Path(source), target)


def check_local(key: str, path: str) -> None:
    """Raise a UserError if there is nothing at a local path."""
    if not Path(path).exists():
        raise UserError(f"{key}: {path} does not exist (working directory {Path.cwd()}); an address in the cloud "
                        f"begins with {' or '.join(REMOTE)}.")


def send(folder: Path, address: str) -> None:
    """Copy the contents of a folder of results to ``address``.

    Raises:
        UserError: if they cannot be copied.
    """
    logger.info("train_url: %s is sent to %s", folder, address)
    with failing("train_url", str(folder), address):
        if is_remote(address):
            optional("moxing", "train_url", address).file.copy_parallel(str(folder), address)
        elif Path(address).resolve() != folder.resolve():
            _copy("train_url", folder, Path(address))
    logger.info("train_url: %s has been sent", folder)


def _copy(key: str, source: Path, target: Path) -> None:
    """Copy a local file, or the contents of a folder without what is hidden: locks, markers, unfinished files."""
    if source.is_file():
        shutil.copyfile(source, target)
        return
    if target.resolve().is_relative_to(source.resolve()):
        raise UserError(f"{key}: {target} lies in {source}, which would be copied into itself; give another folder.")
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(".*"), dirs_exist_ok=True)


def optional(name: str, key: str, address: str) -> ModuleType:
    """Import ``moxing``, or ``c2net.context``, which only the cloud's machines have.

    Raises:
        UserError: if it is not there.
    """
    try:
        if name == "moxing":
            import moxing
            return moxing
        from c2net import context
        return context
    except ImportError as error:
        raise UserError(f"{key}: {address} needs the package {name}, which is on the machines of the cloud only; "
                        "elsewhere give local folders, or --enable_modelarts False.") from error


@contextlib.contextmanager
def failing(key: str, source: str, target: str) -> Iterator[None]:
    """Turn what goes wrong while copying into a sentence. The cloud's packages declare no exceptions of their own."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = error.args[0][0][2] if isinstance(error, shutil.Error) else getattr(error, "strerror", None) or error
        text = (str(reason) or type(error).__name__).splitlines()[0]
        raise UserError(f"{key}: {source} could not be copied to {target}: {text}") from error
