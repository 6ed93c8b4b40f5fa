"""Curves in panels, drawn with Pillow.

Imports without MindSpore.
"""
import math
from collections import Counter
from dataclasses import dataclass
from typing import Iterator, Sequence

from PIL import Image, ImageDraw

from common.pictures.text import fit_text, font, legible, text_width

PANEL_SIZE = (460, 380)  # pixels, width and height of one panel with its title and labels
HEADING = 32  # pixels above the panels
MARGINS = (66, 64, 18, 52)  # pixels of a panel left, above, right and below the area where the curves are
LEGEND_ROW = 24  # pixels, height of a row of the legend that all panels share
LINE, DOT = 2.5, 3.5  # pixels, thickness of a curve and radius of a dot
DASH, SPACE = 9.0, 5.0  # pixels of a dashed curve
MARKED_POINTS = 30  # a curve of at most so many points shows each of them as a dot
BLUE, ORANGE, GREEN, PURPLE = "#1f62ac", "#de6810", "#228b4a", "#8252a8"
# Colours that also the colour-blind tell apart, but for the yellow, which is too faint on white. Source: Okabe and Ito
# 2008, "Color Universal Design".
DISTINCT = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
TEXT, FRAME, GRID, SHADE = "#282828", "#6e6e6e", "#e1e1e1", "#eceff4"


@dataclass(frozen=True)
class Curve:
    """One line of a panel: its legend and its points, epochs ascending and every number finite.

    ``whole``: points may lie at any distances, and none is missing between them. ``marked``: if they are few, each is
    shown as a dot.
    """

    label: str
    points: tuple[tuple[float, float], ...]
    color: str
    dashed: bool = False
    whole: bool = False
    marked: bool = True

    @property
    def has_dots(self) -> bool:
        """Whether every point is shown, and not the line alone."""
        return self.marked and len(self.points) <= MARKED_POINTS

    def pieces(self) -> list[list[tuple[float, float]]]:
        """Split the points where some are missing: where the step between two epochs is larger than it usually is.

        A value that is measured every five epochs is one piece, a value that is there but for one epoch two.
        """
        if self.whole:
            return [list(self.points)]
        steps = [b[0] - a[0] for a, b in zip(self.points, self.points[1:])]
        usual = max(Counter(steps).items(), key=lambda item: (item[1], item[0]))[0] if steps else 0
        pieces = [[self.points[0]]]
        for step, point in zip(steps, self.points[1:]):
            if step > usual * (1 + 1e-6):
                pieces.append([])
            pieces[-1].append(point)
        return pieces


@dataclass(frozen=True)
class Span:
    """A stretch of the epochs with a background of its own."""

    label: str
    epochs: tuple[float, float]
    color: str = SHADE


@dataclass(frozen=True)
class Panel:
    """One pair of axes; the title names the quantity and its unit, and all panels of a picture show the same epochs.

    ``log``: the values, all above 0, stand on a logarithmic axis.
    """

    title: str
    curves: tuple[Curve, ...]
    epochs: tuple[float, float]
    log: bool = False
    spans: tuple[Span, ...] = ()

    def ticks(self, axis: int) -> list[float]:
        """Return the tick positions of the epochs (``axis`` 0) or of the values (1)."""
        if axis == 0:
            return nice_ticks(*self.epochs, integers=True)
        values = [value for curve in self.curves for _, value in curve.points] or [1.0 if self.log else 0.0]
        return log_ticks(min(values), max(values)) if self.log else nice_ticks(min(values), max(values))

    def limits(self, axis: int) -> tuple[float, float]:
        """Return the range of the epochs (``axis`` 0) or of the values (1), with some room at both ends.

        That of values on a logarithmic axis is the range of their logarithms to base 10.
        """
        low, high = self.epochs if axis == 0 else (self.ticks(1)[0], self.ticks(1)[-1])
        if axis == 1 and self.log:
            low, high = math.log10(low), math.log10(high)
        room = 0.03 * (high - low) or 0.5
        return low - room, high + room


def draw_panels(panels: Sequence[Panel], title: str, legend: Sequence[Curve | Span] = (),
                size: tuple[int, int] = PANEL_SIZE) -> Image.Image:
    """Draw panels side by side under a title: lines at four times the size and scaled down, then sharp text on top.

    Args:
        panels: at least one.
        title: is cut where it is too long.
        legend: what is explained once for all panels; without it, each panel explains its own curves.
        size: width and height of one panel, in pixels.

    Returns:
        An RGB image.
    """
    width = size[0] * len(panels)
    rows = list(_legend_rows(legend, width - 32))
    top = HEADING + LEGEND_ROW * len(rows)
    image = Image.new("RGB", (width, size[1] + top), "white")
    for number, panel in enumerate(panels):
        image.paste(_Axes(panel, size, own_legend=not legend).draw(), (number * size[0], top))
    pen = ImageDraw.Draw(image)
    title = fit_text(title, 18, width - 32)
    pen.text((16, 12), title, fill=TEXT, font=font(18, title), stroke_width=0.3, stroke_fill=TEXT)
    for number, row in enumerate(rows):
        image.paste(_legend_row(row, width), (0, HEADING + LEGEND_ROW * number + 6))
    return image


