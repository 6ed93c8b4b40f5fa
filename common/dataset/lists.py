"""Lists of images: JSON, CSV and TXT files. Imports no MindSpore."""
import csv
import io
import json
import os
import re
from pathlib import Path
from typing import Any, Callable

from common.config.options import Config
from common.dataset.samples import FileSamples
from common.errors import UserError


def _json(text: str) -> Any:
    content = json.loads(text)
    return list(content.items()) if isinstance(content, dict) else content


def _csv(text: str) -> list:
    rows = [row for row in csv.reader(io.StringIO(text), strict=True) if row]
    if rows and [field.strip().lower() for field in rows[0]] in (["path"], ["path", "label"]):
        rows = rows[1:]
    return [row[0] if len(row) == 1 else [row[0], *map(_number, row[1:])] for row in rows]


def _txt(text: str) -> list:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    found = [re.fullmatch(r"(.*\S)\s+(\d+)", line) for line in lines]
    return [[match[1], int(match[2])] if match else line for match, line in zip(found, lines)]


def _number(text: str) -> str | int:
    return int(text) if re.fullmatch(r"\s*-?\d+\s*", text) else text.strip()


LISTS: dict[str, Callable[[str], Any]] = {".json": _json, ".csv": _csv, ".txt": _txt}  # ending -> list of entries


def read_list(config: Config, file: Path, folder: Path) -> FileSamples:
    """Read a list of images.

    JSON: ``["a/b.jpg", ...]``, ``[["a/b.jpg", label], ...]`` or ``{"a/b.jpg": label, ...}``. CSV: a line per image,
    ``a/b.jpg,label`` or ``a/b.jpg``; a first line ``path,label`` is a heading. TXT: ``a/b.jpg label`` with a whole
    number, as in the lists of Caffe, or ``a/b.jpg``.

    A label is a number, or the name of a class; without one it is the first folder of the path. Numbers need not use
    all of the ``num_classes`` that were given.
    """
    if not file.is_absolute() and not file.is_file() and (folder / file).is_file():
        file = folder / file
    try:
        entries = LISTS[file.suffix.lower()](file.read_text(encoding="utf-8-sig"))
    except KeyError:
        raise UserError(f"img_ids: {file} must end in {', '.join(LISTS)}.") from None
    except OSError as error:
        places = " and in ".join(dict.fromkeys(map(str, (Path.cwd(), folder.resolve()))))
        raise UserError(f"img_ids: {file} cannot be read ({error.strerror}); looked in {places}.") from error
    except (ValueError, csv.Error) as error:
        raise UserError(f"img_ids: {file} is no {file.suffix[1:].upper()} file ({error}).") from error
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
