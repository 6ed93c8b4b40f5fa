"""Pictures of what a SOFT looks at: how much of every place in the image a few chosen places take, stage by stage."""
from pathlib import Path
from typing import Sequence

import mindspore as ms
import numpy as np
from PIL import Image, ImageDraw

from common.augment.pipeline import eval_transform, statistics
from common.config.options import Config
from common.context.device import start
from common.dataset.images import expand_images
from common.errors import UserError
from common.logger import get_logger, set_up
from common.network import load_network
from common.pictures.sheet import image_sheet
from common.spec import ModelSpec
from soft.src.options import read_positions
from soft.src.softmax_free_vision_transformer import SOFT

OUT = "soft_attention.png"
# from little to much attention: the colours at equal distances between 0 and 1
COLOURS = np.array([(20, 20, 60), (40, 90, 200), (60, 200, 200), (250, 220, 60), (230, 40, 30)], np.float64)


def visualize(config: Config, spec: ModelSpec) -> Path:
    """Draw the first image of ``config.image``: a row per ``config.positions``, a column per softmax-free stage.

    Returns:
        The picture.

    Raises:
        UserError: if there is no image or no checkpoint.
    """
    if not config.image:
        raise UserError("image: name the image to look at (--image FILE).")
    file = expand_images(config.image)[0]
    set_up(None, start(config).rank, spec.log_style.prefix)
    network, report, _ = load_network(config, spec)
    logger = get_logger()
    logger.info(f"{spec.display_name(config.model)} from {config.ckpt_path}: {report.summary()}")
    with Image.open(file) as picture:
        array = eval_transform(config)(picture.convert("RGB"))
    path = Path(config.out or OUT)
    positions = read_positions(config.positions)
    draw(attention_maps(network, array, positions), shown(array, config), positions, path)
    logger.info(f"{file.name}: attention of {len(positions)} places in three stages: {path}")
    return path


def attention_maps(network: SOFT, image: np.ndarray, positions: Sequence[tuple[float, float]]) -> list[np.ndarray]:
    """Return the attention of each softmax-free stage's last block, mean over its heads.

    Args:
        image: (C, H, W), normalised.
        positions: places that look.

    Returns:
        One array per stage, (len(positions), rows, columns), of any sign: the kernel's inverse is no average.
    """
    mode = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)  # hooks are for this mode
    blocks = [stage[-1].attn for stage in (network.block1, network.block2, network.block3)]
    inputs: list[tuple] = []
    handles = [block.register_forward_pre_hook(lambda cell, args: inputs.append(args)) for block in blocks]
    network.set_train(False)(ms.Tensor(image[None]))
    maps = []
    for block, handle, (tokens, grid) in zip(blocks, handles, inputs, strict=True):
        handle.remove()
        places = [int(row * (grid[0] - 1) + 0.5) * grid[1] + int(column * (grid[1] - 1) + 0.5)
                  for row, column in positions]
        rows = block.rows(tokens, grid, places).asnumpy().astype(np.float64)
        maps.append(rows[0].mean(0).reshape(len(positions), *grid))
    ms.set_context(mode=mode)
    return maps


def shown(image: np.ndarray, config: Config) -> Image.Image:
    """Undo the normalisation of (C, H, W): the picture as the network gets it."""
    mean, std = (np.array(values, np.float32).reshape(-1, 1, 1) for values in statistics(config))
    pixels = np.clip((image * std + mean) * 255 + 0.5, 0, 255).astype(np.uint8).transpose(1, 2, 0)
    return Image.fromarray(pixels if pixels.shape[2] == 3 else np.repeat(pixels[:, :, :1], 3, 2))


def draw(maps: Sequence[np.ndarray], image: Image.Image, positions: Sequence[tuple[float, float]], path: Path,
         size: int = 256) -> None:
    """Write the sheet: the image with the place that looks, and its attention over the image in each stage.

    Args:
        maps: from ``attention_maps``.
        image: the picture as the network gets it.
        positions: places that look.
        path: the file to write.
        size: side of a picture in pixels.
    """
    image = image.resize((size, size), Image.Resampling.BICUBIC)
    pictures, captions = [], []
    for number, position in enumerate(positions):
        pictures.append(marked(image, position))
        captions.append(f"looking from row {position[0]:.0%}, column {position[1]:.0%}")
        for stage, stage_maps in enumerate(maps, start=1):
            pictures.append(marked(overlaid(image, stage_maps[number]), position))
            captions.append(f"stage {stage}, {stage_maps.shape[1]} x {stage_maps.shape[2]} tokens")
    image_sheet(pictures, captions, path, columns=1 + len(maps), size=size)


def overlaid(image: Image.Image, attention: np.ndarray) -> Image.Image:
    """Lay a map over a darkened grey image, from its least attention (dark blue, faint) to its most (red, opaque)."""
    strength = np.abs(attention)
    strength = ((strength - strength.min()) / max(np.ptp(strength), 1e-12)).astype(np.float32)
    smooth = np.asarray(Image.fromarray(strength).resize(image.size, Image.Resampling.BILINEAR), np.float64)[..., None]
    steps = np.linspace(0, 1, len(COLOURS))
    colours = np.stack([np.interp(smooth[..., 0], steps, COLOURS[:, channel]) for channel in range(3)], -1)
    grey = np.asarray(image.convert("L"), np.float64)[..., None] * 0.8
    share = 0.25 + 0.6 * smooth
    return Image.fromarray((grey * (1 - share) + colours * share).astype(np.uint8))


def marked(image: Image.Image, position: tuple[float, float]) -> Image.Image:
    """Return a copy with a ring around a place."""
    copy = image.copy()
    pen = ImageDraw.Draw(copy)
    row, column = (share * (side - 1) for share, side in zip(position, (copy.height, copy.width)))
    for radius, colour in ((9, "black"), (8, "white"), (7, "white"), (6, "black")):
        pen.ellipse((column - radius, row - radius, column + radius, row + radius), outline=colour)
    return copy
