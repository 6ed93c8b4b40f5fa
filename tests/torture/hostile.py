"""Files of every kind that a program here reads, and what a broken disk or a malicious hand makes of them."""
import functools
import io
import json
import random
import tarfile
from pathlib import Path
from typing import Any, Callable, NamedTuple

import numpy as np
from entry import ROOT
from PIL import Image
from safetensors.numpy import save

from common.checkpoint.foreign import read
from common.config.load import from_file, from_mapping
from common.dataset.archive import unpack_once
from common.dataset.classes import load_classes, read_class_names
from common.dataset.images import load_image
from common.dataset.jpeg import open_picture
from common.dataset.lists import read_list
from common.export.description import read_description
from common.rank_table.table import read_rank_table
from common.run.history import read_history
from common.spec import all_specs

TABLE = {"version": "1.0", "server_count": "1", "status": "completed", "server_list": [
    {"server_id": "10.0.0.1", "device": [{"device_id": str(n), "device_ip": f"192.1.0.{n + 1}", "rank_id": str(n)}
                                         for n in range(8)]}]}
DESCRIPTION = {"input": {"name": "x", "shape": [1, 3, 8, 8]}, "class_names": ["a", "b"],
               "preprocessing": {"image_size": 8, "in_channels": 3, "mean": [0.5] * 3, "std": [0.2] * 3}}


STRANGE = [b"[" * 3000, b"{" * 3000, b"9" * 5000, b"-", b"\0", b"1e999", b"null", b'"', b"\n", b"\xed\xa0\x80", b"../../",
           b"!!python/object:os.system "]


class Kind(NamedTuple):
    """A kind of file: its name, a good one, and who reads it."""

    name: str
    content: bytes
    reads: Callable[[Path], Any]


def image(form: str) -> bytes:
    noise = np.random.default_rng(3).integers(0, 255, (24, 32, 3), np.uint8)
    file = io.BytesIO()
    turned = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0"
    Image.fromarray(noise).save(file, form, **({"exif": turned} if form == "JPEG" else {}))
    return file.getvalue()


def archive(mode: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as tar:
        for number in range(5):
            member = tarfile.TarInfo(f"class{number % 2}/{number}.png")
            member.size = 600
            tar.addfile(member, io.BytesIO(bytes(range(200)) * 3))
    return file.getvalue()


def kinds() -> list[Kind]:
    """Return all kinds but checkpoints of this zoo, whose every change must be noticed."""
    torch = ROOT / "tests" / "data" / "torch"
    found = [Kind(f"{name}.pth", (torch / f"{name}.pth").read_bytes(), read)
             for name in ("timm", "swin", "legacy", "half")]
    found += [Kind(f"{form}.{form.lower()}", image(form), look) for form in ("JPEG", "PNG", "WEBP", "BMP")]
    found += [Kind(f"a{ending}", archive(mode), unpack)
              for ending, mode in ((".tar", "w"), (".tar.gz", "w:gz"), (".tar.xz", "w:xz"))]
    found += [Kind(f"{spec.name}.yaml", (ROOT / spec.name / spec.default_configs["train"]).read_bytes(),
                   functools.partial(from_file, spec=spec)) for spec in all_specs()]
    history = [{"epoch": epoch, "loss": 1 / epoch, "lr": 0.1, "top1": 0.5, "epoch_time": 1.0} for epoch in range(1, 9)]
    lines = "".join(json.dumps(row) + "\n" for row in history)
    return found + [
        Kind("w.safetensors", save({"a": np.ones((3, 4), np.float32), "b": np.zeros(5, np.float16)}), read),
        Kind("table.json", json.dumps(TABLE, indent=1).encode(), read_rank_table),
        Kind("net.mindir.json", json.dumps(DESCRIPTION).encode(), description),
        Kind("classes.json", json.dumps(["cat", "dog"]).encode(), load_classes),
        Kind("names.txt", "cat\ndog\n\u5c0f\u732b\n".encode(), read_class_names),
        Kind("list.csv", b"path,label\na.png,cat\nb.png,dog\n", image_list),
        Kind("list.txt", b"a.png 0\nb.png 1\n", image_list),
        Kind("list.json", b'[["a.png", 0], ["b.png", 1]]', image_list),
        Kind("history.jsonl", lines.encode(), read_history),
    ]


def look(path: Path) -> None:
    """Open an image in both ways, and draw it smaller as a training does."""
    load_image(path)
    open_picture(path.read_bytes(), path.name)


def description(path: Path) -> None:
    from_mapping(read_description(path.with_suffix(""))["preprocessing"], str(path))


def unpack(path: Path) -> None:
    (path.parent / "unpacked").mkdir()
    unpack_once(path, path.parent / "unpacked", class_folders=True)


def image_list(path: Path) -> None:
    for name in ("a.png", "b.png"):
        (path.parent / name).touch()
    read_list(from_mapping({"img_ids": str(path), "data_dir": str(path.parent)}, "the test"), path, path.parent)


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Return bytes that differ from ``content`` in a way that disks, networks and hands bring about."""
    size, how = len(content), rng.randrange(8)
    place = rng.randrange(size)
    length = rng.randrange(1, min(64, size) + 1)
    changed = {
        0: lambda: content[:place],
        1: lambda: content[:place] + bytes([content[place] ^ (1 << rng.randrange(8))]) + content[place + 1:],
        2: lambda: content[:place] + bytes(length) + content[place + length:],
        3: lambda: content[:place] + rng.randbytes(length) + content[place + length:],
        4: lambda: content[:place] + content[place + length:],
        5: lambda: content[:place] + b"\xff" * min(length, 8) + content[place + min(length, 8):],
        6: lambda: content[:place] + content[max(0, place - 300):place] * rng.randrange(1, 30) + content[place:],
        7: lambda: content[:place] + rng.choice(STRANGE) + content[place:],
    }[how]()
    return changed if changed != content else content[:-1]
