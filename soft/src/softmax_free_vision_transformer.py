"""SOFT, an image classifier of four stages: three of softmax-free attention, one of ordinary attention.

See ``soft.src.softmax_free_transformer`` for papers and attention, ``soft.src.spec`` for variants and names of weights.
"""
import math
from typing import Mapping, Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from common.errors import UserError
from common.layers.cells import Dense, LayerNorm, Mlp, PlusTable, Softmax, pair
from common.layers.cpu_training import apart, on_cpu, swapped, together
from common.layers.drop_path import DropPath
from common.layers.initial_values import initialise, truncated_normal
from soft.src.softmax_free_transformer import SoftBlock, SoftmaxFreeAttention

NORM_EPS = 1e-6           # of the LayerNorms in the last stage and after it
RATIOS = (8, 4, 2)        # side of the square of tokens behind a landmark, by stage
KERNEL_SIZES = (9, 5, 3)  # side of the depthwise filters, by stage
TABLE_SIZE = 224          # image size that the position tables are made for
STEM_DIM = 32


class Attention(nn.Cell):
    """Ordinary multi-head attention.

    Args:
        dim: width of the tokens, C.
        num_heads: heads h, each of width C / h.

    Inputs: x, (B, N, C).   Output: (B, N, C).
    """

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.q = Dense(dim, dim, weight_init="zeros", bias_init="zeros")
        self.kv = Dense(dim, 2 * dim, weight_init="zeros", bias_init="zeros")
        self.softmax = Softmax()
        self.proj = Dense(dim, dim, weight_init="zeros", bias_init="zeros")
        self.products = ops.BatchMatMul(transpose_b=True)
        self.product = ops.BatchMatMul()
        self.on_cpu = on_cpu()

    def construct(self, x):
        lean = self.training and self.on_cpu
        keys, values = ops.chunk(self.kv(x), 2, -1)
        keys, values = apart(keys, self.num_heads, lean), apart(values, self.num_heads, lean)
        weights = self.weights(apart(self.q(x), self.num_heads, lean), keys)
        return self.proj(together(self.product(weights.astype(values.dtype), values), lean))

    def weights(self, queries, keys):
        """Return how much of each token (last axis) each token takes, (B, h, N, N)."""
        return self.softmax(self.products(queries * self.head_dim ** -0.5, keys))


class Block(nn.Cell):
    """The pre-norm block of the last stage: x + drop_path(attn(norm1(x))), then y + drop_path(mlp(norm2(y))).

    Args:
        dim: width of the tokens, C.
        num_heads: attention heads.
        mlp_ratio: hidden width / C.
        drop_path_rate: probability of dropping a branch of a sample while training.

    Inputs: x, (B, N, C).   Output: (B, N, C).
    """

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, drop_path_rate: float = 0.0):
        super().__init__()
        self.norm1 = LayerNorm(dim, NORM_EPS)
        self.attn = Attention(dim, num_heads)
        self.drop_path1 = DropPath(drop_path_rate)
        self.norm2 = LayerNorm(dim, NORM_EPS)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path2 = DropPath(drop_path_rate)

    def construct(self, x):
        x = x + self.drop_path1(self.attn(self.norm1(x)))
        return x + self.drop_path2(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Cell):
    """3 x 3 convolutions, each followed by BatchNorm and ReLU.

    Args:
        widths: channels of the input and after each convolution.
        strides: of the convolutions.

    Inputs: (B, widths[0], H, W).   Output: (B, widths[-1], ceil(H / s), ceil(W / s)), s the product of the strides.
    """

    def __init__(self, widths: Sequence[int], strides: Sequence[int]):
        super().__init__()
        cells = []
        for width, next_width, stride in zip(widths, widths[1:], strides):
            cells += [nn.Conv2d(width, next_width, 3, stride, pad_mode="pad", padding=1, has_bias=True,
                                weight_init="zeros", bias_init="zeros"),
                      nn.BatchNorm2d(next_width, eps=1e-5, momentum=0.9), nn.ReLU()]
        self.proj = nn.SequentialCell(cells)

    def construct(self, x):
        return self.proj(x)


