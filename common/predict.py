"""Images -> classes, with a network, a checkpoint of a run, or an exported MINDIR or ONNX file.

For use inside other programs::

    from common import Predictor

    for result in Predictor("gmlp_Ti_best.ckpt")(["cat.jpg", pil_image, array]):
        print(result)    # cat.jpg: tabby 93.1 %
"""
import dataclasses
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable, Iterator, Sequence

import numpy as np
from PIL import Image
from tqdm import tqdm

from common.augment.pipeline import eval_transform, pixel_transform
from common.checkpoint.meta import read_meta
from common.config.load import from_mapping
from common.dataset.classes import names_for
from common.dataset.images import Picture, Reading, as_rgb, load_image, reading_of
from common.engine import open_cached, open_network
from common.errors import UserError, reason
from common.export.onnx_network import OnnxNetwork
from common.files import write_rows, write_whole
from common.spec import find_model

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """One class that an image may show; the probability is in 0..1."""

    index: int
    name: str
    probability: float


@dataclass(frozen=True)
class Result:
    """What is known of one image: its most probable classes, or the sentence why there are none."""

    source: str
    top: tuple[Candidate, ...] = ()
    error: str = ""

    def __str__(self) -> str:
        """Say the image and its most probable class, or why there is none."""
        best = f"{self.top[0].name} {100 * self.top[0].probability:.1f} %" if self.top else self.error
        return f"{self.source}: {best}"


