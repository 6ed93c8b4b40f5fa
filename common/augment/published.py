"""Policies under the names and with the meaning that timm and torchvision gave them.

- ``v0``, ``v0r``, ``original``, ``originalr``: AutoAugment's ImageNet policies (arXiv 1805.09501) as timm spells them;
  r: Posterize discards more bits at a higher level. ``3a``: 3-Augment (Touvron et al. 2022, "DeiT III", arXiv
  2204.07118): solarisation, grey or blur.
- ``ta_wide``: TrivialAugment, wide (Müller and Hutter 2021, arXiv 2103.10158), torchvision's name and magnitudes.
- ``augmix``: AugMix (Hendrycks et al. 2020, arXiv 1912.02781), timm's name, options and operations.

All randomness comes from the generator that the caller passes in. Imports no MindSpore.
"""
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from common.augment.arrays import Pixels, size_of
from common.augment.operations import OPERATIONS, Fill, desaturate, gaussian_blur

FULL = 10.0  # timm's levels run from 0 to 10

# name in a policy -> function, magnitude (t = level / 10, sign)
_OPERATIONS = {name: (operation.apply, operation.plain) for name, operation in OPERATIONS.items()} | {
    "PosterizeIncreasing": (OPERATIONS["Posterize"].apply, OPERATIONS["Posterize"].increasing),
    "PosterizeOriginal": (OPERATIONS["Posterize"].apply, lambda t, sign: 4 + int(4 * t)),
    "Desaturate": (desaturate, lambda t, sign: 0.5 + 0.5 * t),
    "GaussianBlurRand": (gaussian_blur, lambda t, sign: 2.0 * t),  # the largest radius; the radius is drawn
}
_LEAST_RADIUS = 0.1  # pixels

# pairs of (operation, probability, level 0..10)
_V0 = (
    (("Equalize", 0.8, 1), ("ShearY", 0.8, 4)),
    (("Color", 0.4, 9), ("Equalize", 0.6, 3)),
    (("Color", 0.4, 1), ("Rotate", 0.6, 8)),
    (("Solarize", 0.8, 3), ("Equalize", 0.4, 7)),
    (("Solarize", 0.4, 2), ("Solarize", 0.6, 2)),
    (("Color", 0.2, 0), ("Equalize", 0.8, 8)),
    (("Equalize", 0.4, 8), ("SolarizeAdd", 0.8, 3)),
    (("ShearX", 0.2, 9), ("Rotate", 0.6, 8)),
    (("Color", 0.6, 1), ("Equalize", 1.0, 2)),
    (("Invert", 0.4, 9), ("Rotate", 0.6, 0)),
    (("Equalize", 1.0, 9), ("ShearY", 0.6, 3)),
    (("Color", 0.4, 7), ("Equalize", 0.6, 0)),
    (("Posterize", 0.4, 6), ("AutoContrast", 0.4, 7)),
    (("Solarize", 0.6, 8), ("Color", 0.6, 9)),
    (("Solarize", 0.2, 4), ("Rotate", 0.8, 9)),
    (("Rotate", 1.0, 7), ("TranslateY", 0.8, 9)),
    (("ShearX", 0.0, 0), ("Solarize", 0.8, 4)),
    (("ShearY", 0.8, 0), ("Color", 0.6, 4)),
    (("Color", 1.0, 0), ("Rotate", 0.6, 2)),
    (("Equalize", 0.8, 4), ("Equalize", 0.0, 8)),
    (("Equalize", 1.0, 4), ("AutoContrast", 0.6, 2)),
    (("ShearY", 0.4, 7), ("SolarizeAdd", 0.6, 7)),
    (("Posterize", 0.8, 2), ("Solarize", 0.6, 10)),
    (("Solarize", 0.6, 8), ("Equalize", 0.6, 1)),
    (("Color", 0.8, 6), ("Rotate", 0.4, 5)),
)

