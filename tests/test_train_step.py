"""The order of an optimizer step: forward, backward, sum, reduce, unscale, check, clip, update, average."""
import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn
from small_networks import FloatStatus, Linear, Saturating, WithStatistics

from common.config.load import from_mapping
from common.optimizer.rules import SGD
from common.tasks.train import overflow_check
from common.train_step import ClassifierLoss, TrainStep, share_into_buckets

FEATURES, CLASSES, LR = 12, 4, 0.5


def make_step(network=None, **options):
    network = network or Linear(FEATURES, CLASSES)
    optimizer = SGD(network.trainable_params(), LR, momentum=0.0)
    return TrainStep(ClassifierLoss(network, nn.CrossEntropyLoss()), network, optimizer, **options)


def batch(size=8, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    images = (scale * rng.normal(size=(size, 3, 2, 2))).astype(np.float32)
    return images, rng.integers(0, CLASSES, size).astype(np.int32)


def feed(step, images, labels):
    return float(step(Tensor(images), Tensor(labels)).asnumpy())


def gradient(weight, bias, images, labels):
    """Loss and gradient of the linear network's mean cross entropy, in float64."""
    x = images.reshape(len(images), -1).astype(np.float64)
    logits = x @ weight.T + bias
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    loss = -np.log(p[np.arange(len(labels)), labels]).mean()
    p[np.arange(len(labels)), labels] -= 1
    return loss, p.T @ x / len(labels), p.mean(0)


def parameters(step):
    head = step.network.head
    return head.weight.asnumpy().astype(np.float64), head.bias.asnumpy().astype(np.float64)


def norm(*arrays):
    return np.sqrt(sum((a**2).sum() for a in arrays))


def test_a_plain_step_descends_the_gradient(mode):
    step = make_step()
    w, b = parameters(step)
    loss, dw, db = gradient(w, b, *batch())
    assert feed(step, *batch()) == pytest.approx(loss, rel=1e-5)
    np.testing.assert_allclose(parameters(step)[0], w - LR * dw, atol=1e-6)
    np.testing.assert_allclose(parameters(step)[1], b - LR * db, atol=1e-6)


def test_accumulation_of_micro_batches_equals_one_large_batch(mode):
    images, labels = batch(12)
    whole, parts = make_step(clip_norm=0.05), make_step(clip_norm=0.05, accumulation_steps=3)
    feed(whole, images, labels)
    before = parameters(parts)[0]
    for i in range(3):
        np.testing.assert_array_equal(parameters(parts)[0], before)  # nothing moves before the last micro-batch
        feed(parts, images[4 * i:4 * i + 4], labels[4 * i:4 * i + 4])
    np.testing.assert_allclose(parameters(parts)[0], parameters(whole)[0], atol=1e-6)
    np.testing.assert_allclose(parameters(parts)[1], parameters(whole)[1], atol=1e-6)


def test_the_sum_starts_anew_after_an_update(mode):
    step = make_step(accumulation_steps=2)
    for seed in range(4):
        feed(step, *batch(seed=seed))
    other = make_step(accumulation_steps=2)
    for first in (0, 2):
        w, b = parameters(other)
        grads = [gradient(w, b, *batch(seed=first + i)) for i in range(2)]
        other.network.head.weight.set_data(Tensor(w - LR * (grads[0][1] + grads[1][1]) / 2, ms.float32))
        other.network.head.bias.set_data(Tensor(b - LR * (grads[0][2] + grads[1][2]) / 2, ms.float32))
    np.testing.assert_allclose(parameters(step)[0], parameters(other)[0], atol=2e-6)


def test_clipping_sees_the_unscaled_mean_gradient(mode):
    """Clipping before unscaling would shrink every scaled gradient to nothing."""
    clip = 0.2
    step = make_step(clip_norm=clip, loss_scale=1024.0)
    w, b = parameters(step)
    _, dw, db = gradient(w, b, *batch())
    feed(step, *batch())
    factor = clip / norm(dw, db)
    assert factor < 1  # otherwise the test shows nothing
    np.testing.assert_allclose(w - parameters(step)[0], LR * factor * dw, atol=1e-6)
    assert float(step.grad_norm.asnumpy()) == pytest.approx(norm(dw, db), rel=1e-5)


def test_a_sum_of_squares_is_a_product_on_a_cpu_but_where_it_is_fused(mode):
    by_product, fused = make_step(), make_step()
    fused.before_fusing()
    assert by_product.square_sum is not fused.square_sum
    _, dw, db = gradient(*parameters(fused), *batch())
    for step in (by_product, fused):
        feed(step, *batch())
        assert float(step.grad_norm.asnumpy()) == pytest.approx(norm(dw, db), rel=1e-5)


def test_a_small_gradient_is_not_clipped(mode):
    step = make_step(clip_norm=100.0)
    w, b = parameters(step)
    _, dw, _ = gradient(w, b, *batch())
    feed(step, *batch())
    np.testing.assert_allclose(w - parameters(step)[0], LR * dw, atol=1e-6)


@pytest.mark.parametrize("options", [{"loss_scale": 2.0**12}, {"loss_scale": 2.0**12, "dynamic_loss_scale": True}])
def test_the_loss_scale_leaves_no_trace(options, mode):
    scaled, plain = make_step(**options), make_step()
    for seed in range(3):
        assert feed(scaled, *batch(seed=seed)) == pytest.approx(feed(plain, *batch(seed=seed)), rel=1e-5)
    np.testing.assert_allclose(parameters(scaled)[0], parameters(plain)[0], atol=1e-6)


def test_an_overflow_changes_neither_weights_nor_average_and_halves_the_scale(mode):
    step = make_step(loss_scale=8.0, dynamic_loss_scale=True, ema_decay=0.5)
    feed(step, *batch(seed=1))
    weights, average = parameters(step)[0], step.ema[0].asnumpy()
    assert (average != weights.astype(np.float32)).any()  # so that an average that moves is seen
    step.loss_scale.set_data(Tensor(2.0**100, ms.float32))
    images, labels = batch(scale=1e4)  # the norm of the scaled gradient leaves float32, the loss does not
    loss = feed(step, images, labels)
    assert np.isfinite(loss)
    np.testing.assert_array_equal(parameters(step)[0], weights)
    np.testing.assert_array_equal(step.ema[0].asnumpy(), average)
    assert float(step.loss_scale.asnumpy()) == 2.0**99
    assert int(step.skipped.asnumpy()) == 1
    assert int(step.optimizer.global_step.asnumpy()[0]) == 1
    assert int(step.bad_step.asnumpy()) == -1


def test_the_scale_doubles_after_a_window_of_good_updates(mode):
    step = make_step(loss_scale=8.0, dynamic_loss_scale=True, scale_window=3)
    scales = []
    for seed in range(7):
        feed(step, *batch(seed=seed))
        scales.append(float(step.loss_scale.asnumpy()))
    assert scales == [8, 8, 16, 16, 16, 32, 32]


def test_the_average_follows_its_formula(mode):
    step = make_step(ema_decay=0.9)
    average = parameters(step)[0]
    for seed in range(3):
        feed(step, *batch(seed=seed))
        average = 0.9 * average + 0.1 * parameters(step)[0]
    np.testing.assert_allclose(step.ema[0].asnumpy(), average, atol=1e-6)


def test_the_average_moves_once_per_update_not_per_micro_batch(mode):
    step = make_step(ema_decay=0.9, accumulation_steps=2)
    start = parameters(step)[0]
    feed(step, *batch(seed=0))
    np.testing.assert_array_equal(step.ema[0].asnumpy(), start.astype(np.float32))
    feed(step, *batch(seed=1))
    np.testing.assert_allclose(step.ema[0].asnumpy(), 0.9 * start + 0.1 * parameters(step)[0], atol=1e-6)


def test_the_average_covers_statistics_that_are_not_trained():
    network = WithStatistics(FEATURES, CLASSES)
    step = make_step(network, ema_decay=0.9)
    names = {p.name for p in step.ema}
    assert {"ema.norm.moving_mean", "ema.norm.moving_variance", "ema.unused"} <= names


def test_the_network_carries_the_average_only_inside_the_block():
    step = make_step(ema_decay=0.5)
    feed(step, *batch())
    weights, average = parameters(step)[0], step.ema[0].asnumpy()
    with step.moving_average():
        np.testing.assert_array_equal(parameters(step)[0], average)
    np.testing.assert_array_equal(parameters(step)[0], weights)


def test_a_loss_that_is_no_number_is_noted_with_its_step_and_kept_from_the_weights(mode):
    step = make_step(clip_norm=1.0)
    feed(step, *batch())
    weights = parameters(step)[0]
    images, labels = batch()
    images[0] = np.nan
    for _ in range(2):
        assert np.isnan(feed(step, images, labels))
    np.testing.assert_array_equal(parameters(step)[0], weights)
    assert int(step.bad_step.asnumpy()) == 2  # the first of them
    assert int(step.skipped_in_row.asnumpy()) == 2


# overflow that leaves every gradient finite

def saturating_step(**options):
    status = FloatStatus()
    return make_step(Saturating(FEATURES, CLASSES, status), all_finite=status, **options), status


@pytest.mark.parametrize("count", [1, 2])
def test_a_cut_off_value_drops_the_update_and_halves_the_scale(count, mode):
    step, _ = saturating_step(dynamic_loss_scale=True, loss_scale=1024.0, ema_decay=0.9, accumulation_steps=count)
    before = parameters(step)
    feed(step, *batch(scale=1e4))
    for seed in range(1, count):
        feed(step, *batch(seed=seed))
    assert np.isfinite(float(step.grad_norm.asnumpy()))  # which is why the norm cannot tell
    np.testing.assert_array_equal(parameters(step)[0], before[0])
    assert (int(step.skipped.asnumpy()), float(step.loss_scale.asnumpy())) == (1, 512.0)
    for seed in range(count):  # and the next one goes on
        feed(step, *batch(seed=seed))
    assert (int(step.skipped.asnumpy()), float(step.loss_scale.asnumpy())) == (1, 512.0)
    assert norm(parameters(step)[0] - before[0]) > 0


def test_what_an_evaluation_has_cut_off_does_not_count(mode):
    step, status = saturating_step(dynamic_loss_scale=True, loss_scale=1024.0)
    status.cut_off.set_data(Tensor(1.0, ms.float32))
    feed(step, *batch())
    assert (int(step.skipped.asnumpy()), float(step.loss_scale.asnumpy())) == (0, 1024.0)


def test_without_the_devices_word_a_cut_off_value_reaches_the_weights():
    """As in the old zoo with a fixed loss scale."""
    step = make_step(Saturating(FEATURES, CLASSES, FloatStatus()), loss_scale=1024.0)
    before = parameters(step)
    feed(step, *batch(scale=1e4))
    assert int(step.skipped.asnumpy()) == 0 and norm(parameters(step)[0] - before[0]) > 0


@pytest.mark.parametrize("device, keys, asked", [
    ("Ascend", {"drop_overflow_update": True}, True), ("Ascend", {"dynamic_loss_scale": True}, True),
    ("Ascend", {}, False), ("Ascend", {"drop_overflow_update": True, "amp_level": "bf16"}, False),
    ("GPU", {"drop_overflow_update": True}, False), ("CPU", {"dynamic_loss_scale": True}, False)])
def test_the_device_is_asked_where_it_saturates_and_updates_may_be_left_out(device, keys, asked):
    check = overflow_check(from_mapping({"amp_level": "O3"} | keys, "test"), device)
    assert check is (ms.amp.all_finite if asked else None)


def test_parameters_are_shared_into_buckets_of_like_size_from_the_last_to_the_first():
    sizes = [1, 2, 1, 4, 1, 1, 2]
    shared = [ms.Parameter(Tensor(np.zeros(size, np.float32)), name=f"p{place}") for place, size in enumerate(sizes)]
    share_into_buckets(shared, 3)
    assert [p.comm_fusion for p in shared] == [3, 3, 3, 2, 1, 1, 1]
