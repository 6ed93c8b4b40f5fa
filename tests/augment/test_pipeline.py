"""The image pipelines: against PIL to the bit, against formulas in float64, and by their statistics."""
import pickle

import numpy as np
import pytest
from PIL import Image, ImageOps

from common.augment.operations import ColorJitter, Normalize, RandomErasing, crop_box, shift_hue, single_draw_box
from common.augment.pipeline import eval_transform, statistics, train_transform
from common.config.options import Config
from common.errors import UserError

BILINEAR, BICUBIC = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
FULL = dict(scale=(1.0, 1.0), ratio=(1.0, 1.0), hflip=0.0)  # nothing random is left for a square image


def noise(width=60, height=45, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def expected(image, mean=IMAGENET[0], std=IMAGENET[1]):
    """The formula in float64, rounded once."""
    pixels = np.asarray(image, dtype=np.float64)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return ((pixels / 255 - mean) / std).transpose(2, 0, 1).astype(np.float32)


def rng(seed=0):
    return np.random.default_rng(seed)


# Normalisation and statistics

@pytest.mark.parametrize("size", [(60, 45), (1, 7), (7, 1), (1, 1), (224, 224)])
def test_normalisation_is_the_formula_rounded_once(size):
    image = noise(*size)
    array = Normalize(*IMAGENET)(image)
    assert array.dtype == np.float32 and array.flags.c_contiguous and array.flags.writeable
    np.testing.assert_array_equal(array, expected(image))


def test_a_grey_image_becomes_one_channel():
    image = noise().convert("L")
    np.testing.assert_array_equal(Normalize([0.4], [0.2])(image), expected(image, (0.4,), (0.2,)))


@pytest.mark.parametrize("dataset, mean, std", [
    ("imagenet", *IMAGENET), ("folder", *IMAGENET), ("list", *IMAGENET),
    ("cifar10", (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    ("cifar100", (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)), ("digits", (0.5,) * 3, (0.5,) * 3)])
def test_each_data_set_has_its_statistics(dataset, mean, std):
    assert statistics(Config(dataset=dataset)) == (mean, std)


def test_own_statistics_override_those_of_the_data_set():
    assert statistics(Config(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert statistics(Config(dataset="cifar10", std=(0.5,))) == ((0.4914, 0.4822, 0.4465), (0.5, 0.5, 0.5))


def test_statistics_in_units_of_255_are_recognised():
    config = Config(mean=tuple(255 * v for v in IMAGENET[0]), std=tuple(255 * v for v in IMAGENET[1]))
    np.testing.assert_allclose(statistics(config), IMAGENET, rtol=1e-12)


def test_grey_images_take_the_weighted_statistics():
    mean, std = statistics(Config(in_channels=1))
    assert mean == (pytest.approx(0.299 * 0.485 + 0.587 * 0.456 + 0.114 * 0.406),) and len(std) == 1
    assert statistics(Config(in_channels=1, dataset="digits")) == ((pytest.approx(0.5),), (pytest.approx(0.5),))


@pytest.mark.parametrize("values, sentence", [
    (dict(in_channels=4), "in_channels 4 cannot"),
    (dict(mean=(0.5, 0.5)), r"mean \[0.5, 0.5\] does not fit in_channels 3"),
    (dict(in_channels=1, std=(0.5, 0.5)), "std .* does not fit in_channels 1")])
def test_statistics_that_do_not_fit_the_channels_are_refused(values, sentence):
    with pytest.raises(UserError, match=sentence):
        statistics(Config(**values))


# The random-resized crop

@pytest.mark.parametrize("interpolation, resample", [("bilinear", BILINEAR), ("BICUBIC", BICUBIC)])
@pytest.mark.parametrize("side", [32, 90, 300])
def test_a_crop_of_everything_is_a_resize(interpolation, resample, side):
    image = noise(side, side)
    array = train_transform(Config(image_size=64, interpolation=interpolation, **FULL))(image, rng())
    np.testing.assert_array_equal(array, expected(image.resize((64, 64), resample)))


@pytest.mark.parametrize("interpolation, resample", [("bilinear", BILINEAR), ("bicubic", BICUBIC)])
def test_the_crop_is_pils_resize_of_the_drawn_box(interpolation, resample):
    config = Config(image_size=32, hflip=0.0, interpolation=interpolation)
    for seed in range(20):
        box = crop_box(60, 45, config.scale, config.ratio, rng(seed))
        np.testing.assert_array_equal(train_transform(config)(noise(), rng(seed)),
                                      expected(noise().resize((32, 32), resample, box=box)))


def test_random_interpolation_takes_either_filter_equally_often():
    transform = train_transform(Config(image_size=16, interpolation="random", **FULL))
    image = noise(40, 40)
    linear, cubic = (expected(image.resize((16, 16), resample)) for resample in (BILINEAR, BICUBIC))
    arrays = [transform(image, rng(seed)) for seed in range(400)]
    share = np.mean([np.array_equal(array, linear) for array in arrays])
    assert share + np.mean([np.array_equal(array, cubic) for array in arrays]) == 1
    assert share == pytest.approx(0.5, abs=0.07)


def test_crop_area_is_uniform_and_aspect_log_uniform():
    boxes = np.array([crop_box(400, 400, (0.1, 0.5), (0.5, 2.0), rng(seed)) for seed in range(3000)])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    area, aspect = width * height / 400 ** 2, np.log(width / height)
    assert area.min() == pytest.approx(0.1, abs=0.005) and area.max() == pytest.approx(0.5, abs=0.005)
    np.testing.assert_allclose(np.quantile(area, [0.25, 0.5, 0.75]), [0.2, 0.3, 0.4], atol=0.015)
    np.testing.assert_allclose(np.quantile(aspect, [0.25, 0.5, 0.75]), np.log(2) * np.array([-0.5, 0, 0.5]), atol=0.05)


def test_crop_positions_are_uniform_over_the_places_where_the_box_fits():
    boxes = np.array([crop_box(20, 11, (0.45, 0.45), (1.0, 1.0), rng(seed)) for seed in range(3000)])
    assert set(boxes[:, 2] - boxes[:, 0]) == {10} == set(boxes[:, 3] - boxes[:, 1])
    np.testing.assert_allclose(np.bincount(boxes[:, 0], minlength=11) / 3000, 1 / 11, atol=0.02)
    np.testing.assert_allclose(np.bincount(boxes[:, 1], minlength=2) / 3000, 1 / 2, atol=0.04)


@pytest.mark.parametrize("draw", [crop_box, single_draw_box])
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (7, 3), (32, 32), (500, 400)])
def test_every_box_is_inside_the_image(draw, size):
    for seed in range(100):
        left, top, right, bottom = draw(*size, (0.01, 1.0), (0.75, 1.333), rng(seed))
        assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]


@pytest.mark.parametrize("size, box", [((400, 100), (133, 0, 266, 100)), ((100, 400), (0, 133, 100, 266)),
                                       ((100, 100), (0, 0, 100, 100))])
def test_when_nothing_fits_the_largest_centred_box_is_taken(size, box):
    # An area of the whole image fits only if the aspect ratio is the image's own.
    ratio = (0.75, 1.333) if size[0] != size[1] else (1.0, 1.0)
    assert crop_box(*size, (1.0, 1.0), ratio, rng()) == box


def test_the_linear_probe_draws_once_and_cuts_the_box_to_the_image():
    assert single_draw_box(400, 100, (1.0, 1.0), (1.0, 1.0), rng())[1::2] == (0, 100)
    box = single_draw_box(400, 100, (1.0, 1.0), (1.0, 1.0), rng())
    assert box[2] - box[0] == 200
    config = Config(task="linprobe", image_size=24, hflip=0.0, interpolation="bicubic")
    box = single_draw_box(60, 45, config.scale, config.ratio, rng(3))
    np.testing.assert_array_equal(train_transform(config)(noise(), rng(3)),
                                  expected(noise().resize((24, 24), BICUBIC, box=box)))


def test_a_small_image_is_resized_up():
    config = Config(dataset="cifar10", image_size=224, interpolation="bicubic", **FULL)
    large = noise(32, 32).resize((224, 224), BICUBIC)
    np.testing.assert_array_equal(train_transform(config)(noise(32, 32), rng()), expected(large, *statistics(config)))


# Flips, jitter, auto-augmentation in the pipeline

@pytest.mark.parametrize("key, pil", [("hflip", ImageOps.mirror), ("vflip", ImageOps.flip)])
def test_flips_are_pils_and_happen_with_their_probability(key, pil):
    image = noise(16, 16)
    transform = train_transform(Config(image_size=16, **{**FULL, key: 0.3}))
    arrays = [transform(image, rng(seed)) for seed in range(800)]
    share = np.mean([np.array_equal(array, expected(pil(image))) for array in arrays])
    assert share == pytest.approx(0.3, abs=0.05)
    assert np.mean([np.array_equal(array, expected(image)) for array in arrays]) == pytest.approx(1 - share)


def test_jitter_factors_are_uniform_within_the_strength():
    grey = Image.new("RGB", (4, 4), (100, 100, 100))
    values = [ColorJitter(0.4, 0.0, 0.0)(grey, rng(seed)).getpixel((0, 0))[0] for seed in range(1000)]
    assert 59 <= min(values) <= 62 and 138 <= max(values) <= 140
    np.testing.assert_allclose(np.quantile(values, [0.25, 0.5, 0.75]), [80, 100, 120], atol=4)


def test_jitter_of_saturation_and_contrast_spreads_and_narrows():
    image = noise()
    for strengths in ((0.0, 0.5, 0.0), (0.0, 0.0, 0.5)):
        spread = [np.asarray(ColorJitter(*strengths)(image, rng(seed))).std() for seed in range(40)]
        assert min(spread) < 0.9 * np.asarray(image).std() and max(spread) > np.asarray(image).std()


def test_jitter_without_strength_changes_nothing():
    np.testing.assert_array_equal(np.asarray(ColorJitter(0, 0, 0, 0)(noise(), rng())), np.asarray(noise()))


def test_jitter_never_darkens_below_black():
    values = {ColorJitter(2.0, 0, 0)(Image.new("RGB", (1, 1), "white"), rng(s)).getpixel((0, 0)) for s in range(50)}
    assert len(values) > 5


def test_a_third_of_the_circle_turns_red_into_green():
    red = Image.new("RGB", (2, 2), (255, 0, 0))
    np.testing.assert_allclose(shift_hue(red, 1 / 3).getpixel((0, 0)), (0, 255, 0), atol=8)
    np.testing.assert_allclose(shift_hue(red, -1 / 3).getpixel((0, 0)), (0, 0, 255), atol=8)
    assert shift_hue(red, 1.0).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("strength", [0.4, (0.4, 0.4, 0.4), (0.4, 0.4, 0.4, 0.0)])
def test_one_jitter_strength_means_brightness_contrast_and_saturation(strength):
    image = noise(16, 16)
    array = train_transform(Config(image_size=16, color_jitter=strength, **FULL))(image, rng(4))
    reference = train_transform(Config(image_size=16, color_jitter=(0.4, 0.4, 0.4, 0.0), **FULL))(image, rng(4))
    np.testing.assert_array_equal(array, reference)
    assert not np.array_equal(array, expected(image))


def test_hue_jitter_works_on_colour_and_leaves_grey_alone():
    image = noise(16, 16)
    coloured = train_transform(Config(image_size=16, color_jitter=(0, 0, 0, 0.5), **FULL))(image, rng(1))
    assert not np.array_equal(coloured, expected(image))
    config = Config(image_size=16, in_channels=1, color_jitter=(0, 0, 0, 0.5), **FULL)
    grey = train_transform(config)(image, rng(1))
    np.testing.assert_array_equal(grey, expected(image.convert("L"), *statistics(config)))


@pytest.mark.parametrize("value", [(0.4, 0.4), (0.1, 0.1, 0.1, 0.6), (0.1,) * 5])
def test_a_wrong_list_of_jitter_strengths_is_refused(value):
    with pytest.raises(UserError, match="color_jitter .* hue of at most 0.5"):
        train_transform(Config(color_jitter=value))


def test_auto_augment_takes_the_place_of_colour_jitter():
    keys = dict(image_size=16, auto_augment="rand-m9-p0", **FULL)
    array = train_transform(Config(color_jitter=0.9, **keys))(noise(16, 16), rng())
    np.testing.assert_array_equal(array, expected(noise(16, 16)))


def test_auto_augment_uncovers_the_mean_colour_of_the_data_set():
    white = Image.new("RGB", (16, 16), "white")
    transform = train_transform(Config(image_size=16, dataset="cifar10", auto_augment="rand-m9-p1-n1-w0", **FULL))
    mean, std = statistics(Config(dataset="cifar10"))
    fill = expected(Image.new("RGB", (1, 1), tuple(round(255 * m) for m in mean)), mean, std)
    assert any((transform(white, rng(seed)) == fill).all(0).any() for seed in range(20))


# Random erasing

def erased(mode="const", count=1, size=(100, 80), seed=0, channels=3):
    array = np.full((channels, *size), 7.0, dtype=np.float32)
    RandomErasing(1.0, mode, count)(array, rng(seed))
    return array, array[0] != 7.0


def test_erasing_happens_with_its_probability():
    erase, generator = RandomErasing(0.25, "const"), rng()
    hits = 0
    for _ in range(1000):
        array = np.ones((1, 8, 8), dtype=np.float32)
        erase(array, generator)
        hits += not array.all()
    assert hits / 1000 == pytest.approx(0.25, abs=0.05)


def test_the_erased_box_has_the_published_area_and_aspect():
    shares, aspects = [], []
    for seed in range(500):
        _, box = erased(seed=seed)
        height, width = box.any(1).sum(), box.any(0).sum()
        assert box.sum() == height * width > 0
        shares.append(box.mean())
        aspects.append(height / width)
    assert 0.018 < min(shares) < 0.03 and 0.28 < max(shares) < 0.35
    assert 0.28 < min(aspects) < 0.4 and 2.5 < max(aspects) < 3.6


def test_several_boxes_share_the_area():
    shares = [erased(count=4, seed=seed)[1].mean() for seed in range(300)]
    assert 0 < min(shares) and max(shares) < 1 / 3 + 0.02


@pytest.mark.parametrize("channels", [1, 3])
def test_erasing_modes_fill_with_zero_one_colour_or_noise(channels):
    array, box = erased("const", channels=channels)
    assert (array[:, box] == 0).all()
    array, box = erased("rand", channels=channels)
    assert all(len(np.unique(plane[box])) == 1 for plane in array)
    assert len(np.unique(array[:, box])) == channels
    array, box = erased("pixel", size=(400, 400), channels=channels)
    assert array[:, box].mean() == pytest.approx(0, abs=0.1) and array[:, box].std() == pytest.approx(1, abs=0.05)


def test_erasing_a_tiny_image_does_not_fail():
    for seed in range(50):
        for size in ((1, 1), (2, 3)):
            array, _ = erased("pixel", size=size, seed=seed)
            assert np.isfinite(array).all()


def test_erasing_comes_after_normalisation():
    array = train_transform(Config(image_size=32, re_prob=1.0, re_mode="const", **FULL))(noise(32, 32), rng())
    changed = array != expected(noise(32, 32))
    assert changed.any() and (array[changed] == 0).all()


# The whole training pipeline

EVERYTHING = dict(image_size=32, interpolation="random", vflip=0.3, re_prob=0.5, re_mode="pixel", re_count=3)


@pytest.mark.parametrize("more", [dict(auto_augment="randaug-m9-mstd0.5-inc1"), dict(auto_augment="autoaugment"),
                                  dict(color_jitter=(0.4, 0.4, 0.4, 0.1)), dict(color_jitter=0.4, in_channels=1)])
def test_the_same_generator_state_gives_the_same_array_also_after_pickling(more):
    transform = train_transform(Config(**EVERYTHING, **more))
    copy = pickle.loads(pickle.dumps(transform))
    image = noise()
    before = np.asarray(image).copy()
    for seed in range(20):
        array = transform(image, rng(seed))
        assert array.shape == (more.get("in_channels", 3), 32, 32) and array.dtype == np.float32
        np.testing.assert_array_equal(array, copy(image, rng(seed)))
        assert not np.array_equal(array, transform(image, rng(seed + 100)))
    np.testing.assert_array_equal(np.asarray(image), before)


def test_one_input_channel_reads_the_image_as_grey():
    config = Config(image_size=20, in_channels=1, **FULL)
    grey = noise(30, 30).convert("L").resize((20, 20), BILINEAR)
    np.testing.assert_array_equal(train_transform(config)(noise(30, 30), rng()), expected(grey, *statistics(config)))


def test_an_unknown_interpolation_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match="interpolation 'bicubik' .* Did you mean 'bicubic'"):
        train_transform(Config(interpolation="bicubik"))


# Evaluation

@pytest.mark.parametrize("size, short_side", [(224, 256), (256, 288), (192, 224), (384, 432), (32, 32), (20, 20),
                                              (33, 33)])
def test_without_crop_pct_the_old_zoos_rule_holds_but_never_below_the_crop(size, short_side):
    assert eval_transform(Config(image_size=size, crop_pct=None)).short_side == short_side


@pytest.mark.parametrize("size, crop_pct, short_side", [(224, 0.875, 256), (224, 0.9, 248), (224, 1.0, 224),
                                                        (32, 1.0, 32)])
def test_crop_pct_is_the_share_of_the_resized_short_side(size, crop_pct, short_side):
    assert eval_transform(Config(image_size=size, crop_pct=crop_pct)).short_side == short_side


@pytest.mark.parametrize("image_size, resized", [((90, 60), (72, 48)), ((61, 100), (48, 78)), ((30, 30), (48, 48))])
@pytest.mark.parametrize("interpolation, resample", [("bilinear", BILINEAR), ("bicubic", BICUBIC)])
def test_evaluation_is_pils_resize_of_the_short_side_and_centre_crop(image_size, resized, interpolation, resample):
    array = eval_transform(Config(image_size=42, crop_pct=0.875, interpolation=interpolation))(noise(*image_size))
    left, top = round((resized[0] - 42) / 2), round((resized[1] - 42) / 2)
    crop = noise(*image_size).resize(resized, resample).crop((left, top, left + 42, top + 42))
    np.testing.assert_array_equal(array, expected(crop))


def test_cifar_images_are_resized_to_the_network_size():
    config = Config(dataset="cifar100", image_size=224, crop_pct=1.0, eval_interpolation="bicubic")
    array = eval_transform(config)(noise(32, 32))
    np.testing.assert_array_equal(array, expected(noise(32, 32).resize((224, 224), BICUBIC), *statistics(config)))


def test_evaluation_has_its_own_size_and_filter():
    config = Config(image_size=16, eval_image_size=24, eval_interpolation="bicubic", crop_pct=1.0)
    array = eval_transform(config)(noise(50, 50))
    np.testing.assert_array_equal(array, expected(noise(50, 50).resize((24, 24), BICUBIC)))


def test_random_interpolation_means_bicubic_in_evaluation():
    array = eval_transform(Config(image_size=24, interpolation="random", crop_pct=1.0))(noise(50, 50))
    np.testing.assert_array_equal(array, expected(noise(50, 50).resize((24, 24), BICUBIC)))


def test_evaluation_reads_one_channel_as_grey_and_can_be_pickled():
    config = Config(image_size=16, in_channels=1, crop_pct=None)
    array = pickle.loads(pickle.dumps(eval_transform(config)))(noise(16, 16))
    np.testing.assert_array_equal(array, expected(noise(16, 16).convert("L"), *statistics(config)))
