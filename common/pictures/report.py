"""The report of an evaluation: accuracy of every class, confusion matrix, and the mistakes, the most confident first.
"""

from pathlib import Path
from typing import Any, Iterable, Sequence

import numpy as np

from common.dataset.classes import names_for
from common.files import write_rows
from common.metric import UNANSWERED, UNREAD, Answers
from common.pictures.confusion import draw_confusion
from common.pictures.figure import can_draw, write_figure
from common.pictures.sheet import TILE, image_sheet, one_line, short_names, with_share
from common.pictures.style import write_picture

FILES = ("confusion.png", "mistakes.png", "classes.csv", "mistakes.csv")
DRAWN_MISTAKES, COLUMNS = 24, 6


def write_report(answers: Answers, folder: Path) -> None:
    """Write ``FILES`` into a folder.

    Raises:
        UserError: if a file cannot be written.
    """
    samples, matrix, mistakes = answers.samples, answers.matrix(), answers.mistakes()
    names = names_for(samples.classes, len(samples.classes))
    names += [f"class {number}" for number in range(len(names), matrix.shape[1])]
    unanswered = int((answers.predicted == UNANSWERED).sum())
    write_rows(folder / "classes.csv", ("class", "name", "images", "correct", "accuracy", "mostly_taken_for", "times"),
               _class_rows(matrix, answers, names))
    write_rows(folder / "mistakes.csv", ("image", "class", "name", "predicted_class", "predicted_name", "probability"),
               _mistake_rows(answers, mistakes, names))
    if can_draw(str(folder / "confusion.png")):
        write_figure(draw_confusion(matrix, names, unanswered), folder / "confusion.png")
    draw_mistakes(answers, mistakes, names, folder / "mistakes.png")


def draw_mistakes(answers: Answers, mistakes: Sequence[int], names: Sequence[str], path: Path) -> None:
    """Draw the first mistakes, each with the true class and what the network took it for.

    Raises:
        UserError: if the file cannot be written.
    """
    count = int((answers.predicted != UNREAD).sum())
    title = f"{len(mistakes)} of {count} images are wrong"
    if not len(mistakes):
        write_picture(one_line(f"{title}."), path)
        return
    shown = [int(index) for index in mistakes[:DRAWN_MISTAKES]]
    said = [names[answers.predicted[index]] if answers.predicted[index] >= 0 else "no answer" for index in shown]
    shares = [float(answers.probability[index]) if answers.predicted[index] >= 0 else None for index in shown]
    files = short_names([answers.samples.where(index) for index in shown])
    true = [names[answers.samples.labels[index]] for index in shown]
    captions = [f"{one if share is None else with_share(one, share)}\nis {name}\n{file}"
                for one, share, name, file in zip(said, shares, true, files)]
    title += f"; the {len(shown)} most confident" if len(mistakes) > len(shown) else ", the most confident first"
    image_sheet([answers.samples.load(index) for index in shown], captions, path, COLUMNS, TILE, title, shares)


def _class_rows(matrix: np.ndarray, answers: Answers, names: Sequence[str]) -> Iterable[Sequence[Any]]:
    """Yield a row per class; classes without images have no accuracy."""
    seen = np.bincount(answers.samples.labels[answers.predicted != UNREAD], minlength=len(matrix))
    for index, row in enumerate(matrix):
        others = np.delete(row, index)
        worst = int(others.argmax()) if others.size and others.max() else None
        taken = ("", "") if worst is None else (names[worst + (worst >= index)], others[worst])
        accuracy = f"{row[index] / seen[index]:.6f}" if seen[index] else ""
        yield index, names[index], seen[index], row[index], accuracy, *taken


def _mistake_rows(answers: Answers, mistakes: Sequence[int], names: Sequence[str]) -> Iterable[Sequence[Any]]:
    for index in map(int, mistakes):
        true, said = int(answers.samples.labels[index]), int(answers.predicted[index])
        found = (said, names[said], f"{answers.probability[index]:.6f}") if said >= 0 else ("", "", "")
        yield answers.samples.where(index), true, names[true], *found


