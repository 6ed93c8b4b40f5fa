"""The confusion matrix as a picture: of all classes, or, where they are many, of those that are confused most.

Imports without MindSpore.
"""
from typing import Sequence

import numpy as np
from PIL import Image, ImageColor, ImageDraw

from common.pictures.chart import BLUE, FRAME, GRID, ORANGE, TEXT
from common.pictures.text import fit_text, font, text_width

ALL_CLASSES = 24  # so many are drawn completely
MOST_CONFUSED = 20  # of more classes, so many are drawn
OTHER = "other classes"
CELL, GAP, LABEL, LETTERS = 36, 16, 170, 14  # pixels: a cell, the margin, the longest label, height of the font
ROW_TITLE, COLUMN_TITLE, NOTE = "true class", "predicted class", "colour: share of the images of the row"


def most_confused(matrix: np.ndarray, count: int = MOST_CONFUSED) -> list[int]:
    """Return up to ``count`` classes with the most frequent confusions, those that are confused side by side.

    Args:
        matrix: counts (K, P), rows are true classes, columns predicted ones, P >= K.
        count: the most classes.
    """
    mistakes = matrix.astype(np.int64).copy()
    np.fill_diagonal(mistakes, 0)
    rows, columns = np.nonzero(mistakes)
    order = np.argsort(-mistakes[rows, columns], kind="stable")
    chosen: list[int] = []
    for true, predicted in zip(rows[order].tolist(), columns[order].tolist()):
        new = [index for index in (true, predicted) if index not in chosen and index < len(matrix)]
        if len(chosen) + len(new) > count:
            break
        place = chosen.index(true) + 1 if true in chosen else len(chosen)
        chosen[place:place] = new
    return chosen


def draw_confusion(matrix: np.ndarray, names: Sequence[str], unanswered: int = 0) -> Image.Image:
    """Draw a confusion matrix; right answers are blue, mistakes orange.

    Args:
        matrix: counts (K, P), rows are true classes, columns predicted ones. A network may have more outputs than there
            are classes (P > K).
        names: of the P columns, of which the first K are those of the rows.
        unanswered: images for which the network named no class.

    Returns:
        An RGB image.
    """
    total, right = int(matrix.sum()) + unanswered, int(np.trace(matrix))
    title = f"{100 * right / max(total, 1):.2f} % of {total} images are right"
    if matrix.shape[1] <= ALL_CLASSES:
        return _Table(matrix, np.eye(*matrix.shape, dtype=bool), list(names[:len(matrix)]), list(names), title).draw()
    chosen = most_confused(matrix)
    if not chosen:
        return message(f"{title}: no class is taken for another.")
    part = matrix[np.ix_(chosen, chosen)]
    part = np.column_stack([part, matrix[chosen].sum(1) - part.sum(1)])
    labels = [names[index] for index in chosen]
    return _Table(part, np.eye(*part.shape, dtype=bool), labels, [*labels, OTHER],
                  f"{title}; the {len(chosen)} most confused of {len(matrix)} classes").draw()


def message(text: str) -> Image.Image:
    """Return a picture of one line of text."""
    image = Image.new("RGB", (round(text_width(text, 18)) + 2 * GAP, 50), "white")
    ImageDraw.Draw(image).text((GAP, 25), text, fill=TEXT, font=font(18), anchor="lm")
    return image


class _Table:
    """A matrix with labelled rows and columns. All coordinates are pixels."""

    def __init__(self, matrix: np.ndarray, right: np.ndarray, rows: list[str], columns: list[str], title: str):
        self.matrix, self.right, self.title = matrix, right, title
        self.rows, self.columns = ([fit_text(name, LETTERS, LABEL) for name in names] for names in (rows, columns))
        widths = [[text_width(name, LETTERS) for name in names] for names in (self.rows, self.columns)]
        self.upright = max(widths[1]) > CELL - 6  # the column labels are turned
        self.left = round(2 * GAP + 24 + max(widths[0]))
        self.top = round(GAP + 3 * 26 + (max(widths[1]) if self.upright else LETTERS) + 8)
        size = (self.left + CELL * matrix.shape[1] + GAP, self.top + CELL * matrix.shape[0] + GAP)
        needed = [text_width(text, size) for text, size in ((title, 18), (NOTE, 13), (COLUMN_TITLE, LETTERS))]
        width = round(max(size[0], 2 * GAP + max(needed[:2]), self.left + needed[2] + GAP))
        height = round(max(size[1], self.top + text_width(ROW_TITLE, LETTERS) + GAP))
        self.image = Image.new("RGB", (width, height), "white")
        self.pen = ImageDraw.Draw(self.image)

    def draw(self) -> Image.Image:
        """Draw everything and return the picture."""
        self.pen.text((GAP, GAP), self.title, fill=TEXT, font=font(18))
        self.pen.text((GAP, GAP + 26), NOTE, fill=FRAME, font=font(13))
        self.pen.text((self.left, GAP + 52), COLUMN_TITLE, fill=FRAME, font=font(LETTERS))
        self.turned(ROW_TITLE, (GAP, self.top), FRAME)
        for row, name in enumerate(self.rows):
            middle = self.top + (row + 0.5) * CELL
            self.pen.text((self.left - 8, middle), name, fill=TEXT, font=font(LETTERS, name), anchor="rm")
        for column, name in enumerate(self.columns):
            middle = self.left + (column + 0.5) * CELL
            if self.upright:
                self.turned(name, (round(middle - LETTERS / 2 - 2), self.top - 8 - self.length(name)), TEXT)
            else:
                self.pen.text((middle, self.top - 10), name, fill=TEXT, font=font(LETTERS, name), anchor="ms")
        shares = self.matrix / np.maximum(self.matrix.sum(1, keepdims=True), 1)
        for (row, column), count in np.ndenumerate(self.matrix):
            self.cell(row, column, int(count), float(shares[row, column]))
        return self.image

    def cell(self, row: int, column: int, count: int, share: float) -> None:
        """Draw one cell; faint colours are lifted, so that a single mistake among many images is seen."""
        left, top = self.left + column * CELL, self.top + row * CELL
        strength = 0.12 + 0.88 * share if count else 0.0
        full = ImageColor.getrgb(BLUE if self.right[row, column] else ORANGE)
        color = tuple(round(255 + strength * (channel - 255)) for channel in full)
        self.pen.rectangle((left, top, left + CELL, top + CELL), fill=color, outline=GRID)
        if count:
            text = str(count) if count < 10000 else f"{count / 1000:.0f}k"
            self.pen.text((left + CELL / 2, top + CELL / 2), text, fill="white" if strength > 0.55 else TEXT,
                          font=font(13), anchor="mm")

    def length(self, text: str) -> int:
        """Return the width of a label."""
        return round(text_width(text, LETTERS)) + 2

    def turned(self, text: str, place: tuple[int, int], color: str) -> None:
        """Write a text from bottom to top; ``place`` is the upper left corner."""
        strip = Image.new("RGB", (self.length(text), LETTERS + 6), "white")
        ImageDraw.Draw(strip).text((1, 1), text, fill=color, font=font(LETTERS, text))
        self.image.paste(strip.transpose(Image.Transpose.ROTATE_90), place)
