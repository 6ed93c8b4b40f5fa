"""Masked autoencoder with a vision transformer: most patches are removed, and their pixels are predicted.

Paper: He et al. 2021, "Masked Autoencoders Are Scalable Vision Learners", https://arxiv.org/abs/2111.06377. Numerically
equal to the authors' ``models_mae.py``; see ``mae.src.spec`` for variants and for the names of weights.
"""
import functools
import math
from typing import Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from common.errors import UserError
from common.layers.cells import Blocks, LayerNorm, PatchEmbed
from common.layers.initial_values import initialise, xavier_uniform
from mae.src.pos_embed import sine_cosine_table
from mae.src.vit import NORM_EPS, Block, linear, token, with_token

VARIANCE_EPS = 1e-6  # of the pixel normalisation


class MaskedAutoencoder(nn.Cell):
    """Encodes the visible patches alone, and decodes them together with mask tokens to the pixels of all patches.

    The network is a pure function: which patches stay visible follows from ``noise``, which the data pipeline draws
    anew for every sample and epoch.

    Args:
        image_size: height and width of the images in pixels, or one number.
        in_channels: channels of the images.
        patch_size: height and width of a patch in pixels, or one number.
        embed_dim, depth, num_heads: width, blocks and heads of the encoder.
        mlp_ratio: hidden width of an MLP / width of the tokens, in both parts.
        decoder_embed_dim, decoder_depth, decoder_num_heads: of the decoder.
        mask_ratio: share of the patches that is removed.
        norm_pix_loss: predict pixels normalised by mean and deviation of their patch.
        norm_eps: epsilon of the LayerNorms.

    Inputs: images, float32 (B, C, H, W); noise, float32 (B, L) in [0, 1), without ties, for L patches.
    Output: loss, float32 scalar, the mean squared error over the removed patches; pred, float32 (B, L, h * w * C), the
        predicted pixels in the order (row, column, channel); mask, float32 (B, L), 1 for removed patches, 0 for the
        visible ones.

    Raises:
        UserError: for arguments that do not fit together.
    """

    def __init__(self, image_size: int | Sequence[int] = 224, in_channels: int = 3,
                 patch_size: int | Sequence[int] = 16, embed_dim: int = 768, depth: int = 12, num_heads: int = 12,
                 mlp_ratio: float = 4.0, decoder_embed_dim: int = 512, decoder_depth: int = 8,
                 decoder_num_heads: int = 16, mask_ratio: float = 0.75, norm_pix_loss: bool = False,
                 norm_eps: float = NORM_EPS):
        super().__init__()
        self.patch_embed = PatchEmbed(image_size, patch_size, in_channels, embed_dim)
        self.noise_length = self.patch_embed.num_patches
        self.kept = kept_patches(self.noise_length, mask_ratio)
        self.norm_pix_loss = norm_pix_loss

        self.cls_token = token(embed_dim, "cls_token")
        self.pos_embed = fixed_positions(embed_dim, self.patch_embed.grid, "pos_embed")
        self.blocks = Blocks([Block(embed_dim, num_heads, mlp_ratio, 0.0, norm_eps) for _ in range(depth)])
        self.norm = LayerNorm(embed_dim, norm_eps)

        self.decoder_embed = linear(embed_dim, decoder_embed_dim)
        self.mask_token = token(decoder_embed_dim, "mask_token")
        self.decoder_pos_embed = fixed_positions(decoder_embed_dim, self.patch_embed.grid, "decoder_pos_embed")
        self.decoder_blocks = Blocks([Block(decoder_embed_dim, decoder_num_heads, mlp_ratio, 0.0, norm_eps)
                                      for _ in range(decoder_depth)])
        self.decoder_norm = LayerNorm(decoder_embed_dim, norm_eps)
        self.decoder_pred = linear(decoder_embed_dim, self.patch_embed.proj.width)
        initialise(self, functools.partial(initial_value, fan_in=self.patch_embed.proj.width))

    def construct(self, images, noise):
        ids_shuffle, ids_restore = shuffled(noise)
        mask = (ids_restore >= self.kept).astype(ms.float32)
        latent = self.encode(images, ids_shuffle[:, :self.kept])
        pred = self.decode(latent, ids_restore)
        return self.loss(images, pred, mask), pred, mask

    def encode(self, images, ids_keep):
        """Return the class token and the visible patches, (B, 1 + kept, D), the latter in the order of ``ids_keep``."""
        patches = self.patch_embed(images).astype(ms.float32) + self.pos_embed[:, 1:]
        tokens = with_token(self.cls_token + self.pos_embed[:, :1], take_rows(patches, ids_keep))
        return self.norm(self.blocks(tokens))

    def decode(self, latent, ids_restore):
        """Return the pixels of all patches in the order of the image; ``ids_restore`` undoes the shuffling."""
        tokens = self.decoder_embed(latent).astype(ms.float32)
        removed = self.mask_token + ops.zeros((tokens.shape[0], ids_restore.shape[1] - self.kept, 1), ms.float32)
        patches = take_rows(ops.concat((tokens[:, 1:], removed), 1), ids_restore)
        tokens = ops.concat((tokens[:, :1], patches), 1) + self.decoder_pos_embed
        tokens = self.decoder_norm(self.decoder_blocks(tokens))
        return self.decoder_pred(tokens)[:, 1:].astype(ms.float32)

    def loss(self, images, pred, mask):
        """Return the squared error per pixel, averaged over the removed patches of the whole batch."""
        target = self.patchify(images)
        if self.norm_pix_loss:
            count = target.shape[-1]
            centred = target - target.mean(-1, keep_dims=True)
            variance = ops.square(centred).sum(-1, keepdims=True) / (count - 1)
            target = centred / ops.sqrt(variance + VARIANCE_EPS)
        error = ops.square(pred - target).mean(-1)
        return (error * mask).sum() / mask.sum()

    def patchify(self, images):
        """Return the pixels of every patch, (B, L, h * w * C), in the order (row, column, channel)."""
        _, channels, height, width = images.shape
        (rows, columns), (high, wide) = self.patch_embed.grid, self.patch_embed.patch_size
        patches = images.reshape(-1, channels, rows, high, columns, wide).transpose(0, 2, 4, 3, 5, 1)
        return patches.reshape(-1, rows * columns, high * wide * channels)


