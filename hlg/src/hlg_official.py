"""HLG as its authors published it: five sizes, with attention within groups and to one token per group.

Paper: Zhang et al. 2023, "Vision Transformers: From Semantic Segmentation to Dense Prediction",
https://arxiv.org/abs/2207.09339. Code: fudan-zvg/SETR at commit 1361561f, hlg-classification.

That code, as published, neither constructs nor runs. What is missing in it stands in the same repository's networks for
segmentation and detection, and is taken from there: which makes the dataflow certain as far as the two agree. Not
certain is which of two layouts the published weights have (see ``OfficialHLG``), the depths of the two largest sizes,
and the epsilon of LayerNorm in training: the functions that build the sizes say 1e-6, the training program leaves 1e-5.
The authors name 11, 24, 43 and 84 million parameters for tiny, small, medium and large. Layout ``paper`` has 11.0 and
24.3 of the first two; of the others it has 43.9 with 16 blocks in stage 3 and 84.4 with 18, where the code says 14.
"""
import functools
from typing import Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from common.errors import UserError
from common.layers.cells import GELU, Float32Cell, LayerNorm, pair
from common.layers.cpu_training import on_cpu, swapped
from common.layers.drop_path import DropPath
from common.layers.initial_values import initialise
from hlg.src.cells import (SIDE, Heads, as_maps, as_tokens, batch_norm, check_stages, conv, dense, fan_in_of_biases,
                           group, initial_value, smoothing, ungroup)

BIAS_NORM_EPS = 1e-5  # of the LayerNorms in the networks of the position bias
Places = tuple[Tensor, Tensor, tuple[int, int]]  # distances that occur (K, 2); which a pair has (N M,); (N, M)
POOLS = ("avgpool", "dwconv")
LAYOUTS = ("head", "paper")


class PositionBias(Float32Cell):
    """Bias of every query for every key, computed from their distance by a small network, in float32.

    Args:
        dim: width of the tokens; that of the network is a 16th of it.
        num_heads: attention heads h.
        places: where N queries and M keys lie; see ``local_places`` and ``global_places``.

    Output: (h, N, M).
    """

    def __init__(self, dim: int, num_heads: int, places: Places):
        super().__init__()
        self.distances, self.index, self.size = places
        self.num_heads = num_heads
        width = dim // 16
        self.pos_proj = dense(2, width)
        self.pos1 = self.layer(width, width)
        self.pos2 = self.layer(width, width)
        self.pos3 = self.layer(width, num_heads)
        self.on_cpu = on_cpu()

    def layer(self, width: int, next_width: int) -> nn.SequentialCell:
        return nn.SequentialCell([LayerNorm(width, BIAS_NORM_EPS), nn.ReLU(), dense(width, next_width)])

    def construct(self):
        table = self.pos3(self.pos2(self.pos1(self.pos_proj(self.distances))))
        biases = ops.gather(table, self.index, 0).expand_dims(0)
        return swapped(biases, self.training and self.on_cpu).reshape(self.num_heads, *self.size)


@functools.cache
def local_places() -> Places:
    """Return the distances within a group, whose tokens count as neighbours even where it is dilated."""
    rows, columns = np.divmod(np.arange(SIDE * SIDE), SIDE)
    return _distances(rows, columns, rows, columns)


