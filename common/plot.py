"""Pictures of a run: curves over the epochs, and sheets of images. Imports without MindSpore."""
import json
import logging
import math
import os
from pathlib import Path
from typing import Any, Iterable, Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

from common.chart import BLUE, GREEN, ORANGE, PURPLE, TEXT, Curve, Panel, draw_panels, font
from common.errors import UserError

log = logging.getLogger(__name__)


def read_history(path: str | Path) -> list[dict[str, Any]]:
    """Read ``history.jsonl``, one JSON object per line.

    A process that is killed while it writes leaves half a line, and one that resumes may continue that very line:
    what cannot be read is left out with a warning.

    Raises:
        UserError: if there is no such file.
    """
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"history '{path}' cannot be read ({error.strerror}); "
                        "it is the file history.jsonl in the folder of a run.") from None
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            row = None
        if isinstance(row, dict) and "epoch" in row:
            rows.append(row)
        else:
            log.warning("%s: line %d is not a whole record and is left out", path, number)
    return rows


def plot_history(history: Sequence[Mapping[str, Any]], path: str | Path, title: str) -> None:
    """Write the curves of a run as PNG: loss, accuracy and learning rate over the epochs.

    Args:
        history: one mapping per epoch, with ``epoch`` (from 1), ``loss``, ``eval_loss``, ``lr`` and the fractions
            ``top1`` and ``top5``, each of which may be missing, None, NaN or infinite. Of several mappings of one epoch
            (a resumed run repeats some) the last counts. A panel without values is left out, but for the loss.
        path: the file to write; its folder is made.
        title: the heading.

    Raises:
        UserError: if the file cannot be written.
    """
    _write(draw_panels(history_panels(history), title), Path(path))


def history_panels(history: Sequence[Mapping[str, Any]]) -> list[Panel]:
    """Sort the numbers of a history into panels."""
    accuracy = []
    for key, name, color in (("top1", "top-1", GREEN), ("top5", "top-5", PURPLE)):
        points = _points(history, key, factor=100)
        if points:
            accuracy.append(Curve(f"{name} (best {max(y for _, y in points):.2f})", points, color))
    loss = (Curve("train", _points(history, "loss"), BLUE), Curve("eval", _points(history, "eval_loss"), ORANGE))
    lr = Curve("at the end of the epoch", _points(history, "lr"), BLUE)
    numbers = [row["epoch"] for row in history] or [1]
    epochs = (min(numbers), max(numbers))
    groups = (("Loss", loss), ("Accuracy (%)", accuracy), ("Learning rate", (lr,)))
    panels = [Panel(title, tuple(curve for curve in curves if curve.points), epochs) for title, curves in groups]
    return [panel for panel in panels if panel.curves or panel.title == "Loss"]


def _points(history: Iterable[Mapping[str, Any]], key: str, factor: float = 1.0) -> tuple[tuple[float, float], ...]:
    """Return (epoch, value) of every epoch whose value is a finite number."""
    values = {row["epoch"]: row.get(key) for row in history}
    return tuple((epoch, factor * value) for epoch, value in sorted(values.items())
                 if isinstance(value, (int, float)) and math.isfinite(value))


def image_sheet(images: Sequence[Image.Image], captions: Sequence[str], path: str | Path, columns: int = 5,
                size: int = 200) -> None:
    """Write images in rows, each with its caption below, as one PNG.

    Args:
        images: pictures of any size and mode; each is fitted into a square, small ones with their pixels kept visible.
        captions: one per image; line breaks are kept, and lines that are too long are cut.
        path: the file to write; its folder is made.
        columns: images per row.
        size: side of the squares, in pixels.

    Raises:
        ValueError: if there are no images, or not one caption for each.
        UserError: if the file cannot be written.
    """
    if not images or len(images) != len(captions):
        raise ValueError(f"a sheet needs one caption for each image; there are {len(images)} images and "
                         f"{len(captions)} captions")
    gap, line_height, letters = 14, 18, font(14)
    columns = max(1, min(columns, len(images)))
    rows = math.ceil(len(images) / columns)
    lines = [[_fit_text(line, letters, size) for line in caption.split("\n")] for caption in captions]
    cell = (size + gap, size + line_height * max(map(len, lines)) + gap + 6)
    sheet = Image.new("RGB", (columns * cell[0] + gap, rows * cell[1] + gap), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (image, texts) in enumerate(zip(images, lines)):
        left, top = gap + number % columns * cell[0], gap + number // columns * cell[1]
        fitted = _fit_image(image.convert("RGB"), size)
        sheet.paste(fitted, (left + (size - fitted.width) // 2, top + (size - fitted.height) // 2))
        for row, text in enumerate(texts):
            pen.text((left + size / 2, top + size + 6 + row * line_height), text, fill=TEXT, font=letters, anchor="ma")
    _write(sheet, Path(path))


def _fit_image(image: Image.Image, size: int) -> Image.Image:
    """Scale an image so that its longer side has ``size`` pixels."""
    factor = size / max(image.size)
    resample = Image.Resampling.NEAREST if factor >= 3 else Image.Resampling.LANCZOS
    return image.resize((max(1, round(image.width * factor)), max(1, round(image.height * factor))), resample)


def _fit_text(text: str, letters: ImageFont.FreeTypeFont, width: int) -> str:
    """Cut a line that is wider than ``width`` pixels, and mark the cut with an ellipsis."""
    if letters.getlength(text) <= width:
        return text
    while text and letters.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _write(image: Image.Image, path: Path) -> None:
    """Write a PNG under a temporary name and rename it, so that a reader never meets half a picture."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(temporary, format="PNG")
        os.replace(temporary, path)
    except OSError as error:
        if path.parent.is_dir():
            temporary.unlink(missing_ok=True)
        raise UserError(f"the picture '{path}' cannot be written ({error.strerror or error}).") from None
