"""RandAugment and AutoAugment: the operations against formulas, the magnitudes, the strings, the statistics."""
import math
import pickle

import numpy as np
import pytest
from PIL import Image

from common.augment.operations import OPERATIONS
from common.augment.policies import CHOICE_WEIGHTS, AutoAugment, RandAugment, auto_augment
from common.augment.published import ORIGINAL
from common.errors import UserError

BICUBIC = Image.Resampling.BICUBIC
FILL = (124, 116, 104)


def noise(width=40, height=30, mode="RGB", seed=0):
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def apply(name, image, value, resample=BICUBIC, fill=FILL):
    return np.asarray(OPERATIONS[name].apply(image, value, resample, fill))


@pytest.mark.parametrize("name, neutral", [
    ("Rotate", 0.0), ("ShearX", 0.0), ("ShearY", 0.0), ("TranslateX", 0.0), ("TranslateY", 0.0), ("Posterize", 8),
    ("Solarize", 256), ("SolarizeAdd", 0), ("Color", 1.0), ("Contrast", 1.0), ("Brightness", 1.0), ("Sharpness", 1.0)])
@pytest.mark.parametrize("resample", [Image.Resampling.BILINEAR, BICUBIC])
def test_the_neutral_value_of_an_operation_changes_no_pixel(name, neutral, resample):
    np.testing.assert_array_equal(apply(name, noise(), neutral, resample), np.asarray(noise()))


def test_invert_is_its_own_inverse():
    once = OPERATIONS["Invert"].apply(noise(), 0, BICUBIC, FILL)
    np.testing.assert_array_equal(np.asarray(once), 255 - np.asarray(noise()))
    np.testing.assert_array_equal(apply("Invert", once, 0), np.asarray(noise()))


@pytest.mark.parametrize("bits, mask", [(0, 0x00), (1, 0x80), (4, 0xF0), (7, 0xFE)])
def test_posterize_keeps_the_high_bits(bits, mask):
    np.testing.assert_array_equal(apply("Posterize", noise(), bits), np.asarray(noise()) & mask)


@pytest.mark.parametrize("threshold", [0, 100, 113.8])
def test_solarize_inverts_from_the_threshold_on(threshold):
    pixels = np.asarray(noise())
    expected = np.where(pixels < threshold, pixels, 255 - pixels)
    np.testing.assert_array_equal(apply("Solarize", noise(), threshold), expected)


def test_solarize_add_lifts_the_dark_half():
    pixels = np.asarray(noise()).astype(int)
    expected = np.where(pixels < 128, np.minimum(pixels + 110, 255), pixels)
    np.testing.assert_array_equal(apply("SolarizeAdd", noise(), 110), expected)


def test_auto_contrast_stretches_each_channel_to_the_full_range():
    narrow = Image.fromarray((np.asarray(noise()) // 4 + 60).astype(np.uint8))
    stretched = apply("AutoContrast", narrow, 0)
    assert (stretched.min((0, 1)) == 0).all() and (stretched.max((0, 1)) == 255).all()


def test_equalize_flattens_the_histogram():
    dark = Image.fromarray((np.asarray(noise(200, 200)).astype(float) ** 2 / 255).astype(np.uint8))
    histogram, _ = np.histogram(apply("Equalize", dark, 0), bins=4, range=(0, 256))
    assert np.ptp(histogram / histogram.sum()) < 0.1
    assert np.ptp(np.histogram(np.asarray(dark), bins=4, range=(0, 256))[0] / histogram.sum()) > 0.3


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.7])
def test_brightness_multiplies(factor):
    expected = np.clip(np.asarray(noise()) * factor, 0, 255)
    np.testing.assert_allclose(apply("Brightness", noise(), factor), expected, atol=1)


def test_color_zero_is_grey_and_contrast_zero_is_flat():
    grey = apply("Color", noise(), 0.0)
    np.testing.assert_array_equal(grey, np.repeat(np.asarray(noise().convert("L"))[..., None], 3, axis=2))
    flat = apply("Contrast", noise(), 0.0)
    assert np.ptp(flat) == 0 and flat[0, 0, 0] == pytest.approx(np.asarray(noise().convert("L")).mean(), abs=1)


def test_sharpness_below_one_smooths_and_above_one_sharpens():
    spread = [apply("Sharpness", noise(), factor)[2:-2, 2:-2].astype(float).std() for factor in (0.1, 1.0, 1.9)]
    assert spread[0] < spread[1] < spread[2]


def test_rotation_is_counter_clockwise_about_the_centre():
    square = noise(30, 30)
    np.testing.assert_array_equal(apply("Rotate", square, 90.0), np.rot90(np.asarray(square)))


