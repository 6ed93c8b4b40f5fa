"""Networks for tests. They live in a file because graph mode reads the source of what it compiles."""
import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops


class Linear(nn.Cell):
    """Images (B, C, H, W) -> logits (B, classes), one matrix product."""

    def __init__(self, features: int, classes: int, seed: int = 0):
        super().__init__()
        weight = np.random.default_rng(seed).normal(size=(classes, features)).astype(np.float32) / features**0.5
        self.head = nn.Dense(features, classes, weight_init=Tensor(weight), bias_init="zeros")

    def construct(self, images):
        return self.head(images.reshape((images.shape[0], -1)))


class TwoLayers(nn.Cell):
    """A body and a head."""

    def __init__(self, features: int, classes: int):
        super().__init__()
        self.body = nn.Dense(features, features, activation="tanh")
        self.head = nn.Dense(features, classes)

    def construct(self, images):
        return self.head(self.body(images.reshape((images.shape[0], -1))))


class Given(nn.Cell):
    """Returns its input as logits: lets a test choose them."""

    def construct(self, logits):
        return logits.reshape((logits.shape[0], -1))


class WithStatistics(nn.Cell):
    """A network with a buffer that is not trained, as BatchNorm has."""

    def __init__(self, features: int, classes: int):
        super().__init__()
        self.norm = nn.BatchNorm1d(features)
        self.head = nn.Dense(features, classes)
        self.unused = Parameter(Tensor(np.ones(3), ms.float32), name="unused", requires_grad=False)

    def construct(self, images):
        return self.head(self.norm(images.reshape((images.shape[0], -1))))


class FloatStatus(nn.Cell):
    """What Ascend's ``all_finite`` is where float16 saturates: whether anything was cut off, which it then forgets."""

    def __init__(self):
        super().__init__()
        self.cut_off = Parameter(Tensor(0.0, ms.float32), name="cut_off", requires_grad=False)

    def construct(self, values):
        fine = self.cut_off + 0.0 == 0.0
        return ops.depend(fine, ops.assign(self.cut_off, ops.zeros_like(self.cut_off)))


class Saturating(Linear):
    """Cuts off pixels over 100, as a device that knows no infinity, and notes it in ``status``."""

    def __init__(self, features: int, classes: int, status: FloatStatus):
        super().__init__(features, classes)
        self.status = status

    def construct(self, images):
        over = ops.stop_gradient((ops.abs(images).max() > 100.0).astype(ms.float32))
        ops.assign(self.status.cut_off, ops.maximum(self.status.cut_off, over))
        return super().construct(ops.clamp(images, -100.0, 100.0))
