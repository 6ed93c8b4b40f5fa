"""What the two HLG networks share: windows and dilated groups, smoothing, attention, checks, initial values."""
import math
from typing import Mapping, Sequence

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from common.errors import UserError
from common.layers.cells import Dense, Float32Cell
from common.layers.cpu_training import AddBias, apart, on_cpu, shared, swapped, together
from common.layers.initial_values import truncated_normal

SIDE = 7  # of a window or dilated group, in tokens


def conv(in_dim: int, dim: int, kernel_size: int, stride: int = 1, group: int = 1, bias: bool = True,
         padding: int | None = None) -> nn.Conv2d:
    """Return a convolution that pads with zeros, by half the kernel if ``padding`` is not given."""
    return nn.Conv2d(in_dim, dim, kernel_size, stride, pad_mode="pad", group=group, has_bias=bias,
                     padding=kernel_size // 2 if padding is None else padding, weight_init="zeros", bias_init="zeros")


def batch_norm(dim: int) -> nn.BatchNorm2d:
    """Return a BatchNorm with PyTorch's epsilon and momentum: 1e-5, and 0.1 of the batch, which MindSpore calls 0.9."""
    return nn.BatchNorm2d(dim, eps=1e-5, momentum=0.9)


def dense(in_dim: int, dim: int) -> Dense:
    """Return a linear layer whose parameters await their initial values."""
    return Dense(in_dim, dim, weight_init="zeros", bias_init="zeros")


def smoothing(dim: int, act: type[nn.Cell]) -> nn.SequentialCell:
    """Return a bottleneck of convolutions that lets neighbours mix, (B, dim, H, W) -> the same shape.

    It is nested as in both references, which gives the parameters their names.
    """
    narrow = dim // 4
    return nn.SequentialCell([nn.SequentialCell([
        conv(dim, narrow, 1), batch_norm(narrow), act(), conv(narrow, narrow, 3), batch_norm(narrow), act(),
        conv(narrow, dim, 1), batch_norm(dim)])])


def as_tokens(maps, lean: bool):
    """(B, C, H, W) -> (B, H W, C); ``lean``, here and below: see ``common.layers.cpu_training``."""
    return swapped(maps.reshape(-1, maps.shape[1], maps.shape[2] * maps.shape[3]), lean)


def as_maps(tokens, grid, lean: bool):
    """(B, H W, C) -> (B, C, H, W)."""
    return swapped(tokens, lean).reshape(-1, tokens.shape[2], *grid)


def group(maps, dilated: bool, lean: bool):
    """Cut maps into groups of 7 x 7 tokens: (B, C, H, W) -> (B H/7 W/7, 49, C).

    A group is a window of neighbours, or, dilated, every (H/7)-th row and every (W/7)-th column. Groups and the tokens
    in each are in row-major order.
    """
    rows, columns = maps.shape[2] // SIDE, maps.shape[3] // SIDE
    if lean and dilated:
        bands = apart(as_tokens(maps, lean).reshape(-1, SIDE, rows * SIDE * columns * maps.shape[1]), rows, lean)
        groups = apart(bands.reshape(-1, SIDE * SIDE, columns * maps.shape[1]), columns, lean)
    elif lean:
        groups = apart(as_tokens(maps, lean).reshape(-1, SIDE, columns * SIDE * maps.shape[1]), columns, lean)
    elif dilated:
        groups = maps.reshape(-1, maps.shape[1], SIDE, rows, SIDE, columns).transpose(0, 3, 5, 2, 4, 1)
    else:
        groups = maps.reshape(-1, maps.shape[1], rows, SIDE, columns, SIDE).transpose(0, 2, 4, 3, 5, 1)
    return groups.reshape(-1, SIDE * SIDE, maps.shape[1])


def ungroup(groups, grid, dilated: bool, lean: bool):
    """Put tokens back to where ``group`` took them from: (B H/7 W/7, 49, C) -> (B, H W, C)."""
    rows, columns = grid[0] // SIDE, grid[1] // SIDE
    if lean and dilated:
        bands = together(groups.reshape(-1, columns, SIDE * SIDE, groups.shape[2]), lean)
        tokens = together(bands.reshape(-1, rows, SIDE, SIDE * columns * groups.shape[2]), lean)
    elif lean:
        tokens = together(groups.reshape(-1, columns, SIDE, SIDE * groups.shape[2]), lean)
    else:
        tokens = groups.reshape(-1, rows, columns, SIDE, SIDE, groups.shape[2])
        tokens = tokens.transpose(0, 3, 1, 4, 2, 5) if dilated else tokens.transpose(0, 1, 3, 2, 4, 5)
    return tokens.reshape(-1, grid[0] * grid[1], groups.shape[2])


class Softmax(Float32Cell):
    """Softmax of the last axis of scores (B, h, N, M), to which a bias (h, N, M) may be added, in float32."""

    def construct(self, scores, bias=None):
        return ops.softmax(scores if bias is None else scores + bias, -1)


class MixByShares(nn.Cell):
    """The product of attention's shares and its values, with the gradient of the softmax that made them.

    The framework sums over each row of shares and scores' gradients, and subtracts a column from a matrix, both slow on
    a CPU. The same sum is that of a row of the result and its gradient, which is shorter, and a product with ones also
    spreads it over the row.

    Inputs: scores (B, h, N, M), shares, which are their softmax and taken for constants, values (B, h, M, d), float32.
    Output: (B, h, N, d).
    """

    def __init__(self):
        super().__init__()
        self.product = ops.BatchMatMul()
        self.products = ops.BatchMatMul(transpose_b=True)
        self.product_of_transposed = ops.BatchMatMul(transpose_a=True)
        self.sums = ops.MatMul()

    def construct(self, scores, shares, values):
        return self.product(shares, values)

    def bprop(self, scores, shares, values, out, dout):
        width = dout.shape[-1]
        ones = ops.ones((width, shares.shape[-1]), ms.float32)
        row_sums = self.sums((dout * out).reshape(-1, width), ones).reshape(shares.shape)
        for_scores = shares * (self.products(dout, values) - row_sums)
        return for_scores, ops.zeros_like(shares), self.product_of_transposed(shares, dout)


class Heads(nn.Cell):
    """Multi-head attention without parameters.

    In a training on a CPU it is computed without operands of different shapes, see ``MixByShares``.

    Args:
        dim: width of the tokens, C.
        num_heads: heads h, each of width C / h.

    Inputs: queries (B, N, C), keys and values (B, M, C), perhaps a bias (h, N, M).   Output: (B, N, C).
    """

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.softmax = Softmax()
        self.products = ops.BatchMatMul(transpose_b=True)
        self.product = ops.BatchMatMul()
        self.on_cpu = on_cpu()
        self.by_shares = shared(AddBias) + shared(MixByShares) if self.on_cpu else None

    def construct(self, queries, keys, values, bias=None):
        lean = self.training and self.on_cpu
        values = apart(values, self.num_heads, lean)
        scores = self.products(apart(queries * self.head_dim ** -0.5, self.num_heads, lean),
                               apart(keys, self.num_heads, lean))
        if lean and scores.dtype == ms.float32:
            add_bias, mix = self.by_shares
            scores = scores if bias is None else add_bias(scores, bias)
            shares = ops.softmax(ops.stop_gradient(scores), -1)
            mixed = mix(scores, shares, values)
        else:
            mixed = self.product(self.softmax(scores, bias).astype(values.dtype), values)
        return together(mixed, lean)


def check_stages(dims: Sequence[int], drop_rate: float, **per_stage: Sequence) -> None:
    """Refuse sizes of stages that do not fit together.

    Args:
        dims: widths of the stages.
        drop_rate: drop path rate.
        per_stage: further arguments with one positive number per stage; ``num_heads`` is one of them.

    Raises:
        UserError: naming the argument.
    """
    if not isinstance(dims, Sequence) or not dims or min(dims) < 16 or any(dim % 16 for dim in dims):
        raise UserError(f"dims: {_shown(dims)} must be widths, one per stage, each a multiple of 16.")
    for key, values in per_stage.items():
        if not isinstance(values, Sequence) or len(values) != len(dims) or min(values) <= 0:
            raise UserError(f"{key}: {_shown(values)} must be {len(dims)} positive numbers, one per stage of dims "
                            f"{list(dims)}.")
    if any(dim % heads for dim, heads in zip(dims, per_stage["num_heads"])):
        raise UserError(f"num_heads: {list(per_stage['num_heads'])} must divide dims {list(dims)}, stage by stage.")
    if not 0 <= drop_rate < 1:
        raise UserError(f"drop_path_rate: {drop_rate} is not a probability in [0, 1).")


def _shown(values):
    return list(values) if isinstance(values, Sequence) else values


def fan_in_of_biases(network: nn.Cell) -> dict[str, int]:
    """Return the inputs per output of every convolution, by the name of its bias."""
    return {p.name.replace(".weight", ".bias"): math.prod(p.shape[1:]) for p in network.get_parameters()
            if p.name.endswith(".weight") and len(p.shape) == 4}


def initial_value(name: str, shape: tuple[int, ...], rng: np.random.Generator, fan_in: Mapping[str, int]
                  ) -> np.ndarray | None:
    """Initial value: 0.02 times a normal variable for linear layers, uniform within 1 / sqrt(fan_in) for convolutions.

    Those not named here are right as they are built: zeros and ones.

    Args:
        name, shape, rng: see ``common.layers.initial_values.initialise``.
        fan_in: name of a bias that is drawn likewise -> inputs per output of its layer.
    """
    if len(shape) == 4 or name in fan_in:
        bound = 1 / math.sqrt(math.prod(shape[1:]) if len(shape) == 4 else fan_in[name])
        return rng.uniform(-bound, bound, shape)
    return truncated_normal(rng, shape, 0.02, 2.0) if len(shape) == 2 else None
