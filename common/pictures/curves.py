"""Curves of runs over the epochs.

``python -m common.pictures curves RUN [RUN ...]`` draws the curves of one run, or of several runs over each other.
"""
import math
from collections import Counter
from pathlib import Path
from typing import Any, Iterable, Mapping, NamedTuple, Sequence

from common.command import Parser
from common.errors import UserError
from common.pictures.figure import (Axes, Figure, broken_lines, can_draw, open_figure, quiet_axes, short_number,
                                    show_epochs, write_figure)
from common.pictures.style import BLUE, DISTINCT, GREEN, NOTE, ORANGE, PURPLE
from common.run.history import HISTORY, read_history

LINES = ("-", "--")  # of several runs: first every colour with the first, then with the second
MOST_RUNS = len(LINES) * len(DISTINCT)  # in one picture
FAR_APART = 10  # factor between the highest learning rates of runs from which on they need a logarithmic axis
WIDTH, HEIGHT = 4.6, 3.9  # inches of a panel
MARKED_POINTS = 30  # a curve of at most so many points shows each of them as a dot
LEGEND_LETTERS = 11  # so many letters of a legend are an inch wide

Points = Sequence[tuple[float, float]]  # epoch and value, epochs ascending and every number finite


class Curve(NamedTuple):
    """One line of a panel: its name in the legend, and how it looks; ``marked``: few points are shown as dots."""

    label: str
    points: Points
    color: str
    line: str = LINES[0]
    marked: bool = True


class Panel(NamedTuple):
    """One pair of axes; the title names the quantity and its unit. ``log``: the values stand on a logarithmic axis."""

    title: str
    curves: Sequence[Curve]
    log: bool = False


def plot_history(history: Sequence[Mapping[str, Any]], path: str | Path, title: str) -> None:
    """Write the curves of a run as a picture; without matplotlib, say once that there is none.

    Args:
        history: what ``draw_history`` takes.
        path: the file to write; its folder is made.
        title: the heading.

    Raises:
        UserError: if the file cannot be written.
    """
    if can_draw(str(path)):
        write_figure(draw_history(history, title), path)


def draw_history(history: Sequence[Mapping[str, Any]], title: str, log_lr: bool = False) -> Figure:
    """Draw loss, accuracy and learning rate over the epochs; a panel without values is left out, but for the loss.

    Args:
        history: one mapping per epoch, with ``epoch`` (from 1), ``loss``, ``eval_loss``, ``lr`` and the fractions
            ``top1`` and ``top5``, each of which may be missing, None, NaN or infinite. Of several mappings of one epoch
            (a resumed run repeats some) the last counts.
        title: the heading.
        log_lr: the learning rate on a logarithmic axis.
    """
    accuracy = []
    for key, name, color in (("top1", "top-1", GREEN), ("top5", "top-5", PURPLE)):
        points = _points(history, key, factor=100)
        best = f" (best {max(value for _, value in points):.2f})" if points else ""
        accuracy.append(Curve(name + best, points, color))
    losses = Curve("train", _points(history, "loss"), BLUE), Curve("eval", _points(history, "eval_loss"), ORANGE)
    rates = [(epoch, value) for epoch, value in _points(history, "lr") if value > 0 or not log_lr]
    panels = [Panel("Loss", losses), Panel("Accuracy (%)", accuracy),
              Panel("Learning rate", [Curve("at the end of the epoch", rates, BLUE)], log_lr)]
    figure, axes = _open_panels(panels, [history], title)
    for panel in axes:
        if panel.lines:
            panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2, frameon=False)
    return figure


def draw_comparison(histories: Mapping[str, Sequence[Mapping[str, Any]]], log_lr: bool = False) -> Figure:
    """Draw the numbers of several runs over each other, with one legend for all panels.

    Args:
        histories: name of a run -> what ``draw_history`` takes; at most ``MOST_RUNS``.
        log_lr: the learning rate on a logarithmic axis, which it also gets where the runs are far apart.
    """
    looks = [(color, line) for line in LINES for color in DISTINCT]
    panels = []
    for title, key, factor in (("Training loss", "loss", 1), ("Evaluation loss", "eval_loss", 1),
                               ("Top-1 accuracy (%)", "top1", 100), ("Learning rate", "lr", 1)):
        points = {name: _points(history, key, factor) for name, history in histories.items()}
        log_axis = False
        if key == "lr":
            peaks = [peak for found in points.values() if (peak := max((value for _, value in found), default=0)) > 0]
            log_axis = log_lr or bool(peaks) and max(peaks) >= FAR_APART * min(peaks)
        if log_axis:
            points = {name: [point for point in found if point[1] > 0] for name, found in points.items()}
        panels.append(Panel(title, [Curve(name, found, *look, marked=False)
                                    for (name, found), look in zip(points.items(), looks)], log_axis))
    figure, axes = _open_panels(panels, histories.values(), f"{len(histories)} runs")
    from matplotlib.lines import Line2D

    inches = figure.get_size_inches()[0]
    names = [broken_lines(name, int(inches * LEGEND_LETTERS) - 8) for name in histories]
    widest = max(len(line) for name in names for line in name.split("\n")) + 8
    figure.legend([Line2D([], [], color=color, linestyle=line) for color, line in looks], names,
                  loc="outside lower center", ncols=max(1, min(len(names), int(inches * LEGEND_LETTERS / widest))),
                  frameon=False)
    return figure


