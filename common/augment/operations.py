"""Single operations on images: crops, colours, geometry, erasing. Imports no MindSpore."""
import math
from typing import Callable, NamedTuple, Sequence

import cv2
import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from common.augment import arrays
from common.augment.arrays import Apply, Pixels, on_arrays, size_of

Fill = tuple[int, ...]  # one value per channel, 0..255
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13  # PIL's SMOOTH


@on_arrays(arrays.auto_contrast)
def auto_contrast(image: Image.Image, value: float, resample: int, fill: Fill) -> Image.Image:
    """Stretch each channel to the full range 0..255; ``value`` is not used."""
    return ImageOps.autocontrast(image)


@on_arrays(arrays.equalize)
def equalize(image: Image.Image, value: float, resample: int, fill: Fill) -> Image.Image:
    """Flatten the histogram of each channel; ``value`` is not used."""
    return ImageOps.equalize(image)


def _by_table(image: Pixels, table: Sequence[int]) -> Pixels:
    """Replace every channel value v by ``table[v]``."""
    if isinstance(image, np.ndarray):
        return arrays.by_tables(image, [table])
    return image.point(list(table) * len(image.getbands()))


def invert(image: Pixels, value: float, resample: int, fill: Fill) -> Pixels:
    """Replace v by 255 - v; ``value`` is not used."""
    return _by_table(image, range(255, -1, -1))


def posterize(image: Pixels, value: float, resample: int, fill: Fill) -> Pixels:
    """Keep the ``value`` highest bits of each channel: 8 changes nothing, 0 leaves black."""
    mask = 0xFF & ~((1 << (8 - int(value))) - 1)
    return _by_table(image, [v & mask for v in range(256)])


def solarize(image: Pixels, value: float, resample: int, fill: Fill) -> Pixels:
    """Invert the channel values from the threshold ``value`` on: 256 changes nothing, 0 inverts all."""
    return _by_table(image, [v if v < value else 255 - v for v in range(256)])


def solarize_add(image: Pixels, value: float, resample: int, fill: Fill) -> Pixels:
    """Add ``value`` to the channel values below 128, up to 255."""
    return _by_table(image, [min(255, v + int(value)) if v < 128 else v for v in range(256)])


@on_arrays()
def color(image: Image.Image, value: float, resample: int, fill: Fill) -> Image.Image:
    """Blend with the grey image: factor 0 is grey, 1 the image, more is more saturated."""
    return ImageEnhance.Color(image).enhance(value)


@on_arrays(arrays.contrast)
def contrast(image: Image.Image, value: float, resample: int, fill: Fill) -> Image.Image:
    """Blend with the mean grey level: factor 0 is flat, 1 the image."""
    return ImageEnhance.Contrast(image).enhance(value)


@on_arrays(arrays.brightness)
def brightness(image: Image.Image, value: float, resample: int, fill: Fill) -> Image.Image:
    """Blend with black: factor 0 is black, 1 the image."""
    return ImageEnhance.Brightness(image).enhance(value)


@on_arrays()
def sharpness(image: Image.Image, value: float, resample: int, fill: Fill) -> Image.Image:
    """Blend with the smoothed image: factor 0 is smooth, 1 the image, 2 sharpened."""
    pixels = np.asarray(image)
    smooth = cv2.filter2D(pixels, -1, _SMOOTH)
    for edge in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):  # PIL leaves the border as it is
        smooth[edge] = pixels[edge]
    return Image.blend(Image.fromarray(smooth), image, value)


@on_arrays()
def desaturate(image: Image.Image, value: float, resample: int, fill: Fill) -> Image.Image:
    """Take away the share ``value`` of the colours: 1 is grey."""
    return ImageEnhance.Color(image).enhance(min(1.0, max(0.0, 1.0 - value)))


@on_arrays()
def gaussian_blur(image: Image.Image, value: float, resample: int, fill: Fill) -> Image.Image:
    """Blur with the radius ``value`` in pixels."""
    return image.filter(ImageFilter.GaussianBlur(radius=value))


@on_arrays(arrays.turn)
def rotate(image: Image.Image, value: float, resample: int, fill: Fill) -> Image.Image:
    """Rotate by ``value`` degrees counter-clockwise about the centre."""
    return image.rotate(value, resample, fillcolor=fill)


def _affine(image: Pixels, coefficients: tuple[float, ...], resample: int, fill: Fill) -> Pixels:
    """Take output pixel (x, y) from the input at (ax + by + c, dx + ey + f), for coefficients (a, b, c, d, e, f)."""
    if isinstance(image, np.ndarray):
        return arrays.affine(image, coefficients, resample, fill)
    return image.transform(image.size, Image.Transform.AFFINE, coefficients, resample, fillcolor=fill)


def shear_x(image: Pixels, value: float, resample: int, fill: Fill) -> Pixels:
    """Move each row by ``value`` times its distance from the top; positive moves to the left."""
    return _affine(image, (1, value, 0, 0, 1, 0), resample, fill)


