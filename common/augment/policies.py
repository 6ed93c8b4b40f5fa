"""Automatic augmentation of PIL images, chosen by one string: RandAugment, the old zoo's AutoAugment, and others.

Sources: Cubuk et al. 2019, "AutoAugment: Learning Augmentation Policies from Data" (arXiv 1805.09501), table 9;
Cubuk et al. 2020, "RandAugment" (arXiv 1909.13719); the grammar of the string, the magnitudes of RandAugment and its
"increasing" variant are those that timm documents. All randomness comes from the generator that the caller passes in.
"""
import math
import re
from dataclasses import dataclass
from typing import Callable, Mapping, Sequence

import numpy as np
from PIL import Image

from common.augment.arrays import Pixels
from common.augment.operations import OPERATIONS, Fill
from common.augment.published import ORIGINAL, POLICIES, AugMix, Policy, TrivialAugment, filter_of, noisy, sign_of
from common.errors import UserError, nearest

FULL_MAGNITUDE = 10.0  # RandAugment's levels run from 0 to 10
POLICY_LEVELS = 9  # AutoAugment's from 0 to 9
POLICY_FILL = 128  # the grey that AutoAugment's geometric operations uncover
GRAMMAR = ("'' (none); 'autoaugment' (the ImageNet policy with the old zoo's magnitudes); timm's 'v0', 'v0r', "
           "'original', 'originalr' and '3a' (3-Augment), each with '-mstd0.5' or the like; 'ta_wide' (TrivialAugment)"
           "; AugMix as 'augmix-m3-w3' with any of m magnitude, w chains, d operations per chain, a alpha, mstd; or "
           "RandAugment as 'rand-m9-mstd0.5-inc1' (also 'randaug-...') with any of m magnitude 0..10, n operations "
           "per image, mstd deviation of the magnitude (100 or inf: uniform), p probability of an operation, "
           "inc 1 for severity that increases with m, mmax bound of the magnitude, w0 weighted choice")

# timm's weighted choice "w0"; relative, and drawn without replacement.
CHOICE_WEIGHTS = {"Rotate": 3, "ShearX": 2, "ShearY": 2, "TranslateX": 1, "TranslateY": 1, "Color": 0.25,
                  "Sharpness": 0.25, "AutoContrast": 0.25, "Solarize": 0.05, "SolarizeAdd": 0.05, "Contrast": 0.05,
                  "Brightness": 0.05, "Equalize": 0.05, "Posterize": 0.05, "Invert": 0.05}


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

    def __call__(self, image: Pixels, rng: np.random.Generator) -> Pixels:
        """Return the augmented image, of the same size and mode."""
        for name in self._draw(rng):
            if rng.random() >= self.probability:
                continue
            operation = OPERATIONS[name]
            magnitude = operation.increasing if self.increasing else operation.plain
            value = magnitude(self.level(rng) / FULL_MAGNITUDE, sign_of(rng))
            image = operation.apply(image, value, filter_of(self.resample, rng), self.fill)
        return image

    def _draw(self, rng: np.random.Generator) -> list[str]:
        names = list(OPERATIONS)
        if not self.weighted:
            return [names[i] for i in rng.integers(len(names), size=self.num_ops)]
        weights = np.array([CHOICE_WEIGHTS[name] for name in names], dtype=np.float64)
        return [names[i] for i in rng.choice(len(names), self.num_ops, replace=False, p=weights / weights.sum())]

    def level(self, rng: np.random.Generator) -> float:
        """Draw the level of one operation, 0..max_magnitude."""
        level = noisy(self.magnitude, self.magnitude_std, rng)
        return min(max(level, 0.0), self.max_magnitude)


@dataclass(frozen=True)
class AutoAugment:
    """AutoAugment's ImageNet policy with the magnitudes of the old zoo, which differ from timm's (``POLICIES``).

    One pair of operations is drawn uniformly, and each applied with its own probability. As in the old zoo, rotation is
    always counter-clockwise and uncovered pixels are grey (128). Unlike there, rotation is resampled with the bicubic
    filter (the zoo's nearest neighbour leaves jagged edges), as its shear always was.
    """

    policy: tuple = ORIGINAL
    fill: Fill = (POLICY_FILL,) * 3

    def __call__(self, image: Pixels, rng: np.random.Generator) -> Pixels:
        """Return the augmented image, of the same size and mode."""
        for name, probability, level in self.policy[rng.integers(len(self.policy))]:
            if rng.random() < probability:
                value = OPERATIONS[name].policy(level / POLICY_LEVELS, sign_of(rng))
                image = OPERATIONS[name].apply(image, value, Image.Resampling.BICUBIC, self.fill)
        return image


def no_augment(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Return ``image`` as it is."""
    return image


def auto_augment(text: str, fill: Sequence[int] = (POLICY_FILL,) * 3,
                 resample: int | None = None) -> Callable[[Pixels, np.random.Generator], Pixels]:
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
    if name == "autoaugment" and not options:
        return AutoAugment(fill=(POLICY_FILL,) * len(fill))
    if name in POLICIES:
        return Policy(POLICIES[name], **_options(text, options, {"mstd": RAND_OPTIONS["mstd"]}), fill=tuple(fill),
                      resample=resample)
    if name == "ta_wide" and not options:
        return TrivialAugment(fill=(0,) * len(fill), resample=resample)
    if name == "augmix":
        return AugMix(**_options(text, options, AUGMIX_OPTIONS), fill=tuple(fill), resample=resample)
    if name in ("rand", "randaug"):
        return RandAugment(**_rand_options(text, options), fill=tuple(fill), resample=resample)
    hint = nearest(name, ["autoaugment", *POLICIES, "ta_wide", "augmix", "randaug"])
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


AUGMIX_OPTIONS = {
    "m": ("magnitude", float, 0, 10),
    "w": ("width", int, 1, 10),
    "d": ("depth", int, 1, 10),
    "a": ("alpha", float, 1e-3, 100),
    "mstd": RAND_OPTIONS["mstd"],
}


def _rand_options(text: str, options: str) -> dict[str, float | int | bool]:
    """Read ``m9-mstd0.5-inc1`` as arguments of ``RandAugment``."""
    arguments = _options(text, options, RAND_OPTIONS)
    arguments["increasing"] = bool(arguments.get("increasing", False))
    arguments["weighted"] = "weighted" in arguments  # w0 names the only set of weights
    return arguments


def _options(text: str, options: str, known: Mapping[str, tuple]) -> dict[str, float | int]:
    """Read the parts of a string, such as ``m9-mstd0.5``, as arguments."""
    arguments = {}
    for part in filter(None, options.split("-")):
        found = re.fullmatch(r"([a-z]+?)(\d+\.?\d*|\.\d+|inf)", part)
        if not found or found[1] not in known:
            raise UserError(f"auto_augment '{text}' has the part '{part}', which is not known; allowed: {GRAMMAR}.")
        field, kind, low, high = known[found[1]]
        value = float(found[2])
        if not low <= value <= high or (kind is int and value != int(value)):
            raise UserError(f"auto_augment '{text}' has the part '{part}'; the number must be "
                            f"{'an integer ' if kind is int else ''}from {low} to {high}.")
        arguments[field] = kind(value)
    if arguments.get("magnitude_std", 0) >= 100:
        arguments["magnitude_std"] = math.inf
    return arguments
