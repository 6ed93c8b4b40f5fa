"""gMLP, an image classifier without attention.

Paper: Liu, Dai, So and Le 2021, "Pay Attention to MLPs", https://arxiv.org/abs/2105.08050.
Numerically equal to the models gmlp_*16_224 of timm; see ``gmlp.src.spec`` for variants and for the names of weights.
"""
from typing import Sequence

import mindspore as ms
import numpy as np
import psutil
from mindspore import nn, ops

from common.errors import UserError
from common.layers.cells import GELU, Blocks, LayerNorm, PatchEmbed
from common.layers.drop_path import DropPath
from common.layers.initial_values import initialise, lecun_normal, xavier_uniform


class PositionMixing(nn.Dense):
    """A linear layer over the positions: y[n] = sum over m of weight[n, m] * x[m], plus bias[n].

    The weight stands on the left, in a product for each image, so that ``x`` need not be transposed there and back:
    while training on a CPU the transposed copies took a fifth of the memory.

    Args:
        seq_len: number of positions, N.

    Inputs: x, (B, N, C).   Output: the same shape.
    """

    def __init__(self, seq_len: int):
        super().__init__(seq_len, seq_len, weight_init="zeros", bias_init="ones")

    def construct(self, x):
        weight = ops.broadcast_to(self.weight, (x.shape[0], *self.weight.shape))
        product = ops.bmm(weight, x.astype(weight.dtype))  # in half precision the compiler casts the weight alone
        return product + self.bias.reshape(-1, 1)


class SpatialGatingUnit(nn.Cell):
    """Multiplies one half of the channels by a learned mixture of the other half over positions.

    Source: the paper, section 2.1. The mixture starts as the constant 1 (weights near 0, bias 1), so that early in
    training a block behaves like an ordinary feed-forward layer.

    Args:
        dim: channels of the input, even.
        seq_len: number of positions N; fixed, because the mixture is an (N, N) matrix.
        norm_eps: epsilon of the LayerNorm inside the gate.

    Inputs: x, (B, N, dim).   Output: (B, N, dim / 2).

    Raises:
        UserError: if ``dim`` is odd.
    """

    def __init__(self, dim: int, seq_len: int, norm_eps: float = 1e-5):
        super().__init__()
        if dim % 2:
            raise UserError(f"mlp_ratio: it gives {dim} hidden channels, but the gate halves them: the number must be "
                            "even.")
        self.norm = LayerNorm(dim // 2, norm_eps)
        self.proj = PositionMixing(seq_len)

    def construct(self, x):
        u, v = ops.chunk(x, 2, -1)
        return u * self.proj(self.norm(v))


class GMLPBlock(nn.Cell):
    """One pre-norm residual block: x + drop_path(fc2(gate(gelu(fc1(norm(x)))))).

    Args:
        dim: width of the tokens, D.
        hidden_dim: channels between ``fc1`` and the gate, even.
        seq_len: number of tokens, N.
        drop_path_rate: probability of dropping the branch of a sample while training.
        norm_eps: epsilon of the LayerNorm before the branch.
        gate_norm_eps: epsilon of the LayerNorm inside the gate.

    Inputs: x, (B, N, D).   Output: (B, N, D).
    """

    def __init__(self, dim: int, hidden_dim: int, seq_len: int, drop_path_rate: float = 0.0, norm_eps: float = 1e-6,
                 gate_norm_eps: float = 1e-5):
        super().__init__()
        self.norm = LayerNorm(dim, norm_eps)
        self.fc1 = nn.Dense(dim, hidden_dim, weight_init="zeros", bias_init="zeros")
        self.act = GELU()
        self.gate = SpatialGatingUnit(hidden_dim, seq_len, gate_norm_eps)
        self.fc2 = nn.Dense(hidden_dim // 2, dim, weight_init="zeros", bias_init="zeros")
        self.drop_path = DropPath(drop_path_rate)

    def construct(self, x):
        h = self.act(self.fc1(self.norm(x)))
        return x + self.drop_path(self.fc2(self.gate(h)))


class GMLP(nn.Cell):
    """Patches, ``depth`` blocks, norm, mean over the tokens, linear head. No positions and no class token.

    Args:
        num_classes: outputs of the head.
        image_size: height and width of the images in pixels, or one number; the weights fit this size only.
        in_channels: channels of the images.
        patch_size: height and width of a patch in pixels, or one number.
        embed_dim: width of the tokens, D.
        depth: number of blocks.
        mlp_ratio: hidden channels of a block / D.
        drop_path_rate: probability of dropping the branch of a block, the same for all blocks.
        norm_eps: epsilon of the LayerNorms outside the gates.
        gate_norm_eps: epsilon of those inside.

    Inputs: images, float32 (B, C, H, W).   Output: logits, float32 (B, num_classes).

    Raises:
        UserError: for arguments that do not fit together.
    """

    def __init__(self, num_classes: int = 1000, image_size: int | Sequence[int] = 224, in_channels: int = 3,
                 patch_size: int | Sequence[int] = 16, embed_dim: int = 128, depth: int = 30, mlp_ratio: float = 6.0,
                 drop_path_rate: float = 0.0, norm_eps: float = 1e-6, gate_norm_eps: float = 1e-5):
        super().__init__()
        self.stem = PatchEmbed(image_size, patch_size, in_channels, embed_dim)
        hidden_dim = round(embed_dim * mlp_ratio)
        gates, memory = 4 * depth * self.stem.num_patches ** 2, psutil.virtual_memory().total
        if gates > memory:  # else the system would kill the process while they are filled
            raise UserError(f"image_size: {image_size} with patch_size: {patch_size} gives {self.stem.num_patches:,} "
                            f"tokens, whose mixing in {depth} blocks has {gates / 2**30:,.0f} GiB of weights; this "
                            f"machine has {memory / 2**30:,.0f} GiB. Take smaller images or larger patches.")
        self.blocks = Blocks([
            GMLPBlock(embed_dim, hidden_dim, self.stem.num_patches, drop_path_rate, norm_eps, gate_norm_eps)
            for _ in range(depth)])
        self.norm = LayerNorm(embed_dim, norm_eps)
        self.head = nn.Dense(embed_dim, num_classes, weight_init="zeros", bias_init="zeros")
        initialise(self, initial_value)

    def construct(self, images):
        return self.head(self.features(images)).astype(ms.float32)

    def features(self, images):
        """Return what the head reads: the mean of the normalised tokens, (B, D)."""
        return self.norm(self.blocks(self.stem(images))).mean(1)

    def stage_outputs(self, images):
        """Return the tokens after each block, (B, N, D)."""
        tokens, found = self.stem(images), ()
        for block in self.blocks:
            tokens = block(tokens)
            found = found + (tokens,)
        return found


def initial_value(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray | None:
    """Initial value of a parameter; those not named here are right as they are built: zeros and ones.

    The head starts at 0, so that the first loss is exactly ln(classes). Source: the paper, section 2.1, for the gate,
    and timm for the rest.
    """
    if name == "stem.proj.weight":
        return lecun_normal(rng, shape)
    if name.endswith("gate.proj.weight"):
        return rng.normal(0, 1e-6, shape)
    if name.endswith(("fc1.weight", "fc2.weight")):
        return xavier_uniform(rng, shape)
    if name.endswith(("fc1.bias", "fc2.bias")):
        return rng.normal(0, 1e-6, shape)
    return None
