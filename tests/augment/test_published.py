"""Augmentations under timm's and torchvision's names are theirs, pixel by pixel: tests/data/augment_hashes.json."""
import importlib.util
import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from common.augment import published
from common.augment.operations import OPERATIONS
from common.augment.pipeline import eval_transform, pixel_transform, train_transform
from common.augment.policies import AutoAugment, auto_augment
from common.augment.published import AUGMIX, POLICIES, TRIVIAL, AugMix, Policy, mixture, trivial_value
from common.config.load import from_mapping
from common.dataset.images import Reading, load_image, to_rgb
from common.errors import UserError
from entry import ROOT

_spec = importlib.util.spec_from_file_location("augment_hashes", ROOT / "tests" / "data" / "augment_hashes.py")
made = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(made)
HASHES = json.loads((ROOT / "tests" / "data" / "augment_hashes.json").read_text())


def test_operations_are_timms_pixel_by_pixel():
    wrong = []
    for key, expected in HASHES["timm"].items():
        name, level, sign, word = key.split()
        t = float(level) / 10
        name = name.removesuffix("Rel")
        if name in published._OPERATIONS:
            apply, magnitude = published._OPERATIONS[name]
        else:
            base = OPERATIONS[name.removesuffix("Increasing")]
            apply, magnitude = base.apply, base.increasing
        value = magnitude(t, float(sign))
        if name == "GaussianBlurRand":
            value = (published._LEAST_RADIUS + value) / 2
        if made.digest(apply(made.image(), value, made.FILTERS[word], made.FILL)) != expected:
            wrong.append(key)
    assert wrong == [] and len(HASHES["timm"]) > 500


def test_grey_images_pass_every_operation_as_pil_makes_them():
    grey = made.image().convert("L")
    for name, (apply, _) in published._OPERATIONS.items():
        colour = apply(Image.merge("RGB", [grey] * 3), 1.5, Image.Resampling.BILINEAR, (9, 9, 9))
        alone = apply(grey, 1.5, Image.Resampling.BILINEAR, (9,))
        assert alone.mode == "L" and made.digest(alone) == made.digest(np.asarray(colour)[..., 0]), name


@pytest.mark.parametrize("image", [Image.new("RGB", (5, 4), (7, 7, 7)), Image.new("L", (1, 1), 3),
                                   Image.new("RGB", (2, 1), (0, 255, 9))], ids=["flat", "one", "two"])
@pytest.mark.parametrize("name", list(published._OPERATIONS))
def test_tiny_and_flat_images_keep_their_size(image, name):
    fill = (1,) * len(image.getbands())
    result = published._OPERATIONS[name][0](image, 1.0, Image.Resampling.BILINEAR, fill)
    assert (result.size, result.mode) == (image.size, image.mode)


@pytest.mark.parametrize("name", ["v0", "v0r", "original", "originalr", "3a"])
def test_policies_are_timms_tables(name):
    ours = [[[operation.replace("TranslateY", "TranslateYRel"), probability, level]
             for operation, probability, level in row] for row in POLICIES[name]]
    assert ours == HASHES["policies"][name]


def test_trivial_augment_is_torchvisions_pixel_by_pixel():
    image = made.image()
    wrong = []
    for key, expected in HASHES["ta_wide"].items():
        name, step, sign, word = key.split()
        result = image
        if name != "Identity":
            value = trivial_value(name, int(step), float(sign), *image.size)
            result = OPERATIONS[name].apply(image, value, made.FILTERS[word], (0, 0, 0))
        if made.digest(result) != expected:
            wrong.append(key)
    assert wrong == []
    assert {key.split()[0] for key in HASHES["ta_wide"]} == set(TRIVIAL)