def test_translation_moves_by_a_share_of_the_side_and_fills_the_rest():
    pixels = np.asarray(noise(40, 30))
    left = apply("TranslateX", noise(40, 30), 0.25)
    np.testing.assert_array_equal(left[:, :29], pixels[:, 10:39])
    assert (left[:, 31:] == FILL).all()
    down = apply("TranslateY", noise(40, 30), -0.2)
    np.testing.assert_array_equal(down[7:], pixels[1:24])
    assert (down[:5] == FILL).all()


def test_shear_moves_rows_in_proportion_to_their_distance_from_the_top():
    line = Image.fromarray(np.zeros((41, 41, 3), np.uint8))
    for row in range(41):
        line.putpixel((20, row), (255, 255, 255))
    sheared = apply("ShearX", line, 0.25, Image.Resampling.BILINEAR, (0, 0, 0))
    centre = (sheared[..., 0] * np.arange(41)).sum(1) / sheared[..., 0].sum(1)
    np.testing.assert_allclose(centre, 20 - 0.25 * (np.arange(41) + 0.5), atol=0.02)
    column = apply("ShearY", line.transpose(Image.Transpose.ROTATE_90), 0.25, Image.Resampling.BILINEAR, (0, 0, 0))
    np.testing.assert_array_equal(column[..., 0], sheared[..., 0].T)


@pytest.mark.parametrize("name, plain, increasing", [
    ("Rotate", 27.0, 27.0), ("Posterize", 3, 1), ("Solarize", 230, 26), ("SolarizeAdd", 99, 99), ("Color", 1.72, 1.81),
    ("Contrast", 1.72, 1.81), ("Brightness", 1.72, 1.81), ("Sharpness", 1.72, 1.81), ("ShearX", 0.27, 0.27),
    ("ShearY", 0.27, 0.27), ("TranslateX", 0.405, 0.405), ("TranslateY", 0.405, 0.405)])
def test_randaugment_values_at_magnitude_nine(name, plain, increasing):
    assert OPERATIONS[name].plain(0.9, 1.0) == pytest.approx(plain)
    assert OPERATIONS[name].increasing(0.9, 1.0) == pytest.approx(increasing)


@pytest.mark.parametrize("name", ["Posterize", "Solarize", "SolarizeAdd", "Color", "Contrast", "Brightness",
                                  "Sharpness"])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_increasing_severity_changes_the_colours_more_at_a_higher_level(name, sign):
    smooth = noise(8, 8).resize((64, 64), BICUBIC)
    images = [apply(name, smooth, OPERATIONS[name].increasing(t, sign)) for t in (0.2, 0.5, 1.0)]
    change = [np.abs(image - np.asarray(smooth).astype(float)).mean() for image in images]
    assert 0 < change[0] < change[1] < change[2]


