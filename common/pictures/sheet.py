"""Sheets of images with what a network says about them: predictions, and the mistakes of an evaluation.

Imports without MindSpore.
"""
import logging
from pathlib import Path
from typing import Any, Sequence

from PIL import Image

from common.pictures.sheet.chart import GRID
from common.errors import UserError
from common.pictures.sheet.text import fit_text, text_width
from common.pictures.sheet.curves import LETTERS, image_sheet
from common.dataset.batches.samples import load_image

SHOWN_AT_MOST = 200  # images of a sheet of predictions
TILE = 150  # pixels, side of an image

log = logging.getLogger(__name__)


def prediction_sheet(results: Sequence[Any], path: str | Path, columns: int = 6) -> None:
    """Write images with their most probable class, the probability as number and bar, and the file's name.

    Args:
        results: what ``common.predict.Predictor`` returned for image files; the first ``SHOWN_AT_MOST`` are drawn, and
            of one with an error, the error.
        path: the file to write.
        columns: images per row.

    Raises:
        UserError: if the file cannot be written.
    """
    shown, images, captions, shares = results[:SHOWN_AT_MOST], [], [], []
    names = short_names([result.source for result in shown])
    for result, name in zip(shown, names):
        best = result.top[0] if result.top else None
        images.append(_opened(result.source))
        shares.append(best.probability if best else None)
        captions.append(f"{with_share(best.name, best.probability) if best else result.error.split(':')[0]}\n{name}")
    if len(results) > len(shown):
        log.warning("sheet: the first %d of %d images are drawn; the others are in --json and --csv", len(shown),
                    len(results))
    title = f"{len(results)} image{'s' if len(results) > 1 else ''}"
    title = f"the first {len(shown)} of {title}" if len(results) > len(shown) else title
    image_sheet(images, captions, path, columns, TILE, f"Predictions: {title}", shares)


def with_share(name: str, share: float, width: int = TILE) -> str:
    """Return a name and a share in per cent as one line of a caption; the name is cut where both are too long."""
    percent = f": {100 * share:.1f} %"
    return fit_text(name, LETTERS, width - text_width(percent, LETTERS)) + percent


def short_names(paths: Sequence[str], width: int = TILE) -> list[str]:
    """Return the ends of paths: the file's name, with as many of its folders as fit into a caption."""
    names = []
    for path in map(Path, paths):
        parts = [part for part in path.parts if part != path.anchor]
        fitting = [name for first in range(len(parts)) if text_width(name := "/".join(parts[first:]), LETTERS) <= width]
        names.append(fitting[0] if fitting else fit_text(path.name, LETTERS, width, keep_end=True))
    return names


def _opened(path: str) -> Image.Image:
    """Return a small copy of an image, or a grey square for one that cannot be read."""
    try:
        image = load_image(path)
    except UserError:
        return Image.new("RGB", (TILE, TILE), GRID)
    if max(image.size) > TILE:
        image.thumbnail((TILE, TILE))
    return image
