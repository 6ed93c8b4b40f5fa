"""Pictures of runs: curves over the epochs, and sheets of images. Imports without MindSpore.

``python -m common.pictures.curves RUN [RUN ...]`` draws the curves of one run, or of several runs over each other.
"""
import io
import json
import logging
import math
import sys
from pathlib import Path
from typing import Any, Iterable, Mapping, Sequence

from PIL import Image, ImageDraw

from common.pictures.sheet.chart import BLUE, Curve, DISTINCT, GREEN, GRID, ORANGE, PURPLE, Panel, TEXT, draw_panels
from common.command import Parser, run
from common.errors import UserError
from common.files import write_whole
from common.pictures.sheet.text import fit_text, font, legible, text_width

HISTORY = "history.jsonl"
LETTERS = 14  # pixels, height of the captions of a sheet
MOST_RUNS = 2 * len(DISTINCT)  # in one picture: each colour once as a line, once dashed
FAR_APART = 10  # factor between the highest learning rates of runs from which on they need a logarithmic axis

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


def plot_history(history: Sequence[Mapping[str, Any]], path: str | Path, title: str, log_lr: bool = False
                 ) -> None:
    """Write the curves of a run as PNG: loss, accuracy and learning rate over the epochs.

    Args:
        history: one mapping per epoch, with ``epoch`` (from 1), ``loss``, ``eval_loss``, ``lr`` and the fractions
            ``top1`` and ``top5``, each of which may be missing, None, NaN or infinite. Of several mappings of one epoch
            (a resumed run repeats some) the last counts. A panel without values is left out, but for the loss.
        path: the file to write; its folder is made.
        title: the heading.
        log_lr: the learning rate on a logarithmic axis.

    Raises:
        UserError: if the file cannot be written.
    """
    write_picture(draw_panels(history_panels(history, log_lr), title), path)


def history_panels(history: Sequence[Mapping[str, Any]], log_lr: bool = False) -> list[Panel]:
    """Sort the numbers of a history into panels."""
    accuracy = []
    for key, name, color in (("top1", "top-1", GREEN), ("top5", "top-5", PURPLE)):
        points = _points(history, key, factor=100)
        if points:
            accuracy.append(Curve(f"{name} (best {max(y for _, y in points):.2f})", points, color))
    loss = (Curve("train", _points(history, "loss"), BLUE), Curve("eval", _points(history, "eval_loss"), ORANGE))
    rates = tuple(point for point in _points(history, "lr") if point[1] > 0 or not log_lr)
    lr = Curve("at the end of the epoch", rates, BLUE)
    numbers = [row["epoch"] for row in history] or [1]
    epochs = (min(numbers), max(numbers))
    groups = (("Loss", loss), ("Accuracy (%)", accuracy), ("Learning rate", (lr,)))
    panels = [Panel(title, tuple(curve for curve in curves if curve.points), epochs,
                    log=log_lr and title == "Learning rate") for title, curves in groups]
    return [panel for panel in panels if panel.curves or panel.title == "Loss"]


def compare_histories(histories: Mapping[str, Sequence[Mapping[str, Any]]], log_lr: bool = False
                      ) -> tuple[list[Panel], list[Curve]]:
    """Lay the numbers of several runs over each other.

    Args:
        histories: name of a run -> what ``plot_history`` takes; at most ``MOST_RUNS``.
        log_lr: the learning rate on a logarithmic axis, which it also gets where the runs are far apart.

    Returns:
        The panels, those without values left out but for the loss, and a legend for all of them.
    """
    styles = {name: {"color": DISTINCT[i % len(DISTINCT)], "dashed": i >= len(DISTINCT), "marked": False}
              for i, name in enumerate(histories)}
    numbers = [row["epoch"] for history in histories.values() for row in history] or [1]
    panels = []
    for title, key, factor in (("Training loss", "loss", 1), ("Evaluation loss", "eval_loss", 1),
                               ("Top-1 accuracy (%)", "top1", 100), ("Learning rate", "lr", 1)):
        points = {name: _points(history, key, factor) for name, history in histories.items()}
        log_axis = False
        if key == "lr":
            peaks = [peak for found in points.values() if (peak := max((y for _, y in found), default=0)) > 0]
            log_axis = log_lr or bool(peaks) and max(peaks) >= FAR_APART * min(peaks)
        if log_axis:
            points = {name: tuple(point for point in found if point[1] > 0) for name, found in points.items()}
        curves = tuple(Curve(name, found, **styles[name]) for name, found in points.items() if found)
        if curves or key == "loss":
            panels.append(Panel(title, curves, (min(numbers), max(numbers)), log_axis))
    return panels, [Curve(name, (), **style) for name, style in styles.items()]


