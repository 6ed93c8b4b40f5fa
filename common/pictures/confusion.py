"""The confusion matrix as a picture: of all classes, or, where they are many, of those that are confused most.

Imports without MindSpore.
"""
from typing import Sequence

import numpy as np
from PIL import ImageColor

from common.pictures.figure import TITLE_SIZE, Figure, open_figure
from common.pictures.style import BLUE, GRID, NOTE, ORANGE, TEXT

ALL_CLASSES = 24  # so many are drawn completely
MOST_CONFUSED = 20  # of more classes, so many are drawn
OTHER = "other classes"
CELL, LABEL = 0.42, 32  # inches of a cell, and letters of the longest label
NOTICE = "colour: share of the images of the row"


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


def draw_confusion(matrix: np.ndarray, names: Sequence[str], unanswered: int = 0) -> Figure:
    """Draw a confusion matrix; right answers are blue, mistakes orange.

    Args:
        matrix: counts (K, P), rows are true classes, columns predicted ones. A network may have more outputs than there
            are classes (P > K).
        names: of the P columns, of which the first K are those of the rows.
        unanswered: images for which the network named no class.
    """
    total, right = int(matrix.sum()) + unanswered, int(np.trace(matrix))
    title = f"{100 * right / max(total, 1):.2f} % of {total} images are right"
    if matrix.shape[1] <= ALL_CLASSES:
        return _draw_table(matrix, names[:len(matrix)], names, title)
    chosen = most_confused(matrix)
    if not chosen:
        return open_figure(7, 0.5, f"{title}: no class is taken for another.")
    part = matrix[np.ix_(chosen, chosen)]
    part = np.column_stack([part, matrix[chosen].sum(1) - part.sum(1)])
    labels = [names[index] for index in chosen]
    title += f"\nthe {len(chosen)} most confused of {len(matrix)} classes"
    return _draw_table(part, labels, [*labels, OTHER], title)


def _draw_table(matrix: np.ndarray, rows: Sequence[str], columns: Sequence[str], title: str) -> Figure:
    """Draw counts (R, C); those of the main diagonal are right. The labels stand around the figure's own area."""
    height, width = matrix.shape
    figure = open_figure(CELL * width, CELL * height)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    strength = np.where(matrix > 0, 0.12 + 0.88 * shares, 0)[..., None]  # a single mistake among many images is seen
    full = np.where(np.eye(height, width, dtype=bool)[..., None], ImageColor.getrgb(BLUE), ImageColor.getrgb(ORANGE))
    axes.pcolormesh(1 + strength * (full / 255 - 1), edgecolors=GRID, linewidth=0.8)
    for (row, column), count in np.ndenumerate(matrix):
        if count:
            axes.text(column + 0.5, row + 0.5, str(count) if count < 10000 else f"{count / 1000:.0f}k", fontsize=9,
                      ha="center", va="center", color="white" if strength[row, column] > 0.55 else TEXT)
    rows, columns = ([name if len(name) <= LABEL else name[:LABEL - 1] + "…" for name in names]
                     for names in (rows, columns))
    axes.set_yticks(np.arange(height) + 0.5, rows)
    axes.set_xticks(np.arange(width) + 0.5, columns, rotation=90 if max(map(len, columns)) > 3 else 0)
    axes.invert_yaxis()
    axes.tick_params(length=0, labelsize=10, colors=TEXT, labeltop=True, labelbottom=False)
    axes.xaxis.set_label_position("top")
    axes.set_xlabel("predicted class", color=NOTE, loc="left")
    axes.set_ylabel("true class", color=NOTE, loc="top")
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=TITLE_SIZE, fontweight="bold", color=TEXT, loc="left", pad=12)
    figure.text(0, -0.1 / (CELL * height), NOTICE, fontsize=9, color=NOTE, va="top")
    return figure
