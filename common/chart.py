"""Curves in panels, drawn to an image: with matplotlib, or with Pillow alone. Imports without MindSpore.

Both ways get the same curves, ticks and labels from ``Panel``, so the pictures say the same.
"""
import math
from collections import Counter
from dataclasses import dataclass
from typing import Sequence

from PIL import Image, ImageDraw, ImageFont

PANEL_SIZE = (460, 380)  # pixels, width and height of one panel with its title and labels
HEADING = 32  # pixels above the panels
MARGINS = (66, 64, 18, 52)  # pixels of a panel left, above, right and below the area where the curves are
LINE, DOT = 2.5, 3.5  # pixels, thickness of a curve and radius of a dot
MARKED_POINTS = 30  # a curve of at most so many points shows each of them as a dot
BLUE, ORANGE, GREEN, PURPLE = "#1f62ac", "#de6810", "#228b4a", "#8252a8"
TEXT, FRAME, GRID = "#282828", "#6e6e6e", "#e1e1e1"


@dataclass(frozen=True)
class Curve:
    """One line of a panel: its legend and its points, epochs ascending and every number finite."""

    label: str
    points: tuple[tuple[float, float], ...]
    color: str

    @property
    def has_dots(self) -> bool:
        """Whether every point is shown, and not the line alone."""
        return len(self.points) <= MARKED_POINTS

    def pieces(self) -> list[list[tuple[float, float]]]:
        """Split the points where some are missing: where the step between two epochs is larger than it usually is.

        A value that is measured every five epochs is one piece, a value that is there but for one epoch two.
        """
        steps = [b[0] - a[0] for a, b in zip(self.points, self.points[1:])]
        usual = max(Counter(steps).items(), key=lambda item: (item[1], item[0]))[0] if steps else 0
        pieces = [[self.points[0]]]
        for step, point in zip(steps, self.points[1:]):
            if step > usual:
                pieces.append([])
            pieces[-1].append(point)
        return pieces


@dataclass(frozen=True)
class Panel:
    """One pair of axes; the title names the quantity and its unit, and all panels of a picture show the same epochs."""

    title: str
    curves: tuple[Curve, ...]
    epochs: tuple[float, float]

    def ticks(self, axis: int) -> list[float]:
        """Return the tick positions of the epochs (``axis`` 0) or of the values (1)."""
        if axis == 0:
            return nice_ticks(*self.epochs, integers=True)
        values = [value for curve in self.curves for _, value in curve.points] or [0.0]
        return nice_ticks(min(values), max(values))

    def limits(self, axis: int) -> tuple[float, float]:
        """Return the range of the epochs (``axis`` 0) or of the values (1), with some room at both ends."""
        low, high = self.epochs if axis == 0 else (self.ticks(1)[0], self.ticks(1)[-1])
        room = 0.03 * (high - low) or 0.5
        return low - room, high + room


def draw_panels(panels: Sequence[Panel], title: str) -> Image.Image:
    """Draw panels side by side under a title: with matplotlib where it is installed, otherwise with Pillow."""
    try:
        return draw_with_matplotlib(panels, title)
    except ImportError:
        return draw_with_pillow(panels, title)


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


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """Write ticks with as few decimals as tell them apart, or as ``2e-5`` where they are very small or large."""
    largest = max(abs(tick) for tick in ticks)
    form = "f" if largest == 0 or 1e-3 <= largest < 1e6 else "e"
    for places in range(13):
        labels = [f"{tick:.{places}{form}}" for tick in ticks]
        if all(math.isclose(float(label), tick, rel_tol=1e-6) for label, tick in zip(labels, ticks)):
            break
    if form == "e":
        labels = [f"{mantissa}e{int(exponent)}" for mantissa, exponent in (label.split("e") for label in labels)]
    return ["0" if tick == 0 and form == "e" else label for label, tick in zip(labels, ticks)]


