"""Losses against float64 formulas: values, gradients, large logits, float16, both kinds of labels, both modes."""
import functools
import json
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from scipy.optimize import approx_fprime
from scipy.special import log_softmax, softmax

from common.augment.mixup import smooth_one_hot
from common.config.options import Config
from common.errors import UserError
from common.loss import (LOSSES, AsymmetricLoss, BinaryCrossEntropy, CrossEntropy, JensenShannon, SmoothCrossEntropy,
                         SmoothMixupCrossEntropy, build_loss, log_softmax as ours, softplus)

ZOO = json.loads((Path(__file__).resolve().parent / "data" / "golden" / "zoo_loss.json").read_text())
B, K = 6, 5
RNG = np.random.default_rng(7)
LOGITS = (3 * RNG.standard_normal((B, K))).astype(np.float32)
LABELS = np.array([0, 4, 2, 2, 1, 3], np.int32)
ROWS = RNG.dirichlet(np.ones(K), B).astype(np.float32)


def hot(labels, classes=K):
    return np.eye(classes)[labels]


def smoothed(rows, s):
    return rows * (1 - s) + s / rows.shape[1]


def ce(x, y):
    return -(y * log_softmax(x, -1)).sum(-1).mean()


def bce(x, y):
    return (y * np.logaddexp(0, -x) + (1 - y) * np.logaddexp(0, x)).mean()


def asymmetric(x, y, gamma_neg=4, gamma_pos=0, clip=0.05):
    p = 1 / (1 + np.exp(-x))
    q = np.maximum(p - clip, 0)
    return -(y * (1 - p) ** gamma_pos * np.log(p) + (1 - y) * q ** gamma_neg * np.log(1 - q)).sum(-1).mean()


def jensen_shannon(x, y, alpha=12):
    parts = x.reshape(3, -1, x.shape[1])
    p = softmax(parts, -1)
    mean = p.mean(0)
    divergence = np.mean([(q * np.log(q / mean)).sum(-1).mean() for q in p])
    return ce(parts[0], y[:parts.shape[1]]) + alpha * divergence


def zoo_mixup(rows, s):
    return (1 - s) * rows + s / (rows.shape[1] - 2) * (rows == 0)


def zoo_smooth(rows, s):
    return np.where(rows == 1, 1 - s, s / (rows.shape[1] - 1))


# name, cell, labels, formula(logits): one line for every loss and kind of label
CASES = {
    "ce": (CrossEntropy(), LABELS, lambda x: ce(x, hot(LABELS))),
    "ce smoothed": (CrossEntropy(0.1), LABELS, lambda x: ce(x, smoothed(hot(LABELS), 0.1))),
    "ce rows": (CrossEntropy(0.1), ROWS, lambda x: ce(x, ROWS)),
    "ce_smooth": (SmoothCrossEntropy(0.1), LABELS, lambda x: ce(x, zoo_smooth(hot(LABELS), 0.1))),
    "ce_smooth rows": (SmoothCrossEntropy(0.1), ROWS, lambda x: ce(x, ROWS)),
    "ce_smooth_mixup": (SmoothMixupCrossEntropy(0.1), LABELS, lambda x: ce(x, zoo_mixup(hot(LABELS), 0.1))),
    "ce_smooth_mixup rows": (SmoothMixupCrossEntropy(0.1), hot([0, 4, 2, 2, 1, 3]).astype("f") * 0.7
                             + hot([1, 4, 3, 0, 1, 3]).astype("f") * 0.3,
                             lambda x: ce(x, zoo_mixup(0.7 * hot([0, 4, 2, 2, 1, 3]) + 0.3 * hot([1, 4, 3, 0, 1, 3]),
                                                       0.1))),
    "bce": (BinaryCrossEntropy(0.1), LABELS, lambda x: bce(x, smoothed(hot(LABELS), 0.1))),
    "bce rows": (BinaryCrossEntropy(0.1), ROWS, lambda x: bce(x, smoothed(ROWS, 0.1))),
    "asl": (AsymmetricLoss(), LABELS, lambda x: asymmetric(x, hot(LABELS))),
    "asl smoothed": (AsymmetricLoss(0.1), LABELS, lambda x: asymmetric(x, smoothed(hot(LABELS), 0.1))),
    "asl focused positives": (AsymmetricLoss(gamma_neg=2, gamma_pos=1, clip=0.2), ROWS,
                              lambda x: asymmetric(x, ROWS, 2, 1, 0.2)),
    "jsd": (JensenShannon(0.1), LABELS, lambda x: jensen_shannon(x, smoothed(hot(LABELS), 0.1))),
    "jsd rows": (JensenShannon(), ROWS, lambda x: jensen_shannon(x, ROWS)),
}


def value_and_gradient(cell, logits, labels):
    value, gradient = ms.value_and_grad(cell, 0)(Tensor(logits), Tensor(labels))
    assert value.dtype == ms.float32 and value.shape == ()
    return float(value.asnumpy()), gradient.asnumpy()


@pytest.mark.parametrize("name", list(CASES))
def test_value_and_gradient_follow_the_formula(name, mode):
    cell, labels, formula = CASES[name]
    value, gradient = value_and_gradient(cell, LOGITS, labels)
    x = LOGITS.astype(np.float64)
    assert value == pytest.approx(formula(x), rel=5e-6)
    expected = approx_fprime(x.ravel(), lambda v: formula(v.reshape(x.shape)), 1e-7).reshape(x.shape)
    np.testing.assert_allclose(gradient, expected, atol=2e-6)


