"""Precision levels: what is computed in half precision, what never is, and how close it stays to float32."""
import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from common.errors import UserError
from common.layers.cells import GELU, Float32Cell, LayerNorm
from common.layers.drop_path import seed_random_states
from common.layers.precision import apply_precision
from gmlp.src.spec import SPEC

RNG = np.random.default_rng(0)


def standard(*shape) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


class Squares(Float32Cell):
    """An island: squares of values over 256 overflow float16."""

    def __init__(self):
        super().__init__()
        self.scale = Parameter(Tensor(np.array([1e-4], np.float32)), name="scale")

    def construct(self, x):
        return (x * x).mean(-1, keep_dims=True) * self.scale


class Island(nn.Cell):
    """Dense -> island -> Dense, and nothing that float16 could not hold outside the island."""

    def __init__(self):
        super().__init__()
        self.before = nn.Dense(4, 4, weight_init="ones", has_bias=False)
        self.squares = Squares()
        self.after = nn.Dense(1, 2, weight_init="ones", has_bias=False)

    def construct(self, x):
        return self.after(self.squares(self.before(x)).astype(x.dtype)).astype(ms.float32)


class Probe(nn.Cell):
    """Shows the type in which each part hands on its result, as the number of bytes of a value."""

    def __init__(self):
        super().__init__()
        self.dense, self.act, self.norm = nn.Dense(4, 4), GELU(), LayerNorm(4, 1e-6)
        self.batch_norm, self.softmax = nn.BatchNorm2d(4), nn.Softmax(-1)

    def construct(self, x):
        dense = self.dense(x)
        return (dense, self.act(dense), self.norm(dense), self.batch_norm(dense.reshape(-1, 4, 1, 1)),
                self.softmax(dense))


def tiny(**arguments):
    ms.set_seed(7)
    settings = {"num_classes": 10, "image_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 2}
    network = SPEC.build("gmlp_ti", **(settings | arguments))
    rng = np.random.default_rng(3)
    for parameter in network.trainable_params():
        noise = rng.standard_normal(parameter.shape).astype(np.float32) * 0.2
        parameter.set_data(Tensor(parameter.asnumpy() + noise))
    return network


class Loss(nn.Cell):
    def __init__(self, network):
        super().__init__()
        self.network = network
        self.gradient = ms.value_and_grad(self.loss, None, ms.ParameterTuple(network.trainable_params()), has_aux=True)

    def loss(self, images, labels):
        logits = self.network(images)
        return ops.cross_entropy(logits, labels), logits

    def construct(self, images, labels):
        return self.gradient(images, labels)


def test_unknown_level_is_refused_by_name():
    with pytest.raises(UserError, match="amp_level: 'O4'"):
        apply_precision(tiny(), "O4")


@pytest.mark.parametrize("level, half", [("O0", ""), ("O1", "dense"), ("O2", "dense act"), ("O3", "dense act norm")])
def test_each_level_hands_on_half_precision_where_it_says(mode, level, half):
    results = apply_precision(Probe(), level)(Tensor(standard(3, 4)))
    names = ("dense", "act", "norm", "batch_norm", "softmax")
    assert {n for n, r in zip(names, results) if r.dtype == ms.float16} == set(half.split())
    assert {r.dtype for r in results} <= {ms.float16, ms.float32}


@pytest.mark.parametrize("level", ["O1", "O2", "O3"])
def test_island_survives_values_that_overflow_half_precision(mode, level):
    network = apply_precision(Island(), level)
    x = np.full((2, 4), 200.0, np.float32)
    assert 800.0 ** 2 > np.finfo(np.float16).max
    np.testing.assert_allclose(network(Tensor(x)).asnumpy(), np.full((2, 2), 64.0), rtol=2e-3)


@pytest.mark.parametrize("level", ["O1", "O2", "O3"])
def test_half_precision_is_close_to_float32_with_float32_logits_parameters_and_gradients(mode, level):
    images, labels = Tensor(standard(4, 3, 16, 16)), Tensor([1, 2, 3, 4], ms.int32)
    ms.set_context(mode=ms.PYNATIVE_MODE)
    (_, exact), exact_gradients = Loss(tiny())(images, labels)
    ms.set_context(mode=ms.GRAPH_MODE if mode == "graph" else ms.PYNATIVE_MODE)
    network = apply_precision(tiny(), level)
    (loss, logits), gradients = Loss(network)(images, labels)
    assert loss.dtype == logits.dtype == ms.float32
    difference = np.abs(logits.asnumpy() - exact.asnumpy()).max()
    assert 1e-6 < difference < 0.02 * np.abs(exact.asnumpy()).max()
    for parameter, ours, reference in zip(network.trainable_params(), gradients, exact_gradients):
        assert parameter.dtype == ours.dtype == ms.float32
        error = np.linalg.norm(ours.asnumpy() - reference.asnumpy())
        assert error < 0.03 * np.linalg.norm(reference.asnumpy()) + 1e-4, parameter.name


def test_drop_path_draws_the_same_at_every_level(mode):
    network = tiny(drop_path_rate=0.5, depth=1)
    half = apply_precision(tiny(drop_path_rate=0.5, depth=1), "O2")
    images = Tensor(standard(16, 3, 16, 16))
    results = []
    for each in (network, half):
        seed_random_states(each, 1, 1)
        results.append(each.set_train()(images).asnumpy())
    assert np.abs(results[0] - results[1]).max() < 0.02 * np.abs(results[0]).max()


def test_batch_statistics_stay_float32_and_are_updated_in_half_precision_training(mode):
    probe = apply_precision(Probe(), "O2").set_train()
    probe(Tensor(standard(3, 4)))
    assert probe.batch_norm.moving_mean.dtype == ms.float32
    assert probe.batch_norm.moving_mean.asnumpy().any()


@pytest.mark.parametrize("level", ["O1", "O2", "O3"])
def test_layer_norm_keeps_its_statistics_in_float32_at_every_level(mode, level):
    x = (standard(2, 64) * 1000).astype(np.float16)  # squares overflow float16
    y = apply_precision(LayerNorm(64, 1e-6), level)(Tensor(x))
    wide = x.astype(np.float64)
    expected = (wide - wide.mean(-1, keepdims=True)) / wide.std(-1, keepdims=True)
    np.testing.assert_allclose(y.asnumpy(), expected, atol=3e-3 if level == "O3" else 1e-5)
