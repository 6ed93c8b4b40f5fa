"""Losses: cells (logits, labels) -> scalar, computed in float32 whatever the precision of the network.

Labels are class numbers (B,), integer, or a row of probabilities per image (B, K), float. Class numbers are smoothed
here. Rows come from the data pipeline, which smooths them while it mixes images, so they are taken as they are; only
``BinaryCrossEntropy`` and ``SmoothMixupCrossEntropy``, whose smoothing is of another kind, expect rows that are not yet
smoothed. K is the number of classes, s the smoothing.

On the way of a batch (``common.tasks.train``): before it the model's network made the logits, inside
``common.train_step``; after it that step goes backward from the loss.
"""
import math
from dataclasses import dataclass

import mindspore as ms
from mindspore import nn, ops

from common.config.options import Config
from common.errors import UserError, nearest


def one_hot(labels, num_classes: int, on: float, off: float):
    """Return float32 rows (B, K): ``on`` for the class of each label, ``off`` for the others."""
    return ops.one_hot(ops.cast(labels, ms.int32), num_classes, ops.cast(on, ms.float32), ops.cast(off, ms.float32))


def log_sum_exp(x, axis: int):
    """Return ``log(sum(exp(x)))`` over an axis, which stays with the length 1.

    The sum is at least 1, so that ``log1p`` of one less is its logarithm, and exactly so. The framework's own logarithm
    on a CPU, like its ``softplus`` and its powers, gives other last bits in calls 5 to 14 of a process, while it tries in
    how many threads it is fastest: a loss would not be the same in two runs.
    """
    highest = ops.stop_gradient(ops.reduce_max(x, axis).expand_dims(axis))
    return highest + ops.log1p(ops.reduce_sum(ops.exp(x - highest), axis).expand_dims(axis) - 1.0)


def softplus(x):
    """Return ``log(1 + exp(x))``, exact for every x; see ``log_sum_exp`` for why the framework's is not taken."""
    positive = x > 0
    return ops.where(positive, x, ops.zeros_like(x)) + ops.log1p(ops.exp(ops.where(positive, -x, x)))


def power(x, exponent: int):
    """Return ``x**exponent``, at least 1, as products; see ``log_sum_exp`` for why the framework's is not taken."""
    product = x
    for _ in range(exponent - 1):
        product = product * x
    return product


def log_softmax(logits):
    """Return the logarithm of the softmax over the last axis; twice as exact as the framework's kernel on a CPU."""
    return logits - log_sum_exp(logits, -1)


def cross_entropy(logits, targets):
    """Return the mean over the batch of ``-sum(targets * log_softmax(logits))``; both (B, K), float32."""
    return -ops.reduce_sum(targets * log_softmax(logits), -1).mean()


class CrossEntropy(nn.Cell):
    """Softmax cross entropy; smoothed class numbers have ``1 - s + s/K`` for the class and ``s/K`` for every other.

    Source: Szegedy et al. 2016, "Rethinking the Inception Architecture", section 7; PyTorch's ``label_smoothing``.

    Args:
        smoothing: s, in [0, 1).

    Inputs: logits (B, K); labels (B,) or (B, K).   Output: float32 scalar, the mean over the batch.
    """

    def __init__(self, smoothing: float = 0.0):
        super().__init__()
        self.smoothing = smoothing

    def on_off(self, num_classes: int) -> tuple[float, float]:
        """Return the targets of the class and of the others."""
        off = self.smoothing / num_classes
        return 1.0 - self.smoothing + off, off

    def targets(self, labels, num_classes: int):
        """Return a row of probabilities per image: smoothed from class numbers, or what is given."""
        if labels.ndim > 1:
            return ops.cast(labels, ms.float32)
        on, off = self.on_off(num_classes)
        return one_hot(labels, num_classes, on, off)

    def construct(self, logits, labels):
        return cross_entropy(ops.cast(logits, ms.float32), self.targets(labels, logits.shape[-1]))


class SmoothCrossEntropy(CrossEntropy):
    """The old zoo's ``ce_smooth``: ``1 - s`` for the class and ``s/(K-1)`` for every other."""

    def on_off(self, num_classes: int) -> tuple[float, float]:
        return 1.0 - self.smoothing, self.smoothing / max(num_classes - 1, 1)


class SmoothMixupCrossEntropy(CrossEntropy):
    """The old zoo's ``ce_smooth_mixup``: ``(1 - s) * y``, and ``s/(K-2)`` where y is 0.

    A row sums to 1 where two classes are mixed, and to ``1 + s/(K-2)`` where there is one class only. So it is in the
    old zoo, and the numbers of its models were reached with it. Without a third class nothing is spread.

    Inputs: logits (B, K); labels (B,), or mixed rows (B, K) that are not smoothed.
    """

    def targets(self, labels, num_classes: int):
        rows = ops.cast(labels, ms.float32) if labels.ndim > 1 else one_hot(labels, num_classes, 1.0, 0.0)
        off = self.smoothing / (num_classes - 2) if num_classes > 2 else 0.0
        return (1.0 - self.smoothing) * rows + off * ops.cast(rows == 0, ms.float32)


class BinaryCrossEntropy(CrossEntropy):
    """One sigmoid per class, with ``y * (1 - s) + s/K`` as its target; mean over batch and classes.

    Source: Wightman et al. 2021, "ResNet strikes back"; the smoothing and the mean are timm's.

    Inputs: logits (B, K); labels (B,), or rows (B, K) that are not smoothed.
    """

    def targets(self, labels, num_classes: int):
        rows = ops.cast(labels, ms.float32) if labels.ndim > 1 else one_hot(labels, num_classes, 1.0, 0.0)
        return rows * (1.0 - self.smoothing) + self.smoothing / num_classes

    def construct(self, logits, labels):
        logits = ops.cast(logits, ms.float32)
        targets = self.targets(labels, logits.shape[-1])
        return (targets * softplus(-logits) + (1.0 - targets) * softplus(logits)).mean()


