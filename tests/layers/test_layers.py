"""The cells that models share: numbers against NumPy and SciPy, drop path as a pure function."""
import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops
from scipy.special import erf

from common.errors import UserError
from common.layers.cells import GELU, Dense, LayerNorm, PatchEmbed, PlusTable, Softmax, TanhGELU
from common.layers.drop_path import DRAWS, DropPath, random_states, seed_random_states
from common.layers.initial_values import initialise, lecun_normal, truncated_normal, xavier_uniform
from gmlp.src.spec import SPEC
from hlg.src.cells import Heads
from soft.src.softmax_free_transformer import LocalConv

RNG = np.random.default_rng(0)


def standard(*shape) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def drops(rate: float, rows: int, stream: int, step: int, cell: DropPath | None = None) -> np.ndarray:
    """Which rows a drop path keeps."""
    cell = cell or DropPath(rate).set_train()
    cell.random_state.set_data(Tensor([stream, step], ms.int32))
    return cell(Tensor(np.ones((rows, 1), np.float32))).asnumpy()[:, 0] > 0


def draws(streams, steps, rows) -> np.ndarray:
    """The integers of DropPath, written down once more."""
    table = np.random.RandomState(0).permutation(65536)

    def substitute(number):
        return table[number % 65536]

    moment = substitute(substitute(steps + streams - steps // 65536 * 65536) + steps // 65536)
    return substitute(substitute(rows + substitute(moment + streams)) + moment)


class Attention(nn.Cell):
    """HLG's, of tokens to themselves, with a bias."""

    def __init__(self):
        super().__init__()
        self.heads = Heads(6, 2)
        self.bias = Parameter(Tensor(np.zeros((2, 5, 5), np.float32)))

    def construct(self, x):
        return self.heads(x, 0.5 * x, x, self.bias)


# cells

def test_gelu_is_the_exact_form_and_not_the_one_by_tanh(mode):
    x = np.linspace(-6, 6, 2001, dtype=np.float32)
    exact = x * 0.5 * (1 + erf(x.astype(np.float64) / np.sqrt(2)))
    by_tanh = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x ** 3)))
    assert np.abs(by_tanh - exact).max() > 3e-4
    np.testing.assert_allclose(GELU()(Tensor(x)).asnumpy(), exact, atol=1e-6)


