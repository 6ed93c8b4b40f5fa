"""Archives of data sets: fetched with a checksum, unpacked safely, and once, however many processes start together.

Everything is made under another name first and renamed when it is whole, so that an interruption leaves nothing that
looks finished.
"""
import hashlib
import http.client
import logging
import os
import shutil
import tarfile
import urllib.error
import urllib.request
import zlib
from pathlib import Path

from tqdm import tqdm

from common.dataset.once import once
from common.errors import UserError
from common.logger import Waiting

_CHUNK = 1 << 20
_DEEPEST = 100  # folders in each other
_MOST_TIMES_LARGER = 100  # of what is unpacked, beside its archive: images hardly shrink, and a bomb does by 1,000

logger = logging.getLogger(__name__)


def marker_of(archive: Path, folder: Path) -> Path:
    """The file that says that ``archive`` has been unpacked into ``folder``."""
    return folder / f".{archive.name}.unpacked"


def unpack_once(archive: Path, folder: Path, *, class_folders: bool = False) -> None:
    """Unpack an archive into ``folder``, unless its marker says that this has been done.

    Args:
        archive: .tar, .tar.gz, .tar.bz2 or .tar.xz.
        folder: where its contents go; what is there already stays unless the archive holds it too.
        class_folders: images at the top of the archive go into a folder with the archive's name, and archives inside
            the archive are unpacked in the same way: so is ImageNet delivered.

    Raises:
        UserError: if the archive is damaged, or holds anything but files and folders below its top.
    """
    marker = marker_of(archive, folder)
    once(marker, lambda: _unpack(archive, folder, class_folders))


def _unpack(archive: Path, folder: Path, class_folders: bool) -> None:
    logger.info("Unpacking %s into %s", archive, folder)
    temporary = folder / f".{archive.name}.unpacking"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        extract(archive, temporary)
        if class_folders:
            _sort_into_classes(temporary, archive)
        _merge(temporary, folder)
    except OSError as error:
        raise UserError(f"{archive} could not be unpacked into {folder}: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def extract(archive: Path, folder: Path) -> None:
    """Unpack an archive of files and folders, and refuse one that reaches out of ``folder`` or holds links.

    Raises:
        UserError: naming the archive and the member.
        OSError: if the disk is full, and the like.
    """
    # Pythons from 3.10.12 and 3.11.4 on have the filter; it is what the check below already ensures
    safety = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    try:
        with (open(archive, "rb") as raw,
              Waiting(lambda: f"Unpacking {archive.name}, {raw.tell() / archive.stat().st_size:.0%}"),
              tqdm.wrapattr(raw, "read", total=archive.stat().st_size, desc=archive.name, unit="B",
                             unit_scale=True, leave=False, disable=None) as stream,
              tarfile.open(fileobj=stream, mode="r|*") as tar):
            unpacked, most = 0, _MOST_TIMES_LARGER * archive.stat().st_size
            for member in tar:
                unpacked += member.size
                if unpacked > most:
                    raise UserError(f"{archive} is refused: its contents are more than {_MOST_TIMES_LARGER} times as "
                                    "large as the archive, which images never are.")
                if not _harmless(member):
                    raise UserError(f"{archive} is refused: its member '{member.name[:100]}' is a link, a device, lies "
                                    f"outside of the archive, or below more than {_DEEPEST} folders; a data set has "
                                    "files and folders only.")
                member.mode = 0o755 if member.isdir() else 0o644
                tar.extract(member, folder, set_attrs=False, **safety)
    except (tarfile.TarError, EOFError, TypeError, zlib.error) as error:  # TypeError: half the header of gzip
        raise UserError(f"{archive} is damaged or not a tar archive ({error}); fetch it again.") from error
    except OSError as error:
        if error.errno is None:  # from gzip and bz2, which have no exceptions of their own
            raise UserError(f"{archive} is damaged ({error}); fetch it again.") from error
        raise


def _harmless(member: tarfile.TarInfo) -> bool:
    return ((member.isfile() or member.isdir()) and not os.path.isabs(member.name) and "\\" not in member.name
            and ".." not in member.name.split("/") and member.name.count("/") <= _DEEPEST)


def _sort_into_classes(folder: Path, archive: Path) -> None:
    """Unpack the archives inside; where there are no folders, make one named like the archive."""
    for inner in sorted(folder.rglob("*.tar")):
        target = inner.with_suffix("")
        target.mkdir(exist_ok=True)
        extract(inner, target)
        inner.unlink()
    entries = list(folder.iterdir())
    if not any(entry.is_dir() for entry in entries):
        target = folder / archive.name.split(".")[0]
        target.mkdir()
        for file in entries:
            file.rename(target / file.name)


def _merge(source: Path, target: Path) -> None:
    """Move the contents of one folder into another of the same file system."""
    for entry in source.iterdir():
        there = target / entry.name
        if entry.is_dir() and there.is_dir():
            _merge(entry, there)
        else:
            os.replace(entry, there)


def download(url: str, file: Path, md5: str, *, timeout: float = 60.0) -> None:
    """Fetch a file, check it, and only then give it its name.

    Args:
        url: the address.
        file: where it goes; its folder is made.
        md5: the checksum that it must have, in hexadecimal digits.
        timeout: seconds without any data after which the server counts as gone.

    Raises:
        UserError: if the address does not answer, breaks off, or sends something else.
    """
    by_hand = f"fetch it by hand and put it at {file}"
    part = file.with_name(f".{file.name}.part")
    digest = hashlib.md5(usedforsecurity=False)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(url, timeout=timeout) as answer, open(part, "wb") as output:
            total = int(answer.headers.get("Content-Length") or 0) or None
            with (Waiting(lambda: f"Fetching {file.name}, {output.tell() >> 20} MB"),
                  tqdm(total=total, unit="B", unit_scale=True, desc=file.name, leave=False, disable=None) as bar):
                while chunk := answer.read(_CHUNK):
                    output.write(chunk)
                    digest.update(chunk)
                    bar.update(len(chunk))
            received = output.tell()
        if total is not None and received < total:
            raise UserError(f"{url} broke off after {received} of {total} bytes; try again, or {by_hand}.")
        if digest.hexdigest() != md5:
            raise UserError(f"{url} sent another file than expected (MD5 {digest.hexdigest()} instead of {md5}); try "
                            f"again, or {by_hand}.")
        os.replace(part, file)
    except urllib.error.HTTPError as error:
        raise UserError(f"{url} answered {error.code} ({error.reason}); {by_hand}.") from error
    except (urllib.error.URLError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{url} could not be fetched ({getattr(error, 'reason', error)}); {by_hand}.") from error
    except OSError as error:
        raise UserError(f"{url} could not be fetched into {file.parent} ({error.strerror or error}); "
                        f"{by_hand}.") from error
    finally:
        part.unlink(missing_ok=True)
