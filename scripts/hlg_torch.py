"""HLG written plainly for PyTorch: what ``scripts/benchmark.py --against torch`` measures HLG beside.

No package has these networks, and their authors' code neither constructs nor runs. So this is the structure of
``hlg.src.hlg`` and ``hlg.src.hlg_official``, where its sources stand, with PyTorch's own layers; a test holds it to the
same golden numbers. Parameters have the names of those of ``hlg_official``, and for hlg_mobile those of ``hlg``, where
PyTorch calls gamma and beta weight and bias. It is no part of the zoo: nothing trains or predicts with it.
"""
from typing import Any, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

SIDE = 7  # of a window or dilated group, in tokens
STEM_DIM = 32  # of hlg_mobile


class DropPath(nn.Module):
    """While training, drops a branch for some samples (B, ...) and divides the others by the keep probability."""

    def __init__(self, rate: float):
        super().__init__()
        self.keep = 1 - rate

    def forward(self, x):
        if self.keep == 1 or not self.training:
            return x
        return x * x.new_empty((len(x),) + (1,) * (x.ndim - 1)).bernoulli_(self.keep).div_(self.keep)


def conv(in_dim: int, dim: int, kernel: int, stride: int = 1, groups: int = 1, bias: bool = True) -> nn.Conv2d:
    """Return a convolution that pads by half its kernel."""
    return nn.Conv2d(in_dim, dim, kernel, stride, kernel // 2, groups=groups, bias=bias)


def smoothing(dim: int, act: nn.Module) -> nn.Sequential:
    """Return the bottleneck of convolutions, (B, dim, H, W) -> the same shape."""
    narrow = dim // 4
    return nn.Sequential(nn.Sequential(
        conv(dim, narrow, 1), nn.BatchNorm2d(narrow), act, conv(narrow, narrow, 3), nn.BatchNorm2d(narrow), act,
        conv(narrow, dim, 1), nn.BatchNorm2d(dim)))


def as_tokens(maps):
    """(B, C, H, W) -> (B, H W, C)."""
    return maps.flatten(2).transpose(1, 2)


def as_maps(tokens, grid: Sequence[int]):
    """(B, H W, C) -> (B, C, H, W)."""
    return tokens.transpose(1, 2).reshape(len(tokens), -1, *grid)


def group(maps, dilated: bool):
    """(B, C, H, W) -> (B H/7 W/7, 49, C): windows, or every (H/7)-th row and (W/7)-th column."""
    batch, dim, height, width = maps.shape
    rows, columns = height // SIDE, width // SIDE
    if dilated:
        groups = maps.reshape(batch, dim, SIDE, rows, SIDE, columns).permute(0, 3, 5, 2, 4, 1)
    else:
        groups = maps.reshape(batch, dim, rows, SIDE, columns, SIDE).permute(0, 2, 4, 3, 5, 1)
    return groups.reshape(-1, SIDE * SIDE, dim)


def ungroup(groups, grid: Sequence[int], dilated: bool):
    """The inverse of ``group``, to tokens: (B H/7 W/7, 49, C) -> (B, H W, C)."""
    rows, columns = grid[0] // SIDE, grid[1] // SIDE
    tokens = groups.reshape(-1, rows, columns, SIDE, SIDE, groups.shape[2])
    tokens = tokens.permute(0, 3, 1, 4, 2, 5) if dilated else tokens.permute(0, 1, 3, 2, 4, 5)
    return tokens.reshape(-1, grid[0] * grid[1], groups.shape[2])


def attend(queries, keys, values, heads: int, bias=None):
    """Multi-head attention without parameters: (B, N, C), twice (B, M, C), perhaps (h, N, M) -> (B, N, C)."""
    def split(x):
        return x.reshape(len(x), x.shape[1], heads, -1).transpose(1, 2)

    mask = None if bias is None else bias[None]
    mixed = F.scaled_dot_product_attention(split(queries), split(keys), split(values), attn_mask=mask)
    return mixed.transpose(1, 2).reshape(queries.shape)


# hlg_mobile, the network of the old model zoo

class ZooPatchEmbed(nn.Module):
    """Convolution, BatchNorm, GELU: three times in the stem, otherwise once."""

    def __init__(self, in_dim: int, dim: int, stem: bool):
        super().__init__()
        self.act, self.stem = nn.GELU(approximate="tanh"), stem
        if stem:
            self.conv1, self.norm1 = conv(in_dim, STEM_DIM, 3, 2), nn.BatchNorm2d(STEM_DIM)
            self.conv2, self.norm2 = conv(STEM_DIM, STEM_DIM, 3), nn.BatchNorm2d(STEM_DIM)
            self.conv3, self.norm3 = conv(STEM_DIM, dim, 3, 2), nn.BatchNorm2d(dim)
        else:
            self.conv, self.norm = conv(in_dim, dim, 3, 2), nn.BatchNorm2d(dim)

    def forward(self, maps):
        if not self.stem:
            return self.act(self.norm(self.conv(maps)))
        maps = self.act(self.norm2(self.conv2(self.act(self.norm1(self.conv1(maps))))))
        return self.act(self.norm3(self.conv3(maps)))


class ZooAttention(nn.Module):
    """Multi-head attention of tokens to others."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v, self.proj = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, x, context):
        return self.proj(attend(self.to_q(x), self.to_k(context), self.to_v(context), self.heads))


class ZooMlp(nn.Module):
    """ff2(gelu(ff1(x)))."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.ff1, self.ff2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x):
        return self.ff2(F.gelu(self.ff1(x), approximate="tanh"))


class ZooBlock(nn.Module):
    """Attention and an MLP; with a ``grid`` also smoothing and attention within groups before them."""

    def __init__(self, dim: int, heads: int, ratio: float, eps: float, rate: float, grid: Sequence[int] = (),
                 dilated: bool = False):
        super().__init__()
        self.grid, self.dilated, self.drop = grid, dilated, DropPath(rate)
        self.attn, self.mlp = ZooAttention(dim, heads), ZooMlp(dim, int(dim * ratio))
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps), nn.LayerNorm(dim, eps)
        if grid:
            self.act = nn.GELU(approximate="tanh")
            self.norm0, self.spatial_smooth = nn.LayerNorm(dim, eps), smoothing(dim, self.act)

    def forward(self, x):
        if self.grid:
            maps = as_maps(x, self.grid)
            groups = group(self.act(maps + self.spatial_smooth(maps)), self.dilated)
            y = self.norm0(groups)
            groups = groups + self.drop(self.attn(y, y))
            x, context = ungroup(groups, self.grid, self.dilated), groups.mean(1).reshape(len(x), -1, x.shape[2])
            x = x + self.drop(self.attn(self.norm1(x), context))
        else:
            y = self.norm1(x)
            x = x + self.drop(self.attn(y, y))
        return x + self.drop(self.mlp(self.norm2(x)))


