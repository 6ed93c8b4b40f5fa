"""Calibration: whether a network is right as often as it says. Imports without MindSpore."""
from dataclasses import dataclass

import numpy as np

from common.pictures.figure import Figure, open_figure, quiet_axes
from common.pictures.style import BLUE, NOTE, ORANGE

BINS = 15  # of equal width, as in Guo et al. 2017, "On Calibration of Modern Neural Networks"


@dataclass(frozen=True)
class Calibration:
    """Images sorted into ``BINS`` bins by the probability of the answer; bin i is (i / BINS, (i + 1) / BINS].

    Attributes:
        images: images per bin, int64 (BINS,).
        confidence: their mean probability, float64; 0 in an empty bin.
        accuracy: the share of right answers, likewise.
    """

    images: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def error(self) -> float:
        """The expected calibration error (ECE): the mean over the images of |accuracy - confidence| of their bin."""
        return float((self.images * np.abs(self.accuracy - self.confidence)).sum() / max(self.images.sum(), 1))


def calibration(probability: np.ndarray, right: np.ndarray) -> Calibration:
    """Sort answers into bins.

    Args:
        probability: of each answer, in [0, 1], (n,).
        right: whether the answer is right, (n,).
    """
    index = np.clip(np.ceil(probability * BINS) - 1, 0, BINS - 1).astype(np.int64)
    images, *sums = (np.bincount(index, weights, BINS) for weights in (None, probability, right.astype(np.float64)))
    return Calibration(images, *(total / np.maximum(images, 1) for total in sums))


def draw_calibration(found: Calibration) -> Figure:
    """Draw a reliability diagram: accuracy over confidence, the gap to the diagonal, and below how many images."""
    figure = open_figure(5.2, 5.6, f"Expected calibration error {100 * found.error:.2f} %, {BINS} bins")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    used = found.images > 0
    left, width = np.arange(BINS)[used] / BINS, 1 / BINS
    accuracy, confidence = found.accuracy[used], found.confidence[used]
    quiet_axes(above)
    above.bar(left, accuracy, width, align="edge", color=BLUE, edgecolor="white", label="accuracy")
    above.bar(left, confidence - accuracy, width, accuracy, align="edge", color=ORANGE, alpha=0.35, edgecolor=ORANGE,
              hatch="//", label="gap to the mean probability")
    above.plot((0, 1), (0, 1), color=NOTE, linestyle="--", linewidth=1, label="as sure as right")
    above.set(xlim=(0, 1), ylim=(0, 1), ylabel="share of right answers")
    above.legend(loc="upper left", frameon=False, fontsize=9)
    quiet_axes(below)
    below.bar(left, found.images[used] / max(found.images.sum(), 1), width, align="edge", color=NOTE, edgecolor="white")
    below.set(xlabel="probability of the answer", ylabel="share of images")
    return figure
