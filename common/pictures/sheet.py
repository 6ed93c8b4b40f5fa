"""Sheets of images with what a network says about them: predictions, and the mistakes of an evaluation.

Imports without MindSpore.
"""
import logging
import math
from pathlib import Path
from typing import Any, NamedTuple, Sequence

import numpy as np
from PIL import Image, ImageDraw

from common.augment.pipeline import statistics
from common.config.options import Config
from common.dataset.images import load_image
from common.errors import UserError
from common.pictures.style import BLUE, GRID, ORANGE, TEXT, fit_text, font, legible, text_width, write_picture

SHOWN_AT_MOST = 200  # images of a sheet of predictions
LETTERS = 14  # pixels, height of the captions of a sheet
TILE = 150  # pixels, side of an image

Row = list[tuple[Image.Image, str]]  # pictures that stand side by side, each with its caption

log = logging.getLogger(__name__)


class Subject(NamedTuple):
    """An image that is looked at: its place among all of them, the name of its file, and itself."""

    number: int
    name: str
    image: Image.Image


def prediction_sheet(results: Sequence[Any], path: str | Path, columns: int = 6, classes: Sequence[str] = ()) -> None:
    """Write images with their most probable class, the probability as number and bar, and the file's name.

    Where the folder of an image is named like a class, the caption says whether that is right; wrong bars are orange.

    Args:
        results: what ``common.predict.Predictor`` returned for image files; the first ``SHOWN_AT_MOST`` are drawn, and
            of one with an error, the error.
        path: the file to write.
        columns: images per row.
        classes: the names of all classes.

    Raises:
        UserError: if the file cannot be written.
    """
    shown, images, captions, shares, colours = results[:SHOWN_AT_MOST], [], [], [], []
    names = short_names([result.source for result in shown])
    for result, name in zip(shown, names):
        best = result.top[0] if result.top else None
        images.append(_opened(result.source))
        shares.append(best.probability if best else None)
        said = with_share(best.name, best.probability) if best else result.error.split(":")[0]
        judged = judge(result, classes)
        colours.append(ORANGE if judged.startswith("wrong") else BLUE)
        captions.append("\n".join(filter(None, (said, judged, name))))
    if len(results) > len(shown):
        log.warning("sheet: the first %d of %d images are drawn; the others are in --json and --csv", len(shown),
                    len(results))
    title = f"{len(results)} image{'s' if len(results) > 1 else ''}"
    title = f"the first {len(shown)} of {title}" if len(results) > len(shown) else title
    judged = list(filter(None, (judge(result, classes) for result in results)))
    title += f", {judged.count('right')} of {len(judged)} right" if judged else ""
    image_sheet(images, captions, path, columns, TILE, f"Predictions: {title}", shares, colours)


def judge(result: Any, classes: Sequence[str]) -> str:
    """Say whether a prediction is right; nothing where the image's folder is not named like a class."""
    true = Path(result.source).parent.name
    if not result.top or true not in classes:
        return ""
    return "right" if result.top[0].name == true else f"wrong: is {true}"


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


def image_sheet(images: Sequence[Image.Image], captions: Sequence[str], path: str | Path, columns: int = 5,
                size: int = 200, title: str = "", shares: Sequence[float | None] = (), colours: Sequence[str] = ()
                ) -> None:
    """Write images in rows, each with its caption below, as one PNG.

    Args:
        images: pictures of any size and mode; each is fitted into a square, small ones with their pixels kept visible.
        captions: one per image; line breaks are kept, and lines that are too long are cut.
        path: the file to write; its folder is made.
        columns: images per row.
        size: side of the squares, in pixels.
        title: stands above the images.
        shares: one per image, shown as a bar between image and caption, full at 1; None: no bar.
        colours: of the bars, one per image; blue unless given.

    Raises:
        ValueError: if there are no images, or not one caption for each.
        UserError: if the file cannot be written.
    """
    if not images or len(images) != len(captions):
        raise ValueError(f"a sheet needs one caption for each image; there are {len(images)} images and "
                         f"{len(captions)} captions")
    gap, line_height, bar = 14, 18, 14 if shares else 0
    columns = max(1, min(columns, len(images)))
    rows = math.ceil(len(images) / columns)
    lines = [[fit_text(line, LETTERS, size) for line in caption.split("\n")] for caption in captions]
    cell = (size + gap, size + bar + line_height * max(map(len, lines)) + gap + 6)
    above = gap + (30 if title else 0)
    width = max(columns * cell[0] + gap, round(text_width(title, 18)) + 2 * gap if title else 0)
    sheet = Image.new("RGB", (width, rows * cell[1] + above), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((gap, 12), legible(title), fill=TEXT, font=font(18, title))
    for number, (image, texts) in enumerate(zip(images, lines)):
        left, top = gap + number % columns * cell[0], above + number // columns * cell[1]
        fitted = _fit_image(image.convert("RGB"), size)
        sheet.paste(fitted, (left + (size - fitted.width) // 2, top + (size - fitted.height) // 2))
        if shares and shares[number] is not None:
            pen.rectangle((left, top + size + 6, left + size - 1, top + size + 13), fill=GRID)
            pen.rectangle((left, top + size + 6, left + round(shares[number] * (size - 1)), top + size + 13),
                          fill=colours[number] if colours else BLUE)
        for row, text in enumerate(texts):
            pen.text((left + size / 2, top + size + bar + 6 + row * line_height), text, fill=TEXT,
                     font=font(LETTERS, text), anchor="ma")
    write_picture(sheet, path)


def picture_of(image: np.ndarray, config: Config) -> Image.Image:
    """Undo the normalisation of float32 (C, H, W); what lies beyond black and white is cut."""
    mean, std = (np.array(values, np.float32).reshape(-1, 1, 1) for values in statistics(config))
    pixels = (np.clip(image * std + mean, 0, 1) * 255 + 0.5).astype(np.uint8)
    return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))


def one_line(text: str) -> Image.Image:
    """Return a picture of one line of text, where there is no image to show."""
    image = Image.new("RGB", (round(text_width(text, 18)) + 32, 50), "white")
    ImageDraw.Draw(image).text((16, 25), legible(text), fill=TEXT, font=font(18, text), anchor="lm")
    return image


def _fit_image(image: Image.Image, size: int) -> Image.Image:
    """Scale an image so that its longer side has ``size`` pixels."""
    factor = size / max(image.size)
    resample = Image.Resampling.NEAREST if factor >= 3 else Image.Resampling.LANCZOS
    return image.resize((max(1, round(image.width * factor)), max(1, round(image.height * factor))), resample)
