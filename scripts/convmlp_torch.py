"""ConvMLP written plainly for PyTorch: what ``scripts/benchmark.py --against torch`` measures ConvMLP beside.

The structure of ``convmlp.src.convmlp``, where its sources stand, with PyTorch's own layers and the authors' names of
parameters; a test holds it to the same golden numbers. It is no part of the zoo: nothing trains or predicts with it.
"""
from typing import Any, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from scripts.hlg_torch import DropPath, conv


def conv_norm_relu(in_dim: int, dim: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    """A convolution without bias, BatchNorm and ReLU."""
    return [conv(in_dim, dim, kernel, stride, bias=False), nn.BatchNorm2d(dim), nn.ReLU(inplace=True)]


class Tokenizer(nn.Module):
    """Images (B, C, H, W) -> maps (B, dim, H / 4, W / 4)."""

    def __init__(self, in_channels: int, dim: int):
        super().__init__()
        half = dim // 2
        self.block = nn.Sequential(*conv_norm_relu(in_channels, half, 3, 2), *conv_norm_relu(half, half, 3),
                                   *conv_norm_relu(half, dim, 3), nn.MaxPool2d(3, 2, 1))

    def forward(self, images):
        return self.block(images)


class ConvStage(nn.Module):
    """Residual bottlenecks (B, C, H, W), then half the size, (B, dim, H / 2, W / 2)."""

    def __init__(self, channels: int, dim: int, depth: int):
        super().__init__()
        self.conv_blocks = nn.ModuleList([
            nn.Sequential(*conv_norm_relu(channels, dim, 1), *conv_norm_relu(dim, dim, 3),
                          *conv_norm_relu(dim, channels, 1)) for _ in range(depth)])
        self.downsample = conv(channels, dim, 3, 2)

    def forward(self, x):
        for block in self.conv_blocks:
            x = x + block(x)
        return self.downsample(x)


class Mlp(nn.Module):
    """fc2(gelu(fc1(x))) on the last axis."""

    def __init__(self, dim: int, hidden_dim: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden_dim), nn.Linear(hidden_dim, dim)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Channel MLP, depthwise convolution, channel MLP on (B, H, W, D)."""

    def __init__(self, dim: int, hidden_dim: int, drop_path_rate: float):
        super().__init__()
        self.norm1, self.connect_norm, self.norm2 = (nn.LayerNorm(dim) for _ in range(3))
        self.channel_mlp1, self.channel_mlp2 = Mlp(dim, hidden_dim), Mlp(dim, hidden_dim)
        self.connect = conv(dim, dim, 3, groups=dim, bias=False)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x):
        x = x + self.drop_path(self.channel_mlp1(self.norm1(x)))
        x = self.connect(self.connect_norm(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x + self.drop_path(self.channel_mlp2(self.norm2(x)))


class Downsample(nn.Module):
    """(B, H, W, C) -> (B, H / 2, W / 2, D)."""

    def __init__(self, in_dim: int, dim: int):
        super().__init__()
        self.downsample = conv(in_dim, dim, 3, 2)

    def forward(self, x):
        return self.downsample(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class Stage(nn.Module):
    """Blocks at one size, then half of it unless ``next_dim`` is ``None``."""

    def __init__(self, dim: int, next_dim: int | None, depth: int, mlp_ratio: float, drop_path_rate: float):
        super().__init__()
        self.blocks = nn.Sequential(*(Block(dim, int(dim * mlp_ratio), rate)
                                      for rate in np.linspace(0, drop_path_rate, depth).tolist()))
        self.downsample_mlp = nn.Identity() if next_dim is None else Downsample(dim, next_dim)

    def forward(self, x):
        return self.downsample_mlp(self.blocks(x))


class ConvMLP(nn.Module):
    """Images (B, C, H, W) -> logits (B, num_classes); arguments as those of ``convmlp.src.convmlp.ConvMLP``."""

    def __init__(self, num_classes: int, in_channels: int, channels: int, n_conv_blocks: int, dims: Sequence[int],
                 depths: Sequence[int], mlp_ratio: float, drop_path_rate: float):
        super().__init__()
        self.tokenizer = Tokenizer(in_channels, channels)
        self.conv_stages = ConvStage(channels, dims[0], n_conv_blocks)
        self.stages = nn.ModuleList([Stage(dim, next_dim, depth, mlp_ratio, drop_path_rate)
                                     for dim, next_dim, depth in zip(dims, (*dims[1:], None), depths)])
        self.norm = nn.LayerNorm(dims[-1])
        self.head = nn.Linear(dims[-1], num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.conv_stages(self.tokenizer(images)).permute(0, 2, 3, 1)
        for stage in self.stages:
            x = stage(x)
        return self.head(self.norm(x).mean((1, 2)))


def build(variant: str, image_size: int = 224, **arguments: Any) -> nn.Module:
    """Return the network of a ConvMLP variant, which takes images of any size."""
    from convmlp.src.spec import VARIANTS

    return ConvMLP(**({"num_classes": 1000, "in_channels": 3} | dict(VARIANTS[variant]) | arguments))
