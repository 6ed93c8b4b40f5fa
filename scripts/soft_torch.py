"""SOFT written plainly for PyTorch: what ``scripts/benchmark.py --against torch`` measures SOFT beside.

The structure of ``soft.src``, where its sources stand, with PyTorch's own layers and the authors' names of parameters;
a test holds it to the same golden numbers. It has the plain kernel and images of 224 x 224 alone, and is no part of the
zoo: nothing trains or predicts with it.
"""
from typing import Any, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from common.errors import UserError
from scripts.convmlp_torch import Mlp
from scripts.hlg_torch import DropPath, as_maps, as_tokens, conv

RATIOS, KERNEL_SIZES = (8, 4, 2), (9, 5, 3)
ITERATIONS, RIDGE, STEP = 20, 0.01, 0.9


class NewtonInverse(torch.autograd.Function):
    """The inverse of kernel + 0.01 I, (B, h, M, M), by iteration; its gradient is that of the exact inverse."""

    @staticmethod
    def forward(ctx, kernel):
        identity = torch.eye(kernel.shape[-1], device=kernel.device)
        matrix = kernel + RIDGE * identity
        inverse = matrix * (2 * STEP / kernel.sum(-1, keepdim=True).amax(-2, keepdim=True) ** 2)
        for _ in range(ITERATIONS):
            inverse = inverse + (identity - inverse @ matrix) @ inverse
        ctx.save_for_backward(inverse)
        return inverse

    @staticmethod
    def backward(ctx, gradient):
        inverse, = ctx.saved_tensors
        return -inverse.mT @ gradient @ inverse.mT


class Kernel(nn.Module):
    """Scaled queries and values (B, h, N, d) -> (B, h, N, d): Gaussian attention by landmarks, and a convolution."""

    def __init__(self, head_dim: int, num_heads: int, ratio: int, kernel_size: int):
        super().__init__()
        self.Qlandmark_op = nn.Conv2d(head_dim, head_dim, ratio, ratio, bias=False)
        self.Qnorm_act = nn.Sequential(nn.LayerNorm(head_dim), nn.GELU())
        self.conv = conv(num_heads, num_heads, kernel_size, groups=num_heads, bias=False)

    def forward(self, queries, values, grid: Sequence[int]):
        batch, heads, tokens, dim = queries.shape
        maps = self.Qlandmark_op(queries.reshape(batch * heads, tokens, dim).mT.reshape(-1, dim, *grid))
        landmarks = self.Qnorm_act(maps.reshape(batch, heads, dim, -1).mT)
        of_queries, of_landmarks = (0.5 * x.square().sum(-1, keepdim=True) for x in (queries, landmarks))
        kernel = torch.exp(queries @ landmarks.mT - of_queries - of_landmarks.mT)
        inverse = NewtonInverse.apply(torch.exp(landmarks @ landmarks.mT - of_landmarks - of_landmarks.mT))
        local = self.conv(values.permute(0, 3, 1, 2).reshape(-1, heads, *grid))
        local = local.reshape(batch, dim, heads, tokens).permute(0, 2, 3, 1)
        return kernel @ (inverse @ (kernel.mT @ values)) + local


