"""Small networks, one for each kind of operation that an export has to translate. Graph mode reads their source."""
import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

SIDE = 8  # of the images that they take, (N, 3, 8, 8)


def weights(*shape: int) -> Tensor:
    return Tensor(np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32))


class Slices(nn.Cell):
    """Indices, ranges and steps, with the ends left out."""

    def construct(self, x):
        return x[:, 0, 1:-1, ::2] + x[:, -1, -6:, 1::2] + x[:, 1:2, 2:, :4].squeeze(1)


class Halves(nn.Cell):
    """Parts of a tensor, and what puts parts together."""

    def construct(self, x):
        first, second = ops.chunk(x, 2, 2)
        a, b = ops.split(first, 4, 3)
        return ops.concat((ops.stack((a, b), 1).reshape(-1, 6, 4, 4), second.expand_dims(1).reshape(-1, 6, 4, 4)), 1)


class Reductions(nn.Cell):
    """Sums, means and extremes over some and over all axes of an image."""

    def construct(self, x):
        total = x.sum((2, 3), keepdims=True) + x.mean(1, True) + x.max(-1, keepdims=True)
        return total + ops.ReduceSum()(x, (1, 2)).expand_dims(1).expand_dims(1) + x.sum(-2, keepdims=True)


class Products(nn.Cell):
    """Matrix products with either factor turned, of two and of four axes."""

    def __init__(self):
        super().__init__()
        self.weight = Parameter(weights(5, 192) / 14, name="weight")
        self.first, self.second = ops.BatchMatMul(transpose_a=True), ops.BatchMatMul(transpose_b=True)
        self.dense, self.other = ops.MatMul(transpose_b=True), ops.MatMul(transpose_a=True)

    def construct(self, x):
        rows = self.dense(x.reshape(-1, 192), self.weight)
        square = self.other(self.weight, self.weight)
        maps = ops.matmul(self.first(x, x) + self.second(x, x), x).reshape(-1, 192)
        return ops.concat((rows, ops.matmul(maps, square)), 1)


class Convolutions(nn.Cell):
    """Every way to pad, strides, dilation, groups, a bias."""

    def __init__(self):
        super().__init__()
        self.convolutions = nn.CellList([
            nn.Conv2d(3, 6, 3, 2, pad_mode="same", weight_init=weights(6, 3, 3, 3)),
            nn.Conv2d(6, 6, (3, 1), pad_mode="pad", padding=(1, 2, 0, 1), group=6, weight_init=weights(6, 1, 3, 1)),
            nn.Conv2d(6, 4, 2, pad_mode="valid", dilation=2, has_bias=True, weight_init=weights(4, 6, 2, 2),
                      bias_init=weights(4))])
        self.norm = nn.BatchNorm2d(4, moving_mean_init=weights(4))

    def construct(self, x):
        for convolution in self.convolutions:
            x = convolution(x)
        return self.norm(x)


class Pools(nn.Cell):
    """Pooling of either kind, padded or not."""

    def __init__(self):
        super().__init__()
        self.largest = nn.MaxPool2d(3, 2, pad_mode="pad", padding=1)
        self.same = nn.MaxPool2d(3, 2, pad_mode="same")
        self.mean = nn.AvgPool2d(2, 2)

    def construct(self, x):
        return self.largest(x) + self.same(x) * self.mean(x)


class Curves(nn.Cell):
    """Functions of one number."""

    def construct(self, x):
        positive = ops.abs(x) + 0.5
        y = ops.erf(x) + ops.exp(-x) + ops.log(positive) + ops.sqrt(positive) + ops.rsqrt(positive)
        y = y + ops.tanh(x) + ops.sigmoid(x) + ops.relu(x) + ops.relu6(4 * x) + ops.square(x) + ops.reciprocal(positive)
        return y + ops.gelu(x) + ops.gelu(x, approximate="tanh") + ops.silu(x) + ops.hardswish(x) + ops.clamp(x, -1, 1)


class Choices(nn.Cell):
    """Comparisons, and what follows from them."""

    def construct(self, x):
        y = ops.select(x > 0.5, x, -x) + ops.maximum(x, x * x) - ops.minimum(x, 0.25 - x)
        index, value = ops.max(x, -1, True)[::-1]
        y = y / (1.5 + (x >= 0).astype(ms.float32) + (x < -0.5).astype(ms.float32))
        return y + value + index.astype(ms.float32)


class Orders(nn.Cell):
    """Sorting, and taking rows by their number; rows of a flat table are counted through all images."""

    def construct(self, x):
        keys = x[:, 0, :, 0]
        order = ops.argsort(keys, 1)
        flat = order + ops.arange(x.shape[0], dtype=ms.int32).reshape(-1, 1) * 8
        rows = ops.gather(x[:, 1].reshape(-1, 8), flat, 0)
        return rows + ops.argsort(keys, 1, True).astype(ms.float32).expand_dims(-1)


class Companions(nn.Cell):
    """Tensors in whose shape the number of images stands."""

    def __init__(self):
        super().__init__()
        self.token = Parameter(weights(1, 1, 8), name="token")
        self.norm = nn.LayerNorm((8,), epsilon=1e-6)

    def construct(self, x):
        batch = x.shape[0]
        token = ops.broadcast_to(self.token, (batch, 1, 8)) + ops.tile(self.token, (batch, 1, 1))
        zeros = ops.zeros((batch, 2, 8), ms.float32) + ops.ones((batch, 1, 1), ms.float32)
        rows = ops.concat((token, zeros, x.reshape(batch, 24, 8), ops.zeros_like(x[:, 0])), 1)
        return ops.softmax(self.norm(rows), -1).swapaxes(1, 2) + ops.eye(8, 35, ms.float32) + zeros[:, :1, :1]


class Several(nn.Cell):
    """Two outputs."""

    def construct(self, x):
        return x.mean((2, 3)), x[:, :1]


class Cumulative(nn.Cell):
    """An operation that nobody translated."""

    def construct(self, x):
        return ops.cumsum(x, 1)


class Changing(nn.Cell):
    """Does something else for two images."""

    def construct(self, x):
        return ops.exp(x) if x.shape[0] == 2 else x


OPERATIONS = (Slices, Halves, Reductions, Products, Convolutions, Pools, Curves, Choices, Orders, Companions)
