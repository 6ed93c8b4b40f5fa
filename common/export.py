"""A network as a file that runs without its code, compared with the network before anybody gets to see it.

The file is written in a hidden folder beside its place, loaded again, and run on a few images. Only when it agrees with
the network it takes its place, together with a description (JSON) of its input, preprocessing and classes.
"""
import contextlib
import functools
import inspect
import json
import logging
import math
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, Sequence

import mindspore as ms
import numpy as np
from mindspore import nn

from common.errors import UserError, nearest
from common.predict import description_path, load_mindir
from common.transforms import statistics

TOLERANCE = 1e-4  # largest difference between file and network that is still rounding
COMPARED_IMAGES = 8
PLAIN = r"[0-9a-zA-Z@_.\-]+"  # the framework refuses to export to names with other characters
Shape = tuple[int | None, int, int, int]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Format:
    """One kind of file.

    Attributes:
        ending: of the file name.
        write: writes a network, given an example of its input, to a path.
        load: a path -> a cell that runs the file; ``None``: nothing here can run it, so it is not compared.
        device: the only device on which it can be written; empty: any.
    """

    ending: str
    write: Callable[[nn.Cell, ms.Tensor, Path], None]
    load: Callable[[Path], nn.Cell] | None
    device: str = ""


def export_network(network: nn.Cell, *, input_shape: Shape, file_name: str | Path, file_format: str = "MINDIR",
                   model: str = "", class_names: Sequence[str] = (), preprocessing: Mapping[str, Any] | None = None,
                   verify: bool = True) -> Path:
    """Write a network to a file, verified and described.

    Args:
        network: float32 images (N, C, H, W) -> one tensor; for a classifier the logits (N, classes). It is exported in
            evaluation mode and left in the mode that it was in.
        input_shape: (N, C, H, W); N is ``None`` for a file that takes any number of images.
        file_name: the file; its ending may be left out, and its folder is made. A file that is there is replaced.
        file_format: a key of ``FORMATS``.
        model: name of the variant, for the description.
        class_names: one per class, or none, for the description.
        preprocessing: what ``preprocessing_of`` returns, for the description.
        verify: load the file again and compare it with the network.

    Returns:
        The file; ``description_path(file)`` lies beside it. The framework splits a network of more than 1 GB into
        ``NAME_graph.mindir``, which is returned, and the folder ``NAME_variables``, which belongs to it.

    Raises:
        UserError: if the format is unknown or not for this device, or the file cannot be written.
        RuntimeError: if file and network differ by more than 1e-4 in any output; nothing is written then.
    """
    form = choose_format(file_format)
    target = _target(Path(file_name), form)
    was_training = network.training
    network.set_train(False)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export_", dir=target.parent) as folder:
            file, description = _export(network, form, input_shape, Path(folder) / target.name, class_names, verify)
            description |= {"model": model, "file_format": file_format.upper(),
                            "preprocessing": dict(preprocessing or {})}
            description_path(file).write_text(json.dumps(description, indent=2, ensure_ascii=False) + "\n", "utf-8")
            _publish(file, target.parent)
    except OSError as error:
        raise UserError(f"file_name: '{target}' cannot be written ({error.strerror or error}).") from error
    finally:
        network.set_train(was_training)
    difference = description["largest_difference"]
    log.info("Exported %s: input %s, %s", target.parent / file.name, description["input"], "not compared with the "
             "network" if difference is None else f"largest difference from the network {difference:.1e}")
    return target.parent / file.name


def choose_format(file_format: str) -> Format:
    """Return a format, if it can be written on this device.

    Raises:
        UserError: naming what is allowed.
    """
    form = FORMATS.get(file_format.upper())
    if form is None:
        raise UserError(f"file_format: '{file_format}' is not offered; allowed are {', '.join(FORMATS)}."
                        f"{nearest(file_format, FORMATS)}")
    device = ms.get_current_device()[0]
    if form.device and device != form.device:
        raise UserError(f"file_format: {file_format.upper()} can only be written on {form.device}, and this is "
                        f"{device}; MINDIR can be written anywhere.")
    return form


def preprocessing_of(config: Any) -> dict[str, Any]:
    """Return the keys of a configuration that ``eval_transform`` reads, with the statistics written out."""
    mean, std = statistics(config)
    return {"image_size": config.eval_image_size or config.image_size, "crop_pct": config.crop_pct,
            "interpolation": config.interpolation, "eval_interpolation": config.eval_interpolation,
            "in_channels": config.in_channels, "mean": list(mean), "std": list(std)}


