"""Softmax-free attention, and the block around it.

Papers: Lu et al. 2021, "SOFT: Softmax-free Transformer with Linear Complexity", https://arxiv.org/abs/2110.11945, and
its journal version with the normalised kernel, "Softmax-free Linear Transformers", https://arxiv.org/abs/2207.03341.
Numerically equal to the authors' code, fudan-zvg/SOFT at commit d3febc33.

Attention is a Gaussian kernel between tokens, which never appears as a whole: M landmarks, a coarse copy of the tokens,
stand between them (Nystroem's method), so that time and memory grow linearly with the number of tokens N.
"""
import mindspore as ms
from mindspore import nn, ops

from common.layers.cells import GELU, Dense, Float32Cell, LayerNorm, TanhGELU
from common.layers.cpu_training import apart, on_cpu, swapped, together
from common.layers.drop_path import DropPath

NORM_EPS = 1e-5           # of every LayerNorm in the softmax-free stages
RIDGE = 0.01              # added to the diagonal of the landmark kernel before it is inverted
STEP = 0.9                # times 2 / (largest row sum) ** 2: size of the iteration's beginning
LARGEST_RESIDUAL = 1.01   # normalised kernel: the beginning is halved until the residual is below this,
HALVINGS = 10             # but not more often than this
PRIME = 1021              # see Dropout


class Newton(Float32Cell):
    """Newton and Schulz's iteration for the inverse of a matrix A: V <- 2 V - V A V.

    Written as V + (I - V A) V: the same, but with a fifth of the rounding error where A is nearly singular (measured on
    the gradients of a network of such matrices).

    Args:
        iterations: number of steps; each squares the residual I - V A.
    """

    def __init__(self, iterations: int = 20):
        super().__init__()
        self.iterations = iterations
        self.product = ops.BatchMatMul()
        self.on_cpu = on_cpu()

    def identity(self, matrix):
        """Return the identity for a matrix like this one: (B, h, M, M), or (M, M) where that broadcasts well."""
        identity = ops.eye(matrix.shape[-1], matrix.shape[-1], ms.float32)
        return ops.tile(identity, matrix.shape[:2] + (1, 1)) if self.training and self.on_cpu else identity

    def iterate(self, matrix, inverse):
        """Improve ``inverse`` (B, h, M, M), float32, of ``matrix``."""
        identity = self.identity(matrix)
        for _ in range(self.iterations):
            inverse = inverse + self.product(identity - self.product(inverse, matrix), inverse)
        return inverse


class NewtonInverse(Newton):
    """The inverse of ``kernel + 0.01 I``.

    The backward pass takes the result for the exact inverse and differentiates that: nothing of the iteration has to be
    kept, and nothing flows through its beginning. Source: the first paper, section 3.3, and the authors' code.

    Inputs: kernel, (B, h, M, M), symmetric, of any float type.   Output: the same shape, float32.
    """

    def __init__(self, iterations: int = 20):
        super().__init__(iterations)
        self.product_with_transposed = ops.BatchMatMul(transpose_b=True)
        self.product_of_transposed = ops.BatchMatMul(transpose_a=True)

    def construct(self, kernel):
        largest = kernel.sum(-1, keepdims=True).max(-2, keepdims=True)
        matrix = kernel + RIDGE * self.identity(kernel)
        return self.iterate(matrix, matrix * (2 * STEP / ops.square(largest)))

    def bprop(self, kernel, out, dout):
        return (-self.product_with_transposed(self.product_of_transposed(out, dout), out),)


class NormalisedInverse(Newton):
    """D^(-1/2) V D^(-1/2), V the inverse of ``kernel``, D the diagonal matrix of its row sums.

    One number, taken over the whole batch, scales the beginning of the iteration: where that has not converged,
    a sample's result depends on its companions. Gradients flow through all of it. Source: the second paper, and the
    authors' code.

    Inputs: kernel, (B, h, M, M), symmetric, of any float type.   Output: the same shape, float32.
    """

    def construct(self, kernel):
        row_sums = kernel.sum(-1, keepdims=True)
        root = ops.rsqrt(row_sums)
        return self.invert(kernel, row_sums) * root * root.swapaxes(-1, -2)

    def invert(self, kernel, row_sums):
        """Return V; ``row_sums`` (B, h, M, 1) are those of ``kernel``."""
        step = 2 / ops.square(row_sums.max())
        halvings = self.halvings(ops.stop_gradient(kernel), ops.stop_gradient(step))
        return self.iterate(kernel, kernel * (step * halvings))

    def halvings(self, kernel, step):
        """Return the power of 1/2 with which the iteration begins close enough to the inverse to converge.

        The authors halve in a loop until the residual is small. Where it is, a further turn changes nothing, so a fixed
        number of turns gives the same and needs no branch that depends on data.
        """
        identity = self.identity(kernel)
        square = self.product(kernel, kernel) * step
        factor = ops.ones((), ms.float32)
        for _ in range(HALVINGS):
            residual = ops.abs(identity - factor * square).sum(-2).max()
            factor = ops.select(residual > LARGEST_RESIDUAL, factor * 0.5, factor)
        return factor