def kept_patches(patches: int, mask_ratio: float) -> int:
    """Return how many patches stay visible, rounded down as in the authors' code.

    Raises:
        UserError: if none would stay, or none would be removed.
    """
    kept = int(patches * (1 - mask_ratio))
    if not 0 < kept < patches:
        what = "none stays visible" if kept == 0 else "none is removed"
        raise UserError(f"mask_ratio: {mask_ratio} of {patches} patches means that {what}; choose another mask_ratio, "
                        "or smaller patches.")
    return kept


def shuffled(noise):
    """Return ids_shuffle, the patches in ascending order of their noise, and ids_restore, the place of each in it.

    Both are int32 (B, L), named as in the authors' code.
    """
    ids_shuffle = ops.argsort(noise, 1)
    return ids_shuffle, ops.argsort(ids_shuffle.astype(ms.float32), 1)  # exact in float32, on every device


def take_rows(tokens, indices):
    """Return the rows ``indices`` (B, n) of each sample's tokens (B, N, D): (B, n, D)."""
    batch, count, dim = tokens.shape
    flat = indices + ops.arange(batch, dtype=ms.int32).reshape(-1, 1) * count
    return ops.gather(tokens.reshape(-1, dim), flat, 0)


def fixed_positions(dim: int, grid: tuple[int, int], name: str) -> Parameter:
    """Return the sine-cosine table as a parameter that is saved but not trained."""
    return Parameter(Tensor(sine_cosine_table(dim, grid)), name=name, requires_grad=False)


def initial_value(name: str, shape: tuple[int, ...], rng: np.random.Generator, fan_in: int) -> np.ndarray | None:
    """Initial value of a parameter; those not named here are right as they are built.

    Source: the authors' code, in which the bias of the patches keeps what a PyTorch convolution begins with.

    Args:
        fan_in: values in a patch.
    """
    if name == "patch_embed.proj.bias":
        return rng.uniform(-fan_in ** -0.5, fan_in ** -0.5, shape)
    if name in ("cls_token", "mask_token"):
        return rng.normal(0, 0.02, shape)
    if name.endswith(".weight"):
        return xavier_uniform(rng, (shape[0], math.prod(shape[1:]))).reshape(shape)
    return None
