"""Automatic augmentation of PIL images: RandAugment and AutoAugment's ImageNet policy, chosen by one string.

Sources: Cubuk et al. 2019, "AutoAugment: Learning Augmentation Policies from Data" (arXiv 1805.09501), table 9;
Cubuk et al. 2020, "RandAugment" (arXiv 1909.13719); the grammar of the string, the magnitudes of RandAugment and its
"increasing" variant are those that timm documents. All randomness comes from the generator that the caller passes in.
"""
import math
import re
from dataclasses import dataclass
from typing import Callable, NamedTuple, Sequence

import numpy as np
from PIL import Image

from common.augment.operations import (Fill, auto_contrast, brightness, color, contrast, equalize, invert, posterize,
                                       rotate, sharpness, shear_x, shear_y, solarize, solarize_add, translate_x,
                                       translate_y)
from common.errors import UserError, nearest

FULL_MAGNITUDE = 10.0  # RandAugment's levels run from 0 to 10
POLICY_LEVELS = 9  # AutoAugment's from 0 to 9
POLICY_FILL = 128  # the grey that AutoAugment's geometric operations uncover
POLICY_NAMES = ("autoaugment", "original", "v0")
GRAMMAR = ("'' (none), 'autoaugment' (also 'original' and 'v0': the ImageNet policy) or RandAugment as "
           "'rand-m9-mstd0.5-inc1' (also 'randaug-...') with any of m magnitude 0..10, n operations per image, "
           "mstd deviation of the magnitude (100 or inf: uniform), p probability of an operation, "
           "inc 1 for severity that increases with m, mmax bound of the magnitude, w0 weighted choice")


# The operations: (image, value, resample, fill) -> image of the same size and mode.


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

    apply: Callable[[Image.Image, float, int, Fill], Image.Image]
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

# timm's weighted choice "w0"; relative, and drawn without replacement.
CHOICE_WEIGHTS = {"Rotate": 3, "ShearX": 2, "ShearY": 2, "TranslateX": 1, "TranslateY": 1, "Color": 0.25,
                  "Sharpness": 0.25, "AutoContrast": 0.25, "Solarize": 0.05, "SolarizeAdd": 0.05, "Contrast": 0.05,
                  "Brightness": 0.05, "Equalize": 0.05, "Posterize": 0.05, "Invert": 0.05}

