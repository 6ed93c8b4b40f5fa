"""Pictures of what a masked autoencoder makes of an image: original, visible patches, reconstruction, both together."""
import dataclasses
from pathlib import Path
from typing import Sequence

import mindspore as ms
import numpy as np

from common.augment.pipeline import eval_transform, statistics
from common.config.options import Config
from common.dataset.samples import Samples
from common.pictures.sheet import Row, Subject, image_sheet, picture_of
from mae.src.mae_vit import VARIANCE_EPS, MaskedAutoencoder

SAMPLES = 6  # images of the picture that a training draws
BATCH = 8  # images per call of the network
GREY = 0.5  # of removed patches, in 0..1
CELL = 224  # pixels, side of an image in the picture


def reconstruction_rows(config: Config, network: MaskedAutoencoder, subjects: Sequence[Subject]) -> list[Row]:
    """Return a row of four pictures for each image; its mask follows from ``config.seed`` and its number."""
    transform = eval_transform(dataclasses.replace(config, eval_image_size=None))
    arrays = np.stack([transform(subject.image) for subject in subjects])
    noise = np.stack([np.random.default_rng([config.seed, subject.number]).random(network.noise_length, np.float32)
                      for subject in subjects])
    predicted, mask = reconstruct(network, arrays, noise)
    mean, std = (np.array(values, np.float32).reshape(-1, 1, 1) for values in statistics(config))
    visible = np.where(mask, (GREY - mean) / std, arrays)
    pasted = np.where(mask, predicted, arrays)
    relative = "\n(patch brightness of the original)" if network.norm_pix_loss else ""
    captions = (f"{network.kept} of {network.noise_length} patches", f"reconstruction{relative}",
                "reconstruction and visible patches")
    return [[(picture_of(values[row], config), caption) for values, caption in
             zip((arrays, visible, predicted, pasted), (subject.name, *captions))]
            for row, subject in enumerate(subjects)]


def draw_samples(config: Config, network: MaskedAutoencoder, samples: Samples, path: Path) -> None:
    """Draw a few images of a data set, spread over it, always the same ones with the same masks."""
    indices = np.linspace(0, len(samples) - 1, min(SAMPLES, len(samples))).astype(int).tolist()
    subjects = [Subject(number, f"image {i}", samples.load(i)) for number, i in enumerate(indices)]
    tiles = [tile for row in reconstruction_rows(config, network, subjects) for tile in row]
    image_sheet([picture for picture, _ in tiles], [caption for _, caption in tiles], path, columns=4, size=CELL)


def reconstruct(network: MaskedAutoencoder, images: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the predicted images and the removed pixels.

    Args:
        network: in evaluation mode.
        images: normalised, float32 (N, C, H, W).
        noise: float32 (N, L); the patches of the smallest values stay visible.

    Returns:
        Predicted images, float32 (N, C, H, W), normalised as ``images`` are: where the network predicts pixels relative
        to their patch, with the patch's own mean and deviation; and bool (N, 1, H, W), true where a patch was removed.
    """
    predictions, masks = [], []
    for first in range(0, len(images), BATCH):
        rows = np.arange(first, first + min(BATCH, len(images)))
        rows = np.minimum(rows, len(images) - 1)  # the last batch is filled up, so that one graph serves all
        _, pred, mask = network(ms.Tensor(images[rows]), ms.Tensor(noise[rows]))
        predictions.append(pred.asnumpy())
        masks.append(mask.asnumpy())
    pred, mask = (np.concatenate(parts)[:len(images)] for parts in (predictions, masks))
    if network.norm_pix_loss:
        patches = _patches(network, images)
        deviation = np.sqrt(patches.var(-1, ddof=1, keepdims=True) + VARIANCE_EPS)
        pred = pred * deviation + patches.mean(-1, keepdims=True)
    width = pred.shape[-1] // images.shape[1]
    return _image(network, pred), _image(network, np.repeat(mask[..., None] > 0, width, -1))


def _patches(network: MaskedAutoencoder, images: np.ndarray) -> np.ndarray:
    """Cut images (N, C, H, W) into patches (N, L, h * w * C), as the network's ``patchify``."""
    (rows, columns), (high, wide) = network.patch_embed.grid, network.patch_embed.patch_size
    parts = images.reshape(len(images), -1, rows, high, columns, wide).transpose(0, 2, 4, 3, 5, 1)
    return parts.reshape(len(images), rows * columns, -1)


def _image(network: MaskedAutoencoder, patches: np.ndarray) -> np.ndarray:
    """Put patches (N, L, h * w * C) together to images (N, C, H, W)."""
    (rows, columns), (high, wide) = network.patch_embed.grid, network.patch_embed.patch_size
    parts = patches.reshape(len(patches), rows, columns, high, wide, -1).transpose(0, 5, 1, 3, 2, 4)
    return parts.reshape(len(patches), -1, rows * high, columns * wide)
