"""The report of an evaluation: precision, recall and F1, calibration, confusion matrix, the most confident mistakes."""

from pathlib import Path
from typing import Any, Iterable, Sequence

import numpy as np

from common.dataset.classes import names_for
from common.files import write_rows
from common.metric import UNANSWERED, UNREAD, Answers
from common.pictures.calibration import BINS, Calibration, calibration, draw_calibration
from common.pictures.confusion import draw_confusion
from common.pictures.figure import can_draw, write_figure
from common.pictures.sheet import TILE, image_sheet, one_line, short_names, with_share
from common.pictures.style import write_picture

DRAWN = ("confusion.png", "calibration.png")  # by matplotlib
FILES = (*DRAWN, "mistakes.png", "metrics.csv", "classes.csv", "calibration.csv", "mistakes.csv")
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
    found = calibrated(answers)
    write_rows(folder / "metrics.csv", ("metric", "value"), metrics(matrix, answers, found).items())
    write_rows(folder / "classes.csv", ("class", "name", "images", "correct", "predicted", "precision", "recall", "f1",
                                        "mostly_taken_for", "times"), _class_rows(matrix, answers, names))
    write_rows(folder / "calibration.csv", ("above", "up_to", "images", "probability", "accuracy"), _bin_rows(found))
    write_rows(folder / "mistakes.csv", ("image", "class", "name", "predicted_class", "predicted_name", "probability"),
               _mistake_rows(answers, mistakes, names))
    if can_draw(" and ".join(str(folder / name) for name in DRAWN)):
        write_figure(draw_confusion(matrix, names, unanswered), folder / "confusion.png")
        write_figure(draw_calibration(found), folder / "calibration.png")
    draw_mistakes(answers, mistakes, names, folder / "mistakes.png")


def metrics(matrix: np.ndarray, answers: Answers, found: Calibration) -> dict[str, Any]:
    """Return the numbers of the whole evaluation; ``macro`` is the mean over the classes that have images."""
    seen = images_per_class(answers)
    scores = {f"macro_{name}": f"{values[seen > 0].mean():.6f}" for name, values in
              zip(("precision", "recall", "f1"), class_scores(matrix, seen))}
    return {"images": seen.sum(), "accuracy": f"{np.trace(matrix) / seen.sum():.6f}", **scores,
            "ece": f"{found.error:.6f}", "ece_bins": BINS}


def images_per_class(answers: Answers) -> np.ndarray:
    """Return how many images of each class were read, int64 (K,)."""
    read = answers.samples.labels[answers.predicted != UNREAD]
    return np.bincount(read, minlength=len(answers.samples.classes))


def class_scores(matrix: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return precision, recall and F1 of each class, float64 (K,); 0 where nothing is to be divided by.

    Args:
        matrix: counts (K, P) of true and predicted classes.
        seen: images of each class, also those without an answer.
    """
    right, predicted = np.diag(matrix), matrix.sum(0)[:len(matrix)]
    return (right / np.maximum(predicted, 1), right / np.maximum(seen, 1),
            2 * right / np.maximum(seen + predicted, 1))


def calibrated(answers: Answers) -> Calibration:
    """Sort the images with an answer into the bins of the calibration."""
    given = answers.predicted >= 0
    return calibration(answers.probability[given], answers.predicted[given] == answers.samples.labels[given])


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
    shares = [float(answers.probability[index]) if answers.predicted[index] >= 0 else None for index in shown]
    said = ["no answer" if share is None else names[answers.predicted[index]] for index, share in zip(shown, shares)]
    files = short_names([answers.samples.where(index) for index in shown])
    true = [names[answers.samples.labels[index]] for index in shown]
    captions = [f"{one if share is None else with_share(one, share)}\nis {name}\n{file}"
                for one, share, name, file in zip(said, shares, true, files)]
    title += f"; the {len(shown)} most confident" if len(mistakes) > len(shown) else ", the most confident first"
    image_sheet([answers.samples.load(index) for index in shown], captions, path, COLUMNS, TILE, title, shares)


def _class_rows(matrix: np.ndarray, answers: Answers, names: Sequence[str]) -> Iterable[Sequence[Any]]:
    """Yield a row per class; what would be divided by nothing is left out."""
    seen, predicted = images_per_class(answers), matrix.sum(0)
    scores = zip(*class_scores(matrix, seen))
    for index, (row, (precision, recall, f1)) in enumerate(zip(matrix, scores)):
        others = np.delete(row, index)
        worst = int(others.argmax()) if others.size and others.max() else None
        taken = ("", "") if worst is None else (names[worst + (worst >= index)], others[worst])
        yield (index, names[index], seen[index], row[index], predicted[index],
               f"{precision:.6f}" if predicted[index] else "", f"{recall:.6f}" if seen[index] else "",
               f"{f1:.6f}" if seen[index] + predicted[index] else "", *taken)


def _bin_rows(found: Calibration) -> Iterable[Sequence[Any]]:
    for index, (images, confidence, accuracy) in enumerate(zip(found.images, found.confidence, found.accuracy)):
        shares = (f"{confidence:.6f}", f"{accuracy:.6f}") if images else ("", "")
        yield f"{index / BINS:.6f}", f"{(index + 1) / BINS:.6f}", images, *shares


def _mistake_rows(answers: Answers, mistakes: Sequence[int], names: Sequence[str]) -> Iterable[Sequence[Any]]:
    for index in map(int, mistakes):
        true, said = int(answers.samples.labels[index]), int(answers.predicted[index])
        found = (said, names[said], f"{answers.probability[index]:.6f}") if said >= 0 else ("", "", "")
        yield answers.samples.where(index), true, names[true], *found