def draw_with_matplotlib(panels: Sequence[Panel], title: str) -> Image.Image:
    """Draw panels side by side with matplotlib; raises ImportError where it is missing or broken."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width, height, point = PANEL_SIZE[0] * len(panels) / 100, (PANEL_SIZE[1] + HEADING) / 100, 0.72
    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")  # at 100 dpi a pixel is 0.72 points
    canvas = FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold", parse_math=False)
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
        axes.set_title(panel.title, loc="left", fontsize=12, pad=26)
        axes.set_xlabel("epoch")
        for axis, (set_limits, set_ticks) in enumerate(((axes.set_xlim, axes.set_xticks),
                                                        (axes.set_ylim, axes.set_yticks))):
            set_limits(*panel.limits(axis))
            set_ticks(panel.ticks(axis), tick_labels(panel.ticks(axis)))
        axes.grid(color=GRID)
        axes.set_axisbelow(True)
        for curve in panel.curves:
            for number, piece in enumerate(curve.pieces()):
                axes.plot(*zip(*piece), color=curve.color, linewidth=LINE * point,
                          marker="o" if curve.has_dots or len(piece) == 1 else None, markersize=2 * DOT * point,
                          label=curve.label if number == 0 else None)
        if panel.curves:
            axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.98), ncols=2, frameon=False, fontsize=10)
        else:
            axes.text(0.5, 0.5, "no values", transform=axes.transAxes, ha="center")
    canvas.draw()
    return Image.frombuffer("RGBA", canvas.get_width_height(), bytes(canvas.buffer_rgba())).convert("RGB")


def draw_with_pillow(panels: Sequence[Panel], title: str) -> Image.Image:
    """Draw panels side by side with Pillow: lines at four times the size and scaled down, then sharp text on top."""
    image = Image.new("RGB", (PANEL_SIZE[0] * len(panels), PANEL_SIZE[1] + HEADING), "white")
    for number, panel in enumerate(panels):
        image.paste(_PillowPanel(panel).draw(), (number * PANEL_SIZE[0], HEADING))
    ImageDraw.Draw(image).text((16, 12), title, fill=TEXT, font=font(18), stroke_width=0.3, stroke_fill=TEXT)
    return image


class _PillowPanel:
    """One pair of axes, drawn with Pillow. All coordinates are pixels of the finished picture."""

    SCALE = 4

    def __init__(self, panel: Panel):
        width, height = PANEL_SIZE
        left, above, right, below = MARGINS
        self.panel = panel
        self.limits = panel.limits(0), panel.limits(1)
        self.left, self.top, self.right, self.bottom = left, above, width - right, height - below
        self.large = Image.new("RGB", (width * self.SCALE, height * self.SCALE), "white")
        self.pen = ImageDraw.Draw(self.large)
        self.words = []  # (position, text, anchor, size), written after the lines are scaled down

    def draw(self) -> Image.Image:
        """Draw everything and return the picture."""
        self.draw_axes()
        for curve in self.panel.curves:
            self.draw_curve(curve)
        self.draw_legend()
        image = self.large.resize(PANEL_SIZE, Image.Resampling.BOX)
        pen = ImageDraw.Draw(image)
        for position, text, anchor, size in self.words:
            pen.text(position, text, fill=TEXT, font=font(size), anchor=anchor)
        return image

    def draw_axes(self) -> None:
        """Draw the frame, the grid with its labels, and the titles."""
        for tick, label in zip(self.panel.ticks(0), tick_labels(self.panel.ticks(0))):
            x = self.place(tick, 0)[0]
            self.line([(x, self.top), (x, self.bottom)], GRID, 1)
            self.words.append(((x, self.bottom + 8), label, "ma", 13))
        for tick, label in zip(self.panel.ticks(1), tick_labels(self.panel.ticks(1))):
            y = self.place(0, tick)[1]
            self.line([(self.left, y), (self.right, y)], GRID, 1)
            self.words.append(((self.left - 8, y), label, "rm", 13))
        self.line([(self.left, self.top), (self.right, self.top), (self.right, self.bottom), (self.left, self.bottom),
                   (self.left, self.top)], FRAME, 1)
        middle = (self.left + self.right) / 2
        self.words.append(((self.left, self.top - 34), self.panel.title, "ls", 16))
        self.words.append(((middle, PANEL_SIZE[1] - 8), "epoch", "ms", 14))
        if not self.panel.curves:
            self.words.append(((middle, (self.top + self.bottom) / 2), "no values", "mm", 14))

    def draw_curve(self, curve: Curve) -> None:
        """Draw the pieces of a curve; a piece of one point is a dot."""
        for piece in curve.pieces():
            spots = [self.place(*point) for point in piece]
            self.line(spots, curve.color, LINE)
            for spot in spots:  # without dots, this rounds the joints
                self.dot(*spot, curve.color, DOT if curve.has_dots or len(piece) == 1 else LINE / 2)

    def draw_legend(self) -> None:
        """Write the names of the curves between title and frame."""
        x, y = self.left, self.top - 15
        for curve in self.panel.curves:
            self.line([(x, y), (x + 24, y)], curve.color, LINE)
            if curve.has_dots:
                self.dot(x + 12, y, curve.color, DOT)
            self.words.append(((x + 30, y + 5), curve.label, "ls", 13))
            x += 30 + font(13).getlength(curve.label) + 18

    def place(self, epoch: float, value: float) -> tuple[float, float]:
        """Return where a point lies."""
        (first, last), (low, high) = self.limits
        return (self.left + (epoch - first) / (last - first) * (self.right - self.left),
                self.bottom - (value - low) / (high - low) * (self.bottom - self.top))

    def line(self, points: Sequence[tuple[float, float]], color: str, thickness: float) -> None:
        """Draw a line through points."""
        self.pen.line([(x * self.SCALE, y * self.SCALE) for x, y in points], color, round(thickness * self.SCALE))

    def dot(self, x: float, y: float, color: str, radius: float) -> None:
        """Draw a filled circle."""
        self.pen.ellipse([(x - radius) * self.SCALE, (y - radius) * self.SCALE, (x + radius) * self.SCALE,
                          (y + radius) * self.SCALE], color)


def font(size: int) -> ImageFont.FreeTypeFont:
    """Return the font that comes with Pillow, so that pictures look alike on every machine."""
    return ImageFont.load_default(size)