def _points(history: Iterable[Mapping[str, Any]], key: str, factor: float = 1.0) -> tuple[tuple[float, float], ...]:
    """Return (epoch, value) of every epoch whose value is a finite number."""
    values = {row["epoch"]: row.get(key) for row in history}
    return tuple((epoch, factor * value) for epoch, value in sorted(values.items())
                 if isinstance(value, (int, float)) and math.isfinite(value))


def image_sheet(images: Sequence[Image.Image], captions: Sequence[str], path: str | Path, columns: int = 5,
                size: int = 200, title: str = "", shares: Sequence[float | None] = ()) -> None:
    """Write images in rows, each with its caption below, as one PNG.

    Args:
        images: pictures of any size and mode; each is fitted into a square, small ones with their pixels kept visible.
        captions: one per image; line breaks are kept, and lines that are too long are cut.
        path: the file to write; its folder is made.
        columns: images per row.
        size: side of the squares, in pixels.
        title: stands above the images.
        shares: one per image, shown as a bar between image and caption, full at 1; None: no bar.

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
            pen.rectangle((left, top + size + 6, left + round(shares[number] * (size - 1)), top + size + 13), fill=BLUE)
        for row, text in enumerate(texts):
            pen.text((left + size / 2, top + size + bar + 6 + row * line_height), text, fill=TEXT,
                     font=font(LETTERS, text), anchor="ma")
    write_picture(sheet, path)


def _fit_image(image: Image.Image, size: int) -> Image.Image:
    """Scale an image so that its longer side has ``size`` pixels."""
    factor = size / max(image.size)
    resample = Image.Resampling.NEAREST if factor >= 3 else Image.Resampling.LANCZOS
    return image.resize((max(1, round(image.width * factor)), max(1, round(image.height * factor))), resample)


def write_picture(image: Image.Image, path: str | Path) -> None:
    """Write a picture as PNG.

    Raises:
        UserError: if it cannot be written, or the name is that of another format.
    """
    if Path(path).suffix.lower() not in (".png", ""):
        raise UserError(f"'{path}' ends in {Path(path).suffix}, but pictures are written as PNG; choose a name that "
                        "ends in .png.")
    encoded = io.BytesIO()
    image.save(encoded, format="PNG", optimize=True)
    write_whole(path, encoded.getvalue())


def _run_names(paths: Sequence[Path]) -> list[str]:
    """Name runs as briefly as tells them apart: by their folders, with as many folders above as needed."""
    folders = [(path.parent if path.name == HISTORY else path).resolve() for path in paths]
    for count in range(1, max(len(folder.parts) for folder in folders)):
        names = ["/".join(folder.parts[-count:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    raise UserError("a run is named twice; name each of them once.")


def main(argv: Sequence[str]) -> str:
    """Draw the runs that a command line names; returns what to tell."""
    parser = Parser("common.pictures.curves", "Draw loss, accuracy and learning rate of one run, or of several over each other.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help=f"folder of a run, or its {HISTORY}")
    parser.add_argument("--out", default="curves.png", help="picture to write (default: %(default)s)")
    parser.add_argument("--log_lr", action="store_true", help="learning rate on a logarithmic axis; several runs whose "
                        f"highest ones differ {FAR_APART} times get it anyway")
    options = parser.parse_args(argv)
    paths = [Path(text).expanduser() for text in options.runs]
    if len(paths) > MOST_RUNS:
        raise UserError(f"{len(paths)} runs are too many for one picture; draw at most {MOST_RUNS} at a time.")
    names = _run_names(paths)
    histories = {name: read_history(path / HISTORY if path.is_dir() else path) for name, path in zip(names, paths)}
    for path, history in zip(paths, histories.values()):
        if not history:
            raise UserError(f"history '{path}' holds no epoch yet; a run writes the first line when its first epoch "
                            "is done.")
    if len(paths) == 1:
        plot_history(histories[names[0]], options.out, names[0], options.log_lr)
    else:
        panels, legend = compare_histories(histories, options.log_lr)
        write_picture(draw_panels(panels, f"{len(paths)} runs", legend), options.out)
    return f"{len(paths)} run{'s' if len(paths) > 1 else ''}: {options.out}"


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))