@pytest.mark.parametrize("name", ["Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_geometric_operations_uncover_more_at_a_higher_level(name, sign):
    white = Image.new("RGB", (64, 64), "white")
    images = [apply(name, white, OPERATIONS[name].increasing(t, sign)) for t in (0.2, 0.5, 1.0)]
    uncovered = [(image == FILL).all(2).sum() for image in images]
    assert 0 < uncovered[0] < uncovered[1] < uncovered[2]


@pytest.mark.parametrize("name", ["Color", "Contrast", "Brightness", "Sharpness"])
def test_increasing_enhancement_weakens_as_often_as_it_strengthens(name):
    assert OPERATIONS[name].increasing(0.5, -1.0) == pytest.approx(0.55)
    assert OPERATIONS[name].increasing(1.0, -1.0) == pytest.approx(0.1)


def test_policy_magnitudes_are_the_ten_published_levels():
    levels = np.arange(10) / 9
    assert [OPERATIONS["Posterize"].policy(t, 1.0) for t in levels] == [8, 8, 7, 7, 6, 6, 5, 5, 4, 4]
    np.testing.assert_allclose([OPERATIONS["Solarize"].policy(t, 1.0) for t in levels], np.linspace(256, 0, 10))
    np.testing.assert_allclose([OPERATIONS["ShearX"].policy(t, 1.0) for t in levels], np.linspace(0, 0.3, 10))
    np.testing.assert_allclose([OPERATIONS["TranslateY"].policy(t, -1.0) for t in levels], -150 / 331 * levels)
    np.testing.assert_allclose([OPERATIONS["Color"].policy(t, -1.0) for t in levels], np.linspace(1, 0.1, 10))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_policy_rotates_one_way_only(sign):
    assert OPERATIONS["Rotate"].policy(1.0, sign) == 30.0


@pytest.mark.parametrize("text", ["randaug-m9-mstd0.5-inc1", "rand-m9-mstd0.5-inc1", "RandAug-M9-MSTD0.5-INC1"])
def test_the_seed_and_timm_spellings_name_the_same_augmentation(text):
    assert auto_augment(text, FILL) == RandAugment(magnitude=9, num_ops=2, magnitude_std=0.5, probability=0.5,
                                                   increasing=True, max_magnitude=10, fill=FILL)


def test_every_option_of_the_string_has_its_effect():
    made = auto_augment("rand-m7-n3-mstd1.5-p0.8-inc0-mmax9-w0", FILL, BICUBIC)
    assert made == RandAugment(7, 3, 1.5, 0.8, False, 9, True, FILL, BICUBIC)


@pytest.mark.parametrize("text", ["rand-mstdinf", "rand-mstd100", "rand-mstd250"])
def test_a_large_deviation_means_a_uniform_magnitude(text):
    made = auto_augment(text)
    drawn = [made.level(np.random.default_rng(seed)) for seed in range(2000)]
    assert math.isinf(made.magnitude_std)
    assert np.mean(drawn) == pytest.approx(5.0, abs=0.2) and np.std(drawn) == pytest.approx(10 / math.sqrt(12), abs=0.1)


def test_levels_are_normal_around_the_magnitude_and_cut_at_the_bound():
    rng = np.random.default_rng(0)
    made = auto_augment("rand-m9-mstd0.5")
    drawn = np.array([made.level(rng) for _ in range(4000)])
    assert np.median(drawn) == pytest.approx(9.0, abs=0.05) and drawn.max() == 10.0
    assert np.quantile(drawn, 0.1587) == pytest.approx(8.5, abs=0.05)  # one deviation below
    assert max(auto_augment("rand-m9-mstd3-mmax8").level(rng) for _ in range(200)) == 8.0
    assert auto_augment("rand-m6").level(rng) == 6.0


@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_string_leaves_the_image_alone(text):
    image = noise()
    assert auto_augment(text)(image, np.random.default_rng(0)) is image


@pytest.mark.parametrize("text", ["autoaugment", "AutoAugment"])
def test_the_names_of_the_policy(text):
    assert auto_augment(text, FILL) == AutoAugment(ORIGINAL, (128, 128, 128))


@pytest.mark.parametrize("text, part", [
    ("randaugg-m9", "Did you mean 'randaug'"), ("augmax", "allowed: ''"), ("rand-q9", "part 'q9'"),
    ("rand-m", "part 'm'"), ("rand-mx", "part 'mx'"), ("rand-p1.5", "from 0 to 1"), ("rand-n0", "integer from 1 to 15"),
    ("rand-n2.5", "integer"), ("rand-w1", "from 0 to 0"), ("autoaugment-m9", "autoaugment-m9"), ("rand_m9", "rand_m9")])
def test_a_string_outside_the_grammar_is_refused_in_a_sentence(text, part):
    with pytest.raises(UserError, match="auto_augment ") as caught:
        auto_augment(text)
    assert text in str(caught.value) and part in str(caught.value) and "\n" not in str(caught.value)


def test_operations_fire_with_the_probability_of_the_string():
    def changed(text):
        made = auto_augment(text, FILL)
        images = [np.asarray(made(noise(16, 16), np.random.default_rng(seed))) for seed in range(800)]
        return np.mean([not np.array_equal(image, np.asarray(noise(16, 16))) for image in images])
    assert changed("rand-n1-p0-inc1") == 0
    always = changed("rand-n1-p1-inc1")  # auto contrast cannot change noise of full range
    assert always > 0.9
    assert changed("rand-n1-p0.5-inc1") / always == pytest.approx(0.5, abs=0.06)


def test_weighted_choice_prefers_rotation_and_never_repeats(monkeypatch):
    used = []
    for name, operation in OPERATIONS.items():
        recorded = operation._replace(apply=lambda image, *_, name=name: used.append(name) or image)
        monkeypatch.setitem(OPERATIONS, name, recorded)
    made, rng = auto_augment("rand-n2-p1-w0"), np.random.default_rng(0)
    for _ in range(500):
        made(noise(), rng)
    assert all(first != second for first, second in zip(used[::2], used[1::2]))
    first = used[::2]
    assert first.count("Rotate") / 500 == pytest.approx(3 / sum(CHOICE_WEIGHTS.values()), abs=0.06)


def test_unweighted_choice_draws_all_fifteen_operations_alike(monkeypatch):
    used = []
    for name, operation in OPERATIONS.items():
        recorded = operation._replace(apply=lambda image, *_, name=name: used.append(name) or image)
        monkeypatch.setitem(OPERATIONS, name, recorded)
    made, rng = auto_augment("rand-n3-p1"), np.random.default_rng(0)
    for _ in range(1000):
        made(noise(), rng)
    counts = np.array([used.count(name) for name in OPERATIONS])
    assert len(counts) == 15 and counts.sum() == 3000 and counts.min() > 150 and counts.max() < 250


def test_the_policy_has_25_pairs_and_is_the_published_table():
    assert len(ORIGINAL) == 25 and all(len(pair) == 2 for pair in ORIGINAL)
    assert {name for pair in ORIGINAL for name, _, _ in pair} <= set(OPERATIONS)
    assert ORIGINAL[0] == (("Posterize", 0.4, 8), ("Rotate", 0.6, 9))
    assert ORIGINAL[12] == (("Equalize", 0.0, 7), ("Equalize", 0.8, 8))
    assert ORIGINAL[20:] == tuple(ORIGINAL[i] for i in (4, 1, 13, 14, 2))
    assert sum(p for pair in ORIGINAL for _, p, _ in pair) == pytest.approx(31.0)


def test_policy_operations_fire_with_their_probability():
    def inverted(probability):
        made = AutoAugment(policy=((("Invert", probability, 4), ("Equalize", 0.0, 7)),))
        images = [np.asarray(made(noise(), np.random.default_rng(seed))) for seed in range(600)]
        kept = [np.array_equal(image, np.asarray(noise())) for image in images]
        turned = [np.array_equal(image, 255 - np.asarray(noise())) for image in images]
        assert all(np.logical_xor(kept, turned))
        return np.mean(turned)
    assert inverted(0.0) == 0 and inverted(1.0) == 1
    assert inverted(0.4) == pytest.approx(0.4, abs=0.06)


def test_the_policy_fills_uncovered_corners_with_grey():
    made = AutoAugment(policy=((("Rotate", 1.0, 9), ("Color", 0.0, 0)),))
    assert made(Image.new("RGB", (40, 40), (255, 0, 0)), np.random.default_rng(0)).getpixel((0, 0)) == (128, 128, 128)


def test_level_nine_of_the_policy_is_the_full_magnitude_and_shear_is_bicubic_in_both_directions():
    made = AutoAugment(policy=((("ShearX", 1.0, 9), ("Invert", 0.0, 0)),))
    seen = [np.asarray(made(noise(), np.random.default_rng(seed))) for seed in range(300)]
    left, right = (apply("ShearX", noise(), value, BICUBIC, (128,) * 3) for value in (0.3, -0.3))
    share = np.mean([np.array_equal(image, left) for image in seen])
    assert share == pytest.approx(0.5, abs=0.1)
    assert share + np.mean([np.array_equal(image, right) for image in seen]) == pytest.approx(1)


def test_randaugment_draws_the_sign_and_without_a_given_filter_bilinear_or_bicubic(monkeypatch):
    used = []
    for name, operation in OPERATIONS.items():
        recorded = operation._replace(apply=lambda image, value, resample, _, name=name: (
            used.append((name, value, resample)) or image))
        monkeypatch.setitem(OPERATIONS, name, recorded)
    made, rng = auto_augment("rand-m10-p1-inc1"), np.random.default_rng(0)
    for _ in range(1000):
        made(noise(), rng)
    rotated = [value for name, value, _ in used if name == "Rotate"]
    assert set(rotated) == {-30.0, 30.0} and np.mean(rotated) == pytest.approx(0, abs=8)
    filters = [resample for _, _, resample in used]
    assert set(filters) == {Image.Resampling.BILINEAR, BICUBIC}
    assert filters.count(BICUBIC) / len(filters) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("text", ["rand-m9-n4-p1-mstd0.5-inc1", "autoaugment"])
@pytest.mark.parametrize("mode, fill", [("RGB", FILL), ("L", (117,))])
def test_size_and_mode_stay_for_colour_and_grey_and_tiny_images(text, mode, fill):
    made = auto_augment(text, fill)
    for size in ((40, 30), (3, 2), (1, 1)):
        for seed in range(40):
            image = made(noise(*size, mode=mode), np.random.default_rng(seed))
            assert image.size == size and image.mode == mode


@pytest.mark.parametrize("text", ["", "rand-m9-mstd0.5-inc1", "rand-p1-w0", "autoaugment"])
def test_the_same_generator_state_gives_the_same_image_also_after_pickling(text):
    made = auto_augment(text, FILL)
    again = pickle.loads(pickle.dumps(made))
    for seed in range(20):
        first = made(noise(), np.random.default_rng(seed))
        second = again(noise(), np.random.default_rng(seed))
        np.testing.assert_array_equal(np.asarray(first), np.asarray(second))
