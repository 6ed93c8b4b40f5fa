"""Vision transformer, the encoder of a masked autoencoder as a classifier.

Papers: Dosovitskiy et al. 2020, https://arxiv.org/abs/2010.11929; He et al. 2021, "Masked Autoencoders Are Scalable
Vision Learners", https://arxiv.org/abs/2111.06377. Numerically equal to the authors' ``models_vit.py``; see
``mae.src.spec`` for variants and for the names of weights.
"""
import functools
from typing import Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from common.errors import UserError
from common.layers.cells import Blocks, Float32Cell, LayerNorm, Mlp, PatchEmbed, PlusTable, Softmax
from common.layers.cpu_training import apart, on_cpu, together
from common.layers.drop_path import DropPath
from common.layers.fused_attention import fused_attention
from common.layers.initial_values import initialise, truncated_normal

NORM_EPS = 1e-6
PROBE_MOMENTUM = 0.1  # share of a batch in the running statistics
NEW_HEAD_STD = {False: 2e-5, True: 0.01}  # of fine-tuning, of the linear probe


class Attention(nn.Cell):
    """Multi-head self-attention. Source: Vaswani et al. 2017, section 3.2.

    Args:
        dim: width of the tokens, D.
        num_heads: heads of D / num_heads channels each.

    Attributes:
        fused: compute it by the device's one operator for all of it; see ``common.layers.fused_attention``.

    Inputs: x, (B, N, D).   Output: (B, N, D).

    Raises:
        UserError: if the heads do not share the width evenly.
    """

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        if dim % num_heads:
            raise UserError(f"num_heads: {num_heads} does not divide the width {dim}.")
        self.num_heads, self.head_dim = num_heads, dim // num_heads
        self.qkv = linear(dim, 3 * dim)  # outputs in the order (query, key, value), (head), (channel)
        self.proj = linear(dim, dim)
        self.softmax = Softmax()
        self.compare = ops.BatchMatMul(transpose_b=True)
        self.mix = ops.BatchMatMul()
        self.fused = False
        self.on_cpu = on_cpu()

    def construct(self, x):
        lean = self.training and self.on_cpu
        query, key, value = self.split(self.qkv(x), lean)
        if self.fused:
            mixed = fused_attention(query, key, value)
        else:
            weights = self.softmax(self.compare(query * self.head_dim ** -0.5, key)).astype(value.dtype)
            mixed = self.mix(weights, value)
        return self.proj(together(mixed, lean))

    def split(self, qkv, lean):
        """(B, N, 3 D) -> query, key and value, (B, h, N, d) each; ``lean``: see ``common.layers.cpu_training``."""
        if lean:
            return ops.split(apart(qkv, 3 * self.num_heads, lean), self.num_heads, 1)
        qkv = qkv.reshape(-1, qkv.shape[1], 3, self.num_heads, self.head_dim).transpose(2, 0, 3, 1, 4)
        return qkv[0], qkv[1], qkv[2]


class Block(nn.Cell):
    """A pre-norm transformer block: x + drop(attn(norm1(x))), then x + drop(mlp(norm2(x))).

    Args:
        dim: width of the tokens, D.
        num_heads: attention heads.
        mlp_ratio: hidden width of the MLP / D.
        drop_path_rate: probability of dropping a branch of a sample while training; each branch draws for itself.
        norm_eps: epsilon of the LayerNorms.

    Inputs: x, (B, N, D).   Output: (B, N, D).
    """

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float = 4.0, drop_path_rate: float = 0.0,
                 norm_eps: float = NORM_EPS):
        super().__init__()
        self.norm1 = LayerNorm(dim, norm_eps)
        self.attn = Attention(dim, num_heads)
        self.drop_path1 = DropPath(drop_path_rate)
        self.norm2 = LayerNorm(dim, norm_eps)
        self.mlp = Mlp(dim, round(dim * mlp_ratio))
        self.drop_path2 = DropPath(drop_path_rate)

    def construct(self, x):
        x = x + self.drop_path1(self.attn(self.norm1(x)))
        return x + self.drop_path2(self.mlp(self.norm2(x)))


