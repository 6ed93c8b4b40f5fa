"""Operations with operands of different shapes, as a training on a CPU computes them.

Where shapes differ, an elementwise operation of the framework keeps lists of positions there, 16 bytes per number of
its result, from its first call until the process ends, and takes four times as long (2.10). Matrix products and
``bias_add`` give the same result without them.
"""
import functools

import mindspore as ms
from mindspore import nn, ops


@functools.cache
def shared(kind: type[nn.Cell], *arguments) -> tuple[nn.Cell]:
    """Return the one cell of a kind without parameters that all its users have, so that a graph reads it once.

    It comes in a tuple, so that it is no child of theirs: for ``common.layers.precision`` they are innermost cells.
    """
    return (kind(*arguments),)


class AddBias(nn.Cell):
    """x + bias.

    The framework's sum over rows, which is the gradient of the bias, takes up to fourteen times as long as the product
    here (6,272 x 512: 17 ms and 1.2 ms of processor time).

    Inputs: x (..., *shape) and bias (*shape,), float32.   Output: like x.
    """

    def __init__(self):
        super().__init__()
        self.product = ops.MatMul()

    def construct(self, x, bias):
        return ops.bias_add(x.reshape(-1, bias.size), bias.reshape(-1)).reshape(x.shape)

    def bprop(self, x, bias, out, dout):
        rows = dout.reshape(-1, bias.size)
        return dout, self.product(ops.ones((1, rows.shape[0]), ms.float32), rows).reshape(bias.shape)


class ScaleSamples(nn.Cell):
    """x times one factor per sample.

    Inputs: x (B, ...) and factors (B,), constants, float32.   Output: like x.
    """

    def __init__(self):
        super().__init__()
        self.product = ops.MatMul()

    def construct(self, x, factors):
        rows = x.reshape(x.shape[0], -1)
        factors = ops.depend(factors.reshape(-1, 1), rows)  # not at the beginning of the step, to be kept until now
        return (rows * self.product(factors, ops.ones((1, rows.shape[1]), ms.float32))).reshape(x.shape)

    def bprop(self, x, factors, out, dout):
        return self.construct(dout, factors), ops.zeros_like(factors)


class Dense(nn.Dense):
    """The framework's linear layer, whose bias in a training on a CPU is ``AddBias``.

    Args and inputs: see ``nn.Dense``; without an activation.
    """

    def __init__(self, in_channels: int, out_channels: int, **more):
        super().__init__(in_channels, out_channels, **more)
        self.add_bias = shared(AddBias) if ms.get_context("device_target") == "CPU" and self.has_bias else None

    def construct(self, x):
        if not self.training or self.add_bias is None:
            return super().construct(x)
        rows = self.matmul(x.reshape(-1, x.shape[-1]), self.weight)
        if rows.dtype == ms.float32:
            rows = self.add_bias[0](rows, self.bias)
        else:
            rows = self.bias_add(rows, self.bias)  # the function would not get the bias in the type of the rows
        return rows.reshape(x.shape[:-1] + (self.out_channels,))