def _open_panels(panels: Sequence[Panel], histories: Iterable[Sequence[Mapping[str, Any]]], title: str
                 ) -> tuple[Figure, list[Axes]]:
    """Draw panels with values side by side, over the same epochs."""
    panels = [panel for panel in panels
              if panel.title == panels[0].title or any(curve.points for curve in panel.curves)]
    numbers = [row["epoch"] for history in histories for row in history] or [1]
    room = 0.03 * (max(numbers) - min(numbers)) or 0.5
    rows = 2 if len(panels) > 3 else 1
    columns = math.ceil(len(panels) / rows)
    figure = open_figure(WIDTH * columns, HEIGHT * rows, title)
    all_axes = [figure.add_subplot(rows, columns, number + 1) for number in range(len(panels))]
    for axes, panel in zip(all_axes, panels):
        quiet_axes(axes, panel.title)
        show_epochs(axes, min(numbers) - room, max(numbers) + room)
        _scale_values(axes, panel)
        for curve in panel.curves:
            _draw_curve(axes, curve)
    return figure, all_axes


def _scale_values(axes: Axes, panel: Panel) -> None:
    """Choose the axis of the values: plain numbers, without a common factor that would stand apart from them."""
    from matplotlib.ticker import LogLocator, NullFormatter

    if not any(curve.points for curve in panel.curves):
        axes.text(0.5, 0.5, "no values", transform=axes.transAxes, ha="center", color=NOTE)
    if panel.log:
        axes.set_yscale("log")
        values = [value for curve in panel.curves for _, value in curve.points]
        short = max(values) < 100 * min(values)  # powers of ten alone would be too few
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if short else (1,)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(short_number)


def _draw_curve(axes: Axes, curve: Curve) -> None:
    """Draw a curve with gaps where epochs are missing; a point that stands alone is a dot."""
    if not curve.points:
        return
    epochs, values = zip(*with_gaps(curve.points))
    drawn = [False, *map(math.isfinite, values), False]
    every = curve.marked and len(curve.points) <= MARKED_POINTS
    dots = [i for i in range(len(values)) if every or not (drawn[i] or drawn[i + 2])]
    axes.plot(epochs, values, color=curve.color, linestyle=curve.line, linewidth=1.8, label=curve.label, marker="o",
              markersize=4.5, markevery=dots)


def with_gaps(points: Points) -> list[tuple[float, float]]:
    """Put NaN where points are missing: where the step between two epochs is larger than it usually is.

    A value that is measured every five epochs has no gap, a value that is there but for one epoch has one.
    """
    steps = [b[0] - a[0] for a, b in zip(points, points[1:])]
    usual = max(Counter(steps).items(), key=lambda item: (item[1], item[0]))[0] if steps else 0
    found = list(points[:1])
    for step, point in zip(steps, points[1:]):
        found += [(point[0], math.nan), point] if step > usual * (1 + 1e-6) else [point]
    return found


def _points(history: Iterable[Mapping[str, Any]], key: str, factor: float = 1.0) -> Points:
    """Return (epoch, value) of every epoch whose value is a finite number."""
    values = {row["epoch"]: row.get(key) for row in history}
    return [(epoch, factor * value) for epoch, value in sorted(values.items())
            if isinstance(value, (int, float)) and math.isfinite(value)]


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
    parser.add_argument("--out", default="curves.png", help="picture, .png, .pdf or .svg; default: %(default)s")
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
    figure = (draw_history(histories[names[0]], names[0], options.log_lr) if len(paths) == 1 else
              draw_comparison(histories, options.log_lr))
    write_figure(figure, options.out)
    return f"{len(paths)} run{'s' if len(paths) > 1 else ''}: {options.out}"
