"""Tiny networks for tests of export and prediction. Graph mode compiles code from real files only."""
import numpy as np
from mindspore import Tensor, nn, ops


class TinyClassifier(nn.Cell):
    """Convolution, BatchNorm, dropout and a head: what differs between training and evaluation.

    Inputs: images (N, channels, H, W).   Output: logits (N, num_classes).
    """

    def __init__(self, num_classes: int = 10, channels: int = 3, seed: int = 0):
        super().__init__()
        rng = np.random.default_rng(seed)
        self.conv = nn.Conv2d(channels, 8, 3, pad_mode="same", weight_init=_random(rng, 8, channels, 3, 3))
        self.norm = nn.BatchNorm2d(8, moving_mean_init=_random(rng, 8))
        self.drop = nn.Dropout(p=0.5)
        self.head = nn.Dense(8, num_classes, weight_init=_random(rng, num_classes, 8), bias_init="zeros")

    def construct(self, images):
        x = ops.gelu(self.norm(self.conv(images)))
        return self.head(self.drop(x.mean((2, 3))))


class FixedBatch(nn.Cell):
    """Has the batch in its code: a file of it takes exactly that many images.

    Output: (batch, 2), mean and mean square of an image.
    """

    def __init__(self, batch: int):
        super().__init__()
        self.batch = batch

    def construct(self, images):
        x = images.reshape((self.batch, -1))
        return ops.stack((x.mean(1), (x * x).mean(1)), 1)


class Colors(nn.Cell):
    """Tells red, green and blue apart: its logits are ten times the mean of each channel."""

    def construct(self, images):
        return 10 * images.mean((2, 3))


class Restless(nn.Cell):
    """Gives another output on every call, also in evaluation."""

    def construct(self, images):
        x = images.mean((2, 3))
        return x + ops.rand_like(x)


class Broken(nn.Cell):
    """Gives NaN for images with negative pixels."""

    def construct(self, images):
        return ops.sqrt(images.mean((2, 3)))


class Uncompilable(nn.Cell):
    """Runs op by op, but graphs have no exceptions."""

    def construct(self, images):
        try:
            return images.mean((2, 3))
        except ValueError:
            return images


def _random(rng: np.random.Generator, *shape: int) -> Tensor:
    return Tensor(rng.standard_normal(shape).astype(np.float32))