def shear_y(image: Pixels, value: float, resample: int, fill: Fill) -> Pixels:
    """Move each column by ``value`` times its distance from the left edge; positive moves up."""
    return _affine(image, (1, 0, 0, value, 1, 0), resample, fill)


def translate_x(image: Pixels, value: float, resample: int, fill: Fill) -> Pixels:
    """Move by ``value`` times the width; positive moves to the left."""
    return _affine(image, (1, 0, value * size_of(image)[0], 0, 1, 0), resample, fill)


def translate_y(image: Pixels, value: float, resample: int, fill: Fill) -> Pixels:
    """Move by ``value`` times the height; positive moves up."""
    return _affine(image, (1, 0, 0, 0, 1, value * size_of(image)[1]), resample, fill)


# Magnitudes: (level t, 0 = none .. 1 = full; sign, +1 or -1) -> value of the operation.
Magnitude = Callable[[float, float], float]


class Operation(NamedTuple):
    """One row of the table.

    Args:
        apply: the function.
        plain: magnitude of RandAugment; some operations change the image most at level 0.
        increasing: magnitude of RandAugment with ``inc1``: the higher the level, the stronger the change.
        policy: magnitude of AutoAugment's policy.
    """

    apply: Apply
    plain: Magnitude
    increasing: Magnitude
    policy: Magnitude


def _same(apply: Callable, magnitude: Magnitude, policy: Magnitude | None = None) -> Operation:
    return Operation(apply, magnitude, magnitude, policy or magnitude)


def _signed(full: float) -> Magnitude:
    return lambda t, sign: sign * full * t


def _enhance(apply: Callable) -> Operation:
    return Operation(apply, lambda t, sign: 0.1 + 1.8 * t, lambda t, sign: max(0.1, 1.0 + sign * 0.9 * t),
                     lambda t, sign: 1.0 + sign * 0.9 * t)


OPERATIONS = {
    "AutoContrast": _same(auto_contrast, lambda t, sign: 0.0),
    "Equalize": _same(equalize, lambda t, sign: 0.0),
    "Invert": _same(invert, lambda t, sign: 0.0),
    "Rotate": _same(rotate, _signed(30.0), policy=lambda t, sign: 30.0 * t),
    "Posterize": Operation(posterize, lambda t, sign: min(8, int(4 * t)), lambda t, sign: max(0, 4 - int(4 * t)),
                           lambda t, sign: round(8 - 4 * t)),
    "Solarize": Operation(solarize, lambda t, sign: min(256, int(256 * t)),
                          lambda t, sign: max(0, 256 - int(256 * t)), lambda t, sign: 256 - 256 * t),
    "SolarizeAdd": _same(solarize_add, lambda t, sign: min(128, int(110 * t))),
    "Color": _enhance(color),
    "Contrast": _enhance(contrast),
    "Brightness": _enhance(brightness),
    "Sharpness": _enhance(sharpness),
    "ShearX": _same(shear_x, _signed(0.3)),
    "ShearY": _same(shear_y, _signed(0.3)),
    "TranslateX": _same(translate_x, _signed(0.45), policy=_signed(150 / 331)),
    "TranslateY": _same(translate_y, _signed(0.45), policy=_signed(150 / 331)),
}

ERASE_AREA = (0.02, 1 / 3)  # of the image
ERASE_ASPECT = (0.3, 1 / 0.3)  # height / width
ATTEMPTS = 10  # tries of a random box before giving up


def crop_box(width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float],
             rng: np.random.Generator) -> tuple[int, ...]:
    """Draw the box of a random-resized crop: (left, top, right, bottom).

    The area is uniform in ``scale`` times the image's, the aspect ratio (width / height) log-uniform in ``ratio``, the
    position uniform. When ten draws do not fit into the image, the largest centred box whose ratio is allowed is taken.
    Source: Szegedy et al. 2015, "Going Deeper with Convolutions", in the form that torchvision gave it.
    """
    for _ in range(ATTEMPTS):
        box_width, box_height = _draw_sides(width * height * rng.uniform(*scale), ratio, rng)
        if 0 < box_width <= width and 0 < box_height <= height:
            return _place(box_width, box_height, width, height, rng)
    box_width = min(width, max(1, round(height * ratio[1])))
    box_height = min(height, max(1, round(width / ratio[0])))
    left, top = (width - box_width) // 2, (height - box_height) // 2
    return left, top, left + box_width, top + box_height


def single_draw_box(width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float],
                    rng: np.random.Generator) -> tuple[int, ...]:
    """Draw one box as ``crop_box`` does, but cut its sides to the image instead of drawing again.

    Source: the linear probe of He et al. 2021, "Masked Autoencoders Are Scalable Vision Learners".
    """
    box_width, box_height = _draw_sides(width * height * rng.uniform(*scale), ratio, rng)
    return _place(min(max(box_width, 1), width), min(max(box_height, 1), height), width, height, rng)


def _draw_sides(area: float, ratio: tuple[float, float], rng: np.random.Generator) -> tuple[int, int]:
    """Return (width, height) of a box of ``area`` pixels whose width / height is log-uniform in ``ratio``."""
    aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
    return round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))


