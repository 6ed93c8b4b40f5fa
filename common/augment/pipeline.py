"""From a PIL image to the normalised float32 array that a network reads: the training and the evaluation pipeline.

Training: random-resized crop, flips, auto-augmentation or colour jitter, normalisation, random erasing.
Evaluation: resize, centre crop, normalisation. Both resize with PIL's own filters, so that the pixels are PIL's to the
bit. All randomness comes from the ``np.random.Generator`` that is passed with each image.

On the way of a batch (``common.tasks.train``): before it ``common.dataset.batches`` chooses and reads the image, after
it ``common.augment.mixup`` mixes the batch.
"""

from dataclasses import dataclass, replace
from typing import Any, Callable, Sequence

import cv2
import numpy as np
from PIL import Image

from common.augment.arrays import Pixels
from common.augment.operations import ColorJitter, Normalize, RandomErasing, channels_first, crop_box, single_draw_box
from common.augment.policies import auto_augment
from common.augment.resize import FILTERS, resize_box
from common.config.datasets import DATASETS
from common.errors import UserError, nearest

Picture = Any  # a PIL image, or what has its ``size``, ``image()`` and ``crop(box, size)``: common.dataset.jpeg.Jpeg

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

LUMA = (0.299, 0.587, 0.114)  # the weights with which PIL turns RGB into grey (ITU-R 601)


def sends_bytes(config: Any, device: str) -> bool:
    """Whether training images go to the device as bytes, to be normalised and blended there.

    A quarter of the bytes to copy, and less work for the processes that feed a card; on a CPU it would be the same
    cores. Erasing writes what no byte can hold.

    Args:
        config: reads normalize_on, re_prob.
        device: CPU, GPU or Ascend.

    Raises:
        UserError: where it is asked for and cannot be.
    """
    if config.normalize_on == "device" and config.re_prob:
        raise UserError(f"normalize_on: device cannot be together with re_prob: {config.re_prob:g}, which erases in "
                        "normalised images; choose auto or workers.")
    return config.normalize_on == "device" or config.normalize_on == "auto" and device != "CPU" and not config.re_prob


def train_transform(config: Any, as_bytes: bool = False) -> Callable[[Image.Image, np.random.Generator], np.ndarray]:
    """Build the training pipeline of a configuration.

    ``auto_augment`` replaces ``color_jitter`` where both are given, as in the recipes of the field that list both; 3a
    comes with it, as its authors train.

    Args:
        config: reads image_size, in_channels, dataset, mean, std, scale, ratio, interpolation, hflip, vflip,
            color_jitter, auto_augment, re_prob, re_mode, re_count, and task: ``linprobe`` takes ``single_draw_box``.
        as_bytes: leave out the normalisation (and erase nothing); the result is then uint8.

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
    if config.color_jitter and (not config.auto_augment or config.auto_augment.startswith("3a")):
        jitter = ColorJitter(*_jitter_strengths(config.color_jitter))
    return TrainTransform(
        size=config.image_size, grey=config.in_channels == 1, single_draw=config.task == "linprobe",
        scale=tuple(config.scale), ratio=tuple(config.ratio), resample=resample, hflip=config.hflip, vflip=config.vflip,
        augment=auto_augment(config.auto_augment, fill, resample), jitter=jitter,
        normalize=channels_first if as_bytes else Normalize(mean, std), erase=RandomErasing(config.re_prob, config.re_mode, config.re_count))


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
    mean, std = DATASETS[config.dataset].mean, DATASETS[config.dataset].std
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
    augment: Callable[[Pixels, np.random.Generator], Pixels]
    normalize: Callable[..., np.ndarray]
    erase: RandomErasing

    def __call__(self, picture: Picture, rng: np.random.Generator, out: np.ndarray | None = None) -> np.ndarray:
        """Return float32 (C, size, size), or uint8 without normalisation; written into ``out`` where that is given."""
        image = self.crop(picture, rng)
        if rng.random() < self.hflip:
            image = _flip(image, Image.Transpose.FLIP_LEFT_RIGHT)
        if rng.random() < self.vflip:
            image = _flip(image, Image.Transpose.FLIP_TOP_BOTTOM)
        image = self.augment(image, rng)
        if self.jitter:
            image = self.jitter(image, rng)
        array = self.normalize(image, out)
        self.erase(array, rng)
        return array

    def crop(self, picture: Picture, rng: np.random.Generator) -> Pixels:
        """Cut out a random box and resize it to the square of the network.

        As PIL defines it, the filter reads beyond the box where the image goes on, so that the border is not blurred
        differently from the inside. A picture that is not decoded yet, or an array, is resized by ``resize_box`` if
        that knows the filter, and stays an array, uint8 (size, size, C).
        """
        draw = single_draw_box if self.single_draw else crop_box
        box = draw(*picture.size, self.scale, self.ratio, rng)
        resample = self.resample
        if resample is None:
            resample = Image.Resampling.BILINEAR if rng.random() < 0.5 else Image.Resampling.BICUBIC
        if not isinstance(picture, Image.Image):
            if resample in FILTERS and not self.grey:
                return resize_box(*picture.crop(box, self.size), self.size, resample)
            picture = picture.image()
        image = picture.convert("L") if self.grey else picture
        return image.resize((self.size, self.size), resample, box=box)


def _flip(image: Pixels, way: int) -> Pixels:
    if isinstance(image, np.ndarray):
        return cv2.flip(image, 1 if way == Image.Transpose.FLIP_LEFT_RIGHT else 0)
    return image.transpose(way)


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
