"""Exact evaluation: counts per sample, masked, added up in float64, divided once."""
import time
from dataclasses import dataclass
from typing import Any, Callable, Sequence

import mindspore as ms
import numpy as np

from common.context.ranks import Runtime
from common.dataset.samples import Samples
from common.errors import UserError
from common.logger import Waiting

UNREAD = -2  # in the place of the answer, for an image that was not read
UNANSWERED = -1  # for one of which the network's output was not finite


@dataclass(frozen=True)
class Scores:
    """The result of an evaluation.

    Attributes:
        top1: fraction of samples whose label has the highest logit.
        top5: fraction of samples whose label is among the five highest.
        loss: mean cross entropy, without smoothing.
        seen: number of samples.
        steps: batches per rank.
        seconds: wall time.
        real: fraction of right answers by the labels of ReaL, where they are asked for.
    """

    top1: float
    top5: float
    loss: float
    seen: int
    steps: int = 0
    seconds: float = 0.0
    real: float | None = None


def score(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Score every image by itself, so that neither batch size nor rank can change a result.

    Args:
        logits: (B, K).
        labels: (B,), 0 <= label < K.

    Returns:
        Position of the label among the sorted logits (B,), 0 is best: a tie goes to the lower class, as in a stable
        sort, and a logit that is not finite puts the label behind all. Cross entropy (B,) float64.
    """
    rows, classes = np.arange(len(logits)), np.arange(logits.shape[1])
    own = logits[rows, labels][:, None]
    position = ((logits > own) | (logits == own) & (classes < labels[:, None])).sum(1)
    valid = np.isfinite(logits).all(1)
    return np.where(valid, position, max(logits.shape[1], 5)), -_log_softmax(logits)[rows, labels]


def answer(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the class of the highest logit of each image (B,), the lowest of equal ones, and its probability (B,).

    The class is ``UNANSWERED`` where a logit is not finite.
    """
    valid = np.isfinite(logits).all(1)
    return np.where(valid, logits.argmax(1), UNANSWERED), np.exp(_log_softmax(logits).max(1))


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # of infinite logits, whose result is not finite either
        shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def evaluate_batches(network: Callable, batches: Any, runtime: Runtime,
                     collect: Callable[[int, np.ndarray, np.ndarray, np.ndarray], None] | None = None,
                     before_batch: Callable[[], None] | None = None, outputs: Sequence[int] | None = None) -> Scores:
    """Evaluate a network.

    Args:
        network: images (B, C, H, W) -> logits (B, K): a cell, which is put into evaluation mode and back, or an ONNX
            file that is called like one.
        batches: data set with the columns image and label, label -1 for padding.
        runtime: the ranks whose counts are added.
        collect: called with the number of the batch (from 0), its labels, and what ``answer`` says.
        before_batch: called before every batch; may raise to end the evaluation.
        outputs: the logits that count, in the order of the labels; ``None``: all.

    Raises:
        UserError: if there is no sample.
    """
    started = time.time()
    was_training = network.training
    network.set_train(False)
    totals = np.zeros(4, np.float64)  # correct at 1, correct at 5, loss, seen
    steps = 0
    with Waiting(lambda: f"Evaluating, batches done: {steps}"):
        for steps, (images, labels) in enumerate(batches.create_tuple_iterator(num_epochs=1), start=1):
            if before_batch is not None:
                before_batch()
            logits, labels = network(images).astype(ms.float32).asnumpy(), labels.asnumpy()
            logits = logits if outputs is None else logits[:, list(outputs)]
            real = labels >= 0
            position, loss = score(logits[real], labels[real])
            totals += (position < 1).sum(), (position < 5).sum(), loss.sum(), real.sum()
            if collect is not None:
                collect(steps - 1, labels, *answer(logits))
    totals = runtime.sum(totals)
    network.set_train(was_training)
    if totals[3] == 0:
        raise UserError("evaluation data: there is no image to evaluate.")
    top1, top5, loss = (float(total / totals[3]) for total in totals[:3])
    return Scores(top1, top5, loss, int(totals[3]), steps, time.time() - started)


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
