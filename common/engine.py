"""Who answers in evaluation and prediction: the framework, or, on a CPU, onnxruntime. Imports without MindSpore.

onnxruntime does not compile for seconds before it answers (``common/README.md`` has figures). The ONNX file is made of
the network once for a checkpoint, compared with the network, and kept beside the checkpoint
(``common.export.cache``); where it lies there already, MindSpore is not even imported. Whatever is in the way, the
framework answers, and the log says why.
"""
import importlib.util
import json
import os
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Callable

import numpy as np

from common.config.load import network_arguments
from common.config.options import Config
from common.context.device import without_devices
from common.context.ranks import Runtime
from common.errors import UserError, reason
from common.export.cache import OnnxCache
from common.export.onnx_network import OnnxNetwork
from common.files import ROOT
from common.logger import get_logger
from common.spec import ModelSpec

PACKAGES = ("onnx", "onnxruntime")
TOLERANCE = 1e-5  # largest difference from the network, in parts of its largest output, at least of 1
COMPARED_IMAGES = 2
ABOUT = "zoo"  # name in the file of what it says about itself
INPUT, OUTPUT = "images", "output"
SOURCES = ("common/layers", "common/export", "common/network.py", "common/checkpoint/weights.py", "common/spec.py")

Load = Callable[[Config, ModelSpec], tuple[Any, Any, list[str]]]  # the network, what was loaded, the class names


@dataclass(frozen=True)
class Opened:
    """A network with its weights, ready to answer.

    Attributes:
        network: images (N, C, H, W) -> outputs (N, D): a cell, or an ``OnnxNetwork``.
        loaded: what was loaded, in lines.
        classes: the class names that the checkpoint holds; none, if it holds none.
        engine: who answers, for people.
    """

    network: Any
    loaded: list[str]
    classes: list[str]
    engine: str = "MindSpore"


def open_network(config: Config, spec: ModelSpec, runtime: Runtime = Runtime(), part: str = "classifier",
                 load: Load | None = None) -> Opened:
    """Open the network of ``config.ckpt_path`` for the engine that ``config.engine`` names; MindSpore is set up.

    Of several ranks the first makes the file, and the others take it.

    Args:
        part: what ``load`` returns of the network.
        load: called where the framework is needed; ``None``: ``common.network.load_network``.

    Raises:
        UserError: if there is no checkpoint, or it does not fit; or onnxruntime was asked for and cannot be had.
    """
    from common.network import load_network
    from common.run.training import together

    load = load or load_network
    cache = _cache(config, spec, part)
    if cache is None:
        return _of_framework(load(config, spec))

    def attempt() -> Opened:
        return _from_cache(cache, config) or _made(cache, config, load(config, spec))

    if runtime.world_size == 1:
        return attempt()
    first = together(runtime, lambda: attempt() if runtime.is_main else None)  # all wait for the first
    return first or attempt()


def open_cached(config: Config, spec: ModelSpec, part: str = "classifier") -> Opened | None:
    """Open what ``open_network`` has made before; ``None`` where there is none, or it may not be used.

    Raises:
        UserError: if onnxruntime was asked for and cannot be had.
    """
    if config.device_target not in ("auto", "CPU"):
        return None  # what is not there is said when the device is chosen
    if "mindspore" not in sys.modules and not without_devices(config, os.environ):
        return None
    cache = _cache(config, spec, part)
    return cache and _from_cache(cache, config)


def _cache(config: Config, spec: ModelSpec, part: str) -> OnnxCache | None:
    """Return where the file of a network is kept; ``None`` where the framework is to answer."""
    problem = _problem(config)
    if config.engine == "onnxruntime" and problem:
        raise UserError(f"engine: onnxruntime {problem}.")
    if config.engine == "mindspore" or problem or not Path(config.ckpt_path).expanduser().is_file():
        return None
    return OnnxCache(config.ckpt_path, _facts(config, spec, part), _sources(spec))


