"""Maps as colours: over an image, or with a sign. Imports without MindSpore."""
import numpy as np
from PIL import Image, ImageDraw

# From little to much, and from negative to positive: the colours at equal distances. Both keep their order in grey.
HEAT = np.array([(8, 8, 40), (90, 20, 110), (190, 55, 85), (245, 140, 25), (252, 250, 170)], np.float64)
SIGNED = np.array([(20, 60, 140), (120, 165, 215), (255, 255, 255), (235, 150, 110), (150, 30, 20)], np.float64)


SIDE = 224  # pixels, so that a map over a small image is smooth


def enlarge(image: Image.Image) -> Image.Image:
    """Return an image whose longer side has at least ``SIDE`` pixels."""
    factor = SIDE / max(image.size)
    return image if factor <= 1 else image.resize([round(side * factor) for side in image.size],
                                                  Image.Resampling.BICUBIC)


def lay_over(image: Image.Image, values: np.ndarray) -> Image.Image:
    """Lay a map (rows, columns) of any range over an image in grey: dark and faint is its least, bright its most."""
    values, image = np.asarray(values, np.float64), enlarge(image)
    shares = ((values - values.min()) / max(np.ptp(values), 1e-12)).astype(np.float32)
    smooth = np.clip(np.asarray(Image.fromarray(shares).resize(image.size, Image.Resampling.BICUBIC), np.float64), 0, 1)
    grey = np.asarray(image.convert("L"), np.float64)[..., None] * 0.8
    opacity = (0.3 + 0.5 * smooth)[..., None]
    return Image.fromarray((grey * (1 - opacity) + _colours(smooth, HEAT) * opacity + 0.5).astype(np.uint8))


def signed_map(values: np.ndarray) -> Image.Image:
    """Return a map (rows, columns) as squares, its longer side ``SIDE`` pixels.

    Blue is negative, white 0, red positive; the full colours are those of the largest value without its sign.
    """
    pixels = _colours(values / max(np.abs(values).max(), 1e-12) / 2 + 0.5, SIGNED)
    factor = SIDE / max(values.shape)
    sides = [max(1, round(side * factor)) for side in reversed(values.shape)]
    return Image.fromarray((pixels + 0.5).astype(np.uint8)).resize(sides, Image.Resampling.NEAREST)


def mark_place(image: Image.Image, place: tuple[float, float]) -> Image.Image:
    """Return a copy with a ring around a place, row and column as shares of height and width."""
    copy = image.copy()
    pen = ImageDraw.Draw(copy)
    row, column = (share * (side - 1) for share, side in zip(place, (copy.height, copy.width)))
    for radius, colour in ((9, "black"), (8, "white"), (7, "white"), (6, "black")):
        pen.ellipse((column - radius, row - radius, column + radius, row + radius), outline=colour)
    return copy


def _colours(shares: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return the colours (..., 3) of shares from 0 to 1."""
    steps = np.linspace(0, 1, len(scale))
    return np.stack([np.interp(shares, steps, scale[:, channel]) for channel in range(3)], -1)
