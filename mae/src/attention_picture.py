"""Pictures of what a vision transformer attends to: attention of some blocks, and its roll-out through all of them."""
from typing import Sequence

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from common.augment.pipeline import eval_transform
from common.config.options import Config
from common.pictures.heat_map import enlarge, lay_over
from common.pictures.inside import inputs_of, operation_by_operation
from common.pictures.sheet import Row, Subject, picture_of
from mae.src.mae_vit import MaskedAutoencoder
from mae.src.vit import Attention, VisionTransformer

BLOCKS = 3  # whose attention is shown: from the first to the last


def attention_rows(config: Config, network: VisionTransformer | MaskedAutoencoder, subjects: Sequence[Subject]
                   ) -> list[Row]:
    """Return a row for each image: itself, the attention of the first, a middle and the last block, and the roll-out.

    Who looks is what becomes the features: the class token, or, where they are the mean of the patches, all of these.
    """
    transform = eval_transform(config)
    images = np.stack([transform(subject.image) for subject in subjects])
    weights = attention_weights(network, images)
    looks = slice(1, None) if getattr(network, "global_pool", False) else slice(0, 1)
    grid, rows = network.patch_embed.grid, []
    blocks = np.unique(np.linspace(0, len(weights) - 1, BLOCKS).astype(int)).tolist()
    shown = {f"block {block + 1}": weights[block] for block in blocks} | {"roll-out": roll_out(weights)}
    for number, subject in enumerate(subjects):
        image = enlarge(picture_of(images[number], config))
        row = [(image, subject.name)]
        for name, values in shown.items():
            row.append((lay_over(image, values[number, looks, 1:].mean(0).reshape(grid)), name))
        rows.append(row)
    return rows


def attention_weights(network: VisionTransformer | MaskedAutoencoder, images: np.ndarray) -> np.ndarray:
    """Return how much of each token (last axis) each token takes in every block, mean over the heads: (L, B, N, N).

    A masked autoencoder sees all patches here.
    """
    def run():
        tensor = ms.Tensor(images)
        if isinstance(network, MaskedAutoencoder):
            kept = ops.tile(ops.arange(network.noise_length, dtype=ms.int32), (len(images), 1))
            return network.encode(tensor, kept)
        return network(tensor)

    cells = [block.attn for block in network.blocks]
    with operation_by_operation():
        return np.stack([attention_of(cell, tokens) for cell, (tokens,) in zip(cells, inputs_of(cells, run))])


def roll_out(weights: np.ndarray) -> np.ndarray:
    """Return how much of each patch reaches each token through all blocks, (B, N, N), from (L, B, N, N).

    Half of a token stays itself, past the attention. Source: Abnar and Zuidema 2020, "Quantifying Attention Flow in
    Transformers", section 3.
    """
    found = own = np.eye(weights.shape[-1])
    for block in weights:
        found = (block + own) / 2 @ found
    return found


def attention_of(cell: Attention, tokens: ms.Tensor) -> np.ndarray:
    """Return softmax(query key^T / sqrt(d)) of an attention, mean over the heads, (B, N, N)."""
    batch, count, _ = tokens.shape
    query, key, _ = cell.qkv(tokens).reshape(batch, count, 3, cell.num_heads, cell.head_dim).transpose(2, 0, 3, 1, 4)
    scores = nn.Softmax(-1)((query @ key.swapaxes(2, 3)).astype(ms.float32) * cell.head_dim ** -0.5)
    return scores.asnumpy().astype(np.float64).mean(1)
