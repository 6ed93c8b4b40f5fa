"""Mixup, cutmix and the smoothed targets, against their formulas."""
import numpy as np
import pytest

from common.augment.mixup import Mixer, cutmix_box, smooth_one_hot
from common.errors import UserError

CLASSES = 10


def batch(count=6, size=16, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, 3, size, size), dtype=np.float32), np.arange(count, dtype=np.int32) % CLASSES


def mixer(mixup=0.8, cutmix=1.0, prob=1.0, switch=0.5, smoothing=0.0):
    return Mixer(mixup, cutmix, prob, switch, CLASSES, smoothing)


def kept_share(targets, labels):
    """The lambda that the first row of unsmoothed targets tells."""
    return float(targets[0, labels[0]])


def test_smooth_one_hot_gives_the_off_and_on_values_of_the_formula():
    targets = smooth_one_hot(np.array([2, 0], dtype=np.int32), 5, 0.1)
    expected = np.full((2, 5), 0.1 / 5)
    expected[0, 2] = expected[1, 0] = 1 - 0.1 + 0.1 / 5
    assert targets.dtype == np.float32
    np.testing.assert_allclose(targets, expected, rtol=1e-6)
    np.testing.assert_allclose(targets.sum(1), 1.0, rtol=1e-6)


def test_without_smoothing_the_targets_are_one_hot():
    np.testing.assert_array_equal(smooth_one_hot(np.array([1, 3]), 4), np.eye(4, dtype=np.float32)[[1, 3]])


@pytest.mark.parametrize("label", [-1, 10])
def test_a_label_outside_the_classes_is_named(label):
    with pytest.raises(UserError, match=rf"num_classes 10 .* label {label};"):
        smooth_one_hot(np.array([0, label, 3]), CLASSES)


@pytest.mark.parametrize("count", [1, 2, 5, 6])
def test_mixup_blends_each_image_with_its_mirror_in_the_batch(count):
    images, labels = batch(count)
    mixed, targets = mixer(cutmix=0)(images.copy(), labels, np.random.default_rng(3))
    lam = kept_share(targets, labels) if count > 1 else 0.3
    wide = images.astype(np.float64)
    np.testing.assert_allclose(mixed, lam * wide + (1 - lam) * wide[::-1], atol=1e-6)
    hot = np.eye(CLASSES)[labels]
    np.testing.assert_allclose(targets, lam * hot + (1 - lam) * hot[::-1], atol=1e-6)


def test_the_middle_image_of_an_odd_batch_stays_as_it_is():
    images, labels = batch(5)
    for recipe in (mixer(cutmix=0), mixer(mixup=0)):
        mixed, targets = recipe(images.copy(), labels, np.random.default_rng(1))
        np.testing.assert_array_equal(mixed[2], images[2])
        np.testing.assert_allclose(targets[2], np.eye(CLASSES)[labels[2]], atol=1e-6)


def test_cutmix_takes_a_box_from_the_partner_and_its_area_is_the_label_share():
    images, labels = batch(6)
    for seed in range(20):
        mixed, targets = mixer(mixup=0)(images.copy(), labels, np.random.default_rng(seed))
        foreign = mixed != images
        np.testing.assert_array_equal(mixed[foreign], images[::-1][foreign])
        box = foreign[0, 0]
        assert all(np.array_equal(box, plane) for plane in foreign.reshape(-1, *box.shape))
        rows, columns = box.any(1).sum(), box.any(0).sum()
        assert box.sum() == rows * columns
        assert 1 - targets[0, labels[0]] == pytest.approx(box.mean(), abs=1e-6)


def test_the_cutmix_box_is_inside_the_image_and_has_the_size_of_the_formula():
    rng = np.random.default_rng(0)
    for _ in range(500):
        lam = rng.random()
        top, bottom, left, right = cutmix_box(20, 50, lam, rng)
        assert 0 <= top <= bottom <= 20 and 0 <= left <= right <= 50
        assert bottom - top <= 20 * np.sqrt(1 - lam) and right - left <= 50 * np.sqrt(1 - lam)
        if 0 < top and bottom < 20:
            assert bottom - top == int(20 * np.sqrt(1 - lam)) // 2 * 2


