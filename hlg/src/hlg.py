"""HLG as the old model zoo has it, ``hlg_mobile``: four stages of attention within groups and to their means.

Paper: Zhang et al. 2023, "Vision Transformers: From Semantic Segmentation to Dense Prediction",
https://arxiv.org/abs/2207.09339 (hierarchical local-global transformers). Numerically equal to the model zoo's code,
mindspore-ai/models at commit eab643f5, research/cv/hlg; parameters have the same names, so its checkpoints load as they
are. That network follows the authors' first version (commit d08329e of fudan-zvg/SETR), without its position bias. The
authors' present networks, ``hlg.src.hlg_official``, are others: no weights can be exchanged.
"""
from typing import Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from common.errors import UserError
from common.layers.cells import LayerNorm, TanhGELU, pair
from common.layers.cpu_training import AddBias, on_cpu, shared
from common.layers.drop_path import DropPath
from common.layers.initial_values import initialise
from hlg.src.cells import (SIDE, Heads, as_maps, as_tokens, batch_norm, check_stages, conv, dense, group, initial_value,
                           smoothing, ungroup)

STEM_DIM = 32


class PatchEmbed(nn.Cell):
    """Convolution, BatchNorm and GELU once, which halve the map, or, in the stem, three times, which quarter it.

    Args:
        in_dim, dim: channels of input and output.
        stem: whether there are three convolutions.
        dead_parameters: whether the parameters of the other form are there too, without effect.

    Inputs: (B, in_dim, H, W).   Output: (B, dim, H / 2, W / 2), in the stem (B, dim, H / 4, W / 4).
    """

    def __init__(self, in_dim: int, dim: int, stem: bool, dead_parameters: bool = False):
        super().__init__()
        self.stem = stem
        if stem or dead_parameters:
            self.conv1 = conv(in_dim, STEM_DIM, 3, 2)
            self.norm1 = batch_norm(STEM_DIM)
            self.conv2 = conv(STEM_DIM, STEM_DIM, 3)
            self.norm2 = batch_norm(STEM_DIM)
            self.conv3 = conv(STEM_DIM, dim, 3, 2)
            self.norm3 = batch_norm(dim)
        if not stem or dead_parameters:
            self.conv = conv(in_dim, dim, 7, 4, padding=1) if stem else conv(in_dim, dim, 3, 2)
            self.norm = batch_norm(dim)
        self.act = TanhGELU()

    def construct(self, maps):
        if self.stem:
            maps = self.act(self.norm1(self.conv1(maps)))
            maps = self.act(self.norm2(self.conv2(maps)))
            return self.act(self.norm3(self.conv3(maps)))
        return self.act(self.norm(self.conv(maps)))


class Attention(nn.Cell):
    """Multi-head attention of tokens to others, or to themselves.

    Args:
        dim: width of the tokens, C.
        num_heads: attention heads.

    Inputs: x (B, N, C) and context (B, M, C).   Output: (B, N, C).
    """

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.to_q = dense(dim, dim)
        self.to_k = dense(dim, dim)
        self.to_v = dense(dim, dim)
        self.heads = Heads(dim, num_heads)
        self.proj = dense(dim, dim)

    def construct(self, x, context):
        return self.proj(self.heads(self.to_q(x), self.to_k(context), self.to_v(context)))


class Mlp(nn.Cell):
    """ff2(gelu(ff1(x))) on the last axis, with GELU's approximation by tanh.

    Inputs: x, (..., dim).   Output: the same shape.
    """

    def __init__(self, dim: int, hidden_dim: int):
        super().__init__()
        self.ff1 = dense(dim, hidden_dim)
        self.act = TanhGELU()
        self.ff2 = dense(hidden_dim, dim)

    def construct(self, x):
        return self.ff2(self.act(self.ff1(x)))