class ProbeNorm(Float32Cell):
    """BatchNorm without scale and shift, in front of the linear probe's head.

    Source: He et al. 2021, appendix A.1, after Doersch et al. 2015: it makes features of any size comparable.

    Args:
        dim: number of features, D.

    Inputs: features, (B, D); while training B > 1.   Output: (B, D) float32.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.eps, self.momentum = NORM_EPS, PROBE_MOMENTUM
        self.moving_mean = Parameter(Tensor(np.zeros(dim), ms.float32), name="moving_mean", requires_grad=False)
        self.moving_variance = Parameter(Tensor(np.ones(dim), ms.float32), name="moving_variance", requires_grad=False)

    def construct(self, features):
        if not self.training:
            return (features - self.moving_mean) * ops.rsqrt(self.moving_variance + NORM_EPS)
        mean = features.mean(0)
        centred = features - mean
        variance = ops.square(centred).mean(0)
        count = features.shape[0]
        unbiased = ops.stop_gradient(variance) * (count / (count - 1))
        ops.assign(self.moving_mean, _moved(self.moving_mean, ops.stop_gradient(mean)))
        ops.assign(self.moving_variance, _moved(self.moving_variance, unbiased))
        return centred * ops.rsqrt(variance + NORM_EPS)


def _moved(old, new):
    return old * (1.0 - PROBE_MOMENTUM) + new * PROBE_MOMENTUM


class VisionTransformer(nn.Cell):
    """Patches and a class token with learned positions, ``depth`` blocks, pooling, norm, linear head.

    Args:
        num_classes: outputs of the head; 0: no head, the output is the pooled and normalised features.
        image_size: height and width of the images in pixels, or one number.
        in_channels: channels of the images.
        patch_size: height and width of a patch in pixels, or one number.
        embed_dim: width of the tokens, D.
        depth: number of blocks.
        num_heads: attention heads.
        mlp_ratio: hidden width of an MLP / D.
        drop_path_rate: of the last block; it grows linearly from 0 in the first.
        global_pool: the mean of the patches, and then a norm, instead of the class token, normed with all tokens.
        batchnorm_head: BatchNorm in front of the head, for the linear probe.
        norm_eps: epsilon of the LayerNorms.

    Inputs: images, float32 (B, C, H, W).   Output: logits, float32 (B, num_classes).

    Raises:
        UserError: for arguments that do not fit together.
    """

    def __init__(self, num_classes: int = 1000, image_size: int | Sequence[int] = 224, in_channels: int = 3,
                 patch_size: int | Sequence[int] = 16, embed_dim: int = 768, depth: int = 12, num_heads: int = 12,
                 mlp_ratio: float = 4.0, drop_path_rate: float = 0.0, global_pool: bool = True,
                 batchnorm_head: bool = False, norm_eps: float = NORM_EPS):
        super().__init__()
        self.global_pool, self.batchnorm_head, self.has_head = global_pool, batchnorm_head, num_classes > 0
        self.patch_embed = PatchEmbed(image_size, patch_size, in_channels, embed_dim)
        self.cls_token = token(embed_dim, "cls_token")
        self.pos_embed = Parameter(Tensor(np.zeros((1, 1 + self.patch_embed.num_patches, embed_dim)), ms.float32),
                                   name="pos_embed")
        self.placed = PlusTable()
        rates = [drop_path_rate * i / max(1, depth - 1) for i in range(depth)]
        self.blocks = Blocks([Block(embed_dim, num_heads, mlp_ratio, rate, norm_eps) for rate in rates])
        if global_pool:
            self.fc_norm = LayerNorm(embed_dim, norm_eps)
        else:
            self.norm = LayerNorm(embed_dim, norm_eps)
        if self.has_head:
            head = linear(embed_dim, num_classes)
            self.head = nn.SequentialCell([ProbeNorm(embed_dim), head]) if batchnorm_head else head
        fan_in = self.patch_embed.proj.width
        initialise(self, functools.partial(initial_value, fan_in=fan_in))

    def features(self, images):
        """Return the pooled and normalised features, (B, D)."""
        patches = self.patch_embed(images).astype(ms.float32)
        tokens = self.blocks(self.placed(with_token(self.cls_token, patches), self.pos_embed))
        return self.fc_norm(tokens[:, 1:].mean(1)) if self.global_pool else self.norm(tokens[:, 0])

    def stage_outputs(self, images):
        """Return the tokens after each block, (B, 1 + N, D), the class token first."""
        patches = self.patch_embed(images).astype(ms.float32)
        tokens = self.placed(with_token(self.cls_token, patches), self.pos_embed)
        found = ()
        for block in self.blocks:
            tokens = block(tokens)
            found = found + (tokens,)
        return found

    def construct(self, images):
        features = self.features(images)
        return (self.head(features) if self.has_head else features).astype(ms.float32)


def linear(inputs: int, outputs: int) -> nn.Dense:
    """Return a linear layer with a bias, all zeros; the network sets initial values."""
    return nn.Dense(inputs, outputs, weight_init="zeros", bias_init="zeros")


def token(dim: int, name: str) -> Parameter:
    """Return a learned token, (1, 1, D)."""
    return Parameter(Tensor(np.zeros((1, 1, dim)), ms.float32), name=name)


def with_token(first, tokens):
    """Put one token (1, 1, D) in front of those (B, N, D) of every sample."""
    return ops.concat((first + ops.zeros_like(tokens[:, :1]), tokens), 1)


def initial_value(name: str, shape: tuple[int, ...], rng: np.random.Generator, fan_in: int) -> np.ndarray | None:
    """Initial value of a parameter; those not named here are right as they are built: zeros and ones.

    Source: the authors' code with timm 0.3.2; for the patches that of a PyTorch convolution.

    Args:
        fan_in: values in a patch.
    """
    if name.startswith("patch_embed.proj."):
        return rng.uniform(-fan_in ** -0.5, fan_in ** -0.5, shape)
    if name in ("cls_token", "pos_embed") or name.endswith(".weight"):
        return truncated_normal(rng, shape, 0.02, 2.0)
    return None


def new_head(network: VisionTransformer) -> list[str]:
    """Give a head for new classes on trained features its initial values; return its parameters' names.

    Source: the authors' fine-tuning and linear probe.
    """
    std = NEW_HEAD_STD[network.batchnorm_head]
    initialise(network, lambda name, shape, rng:
               rng.normal(0, std, shape) if name in ("head.weight", "head.1.weight") else None)
    return [p.name for p in network.get_parameters() if p.name.startswith("head.")]
