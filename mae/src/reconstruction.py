"""Pictures of what a masked autoencoder makes of an image: original, visible patches, reconstruction, both together."""
import dataclasses
from pathlib import Path
from typing import Sequence

import mindspore as ms
import numpy as np
from PIL import Image

from common.augment.pipeline import eval_transform, statistics
from common.config.options import Config
from common.context.device import start
from common.dataset.images import expand_images, load_image
from common.dataset.samples import Samples
from common.errors import UserError
from common.logger import get_logger, set_up
from common.network import load_network
from common.pictures.sheet import image_sheet
from common.spec import ModelSpec
from mae.src.mae_vit import VARIANCE_EPS, MaskedAutoencoder

SAMPLES = 6  # images of the picture that a training draws
BATCH = 8  # images per call of the network
GREY = 0.5  # of removed patches, in 0..1
CELL = 224  # pixels, side of an image in the picture
OUT = "reconstruction.png"


def visualize(config: Config, spec: ModelSpec) -> Path:
    """Draw the images of ``config.image`` with the masked autoencoder of ``config.ckpt_path``, a row for each.

    Returns:
        The picture.

    Raises:
        UserError: if there is no image, or the checkpoint holds no decoder.
    """
    if not config.image:
        raise UserError("image: name the images to draw (--image FILE, FOLDER or 'PATTERN').")
    files = expand_images(config.image)
    set_up(None, start(config).rank, spec.log_style.prefix)
    network, report, _ = load_network(config, spec)
    logger = get_logger()
    logger.info(f"{spec.display_name(config.model)} from {config.ckpt_path}: {report.summary()}")
    path = Path(config.out or OUT)
    draw(config, network, [load_image(file) for file in files], [file.name for file in files], path)
    if network.norm_pix_loss:
        logger.info("This network predicts pixels relative to the mean and deviation of their patch; both are taken "
                    "from the original, also for removed patches.")
    logger.info(f"{len(files)} image(s), {network.kept} of {network.noise_length} patches visible: {path}")
    return path


def draw_samples(config: Config, network: MaskedAutoencoder, samples: Samples, path: Path) -> None:
    """Draw a few images of a data set, spread over it, always the same ones with the same masks."""
    indices = np.linspace(0, len(samples) - 1, min(SAMPLES, len(samples))).astype(int)
    draw(config, network, [samples.load(int(i)) for i in indices], [f"image {i}" for i in indices], path)


def draw(config: Config, network: MaskedAutoencoder, images: Sequence[Image.Image], names: Sequence[str], path: Path
         ) -> None:
    """Write one row of four pictures for each image; its mask follows from ``config.seed`` and its place."""
    transform = eval_transform(dataclasses.replace(config, eval_image_size=None))
    arrays = np.stack([transform(image) for image in images])
    noise = np.stack([np.random.default_rng([config.seed, i]).random(network.noise_length, np.float32)
                      for i in range(len(arrays))])
    predicted, mask = reconstruct(network, arrays, noise)
    mean, std = (np.array(values, np.float32).reshape(-1, 1, 1) for values in statistics(config))
    originals = arrays * std + mean
    visible = np.where(mask, GREY, originals)
    reconstruction = predicted * std + mean
    pasted = np.where(mask, reconstruction, originals)
    relative = "\n(patch brightness of the original)" if network.norm_pix_loss else ""
    pictures, captions = [], []
    for row, name in enumerate(names):
        pictures += [_picture(values[row]) for values in (originals, visible, reconstruction, pasted)]
        captions += [name, f"{network.kept} of {network.noise_length} patches", f"reconstruction{relative}",
                     "reconstruction and visible patches"]
    image_sheet(pictures, captions, path, columns=4, size=CELL)


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


def _picture(values: np.ndarray) -> Image.Image:
    """Turn (C, H, W) in 0..1 into an image; what lies beyond is cut."""
    pixels = (np.clip(values, 0, 1) * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0)
    return Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0])