def _target(path: Path, form: Format) -> Path:
    """Return the path of the file with its ending."""
    endings = [other.ending for other in FORMATS.values()]
    if path.suffix.lower() in endings and path.suffix.lower() != form.ending:
        raise UserError(f"file_name: '{path.name}' ends in {path.suffix}, but a file of the chosen file_format ends in "
                        f"{form.ending}; leave the ending out.")
    name = path.name if path.suffix == form.ending else path.name + form.ending
    if not re.fullmatch(PLAIN, name) or name.startswith("."):
        raise UserError(f"file_name: '{path}' is not a name that the framework can write; allowed are letters a-z and "
                        "A-Z, digits, and the characters @ _ - and, but for the first, the dot.")
    return path.with_name(name)


def _export(network: nn.Cell, form: Format, input_shape: Shape, path: Path, class_names: Sequence[str], verify: bool
            ) -> tuple[Path, dict[str, Any]]:
    """Write a network to a path, load it again and compare.

    Returns:
        The file, which is named differently where the framework splits it, and its description.
    """
    batch = input_shape[0]
    example = ms.Tensor(np.zeros(input_shape, np.float32)) if batch else ms.Tensor(shape=input_shape, dtype=ms.float32)
    form.write(network, example, path)
    file = next(path.parent.glob(f"*{form.ending}"))
    count = batch * math.ceil(COMPARED_IMAGES / batch) if batch else COMPARED_IMAGES
    images = np.random.default_rng(0).standard_normal((count, *input_shape[1:]), np.float32)
    outputs = _run(network, images, batch or count)
    if class_names and len(class_names) != outputs.shape[-1]:
        raise UserError(f"class_names: there are {len(class_names)} names, but the network tells {outputs.shape[-1]} "
                        "classes apart; give one name per class.")
    difference = None
    if verify and form.load:
        # A file for any number of images gets them as 5 and 3, to prove it.
        difference = float(np.abs(_run(form.load(file), images, batch or 5) - outputs).max())
        if not difference <= TOLERANCE:  # also true for NaN
            raise RuntimeError(f"The exported {file.name} differs from the network by {difference:.1e} on {count} "
                               f"images, more than {TOLERANCE:.0e}; it is not kept.")
    input_name = next(iter(inspect.signature(network.construct).parameters))
    return file, {
        "file": file.name,
        "input": {"name": input_name, "layout": "NCHW", "dtype": "float32", "shape": list(input_shape)},
        "output": {"dtype": "float32", "shape": [batch, *outputs.shape[1:]]},
        "num_classes": outputs.shape[-1], "class_names": list(class_names), "mindspore_version": ms.__version__,
        "compared_images": 0 if difference is None else count, "largest_difference": difference}


def _run(cell: nn.Cell, images: np.ndarray, batch: int) -> np.ndarray:
    """Return the float32 outputs for images, fed in batches."""
    parts = [cell(ms.Tensor(images[start:start + batch])) for start in range(0, len(images), batch)]
    return np.concatenate([part.asnumpy() for part in parts]).astype(np.float32)


def _export_with_framework(network: nn.Cell, example: ms.Tensor, path: Path, file_format: str) -> None:
    """Write a file with the framework's own export."""
    level = ms.get_context("jit_syntax_level")
    try:
        with _plain_alias(path.parent) as folder:
            ms.export(network, example, file_name=str(folder / path.name), file_format=file_format)
    finally:
        ms.set_context(jit_syntax_level=level)  # the framework leaves it changed when an export fails


@contextlib.contextmanager
def _plain_alias(folder: Path) -> Iterator[Path]:
    """Give a folder a name without spaces and other characters that the framework refuses in a path."""
    folder = folder.resolve()
    if re.fullmatch(PLAIN, "".join(folder.parts[1:])):
        yield folder
        return
    with tempfile.TemporaryDirectory() as elsewhere:
        alias = Path(elsewhere) / "folder"
        alias.symlink_to(folder, target_is_directory=True)
        yield alias


def _publish(file: Path, folder: Path) -> None:
    """Move a file and what belongs to it to their place, readable like any new file, the description last.

    The framework writes files that only their owner can read, and nobody can write.
    """
    description = description_path(file)
    mode = description.stat().st_mode & 0o777
    (folder / description.name).unlink(missing_ok=True)
    for path in file.parent.rglob("*"):
        path.chmod(mode | (mode & 0o444) >> 2 if path.is_dir() else mode)
    for path in sorted(file.parent.iterdir(), key=lambda path: path == description):
        if path.is_dir():
            shutil.rmtree(folder / path.name, ignore_errors=True)
        os.replace(path, folder / path.name)


FORMATS = {
    "MINDIR": Format(".mindir", functools.partial(_export_with_framework, file_format="MINDIR"), load_mindir),
    "AIR": Format(".air", functools.partial(_export_with_framework, file_format="AIR"), None, device="Ascend"),
}
