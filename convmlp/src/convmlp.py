"""ConvMLP, a hierarchical image classifier of convolutions and channel MLPs.

Paper: Li, Hassani, Walton and Shi 2021, "ConvMLP: Hierarchical Convolutional MLPs for Vision",
https://arxiv.org/abs/2109.04454. Numerically equal to the authors' implementation, SHI-Labs/Convolutional-MLPs at commit
092bf71; see ``convmlp.src.spec`` for variants and for the names of weights.
"""
import math
from typing import Mapping, Sequence

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from common.errors import UserError
from common.layers.cells import LayerNorm, Mlp
from common.layers.cpu_training import on_cpu, swapped
from common.layers.drop_path import DropPath
from common.layers.initial_values import initialise, truncated_normal

NORM_EPS = 1e-5  # of every LayerNorm and BatchNorm


class Conv(nn.Conv2d):
    """A convolution padded with ``kernel // 2`` zeros on every side: the framework's "same" pads strided ones otherwise.

    Inputs: x, (B, C, H, W).   Output: (B, D, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, group: int = 1,
                 has_bias: bool = False):
        super().__init__(in_channels, out_channels, kernel, stride, pad_mode="pad", padding=kernel // 2, group=group,
                         has_bias=has_bias, weight_init="zeros", bias_init="zeros")


def conv_norm_relu(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> list[nn.Cell]:
    """A convolution without bias, BatchNorm (a tenth of each new batch in its statistics) and ReLU."""
    return [Conv(in_channels, out_channels, kernel, stride), nn.BatchNorm2d(out_channels, eps=NORM_EPS, momentum=0.9),
            nn.ReLU()]


class ConvTokenizer(nn.Cell):
    """Three 3 x 3 convolutions and a max-pool: images to maps of a quarter of their side.

    Args:
        in_channels: channels of the images.
        channels: channels of the maps, even.

    Inputs: images, (B, C, H, W).   Output: (B, channels, ceil(H / 4), ceil(W / 4)).

    Raises:
        UserError: if ``channels`` is odd.
    """

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        if channels % 2:
            raise UserError(f"channels: {channels} is odd, but the first convolutions have half as many.")
        half = channels // 2
        self.block = nn.SequentialCell(conv_norm_relu(in_channels, half, 3, stride=2) + conv_norm_relu(half, half, 3)
                                       + conv_norm_relu(half, channels, 3))
        self.pool = nn.MaxPool2d(3, 2, pad_mode="valid")

    def construct(self, images):
        return self.pool(framed(self.block(images)))


class ConvStage(nn.Cell):
    """``depth`` residual bottlenecks of convolutions at one size, then half the size.

    A bottleneck is x + relu(bn(1x1(relu(bn(3x3(relu(bn(1x1(x))))))))): nothing follows the addition.

    Args:
        channels: channels of the input.
        dim: channels inside the bottlenecks and of the output.
        depth: number of bottlenecks.

    Inputs: x, (B, channels, H, W).   Output: (B, dim, ceil(H / 2), ceil(W / 2)).
    """

    def __init__(self, channels: int, dim: int, depth: int):
        super().__init__()
        self.conv_blocks = nn.CellList([
            nn.SequentialCell(conv_norm_relu(channels, dim, 1) + conv_norm_relu(dim, dim, 3)
                              + conv_norm_relu(dim, channels, 1))
            for _ in range(depth)])
        self.downsample = Conv(channels, dim, 3, stride=2, has_bias=True)

    def construct(self, x):
        for block in self.conv_blocks:
            x = x + block(x)
        return self.downsample(x)


class ConvMLPBlock(nn.Cell):
    """Channel MLP, depthwise 3 x 3 convolution, channel MLP; the convolution, unlike the MLPs, replaces its input.

    Source: the paper, section 3.4, and the authors' code.

    Args:
        dim: width, D.
        hidden_dim: width inside the MLPs.
        drop_path_rate: probability of dropping an MLP's branch of a sample while training; each draws for itself.

    Inputs: x, (B, H, W, D).   Output: (B, H, W, D).
    """

    def __init__(self, dim: int, hidden_dim: int, drop_path_rate: float = 0.0):
        super().__init__()
        self.norm1 = LayerNorm(dim, NORM_EPS)
        self.channel_mlp1 = Mlp(dim, hidden_dim)
        self.drop_path1 = DropPath(drop_path_rate)
        self.connect_norm = LayerNorm(dim, NORM_EPS)
        self.connect = Conv(dim, dim, 3, group=dim)
        self.norm2 = LayerNorm(dim, NORM_EPS)
        self.channel_mlp2 = Mlp(dim, hidden_dim)
        self.drop_path2 = DropPath(drop_path_rate)
        self.on_cpu = on_cpu()

    def construct(self, x):
        lean = self.training and self.on_cpu
        x = x + self.drop_path1(self.channel_mlp1(self.norm1(x)))
        x = channels_last(self.connect(channels_first(self.connect_norm(x), lean)), lean)
        return x + self.drop_path2(self.channel_mlp2(self.norm2(x)))


class Downsample(nn.Cell):
    """Halves the size of a map with a 3 x 3 convolution.

    Inputs: x, (B, H, W, C).   Output: (B, ceil(H / 2), ceil(W / 2), D).
    """

    def __init__(self, in_dim: int, out_dim: int):
        super().__init__()
        self.downsample = Conv(in_dim, out_dim, 3, stride=2, has_bias=True)
        self.on_cpu = on_cpu()

    def construct(self, x):
        lean = self.training and self.on_cpu
        return channels_last(self.downsample(channels_first(x, lean)), lean)


class ConvMLPStage(nn.Cell):
    """``depth`` blocks at one size, then half the size unless it is the last stage.

    Args:
        dim: width of the blocks, D.
        next_dim: width after the stage; ``None`` for the last one, which keeps its size.
        depth: number of blocks.
        mlp_ratio: width inside the MLPs / D.
        drop_path_rate: that of the stage's last block; it rises from 0 in equal steps.

    Inputs: x, (B, H, W, D).   Output: (B, ceil(H / 2), ceil(W / 2), next_dim), or (B, H, W, D).
    """

    def __init__(self, dim: int, next_dim: int | None, depth: int, mlp_ratio: float, drop_path_rate: float):
        super().__init__()
        rates = np.linspace(0.0, drop_path_rate, depth).tolist()
        self.blocks = nn.SequentialCell([ConvMLPBlock(dim, int(dim * mlp_ratio), rate) for rate in rates])
        self.downsample_mlp = nn.Identity() if next_dim is None else Downsample(dim, next_dim)

    def construct(self, x):
        return self.downsample_mlp(self.blocks(x))


class ConvMLP(nn.Cell):
    """Tokenizer, stage of convolutions, three stages of ConvMLP blocks, norm, mean over the map, linear head.

    No weight depends on the size of the images, so that any size will do.

    Args:
        num_classes: outputs of the head.
        in_channels: channels of the images.
        channels: width of the tokenizer's maps, even.
        n_conv_blocks: bottlenecks in the stage of convolutions.
        dims: widths of the ConvMLP stages.
        depths: their numbers of blocks.
        mlp_ratio: width inside their MLPs / width, one number or one per stage.
        drop_path_rate: that of the last block of every stage; it rises from 0 anew in each.

    Inputs: images, float32 (B, C, H, W).   Output: logits, float32 (B, num_classes).

    Raises:
        UserError: for arguments that do not fit together.
    """

    def __init__(self, num_classes: int = 1000, in_channels: int = 3, channels: int = 64, n_conv_blocks: int = 2,
                 dims: Sequence[int] = (128, 256, 512), depths: Sequence[int] = (2, 4, 2),
                 mlp_ratio: float | Sequence[float] = 2, drop_path_rate: float = 0.1):
        super().__init__()
        ratios = tuple(mlp_ratio) if isinstance(mlp_ratio, Sequence) else (mlp_ratio,) * len(dims)
        if not len(dims) == len(depths) == len(ratios) or not dims:
            raise UserError(f"dims: {list(dims)}, depths: {list(depths)} and mlp_ratio: {list(ratios)} must have one "
                            "number per stage each.")
        self.tokenizer = ConvTokenizer(in_channels, channels)
        self.conv_stages = ConvStage(channels, dims[0], n_conv_blocks)
        self.stages = nn.SequentialCell([
            ConvMLPStage(dim, next_dim, depth, ratio, drop_path_rate)
            for dim, next_dim, depth, ratio in zip(dims, (*dims[1:], None), depths, ratios)])
        self.on_cpu = on_cpu()
        self.norm = LayerNorm(dims[-1], NORM_EPS)
        self.head = nn.Dense(dims[-1], num_classes, weight_init="zeros", bias_init="zeros")
        fan_in = {p.name.replace(".weight", ".bias"): math.prod(p.shape[1:]) for p in self.get_parameters()
                  if p.name.endswith("downsample.weight")}
        initialise(self, lambda name, shape, rng: initial_value(name, shape, rng, fan_in))

    def construct(self, images):
        return self.head(self.features(images)).astype(ms.float32)

    def features(self, images):
        """Return what the head reads: the mean of the normalised map, (B, D)."""
        x = channels_last(self.conv_stages(self.tokenizer(images)), self.training and self.on_cpu)
        return self.norm(self.stages(x)).mean((1, 2))

    def stage_outputs(self, images):
        """Return the maps of the stage of convolutions and of each ConvMLP stage, (B, C, H, W)."""
        maps = self.conv_stages(self.tokenizer(images))
        x, found = channels_last(maps), (maps,)
        for stage in self.stages:
            x = stage.blocks(x)
            found = found + (channels_first(x),)
            x = stage.downsample_mlp(x)
        return found


def framed(maps):
    """Put a frame of zeros, one pixel wide, around maps (B, C, H, W): (B, C, H + 2, W + 2).

    In front of a max-pool whose input is never negative, that is the padding of the pool itself, gradients included;
    but the framework's padded pool is a three-dimensional one, which Ascend computes on its control CPU. Concatenated,
    because the gradient of ``ops.pad`` in a graph on the CPU is wrong from the second call on (2.10).
    """
    row = ops.zeros_like(maps[:, :, :1])
    maps = ops.concat((row, maps, row), 2)
    column = ops.zeros_like(maps[:, :, :, :1])
    return ops.concat((column, maps, column), 3)


def channels_last(x, lean: bool = False):
    """(B, C, H, W) -> (B, H, W, C); ``lean``: see ``common.layers.cpu_training``."""
    if lean:
        _, channels, height, width = x.shape
        return swapped(x.reshape(-1, channels, height * width), lean).reshape(-1, height, width, channels)
    return x.transpose(0, 2, 3, 1)


def channels_first(x, lean: bool = False):
    """(B, H, W, C) -> (B, C, H, W); ``lean``: likewise."""
    if lean:
        _, height, width, channels = x.shape
        return swapped(x.reshape(-1, height * width, channels), lean).reshape(-1, channels, height, width)
    return x.transpose(0, 3, 1, 2)


def initial_value(name: str, shape: tuple[int, ...], rng: np.random.Generator, fan_in: Mapping[str, int]
                  ) -> np.ndarray | None:
    """Initial value of a parameter; those not named here are right as they are built: zeros and ones.

    Source: the authors' code. Kaiming's normal distribution over the outputs of convolutions (a depthwise one counts as
    if it were dense, as in PyTorch), PyTorch's uniform one for their biases, and 0.02 for linear layers.

    Args:
        name, shape, rng: see ``common.layers.initial_values.initialise``.
        fan_in: name of a convolution's bias -> inputs per output.
    """
    if len(shape) == 4:
        return rng.standard_normal(shape, np.float32) * math.sqrt(2 / (shape[0] * math.prod(shape[2:])))
    if len(shape) == 2:
        return truncated_normal(rng, shape, 0.02, 2.0)
    if name in fan_in:
        bound = 1 / math.sqrt(fan_in[name])
        return rng.uniform(-bound, bound, shape)
    return None