class ZooHLG(nn.Module):
    """Images (B, C, H, W) -> logits; the arguments are those of ``hlg.src.hlg.ZooHLG``."""

    def __init__(self, num_classes: int, image_size: int, in_channels: int, dims: Sequence[int],
                 num_heads: Sequence[int], depths: Sequence[int], mlp_ratio: Sequence[float], drop_path_rate: float,
                 norm_eps: float = 1e-7):
        super().__init__()
        rates = iter(np.linspace(0, drop_path_rate, sum(depths)).tolist())
        self.stages = []
        for stage, (dim, heads, depth, ratio) in enumerate(zip(dims, num_heads, depths, mlp_ratio), start=1):
            last, side = stage == len(dims), image_size // 2 ** (stage + 1)
            embed = ZooPatchEmbed(dims[stage - 2] if stage > 1 else in_channels, dim, stage == 1)
            table = nn.Parameter(torch.zeros(1, side * side + last, dim))
            blocks = [ZooBlock(dim, heads, ratio, norm_eps, next(rates), () if last else (side, side), bool(index % 2))
                      for index in range(depth)]
            self.add_module(f"patch_embed{stage}", embed)
            self.register_parameter(f"pos_embed{stage}", table)
            for index, block in enumerate(blocks):
                self.add_module(f"block{stage}_{index}", block)
            self.stages.append((embed, f"pos_embed{stage}", blocks, (side, side)))
        self.cls = nn.Parameter(torch.zeros(1, 1, dims[-1]))
        self.norm, self.head = nn.LayerNorm(dims[-1], norm_eps), nn.Linear(dims[-1], num_classes)

    def forward(self, maps):
        for number, (embed, table, blocks, grid) in enumerate(self.stages, start=1):
            tokens = as_tokens(embed(maps))
            if number == len(self.stages):
                tokens = torch.cat((self.cls.expand(len(tokens), -1, -1), tokens), 1)
            tokens = tokens + getattr(self, table)
            for block in blocks:
                tokens = block(tokens)
            if number < len(self.stages):
                maps = as_maps(tokens, grid)
        return self.head(self.norm(tokens[:, 0]))


