"""A network as a file that runs without its code, compared with the network before anybody gets to see it.

The file is written in a hidden folder beside its place, loaded again, and run on a few images. Only when it agrees with
the network it takes its place, together with a description (JSON) of its input, preprocessing and classes.
"""
import functools
import importlib.util
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
from typing import Any, Callable, Mapping, Sequence

import mindspore as ms
import numpy as np
from mindspore import nn

from common.errors import UserError, nearest
from common.export.contents import Contents, Inputs, Shape
from common.export.description import describe_classes, describe_ports, description_path, summarise
from common.export.framework import PLAIN, export_with_framework
from common.export.load import load_mindir
from common.export.onnx_file import write_onnx
from common.export.onnx_network import load_onnx
from common.logger import Waiting

TOLERANCE = 1e-4  # largest difference between file and network that is still rounding
COMPARED_IMAGES = 8

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Format:
    """One kind of file.

    Attributes:
        ending: of the file name.
        write: (network, inputs, path, names of the outputs) writes the file.
        load: a path -> what runs the file like a cell; ``None``: nothing here can run it, so it is not compared.
        device: the only device on which it can be written; empty: any.
        packages: that it needs beside those of the zoo.
    """

    ending: str
    write: Callable[[nn.Cell, Inputs, Path, Sequence[str]], None]
    load: Callable[[Path], Callable] | None
    device: str = ""
    packages: tuple[str, ...] = ()


def export_network(network: nn.Cell, *, input_shape: Shape, file_name: str | Path, file_format: str = "MINDIR",
                   model: str = "", class_names: Sequence[str] = (), preprocessing: Mapping[str, Any] | None = None,
                   verify: bool = True, contents: Contents = Contents()) -> Path:
    """Write a network to a file, verified and described.

    Args:
        network: images (N, C, H, W), and what ``contents`` names beside them, -> one tensor or several; for a
            classifier the logits (N, classes). It is exported in evaluation mode and left in the mode that it was in.
        input_shape: of the images, (N, C, H, W); N is ``None`` for a file that takes any number of images.
        file_name: the file; its ending may be left out, and its folder is made. A file that is there is replaced.
        file_format: a key of ``FORMATS``.
        model: name of the network, for the description.
        class_names: one per class, or none, for the description.
        preprocessing: what ``preprocessing_of`` returns, for the description.
        verify: load the file again and compare it with the network.
        contents: what the network is, and what has been put around it.

    Returns:
        The file; ``description_path(file)`` lies beside it. The framework splits a network of more than 1 GB into
        ``NAME_graph.mindir``, which is returned, and the folder ``NAME_variables``, which belongs to it.

    Raises:
        UserError: if the format is unknown or not for this device, or the file cannot be written.
        RuntimeError: if file and network differ by more than 1e-4 in any output; nothing is written then.
    """
    form = choose_format(file_format)
    target = _target(Path(file_name), form)
    inputs = [(next(iter(inspect.signature(network.construct).parameters)), tuple(input_shape), contents.image_dtype)]
    inputs += [(name, (input_shape[0], *shape), "float32") for name, shape in contents.more_inputs]
    was_training = network.training
    network.set_train(False)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with (tempfile.TemporaryDirectory(prefix=".export_", dir=target.parent) as folder,
              Waiting(f"Writing {target.name}, loading it again and comparing")):
            file, outputs, difference = _export(network, form, inputs, Path(folder) / target.name, contents, verify)
            description = {"model": model, "file_format": file_format.upper(), "file": file.name,
                           **describe_ports(inputs, outputs, contents), "inside": contents.describe(),
                           **describe_classes(class_names, outputs, contents),
                           "preprocessing": dict(preprocessing or {}),
                           "mindspore_version": ms.__version__,
                           "compared_images": 0 if difference is None else len(outputs[0]),
                           "largest_difference": difference}
            description_path(file).write_text(json.dumps(description, indent=2, ensure_ascii=False) + "\n", "utf-8")
            _publish(file, target.parent)
    except OSError as error:
        raise UserError(f"file_name: '{target}' cannot be written ({error.strerror or error}).") from error
    finally:
        network.set_train(was_training)
    if difference is not None and not any(one.any() for one in outputs):
        log.warning("%s: all outputs are 0, as those of a head that was never trained: that file and network agree "
                    "proves nothing", file.name)
    for line in (f"Exported {target.parent / file.name}", *summarise(description)):
        log.info("%s", line)
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
    if any(importlib.util.find_spec(name) is None for name in form.packages):
        raise UserError(f"file_format: {file_format.upper()} needs the packages {' and '.join(form.packages)}, which "
                        f"are not both installed; run 'pip install -c requirements.txt {' '.join(form.packages)}'.")
    return form


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


