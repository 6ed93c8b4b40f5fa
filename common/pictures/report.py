"""The report of an evaluation: accuracy of every class, confusion matrix, and the mistakes, the most confident first.

Imports no MindSpore.
"""
import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterable, Sequence

import numpy as np

from common.dataset.batches.classes import names_for
from common.pictures.sheet.confusion import draw_confusion, message
from common.context.device.device import Runtime
from common.errors import UserError
from common.files import write_whole
from common.pictures.sheet.sheet import TILE, short_names, with_share
from common.pictures.sheet.curves import image_sheet, write_picture
from common.dataset.batches.samples import Samples

FILES = ("confusion.png", "mistakes.png", "classes.csv", "mistakes.csv")
DRAWN_MISTAKES, COLUMNS = 24, 6
UNREAD = -2  # in the place of the answer, for an image that was not read
UNANSWERED = -1  # for one of which the network's output was not finite


class Answers:
    """What a network says about the images of an evaluation, gathered from the batches of all ranks.

    Args:
        samples: the images that are evaluated.
        batch: images per batch.
        runtime: the ranks; rank r has every world_size-th batch, beginning with batch r.

    Attributes:
        predicted: class for each image, int32 (n,), or ``UNREAD``, or ``UNANSWERED``.
        probability: of that class, float64 (n,).
    """

    def __init__(self, samples: Samples, batch: int, runtime: Runtime):
        self.samples, self.batch, self.runtime = samples, batch, runtime
        self.predicted = np.full(len(samples), UNREAD, np.int32)
        self.probability = np.zeros(len(samples))

    def collect(self, number: int, labels: np.ndarray, predicted: np.ndarray, probability: np.ndarray) -> None:
        """Take the answers to this rank's batch of a number (from 0); label -1 marks what does not count."""
        first = (number * self.runtime.world_size + self.runtime.rank) * self.batch
        rows = np.flatnonzero(labels >= 0)
        if not np.array_equal(self.samples.labels[first + rows], labels[rows]):
            raise RuntimeError(f"batch {number} of rank {self.runtime.rank} does not hold the images from {first} on")
        self.predicted[first + rows] = predicted[rows]
        self.probability[first + rows] = probability[rows]

    def gather(self) -> None:
        """Exchange the answers, so that every rank has all of them; every image was on one rank only."""
        self.predicted = (self.runtime.sum(self.predicted - UNREAD) + UNREAD).astype(np.int32)
        self.probability = self.runtime.sum(self.probability)

    def matrix(self) -> np.ndarray:
        """Return the counts (K, P) of true class and predicted class; P is K, or more if more was predicted."""
        classes = len(self.samples.classes)
        answered = self.predicted >= 0
        counts = np.zeros((classes, max(classes, int(self.predicted.max(initial=0)) + 1)), np.int64)
        np.add.at(counts, (self.samples.labels[answered], self.predicted[answered]), 1)
        return counts

    def mistakes(self) -> np.ndarray:
        """Return the images with a wrong answer or none, int64, the most confident answer first."""
        wrong = np.flatnonzero((self.predicted != self.samples.labels) & (self.predicted != UNREAD))
        return wrong[np.argsort(-np.where(self.predicted[wrong] >= 0, self.probability[wrong], -1), kind="stable")]


def make_folder(folder: str | Path) -> Path:
    """Make the folder of a report, before the evaluation that it is for.

    Raises:
        UserError: if that is not possible.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"report: '{folder}' cannot be made a folder ({error.strerror or error}).") from None
    return Path(folder)


def write_report(answers: Answers, folder: Path) -> None:
    """Write ``FILES`` into a folder.

    Raises:
        UserError: if a file cannot be written.
    """
    samples, matrix, mistakes = answers.samples, answers.matrix(), answers.mistakes()
    names = names_for(samples.classes, len(samples.classes))
    names += [f"class {number}" for number in range(len(names), matrix.shape[1])]
    unanswered = int((answers.predicted == UNANSWERED).sum())
    _write_csv(folder / "classes.csv", ("class", "name", "images", "correct", "accuracy", "mostly_taken_for", "times"),
               _class_rows(matrix, answers, names))
    _write_csv(folder / "mistakes.csv", ("image", "class", "name", "predicted_class", "predicted_name", "probability"),
               _mistake_rows(answers, mistakes, names))
    write_picture(draw_confusion(matrix, names, unanswered), folder / "confusion.png")
    draw_mistakes(answers, mistakes, names, folder / "mistakes.png")


def draw_mistakes(answers: Answers, mistakes: Sequence[int], names: Sequence[str], path: Path) -> None:
    """Draw the first mistakes, each with the true class and what the network took it for.

    Raises:
        UserError: if the file cannot be written.
    """
    count = int((answers.predicted != UNREAD).sum())
    title = f"{len(mistakes)} of {count} images are wrong"
    if not len(mistakes):
        write_picture(message(f"{title}."), path)
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


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows(rows)
    write_whole(path, text.getvalue())