def log_ticks(low: float, high: float, wanted: int = 7) -> list[float]:
    """Return ticks around positive values: powers of ten, and 2 and 5 times these where the range is short."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    if last - first > 2:
        step = math.ceil((last - first) / wanted)
        return [float(f"1e{n}") for n in range(first, last + step, step)]
    ticks = [float(f"{factor}e{n}") for n in range(first, max(last, first + 1) + 1) for factor in (1, 2, 5)]
    below = max(i for i, tick in enumerate(ticks) if tick <= low * (1 + 1e-9))
    above = min(i for i, tick in enumerate(ticks) if tick >= high * (1 - 1e-9))
    return ticks[below:max(above, below + 1) + 1]


def nice_ticks(low: float, high: float, integers: bool = False, wanted: int = 6) -> list[float]:
    """Return about ``wanted`` round numbers (1, 2, 2.5 or 5 times a power of ten apart).

    Epochs (``integers``) get ticks within the range; values get ticks around it, so that every point lies between two.
    """
    if low == high and not integers:
        low, high = (low - abs(low) / 2, high + abs(high) / 2) if low else (0.0, 1.0)
    raw = max((high - low) / wanted, 1.0 if integers else abs(high) * 1e-6)
    power = 10.0 ** math.floor(math.log10(raw))
    factors = (1, 2, 5, 10) if integers else (1, 2, 2.5, 5, 10)
    step = next((f for f in factors if f * power >= raw * (1 - 1e-9)), 10) * power
    first, last = ((math.ceil, math.floor) if integers else (math.floor, math.ceil))
    slack = 1e-9 if integers else -1e-9
    start, stop = first(low / step - slack), last(high / step + slack)
    return [float(f"{n * step:.12g}") for n in range(start, stop + 1)]


def tick_labels(ticks: Sequence[float], log: bool = False) -> list[str]:
    """Write ticks with as few decimals as tell them apart, or as ``2e-5`` where they are very small or large.

    Those of a logarithmic axis (``log``) are written one by one.
    """
    if log:
        plain = all(1e-3 <= tick < 1e6 for tick in ticks)
        return [f"{tick:g}" if plain else f"{tick:.0e}".replace("e-0", "e-").replace("e+0", "e") for tick in ticks]
    largest = max(abs(tick) for tick in ticks)
    form = "f" if largest == 0 or 1e-3 <= largest < 1e6 else "e"
    for places in range(13):
        labels = [f"{tick:.{places}{form}}" for tick in ticks]
        if all(math.isclose(float(label), tick, rel_tol=1e-6) for label, tick in zip(labels, ticks)):
            break
    if form == "e":
        labels = [f"{mantissa}e{int(exponent)}" for mantissa, exponent in (label.split("e") for label in labels)]
    return ["0" if tick == 0 and form == "e" else label for label, tick in zip(labels, ticks)]


def _legend_width(entry: Curve | Span) -> float:
    return 30 + text_width(entry.label, 13) + 18


def _legend_rows(entries: Sequence[Curve | Span], width: int) -> Iterator[list[Curve | Span]]:
    """Distribute entries over rows of ``width`` pixels."""
    row: list[Curve | Span] = []
    for entry in entries:
        if row and sum(map(_legend_width, [*row, entry])) > width:
            yield row
            row = []
        row.append(entry)
    if row:
        yield row


def _legend_row(entries: Sequence[Curve | Span], width: int) -> Image.Image:
    """Draw a row of the shared legend, (width, LEGEND_ROW) pixels."""
    canvas = _Canvas((width, LEGEND_ROW))
    canvas.explain(entries, 16, LEGEND_ROW // 2)
    return canvas.finish()


class _Canvas:
    """A picture of lines and words. All coordinates are pixels of the finished picture."""

    SCALE = 4

    def __init__(self, size: tuple[int, int]):
        self.size = size
        self.large = Image.new("RGB", (size[0] * self.SCALE, size[1] * self.SCALE), "white")
        self.pen = ImageDraw.Draw(self.large)
        self.words = []  # (position, text, anchor, size), written after the lines are scaled down

    def finish(self) -> Image.Image:
        """Scale the lines down, and write the words."""
        image = self.large.resize(self.size, Image.Resampling.BOX)
        pen = ImageDraw.Draw(image)
        for position, text, anchor, size in self.words:
            pen.text(position, legible(text), fill=TEXT, font=font(size, text), anchor=anchor)
        return image

    def line(self, points: Sequence[tuple[float, float]], color: str, thickness: float) -> None:
        """Draw a line through points."""
        self.pen.line([(x * self.SCALE, y * self.SCALE) for x, y in points], color, round(thickness * self.SCALE))

    def dot(self, x: float, y: float, color: str, radius: float) -> None:
        """Draw a filled circle."""
        self.pen.ellipse([(x - radius) * self.SCALE, (y - radius) * self.SCALE, (x + radius) * self.SCALE,
                          (y + radius) * self.SCALE], color)

    def box(self, left: float, top: float, right: float, bottom: float, color: str) -> None:
        """Draw a filled rectangle."""
        self.pen.rectangle([value * self.SCALE for value in (left, top, right, bottom)], color)

    def explain(self, entries: Sequence[Curve | Span], x: float, y: float) -> None:
        """Write a legend from a place to the right."""
        for entry in entries:
            if isinstance(entry, Span):
                self.box(x, y - 6, x + 24, y + 6, entry.color)
            else:
                if len(entry.points) != 1:
                    for piece in dashes([(x, y), (x + 24, y)]) if entry.dashed else [[(x, y), (x + 24, y)]]:
                        self.line(piece, entry.color, LINE)
                if entry.has_dots:
                    self.dot(x + 12, y, entry.color, DOT)
            self.words.append(((x + 30, y + 5), entry.label, "ls", 13))
            x += _legend_width(entry)


def dashes(points: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """Cut a line through points into dashes."""
    pieces, piece, left, drawing = [], [points[0]], DASH, True
    for (x, y), (end_x, end_y) in zip(points, points[1:]):
        length = math.hypot(end_x - x, end_y - y)
        while length > left:
            x, y = x + (end_x - x) * left / length, y + (end_y - y) * left / length
            length -= left
            if drawing:
                pieces.append([*piece, (x, y)])
            drawing = not drawing
            piece, left = [(x, y)], DASH if drawing else SPACE
        left -= length
        piece.append((end_x, end_y))
    return pieces + ([piece] if drawing and len(piece) > 1 else [])


class _Axes(_Canvas):
    """One pair of axes."""

    def __init__(self, panel: Panel, size: tuple[int, int], own_legend: bool):
        super().__init__(size)
        left, above, right, below = MARGINS
        self.panel, self.own_legend = panel, own_legend
        self.limits = panel.limits(0), panel.limits(1)
        above -= 0 if own_legend else LEGEND_ROW
        self.left, self.top, self.right, self.bottom = left, above, size[0] - right, size[1] - below

    def draw(self) -> Image.Image:
        """Draw everything and return the picture."""
        self.draw_axes()
        for curve in self.panel.curves:
            self.draw_curve(curve)
        if self.own_legend:
            self.explain(self.panel.curves, self.left, self.top - 15)
        return self.finish()

    def draw_axes(self) -> None:
        """Draw the frame, the grid with its labels, and the titles."""
        for span in self.panel.spans:
            self.box(self.place(span.epochs[0], None)[0], self.top, self.place(span.epochs[1], None)[0], self.bottom,
                     span.color)
        for tick, label in zip(self.panel.ticks(0), tick_labels(self.panel.ticks(0))):
            x = self.place(tick, None)[0]
            self.line([(x, self.top), (x, self.bottom)], GRID, 1)
            self.words.append(((x, self.bottom + 8), label, "ma", 13))
        for tick, label in zip(self.panel.ticks(1), tick_labels(self.panel.ticks(1), self.panel.log)):
            y = self.place(self.panel.epochs[0], tick)[1]
            self.line([(self.left, y), (self.right, y)], GRID, 1)
            self.words.append(((self.left - 8, y), label, "rm", 13))
        self.line([(self.left, self.top), (self.right, self.top), (self.right, self.bottom), (self.left, self.bottom),
                   (self.left, self.top)], FRAME, 1)
        middle = (self.left + self.right) / 2
        self.words.append(((self.left, self.top - (34 if self.own_legend else 10)), self.panel.title, "ls", 16))
        self.words.append(((middle, self.size[1] - 8), "epoch", "ms", 14))
        if not self.panel.curves:
            self.words.append(((middle, (self.top + self.bottom) / 2), "no values", "mm", 14))

    def draw_curve(self, curve: Curve) -> None:
        """Draw the pieces of a curve; a piece of one point is a dot."""
        for piece in curve.pieces():
            spots = [self.place(*point) for point in piece]
            lines = dashes(spots) if curve.dashed else [spots]
            for line in lines:
                self.line(line, curve.color, LINE)
                for spot in [] if curve.has_dots else line:  # rounds the joints
                    self.dot(*spot, curve.color, LINE / 2)
            for spot in spots if curve.has_dots or len(spots) == 1 else []:
                self.dot(*spot, curve.color, DOT)

    def place(self, epoch: float, value: float | None) -> tuple[float, float]:
        """Return where a point lies; without a value, at the bottom."""
        (first, last), (low, high) = self.limits
        height = 0.0 if value is None else ((math.log10(value) if self.panel.log else value) - low) / (high - low)
        return (self.left + (epoch - first) / (last - first) * (self.right - self.left),
                self.bottom - height * (self.bottom - self.top))