def test_layer_norm_uses_the_given_epsilon(mode):
    x = standard(3, 8) * 1e-3
    centred = x - x.mean(-1, keepdims=True)
    expected = centred / np.sqrt((centred ** 2).mean(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(LayerNorm(8, 1e-5)(Tensor(x)).asnumpy(), expected, atol=1e-5)


@pytest.mark.parametrize("make, shape", [(GELU, (4, 9)), (TanhGELU, (4, 9)), (lambda: LayerNorm(9, 1e-5), (2, 4, 9)),
                                         (lambda: LocalConv(2, 5), (3, 2, 6, 7)), (lambda: Dense(9, 9), (2, 4, 9)),
                                         (Attention, (2, 5, 6)), (Softmax, (2, 5, 6))])
def test_the_form_for_training_on_a_cpu_equals_the_plain_one(mode, make, shape):
    """The plain form is that of evaluation, of exported files and of other devices."""
    cell, found = make(), []
    for parameter in cell.get_parameters():
        parameter.set_data(Tensor(standard(*parameter.shape)))
    x, factor = Tensor(standard(*shape) * 3), Tensor(standard(*shape))

    def total(x):
        return (cell(x) * factor).sum()

    for training in (False, True):
        cell.set_train(training)
        value, gradients = ms.value_and_grad(total, 0, cell.trainable_params() or None)(x)
        gradients = [gradients[0], *gradients[1]] if isinstance(gradients, tuple) else [gradients]
        found.append([cell(x).asnumpy(), value.asnumpy(), *(one.asnumpy() for one in gradients)])
    for plain, trained in zip(*found, strict=True):
        np.testing.assert_allclose(trained, plain, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("make", [GELU, Softmax, PlusTable, lambda: LayerNorm(9, 1e-5), lambda: Dense(9, 9),
                                  lambda: DropPath(0.1), lambda: Heads(8, 2)])
def test_what_computes_these_forms_is_shared_so_that_a_graph_reads_it_once(make):
    """A LayerNorm then compiles in 0.4 of the time."""
    first, second = ([part for value in vars(make()).values() if isinstance(value, tuple)
                      for part in value if isinstance(part, nn.Cell)] for _ in range(2))
    assert first and all(one is other for one, other in zip(first, second, strict=True))
    assert not any(list(part.get_parameters()) for part in first)
    assert LayerNorm(9, 1e-5).by_rows[0] is not LayerNorm(9, 1e-6).by_rows[0]


@pytest.mark.parametrize("size, patch, channels", [((8, 8), 4, 3), ((6, 12), (3, 2), 2), (8, 8, 1)])
def test_patch_embedding_equals_the_convolution_that_its_weights_belong_to(mode, size, patch, channels):
    embed = PatchEmbed(size, patch, channels, 5)
    weight, bias = standard(*embed.proj.weight.shape), standard(5)
    embed.proj.weight.set_data(Tensor(weight))
    embed.proj.bias.set_data(Tensor(bias))
    (height, width), (h, w) = embed.image_size, embed.patch_size
    images = standard(2, channels, height, width)
    expected = [[np.tensordot(weight, picture[:, top:top + h, left:left + w], 3) + bias
                 for top in range(0, height, h) for left in range(0, width, w)] for picture in images]
    np.testing.assert_allclose(embed(Tensor(images)).asnumpy(), expected, atol=1e-5)


@pytest.mark.parametrize("size, patch, words", [(30, 4, "30 x 30 is not a multiple of patch_size 4 x 4"),
                                                ((32, 30), 16, "32 x 30"), (0, 4, "image_size: 0"),
                                                (32, (4, 4, 4), "patch_size")])
def test_patches_that_do_not_tile_the_image_are_refused(size, patch, words):
    with pytest.raises(UserError, match=words.replace("(", r"\(")):
        PatchEmbed(size, patch, 3, 8)


def test_images_of_another_size_are_refused_by_a_sentence_with_both_sizes():
    with pytest.raises(ValueError, match=r"\(3, 16, 16\).*built for \(3, 8, 8\)"):
        PatchEmbed(8, 4, 3, 5)(Tensor(standard(1, 3, 16, 16)))


# drop path

def test_drop_path_multiplies_survivors_by_one_over_the_keep_probability_and_drops_whole_samples(mode):
    cell = DropPath(0.4).set_train()
    seed_random_states(cell, 0, 3)
    x = standard(64, 3, 5)
    y = cell(Tensor(x)).asnumpy()
    kept = np.abs(y).sum((1, 2)) > 0
    assert 20 < kept.sum() < 60
    np.testing.assert_allclose(y[kept], x[kept] / 0.6, rtol=1e-6)
    assert not y[~kept].any()


def test_drop_path_is_the_identity_in_evaluation_and_at_rate_zero(mode):
    x = standard(16, 4)
    assert np.array_equal(DropPath(0.9).set_train(False)(Tensor(x)).asnumpy(), x)
    assert np.array_equal(DropPath(0.0).set_train(True)(Tensor(x)).asnumpy(), x)


def test_drop_path_with_rate_zero_has_no_parameter():
    assert not list(DropPath(0.0).get_parameters())


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5])
def test_impossible_drop_path_rate_is_refused(rate):
    with pytest.raises(UserError, match="drop_path_rate"):
        DropPath(rate)


def test_drop_path_draws_what_the_formula_says_in_both_modes(mode):
    cell = DropPath(0.25).set_train()
    for stream, step in ((0, 0), (1, 1), (DRAWS - 1, DRAWS - 1), (7_777, 70_345), (5, 3_000_000), (9, 2 ** 31 - 1)):
        expected = draws(stream, step, np.arange(300)) < round(0.75 * 65536)
        assert np.array_equal(drops(0.25, 300, stream, step, cell), expected)


def test_drop_path_is_a_pure_function_of_stream_and_step(mode):
    cell = DropPath(0.5).set_train()
    first = drops(0.5, 64, 10, 7, cell)
    other_step, other_stream = drops(0.5, 64, 10, 8, cell), drops(0.5, 64, 11, 7, cell)
    assert np.array_equal(drops(0.5, 64, 10, 7, cell), first)
    assert not np.array_equal(other_step, first) and not np.array_equal(other_stream, first)


def test_drop_path_follows_a_step_that_is_advanced_inside_the_compiled_graph(mode):
    class Advancing(nn.Cell):
        def __init__(self):
            super().__init__()
            self.drop_path = DropPath(0.5)
            self.one_step = Tensor([0, 1], ms.int32)

        def construct(self, x):
            y = self.drop_path(x)
            ops.assign_add(self.drop_path.random_state, self.one_step)
            return y

    cell = Advancing().set_train()
    cell.drop_path.random_state.set_data(Tensor([123, 40], ms.int32))
    ones = Tensor(np.ones((32, 1), np.float32))
    for step in (40, 41, 42):
        kept = cell(ones).asnumpy()[:, 0] > 0
        assert np.array_equal(kept, draws(123, step, np.arange(32)) < round(0.5 * 65536))


def test_drop_path_refuses_more_rows_than_it_can_draw_for():
    with pytest.raises(ValueError, match="65537"):
        DropPath(0.5).set_train()(Tensor(np.ones((65537, 1), np.float32)))


@pytest.mark.parametrize("first_stream, stride, first_step", [(0, 1, 0), (12_345, 1, 65_400), (0, 97, 7),
                                                              (3, 401, 3_000_000)])
def test_draws_are_uniform_and_independent_over_rows_steps_and_streams(first_stream, stride, first_step):
    streams = (first_stream + stride * np.arange(120))[:, None, None]
    values = draws(streams, first_step + np.arange(300)[None, :, None], np.arange(64)[None, None, :]) / DRAWS
    counts = np.histogram(values, 1024, (0, 1))[0]
    expected = values.size / 1024
    assert abs(((counts - expected) ** 2 / expected).sum() / 1023 - 1) < 0.25  # chi squared, deviation 0.045
    for keep in (0.5, 0.8, 0.95):
        variance = keep * (1 - keep)
        bits = (values < keep) - keep
        assert abs(bits.mean()) < 5 * np.sqrt(variance / bits.size)
        for axis in range(3):  # the count over one axis varies as that of independent draws does
            count = bits.sum(axis)
            assert abs(count.var() / (bits.shape[axis] * variance) - 1) < 0.12
        neighbours = [(bits[1:], bits[:-1]), (bits[:, 1:], bits[:, :-1]), (bits[:, 2:], bits[:, :-2]),
                      (bits[..., 1:], bits[..., :-1]), (bits[..., 7:], bits[..., :-7]),
                      (bits[:, 1:, 1:], bits[:, :-1, :-1]), (bits[:, 1:, :-1], bits[:, :-1, 1:]),
                      (bits[1:, :, 1:], bits[:-1, :, :-1]), (bits[1:, 1:], bits[:-1, :-1])]
        for left, right in neighbours:
            assert abs((left * right).mean()) < 5 * variance / np.sqrt(left.size)


def test_every_random_cell_gets_its_own_stream_from_its_name_and_the_seed():
    network = SPEC.build("gmlp_ti", image_size=32, patch_size=8, embed_dim=8, depth=40, drop_path_rate=0.1)
    states = random_states(network)
    seed_random_states(network, 5, 17)
    first = [s.asnumpy().tolist() for s in states]
    seed_random_states(network, 6, 17)
    other = [s.asnumpy().tolist() for s in states]
    seed_random_states(network, 5, 17)
    assert [s.asnumpy().tolist() for s in states] == first
    assert len(states) == 40 == len({stream for stream, _ in first})
    assert {step for _, step in first} == {17}
    assert all(0 <= stream < DRAWS for stream, _ in first)
    assert sum(a == b for a, b in zip(first, other)) <= 1


def test_random_states_are_not_trained():
    network = SPEC.build("gmlp_ti", image_size=32, patch_size=8, embed_dim=8, depth=2, drop_path_rate=0.1)
    assert len(random_states(network)) == 2
    assert not [p.name for p in network.trainable_params() if p.name.endswith("random_state")]


def test_gradients_flow_through_the_kept_samples_only(mode):
    cell = DropPath(0.5).set_train()
    cell.random_state.set_data(Tensor([42, 0], ms.int32))
    x = Tensor(standard(32, 3))

    def total(value):
        return cell(value).sum()

    gradient = ms.grad(total)(x).asnumpy()
    kept = draws(42, 0, np.arange(32)) < round(0.5 * 65536)
    assert 0 < kept.sum() < 32
    assert np.array_equal(gradient, np.where(kept, 2.0, 0.0)[:, None] * np.ones(3))


# initial values

def test_truncated_normal_respects_its_bound_and_width():
    values = truncated_normal(np.random.default_rng(1), (300, 400), 0.5, 1.0)
    assert values.dtype == np.float32 and np.abs(values).max() <= 1.0
    assert values.std() == pytest.approx(0.5 * 0.87962566, rel=0.01)


def test_lecun_normal_has_the_variance_of_one_over_fan_in():
    values = lecun_normal(np.random.default_rng(1), (256, 3, 16, 16))
    assert values.std() == pytest.approx((1 / 768) ** 0.5, rel=0.01)
    assert 0.0810 < np.abs(values).max() <= 2 * (1 / 768) ** 0.5 / 0.87962566


def test_xavier_uniform_fills_its_interval():
    values = xavier_uniform(np.random.default_rng(1), (768, 128))
    bound = (6 / (768 + 128)) ** 0.5
    assert np.abs(values).max() <= bound and np.abs(values).max() > 0.999 * bound
    assert values.std() == pytest.approx(bound / 3 ** 0.5, rel=0.01)


def test_initial_values_follow_the_seed_and_the_name_alone():
    def drawn(seed, *widths):
        ms.set_seed(seed)
        cells = nn.SequentialCell([nn.Dense(4, width) for width in widths])
        initialise(cells, lambda name, shape, rng: rng.standard_normal(shape))
        return cells[len(widths) - 1].weight.asnumpy()

    assert np.array_equal(drawn(3, 5, 6), drawn(3, 5, 6))
    assert np.array_equal(drawn(3, 5, 6), drawn(3, 9, 6))
    assert not np.array_equal(drawn(3, 5, 6), drawn(4, 5, 6))