def _place(box_width: int, box_height: int, width: int, height: int, rng: np.random.Generator) -> tuple[int, ...]:
    """Put a box at a uniform position within the image: (left, top, right, bottom)."""
    left = int(rng.integers(width - box_width + 1))
    top = int(rng.integers(height - box_height + 1))
    return left, top, left + box_width, top + box_height


class Normalize:
    """Turn 8-bit pixels into normalised float32 channels: (v / 255 - mean) / std.

    A table of the 256 values of each channel, computed in float64, makes it one pass and rounds once.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        values = np.arange(256) / 255.0
        self.tables = [((values - m) / s).astype(np.float32) for m, s in zip(mean, std)]

    def __call__(self, image: Image.Image | np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Return float32 (C, H, W) of an RGB or L image, C being the count of its channels.

        Args:
            image: PIL image, or its pixels, uint8 (H, W, C) or (H, W).
            out: where the result is written, contiguous; none: a new array.
        """
        pixels = np.asarray(image)
        if out is None:
            out = np.empty((len(self.tables), *pixels.shape[:2]), dtype=np.float32)
        for table, plane, target in zip(self.tables, cv2.split(pixels), out):
            cv2.LUT(plane, table, dst=target)
        return out


def channels_first(image: Pixels, out: np.ndarray | None = None) -> np.ndarray:
    """Return the pixels of an RGB or L image, uint8 (C, H, W), written into ``out`` where that is given."""
    pixels = np.asarray(image)
    if out is None:
        out = np.empty((pixels.size // (pixels.shape[0] * pixels.shape[1]), *pixels.shape[:2]), np.uint8)
    for plane, target in zip(cv2.split(pixels), out):
        target[:] = plane
    return out


_JITTERED = (brightness, contrast, color)


class ColorJitter:
    """Change brightness, contrast, saturation and hue, in random order.

    Args:
        brightness: the factor is uniform in 1 - brightness .. 1 + brightness, but not below 0; ``contrast`` and
            ``saturation`` alike.
        hue: the shift is uniform in -hue .. hue, in turns of the colour circle; at most 0.5.
    """

    def __init__(self, brightness: float, contrast: float, saturation: float, hue: float = 0.0):
        self.hue = hue
        self.strengths = tuple(zip(_JITTERED, (brightness, contrast, saturation)))

    def __call__(self, image: Pixels, rng: np.random.Generator) -> Pixels:
        """Return the changed RGB or L image; the hue of an L image cannot change."""
        for i in rng.permutation(4):
            if i == 3:
                image = shift_hue(image, rng.uniform(-self.hue, self.hue)) if self.hue else image
                continue
            function, strength = self.strengths[i]
            if strength:
                image = function(image, rng.uniform(max(0.0, 1.0 - strength), 1.0 + strength), 0, ())
        return image


def shift_hue(image: Pixels, turns: float) -> Pixels:
    """Turn the colours of an RGB image by ``turns`` of the colour circle; PIL's hue has 256 steps."""
    if isinstance(image, np.ndarray):
        return np.asarray(shift_hue(Image.fromarray(image), turns))
    if image.mode == "L":
        return image
    hue, saturation, value = image.convert("HSV").split()
    hue = hue.point([(v + round(turns * 256)) % 256 for v in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


class RandomErasing:
    """Overwrite boxes of a normalised image.

    Source: Zhong et al. 2017, "Random Erasing Data Augmentation" (arXiv 1708.04896); the modes and the division of the
    area by the count of boxes are timm's.

    Args:
        probability: that an image is changed.
        mode: ``const`` fills with 0 (the mean colour), ``rand`` with one normal random colour, ``pixel`` with noise.
        count: largest number of boxes; their number is uniform in 1..count.
    """

    def __init__(self, probability: float, mode: str = "pixel", count: int = 1):
        self.probability, self.mode, self.count = probability, mode, count

    def __call__(self, array: np.ndarray, rng: np.random.Generator) -> None:
        """Erase in place; ``array`` is float32 (C, H, W)."""
        if rng.random() >= self.probability:
            return
        count = int(rng.integers(1, self.count + 1))
        for _ in range(count):
            self._erase_one(array, count, rng)

    def _erase_one(self, array: np.ndarray, count: int, rng: np.random.Generator) -> None:
        channels, height, width = array.shape
        for _ in range(ATTEMPTS):
            box_height, box_width = _draw_sides(height * width * rng.uniform(*ERASE_AREA) / count, ERASE_ASPECT, rng)
            if box_height < height and box_width < width:
                left, top, right, bottom = _place(box_width, box_height, width, height, rng)
                array[:, top:bottom, left:right] = self._fill(channels, box_height, box_width, rng)
                return

    def _fill(self, channels: int, height: int, width: int, rng: np.random.Generator) -> np.ndarray | float:
        if self.mode == "const":
            return 0.0
        shape = (channels, height, width) if self.mode == "pixel" else (channels, 1, 1)
        return rng.standard_normal(shape, dtype=np.float32)
