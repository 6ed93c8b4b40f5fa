"""Evaluation is exact: whatever the batch size, whatever the padding, whatever the logits."""
import numpy as np
import pytest
from mindspore import dataset as ds
from small_networks import Given

from common.context.ranks import Runtime
from common.errors import UserError
from common.metric import evaluate_batches


def batches(logits, labels, batch):
    """A data set in batches, padded with label -1 as the evaluation pipeline does."""
    missing = -len(labels) % batch
    logits = np.concatenate([logits, np.zeros((missing,) + logits.shape[1:], np.float32)])
    labels = np.concatenate([labels, np.full(missing, -1)]).astype(np.int32)
    return ds.NumpySlicesDataset({"image": logits, "label": labels}, shuffle=False).batch(batch)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(53, 7)).astype(np.float32), rng.integers(0, 7, 53)


def expected(logits, labels):
    """Top-1, top-5 and cross entropy in float64 with numpy."""
    order = np.argsort(-logits, axis=1, kind="stable")
    place = (order == labels[:, None]).argmax(1)
    x = logits.astype(np.float64)
    loss = np.log(np.exp(x).sum(1)) - x[np.arange(len(labels)), labels]
    return (place < 1).mean(), (place < 5).mean(), loss.mean()


@pytest.mark.parametrize("batch", [1, 8, 53, 64])
def test_every_batch_size_gives_the_same_scores(data, batch, mode):
    logits, labels = data
    scores = evaluate_batches(Given(), batches(logits, labels, batch), Runtime())
    top1, top5, loss = expected(logits, labels)
    assert (scores.top1, scores.top5, scores.seen) == (top1, top5, 53)
    assert scores.loss == pytest.approx(loss, rel=5e-6)


def test_answers_are_the_best_class_and_its_probability_and_change_no_score(data, mode):
    logits, labels = data
    answers = []
    scores = evaluate_batches(Given(), batches(logits, labels, 8), Runtime(), collect=lambda *of: answers.append(of))
    plain = evaluate_batches(Given(), batches(logits, labels, 8), Runtime())
    assert (scores.top1, scores.top5, scores.loss, scores.seen) == (plain.top1, plain.top5, plain.loss, plain.seen)
    assert [number for number, *_ in answers] == list(range(7))
    seen, said, probability = (np.concatenate([answer[part] for answer in answers])[:53] for part in (1, 2, 3))
    powers = np.exp(logits.astype(np.float64))
    assert seen.tolist() == labels.tolist() and said.tolist() == logits.argmax(1).tolist()
    np.testing.assert_allclose(probability, powers.max(1) / powers.sum(1), rtol=1e-5)


def test_the_answer_is_the_lowest_of_equal_classes_and_none_where_a_logit_is_not_finite(mode):
    logits = np.array([[0, 2, 2, 1], [1, 1, 1, 1], [np.nan, 0, 0, 0], [0, np.inf, 0, 0]], np.float32)
    answers = []
    evaluate_batches(Given(), batches(logits, np.zeros(4, int), 4), Runtime(), collect=lambda *of: answers.append(of))
    assert answers[0][2].tolist() == [1, 0, -1, -1]


def test_ties_go_to_the_lower_class_so_that_equal_logits_are_no_hit(mode):
    logits, labels = np.zeros((4, 3), np.float32), np.array([0, 1, 2, 1])
    assert evaluate_batches(Given(), batches(logits, labels, 4), Runtime()).top1 == 0.25


def test_a_network_that_returns_nan_has_no_hit(mode):
    logits = np.full((4, 3), np.nan, np.float32)
    scores = evaluate_batches(Given(), batches(logits, np.array([0, 1, 2, 1]), 4), Runtime())
    assert (scores.top1, scores.top5) == (0.0, 0.0)


def test_no_image_is_an_error():
    logits = np.zeros((4, 3), np.float32)
    with pytest.raises(UserError, match="no image"):
        evaluate_batches(Given(), batches(logits, np.full(4, -1), 4), Runtime())


def test_evaluation_leaves_the_training_mode_as_it_was(data):
    network = Given()
    network.set_train(True)
    evaluate_batches(network, batches(*data, 16), Runtime())
    assert network.training