class PositionTable(nn.Cell):
    """A learned vector per token, made for a square map and resized bilinearly to the one at hand.

    Resizing is a product with two small matrices, which every device and every export format knows; pixel centres lie
    at halves, and nothing is smoothed where the map shrinks.

    Args:
        side: side of the square map.
        dim: width of the tokens, C.
        class_token: whether the first row belongs to a class token, which is no part of the map.

    Inputs: grid, height and width of the map.
    Output: (1, N, C), N = height * width, and one more with a class token.
    """

    def __init__(self, side: int, dim: int, class_token: bool = False):
        super().__init__()
        self.side = side
        self.dim = dim
        self.extra = int(class_token)
        self.table = Parameter(Tensor(np.zeros((1, side * side + self.extra, dim), np.float32)), name="table")

    def construct(self, grid):
        height, width = grid
        if height == self.side and width == self.side:
            return self.table
        table = self.table[0, self.extra:].reshape(self.side, self.side * self.dim)
        table = ops.matmul(bilinear(self.side, height), table).reshape(height, self.side, self.dim)
        table = ops.matmul(bilinear(self.side, width), table).reshape(1, height * width, self.dim)
        return ops.concat((self.table[:, :1], table), 1) if self.extra else table


def bilinear(size: int, new_size: int):
    """Return the matrix (new_size, size), float32, that resizes a line of values bilinearly."""
    centres = (ops.arange(new_size).astype(ms.float32) + 0.5) * (size / new_size) - 0.5
    centres = ops.clamp(centres, 0, size - 1).reshape(new_size, 1)
    return ops.relu(1.0 - ops.abs(centres - ops.arange(size).astype(ms.float32)))