class Predictor:
    """Classifies images in batches.

    Args:
        network: images (N, C, H, W) -> logits (N, classes): a cell, which is put into evaluation mode, or a path: of a
            checkpoint that this zoo trained (``.ckpt``), or of an exported file (``.mindir``, ``.onnx``). A path brings
            along what is needed: transform, class names, batch. MAE's pre-training and an exported encoder have
            ``features`` only.
        transform: PIL RGB image -> what the network takes of it, (C, H, W), such as
            ``common.augment.pipeline.eval_transform(config)``; for a cell.
        class_names: one per class, see ``common.dataset.classes.names_for``; none: those of the file, else the class
            numbers, or, of 1000 classes, ImageNet's names.
        batch_size: images per call of the network.
        fixed_batch: the network takes exactly ``batch_size`` images; fewer are filled up.
        top_k: classes per image.
        reading: how image files are read; none: as the file of the network says, else upright and up to PIL's limit.
        engine: who answers for a checkpoint, as the key of this name says: auto, mindspore or onnxruntime.

    Raises:
        UserError: if a file is missing or cannot be read.
    """

    def __init__(self, network: Any, transform: Callable[[Image.Image], np.ndarray] | None = None,
                 class_names: Sequence[str] | None = None, batch_size: int = 16, fixed_batch: bool = False,
                 top_k: int = 5, reading: Reading | None = None, engine: str = "auto"):
        self.model_file, self.part = "", "classifier"
        self.reading = Reading()
        self.probabilities = False  # whether the network's outputs are such already
        self.batch_size, self.fixed_batch, self.top_k = batch_size, fixed_batch, top_k
        if isinstance(network, (str, Path)):
            path = Path(network).expanduser()
            network, transform, known = (self._open_checkpoint(path, engine) if path.suffix == ".ckpt" else
                                         self._open_exported(path))
            class_names = class_names or known or None
        self.reading = reading or self.reading
        self.network, self.transform, self.given_names = network.set_train(False), transform, class_names
        self.class_names: list[str] = []  # known when the network's outputs are

    def _open_exported(self, path: Path) -> tuple[Any, Callable, list[str]]:
        from common.export.description import description_path, read_description
        from common.export.load import load_model

        network, description = load_model(path), read_description(path)
        inside, fixed = description.get("inside", {}), description["input"]["shape"][0]
        self.model_file, self.part = str(path), inside.get("part", "classifier")
        self.probabilities, self.fixed_batch = bool(inside.get("softmax")), bool(fixed)
        self.batch_size = fixed or self.batch_size
        prepare = pixel_transform if inside.get("normalization") else eval_transform
        config = from_mapping(description["preprocessing"], str(description_path(path)))
        self.reading = reading_of(config)
        return network, prepare(config), description["class_names"]

    def _open_checkpoint(self, path: Path, engine: str) -> tuple[Any, Callable, list[str]]:
        meta = read_meta(path)
        if not meta:
            from common.checkpoint.file import load_checkpoint

            _, meta = load_checkpoint(path)
        if "config" not in meta or "model" not in meta:
            raise UserError(f"network: {path} does not say which network it belongs to; build it with create_model, "
                            "and give Predictor that network and a transform.")
        spec = find_model(meta["model"])
        config = from_mapping(meta["config"] | {"model": meta["model"], "ckpt_path": str(path), "distribute": False,
                                                "resume": "", "amp_level": "O0", "mode": "graph",
                                                "device_target": "auto", "engine": engine}, str(path), spec)
        self.reading = reading_of(config)
        if config.task == "pretrain" and spec.export_part:
            self.part = "encoder"
            config = dataclasses.replace(config, part="encoder")
            opened = open_cached(config, spec, self.part) or open_network(
                config, spec, part=self.part, load=lambda config, spec: (spec.export_part(config, spec)[0], None, []))
        else:
            opened = open_cached(config, spec) or open_network(config, spec)
        log.info("%s answers for %s", opened.engine, path)
        return opened.network, eval_transform(config), opened.classes

    def __call__(self, images: Sequence[Picture] | Picture) -> list[Result]:
        """Classify images.

        Args:
            images: in any mixture, or one of these:

                - paths of image files, and PIL images of any mode;
                - arrays of the shape (height, width, 3) in RGB, (height, width, 4) with transparency, which is dropped,
                  and (height, width) or (height, width, 1) in grey; uint8 with values 0..255, or uint16 with 0..65535.
                  Of values in 0..1, hand over ``(255 * array).round().astype(np.uint8)``. OpenCV's arrays are in BGR:
                  ``array[..., ::-1]``.

                Each becomes 8-bit RGB, turned upright where its EXIF data say so, as in training and evaluation.

        Returns:
            One result per image, in their order. A file that cannot be read gets a result with an error, and is counted
            in the log.

        Raises:
            UserError: for an array of another shape or type, or something else; if the class names are not as many as
                the network's classes, or the exported file is not a classifier for its description.
        """
        if self.part != "classifier":
            raise UserError(f"{self._named()} is no classifier: it holds the part: {self.part} of its network; an "
                            "encoder has Predictor(FILE).features(images).")
        results: list[Result] = []
        for start, part, size in self._batches(images):
            results += self._classify(part, start, size)
        broken = sum(bool(result.error) for result in results)
        if broken:
            log.warning("%d of %d images could not be classified", broken, len(results))
        return results

    def features(self, images: Sequence[Picture] | Picture) -> np.ndarray:
        """Return what an encoder makes of images, float32 (n, D).

        Raises:
            UserError: for an image that cannot be read, or a network that is a classifier (the pooled features of one:
                ``create_model(name, num_classes=0, ckpt_path=FILE)``).
        """
        if self.part != "encoder":
            raise UserError(f"features: {self._named()} is a {self.part}, not an encoder; "
                            "create_model(name, num_classes=0, ckpt_path=FILE) gives the pooled features of one.")
        parts = []
        for _, part, size in self._batches(images):
            batch = np.stack([self.transform(self._opened(image)) for image in part])
            filled = np.concatenate([batch, np.repeat(batch[-1:], size - len(batch), axis=0)])
            parts.append(self._outputs(filled)[:len(batch)].astype(np.float32))
        return np.concatenate(parts)

    def _batches(self, images: Sequence[Picture] | Picture) -> Iterator[tuple[int, Sequence[Picture], int]]:
        """Yield, batch after batch, the number of the first image, the images, and how many the network gets."""
        if isinstance(images, (str, Path, Image.Image)) or isinstance(images, np.ndarray) and images.ndim <= 3:
            images = [images]
        size = self.batch_size if self.fixed_batch else max(1, min(self.batch_size, len(images)))
        starts = range(0, len(images), size)
        for start in tqdm(starts, unit="batch", leave=False, disable=None if len(starts) > 1 else True):
            yield start, images[start:start + size], size

    def _opened(self, image: Picture) -> Image.Image:
        """Return an image file, a PIL image or an array as PIL RGB."""
        if isinstance(image, (str, Path)):
            return load_image(image, self.reading)
        as_stored = isinstance(image, Image.Image) and not self.reading.exif
        return image.convert("RGB") if as_stored else as_rgb(image)

    def _classify(self, images: Sequence[Picture], start: int, size: int) -> Iterator[Result]:
        """Classify up to ``size`` images, the first of which has the number ``start``."""
        sources, arrays, errors = [], {}, {}
        for position, image in enumerate(images):
            sources.append(_source(image, start + position))
            try:
                opened = self._opened(image)
            except (OSError, SyntaxError, ValueError) as error:  # a UserError is a ValueError
                if not isinstance(image, (str, Path, Image.Image)):
                    raise
                errors[position] = f"cannot be read: {reason(error.__cause__ or error)}"
            else:
                arrays[position] = self.transform(opened)
        found = dict(zip(arrays, self._rank(np.stack(list(arrays.values())), size))) if arrays else {}
        for position, source in enumerate(sources):
            top, error = found.get(position, ((), errors.get(position, "")))
            yield Result(source, top, error)

    def _rank(self, batch: np.ndarray, size: int) -> Iterator[tuple[tuple[Candidate, ...], str]]:
        """Run the network on a batch filled up to ``size`` images; yields classes and error of every image."""
        filled = np.concatenate([batch, np.repeat(batch[-1:], size - len(batch), axis=0)])
        logits = self._logits(filled)[:len(batch)]
        names = self.class_names = self.class_names or names_for(self.given_names, logits.shape[1])
        for row in logits if self.probabilities else softmax(logits):
            if not np.isfinite(row).all():
                yield (), "the network's output for it is not finite"
                continue
            order = np.argsort(-row, kind="stable")[:self.top_k]
            yield tuple(Candidate(int(n), names[n], float(row[n])) for n in order), ""

    def _logits(self, batch: np.ndarray) -> np.ndarray:
        """Return the network's output for images, float32 (N, classes)."""
        source = self._named()
        try:
            output = self._outputs(batch)
        except (RuntimeError, ValueError, TypeError) as error:
            if not self.model_file:
                raise
            log.debug("%s: %s", self.model_file, error)
            raise UserError(f"{source} does not take images of the shape {batch.shape}, which "
                            f"{Path(self.model_file).name}.json asks for; both must be from one export.") from None
        if not isinstance(output, np.ndarray) or output.ndim != 2 or len(output) != len(batch):
            raise UserError(f"{source} is no classifier: it returns {getattr(output, 'shape', 'several arrays')} for "
                            f"{len(batch)} images instead of one row of logits for each.")
        return output.astype(np.float32)

    def _outputs(self, batch: np.ndarray) -> Any:
        """Return what the network makes of images: an array, or several."""
        if isinstance(self.network, OnnxNetwork):
            return self.network(batch)
        import mindspore as ms

        found = self.network(ms.Tensor(batch))
        return found.asnumpy() if isinstance(found, ms.Tensor) else found

    def _named(self) -> str:
        return f"model_file: '{self.model_file}'" if self.model_file else "the network"


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities of logits along the last axis, computed in float32."""
    logits = logits.astype(np.float32)
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _source(image: Picture, number: int) -> str:
    """Name an image: its path, or its place in the list (from 0)."""
    path = image if isinstance(image, (str, Path)) else getattr(image, "filename", "")
    return str(path) or f"image {number}"


def format_table(results: Sequence[Result]) -> str:
    """Write results as a table for people: a line per class, and how many images could not be read."""
    rows = [("image", "rank", "class", "name", "probability")]
    for result in results:
        rows += [(result.source if rank == 1 else "", str(rank), str(one.index), one.name, f"{one.probability:.4f}")
                 for rank, one in enumerate(result.top, 1)]
        if result.error:
            rows.append((result.source, "", "", result.error, ""))
    readable = [row for row in rows if row[1]]  # an error may be long and must not widen the table
    widths = [max(len(row[column]) for row in (rows if column == 0 else readable)) for column in range(5)]
    lines = [f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}  {d:<{widths[3]}}  {e:>{widths[4]}}".rstrip()
             for a, b, c, d, e in rows]
    broken = sum(bool(result.error) for result in results)
    return "\n".join(lines + ([f"{broken} of {len(results)} images could not be classified"] if broken else []))


def write_json(results: Sequence[Result], path: str | Path) -> None:
    """Write results as a JSON list of objects with source, top (index, name, probability) and error."""
    write_whole(path, json.dumps([asdict(result) for result in results], indent=2, ensure_ascii=False) + "\n")


def write_csv(results: Sequence[Result], path: str | Path) -> None:
    """Write results as CSV (RFC 4180), a row per image and class."""
    rows: list[list] = []
    for result in results:
        rows += [[result.source, rank, one.index, one.name, f"{one.probability:.6f}", ""]
                 for rank, one in enumerate(result.top, 1)]
        rows += [[result.source, "", "", "", "", result.error]] if result.error else []
    write_rows(path, ["image", "rank", "class", "name", "probability", "error"], rows)