# AutoAugment's ImageNet policy, table 9 of the paper; the last five repeat earlier ones
ORIGINAL = (
    (("Posterize", 0.4, 8), ("Rotate", 0.6, 9)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 5)),
    (("Equalize", 0.8, 8), ("Equalize", 0.6, 3)),
    (("Posterize", 0.6, 7), ("Posterize", 0.6, 6)),
    (("Equalize", 0.4, 7), ("Solarize", 0.2, 4)),
    (("Equalize", 0.4, 4), ("Rotate", 0.8, 8)),
    (("Solarize", 0.6, 3), ("Equalize", 0.6, 7)),
    (("Posterize", 0.8, 5), ("Equalize", 1.0, 2)),
    (("Rotate", 0.2, 3), ("Solarize", 0.6, 8)),
    (("Equalize", 0.6, 8), ("Posterize", 0.4, 6)),
    (("Rotate", 0.8, 8), ("Color", 0.4, 0)),
    (("Rotate", 0.4, 9), ("Equalize", 0.6, 2)),
    (("Equalize", 0.0, 7), ("Equalize", 0.8, 8)),
    (("Invert", 0.6, 4), ("Equalize", 1.0, 8)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Rotate", 0.8, 8), ("Color", 1.0, 2)),
    (("Color", 0.8, 8), ("Solarize", 0.8, 7)),
    (("Sharpness", 0.4, 7), ("Invert", 0.6, 8)),
    (("ShearX", 0.6, 5), ("Equalize", 1.0, 9)),
    (("Color", 0.4, 0), ("Equalize", 0.6, 3)),
    (("Equalize", 0.4, 7), ("Solarize", 0.2, 4)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 5)),
    (("Invert", 0.6, 4), ("Equalize", 1.0, 8)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Equalize", 0.8, 8), ("Equalize", 0.6, 3)),
)
_3A = ((("Solarize", 1.0, 5),), (("Desaturate", 1.0, 10),), (("GaussianBlurRand", 1.0, 10),))


def _with(posterize: str, policy: tuple) -> tuple:
    """Return a policy whose Posterize is another."""
    return tuple(tuple((posterize if name == "Posterize" else name, probability, level)
                       for name, probability, level in row) for row in policy)


POLICIES = {"v0": _V0, "v0r": _with("PosterizeIncreasing", _V0), "original": _with("PosterizeOriginal", ORIGINAL),
            "originalr": _with("PosterizeIncreasing", ORIGINAL), "3a": _3A}


def sign_of(rng: np.random.Generator) -> float:
    """Draw +1 or -1."""
    return 1.0 if rng.random() < 0.5 else -1.0


def noisy(level: float, deviation: float, rng: np.random.Generator) -> float:
    """Draw a level around ``level``; with an infinite deviation uniformly in 0..level."""
    if math.isinf(deviation):
        return rng.uniform(0.0, level)
    return rng.normal(level, deviation) if deviation > 0 else level


def filter_of(resample: int | None, rng: np.random.Generator) -> int:
    """Return the PIL filter of one operation; ``None``: bilinear or bicubic, drawn."""
    if resample is not None:
        return resample
    return Image.Resampling.BILINEAR if rng.random() < 0.5 else Image.Resampling.BICUBIC


@dataclass(frozen=True)
class Policy:
    """Apply one row of operations, drawn uniformly, each with its own probability.

    Args:
        rows: operations as (name, probability, level 0..10).
        magnitude_std: standard deviation of the levels; infinite: uniform in 0..level.
        fill: colour of uncovered pixels.
        resample: PIL filter of the geometric operations; ``None``: bilinear or bicubic, drawn for each operation.
    """

    rows: tuple
    magnitude_std: float = 0.0
    fill: Fill = (128,) * 3
    resample: int | None = None

    def __call__(self, image: Pixels, rng: np.random.Generator) -> Pixels:
        """Return the augmented image, of the same size and mode."""
        for name, probability, level in self.rows[rng.integers(len(self.rows))]:
            if rng.random() < probability:
                level = min(max(noisy(level, self.magnitude_std, rng), 0.0), FULL)
                apply, magnitude = _OPERATIONS[name]
                value = magnitude(level / FULL, sign_of(rng))
                if name == "GaussianBlurRand":
                    value = rng.uniform(_LEAST_RADIUS, value)
                image = apply(image, value, filter_of(self.resample, rng), self.fill)
        return image


_BINS = 31
_SIGNED = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast", "Sharpness")
_LARGEST = {"ShearX": 0.99, "ShearY": 0.99, "TranslateX": 32.0, "TranslateY": 32.0, "Rotate": 135.0,
            "Brightness": 0.99, "Color": 0.99, "Contrast": 0.99, "Sharpness": 0.99}
