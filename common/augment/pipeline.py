"""From a PIL image to the normalised float32 array that a network reads: the training and the evaluation pipeline.

Training: random-resized crop, flips, auto-augmentation or colour jitter, normalisation, random erasing.
Evaluation: resize, centre crop, normalisation. Both resize with PIL's own filters, so that the pixels are PIL's to the
bit. All randomness comes from the ``np.random.Generator`` that is passed with each image.
"""
import math
from dataclasses import dataclass, replace
from typing import Any, Callable, Sequence

import cv2
import numpy as np
from PIL import Image

from common.augment.policies import auto_augment, brightness as brightness_of_policies, color, contrast as contrast_of_policies
from common.errors import UserError, nearest

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

# Data set -> mean and standard deviation per channel, for values in 0..1. Any other data set: ImageNet's.
STATISTICS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "digits": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
LUMA = (0.299, 0.587, 0.114)  # the weights with which PIL turns RGB into grey (ITU-R 601)

ERASE_AREA = (0.02, 1 / 3)  # of the image
ERASE_ASPECT = (0.3, 1 / 0.3)  # height / width
ATTEMPTS = 10  # tries of a random box before giving up


def train_transform(config: Any) -> Callable[[Image.Image, np.random.Generator], np.ndarray]:
    """Build the training pipeline of a configuration.

    ``auto_augment`` replaces ``color_jitter`` where both are given, as in the recipes of the field that list both.

    Args:
        config: reads image_size, in_channels, dataset, mean, std, scale, ratio, interpolation, hflip, vflip,
            color_jitter, auto_augment, re_prob, re_mode, re_count, and task: ``linprobe`` takes ``single_draw_box``.

    Returns:
        A picklable function (PIL RGB image, generator) -> float32 (C, image_size, image_size). It keeps no state: the
        same image and the same generator state give the same array.

    Raises:
        UserError: for a value that cannot be used.
    """
    mean, std = statistics(config)
    resample = _resample("interpolation", config.interpolation)
    fill = tuple(min(255, round(255 * m)) for m in mean)
    jitter = None
    if config.color_jitter and not config.auto_augment:
        jitter = ColorJitter(*_jitter_strengths(config.color_jitter))
    return TrainTransform(
        size=config.image_size, grey=config.in_channels == 1, single_draw=config.task == "linprobe",
        scale=tuple(config.scale), ratio=tuple(config.ratio), resample=resample, hflip=config.hflip, vflip=config.vflip,
        augment=auto_augment(config.auto_augment, fill, resample), jitter=jitter,
        normalize=Normalize(mean, std), erase=RandomErasing(config.re_prob, config.re_mode, config.re_count))


def eval_transform(config: Any) -> Callable[[Image.Image], np.ndarray]:
    """Build the evaluation pipeline of a configuration: resize, centre crop, normalisation.

    The short side is resized to int(size / crop_pct); ``crop_pct`` None: by the old zoo's rule, see ``_short_side``.

    Args:
        config: reads eval_image_size (or image_size), eval_interpolation (or interpolation; ``random`` means bicubic),
            crop_pct, in_channels, dataset, mean, std.

    Returns:
        A picklable function (PIL RGB image) -> float32 (C, size, size).

    Raises:
        UserError: for a value that cannot be used.
    """
    key = "eval_interpolation" if config.eval_interpolation else "interpolation"
    resample = _resample(key, getattr(config, key))
    size = config.eval_image_size or config.image_size
    return EvalTransform(size=size, short_side=_short_side(size, config.crop_pct), grey=config.in_channels == 1,
                         resample=Image.Resampling.BICUBIC if resample is None else resample,
                         normalize=Normalize(*statistics(config)))


def pixel_transform(config: Any) -> Callable[[Image.Image], np.ndarray]:
    """Build the evaluation pipeline without the normalisation: a function (PIL RGB image) -> uint8 (C, size, size)."""
    return replace(eval_transform(config), normalize=channels_first)