# the authors' networks

class PositionBias(nn.Module):
    """(h, N, M), computed by a small network from the distances of N queries from the first M tokens."""

    def __init__(self, dim: int, heads: int, side: int, keys: int):
        super().__init__()
        width = dim // 16
        self.pos_proj = nn.Linear(2, width)
        self.pos1, self.pos2, self.pos3 = (nn.Sequential(nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, out))
                                           for out in (width, width, heads))
        places = np.stack(np.divmod(np.arange(side * side), side), 1)
        pairs = places[:, None] - places[None, :keys]
        distances, index = np.unique(pairs.reshape(-1, 2), axis=0, return_inverse=True)
        self.register_buffer("distances", torch.from_numpy(distances.astype(np.float32)), persistent=False)
        self.register_buffer("index", torch.from_numpy(index.reshape(pairs.shape[:2])), persistent=False)

    def forward(self):
        table = self.pos3(self.pos2(self.pos1(self.pos_proj(self.distances))))
        return table[self.index].permute(2, 0, 1)


class ConvMlp(nn.Module):
    """An MLP for every pixel with a depthwise convolution in its middle."""

    def __init__(self, in_dim: int, hidden: int, dim: int, stride: int):
        super().__init__()
        self.fc1, self.norm1 = conv(in_dim, hidden, 1), nn.BatchNorm2d(hidden)
        self.fc2, self.norm2 = conv(hidden, hidden, 3, stride, hidden), nn.BatchNorm2d(hidden)
        self.fc3 = conv(hidden, dim, 1)

    def forward(self, maps):
        return self.fc3(F.gelu(self.norm2(self.fc2(F.gelu(self.norm1(self.fc1(maps)))))))


