"""Exact evaluation: counts per sample, masked, added up in float64, divided once."""
import time
from dataclasses import dataclass
from typing import Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from common.context.ranks import Runtime
from common.dataset.samples import Samples
from common.errors import UserError
from common.logger import Waiting


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


class SelectedOutputs(nn.Cell):
    """Some outputs of a network, in an order of their own.

    Inputs: images (B, C, H, W).   Output: logits (B, len(outputs)).
    """

    def __init__(self, network: nn.Cell, outputs: Sequence[int]):
        super().__init__(auto_prefix=False)
        self.network = network
        self.outputs = Tensor(np.array(outputs, np.int32))

    def construct(self, images):
        return ops.gather(self.network(images), self.outputs, 1)


class EvaluationStep(nn.Cell):
    """Scores every sample of a batch by itself, so that neither batch size nor rank can change a result.

    Inputs: images (B, C, H, W), labels (B,) int32, -1 for padding.
    Output: position of the label among the sorted logits (B,) int32, 0 is best; cross entropy (B,) float32. A tie goes
        to the lower class, as in a stable sort; a logit that is not finite puts the label behind all.
    """

    def __init__(self, network: nn.Cell):
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, images, labels):
        return self.score(ops.cast(self.network(images), ms.float32), labels)

    def score(self, logits, labels):
        """Return position and cross entropy of float32 logits (B, K)."""
        num_classes = logits.shape[1]
        labels = ops.expand_dims(ops.maximum(labels, 0), 1)
        own = ops.gather_elements(logits, 1, labels)
        classes = ops.expand_dims(ops.arange(0, num_classes).astype(ms.int32), 0)
        before = ops.logical_or(logits > own, ops.logical_and(logits == own, classes < labels))
        position = ops.reduce_sum(before.astype(ms.float32), 1).astype(ms.int32)
        valid = ops.isfinite(ops.reduce_sum(logits, 1))
        position = ops.select(valid, position, ops.zeros_like(position) + max(num_classes, 5))
        return position, -ops.gather_elements(ops.log_softmax(logits, 1), 1, labels).reshape((-1,))


class AnsweringStep(EvaluationStep):
    """Says besides which class the network takes each image for, and how sure it is.

    Inputs: those of ``EvaluationStep``.
    Output: also the class of the highest logit (B,) int32, the lowest of equal ones, -1 where a logit is not finite;
        and its probability (B,) float32.
    """

    def construct(self, images, labels):
        logits = ops.cast(self.network(images), ms.float32)
        position, loss = self.score(logits, labels)
        num_classes = logits.shape[1]
        classes = ops.expand_dims(ops.arange(0, num_classes).astype(ms.float32), 0)
        highest = logits >= ops.reduce_max(logits, 1).expand_dims(1)
        answer = ops.reduce_min(ops.select(highest, classes + ops.zeros_like(logits), ops.zeros_like(logits)
                                           + num_classes), 1).astype(ms.int32)
        answer = ops.select(ops.isfinite(ops.reduce_sum(logits, 1)), answer, ops.zeros_like(answer) - 1)
        return position, loss, answer, ops.reduce_max(ops.softmax(logits, 1), 1)


def evaluate_batches(step: EvaluationStep, batches, runtime: Runtime, collect=None, before_batch=None) -> Scores:
    """Evaluate a network.

    Args:
        step: the network's evaluation step; it is put into evaluation mode and back.
        batches: data set with the columns image and label, label -1 for padding.
        runtime: the ranks whose counts are added.
        collect: of an ``AnsweringStep``, called with the number of the batch (from 0), its labels, the classes that the
            network answered, and their probabilities.
        before_batch: called before every batch; may raise to end the evaluation.

    Raises:
        UserError: if there is no sample.
    """
    started = time.time()
    was_training = step.network.training
    step.set_train(False)
    totals = np.zeros(4, np.float64)  # correct at 1, correct at 5, loss, seen
    steps = 0
    with Waiting(lambda: f"Evaluating, batches done: {steps}"):
        for steps, (images, labels) in enumerate(batches.create_tuple_iterator(num_epochs=1), start=1):
            if before_batch is not None:
                before_batch()
            position, loss, *answers = step(images, labels)
            labels = labels.asnumpy()
            real = labels >= 0
            position, loss = position.asnumpy()[real], loss.asnumpy()[real].astype(np.float64)
            totals += (position < 1).sum(), (position < 5).sum(), loss.sum(), real.sum()
            if collect is not None:
                collect(steps - 1, labels, *(answer.asnumpy() for answer in answers))
    totals = runtime.sum(totals)
    step.set_train(was_training)
    if totals[3] == 0:
        raise UserError("evaluation data: there is no image to evaluate.")
    top1, top5, loss = (float(total / totals[3]) for total in totals[:3])
    return Scores(top1, top5, loss, int(totals[3]), steps, time.time() - started)


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