class SoftmaxFreeAttention(nn.Module):
    """(B, N, C) -> the same shape."""

    def __init__(self, dim: int, num_heads: int, ratio: int, kernel_size: int):
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.25
        self.W_q, self.W_v, self.ff = (nn.Linear(dim, dim) for _ in range(3))
        self.attn = Kernel(dim // num_heads, num_heads, ratio, kernel_size)

    def forward(self, x, grid):
        queries, values = (y.reshape(*x.shape[:2], self.num_heads, -1).transpose(1, 2)
                           for y in (self.W_q(x), self.W_v(x)))
        return self.ff(self.attn(queries * self.scale, values, grid).transpose(1, 2).reshape(x.shape))


class Parts(nn.Module):
    """The parts of a softmax-free block, under the authors' names."""

    def __init__(self, dim: int, mlp_ratio: float, attention: SoftmaxFreeAttention):
        super().__init__()
        self.mha = attention
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.ff1, self.ff2 = nn.Linear(dim, int(dim * mlp_ratio)), nn.Linear(int(dim * mlp_ratio), dim)


class SoftBlock(nn.Module):
    """Attention and MLP with the norms last, and dropout of single elements; (B, N, C) -> the same shape."""

    def __init__(self, drop_rate: float, parts: Parts):
        super().__init__()
        self.drop_rate, self.att = drop_rate, parts

    def forward(self, x, grid):
        x = self.att.norm1(x + F.dropout(self.att.mha(x, grid), self.drop_rate, self.training))
        y = self.att.ff2(F.gelu(self.att.ff1(x), approximate="tanh"))
        return self.att.norm2(x + F.dropout(y, self.drop_rate, self.training))


class Attention(nn.Module):
    """Ordinary attention, (B, N, C) -> the same shape."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.q, self.kv, self.proj = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)

    def forward(self, x):
        queries, keys, values = (y.reshape(*x.shape[:2], self.num_heads, -1).transpose(1, 2)
                                 for y in (self.q(x), *self.kv(x).chunk(2, -1)))
        return self.proj(F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).reshape(x.shape))


class Block(nn.Module):
    """The pre-norm block of the last stage, (B, N, C) -> the same shape."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, drop_path_rate: float):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, 1e-6), nn.LayerNorm(dim, 1e-6)
        self.attn, self.mlp = Attention(dim, num_heads), Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x):
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    """3 x 3 convolutions with BatchNorm and ReLU: (B, C, H, W) -> maps of a smaller side."""

    def __init__(self, widths: Sequence[int], strides: Sequence[int]):
        super().__init__()
        cells = []
        for width, next_width, stride in zip(widths, widths[1:], strides):
            cells += [conv(width, next_width, 3, stride), nn.BatchNorm2d(next_width), nn.ReLU(inplace=True)]
        self.proj = nn.Sequential(*cells)

    def forward(self, x):
        return self.proj(x)


class SOFT(nn.Module):
    """Images (B, C, 224, 224) -> logits (B, num_classes); arguments as those of the class of the same name in soft."""

    def __init__(self, num_classes: int, in_channels: int, dims: Sequence[int], num_heads: Sequence[int],
                 depths: Sequence[int], drop_path_rate: float, mlp_ratio: float = 4):
        super().__init__()
        rates = iter(np.linspace(0, drop_path_rate, sum(depths)).tolist())
        for stage, (dim, heads, depth) in enumerate(zip(dims, num_heads, depths)):
            last, side = stage == 3, 56 >> stage
            setattr(self, f"patch_embed{stage + 1}", PatchEmbed((dims[stage - 1], dim), (2,)) if stage else
                    PatchEmbed((in_channels, 32, 32, dim), (2, 1, 2)))
            setattr(self, f"pos_embed{stage + 1}", nn.Parameter(torch.zeros(1, side * side + last, dim)))
            setattr(self, f"block{stage + 1}", nn.ModuleList([
                Block(dim, heads, mlp_ratio, next(rates)) if last else
                SoftBlock(next(rates), Parts(dim, mlp_ratio, SoftmaxFreeAttention(
                    dim, heads, RATIOS[stage], KERNEL_SIZES[stage]))) for _ in range(depth)]))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dims[-1]))
        self.norm = nn.LayerNorm(dims[-1], 1e-6)
        self.head = nn.Linear(dims[-1], num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = images
        for stage in (1, 2, 3):
            maps = getattr(self, f"patch_embed{stage}")(maps)
            grid, tokens = maps.shape[2:], as_tokens(maps) + getattr(self, f"pos_embed{stage}")
            for block in getattr(self, f"block{stage}"):
                tokens = block(tokens, grid)
            maps = as_maps(tokens, grid)
        tokens = as_tokens(self.patch_embed4(maps))
        tokens = torch.cat((self.cls_token.expand(len(tokens), -1, -1), tokens), 1) + self.pos_embed4
        for block in self.block4:
            tokens = block(tokens)
        return self.head(self.norm(tokens)[:, 0])


def build(variant: str, image_size: int = 224, **arguments: Any) -> nn.Module:
    """Return the network of a variant of the plain kernel.

    Raises:
        UserError: for the normalised kernel, or images of another size.
    """
    from soft.src.spec import VARIANTS

    given = {"num_classes": 1000, "in_channels": 3} | dict(VARIANTS[variant]) | arguments
    if given.pop("normalised") or image_size != 224:
        raise UserError("against: PyTorch's form of SOFT has the plain kernel and images of 224 x 224 alone.")
    return SOFT(**given)