def test_zoo_losses_give_the_numbers_of_the_old_zoo(mode):
    logits = np.array(ZOO["logits"], np.float32)
    mixed, _ = value_and_gradient(SmoothMixupCrossEntropy(ZOO["smooth"]), logits, np.array(ZOO["soft_labels"], "f"))
    hard, _ = value_and_gradient(SmoothCrossEntropy(ZOO["smooth"]), logits, np.array(ZOO["hard_labels"], np.int32))
    assert mixed == pytest.approx(ZOO["ce_smooth_mixup_reference"], rel=2e-6)
    assert hard == pytest.approx(ZOO["ce_smooth_reference"], rel=2e-6)


@pytest.mark.parametrize("name", [name for name in CASES if " " not in name] + ["asl focused positives"])
def test_logits_of_any_size_stay_finite(name, mode):
    cell, labels, _ = CASES[name]
    logits = np.array([[1e4, -1e4, 0, 3e4, -3e4]] * B, np.float32)
    value, gradient = value_and_gradient(cell, logits, labels)
    assert np.isfinite(value) and np.isfinite(gradient).all()
    assert value > 0


@pytest.mark.parametrize("name", ["ce", "bce rows", "asl", "jsd"])
def test_float16_logits_are_computed_in_float32(name, mode):
    cell, labels, formula = CASES[name]
    half = LOGITS.astype(np.float16)
    value, gradient = value_and_gradient(cell, half, labels)
    assert value == pytest.approx(formula(half.astype(np.float64)), rel=5e-6)
    assert gradient.dtype == np.float16


@pytest.mark.parametrize("name, expected", [("ce", (1 / K - hot(LABELS)) / B), ("bce", (0.5 - hot(LABELS)) / (B * K))])
def test_gradient_at_logits_of_exactly_zero(name, expected, mode):
    """A head that starts at zero must learn from the first step; a formula with abs or max has no gradient there."""
    loss = build_loss(Config(loss=name.upper()))
    _, gradient = value_and_gradient(loss, np.zeros((B, K), np.float32), LABELS)
    np.testing.assert_allclose(gradient, expected, rtol=5e-6)


def test_a_loss_is_the_same_in_every_call():
    """The framework's logarithm is not, on a CPU in calls 5 to 14: a few values are computed one by one or together."""
    values = Tensor((3 * np.random.default_rng(0).random((6, 7)) + 0.3).astype(np.float32))
    labels = Tensor(np.array([0, 2, 5, 6, 1, 3], np.int32))
    cells = [AsymmetricLoss(gamma_pos=1), *(kind.cell() for kind in LOSSES.values())]
    functions = [ours, softplus, *(functools.partial(_loss_and_gradient, cell, labels) for cell in cells)]
    for function in functions:
        for count in (1, 2, 4, 6):
            if function is not functions[-1] or count % 3 == 0:  # the last one, jsd, has three copies of every image
                found = {function(values[:count]).asnumpy().tobytes() for _ in range(15)}
                assert len(found) == 1, (function, count)


def _loss_and_gradient(cell, labels, logits):
    value, gradient = ms.value_and_grad(cell, 0)(logits, labels[:logits.shape[0]])
    return ms.ops.concat([value.reshape(1), gradient.reshape(-1)])


def test_rows_from_the_pipeline_and_smoothed_class_numbers_are_the_same_target(mode):
    from_numbers, _ = value_and_gradient(CrossEntropy(0.1), LOGITS, LABELS)
    from_rows, _ = value_and_gradient(CrossEntropy(0.1), LOGITS, smooth_one_hot(LABELS, K, 0.1))
    assert from_numbers == pytest.approx(from_rows, rel=1e-6)


def test_int64_labels_are_accepted(mode):
    wide, _ = value_and_gradient(CrossEntropy(), LOGITS, LABELS.astype(np.int64))
    assert wide == pytest.approx(ce(LOGITS.astype(np.float64), hot(LABELS)), rel=5e-6)


def test_divergence_vanishes_for_equal_predictions_and_needs_the_labels_of_the_clean_images_only(mode):
    logits = np.concatenate([LOGITS[:2]] * 3)
    value, _ = value_and_gradient(JensenShannon(), logits, LABELS[:2])
    assert value == pytest.approx(ce(LOGITS[:2].astype(np.float64), hot(LABELS[:2])), rel=2e-5)


def test_jensen_shannon_refuses_a_batch_that_does_not_split():
    with pytest.raises(ValueError, match="5 images does not split into 3 groups"):
        JensenShannon()(Tensor(LOGITS[:5]), Tensor(LABELS[:5]))


def test_mixup_smoothing_of_two_classes_spreads_nothing(mode):
    logits, rows = LOGITS[:, :2], np.array([[1, 0], [0.3, 0.7]] * 3, np.float32)
    value, _ = value_and_gradient(SmoothMixupCrossEntropy(0.1), logits, rows)
    assert value == pytest.approx(ce(logits.astype(np.float64), 0.9 * rows), rel=5e-6)


@pytest.mark.parametrize("name, cell", [("CE", CrossEntropy), ("ce", CrossEntropy), ("soft_ce", CrossEntropy),
                                        ("BCE", BinaryCrossEntropy), ("ce_smooth", SmoothCrossEntropy),
                                        ("CE_Smooth_Mixup", SmoothMixupCrossEntropy), ("ASL", AsymmetricLoss),
                                        ("jsd", JensenShannon)])
def test_build_loss_finds_names_in_any_case_and_passes_the_smoothing(name, cell):
    loss = build_loss(Config(loss=name, label_smoothing=0.1))
    assert type(loss) is cell and loss.smoothing == 0.1


def test_use_label_smooth_switches_the_smoothing_off():
    assert build_loss(Config(loss="CE", label_smoothing=0.1, use_label_smooth=False)).smoothing == 0


def test_unknown_loss_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match="Did you mean 'ce_smooth'"):
        build_loss(Config(loss="ce_smoth"))
