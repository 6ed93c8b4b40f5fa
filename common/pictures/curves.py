"""Pictures of runs: curves over the epochs, and sheets of images.

``python -m common.pictures curves RUN [RUN ...]`` draws the curves of one run, or of several runs over each other.
"""

import logging
import math
from pathlib import Path
from typing import Any, Iterable, Mapping, Sequence

from common.command import Parser
from common.errors import UserError
from common.pictures.chart import BLUE, DISTINCT, GREEN, ORANGE, PURPLE, Curve, Panel, draw_panels
from common.pictures.text import write_picture
from common.run import HISTORY, read_history

MOST_RUNS = 2 * len(DISTINCT)  # in one picture: each colour once as a line, once dashed
FAR_APART = 10  # factor between the highest learning rates of runs from which on they need a logarithmic axis

log = logging.getLogger(__name__)


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


def _run_names(paths: Sequence[Path]) -> list[str]:
    """Name runs as briefly as tells them apart: by their folders, with as many folders above as needed."""
    folders = [(path.parent if path.name == HISTORY else path).resolve() for path in paths]
    for count in range(1, max(len(folder.parts) for folder in folders)):
        names = ["/".join(folder.parts[-count:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    raise UserError("a run is named twice; name each of them once.")


def show_curves(argv: Sequence[str]) -> str:
    """Draw the runs that a command line names; returns what to tell."""
    parser = Parser("common.pictures curves", "Draw loss, accuracy and learning rate of one run, or of several over "
                    "each other.")
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
