"""Cells that two or more models use, their initial values, reproducible randomness, and the precision of a network."""
import functools
import math
import zlib
from typing import Callable, Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from common.errors import UserError

DRAWS = 2 ** 16  # see DropPath
RANDOM_STATE = "random_state"


class GELU(nn.Cell):
    """The exact Gaussian error linear unit, x * Phi(x), for any shape.

    Source: Hendrycks and Gimpel 2016. Written out, because the framework's own cell needs nearly twice the memory while
    training (measured on a CPU), and defaults to the approximation by tanh, which is off by up to 5e-4.
    """

    def construct(self, x):
        return 0.5 * x * (1.0 + ops.erf(x * math.sqrt(0.5)))


class TanhGELU(nn.Cell):
    """The approximation of GELU by tanh, x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), for any shape.

    Written with the sigmoid, as (1 + tanh(u)) / 2 = sigmoid(2 u): on a CPU the framework's tanh is off by 1e-4, and its
    own form of this function takes five times as long.
    """

    def construct(self, x):
        return x * ops.sigmoid(x * (1.5957691216057308 + 0.07135481627260025 * x * x))


class LayerNorm(nn.LayerNorm):
    """Normalises the last axis in float32, whatever the type of the input.

    Args:
        dim: length of the last axis.
        epsilon: added to the variance. It has no default: the framework's 1e-7 is nobody's choice.

    Inputs: x, (..., dim).   Output: the same shape, float32; float16 at precision level O3.
    """

    def __init__(self, dim: int, epsilon: float):
        super().__init__((dim,), epsilon=epsilon)
        self.half_result = False

    def construct(self, x):
        y = super().construct(x.astype(ms.float32))
        return y.astype(ms.float16) if self.half_result else y


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


