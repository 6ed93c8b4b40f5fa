"""Operations on arrays beside the same operations on PIL images."""
import numpy as np
import pytest
from photographs import photograph
from PIL import Image

from common.augment.operations import OPERATIONS, ColorJitter, shift_hue
from common.augment.pipeline import _flip
from common.augment.policies import auto_augment
from common.augment.resize import FILTERS

FILL = (124, 116, 104)
GEOMETRY = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 41, 3), dtype=np.uint8))
PICTURES = [NOISE, photograph(90, 70), Image.new("RGB", (20, 10), (7, 7, 200)), photograph(64, 64).point(lambda v: v // 3),
            Image.fromarray((np.arange(3 * 64 * 48).reshape(48, 64, 3) % 251).astype(np.uint8))]


def both(apply, image, *arguments):
    """What an operation makes of an array and of a PIL image, as arrays."""
    array, exact = apply(np.asarray(image), *arguments), apply(image, *arguments)
    assert isinstance(array, np.ndarray) and isinstance(exact, Image.Image) and array.dtype == np.uint8
    return array, np.asarray(exact)


@pytest.mark.parametrize("name", sorted(OPERATIONS.keys() - set(GEOMETRY)))
def test_colours_are_pils_to_the_bit(name):
    operation = OPERATIONS[name]
    for image in PICTURES:
        for t in np.linspace(0, 1, 12):
            for magnitude in operation.plain, operation.increasing, operation.policy:
                for sign in (1, -1):
                    np.testing.assert_array_equal(*both(operation.apply, image, magnitude(t, sign), FILTERS[0], FILL))


@pytest.mark.parametrize("way", [Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM])
def test_flips_are_pils(way):
    np.testing.assert_array_equal(*both(_flip, NOISE, way))


def test_hue_is_pils_too():
    np.testing.assert_array_equal(*both(shift_hue, NOISE, 0.2))


@pytest.mark.parametrize("name", GEOMETRY)
@pytest.mark.parametrize("resample", FILTERS)
def test_geometry_is_nearer_to_pils_than_its_two_filters_are_to_each_other(name, resample):
    """The other filter of PIL at the same place; and the same share of the image is uncovered."""
    operation, image = OPERATIONS[name], photograph(128, 128)
    for t, sign in ((1.0, 1), (0.37, -1)):
        value = operation.increasing(t, sign)
        array, exact = both(operation.apply, image, value, resample, FILL)
        others = np.asarray(operation.apply(image, value, *(set(FILTERS) - {resample}), FILL), np.float64)
        between = np.abs(exact - others).mean()
        assert np.abs(array.astype(np.float64) - exact).mean() < between / 2
        assert abs((array == FILL).all(2).mean() - (exact == FILL).all(2).mean()) < 4 / 128  # a pixel along the edges


@pytest.mark.parametrize("text", ["rand-m9-mstd0.5-inc1", "autoaugment", "v0", "3a", "ta_wide", "augmix-m3-w3"])
def test_every_policy_takes_arrays_and_draws_the_same(text):
    augment, image = auto_augment(text, FILL), photograph(64, 48)
    differences = []
    for seed in range(20):
        rngs = [np.random.default_rng(seed) for _ in range(2)]
        array, exact = augment(np.asarray(image), rngs[0]), augment(image, rngs[1])
        assert isinstance(array, np.ndarray) and array.shape == (*image.size[::-1], 3)
        assert rngs[0].bit_generator.state == rngs[1].bit_generator.state
        differences.append(np.abs(array.astype(int) - np.asarray(exact)).mean())
    assert np.mean(differences) < 2 and np.median(differences) < 2


def test_jitter_takes_arrays():
    jitter = ColorJitter(0.4, 0.4, 0.4, 0.1)
    np.testing.assert_array_equal(*[np.asarray(jitter(image, np.random.default_rng(3))) for image in (
        np.asarray(NOISE), NOISE)])
