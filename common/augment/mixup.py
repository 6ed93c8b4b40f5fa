"""Mixup and cutmix of a batch, and the soft targets that go with them.

Sources: Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization" (arXiv 1710.09412); Yun et al. 2019, "CutMix"
(arXiv 1905.04899). Both are used in batch mode: one lambda for the whole batch, and image i meets image B-1-i. The old
zoo's MixUpBatch is mixup with ``prob`` 1; it draws the partners by a permutation, which for a shuffled batch differs
only in that some images meet themselves.

On the way of a batch (``common.tasks.train``): before it the images went through ``common.augment.pipeline``, after it
the batch enters the step, ``common.train_step``.
"""
from dataclasses import dataclass

import numpy as np

from common.errors import UserError


def smooth_one_hot(labels: np.ndarray, num_classes: int, smoothing: float = 0.0) -> np.ndarray:
    """Return smoothed one-hot targets.

    The label's class has 1 - s + s/K and every other class s/K, so that a row sums to 1.

    Args:
        labels: integers in 0..K-1, shape (B,).
        num_classes: K.
        smoothing: s, 0..1.

    Returns:
        float32, shape (B, K).

    Raises:
        UserError: if a label does not fit ``num_classes``.
    """
    labels = np.asarray(labels)
    if labels.size and not 0 <= labels.min() <= labels.max() < num_classes:
        wrong = labels.max() if labels.max() >= num_classes else labels.min()
        raise UserError(f"num_classes {num_classes} does not fit the data, which has the label {wrong}; "
                        f"labels must be from 0 to num_classes - 1.")
    targets = np.full((len(labels), num_classes), smoothing / num_classes, dtype=np.float32)
    targets[np.arange(len(labels)), labels] = 1.0 - smoothing + smoothing / num_classes
    return targets


@dataclass(frozen=True)
class Mixer:
    """Mix the images of a batch with mixup or cutmix, and return their soft targets.

    Args:
        mixup_alpha: lambda of mixup is drawn from Beta(alpha, alpha); 0: no mixup.
        cutmix_alpha: the same for cutmix.
        prob: probability that a batch is mixed at all.
        switch_prob: probability of cutmix where both are on.
        num_classes: K, columns of the targets.
        smoothing: label smoothing, see ``smooth_one_hot``; 0 where the loss itself smooths.

    Raises:
        UserError: if a number is out of its range.
    """

    mixup_alpha: float
    cutmix_alpha: float
    prob: float
    switch_prob: float
    num_classes: int
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        for key, value in (("mixup", self.mixup_alpha), ("cutmix", self.cutmix_alpha)):
            if not 0 <= value < np.inf:
                raise UserError(f"{key} {value} must be 0 (off) or the positive parameter of a Beta distribution.")
        for key, value in (("mixup_prob", self.prob), ("mixup_switch_prob", self.switch_prob),
                           ("label_smoothing", self.smoothing)):
            if not 0 <= value <= 1:
                raise UserError(f"{key} {value} must be from 0 to 1.")

    def __call__(self, images: np.ndarray, labels: np.ndarray,
                 rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Mix one batch **in place**; only a read-only array is copied first.

        Args:
            images: float32, shape (B, C, H, W). With odd B the middle image meets itself and stays as it is.
            labels: integers, shape (B,).
            rng: the only source of randomness.

        Returns:
            The images, and float32 targets of shape (B, K), whose rows sum to 1.
        """
        images, targets, partner = self.without_blending(images, labels, rng)
        if partner:
            if not images.flags.writeable:
                images = images.copy()
            _blend(images, partner)
        return images, targets

    def without_blending(self, images: np.ndarray, labels: np.ndarray,
                         rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.float32]:
        """Mix one batch but for mixup's blending, which is left to the caller: so ``images`` may also be bytes.

        Returns:
            The images, the targets, and the share of its partner that mixup wants in an image: image i becomes
            image i + share * (image B-1-i - image i).
        """
        targets, share = smooth_one_hot(labels, self.num_classes, self.smoothing), np.float32(0)
        if rng.random() >= self.prob or not (self.mixup_alpha or self.cutmix_alpha):
            return images, targets, share
        use_cutmix = bool(self.cutmix_alpha) and (not self.mixup_alpha or rng.random() < self.switch_prob)
        if use_cutmix:
            lam = rng.beta(self.cutmix_alpha, self.cutmix_alpha)
            top, bottom, left, right = cutmix_box(*images.shape[2:], lam, rng)
            if not images.flags.writeable:
                images = images.copy()
            _exchange(images[:, :, top:bottom, left:right])
            own = 1.0 - (bottom - top) * (right - left) / (images.shape[2] * images.shape[3])
        else:
            own = rng.beta(self.mixup_alpha, self.mixup_alpha)
            share = np.float32(1.0 - own)
        return images, np.float32(own) * targets + np.float32(1.0 - own) * targets[::-1], share


def cutmix_box(height: int, width: int, lam: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Draw the box that cutmix exchanges: (top, bottom, left, right).

    Its sides are sqrt(1 - lambda) of the image's, and its centre is uniform over the image, so that the border may cut
    it: the caller takes the true lambda, 1 - area of the box / area of the image, from the result.

    The boxes follow old timm (0.x), with which the authors of these recipes trained: an odd side loses a pixel, as half
    of it, rounded down, lies on either side of the centre. timm 1.0 puts the odd pixel below and to the right.
    """
    share = np.sqrt(1.0 - lam)
    half_height, half_width = int(height * share) // 2, int(width * share) // 2
    row, column = rng.integers(height), rng.integers(width)
    return (max(row - half_height, 0), min(row + half_height, height),
            max(column - half_width, 0), min(column + half_width, width))


def _blend(images: np.ndarray, share: np.float32) -> None:
    """Replace image i by (1 - share) * image i + share * image B-1-i, in place.

    Pair by pair, so that the working set stays in the cache: several times faster than a large batch as a whole.
    """
    count = len(images)
    difference = np.empty_like(images[0])
    for i in range(count // 2):
        first, second = images[i], images[count - 1 - i]
        np.subtract(first, second, out=difference)
        difference *= share
        first -= difference
        second += difference


def _exchange(regions: np.ndarray) -> None:
    """Swap region i with region B-1-i, in place."""
    count = len(regions)
    for i in range(count // 2):
        kept = regions[i].copy()
        regions[i] = regions[count - 1 - i]
        regions[count - 1 - i] = kept