class DropPath(nn.Cell):
    """While training, drops a residual branch for some samples and divides the others by the keep probability.

    Source: Huang et al. 2016, "Deep Networks with Stochastic Depth", in the per-sample form. Which samples are dropped
    is a pure function of ``random_state`` = (stream, step) and the sample's row, because the framework's own generators
    in a compiled graph can neither be reseeded nor restored. The function is a chain of substitutions through one fixed
    permutation: few operations, exact on every device, no number over 2 ** 31.

    Args:
        rate: probability of dropping, in [0, 1). With 0 the cell is the identity and has no parameter.

    Inputs: x, (B, ...), B at most 65,536.   Output: the same shape.

    Raises:
        UserError: if ``rate`` is out of range.
    """

    def __init__(self, rate: float = 0.0):
        super().__init__()
        if not 0 <= rate < 1:
            raise UserError(f"drop_path_rate: {rate} is not a probability in [0, 1).")
        self.rate = float(rate)
        self.threshold = round((1 - self.rate) * DRAWS)
        if self.rate > 0:
            self.table = permutation_table()
            self.random_state = Parameter(Tensor([0, 0], ms.int32), name=RANDOM_STATE, requires_grad=False)

    def construct(self, x):
        if self.rate == 0.0 or not self.training:
            return x
        keep = self.draw(x.shape[0]) < self.threshold
        mask = keep.astype(x.dtype) * (1.0 / (1.0 - self.rate))
        return x * mask.reshape((-1,) + (1,) * (x.ndim - 1)).astype(x.dtype)

    def draw(self, rows: int):
        """Return one integer per row, uniform in [0, DRAWS)."""
        if rows > DRAWS:
            raise ValueError(f"drop path draws for at most {DRAWS} rows, but the input has {rows}")
        stream, step = self.random_state[0], self.random_state[1]
        moment = self.substitute(self.substitute(step % DRAWS + stream) + step // DRAWS)
        offset = self.substitute(moment + stream)  # once more, so that streams are not shifted copies of each other
        return self.substitute(self.substitute(ops.arange(rows, dtype=ms.int32) + offset) + moment)

    def substitute(self, index):
        return ops.gather(self.table, index, 0)


@functools.cache
def permutation_table() -> Tensor:
    """Return a random permutation of 0..DRAWS-1, twice in a row: a sum of two numbers below DRAWS is an index."""
    once = np.random.RandomState(0).permutation(DRAWS).astype(np.int32)  # RandomState: NumPy keeps its draws for ever
    return Tensor(np.concatenate([once, once]))


def random_states(network: nn.Cell) -> list[Parameter]:
    """Return the (stream, step) pairs of the network's random cells; they are no weights."""
    return [p for p in network.get_parameters() if p.name.endswith(RANDOM_STATE)]


def seed_random_states(network: nn.Cell, seed: int, step: int = 0) -> None:
    """Give every random cell its own stream, which follows from its name and ``seed``, and the position ``step``."""
    taken = set()
    for state in random_states(network):
        stream = zlib.crc32(f"{seed} {state.name}".encode()) % DRAWS
        while stream in taken:  # two cells must not draw the same
            stream = (stream + 1) % DRAWS
        taken.add(stream)
        state.set_data(Tensor([stream, step], ms.int32))


# initial values

def initialise(network: nn.Cell, rule: Callable[[str, tuple[int, ...], np.random.Generator], np.ndarray | None]
               ) -> None:
    """Set the parameters of ``network`` to what ``rule(name, shape, rng)`` returns; None leaves one as it is.

    Each parameter has a generator of its own, made from its name and ``mindspore.set_seed``, so that neither order nor
    number of the others matters. Without a seed the values differ from network to network.
    """
    seed = ms.get_seed()
    entropy = np.random.SeedSequence().entropy if seed is None else seed
    for parameter in network.get_parameters():
        rng = np.random.default_rng([entropy, zlib.crc32(parameter.name.encode())])
        value = rule(parameter.name, tuple(parameter.shape), rng)
        if value is not None:
            parameter.set_data(Tensor(np.broadcast_to(np.asarray(value, np.float32), parameter.shape).copy()))


def truncated_normal(rng: np.random.Generator, shape: tuple[int, ...], std: float, bound: float) -> np.ndarray:
    """Draw from a normal distribution cut off at ``-bound`` and ``bound`` (absolute), float32.

    ``std`` is that of the distribution before it is cut.
    """
    values = rng.standard_normal(shape, np.float32) * np.float32(std)
    while (outside := np.abs(values) > bound).any():
        values[outside] = rng.standard_normal(int(outside.sum()), np.float32) * np.float32(std)
    return values


def lecun_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draw weights (out, in, ...) of variance 1 / fan_in from a normal distribution cut at two deviations."""
    std = math.sqrt(1 / math.prod(shape[1:])) / 0.87962566103423978  # that of a unit normal cut at 2
    return truncated_normal(rng, shape, std, 2 * std)


def xavier_uniform(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Draw weights (out, in) uniformly within sqrt(6 / (in + out))."""
    bound = math.sqrt(6 / sum(shape))
    return rng.uniform(-bound, bound, shape).astype(np.float32)


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


# precision

class Float32Cell(nn.Cell):
    """Base of cells that compute in float32 at every precision level: softmax, distances, iterations, losses.

    Every operation inside gets its operands in float32, and the result is float32; the parent casts it
    (``.astype(x.dtype)``) where it needs half precision again, as both factors of a matrix product must have one type.
    ``construct`` must not ask for the type of its inputs: in PyNative mode it still sees the type that they came with.
    """


LEVELS = ("O0", "O1", "O2", "O3")
MATRIX_CELLS = (nn.Dense, nn.Conv1d, nn.Conv2d, nn.Conv2dTranspose, PatchProjection)
FLOAT32_CELLS = (Float32Cell, nn.LayerNorm, nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm, nn.Softmax,
                 nn.LogSoftmax, nn.CrossEntropyLoss)


def apply_precision(network: nn.Cell, level: str) -> nn.Cell:
    """Set the precision of ``network`` in place; its parameters and their gradients stay float32.

    - O0: float32.
    - O1: matrix products and convolutions in float16, every other cell in float32.
    - O2: cells in float16, but ``FLOAT32_CELLS``, norms among them, in float32.
    - O3: like O2, and ``LayerNorm`` hands on float16; inside it is still float32.

    Only innermost cells are marked. The framework would cast every operation inside a marked cell in PyNative mode, but
    only its inputs in graph mode; innermost cells behave alike. What a network does between its cells therefore
    follows the types of its operands, and a network casts its own result to float32.

    Returns:
        The same network.

    Raises:
        UserError: for an unknown level.
    """
    if level not in LEVELS:
        raise UserError(f"amp_level: '{level}' is not one of {', '.join(LEVELS)}.")
    if level != "O0":
        _mark(network, level)
    return network


def _mark(cell: nn.Cell, level: str) -> None:
    children = list(cell.name_cells().values())
    if isinstance(cell, LayerNorm):
        cell.half_result = level == "O3"
    elif isinstance(cell, FLOAT32_CELLS):
        cell.to_float(ms.float32)
    elif children:
        for child in children:
            _mark(child, level)
    elif not isinstance(cell, DropPath):
        cell.to_float(ms.float32 if level == "O1" and not isinstance(cell, MATRIX_CELLS) else ms.float16)