class GaussianKernels(Float32Cell):
    """exp(-|a - b|^2 / 2) between queries and landmarks, and among the landmarks.

    In a training on a CPU the half squares are two more columns of the product, see ``common.layers.cpu_training``.

    Inputs: queries (B, h, N, d) and landmarks (B, h, M, d), of any float type.
    Outputs: (B, h, N, M) and (B, h, M, M), float32.
    """

    def __init__(self):
        super().__init__()
        self.products = ops.BatchMatMul(transpose_b=True)
        self.product = ops.MatMul()
        self.in_products = on_cpu()

    def construct(self, queries, landmarks):
        if self.training and self.in_products:
            norms = self.minus_half_squares(landmarks)
            right = ops.concat((landmarks, ops.ones_like(norms), norms), -1)
            return (self.kernel_with(queries, self.minus_half_squares(queries), right),
                    self.kernel_with(landmarks, norms, right))
        query_norms = 0.5 * ops.square(queries).sum(-1, keepdims=True)
        landmark_norms = 0.5 * ops.square(landmarks).sum(-1, keepdims=True)
        landmark_row = landmark_norms.swapaxes(-1, -2)
        to_landmarks = ops.exp(self.products(queries, landmarks) - query_norms - landmark_row)
        among_landmarks = ops.exp(self.products(landmarks, landmarks) - landmark_norms - landmark_row)
        return to_landmarks, among_landmarks

    def kernel_with(self, x, norms, right):
        """Return the kernel between vectors with these minus half squares and the landmarks, which ``right`` holds."""
        return ops.exp(self.products(ops.concat((x, norms, ops.ones_like(norms)), -1), right))

    def minus_half_squares(self, x):
        """Return -|x|^2 / 2 of the vectors (B, h, N, d): (B, h, N, 1)."""
        dim = x.shape[-1]
        norms = self.product(ops.square(x).reshape(-1, dim), ops.full((dim, 1), -0.5, dtype=ms.float32))
        return norms.reshape(x.shape[:-1] + (1,))


class Mixture(Float32Cell):
    """K (inverse (K^T values)): what every token takes from all tokens, by way of the landmarks.

    From right to left, so that nothing larger than K is computed; the authors' (K inverse) (K^T values) takes half as
    many products again, and rounds no better.

    Inputs: K (B, h, N, M), inverse (B, h, M, M), values (B, h, N, d).   Output: (B, h, N, d), float32.
    """

    def __init__(self):
        super().__init__()
        self.product = ops.BatchMatMul()
        self.product_of_transposed = ops.BatchMatMul(transpose_a=True)

    def construct(self, kernel, inverse, values):
        return self.product(kernel, self.product(inverse, self.product_of_transposed(kernel, values)))