TRIVIAL = ("Identity", *_SIGNED, "Posterize", "Solarize", "AutoContrast", "Equalize")


def trivial_value(name: str, step: int, sign: float, width: int, height: int) -> float:
    """Return the value of an operation of TrivialAugment at a step 0..30, for an image of this size."""
    if name == "Posterize":
        return 8 - round(step / 5)
    if name == "Solarize":
        return 255.0 - 255.0 * step / (_BINS - 1)
    full = float(np.float32(_LARGEST.get(name, 0.0)))
    part = float(np.float32(full) / np.float32(_BINS - 1))  # as torch's linspace, which counts from the nearer end:
    value = sign * float(np.float32(part * step if step < _BINS // 2 else full - part * (_BINS - 1 - step)))
    if name.startswith("Translate"):  # whole pixels, to the right or down; ours are shares, to the left or up
        return -int(value) / (width if name == "TranslateX" else height)
    return 1.0 + value if name in ("Brightness", "Color", "Contrast", "Sharpness") else value


@dataclass(frozen=True)
class TrivialAugment:
    """Apply one operation, drawn uniformly from ``TRIVIAL``, at a strength drawn uniformly from 31 steps.

    Args:
        fill: colour of uncovered pixels; torchvision's is black.
        resample: PIL filter of the geometric operations; ``None``: bilinear or bicubic, drawn.
    """

    fill: Fill = (0,) * 3
    resample: int | None = None

    def __call__(self, image: Pixels, rng: np.random.Generator) -> Pixels:
        """Return the augmented image, of the same size and mode."""
        name = TRIVIAL[rng.integers(len(TRIVIAL))]
        if name == "Identity":
            return image
        value = trivial_value(name, int(rng.integers(_BINS)), sign_of(rng), *size_of(image))
        return OPERATIONS[name].apply(image, value, filter_of(self.resample, rng), self.fill)


AUGMIX = ("AutoContrast", "Color", "Contrast", "Brightness", "Sharpness", "Equalize", "Rotate", "Posterize", "Solarize",
          "ShearX", "ShearY", "TranslateX", "TranslateY")


@dataclass(frozen=True)
class AugMix:
    """Blend an image with a mixture of chains of operations, by weights that are drawn.

    Args:
        magnitude: level 0..10 of the operations.
        width: chains.
        depth: operations of a chain; 0: drawn from 1..3.
        alpha: parameter of the Dirichlet distribution of the chains and of the Beta distribution of the blend.
        magnitude_std: standard deviation of the level; infinite: uniform in 0..magnitude.
        fill: colour of uncovered pixels.
        resample: PIL filter of the geometric operations; ``None``: bilinear or bicubic, drawn for each operation.
    """

    magnitude: float = 3.0
    width: int = 3
    depth: int = 0
    alpha: float = 1.0
    magnitude_std: float = math.inf
    fill: Fill = (128,) * 3
    resample: int | None = None

    def __call__(self, image: Pixels, rng: np.random.Generator) -> Pixels:
        """Return the augmented image, of the same size and mode."""
        weights = rng.dirichlet([self.alpha] * self.width).astype(np.float32)
        share = np.float32(rng.beta(self.alpha, self.alpha))
        return mixture(image, [self._chain(image, rng) for _ in weights], weights, share)

    def _chain(self, image: Pixels, rng: np.random.Generator) -> Pixels:
        for _ in range(self.depth or rng.integers(1, 4)):
            operation = OPERATIONS[AUGMIX[rng.integers(len(AUGMIX))]]
            level = min(max(noisy(self.magnitude, self.magnitude_std, rng), 0.0), FULL)
            value = operation.increasing(level / FULL, sign_of(rng))
            image = operation.apply(image, value, filter_of(self.resample, rng), self.fill)
        return image


def mixture(image: Pixels, chains: list[Pixels], weights: np.ndarray, share: np.float32) -> Pixels:
    """Return (1 - share) * image + share * (sum of weight * chain), rounded down twice, as the authors do."""
    if isinstance(image, np.ndarray):
        return np.asarray(mixture(Image.fromarray(image), chains, weights, share))
    mixed = np.zeros(np.asarray(image).shape, np.float32)
    for weight, chain in zip(weights, chains):
        mixed += weight * np.asarray(chain, dtype=np.float32)
    return Image.blend(image, Image.fromarray(mixed.clip(0, 255).astype(np.uint8)), float(share))
