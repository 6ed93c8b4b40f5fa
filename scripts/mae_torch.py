"""The masked autoencoder written plainly for PyTorch: what ``scripts/benchmark.py --against torch`` measures MAE beside.

The structure of ``mae.src.mae_vit``, where its sources stand, with PyTorch's own layers and the authors' names of
parameters; a test holds its loss and gradients to the same golden numbers. It is no part of the zoo: nothing trains or
predicts with it.
"""
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from mae.src.pos_embed import sine_cosine_table
from scripts.convmlp_torch import Mlp

EPS = 1e-6  # of every LayerNorm


class Attention(nn.Module):
    """Multi-head attention, (B, N, C) -> the same shape."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x):
        parts = self.qkv(x).reshape(*x.shape[:2], 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(*parts).transpose(1, 2).reshape(x.shape))


class Block(nn.Module):
    """A pre-norm block, (B, N, C) -> the same shape."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, EPS), nn.LayerNorm(dim, EPS)
        self.attn, self.mlp = Attention(dim, num_heads), Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    """Images (B, C, H, W) -> patches (B, L, D)."""

    def __init__(self, in_channels: int, dim: int, patch_size: int):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, patch_size, patch_size)

    def forward(self, images):
        return self.proj(images).flatten(2).transpose(1, 2)


class MaskedAutoencoder(nn.Module):
    """Images (B, C, H, W) and noise (B, L) -> the loss over the removed patches.

    Arguments as those of ``mae.src.mae_vit.MaskedAutoencoder``.
    """

    def __init__(self, image_size: int, in_channels: int, patch_size: int, embed_dim: int, depth: int, num_heads: int,
                 mlp_ratio: float, decoder_embed_dim: int, decoder_depth: int, decoder_num_heads: int,
                 mask_ratio: float = 0.75, norm_pix_loss: bool = False):
        super().__init__()
        side = image_size // patch_size
        self.noise_length = side * side
        self.patch_size, self.kept = patch_size, int(side * side * (1 - mask_ratio))
        self.norm_pix_loss = norm_pix_loss
        self.patch_embed = PatchEmbed(in_channels, embed_dim, patch_size)
        for name, dim in (("pos_embed", embed_dim), ("decoder_pos_embed", decoder_embed_dim)):
            self.register_buffer(name, torch.from_numpy(sine_cosine_table(dim, (side, side))), persistent=False)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_embed_dim))
        self.blocks = nn.Sequential(*(Block(embed_dim, num_heads, mlp_ratio) for _ in range(depth)))
        self.norm = nn.LayerNorm(embed_dim, EPS)
        self.decoder_embed = nn.Linear(embed_dim, decoder_embed_dim)
        self.decoder_blocks = nn.Sequential(*(Block(decoder_embed_dim, decoder_num_heads, mlp_ratio)
                                              for _ in range(decoder_depth)))
        self.decoder_norm = nn.LayerNorm(decoder_embed_dim, EPS)
        self.decoder_pred = nn.Linear(decoder_embed_dim, patch_size ** 2 * in_channels)

    def forward(self, images: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        order = noise.argsort(1)
        places = order.argsort(1)  # of each patch among the kept ones and the removed ones behind them
        patches = self.patch_embed(images) + self.pos_embed[:, 1:]
        patches = patches.gather(1, order[:, :self.kept, None].expand(-1, -1, patches.shape[2]))
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(images), -1, -1)
        seen = self.decoder_embed(self.norm(self.blocks(torch.cat((first, patches), 1))))
        removed = self.mask_token.expand(len(images), noise.shape[1] - self.kept, -1)
        tokens = torch.cat((seen[:, 1:], removed), 1)
        tokens = tokens.gather(1, places[:, :, None].expand(-1, -1, tokens.shape[2]))
        tokens = torch.cat((seen[:, :1], tokens), 1) + self.decoder_pos_embed
        predicted = self.decoder_pred(self.decoder_norm(self.decoder_blocks(tokens)))[:, 1:]
        side = self.patch_size
        target = images.unfold(2, side, side).unfold(3, side, side).permute(0, 2, 3, 4, 5, 1).reshape(predicted.shape)
        if self.norm_pix_loss:
            target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
        return (predicted - target).square().mean(-1)[places >= self.kept].mean()


def build(variant: str, **arguments: Any) -> nn.Module:
    """Return the masked autoencoder of a variant; it has no classes and drops no paths."""
    from mae.src.spec import VARIANTS

    given = {"image_size": 224, "in_channels": 3} | dict(VARIANTS[variant]) | arguments
    return MaskedAutoencoder(**{key: value for key, value in given.items()
                                if key not in ("masked", "num_classes", "drop_path_rate")})