class Projected(nn.Module):
    """Attention, and a linear layer."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads, self.proj = heads, nn.Linear(dim, dim)

    def forward(self, queries, keys, values, bias):
        return self.proj(attend(queries, keys, values, self.heads, bias))


class DownProj(nn.Module):
    """Depthwise convolution of stride 2, BatchNorm, GELU."""

    def __init__(self, in_dim: int, dim: int):
        super().__init__()
        self.proj = nn.Sequential(conv(in_dim, dim, 3, 2, in_dim), nn.BatchNorm2d(dim), nn.GELU())

    def forward(self, maps):
        return self.proj(maps)


class Block(nn.Module):
    """The MLP, then attention: within groups and to one token per group, or, in the last stage, of all to all."""

    def __init__(self, in_dim: int, dim: int, heads: int, hidden: int, side: int, eps: float, rate: float, first: bool,
                 local: bool, dilated: bool, pool: str):
        super().__init__()
        self.side, self.first, self.local, self.dilated, self.heads = side, first, local, dilated, heads
        self.drop, groups = DropPath(rate), (side // SIDE) ** 2
        if first:
            self.down_proj = DownProj(in_dim, dim)
        self.mlp = ConvMlp(in_dim, hidden, dim, 1 + first)
        self.q, self.k, self.v = (nn.Linear(dim, dim) for _ in range(3))
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps), nn.LayerNorm(dim, eps)
        self.pos_global = PositionBias(dim, heads, side, groups if local else side * side)
        self.global_attn = Projected(dim, heads)
        if local:
            self.spatial_smooth = smoothing(dim, nn.GELU())
            self.pos_local = PositionBias(dim, heads, SIDE, SIDE * SIDE)
            self.norm0, self.h0_norm = nn.LayerNorm(dim, eps), nn.LayerNorm(dim, eps)
            self.aux_q = conv(dim, dim, 3, groups=dim)
            self.h0_conv = nn.Conv2d(dim, dim, SIDE, groups=dim) if pool == "dwconv" else None

    def forward(self, x):
        maps = as_maps(x, [self.side * (1 + self.first)] * 2)
        if self.first:
            x = as_tokens(self.down_proj(maps))
        x = x + self.drop(self.norm2(as_tokens(self.mlp(maps))))
        if self.local:
            return self.attend_locally(x)
        return x + self.drop(self.norm1(self.global_attn(self.q(x), self.k(x), self.v(x), self.pos_global())))

    def attend_locally(self, x):
        grid = (self.side, self.side)
        maps = as_maps(x, grid)
        groups = group(F.gelu(maps + self.spatial_smooth(maps)), self.dilated)
        normed = self.norm0(groups)
        queries = self.q(normed)
        mixed = attend(queries, queries, self.v(normed), self.heads, self.pos_local())
        groups = groups + mixed
        pooled = groups.mean(1) if self.h0_conv is None else self.h0_conv(as_maps(groups, (SIDE, SIDE)))
        context = self.h0_norm(pooled.reshape(len(x), -1, x.shape[2]))
        x, queries, mixed = (ungroup(y, grid, self.dilated) for y in (groups, queries, mixed))
        queries = queries + as_tokens(self.aux_q(as_maps(self.norm1(mixed), grid)))
        return x + self.drop(self.global_attn(queries, self.k(context), self.v(context), self.pos_global()))


class OfficialHLG(nn.Module):
    """Images (B, C, H, W) -> logits; the arguments are those of ``hlg.src.hlg_official.OfficialHLG``."""

    def __init__(self, num_classes: int, image_size: int, in_channels: int, dims: Sequence[int],
                 num_heads: Sequence[int], depths: Sequence[int], drop_path_rate: float, pool: str = "avgpool",
                 layout: str = "head", norm_eps: float = 1e-6):
        super().__init__()
        self.s0_conv = nn.Sequential(*(
            nn.Sequential(conv(in_dim, dims[0], 3, stride, bias=False), nn.BatchNorm2d(dims[0]), nn.GELU())
            for in_dim, stride in ((in_channels, 2), (dims[0], 1))))
        rates = iter(np.linspace(0, drop_path_rate, sum(depths)).tolist())
        self.stages, in_dim = [], dims[0]
        for stage, (dim, heads, depth) in enumerate(zip(dims, num_heads, depths), start=1):
            side, local = image_size // 2 ** (stage + 1), stage < len(dims)
            blocks = nn.ModuleList()
            for index in range(depth):
                hidden = 4 * (in_dim if layout == "paper" else dim)
                blocks.append(Block(in_dim, dim, heads, hidden, side, norm_eps, next(rates), index == 0, local,
                                    bool(index % 2), pool))
                if layout == "head" and not local:
                    blocks[-1].spatial_smooth = smoothing(dim, nn.GELU())  # without effect
                in_dim = dim
            self.add_module(f"block{stage}", blocks)
            self.stages.append(blocks)
        self.norm, self.head = nn.LayerNorm(dims[-1], norm_eps), nn.Linear(dims[-1], num_classes)

    def forward(self, images):
        tokens = as_tokens(self.s0_conv(images))
        for blocks in self.stages:
            for block in blocks:
                tokens = block(tokens)
        return self.head(self.norm(tokens).mean(1))


def build(variant: str, **arguments: Any) -> nn.Module:
    """Return the network of an HLG variant; arguments that are not given are the variant's own."""
    from hlg.src.spec import VARIANTS

    given = {"num_classes": 1001 if variant == "hlg_mobile" else 1000, "image_size": 224, "in_channels": 3}
    given |= dict(VARIANTS[variant]) | arguments
    return (ZooHLG if given.pop("design") == "zoo" else OfficialHLG)(**given)
