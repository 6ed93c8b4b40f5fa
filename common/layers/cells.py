"""Cells that two or more models use."""
import math
from typing import Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from common.errors import UserError
from common.layers.cpu_training import AddBias, RowNorm, RowSoftmax, WithSlope, on_cpu, shared


class Float32Cell(nn.Cell):
    """Base of cells that compute in float32 at every precision level: softmax, distances, iterations, losses.

    Every operation inside gets its operands in float32, and the result is float32; the parent casts it
    (``.astype(x.dtype)``) where it needs half precision again, as both factors of a matrix product must have one type.
    ``construct`` must not ask for the type of its inputs: in PyNative mode it still sees the type that they came with.
    """


class GELU(nn.Cell):
    """The exact Gaussian error linear unit, x * Phi(x), for any shape.

    Source: Hendrycks and Gimpel 2016. Written out, because the framework's own cell needs nearly twice the memory while
    training (measured on a CPU), and defaults to the approximation by tanh, which is off by up to 5e-4.
    In a training on a CPU it keeps its slope alone, see ``WithSlope``.
    """

    def __init__(self):
        super().__init__()
        self.with_slope = shared(WithSlope) if on_cpu() else None

    def construct(self, x):
        if not self.training or self.with_slope is None:
            return 0.5 * x * (1.0 + ops.erf(x * math.sqrt(0.5)))
        constant = ops.stop_gradient(x)
        below = 0.5 + 0.5 * ops.erf(constant * math.sqrt(0.5))
        density = ops.exp(constant * constant * -0.5) * math.sqrt(0.5 / math.pi)
        return self.with_slope[0](x, constant * below, below + constant * density)

    def before_fusing(self) -> None:
        """Keep the input alone for the backward pass: in a fused kernel the rest costs next to nothing."""
        self.with_slope = None
        self.recompute()


class TanhGELU(GELU):
    """The approximation of GELU by tanh, x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), for any shape.

    Written with the sigmoid, as (1 + tanh(u)) / 2 = sigmoid(2 u): on a CPU the framework's tanh is off by 1e-4, and its
    own form of this function takes five times as long.
    """

    def construct(self, x):
        if not self.training or self.with_slope is None:
            return x * ops.sigmoid(x * (1.5957691216057308 + 0.07135481627260025 * x * x))
        constant = ops.stop_gradient(x)
        square = constant * constant
        share = ops.sigmoid(constant * (1.5957691216057308 + 0.07135481627260025 * square))
        value = constant * share
        steepness = 1.5957691216057308 + 0.21406444881780075 * square
        return self.with_slope[0](x, value, share + value * (1.0 - share) * steepness)


class LayerNorm(nn.LayerNorm):
    """Normalises the last axis in float32, whatever the type of the input.

    On a CPU a training computes it as ``RowNorm``, or, where operators are fused, in parts, which become a few kernels,
    forward and backward. The framework would fuse its own operator too, but with a gradient that is 2.5e-4 off.

    Args:
        dim: length of the last axis.
        epsilon: added to the variance. It has no default: the framework's 1e-7 is nobody's choice.

    Inputs: x, (..., dim).   Output: the same shape, float32; float16 at precision level O3.
    """

    def __init__(self, dim: int, epsilon: float):
        super().__init__((dim,), epsilon=epsilon)
        self.half_result = False
        self.in_parts = False
        self.sum = ops.ReduceSum(keep_dims=True)
        self.share = 1.0 / dim
        of_several = dim > 1  # of one number BatchNorm makes NaN
        self.by_rows = shared(RowNorm, dim, epsilon) if on_cpu() and of_several else None

    def construct(self, x):
        if self.in_parts and self.training:
            centred = x - self.sum(x, -1) * self.share
            variance = self.sum(centred * centred, -1) * self.share
            return centred * ops.rsqrt(variance + self.epsilon) * self.gamma + self.beta
        x = x.astype(ms.float32)
        if self.training and self.by_rows is not None:
            y = self.by_rows[0](x, self.gamma, self.beta)
        else:
            y = super().construct(x)
        return y.astype(ms.float16) if self.half_result else y

    def before_fusing(self) -> None:
        """Be computed in parts by a training in float32."""
        self.in_parts = True


class Softmax(nn.Softmax):
    """Softmax of the last axis. In a training on a CPU its gradient sums and subtracts without broadcasting.

    It is one of ``common.layers.precision.FLOAT32_CELLS``, as the framework's is.

    Inputs: x (..., length).   Output: the same shape.
    """

    def __init__(self):
        super().__init__(-1)
        self.by_rows = shared(RowSoftmax) if on_cpu() else None

    def construct(self, x):
        return self.by_rows[0](x) if self.training and self.by_rows is not None else super().construct(x)

    def before_fusing(self) -> None:
        """Have the framework's gradient, which is fused."""
        self.by_rows = None


class PlusTable(Float32Cell):
    """x + table, one table for all samples; in a training on a CPU it is ``AddBias``.

    Inputs: x (B, ...), of any float type; table (1, ...), float32.   Output: like x, float32.
    """

    def __init__(self):
        super().__init__()
        self.add_bias = shared(AddBias) if on_cpu() else None

    def construct(self, x, table):
        return self.add_bias[0](x, table) if self.training and self.add_bias is not None else x + table

    def before_fusing(self) -> None:
        """Be a sum, which is fused."""
        self.add_bias = None