class Block(nn.Cell):
    """The pre-norm block of the last stage: x + drop_path(attn(norm1(x))), then y + drop_path(mlp(norm2(y))).

    Args:
        dim: width of the tokens, C.
        num_heads: attention heads.
        mlp_ratio: hidden width of the MLP / C.
        norm_eps: epsilon of the LayerNorms.
        drop_path_rate: probability of dropping a branch of a sample while training.
        dead_parameters: whether the parameters of the other stages' blocks are there too, without effect.

    Inputs: x, (B, N, C).   Output: (B, N, C).
    """

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, norm_eps: float, drop_path_rate: float = 0.0,
                 dead_parameters: bool = False):
        super().__init__()
        self.attn = Attention(dim, num_heads)
        self.norm1 = LayerNorm(dim, norm_eps)
        self.drop_path1 = DropPath(drop_path_rate)
        self.norm2 = LayerNorm(dim, norm_eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path2 = DropPath(drop_path_rate)
        if dead_parameters:
            self.norm0 = LayerNorm(dim, norm_eps)
            self.spatial_smooth = smoothing(dim, TanhGELU)

    def construct(self, x):
        y = self.norm1(x)
        x = x + self.drop_path1(self.attn(y, y))
        return x + self.drop_path2(self.mlp(self.norm2(x)))


class LocalGlobalBlock(Block):
    """Smoothing; attention within each group; attention of all tokens to the groups' means; an MLP.

    Both attentions have the same weights. The smoothed and activated map replaces the residual trunk. In the first
    attention drop path drops the branch of single groups, not of samples.

    Args:
        grid: height and width of the map, multiples of 7.
        dilated: whether groups are dilated; see ``hlg.src.cells.group``.
        dim, num_heads, mlp_ratio, norm_eps, drop_path_rate: see ``Block``.

    Inputs: x, (B, N, C), N = height * width.   Output: (B, N, C).
    """

    def __init__(self, grid: tuple[int, int], dilated: bool, dim: int, num_heads: int, mlp_ratio: float,
                 norm_eps: float, drop_path_rate: float = 0.0):
        super().__init__(dim, num_heads, mlp_ratio, norm_eps, drop_path_rate)
        self.grid, self.dilated = grid, dilated
        self.num_groups = grid[0] * grid[1] // SIDE ** 2
        self.spatial_smooth = smoothing(dim, TanhGELU)
        self.act = TanhGELU()
        self.norm0 = LayerNorm(dim, norm_eps)
        self.drop_path0 = DropPath(drop_path_rate)
        self.on_cpu = on_cpu()

    def construct(self, x):
        lean = self.training and self.on_cpu
        maps = as_maps(x, self.grid, lean)
        groups = group(self.act(maps + self.spatial_smooth(maps)), self.dilated, lean)
        y = self.norm0(groups)
        groups = groups + self.drop_path0(self.attn(y, y))
        means = groups.mean(1).reshape(-1, self.num_groups, x.shape[2])
        x = ungroup(groups, self.grid, self.dilated, lean)
        x = x + self.drop_path1(self.attn(self.norm1(x), means))
        return x + self.drop_path2(self.mlp(self.norm2(x)))


class ZooHLG(nn.Cell):
    """Stages of tokens at a quarter, an eighth, a sixteenth ... of the image's side, as many as ``dims`` has numbers.

    All stages but the last have ``LocalGlobalBlock``, with groups of 7 x 7 tokens, in turn windows and dilated; the
    last has a class token and ordinary attention. So images for S stages are multiples of 7 * 2 ** S pixels: 112, 224,
    336 ... for four, of 56 for three, of 28 for two; for one, of 4. The position tables are those of one size.

    Args:
        num_classes: outputs of the head. The zoo's network has 1001: labels 0 to 999, and one that is never used.
        image_size: height and width of the images in pixels, or one number.
        in_channels: channels of the images.
        dims: widths of the stages, multiples of 16.
        num_heads: their attention heads; they divide the widths.
        depths: their numbers of blocks.
        mlp_ratio: hidden widths of their MLPs / widths.
        norm_eps: epsilon of all LayerNorms.
        drop_path_rate: that of the last block; it rises from 0 at the first block in equal steps.
        dead_parameters: whether the parameters without effect are there that the zoo's checkpoints hold.

    Inputs: images, float32 (B, C, H, W).   Output: logits, float32 (B, num_classes).

    Raises:
        UserError: for arguments that do not fit together.
    """

    design = "zoo"

    def __init__(self, num_classes: int = 1001, image_size: int | Sequence[int] = 224, in_channels: int = 3,
                 dims: Sequence[int] = (32, 64, 192, 384), num_heads: Sequence[int] = (2, 4, 8, 16),
                 depths: Sequence[int] = (2, 2, 2, 2), mlp_ratio: Sequence[float] = (8, 8, 4, 4),
                 norm_eps: float = 1e-7, drop_path_rate: float = 0.0, dead_parameters: bool = False):
        super().__init__()
        check_stages(dims, drop_path_rate, num_heads=num_heads, depths=depths, mlp_ratio=mlp_ratio)
        self.image_size, self.in_channels = pair("image_size", image_size), in_channels
        check_image_size(self.image_size, len(dims))
        self.dims, self.depths, self.mlp_ratio = tuple(dims), tuple(depths), tuple(mlp_ratio)
        rates = iter(np.linspace(0.0, drop_path_rate, sum(depths)).tolist())
        patch_embeds, tables, stages = [], [], []
        for stage, (dim, heads, depth, ratio) in enumerate(zip(dims, num_heads, depths, mlp_ratio), start=1):
            grid = tuple(-(-side // 2 ** (stage + 1)) for side in self.image_size)
            last = stage == len(dims)
            in_dim = in_channels if stage == 1 else dims[stage - 2]
            patch_embeds.append(PatchEmbed(in_dim, dim, stage == 1, dead_parameters))
            setattr(self, f"patch_embed{stage}", patch_embeds[-1])
            table = np.zeros((1, grid[0] * grid[1] + last, dim), np.float32)
            tables.append(Parameter(Tensor(table), name=f"pos_embed{stage}"))
            blocks = [Block(dim, heads, ratio, norm_eps, next(rates), dead_parameters) if last else
                      LocalGlobalBlock(grid, bool(index % 2), dim, heads, ratio, norm_eps, next(rates))
                      for index in range(depth)]
            for index, block in enumerate(blocks):
                setattr(self, f"block{stage}_{index}", block)
            stages.append((grid, tuple(blocks)))
        self.patch_embeds, self.blocks = tuple(patch_embeds), tuple(blocks for _, blocks in stages)
        self.grids = tuple(grid for grid, _ in stages)
        self.pos_embeds = ParameterTuple(tables)
        self.cls = Parameter(Tensor(np.zeros((1, 1, dims[-1]), np.float32)), name="cls")
        self.on_cpu = on_cpu()
        self.add_table = shared(AddBias) if self.on_cpu else None
        self.norm = LayerNorm(dims[-1], norm_eps)
        self.head = dense(dims[-1], num_classes)
        initialise(self, zoo_initial_value)

    def construct(self, images):
        return self.head(self.features(images)).astype(ms.float32)

    def features(self, images):
        """Return what the head reads: the normalised class token, (B, D)."""
        return self.norm(self.stage_outputs(images)[-1][:, 0])

    def stage_outputs(self, images):
        """Return the tokens after each stage, (B, N, C); those of the last begin with the class token."""
        if images.shape[1:] != (self.in_channels, *self.image_size):
            raise ValueError(f"images of {images.shape[1:]} (channels, height, width) were given to a network built "
                             f"for {(self.in_channels, *self.image_size)}")
        lean = self.training and self.on_cpu
        maps, found = images, ()
        for stage in range(len(self.blocks)):
            tokens = as_tokens(self.patch_embeds[stage](maps), lean)
            if stage == len(self.blocks) - 1:
                cls = ops.tile(self.cls, (tokens.shape[0], 1, 1)).astype(tokens.dtype)
                tokens = ops.concat((cls, tokens), 1)
            if lean and tokens.dtype == ms.float32:
                tokens = self.add_table[0](tokens, self.pos_embeds[stage])
            else:
                tokens = tokens + self.pos_embeds[stage]
            for block in self.blocks[stage]:
                tokens = block(tokens)
            found = found + (tokens,)
            if stage < len(self.blocks) - 1:
                maps = as_maps(tokens, self.grids[stage], lean)
        return found


def check_image_size(image_size: tuple[int, int], stages: int) -> None:
    """Refuse images whose maps the groups do not tile.

    Raises:
        UserError: naming the sizes that are possible.
    """
    unit = SIDE * 2 ** stages if stages > 1 else 4
    if any(side % unit for side in image_size):
        sizes = ", ".join(str(unit * factor) for factor in (1, 2, 3))
        raise UserError(f"image_size: the maps of {image_size[0]} x {image_size[1]} pixels cannot be cut into groups "
                        f"of {SIDE} x {SIDE} tokens; an hlg_mobile of {stages} stages takes multiples of {unit} "
                        f"pixels: {sizes} ...")


def zoo_initial_value(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray | None:
    """Initial value of a parameter. Source: the zoo's code, under MindSpore 1, where biases of convolutions are 0.

    The class token and the position tables have a standard deviation of 1, not of 0.02.
    """
    if name == "cls" or name.startswith("pos_embed"):
        return rng.standard_normal(shape)
    return initial_value(name, shape, rng, {})
