"""Diagrams of networks: rows of boxes with arrows, skip connections and a table, drawn with Pillow alone."""
from dataclasses import dataclass
from typing import Sequence

from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

SCALE = 2             # pixels per unit; all lengths below are in units
WIDTH = 1060          # of the picture
EDGE = 24             # around everything
TITLE, TEXT, SMALL = 23, 15, 13  # sizes of letters
LINE_HEIGHT = 19
ARC = 17              # height of the lowest skip connection above its row; the next one is higher by as much
LEAD = 22             # length of the arrows into and out of a row that is the inside of something
SHORTEST_ARROW, LONGEST_ARROW = 14, 34
COLORS = 24           # of the palette: flat pictures need no more
INK, GREY, RULE = "#222222", "#666666", "#bbbbbb"
FILLS = {"data": "#f3f3f3", "conv": "#fde3c8", "dense": "#d6e6f7", "attention": "#e8daf2", "norm": "#dff0de",
         "block": "#fff4c2"}


@dataclass(frozen=True)
class Step:
    """A box with lines of text, or a circle with a sign (``+`` or ``x``).

    Attributes:
        text: its lines; a circle has one sign.
        kind: its colour, see ``FILLS``.
        below: lines under the box, such as the shape of what leaves it.
    """

    text: str
    kind: str = "data"
    below: str = ""

    @property
    def is_sign(self) -> bool:
        return self.text in ("+", "x")


@dataclass(frozen=True)
class Arc:
    """A skip connection: from the arrow into step ``start`` to step ``end``; ``level`` 0 is the lowest."""

    start: int
    end: int
    label: str = ""
    level: int = 0


@dataclass(frozen=True)
class Row:
    """A heading and steps from left to right; with ``arcs`` it is the inside of something: arrows lead in and out."""

    heading: str
    steps: tuple[Step, ...]
    arcs: tuple[Arc, ...] = ()

    @property
    def lead(self) -> int:
        return LEAD if self.arcs else 0


@dataclass(frozen=True)
class Diagram:
    """A title, rows, and the lines of a table, of which the first names the columns."""

    title: str
    rows: tuple[Row, ...]
    table: tuple[tuple[str, ...], ...]

    def texts(self) -> list[str]:
        """Return all that is written in the picture, in reading order."""
        rows = [text for row in self.rows
                for text in (row.heading, *(part for step in row.steps for part in (step.text, step.below) if part),
                             *(arc.label for arc in row.arcs if arc.label))]
        return [self.title, *rows, *(" | ".join(line) for line in self.table)]