# AutoAugment's ImageNet policy: 25 pairs of (operation, probability, level 0..9). The last five repeat earlier ones.
IMAGENET_POLICY = (
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


def _sign(rng: np.random.Generator) -> float:
    return 1.0 if rng.random() < 0.5 else -1.0


@dataclass(frozen=True)
class RandAugment:
    """Apply ``num_ops`` operations, each drawn from the whole table and used with ``probability``.

    Args:
        magnitude: level 0..10 of all operations.
        num_ops: operations per image.
        magnitude_std: standard deviation of the level, drawn for each operation; infinite: uniform in 0..magnitude.
        probability: of using a drawn operation.
        increasing: whether severity grows with the level for every operation.
        max_magnitude: bound of the drawn level.
        weighted: whether operations are drawn by ``CHOICE_WEIGHTS`` and without replacement.
        fill: colour of uncovered pixels.
        resample: PIL filter of the geometric operations; ``None``: bilinear or bicubic, drawn for each operation.
    """

    magnitude: float = FULL_MAGNITUDE
    num_ops: int = 2
    magnitude_std: float = 0.0
    probability: float = 0.5
    increasing: bool = False
    max_magnitude: float = FULL_MAGNITUDE
    weighted: bool = False
    fill: Fill = (POLICY_FILL,) * 3
    resample: int | None = None

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Return the augmented image, of the same size and mode."""
        for name in self._draw(rng):
            if rng.random() >= self.probability:
                continue
            operation = OPERATIONS[name]
            magnitude = operation.increasing if self.increasing else operation.plain
            value = magnitude(self.level(rng) / FULL_MAGNITUDE, _sign(rng))
            image = operation.apply(image, value, self._filter(rng), self.fill)
        return image

    def _draw(self, rng: np.random.Generator) -> list[str]:
        names = list(OPERATIONS)
        if not self.weighted:
            return [names[i] for i in rng.integers(len(names), size=self.num_ops)]
        weights = np.array([CHOICE_WEIGHTS[name] for name in names], dtype=np.float64)
        return [names[i] for i in rng.choice(len(names), self.num_ops, replace=False, p=weights / weights.sum())]

    def level(self, rng: np.random.Generator) -> float:
        """Draw the level of one operation, 0..max_magnitude."""
        level = self.magnitude
        if math.isinf(self.magnitude_std):
            level = rng.uniform(0.0, level)
        elif self.magnitude_std > 0:
            level = rng.normal(level, self.magnitude_std)
        return min(max(level, 0.0), self.max_magnitude)

    def _filter(self, rng: np.random.Generator) -> int:
        if self.resample is not None:
            return self.resample
        return Image.Resampling.BILINEAR if rng.random() < 0.5 else Image.Resampling.BICUBIC


@dataclass(frozen=True)
class AutoAugment:
    """Apply one pair of operations, drawn uniformly from ``policy``, each with its own probability.

    As in the old zoo: rotation is always counter-clockwise, uncovered pixels are grey (128). Unlike there, rotation is
    resampled with the bicubic filter (the zoo's nearest neighbour leaves jagged edges), as its shear always was.
    """

    policy: tuple = IMAGENET_POLICY
    fill: Fill = (POLICY_FILL,) * 3

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Return the augmented image, of the same size and mode."""
        for name, probability, level in self.policy[rng.integers(len(self.policy))]:
            if rng.random() < probability:
                value = OPERATIONS[name].policy(level / POLICY_LEVELS, _sign(rng))
                image = OPERATIONS[name].apply(image, value, Image.Resampling.BICUBIC, self.fill)
        return image


def no_augment(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return ``image`` as it is."""
    return image


def auto_augment(text: str, fill: Sequence[int] = (POLICY_FILL,) * 3,
                 resample: int | None = None) -> Callable[[Image.Image, np.random.Generator], Image.Image]:
    """Return the augmentation that a string names.

    Args:
        text: the value of the key ``auto_augment``, see ``GRAMMAR``.
        fill: colour of the pixels that RandAugment uncovers, one value in 0..255 per channel of the images.
        resample: PIL filter of RandAugment; ``None``: bilinear or bicubic at random.

    Returns:
        A picklable function (PIL image, RGB or L; generator) -> PIL image of the same size and mode.

    Raises:
        UserError: if the string does not follow the grammar.
    """
    name, _, options = text.strip().lower().partition("-")
    if not text.strip():
        return no_augment
    if name in POLICY_NAMES and not options:
        return AutoAugment(fill=(POLICY_FILL,) * len(fill))
    if name in ("rand", "randaug"):
        return RandAugment(**_rand_options(text, options), fill=tuple(fill), resample=resample)
    hint = nearest(name, [*POLICY_NAMES, "randaug"])
    raise UserError(f"auto_augment '{text}' is not known; allowed: {GRAMMAR}.{hint}")


# Option of the RandAugment string -> (field, type, smallest, largest value)
RAND_OPTIONS = {
    "m": ("magnitude", float, 0, 100),
    "n": ("num_ops", int, 1, len(OPERATIONS)),
    "mstd": ("magnitude_std", float, 0, math.inf),
    "p": ("probability", float, 0, 1),
    "inc": ("increasing", int, 0, 1),
    "mmax": ("max_magnitude", float, 0, 100),
    "w": ("weighted", int, 0, 0),
}


def _rand_options(text: str, options: str) -> dict[str, float | int | bool]:
    """Read ``m9-mstd0.5-inc1`` as arguments of ``RandAugment``."""
    arguments = {}
    for part in filter(None, options.split("-")):
        found = re.fullmatch(r"([a-z]+?)(\d+\.?\d*|\.\d+|inf)", part)
        if not found or found[1] not in RAND_OPTIONS:
            raise UserError(f"auto_augment '{text}' has the part '{part}', which is not known; allowed: {GRAMMAR}.")
        field, kind, low, high = RAND_OPTIONS[found[1]]
        value = float(found[2])
        if not low <= value <= high or (kind is int and value != int(value)):
            raise UserError(f"auto_augment '{text}' has the part '{part}'; the number must be "
                            f"{'an integer ' if kind is int else ''}from {low} to {high}.")
        arguments[field] = kind(value)
    if arguments.get("magnitude_std", 0) >= 100:
        arguments["magnitude_std"] = math.inf
    arguments["increasing"] = bool(arguments.get("increasing", False))
    arguments["weighted"] = "weighted" in arguments  # w0 names the only set of weights
    return arguments