def test_augmix_is_timms_mixture_of_timms_operations():
    twice = OPERATIONS["Equalize"].apply(OPERATIONS["Equalize"].apply(made.image(), 0, 0, ()), 0, 0, ())
    weights, share = np.float32([0.2, 0.5, 0.3]), np.float32(0.37)
    assert made.digest(mixture(made.image(), [twice] * 3, weights, share)) == HASHES["augmix"]["mixture"]
    theirs = {name.removesuffix("Increasing").removesuffix("Rel") for name in HASHES["augmix"]["operations"]}
    assert theirs == set(AUGMIX)


def test_evaluation_prepares_odd_images_as_torchvision_does(tmp_path):
    wrong = []
    for key, expected in HASHES["evaluation"].items():
        mode, width, height, word = key.split()
        image = made.odd_image(mode, (int(width), int(height)))
        config = from_mapping({"image_size": made.SIDE, "crop_pct": made.SIDE / made.RESIZED, "interpolation": word},
                              "test")
        as_authors = image.convert("RGB") if mode == "I;16" else to_rgb(image)
        pixels = pixel_transform(config)(as_authors)
        if made.digest(pixels.transpose(1, 2, 0)) != expected:
            wrong.append(key)
    assert wrong == []


def test_without_exif_sixteen_bits_are_read_as_the_authors_read_them(tmp_path):
    image = made.odd_image("I;16", (37, 91))
    image.save(tmp_path / "x.png")
    plain = load_image(tmp_path / "x.png", Reading(exif=False))
    assert plain.tobytes() == image.convert("RGB").tobytes() != load_image(tmp_path / "x.png").tobytes()


def test_names_mean_what_they_say():
    assert isinstance(auto_augment("autoaugment"), AutoAugment)
    assert auto_augment("v0", (1, 2, 3), 2) == Policy(POLICIES["v0"], 0.0, (1, 2, 3), 2)
    assert auto_augment("original-mstd0.5").magnitude_std == 0.5
    assert auto_augment("augmix-m5-w4-d2-a0.5-mstd1") == AugMix(5.0, 4, 2, 0.5, 1.0)
    assert auto_augment("augmix") == AugMix(3.0, 3, 0, 1.0, np.inf)
    for text, message in (("v0-m9", "the part 'm9'"), ("augmix-d0", "from 1 to 10"), ("ta_wide-m3", "not known"),
                          ("v1", "not known")):
        with pytest.raises(UserError, match=message):
            auto_augment(text)


def test_a_policy_draws_rows_alike_and_operations_by_their_probability(monkeypatch):
    seen = Counter()
    monkeypatch.setattr(published, "_OPERATIONS", {name: (lambda image, *rest, name=name: seen.update([name]) or image,
                                                          lambda t, sign: t) for name in "ab"})
    policy = Policy(((("a", 0.25, 1),), (("b", 1.0, 1),)))
    rng = np.random.default_rng(0)
    for _ in range(2000):
        policy(None, rng)
    assert 190 < seen["a"] < 310 and 900 < seen["b"] < 1100


@pytest.mark.parametrize("text", ["v0", "v0r-mstd0.5", "original", "originalr", "3a", "ta_wide", "augmix",
                                  "augmix-m9-w2-d1"])
def test_the_same_generator_state_gives_the_same_image_in_colour_and_grey(text):
    augment = auto_augment(text, made.FILL)
    grey_augment = auto_augment(text, (99,))
    results = {augment(made.image(), np.random.default_rng(seed)).tobytes() for seed in range(12)}
    again = {augment(made.image(), np.random.default_rng(seed)).tobytes() for seed in range(12)}
    assert results == again and len(results) > 2
    for seed in range(12):
        assert grey_augment(made.image().convert("L"), np.random.default_rng(seed)).mode == "L"


def test_three_augment_keeps_colour_jitter():
    for text, jittered in (("3a", True), ("v0", False)):
        config = from_mapping({"image_size": 16, "auto_augment": text, "color_jitter": 0.3}, "test")
        assert bool(train_transform(config).jitter) is jittered
    assert eval_transform(config).size == 16
