"""The forms in which a training on a CPU computes what is slow there, or keeps memory, in the framework's (2.10).

Equal to rounding; evaluation, exported files and cards have the plain forms. Where operands differ in shape, an
elementwise operation keeps lists of positions, 16 bytes per number of its result, from its first call until the process
ends, and takes four times as long; a transpose keeps 8 bytes per number; sums over rows and LayerNorm are slow. Matrix
products, biases, BatchNorm, and pieces put together in another order give the same results without that.
``scripts/SPEED.md`` has the figures.
"""
import functools

import mindspore as ms
from mindspore import nn, ops

WIDEST = 512  # of an identity; above it the product takes longer than a transpose


def on_cpu() -> bool:
    """Tell whether a cell that is made now will compute on a CPU."""
    return ms.get_context("device_target") == "CPU"


@functools.cache
def shared(kind: type[nn.Cell], *arguments) -> tuple[nn.Cell]:
    """Return the one cell of a kind without parameters that all its users have, so that a graph reads it once.

    It comes in a tuple, so that it is no child of theirs: for ``common.layers.precision`` they are innermost cells.
    """
    return (kind(*arguments),)


class WithSlope(nn.Cell):
    """Hands on a value, and takes a slope for its derivative.

    So that of an activation the slope is all that is kept for the backward pass, not every step of its computation, of
    which the framework, starting every operation as soon as it can, also computes parts of the gradient far too early.

    Inputs: x, value and slope, of one shape; value and slope are taken for constants.   Output: value.
    """

    def construct(self, x, value, slope):
        return value

    def bprop(self, x, value, slope, out, dout):
        return dout * slope, ops.zeros_like(value), ops.zeros_like(slope)


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


class Affine(nn.Cell):
    """x * gamma + beta, without the framework's broadcasting and without its sums over rows.

    On a CPU operations that broadcast keep lists of indices for ever, and sums over rows are slow (2.10, figures in
    scripts/SPEED.md); matrix products do both.

    Inputs: x (..., dim), gamma and beta (dim,), float32.   Output: like x.
    """

    def __init__(self):
        super().__init__()
        self.product = ops.MatMul()

    def construct(self, x, gamma, beta):
        return ops.bias_add(self.scaled(x, gamma), beta).reshape(x.shape)

    def bprop(self, x, gamma, beta, out, dout):
        rows = dout.reshape(-1, dout.shape[-1])
        one = ops.ones((1, rows.shape[0]), ms.float32)
        for_gamma = self.product(one, rows * x.reshape(rows.shape)).reshape(gamma.shape)
        return self.scaled(dout, gamma).reshape(x.shape), for_gamma, self.product(one, rows).reshape(beta.shape)

    def scaled(self, x, gamma):
        rows = x.reshape(-1, x.shape[-1])
        gamma = ops.depend(gamma.reshape(1, -1), rows)  # not at the beginning of the step, to be kept until now
        return rows * self.product(ops.ones((rows.shape[0], 1), ms.float32), gamma)


class RowNorm(nn.Cell):
    """LayerNorm by way of BatchNorm, for training on a CPU: rows are its channels.

    The framework's LayerNorm runs on one core there, and its gradient takes five times as long as itself (2.10).

    Inputs: x (..., dim), gamma and beta (dim,), float32.   Output: that of a LayerNorm.
    """

    def __init__(self, dim: int, epsilon: float):
        super().__init__()
        self.dim = dim
        self.norm = ops.BatchNorm(is_training=True, epsilon=epsilon, momentum=0.0)  # leaves its statistics alone
        self.affine = shared(Affine)

    def construct(self, x, gamma, beta):
        rows = x.reshape(1, -1, self.dim, 1)
        one, zero = ops.ones(rows.shape[1], ms.float32), ops.zeros(rows.shape[1], ms.float32)
        return self.affine[0](self.norm(rows, one, zero, zero, one)[0].reshape(x.shape), gamma, beta)


class RowSoftmax(nn.Cell):
    """Softmax with a gradient for a CPU: the sums over rows are matrix products, and rows the channels of a bias.

    Inputs: x (..., length).   Output: the same shape.
    """

    def __init__(self):
        super().__init__()
        self.product, self.plus = ops.MatMul(), ops.BiasAdd()  # in a bprop ops.bias_add does not compile (2.10)

    def construct(self, x):
        return ops.softmax(x, -1)

    def bprop(self, x, out, dout):
        length = out.shape[-1]
        sums = self.product((out * dout).reshape(-1, length), ops.ones((length, 1), out.dtype))
        return (out * self.plus(dout.reshape(1, -1, length), -sums.reshape(-1)).reshape(out.shape),)


# transposes: ``lean`` asks for the form of a training on a CPU, else it is one transpose

def swapped(x, lean: bool):
    """(B, M, N) -> (B, N, M). In the product one number that is not finite makes others of its sample NaN."""
    samples, rows, columns = x.shape
    if not lean or min(rows, columns) > WIDEST:
        return x.swapaxes(1, 2)
    if rows < columns:
        return ops.BatchMatMul(transpose_a=True)(x, identities(samples, rows, x.dtype))
    return ops.BatchMatMul(transpose_b=True)(identities(samples, columns, x.dtype), x)


def identities(samples: int, size: int, dtype: ms.Type):
    """Return (samples, size, size)."""
    return ops.tile(ops.eye(size, size, dtype), (samples, 1, 1))


def apart(x, heads: int, lean: bool):
    """(B, N, h d) -> (B, h, N, d): from tokens to heads."""
    samples, tokens, width = x.shape
    if heads == 1:
        return x.expand_dims(1)
    if lean:
        return ops.concat(ops.split(x, width // heads, -1), 1).reshape(samples, heads, tokens, width // heads)
    return x.reshape(-1, tokens, heads, width // heads).transpose(0, 2, 1, 3)


def together(x, lean: bool):
    """(B, h, N, d) -> (B, N, h d): from heads to tokens."""
    samples, heads, tokens, width = x.shape
    if heads == 1:
        return x.reshape(-1, tokens, width)
    if lean:
        return ops.concat(ops.split(x, 1, 1), -1).reshape(samples, tokens, heads * width)
    return x.transpose(0, 2, 1, 3).reshape(-1, tokens, heads * width)