class SOFT(nn.Cell):
    """Four stages of tokens at a quarter, an eighth, a sixteenth and a 32nd of the image's side.

    One network takes images of every size: position tables are always those for 224 pixels, resized on the fly.

    Args:
        num_classes: outputs of the head.
        image_size: height and width of the images in pixels, or one number; only checked, as other sizes will do too.
        in_channels: channels of the images.
        dims: widths of the stages.
        num_heads: their attention heads; they divide the widths.
        depths: their numbers of blocks.
        mlp_ratio: hidden width of the blocks / width.
        drop_path_rate: that of the last block, for elements in the first three stages and for branches in the last; it
            rises from 0 at the first block in equal steps.
        normalised: whether the softmax-free stages have the normalised kernel.
        newton_iterations: steps of the inversion.

    Inputs: images, float32 (B, C, H, W).   Output: logits, float32 (B, num_classes).

    Raises:
        UserError: for arguments that do not fit together.
    """

    def __init__(self, num_classes: int = 1000, image_size: int | Sequence[int] = 224, in_channels: int = 3,
                 dims: Sequence[int] = (64, 128, 320, 512), num_heads: Sequence[int] = (2, 4, 10, 16),
                 depths: Sequence[int] = (1, 2, 3, 2), mlp_ratio: float = 4, drop_path_rate: float = 0.0,
                 normalised: bool = False, newton_iterations: int = 20):
        super().__init__()
        check_arguments(dims, num_heads, depths, drop_path_rate)
        check_landmarks(pair("image_size", image_size))
        self.dims, self.depths, self.normalised = tuple(dims), tuple(depths), normalised
        rates = iter(np.linspace(0.0, drop_path_rate, sum(depths)).tolist())
        patches, positions, stages = [], [], []
        for stage, (dim, heads, depth) in enumerate(zip(dims, num_heads, depths)):
            last = stage == len(RATIOS)
            patches.append(PatchEmbed((dims[stage - 1], dim), (2,)) if stage else
                           PatchEmbed((in_channels, STEM_DIM, STEM_DIM, dim), (2, 1, 2)))
            positions.append(PositionTable(TABLE_SIZE // (4 << stage), dim, class_token=last))
            stages.append(nn.CellList([
                Block(dim, heads, mlp_ratio, next(rates)) if last else
                SoftBlock(dim, mlp_ratio, next(rates), SoftmaxFreeAttention(
                    dim, heads, RATIOS[stage], KERNEL_SIZES[stage], normalised, newton_iterations))
                for _ in range(depth)]))
        self.patch_embed1, self.patch_embed2, self.patch_embed3, self.patch_embed4 = patches
        self.position1, self.position2, self.position3, self.position4 = positions
        self.block1, self.block2, self.block3, self.block4 = stages
        self.placed = PlusTable()
        self.on_cpu = on_cpu()
        self.cls_token = Parameter(Tensor(np.zeros((1, 1, dims[-1]), np.float32)), name="cls_token")
        self.norm = LayerNorm(dims[-1], NORM_EPS)
        self.head = Dense(dims[-1], num_classes, weight_init="zeros", bias_init="zeros")
        fan_in = {p.name.replace(".weight", ".bias"): math.prod(p.shape[1:]) for p in self.get_parameters()
                  if p.name.endswith(".weight") and len(p.shape) > 1}
        initialise(self, lambda name, shape, rng: initial_value(name, shape, rng, fan_in, normalised))

    def construct(self, images):
        return self.head(self.features(images)).astype(ms.float32)

    def features(self, images):
        """Return what the head reads: the normalised class token, (B, D)."""
        return self.norm(self.stage_outputs(images)[-1][:, 0])

    def stage_outputs(self, images):
        """Return the tokens after each stage, (B, N, C); those of the last begin with the class token."""
        lean = self.training and self.on_cpu
        first, grid = self.softmax_free(self.patch_embed1(images), self.position1, self.block1)
        second, grid = self.softmax_free(self.patch_embed2(as_maps(first, grid, lean)), self.position2, self.block2)
        third, grid = self.softmax_free(self.patch_embed3(as_maps(second, grid, lean)), self.position3, self.block3)
        maps = self.patch_embed4(as_maps(third, grid, lean))
        tokens = as_tokens(maps, lean)
        class_tokens = ops.tile(self.cls_token, (tokens.shape[0], 1, 1)).astype(tokens.dtype)
        fourth = self.placed(ops.concat((class_tokens, tokens), 1), self.position4(maps.shape[2:]))
        for block in self.block4:
            fourth = block(fourth)
        return first, second, third, fourth

    def softmax_free(self, maps, positions, blocks):
        """Run one of the first three stages and return its tokens and their map's height and width."""
        grid = maps.shape[2:]
        tokens = self.placed(as_tokens(maps, self.training and self.on_cpu), positions(grid))
        for block in blocks:
            tokens = block(tokens, grid)
        return tokens, grid


def as_tokens(maps, lean):
    """(B, C, H, W) -> (B, H W, C); ``lean``: see ``common.layers.cpu_training``."""
    return swapped(maps.reshape(-1, maps.shape[1], maps.shape[2] * maps.shape[3]), lean)


def as_maps(tokens, grid, lean):
    """(B, H W, C) -> (B, C, H, W)."""
    return swapped(tokens, lean).reshape(-1, tokens.shape[2], *grid)


def check_arguments(dims: Sequence[int], num_heads: Sequence[int], depths: Sequence[int], drop_rate: float) -> None:
    """Refuse sizes that do not fit together.

    Raises:
        UserError: naming the argument.
    """
    for key, values in (("dims", dims), ("num_heads", num_heads), ("depths", depths)):
        if not isinstance(values, Sequence) or len(values) != len(RATIOS) + 1 or min(values) < 1:
            shown = list(values) if isinstance(values, Sequence) else values
            raise UserError(f"{key}: {shown} must be four numbers from 1, one per stage.")
    if any(dim % heads for dim, heads in zip(dims, num_heads)):
        raise UserError(f"num_heads: {list(num_heads)} must divide dims {list(dims)}, stage by stage.")
    if not 0 <= drop_rate < 1:
        raise UserError(f"drop_path_rate: {drop_rate} is not a probability in [0, 1).")


def check_landmarks(image_size: tuple[int, int]) -> None:
    """Refuse images with a map that is smaller than the square of tokens behind one landmark.

    Raises:
        UserError: naming the image size, the map and the smallest size.
    """
    for stage, ratio in enumerate(RATIOS):
        grid = [math.ceil(side / (4 << stage)) for side in image_size]  # every convolution of stride 2 rounds up
        if min(grid) < ratio:
            raise UserError(f"image_size: {image_size[0]} x {image_size[1]} gives a map of {grid[0]} x {grid[1]} tokens"
                            f" in stage {stage + 1}, too small for one landmark, which stands for {ratio} x {ratio}; "
                            "the smallest image is 29 x 29.")


def initial_value(name: str, shape: tuple[int, ...], rng: np.random.Generator, fan_in: Mapping[str, int],
                  normalised: bool) -> np.ndarray | None:
    """Initial value of a parameter; those not named here are right as they are built: zeros and ones.

    Source: the authors' code. Linear layers and tables have a standard deviation of 0.02 and biases 0; convolutions,
    and in the normalised variants the linear layers of the softmax-free stages too, PyTorch's uniform distribution.

    Args:
        name, shape, rng: see ``common.layers.initial_values.initialise``.
        fan_in: name of a bias -> inputs per output of its layer.
        normalised: whether the network is a normalised one.
    """
    weight = len(shape) in (2, 4)
    uniform = len(shape) == 4 or (name in fan_in and name.startswith("patch_embed")) or (
        normalised and name.startswith(("block1", "block2", "block3")) and (weight or name in fan_in))
    if uniform:
        bound = 1 / math.sqrt(math.prod(shape[1:]) if weight else fan_in[name])
        return rng.uniform(-bound, bound, shape)
    if weight or len(shape) == 3:
        return truncated_normal(rng, shape, 0.02, 2.0)
    return None