@functools.cache
def global_places(side: int) -> Places:
    """Return the distances of the tokens of a map from the (side / 7) ** 2 group tokens.

    Group token j counts as lying at token j of the map, in row-major order, not in the middle of its group. This is
    what the authors' code does: it computes the bias between all tokens of the map, N x N, and cuts the first columns
    off. Here nothing but these columns is computed.
    """
    rows, columns = np.divmod(np.arange(side * side), side)
    used = (side // SIDE) ** 2
    return _distances(rows, columns, rows[:used], columns[:used])


def _distances(rows: np.ndarray, columns: np.ndarray, key_rows: np.ndarray, key_columns: np.ndarray) -> Places:
    """Return the distances of all keys from all queries, each that occurs once."""
    down, right = rows[:, None] - key_rows, columns[:, None] - key_columns
    width = 2 * np.abs(right).max() + 1
    codes, index = np.unique((down * width + right + width // 2).ravel(), return_inverse=True)
    distances = np.stack([codes // width, codes % width - width // 2], 1).astype(np.float32)
    return Tensor(distances), Tensor(index.reshape(-1).astype(np.int32)), down.shape


class DownProj(nn.Cell):
    """Depthwise convolution of stride 2, BatchNorm, GELU: the trunk of a stage's first block.

    Inputs: (B, in_dim, H, W).   Output: (B, dim, H / 2, W / 2).
    """

    def __init__(self, in_dim: int, dim: int):
        super().__init__()
        self.proj = nn.SequentialCell([conv(in_dim, dim, 3, 2, group=in_dim), batch_norm(dim), GELU()])

    def construct(self, maps):
        return self.proj(maps)


class ConvMlp(nn.Cell):
    """An MLP for every pixel with a depthwise convolution in its middle.

    Args:
        in_dim, hidden_dim, dim: channels of input, middle and output.
        stride: of the convolution.

    Inputs: (B, in_dim, H, W).   Output: (B, dim, H / stride, W / stride).
    """

    def __init__(self, in_dim: int, hidden_dim: int, dim: int, stride: int):
        super().__init__()
        self.fc1 = conv(in_dim, hidden_dim, 1)
        self.norm1 = batch_norm(hidden_dim)
        self.fc2 = conv(hidden_dim, hidden_dim, 3, stride, group=hidden_dim)
        self.norm2 = batch_norm(hidden_dim)
        self.fc3 = conv(hidden_dim, dim, 1)
        self.act = GELU()

    def construct(self, maps):
        maps = self.act(self.norm1(self.fc1(maps)))
        return self.fc3(self.act(self.norm2(self.fc2(maps))))


class Projected(nn.Cell):
    """Multi-head attention of given queries, keys and values, and a linear layer.

    Inputs: see ``hlg.src.cells.Heads``.   Output: (B, N, C).
    """

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.heads = Heads(dim, num_heads)
        self.proj = dense(dim, dim)

    def construct(self, queries, keys, values, bias):
        return self.proj(self.heads(queries, keys, values, bias))


class Block(nn.Cell):
    """An MLP with its norm behind it, then the last stage's attention, x + drop_path(norm1(attention(x))).

    Args:
        in_dim, dim: widths of the tokens before and after the block. A first block also halves the map.
        num_heads: attention heads.
        hidden_dim: hidden width of the MLP.
        side: height and width of the map after the block.
        norm_eps: epsilon of the LayerNorms.
        drop_path_rate: probability of dropping a branch of a sample while training.
        first: whether the block is the first of its stage.
        places: what the bias of the global attention is computed from; see ``PositionBias``.

    Inputs: x, (B, N_in, C_in).   Output: (B, N, C), N = side ** 2.
    """

    def __init__(self, in_dim: int, dim: int, num_heads: int, hidden_dim: int, side: int, norm_eps: float,
                 drop_path_rate: float, first: bool, places: Places):
        super().__init__()
        self.grid, self.in_grid = (side, side), (side * (1 + first),) * 2
        self.first = first
        if first:
            self.down_proj = DownProj(in_dim, dim)
        self.mlp = ConvMlp(in_dim, hidden_dim, dim, 1 + first)
        self.norm2 = LayerNorm(dim, norm_eps)
        self.drop_path1 = DropPath(drop_path_rate)
        self.q = dense(dim, dim)
        self.k = dense(dim, dim)
        self.v = dense(dim, dim)
        self.pos_global = PositionBias(dim, num_heads, places)
        self.global_attn = Projected(dim, num_heads)
        self.norm1 = LayerNorm(dim, norm_eps)
        self.drop_path2 = DropPath(drop_path_rate)
        self.on_cpu = on_cpu()

    def construct(self, x):
        lean = self.training and self.on_cpu
        maps = as_maps(x, self.in_grid, lean)
        if self.first:
            x = as_tokens(self.down_proj(maps), lean)
        return self.attend(x + self.drop_path1(self.norm2(as_tokens(self.mlp(maps), lean))))

    def attend(self, x):
        """The second half of the block, (B, N, C) -> (B, N, C)."""
        mixed = self.global_attn(self.q(x), self.k(x), self.v(x), self.pos_global())
        return x + self.drop_path2(self.norm1(mixed))


class LocalGlobalBlock(Block):
    """After the MLP: smoothing, attention within each group, attention of all tokens to one token per group.

    Args:
        dilated: whether groups are dilated; see ``hlg.src.cells.group``.
        pool: how a group becomes one token: avgpool or dwconv.
        in_dim, dim, num_heads, hidden_dim, side, norm_eps, drop_path_rate, first: see ``Block``.
    """

    def __init__(self, dilated: bool, pool: str, in_dim: int, dim: int, num_heads: int, hidden_dim: int, side: int,
                 norm_eps: float, drop_path_rate: float, first: bool):
        super().__init__(in_dim, dim, num_heads, hidden_dim, side, norm_eps, drop_path_rate, first,
                         global_places(side))
        self.dilated, self.pool = dilated, pool
        self.num_groups = (side // SIDE) ** 2
        self.spatial_smooth = smoothing(dim, GELU)
        self.act = GELU()
        self.norm0 = LayerNorm(dim, norm_eps)
        self.pos_local = PositionBias(dim, num_heads, local_places())
        self.local_attn = Heads(dim, num_heads)
        if pool == "dwconv":
            self.h0_conv = conv(dim, dim, SIDE, SIDE, group=dim, padding=0)
        self.h0_norm = LayerNorm(dim, norm_eps)
        self.aux_q = conv(dim, dim, 3, group=dim)

    def attend(self, x):
        """Queries are also the keys within a group; the values' weights serve both attentions."""
        lean = self.training and self.on_cpu
        maps = as_maps(x, self.grid, lean)
        groups = group(self.act(maps + self.spatial_smooth(maps)), self.dilated, lean)
        normed = self.norm0(groups)
        queries = self.q(normed)
        mixed = self.local_attn(queries, queries, self.v(normed), self.pos_local())
        groups = groups + mixed
        context = self.h0_norm(self.pooled(groups).reshape(-1, self.num_groups, x.shape[2]))
        x, queries, mixed = self.back(groups), self.back(queries), self.back(mixed)
        queries = queries + as_tokens(self.aux_q(as_maps(self.norm1(mixed), self.grid, lean)), lean)
        return x + self.drop_path2(self.global_attn(queries, self.k(context), self.v(context), self.pos_global()))

    def pooled(self, groups):
        """(B n, 49, C) -> (B n, C) or (B n, C, 1, 1)."""
        if self.pool == "avgpool":
            return groups.mean(1)
        return self.h0_conv(as_maps(groups, (SIDE, SIDE), self.training and self.on_cpu))

    def back(self, groups):
        return ungroup(groups, self.grid, self.dilated, self.training and self.on_cpu)


class OfficialHLG(nn.Cell):
    """Stages of tokens at a quarter, an eighth, a sixteenth ... of the image's side, as many as ``dims`` has numbers.

    All stages but the last have ``LocalGlobalBlock``, in turn with windows and dilated groups; the map of the last is
    one window. So each number of stages has one image size: 224 with four, 112 with three, 56 with two, 28 with one.

    Args:
        num_classes: outputs of the head.
        image_size: height and width of the images in pixels, or one number.
        in_channels: channels of the images.
        dims: widths of the stages, multiples of 16.
        num_heads: their attention heads; they divide the widths.
        depths: their numbers of blocks.
        layout: ``head``, what the code for classification says: the MLP of a stage's first block is four times as wide
            as its output, and the last stage has a smoothing too, without effect. ``paper``, what the networks for
            segmentation and detection say: four times as wide as its input, and no such smoothing. The published
            numbers of parameters are those of ``paper`` where they fit one at all.
        pool: how a group becomes one token: ``avgpool`` or ``dwconv``.
        norm_eps: epsilon of the LayerNorms.
        drop_path_rate: that of the last block; it rises from 0 at the first block in equal steps.

    Inputs: images, float32 (B, C, H, W).   Output: logits, float32 (B, num_classes).

    Raises:
        UserError: for arguments that do not fit together.
    """

    design = "official"

    def __init__(self, num_classes: int = 1000, image_size: int | Sequence[int] = 224, in_channels: int = 3,
                 dims: Sequence[int] = (64, 128, 256, 512), num_heads: Sequence[int] = (2, 4, 8, 16),
                 depths: Sequence[int] = (2, 2, 6, 2), layout: str = "head", pool: str = "avgpool",
                 norm_eps: float = 1e-6, drop_path_rate: float = 0.0):
        super().__init__()
        check_stages(dims, drop_path_rate, num_heads=num_heads, depths=depths)
        for key, value, allowed in (("layout", layout, LAYOUTS), ("pool", pool, POOLS)):
            if value not in allowed:
                raise UserError(f"{key}: '{value}' is not one of {', '.join(allowed)}.")
        self.image_size, self.in_channels = pair("image_size", image_size), in_channels
        check_image_size(self.image_size, len(dims))
        self.dims, self.depths, self.num_heads = tuple(dims), tuple(depths), tuple(num_heads)
        self.layout, self.pool = layout, pool
        self.s0_conv = nn.SequentialCell([
            nn.SequentialCell([conv(in_dim, dims[0], 3, stride, bias=False), batch_norm(dims[0]), GELU()])
            for in_dim, stride in ((in_channels, 2), (dims[0], 1))])
        rates = iter(np.linspace(0.0, drop_path_rate, sum(depths)).tolist())
        blocks, in_dim = [], dims[0]
        for stage, (dim, heads, depth) in enumerate(zip(dims, num_heads, depths), start=1):
            side, last = SIDE * 2 ** (len(dims) - stage), stage == len(dims)
            cells = []
            for index in range(depth):
                hidden = 4 * (in_dim if layout == "paper" else dim)
                sizes = (in_dim, dim, heads, hidden, side, norm_eps, next(rates), index == 0)
                cells.append(Block(*sizes, local_places()) if last else
                             LocalGlobalBlock(bool(index % 2), pool, *sizes))
                if last and layout == "head":
                    cells[-1].spatial_smooth = smoothing(dim, GELU)  # without effect
                in_dim = dim
            setattr(self, f"block{stage}", nn.CellList(cells))
            blocks.append(tuple(cells))
        self.blocks = tuple(blocks)
        self.on_cpu = on_cpu()
        self.norm = LayerNorm(dims[-1], norm_eps)
        self.head = dense(dims[-1], num_classes)
        fan_in = fan_in_of_biases(self)
        initialise(self, lambda name, shape, rng: initial_value(name, shape, rng, fan_in))

    def construct(self, images):
        return self.head(self.features(images)).astype(ms.float32)

    def features(self, images):
        """Return what the head reads: the mean of the normalised tokens, (B, D)."""
        return self.norm(self.stage_outputs(images)[-1]).mean(1)

    def stage_outputs(self, images):
        """Return the tokens after each stage, (B, N, C)."""
        if images.shape[1:] != (self.in_channels, *self.image_size):
            raise ValueError(f"images of {images.shape[1:]} (channels, height, width) were given to a network built "
                             f"for {(self.in_channels, *self.image_size)}")
        tokens, found = as_tokens(self.s0_conv(images), self.training and self.on_cpu), ()
        for blocks in self.blocks:
            for block in blocks:
                tokens = block(tokens)
            found = found + (tokens,)
        return found


def check_image_size(image_size: tuple[int, int], stages: int) -> None:
    """Refuse images whose last map is not one window.

    Raises:
        UserError: naming the size that is possible.
    """
    size = SIDE * 2 ** (stages + 1)
    if image_size != (size, size):
        raise UserError(f"image_size: {image_size[0]} x {image_size[1]} does not end in one window of {SIDE} x {SIDE} "
                        f"tokens; an HLG of {stages} stages takes images of {size} x {size} pixels (four stages 224, "
                        "three 112, two 56, one 28).")