def statistics(config: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel, for pixel values in 0..1.

    ``mean`` and ``std`` of the configuration override those of the data set. If one number of either exceeds 1, all of
    them are in units of 0..255, as the old zoo writes them, and are divided by 255. One number holds for all channels.
    For grey images three become one by PIL's grey weights: exact for the mean, and for the deviation where the channels
    rise and fall together.

    Args:
        config: reads dataset, in_channels, mean, std.

    Raises:
        UserError: for images of other than 1 or 3 channels, or a wrong count of numbers.
    """
    if config.in_channels not in (1, 3):
        raise UserError(f"in_channels {config.in_channels} cannot be read from images; allowed: 3 (RGB) and 1 (grey).")
    mean, std = STATISTICS.get(config.dataset, STATISTICS["imagenet"])
    mean = _unit_range(config.mean) if config.mean else mean
    std = _unit_range(config.std) if config.std else std
    return _per_channel("mean", mean, config.in_channels), _per_channel("std", std, config.in_channels)


def _unit_range(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(float(v) / (255.0 if max(values) > 1 else 1.0) for v in values)


def _per_channel(key: str, values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    if len(values) == 1:
        return values * channels
    if len(values) == 3 and channels == 1:
        return (sum(w * v for w, v in zip(LUMA, values)),)
    if len(values) != channels:
        raise UserError(f"{key} {list(values)} does not fit in_channels {channels}; give {channels} numbers, or one.")
    return values


def _resample(key: str, name: str) -> int | None:
    """Return PIL's filter for a name in any case, or ``None`` for ``random``."""
    known = {**INTERPOLATIONS, "random": None}
    if name.lower() not in known:
        raise UserError(f"{key} '{name}' is not known; allowed: {', '.join(known)}.{nearest(name, known)}")
    return known[name.lower()]


def _short_side(size: int, crop_pct: float | None) -> int:
    """Return the length in pixels to which the short side is resized before a centre crop of ``size``."""
    if crop_pct is None:  # the zoo's rule: size / 0.875 to a multiple of 16; for odd sizes at least the crop itself
        return max(size, int(int(size / 0.875 / 16 + 0.5) * 16))
    return int(size / crop_pct)


def _jitter_strengths(value: float | Sequence[float]) -> tuple[float, ...]:
    """Return (brightness, contrast, saturation, hue) from one number for the first three, or from 3 or 4 numbers."""
    numbers = tuple(value) if isinstance(value, Sequence) else (value,) * 3
    if len(numbers) == 3:
        numbers += (0.0,)
    if len(numbers) != 4 or numbers[3] > 0.5:
        raise UserError(f"color_jitter {value} must be one strength, [brightness, contrast, saturation], or these and "
                        f"a hue of at most 0.5.")
    return numbers


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

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Return float32 (C, H, W) of an RGB or L image, C being the count of its channels."""
        pixels = np.asarray(image)
        out = np.empty((len(self.tables), *pixels.shape[:2]), dtype=np.float32)
        for table, plane, target in zip(self.tables, cv2.split(pixels), out):
            cv2.LUT(plane, table, dst=target)
        return out


def channels_first(image: Image.Image) -> np.ndarray:
    """Return the pixels of an RGB or L image, uint8 (C, H, W)."""
    pixels = np.asarray(image)
    return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))


class ColorJitter:
    """Change brightness, contrast, saturation and hue, in random order.

    Args:
        brightness: the factor is uniform in 1 - brightness .. 1 + brightness, but not below 0; ``contrast`` and
            ``saturation`` alike.
        hue: the shift is uniform in -hue .. hue, in turns of the colour circle; at most 0.5.
    """

    def __init__(self, brightness: float, contrast: float, saturation: float, hue: float = 0.0):
        self.hue = hue
        self.strengths = ((brightness_of_policies, brightness), (contrast_of_policies, contrast), (color, saturation))

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Return the changed RGB or L image; the hue of an L image cannot change."""
        for i in rng.permutation(4):
            if i == 3:
                image = shift_hue(image, rng.uniform(-self.hue, self.hue)) if self.hue else image
                continue
            function, strength = self.strengths[i]
            if strength:
                image = function(image, rng.uniform(max(0.0, 1.0 - strength), 1.0 + strength), 0, ())
        return image


def shift_hue(image: Image.Image, turns: float) -> Image.Image:
    """Turn the colours of an RGB image by ``turns`` of the colour circle; PIL's hue has 256 steps."""
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


@dataclass(frozen=True)
class TrainTransform:
    """The training pipeline; ``train_transform`` builds it and says what it does."""

    size: int
    grey: bool
    single_draw: bool
    scale: tuple[float, float]
    ratio: tuple[float, float]
    resample: int | None
    hflip: float
    vflip: float
    jitter: ColorJitter | None
    augment: Callable[[Image.Image, np.random.Generator], Image.Image]
    normalize: Normalize
    erase: RandomErasing

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> np.ndarray:
        """Return float32 (C, size, size)."""
        image = self.crop(image.convert("L") if self.grey else image, rng)
        if rng.random() < self.hflip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if rng.random() < self.vflip:
            image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        image = self.augment(image, rng)
        if self.jitter:
            image = self.jitter(image, rng)
        array = self.normalize(image)
        self.erase(array, rng)
        return array

    def crop(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Cut out a random box and resize it to the square of the network.

        As PIL defines it, the filter reads beyond the box where the image goes on, so that the border is not blurred
        differently from the inside.
        """
        draw = single_draw_box if self.single_draw else crop_box
        box = draw(*image.size, self.scale, self.ratio, rng)
        resample = self.resample
        if resample is None:
            resample = Image.Resampling.BILINEAR if rng.random() < 0.5 else Image.Resampling.BICUBIC
        return image.resize((self.size, self.size), resample, box=box)


@dataclass(frozen=True)
class EvalTransform:
    """The evaluation pipeline; ``eval_transform`` builds it and says what it does."""

    size: int
    short_side: int
    grey: bool
    resample: int
    normalize: Callable[[Image.Image], np.ndarray]

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Return float32 (C, size, size), or uint8 without normalisation."""
        if self.grey:
            image = image.convert("L")
        shorter = min(image.size)
        width, height = (int(self.short_side * side / shorter) for side in image.size)
        image = image.resize((width, height), self.resample)
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        return self.normalize(image.crop((left, top, left + self.size, top + self.size)))