class Blocks(nn.SequentialCell):
    """Blocks one after the other whose inputs all have the same shape: on a CPU equal ones are compiled once.

    Inputs: x.   Output: that of the last block, of the same shape.
    """

    one_shape = True  # common.context.compiling looks for it


class Dense(nn.Dense):
    """The framework's linear layer, whose bias in a training on a CPU is ``AddBias``.

    Args and inputs: see ``nn.Dense``; without an activation.
    """

    def __init__(self, in_channels: int, out_channels: int, **more):
        super().__init__(in_channels, out_channels, **more)
        self.add_bias = shared(AddBias) if on_cpu() and self.has_bias else None

    def construct(self, x):
        if not self.training or self.add_bias is None:
            return super().construct(x)
        rows = self.matmul(x.reshape(-1, x.shape[-1]), self.weight)
        if rows.dtype == ms.float32:
            rows = self.add_bias[0](rows, self.bias)
        else:
            rows = self.bias_add(rows, self.bias)  # the function would not get the bias in the type of the rows
        return rows.reshape(x.shape[:-1] + (self.out_channels,))


class Mlp(nn.Cell):
    """fc2(gelu(fc1(x))) on the last axis.

    Inputs: x, (..., dim).   Output: the same shape.
    """

    def __init__(self, dim: int, hidden_dim: int):
        super().__init__()
        self.fc1 = nn.Dense(dim, hidden_dim, weight_init="zeros", bias_init="zeros")
        self.act = GELU()
        self.fc2 = nn.Dense(hidden_dim, dim, weight_init="zeros", bias_init="zeros")

    def construct(self, x):
        return self.fc2(self.act(self.fc1(x)))


class PatchProjection(nn.Cell):
    """The parameters of a convolution whose kernel and stride are one patch, applied to patches as a matrix product.

    Inputs: patches (B, N, C * h * w), pixels in the order (channel, row, column).   Output: (B, N, D).
    """

    def __init__(self, in_channels: int, embed_dim: int, patch_size: tuple[int, int]):
        super().__init__()
        self.width = in_channels * math.prod(patch_size)
        self.embed_dim = embed_dim
        shape = (embed_dim, in_channels, *patch_size)
        self.weight = Parameter(Tensor(np.zeros(shape, np.float32)), name="weight")
        self.bias = Parameter(Tensor(np.zeros(embed_dim, np.float32)), name="bias")
        self.product = ops.MatMul(transpose_b=True)

    def construct(self, patches):
        rows = self.product(patches.reshape(-1, self.width), self.weight.reshape(self.embed_dim, self.width))
        return (rows + self.bias).reshape(-1, patches.shape[1], self.embed_dim)


class PatchEmbed(nn.Cell):
    """Cuts images into patches and projects each to a token, row by row.

    Equal to a convolution with kernel and stride ``patch_size`` and a bias, which ``proj.weight`` (D, C, h, w) and
    ``proj.bias`` (D,) belong to; as a matrix product it is up to 100 times faster on a CPU.

    Args:
        image_size: height and width in pixels, or one number for both.
        patch_size: likewise.
        in_channels: channels of the images, C.
        embed_dim: width of the tokens, D.

    Inputs: images (B, C, H, W).   Output: tokens (B, N, D), N = H / h * W / w.

    Raises:
        UserError: if patches do not tile the image.
    """

    def __init__(self, image_size: int | Sequence[int], patch_size: int | Sequence[int], in_channels: int,
                 embed_dim: int):
        super().__init__()
        self.image_size = pair("image_size", image_size)
        self.patch_size = pair("patch_size", patch_size)
        if any(size % patch for size, patch in zip(self.image_size, self.patch_size)):
            raise UserError(f"image_size: {_times(self.image_size)} is not a multiple of patch_size "
                            f"{_times(self.patch_size)}.")
        self.grid = tuple(size // patch for size, patch in zip(self.image_size, self.patch_size))
        self.num_patches = math.prod(self.grid)
        self.in_channels = in_channels
        self.proj = PatchProjection(in_channels, embed_dim, self.patch_size)

    def construct(self, images):
        if images.shape[1:] != (self.in_channels, *self.image_size):
            raise ValueError(f"images of {images.shape[1:]} (channels, height, width) were given to a network built "
                             f"for {(self.in_channels, *self.image_size)}")
        (rows, columns), (height, width) = self.grid, self.patch_size
        patches = images.reshape(-1, self.in_channels, rows, height, columns, width).transpose(0, 2, 4, 1, 3, 5)
        return self.proj(patches.reshape(-1, self.num_patches, self.in_channels * height * width))


def pair(key: str, value: int | Sequence[int]) -> tuple[int, int]:
    """Return (height, width) for a number or a pair of numbers.

    Raises:
        UserError: naming ``key``, if it is neither or not positive.
    """
    both = (value, value) if isinstance(value, int) else tuple(value)
    if len(both) != 2 or min(both) < 1:
        raise UserError(f"{key}: {value} is neither a positive number of pixels nor a pair (height, width).")
    return both


def _times(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