def _problem(config: Config) -> str:
    """Say why onnxruntime cannot answer, as what follows its name; empty if it can."""
    device = "CPU"
    if "mindspore" in sys.modules:
        import mindspore as ms

        device = ms.get_current_device()[0]
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if device != "CPU":
        return f"answers on a CPU alone, and this is {device}; leave the key out, or add --device_target CPU"
    if missing:
        return f"needs {' and '.join(missing)}; run 'pip install -r requirements.txt'"
    if config.amp_level != "O0":
        return f"answers in float32, and amp_level is {config.amp_level}; leave one of them out"
    if config.mode != "graph":
        return "compiles networks as a whole, and mode is pynative; leave one of them out"
    return ""


def _of_framework(loaded: tuple[Any, Any, list[str]]) -> Opened:
    network, report, classes = loaded
    return Opened(network, report.lines() if report else [], classes)


def _facts(config: Config, spec: ModelSpec, part: str) -> dict[str, Any]:
    """Return what an ONNX file follows from beside the checkpoint and the sources."""
    try:
        version = metadata.version("mindspore")
    except metadata.PackageNotFoundError:  # a package of another name, or the framework's sources
        version = ""
    return {"model": f"{spec.name} {config.model} {part}", "network": network_arguments(config), "ema": config.ema,
            "inputs": _shape(config), "num_classes": config.num_classes, "mindspore": version}


def _sources(spec: ModelSpec) -> list[Path]:
    folders = [ROOT / name for name in (*SOURCES, f"{spec.name}/src")]
    return [path for folder in folders for path in ([folder] if folder.is_file() else folder.glob("*.py"))]


def _shape(config: Config) -> tuple[int | None, ...]:
    side = config.eval_image_size or config.image_size
    return None, config.in_channels, side, side


def _from_cache(cache: OnnxCache, config: Config) -> Opened | None:
    """Return what the cache holds, if that can be run."""
    content = cache.find()
    if content is None:
        return None
    try:
        network = OnnxNetwork(content, config.num_threads)
    except UserError:  # of another version of onnxruntime
        return None
    about = network.about(ABOUT)
    return Opened(network, about["loaded"], about["classes"], _named(network))


def _made(cache: OnnxCache, config: Config, loaded: tuple[Any, Any, list[str]]) -> Opened:
    """Make an ONNX file of a network, compare both and keep the file; what fails, leaves the network itself."""
    from onnx.helper import set_model_props

    from common.export.onnx_file import onnx_model

    opened, logger = _of_framework(loaded), get_logger()
    logger.info("Making an ONNX file of the network, once for this checkpoint; a few seconds.")
    try:
        model = onnx_model(opened.network, [(INPUT, _shape(config), "float32")], [OUTPUT])
        set_model_props(model, {ABOUT: json.dumps({"loaded": opened.loaded, "classes": opened.classes})})
        content = model.SerializeToString()
        network = OnnxNetwork(content, config.num_threads)
        difference = _compare(network, opened.network, _shape(config))
    except Exception as error:  # of packages that have one for every reason; nothing has been answered yet
        if config.engine == "onnxruntime":
            raise UserError(f"engine: onnxruntime cannot answer for this network: {reason(error)}") from error
        logger.info(f"onnxruntime cannot answer for this network, so that MindSpore does: {reason(error)}")
        return opened
    try:
        cache.keep(content)
        kept = f"kept in {cache.folder}"
    except UserError as error:
        kept = f"not kept: {error}"
    logger.info(f"The ONNX file differs from the network by {difference:.0e} at most; {kept}")
    return Opened(network, opened.loaded, opened.classes, _named(network))


def _compare(file: OnnxNetwork, network: Any, shape: tuple[int | None, ...]) -> float:
    """Return the largest difference between file and network, which is run operation by operation, without compiling.

    Raises:
        RuntimeError: if it is more than rounding.
    """
    import mindspore as ms

    images = np.random.default_rng(0).standard_normal((COMPARED_IMAGES, *shape[1:]), np.float32)
    mode = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    try:
        expected = network(ms.Tensor(images)).asnumpy()
    finally:
        ms.set_context(mode=mode)
    found = [file(np.resize(images, (count, *shape[1:]))) for count in (1, COMPARED_IMAGES, 5)]
    difference = max(float(np.abs(one - np.resize(expected, one.shape)).max()) for one in found)
    if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())):  # also true for NaN
        raise RuntimeError(f"the file differs from it by {difference:.1e}")
    return difference


def _named(network: OnnxNetwork) -> str:
    return f"onnxruntime {network.version}"