def test_a_lambda_of_one_leaves_an_empty_box():
    top, bottom, left, right = cutmix_box(32, 32, 1.0, np.random.default_rng(0))
    assert (bottom - top) * (right - left) == 0


@pytest.mark.parametrize("alpha", [0.2, 0.8, 1.0])
def test_lambda_follows_the_beta_distribution(alpha):
    images, labels = batch(2, size=2)
    rng = np.random.default_rng(5)
    recipe = mixer(mixup=alpha, cutmix=0)
    drawn = np.array([kept_share(recipe(images.copy(), labels, rng)[1], labels) for _ in range(4000)])
    assert drawn.mean() == pytest.approx(0.5, abs=0.03)
    assert drawn.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.07)


def test_a_batch_is_mixed_with_probability_prob_and_is_otherwise_untouched():
    images, labels = batch(4, size=4)
    rng = np.random.default_rng(2)
    untouched = 0
    for _ in range(1000):
        mixed, targets = mixer(prob=0.3, cutmix=0, smoothing=0.1)(images.copy(), labels, rng)
        if np.array_equal(mixed, images):
            untouched += 1
            np.testing.assert_array_equal(targets, smooth_one_hot(labels, CLASSES, 0.1))
    assert untouched / 1000 == pytest.approx(0.7, abs=0.05)


def test_cutmix_is_chosen_with_the_switch_probability():
    images, labels = batch(2, size=32)
    rng = np.random.default_rng(4)
    recipe = mixer(switch=0.25)
    # A mixed pixel is new; cutmix only moves pixels.
    cut = sum(np.isin(recipe(images.copy(), labels, rng)[0], images).all() for _ in range(800))
    assert cut / 800 == pytest.approx(0.25, abs=0.05)


def test_no_alpha_leaves_the_images_and_smooths_the_labels():
    images, labels = batch()
    mixed, targets = mixer(mixup=0, cutmix=0, smoothing=0.2)(images.copy(), labels, np.random.default_rng(0))
    np.testing.assert_array_equal(mixed, images)
    np.testing.assert_array_equal(targets, smooth_one_hot(labels, CLASSES, 0.2))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_targets_are_float32_and_their_rows_sum_to_one(smoothing):
    images, labels = batch(7)
    for seed in range(20):
        _, targets = mixer(smoothing=smoothing)(images.copy(), labels, np.random.default_rng(seed))
        assert targets.dtype == np.float32 and targets.shape == (7, CLASSES)
        np.testing.assert_allclose(targets.sum(1), 1.0, atol=1e-6)


def test_two_images_of_one_class_keep_its_hard_target():
    images, _ = batch(2)
    _, targets = mixer(cutmix=0)(images, np.array([4, 4]), np.random.default_rng(0))
    np.testing.assert_allclose(targets, np.eye(CLASSES)[[4, 4]], atol=1e-6)


def test_the_batch_is_mixed_in_place_but_a_read_only_one_is_copied():
    images, labels = batch()
    before = images.copy()
    mixed, _ = mixer(cutmix=0)(images, labels, np.random.default_rng(0))
    assert mixed is images and not np.array_equal(images, before)
    before.flags.writeable = False
    again, _ = mixer(cutmix=0)(before, labels, np.random.default_rng(0))
    np.testing.assert_array_equal(again, mixed)
    assert again is not before


def test_the_same_generator_state_gives_the_same_batch():
    images, labels = batch()
    first = mixer()(images.copy(), labels, np.random.default_rng(9))
    second = mixer()(images.copy(), labels, np.random.default_rng(9))
    other = mixer()(images.copy(), labels, np.random.default_rng(10))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize("key, values", [
    ("mixup ", dict(mixup=-0.1)), ("cutmix ", dict(cutmix=float("inf"))), ("mixup_prob ", dict(prob=1.5)),
    ("mixup_switch_prob ", dict(switch=-1)), ("label_smoothing ", dict(smoothing=2))])
def test_numbers_out_of_range_are_named(key, values):
    with pytest.raises(UserError, match=f"^{key}"):
        mixer(**values)