class AsymmetricLoss(CrossEntropy):
    """Asymmetric loss: one sigmoid p per class; negatives that are easy count little, the easiest nothing.

    ``-y * (1 - p)**gamma_pos * log(p) - (1 - y) * q**gamma_neg * log(1 - q)`` with ``q = max(p - clip, 0)``, summed
    over classes, mean over the batch. The gradient goes through the focusing factors too.

    Source: Ridnik et al. 2021, "Asymmetric Loss For Multi-Label Classification", section 2. gamma_neg 4, gamma_pos 0
    and clip 0.05 are what the paper recommends; the authors' code has gamma_pos 1 as its default.

    Args:
        smoothing: s, in [0, 1); class numbers are smoothed as in ``CrossEntropy``.
        gamma_neg: focusing of negatives, a whole number from 0 on.
        gamma_pos: focusing of positives, a whole number from 0 on.
        clip: probability below which a negative has no loss, in (0, 1).

    Inputs: logits (B, K); labels (B,), or rows (B, K) of 0 and 1 or between.
    """

    def __init__(self, smoothing: float = 0.0, gamma_neg: int = 4, gamma_pos: int = 0, clip: float = 0.05):
        super().__init__(smoothing)
        self.gamma_neg = gamma_neg
        self.gamma_pos = gamma_pos
        self.clip = clip

    def construct(self, logits, labels):
        logits = ops.cast(logits, ms.float32)
        targets = self.targets(labels, logits.shape[-1])
        probability = ops.sigmoid(logits)
        shifted = ops.relu(probability - self.clip)
        positive = softplus(-logits)            # -log(p)
        negative = -ops.log1p(-shifted)         # 1 - q is at least clip
        if self.gamma_pos > 0:
            positive = positive * power(1.0 - probability, self.gamma_pos)
        if self.gamma_neg > 0:
            negative = negative * power(shifted, self.gamma_neg)
        return ops.reduce_sum(targets * positive + (1.0 - targets) * negative, -1).mean()


class JensenShannon(CrossEntropy):
    """Cross entropy of the clean images plus the divergence between the predictions of their augmented copies.

    ``CE(clean) + alpha * mean over groups of KL(p_group || mean of the groups)``, mean over the images.

    Source: Hendrycks et al. 2020, "AugMix", section 3; alpha 12 and three groups are the setting of the paper.

    Args:
        smoothing: s of the cross entropy, as in ``CrossEntropy``.
        groups: equal parts of the batch, one after the other: the clean images, then each augmented copy of them.
        alpha: weight of the divergence.

    Inputs: logits (groups * B, K); labels of the clean images first, at least B of them.

    Raises:
        ValueError: if the batch cannot be split.
    """

    GROUPS = 3

    def __init__(self, smoothing: float = 0.0, groups: int = GROUPS, alpha: float = 12.0):
        super().__init__(smoothing)
        self.groups = groups
        self.alpha = alpha

    def construct(self, logits, labels):
        rows, num_classes = logits.shape
        if rows % self.groups != 0:
            raise ValueError(f"a batch of {rows} images does not split into {self.groups} groups")
        images = rows // self.groups
        logits = ops.cast(logits, ms.float32)
        log_p = log_softmax(logits).reshape((self.groups, images, num_classes))
        # the logarithm of the mean, from logarithms: exact where probabilities underflow
        log_mean = log_sum_exp(log_p, 0) - math.log(self.groups)
        divergence = ops.reduce_sum(ops.exp(log_p) * (log_p - log_mean), -1).mean()
        clean = cross_entropy(logits[:images], self.targets(labels[:images], num_classes))
        return clean + self.alpha * divergence


@dataclass(frozen=True)
class Kind:
    """One value of the key ``loss``, and what it wants of the data.

    Attributes:
        cell: the loss; built with the smoothing.
        rows: it reads a row of probabilities per image also where nothing is mixed.
        smooths_rows: it smooths rows itself, so that they must not be smoothed already.
        copies: of every image in a batch, the first without changes of colour.
    """

    cell: type[nn.Cell]
    rows: bool = False
    smooths_rows: bool = False
    copies: int = 1


LOSSES = {
    "CE": Kind(CrossEntropy),
    "BCE": Kind(BinaryCrossEntropy, rows=True, smooths_rows=True),
    "ce_smooth": Kind(SmoothCrossEntropy),
    "ce_smooth_mixup": Kind(SmoothMixupCrossEntropy, rows=True, smooths_rows=True),
    "soft_ce": Kind(CrossEntropy, rows=True),
    "asl": Kind(AsymmetricLoss),
    "jsd": Kind(JensenShannon, copies=JensenShannon.GROUPS),
}


def kind_of(config: Config) -> Kind:
    """Return what is known of the loss that the configuration names (``loss``, any case).

    Raises:
        UserError: for an unknown name.
    """
    kinds = {name.lower(): kind for name, kind in LOSSES.items()}
    if config.loss.lower() not in kinds:
        raise UserError(f"loss: '{config.loss}' is unknown; there are {', '.join(LOSSES)}."
                        f"{nearest(config.loss, LOSSES)}")
    return kinds[config.loss.lower()]


def build_loss(config: Config) -> nn.Cell:
    """Return the loss of a configuration with its smoothing; raises UserError for an unknown name."""
    return kind_of(config).cell(config.smoothing)