def save(diagram: Diagram, path) -> None:
    """Write a diagram as PNG; its texts stand in the file too, under the name Description."""
    description = PngImagePlugin.PngInfo()
    description.add_itxt("Description", "\n".join(diagram.texts()))
    picture = draw(diagram).quantize(COLORS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    picture.save(path, optimize=True, pnginfo=description)


def draw(diagram: Diagram) -> Image.Image:
    """Draw a diagram; it is as high as it needs to be.

    Raises:
        ValueError: if a row is wider than the picture.
    """
    height = EDGE + TITLE + 14 + sum(_height(row) for row in diagram.rows) + LINE_HEIGHT * len(diagram.table) + EDGE
    image = Image.new("RGB", (WIDTH * SCALE, height * SCALE), "white")
    pen = ImageDraw.Draw(image)
    _write(pen, EDGE, EDGE, diagram.title, TITLE)
    top = EDGE + TITLE + 14
    for row in diagram.rows:
        _draw_row(pen, row, top)
        top += _height(row)
    _draw_table(pen, diagram.table, top)
    return image


def _draw_row(pen: ImageDraw.ImageDraw, row: Row, top: float) -> None:
    _write(pen, EDGE, top, row.heading, TEXT, GREY)
    widths = [_width(step) for step in row.steps]
    arrow = min(LONGEST_ARROW, (WIDTH - 2 * EDGE - 2 * row.lead - sum(widths)) / (len(widths) - 1))
    if arrow < SHORTEST_ARROW:
        raise ValueError(f"'{row.heading}' is too wide by {(SHORTEST_ARROW - arrow) * (len(widths) - 1):.0f} units.")
    half = _box_height(row) / 2
    middle = top + LINE_HEIGHT + 8 + _arcs_height(row) + half
    lefts = [EDGE + row.lead + sum(widths[:i]) + i * arrow for i in range(len(widths))]
    if row.arcs:
        _arrow(pen, EDGE, lefts[0], middle)
        _arrow(pen, lefts[-1] + widths[-1], lefts[-1] + widths[-1] + LEAD, middle)
    for i, (step, left, width) in enumerate(zip(row.steps, lefts, widths)):
        if i:
            _arrow(pen, left - arrow, left, middle)
        if step.is_sign:
            _line(pen, [(left, middle - 11), (left + 22, middle + 11)], circle=True)
            _write(pen, left + 11, middle - 1, step.text, TEXT + 2, anchor="mm")
        else:
            _box(pen, left, middle - half, width, 2 * half, step)
        for number, line in enumerate(step.below.splitlines()):
            _write(pen, left + width / 2, middle + half + 5 + number * (SMALL + 3), line, SMALL, GREY, "mt")
    for arc in row.arcs:
        start = lefts[arc.start] - (arrow / 2 if arc.start else LEAD * 0.6)
        end, high = lefts[arc.end] + widths[arc.end] / 2, middle - half - ARC * (arc.level + 1) + 4
        landing = middle - (11 if row.steps[arc.end].is_sign else half)
        _line(pen, [(start, middle), (start, high), (end, high), (end, landing)])
        _head(pen, end, landing, down=True)
        if arc.label:
            _write(pen, (start + end) / 2, high, f" {arc.label} ", SMALL, GREY, "mm", paper="white")


def _draw_table(pen: ImageDraw.ImageDraw, table: Sequence[Sequence[str]], top: float) -> None:
    columns = [max(_length(line[i], SMALL + 1) for line in table) + 30 for i in range(len(table[0]))]
    for number, line in enumerate(table):
        for column, text in enumerate(line):
            _write(pen, EDGE + sum(columns[:column]), top + (number + 0.7) * LINE_HEIGHT, text, SMALL + 1,
                   INK if number else GREY, "ls")
    rule = (top + LINE_HEIGHT) * SCALE
    pen.line([(EDGE * SCALE, rule), ((EDGE + sum(columns)) * SCALE, rule)], RULE, SCALE)


def _box(pen: ImageDraw.ImageDraw, left: float, top: float, width: float, height: float, step: Step) -> None:
    corners = [value * SCALE for value in (left, top, left + width, top + height)]
    pen.rounded_rectangle(corners, 6 * SCALE, FILLS[step.kind], INK, SCALE)
    lines = step.text.splitlines()
    first = top + height / 2 - LINE_HEIGHT * (len(lines) - 1) / 2
    for number, line in enumerate(lines):
        _write(pen, left + width / 2, first + number * LINE_HEIGHT, line, TEXT, anchor="mm")


def _arrow(pen: ImageDraw.ImageDraw, start: float, end: float, height: float) -> None:
    _line(pen, [(start, height), (end, height)])
    _head(pen, end, height)


def _head(pen: ImageDraw.ImageDraw, x: float, y: float, down: bool = False) -> None:
    points = [(x, y), (x - 4, y - 7), (x + 4, y - 7)] if down else [(x, y), (x - 7, y - 4), (x - 7, y + 4)]
    pen.polygon([(a * SCALE, b * SCALE) for a, b in points], INK)


def _line(pen: ImageDraw.ImageDraw, points: Sequence[tuple[float, float]], circle: bool = False) -> None:
    scaled = [(x * SCALE, y * SCALE) for x, y in points]
    if circle:
        pen.ellipse(scaled, "white", INK, SCALE)
    else:
        pen.line(scaled, INK, SCALE)


def _write(pen: ImageDraw.ImageDraw, x: float, y: float, text: str, size: int, color: str = INK, anchor: str = "lt",
           paper: str = "") -> None:
    font, place = ImageFont.load_default(size * SCALE), (x * SCALE, y * SCALE)
    if paper:
        pen.rectangle(pen.textbbox(place, text, font, anchor), paper)
    pen.text(place, text, color, font, anchor)


def _length(text: str, size: int) -> float:
    return ImageFont.load_default(size * SCALE).getlength(text) / SCALE


def _width(step: Step) -> float:
    inside = 22 if step.is_sign else max(_length(line, TEXT) for line in step.text.splitlines()) + 16
    return max(inside, *(_length(line, SMALL) - 8 for line in step.below.splitlines() or [""]))


def _box_height(row: Row) -> int:
    return LINE_HEIGHT * max(len(step.text.splitlines()) for step in row.steps) + 14


def _arcs_height(row: Row) -> int:
    return ARC * max((arc.level + 1 for arc in row.arcs), default=0)


def _height(row: Row) -> int:
    below = max(len(step.below.splitlines()) for step in row.steps)
    return LINE_HEIGHT + 8 + _arcs_height(row) + _box_height(row) + (SMALL + 3) * below + 28