def _export(network: nn.Cell, form: Format, inputs: Inputs, path: Path, contents: Contents, verify: bool
            ) -> tuple[Path, list[np.ndarray], float | None]:
    """Write a network to a path, load it again and compare.

    Returns:
        The file, which is named differently where the framework splits it; the network's outputs for the images that
        were compared; and the largest difference.
    """
    form.write(network, inputs, path, contents.output_names)
    file = next(path.parent.glob(f"*{form.ending}"))
    batch = inputs[0][1][0]
    count = batch * math.ceil(COMPARED_IMAGES / batch) if batch else COMPARED_IMAGES
    rng = np.random.default_rng(0)
    arrays = [_random(rng, (count, *shape[1:]), dtype, n > 0) for n, (_, shape, dtype) in enumerate(inputs)]
    outputs = _run(network, arrays, batch or count)
    if not verify or form.load is None:
        return file, outputs, None
    found = _run_again(form, file, arrays, batch)
    difference = max(float(np.abs(one - other).max()) for one, other in zip(outputs, found))
    if not difference <= TOLERANCE:  # also true for NaN
        raise RuntimeError(f"The exported {file.name} differs from the network by {difference:.1e} on {count} images, "
                           f"more than {TOLERANCE:.0e}; it is not kept.")
    return file, outputs, difference


def _run_again(form: Format, file: Path, arrays: Sequence[np.ndarray], batch: int | None) -> list[np.ndarray]:
    """Load a file and return its outputs; one for any number of images has to take a single one as well."""
    loaded = form.load(file)
    if batch:
        return _run(loaded, arrays, batch)
    try:
        _run(loaded, [array[:1] for array in arrays], 1)
        return _run(loaded, arrays, len(arrays[0]))
    except RuntimeError as error:
        if not isinstance(loaded, nn.GraphCell):
            raise
        raise UserError("batch_size: dynamic: the framework writes a MINDIR file of this network for any number of "
                        "images, but cannot run it; give a number, or choose --file_format ONNX.") from error


def _random(rng: np.random.Generator, shape: tuple[int, ...], dtype: str, uniform: bool) -> np.ndarray:
    """Return an input of random values: pixels, numbers in [0, 1), or what normalised images may hold."""
    if dtype == "uint8":
        return rng.integers(0, 256, shape, np.uint8)
    return rng.random(shape, np.float32) if uniform else rng.standard_normal(shape, np.float32)


def _run(cell: Callable, arrays: Sequence[np.ndarray], batch: int) -> list[np.ndarray]:
    """Return the float32 outputs for inputs, fed in batches."""
    parts = []
    for start in range(0, len(arrays[0]), batch):
        found = cell(*(ms.Tensor(array[start:start + batch]) for array in arrays))
        parts.append(found if isinstance(found, (tuple, list)) else (found,))
    return [np.concatenate([one.asnumpy() for one in port]).astype(np.float32) for port in zip(*parts)]


def _write_with_framework(network: nn.Cell, inputs: Inputs, path: Path, output_names: Sequence[str], file_format: str
                          ) -> None:
    """Write a file with the framework's own export; such files do not name their outputs."""
    examples = [ms.Tensor(shape=shape, dtype=getattr(ms, dtype)) if shape[0] is None else
                ms.Tensor(np.zeros(shape, dtype)) for _, shape, dtype in inputs]
    export_with_framework(network, examples, path, file_format)


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
    "MINDIR": Format(".mindir", functools.partial(_write_with_framework, file_format="MINDIR"), load_mindir),
    "AIR": Format(".air", functools.partial(_write_with_framework, file_format="AIR"), None, device="Ascend"),
    "ONNX": Format(".onnx", write_onnx, load_onnx, packages=("onnx", "onnxruntime")),
}