class LocalConv(nn.Conv2d):
    """A depthwise convolution that pads with zeros, one filter per channel.

    The framework's is slow in training on a CPU where filters are large. There the rows of a map are taken for its
    channels: a convolution along the columns, in which every row of the result takes from its neighbours. Of its
    products most are with zeros, and yet forward and backward pass take a quarter of the time (9 x 9 on 56 x 56).

    Args:
        channels: of input and output.
        kernel_size: side of the filters, odd.

    Inputs: maps, (B, channels, H, W).   Output: the same shape.
    """

    def __init__(self, channels: int, kernel_size: int):
        super().__init__(channels, channels, kernel_size, pad_mode="pad", padding=kernel_size // 2, group=channels,
                         weight_init="zeros")
        self.side = kernel_size
        self.along_columns = kernel_size > 3 and on_cpu()

    def construct(self, maps):
        samples, channels, height, width = maps.shape
        if not self.training or not self.along_columns or height > 16 * self.side:
            return super().construct(maps)
        rows = ops.arange(height)
        places = (rows - rows.reshape(-1, 1) + self.side // 2).reshape(-1, 1) == ops.arange(self.side)
        weight = self.weight.astype(ms.float32).reshape(channels, self.side, self.side)  # it was cast at half precision
        filters = ops.matmul(places.astype(ms.float32), weight)
        filters = filters.reshape(channels * height, height, 1, self.side).astype(maps.dtype)
        maps = maps.reshape(samples, channels * height, 1, width)
        maps = ops.conv2d(maps, filters, pad_mode="pad", padding=(0, self.side // 2), groups=channels)
        return maps.reshape(samples, channels, height, width)


class SoftmaxFreeAttention(nn.Cell):
    """Attention by a Gaussian kernel of queries with themselves, and a depthwise convolution of the values beside it.

    Landmarks are averages of ``ratio`` x ``ratio`` queries with learned weights, which the heads share. The convolution
    has one filter per head, for all channels of the head.

    Args:
        dim: width of the tokens, C.
        num_heads: heads h, each of width d = C / h.
        ratio: side of the square of tokens behind a landmark; what is left over at the border has no landmark.
        kernel_size: side of the depthwise filters, odd.
        normalised: whether the inverse is the normalised one.
        iterations: Newton's steps.

    Inputs: x, (B, N, C), and grid, the height and width of the map that the N tokens are, row by row.
    Output: (B, N, C).
    """

    def __init__(self, dim: int, num_heads: int, ratio: int, kernel_size: int, normalised: bool = False,
                 iterations: int = 20):
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.scale = self.head_dim ** -0.25
        self.query = Dense(dim, dim, weight_init="zeros", bias_init="zeros")
        self.value = Dense(dim, dim, weight_init="zeros", bias_init="zeros")
        self.landmark = nn.Conv2d(self.head_dim, self.head_dim, ratio, ratio, pad_mode="valid", weight_init="zeros")
        self.landmark_norm = LayerNorm(self.head_dim, NORM_EPS)
        self.landmark_act = GELU()
        self.kernels = GaussianKernels()
        self.inverse = NormalisedInverse(iterations) if normalised else NewtonInverse(iterations)
        self.mixture = Mixture()
        self.local = LocalConv(num_heads, kernel_size)
        self.proj = Dense(dim, dim, weight_init="zeros", bias_init="zeros")
        self.on_cpu = on_cpu()

    def construct(self, x, grid):
        return self.proj(self.attend(self.query(x) * self.scale, self.value(x), grid))

    def attend(self, queries, values, grid):
        """The kernel: scaled queries and values, (B, N, C) each -> (B, N, C)."""
        lean, tokens = self.training and self.on_cpu, values.shape[1]
        to_landmarks, inverse = self.factors(queries, grid)
        mixed = together(self.mixture(to_landmarks, inverse, apart(values, self.num_heads, lean)), lean)
        channels = swapped(values, lean).reshape(-1, self.num_heads, self.head_dim, tokens)
        maps = together(channels, lean).reshape(-1, self.num_heads, *grid)  # one per sample and channel of a head
        local = apart(self.local(maps).reshape(-1, self.head_dim, self.num_heads * tokens), self.num_heads, lean)
        local = swapped(local.reshape(-1, self.num_heads * self.head_dim, tokens), lean)
        return mixed.astype(local.dtype) + local

    def factors(self, queries, grid):
        """Return K (B, h, N, M) and the inverse V (B, h, M, M); the attention of all tokens to all would be K V K^T."""
        lean = self.training and self.on_cpu
        maps = self.landmark(swapped(queries, lean).reshape(-1, self.head_dim, *grid))
        landmarks = swapped(maps.reshape(-1, self.head_dim, maps.shape[2] * maps.shape[3]), lean)
        landmarks = landmarks.reshape(-1, self.num_heads, landmarks.shape[1], self.head_dim)
        to_landmarks, among_landmarks = self.kernels(apart(queries, self.num_heads, lean),
                                                     self.landmark_act(self.landmark_norm(landmarks)))
        return to_landmarks, self.inverse(among_landmarks)

    def rows(self, x, grid, positions: list[int]):
        """Return how much of each token the tokens at ``positions`` take, (B, h, len(positions), N); for pictures."""
        to_landmarks, inverse = self.factors(self.query(x) * self.scale, grid)
        chosen = ops.stack([to_landmarks[:, :, position] for position in positions], 2)
        return ops.matmul(ops.matmul(chosen, inverse), to_landmarks.swapaxes(2, 3))


class Dropout(DropPath):
    """While training, sets single elements to zero and divides the others by the keep probability.

    Like ``DropPath``, a pure function of (stream, step) and the place of an element. Samples, tokens and channels draw
    two numbers each; a few rounds of a Feistel network join those of sample, token and channel.

    Args:
        rate: probability of dropping, in [0, 1), rounded to a multiple of 1 / 1021. With 0 the cell is the identity.

    Inputs: x, (B, N, C) with B + N + C at most 32,768.   Output: the same shape.
    """

    def __init__(self, rate: float = 0.0):
        super().__init__(rate)
        self.kept = max(1, round((1 - self.rate) * PRIME))  # of the values 0 to PRIME - 1
        self.product = ops.MatMul() if on_cpu() else None

    def construct(self, x):
        if self.rate == 0.0 or not self.training:
            return x
        samples, tokens, channels = x.shape
        split = samples + tokens
        drawn = self.draw(2 * (split + channels)) % PRIME
        one, two = drawn[:split + channels], drawn[split + channels:]
        a, b = self.mix(one[:samples].reshape(-1, 1), two[:samples].reshape(-1, 1), one[samples:split],
                        two[samples:split])
        if self.product is None:
            _, value = self.mix(a.expand_dims(-1), b.expand_dims(-1), one[split:], two[split:])
        else:
            value = self.mixed_by_products(a.reshape(-1, 1), b.reshape(-1, 1), one[split:].reshape(1, -1),
                                           two[split:].reshape(1, -1)).reshape(x.shape)
        return x * ((value < self.kept).astype(x.dtype) * (PRIME / self.kept)).astype(x.dtype)

    def mix(self, a, b, c, d):
        """Permute the pairs (a, b) in a way that (c, d) chooses; all are in [0, PRIME)."""
        first = (a + b * c + d) % PRIME
        return first, (b + first * first + c) % PRIME

    def mixed_by_products(self, a, b, c, d):
        """Return the second number of ``mix`` for columns a, b and rows c, d; see ``common.layers.cpu_training``.

        All sums are whole numbers below 2 ** 24, which float32 holds exactly.
        """
        a, b, c, d = a.astype(ms.float32), b.astype(ms.float32), c.astype(ms.float32), d.astype(ms.float32)
        rows, columns = ops.ones_like(a), ops.ones_like(c)
        first = remainder(self.product(ops.concat((a, b, rows), 1), ops.concat((columns, c, d))))
        return remainder(self.product(ops.concat((b, rows), 1), ops.concat((columns, c))) + first * first)


def remainder(x):
    """Return x % PRIME of whole numbers below 2 ** 21, float32; the framework's operation keeps lists of positions."""
    return x - ops.floor((x + 0.5) * (1 / PRIME)) * PRIME


class SoftBlock(nn.Cell):
    """y = norm1(x + drop(attention(x))), then norm2(y + drop(fc2(gelu(fc1(y))))): the norms come last.

    What drops are single elements, with the rate that other networks use for whole branches; so in the authors' code.

    Args:
        dim: width of the tokens, C.
        mlp_ratio: hidden width / C.
        drop_rate: probability of dropping an element of a branch while training.
        attention: the attention.

    Inputs: x, (B, N, C), and grid, the height and width of the map that the tokens are.   Output: (B, N, C).
    """

    def __init__(self, dim: int, mlp_ratio: float, drop_rate: float, attention: SoftmaxFreeAttention):
        super().__init__()
        self.attn = attention
        self.drop1 = Dropout(drop_rate)
        self.norm1 = LayerNorm(dim, NORM_EPS)
        self.fc1 = Dense(dim, int(dim * mlp_ratio), weight_init="zeros", bias_init="zeros")
        self.act = TanhGELU()
        self.fc2 = Dense(int(dim * mlp_ratio), dim, weight_init="zeros", bias_init="zeros")
        self.drop2 = Dropout(drop_rate)
        self.norm2 = LayerNorm(dim, NORM_EPS)

    def construct(self, x, grid):
        x = self.norm1(x + self.drop1(self.attn(x, grid)))
        return self.norm2(x + self.drop2(self.fc2(self.act(self.fc1(x)))))
