"""Copies between local folders and the storage of a cloud. Imports no MindSpore.

``moxing`` (for obs:// and s3://) and ``c2net`` (OpenI) exist on the cloud's machines only, and are imported only when
an address or the environment asks for them.

Sources: MoXing developer guide (mox.file.exists, is_directory, copy, copy_parallel); c2net 0.2.0 (variables);
OpenI's training guide (multi_data_url and pretrain_url are JSON lists).
"""
import contextlib
import json
import logging
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any, Iterator, Mapping

from common.errors import UserError

REMOTE = ("obs://", "s3://")
C2NET = ("DATA_DOWNLOAD_METHOD", "LOCAL_DATASET_PATH")  # set where c2net is to be used

logger = logging.getLogger(__name__)


def is_remote(address: str) -> bool:
    """Whether an address is one of the cloud's storage."""
    return address.lower().startswith(REMOTE)


def has_c2net(environment: Mapping[str, str]) -> bool:
    """Whether OpenI started this process in the way that goes with its package c2net."""
    return all(environment.get(name) for name in C2NET)


def on_cloud(values: Mapping[str, Any], environment: Mapping[str, str]) -> bool:
    """Whether a run is on a cloud although it does not say so with ``enable_modelarts``: so does OpenI start it."""
    named = [value for key in ("data_url", "train_url", "checkpoint_url", "multi_data_url")
             for value, _ in sources(key, str(values.get(key) or ""))]
    return any(map(is_remote, named)) or has_c2net(environment)


def sources(key: str, text: str) -> list[tuple[str, str]]:
    """Return address and name of what a key lists: one address, or OpenI's JSON, ``[{"dataset_url": ..., ...}]``.

    Raises:
        UserError: if it is neither.
    """
    text = text.strip()
    if not text.startswith(("[", "{")):
        return [(text, "")] if text else []
    try:
        entries = json.loads(text)
        found = []
        for entry in entries if isinstance(entries, list) else [entries]:
            fields = {"url": entry} if isinstance(entry, str) else {name.rsplit("_", 1)[-1]: value
                                                                   for name, value in entry.items()}
            found.append((str(fields["url"]), Path(str(fields.get("name", ""))).name))
        return found
    except (ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{key}: {text!r} is neither an address nor a JSON list such as "
                        '[{"dataset_url": "obs://bucket/a.zip", "dataset_name": "a.zip"}].') from error


def base_name(address: str) -> str:
    """Return the last part of an address."""
    return address.rstrip("/").rsplit("/", 1)[-1]


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


def make_folder(key: str, folder: Path) -> None:
    """Make a folder, or raise a UserError that names the key."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{key}: {folder} cannot be made a folder ({error.strerror}); give another one.") from error


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
