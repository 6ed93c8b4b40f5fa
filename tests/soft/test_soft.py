"""SOFT: the authors' numbers, sizes, precision, initial values, bad arguments, names of weights."""
import math

import mindspore as ms
import numpy as np
import pytest
from broadcasts import broadcasts
from golden import Golden, Tolerances, check_classifier, full_size, load_strictly, phases_in
from golden_rule import pattern
from half_precision import Gradient, check_half_precision
from mindspore import Tensor, nn

from common.errors import UserError
from common.layers.cells import PlusTable, TanhGELU
from soft.src.softmax_free_transformer import (Dropout, GaussianKernels, NewtonInverse, NormalisedInverse, SoftBlock,
                                               SoftmaxFreeAttention)
from soft.src.softmax_free_vision_transformer import Block, PositionTable
from soft.src.spec import SIZES, SPEC
from soft.src.weights import architecture

TOLERANCES = Tolerances(loss_train=1e-4, norms_eval=(1e-3, 1e-5), norms_train=(5e-3, 1e-5))
SMALL = {"num_classes": 10, "image_size": 64, "dims": (16, 32, 64, 64), "num_heads": (1, 2, 4, 4), "depths": (1,) * 4}


def small(variant="soft_tiny", **arguments):
    return SPEC.build(variant, **(SMALL | arguments))


def parameters(network) -> dict[str, np.ndarray]:
    return {p.name: p.asnumpy() for p in network.get_parameters()}


class Reference(Golden):
    """A stored run; in the ill-conditioned one the norms of the landmarks are a fifth of what the rule says."""

    def __init__(self, name: str):
        super().__init__(name)
        self.variant = "soft_norm_tiny" if "norm" in name else "soft_tiny"
        self.ill = name.endswith("_ill")

    def tensors(self):
        return {name: value * np.float32(0.2) if self.ill and "Qnorm_act" in name else value
                for name, value in super().tensors().items()}

    def network(self):
        return SPEC.build(self.variant, image_size=self.manifest["image_size"])


# the whole network

class Stages(nn.Cell):
    """The network's logits, and the tokens after each stage."""

    def __init__(self, network):
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, images):
        return self.network(images), self.network.stage_outputs(images)


def check_stages(reference, network) -> None:
    """Hold the network in evaluation mode to the stored logits of patterns, and to its stages' tokens."""
    load_strictly(network, SPEC.convert(reference.tensors()))
    logits, stages = Stages(network).set_train(False)(Tensor(pattern(2, reference.manifest["image_size"])))
    assert np.abs(logits.asnumpy() - reference.arrays["logits_pattern"]).max() < 2e-5
    for stage, tokens in enumerate(stages, start=1):
        tokens = tokens.asnumpy()
        difference = np.abs(tokens[:, :49:4, :16] - reference.arrays[f"pattern_stage{stage}"]).max()
        assert difference < 2e-5 * max(1.0, np.abs(reference.arrays[f"pattern_stage{stage}"]).max()), stage
        norm = np.linalg.norm(tokens.astype(np.float64))
        assert norm == pytest.approx(reference.arrays["pattern_stage_norms"][stage - 1], rel=1e-5), stage
    if reference.variant == "soft_norm_tiny":  # a single image
        logits = network.set_train(False)(Tensor(reference.images[:1])).asnumpy()
        assert np.abs(logits - reference.arrays["logits_single"]).max() < 2e-5


@pytest.mark.slow
@full_size("soft_tiny", later=["soft_norm_tiny", "soft_tiny_ill", "soft_tiny_192"])
def test_network_reproduces_the_golden_numbers(mode, name, uninitialised):
    """At 192 pixels two inputs of ReLUs lie within 2e-6 of zero while training. The network soft_tiny_ill is nearly
    singular: the reference's own float32 logits are 1e-4 (eval) and 9e-4 (train) away from its float64 ones."""
    reference = Reference(name)
    network = reference.network()
    print(name, check_classifier(reference, network, SPEC.convert, SPEC.restore, TOLERANCES, phases_in(mode)))
    if mode == "pynative" and not reference.ill:  # in graph mode it would be another compilation
        check_stages(reference, network)


@pytest.mark.slow
@pytest.mark.parametrize("mode, name", [("pynative", "soft_norm_tiny"), *(
    pytest.param("graph", name, marks=pytest.mark.long) for name in ("soft_tiny", "soft_norm_tiny", "soft_tiny_192"))],
    indirect=["mode"])
def test_stages_reproduce_the_golden_numbers_on_pattern_images(mode, name, uninitialised):
    reference = Reference(name)
    check_stages(reference, reference.network())


# the inversion and the kernel around it

UNIT = Golden("soft_newton_unit").arrays


class Weighted(nn.Cell):
    """Sum of the inverse times fixed numbers, whose gradient the file holds; V itself for the normalised one."""

    def __init__(self, kind: str, iterations: int):
        super().__init__(auto_prefix=False)
        self.normalised = kind == "norm"
        self.inverse = NormalisedInverse(iterations) if self.normalised else NewtonInverse(iterations)
        self.weights = Tensor(UNIT["G"])

    def construct(self, kernel):
        if self.normalised:
            inverse = self.inverse.invert(kernel, kernel.sum(-1, keepdims=True))
        else:
            inverse = self.inverse(kernel)
        return (inverse * self.weights).sum(), inverse


@pytest.mark.parametrize("iterations", [0, 3, 20])
@pytest.mark.parametrize("scale", ["1", "0.1"])
@pytest.mark.parametrize("kind", ["plain", "norm"])
def test_inverse_and_its_gradient_are_those_of_the_reference(mode, kind, scale, iterations):
    """Relative to the largest entry: at scale 0.1 the plain inverse reaches 45 and its gradient 5,700."""
    gradient = ms.value_and_grad(Weighted(kind, iterations), 0, None, has_aux=True)
    (_, inverse), slope = gradient(Tensor(UNIT[f"A_{scale}"]))
    for what, ours in (("V", inverse.asnumpy()), ("dA", slope.asnumpy())):
        stored = UNIT[f"{what}_{kind}_{scale}_it{iterations}_f64"]
        assert np.abs(ours - stored).max() <= 2e-5 * np.abs(stored).max(), what


class WeightedAttention(nn.Cell):
    """The attention kernel without its linear layers, weighted with fixed numbers."""

    def __init__(self, kind: str):
        super().__init__(auto_prefix=False)
        self.attention = SoftmaxFreeAttention(16, 2, 2, 3, kind == "norm")
        self.weights = Tensor(UNIT[f"att_{kind}_g"].transpose(0, 2, 1, 3))

    def construct(self, queries, values):
        queries, values = queries.reshape(-1, 16, 16), values.reshape(-1, 16, 16)
        out = self.attention.attend(queries * self.attention.scale, values, (4, 4)).reshape(self.weights.shape)
        return (out * self.weights).sum(), out


@pytest.mark.parametrize("kind", ["plain", "norm"])
def test_attention_kernel_and_its_gradients_are_those_of_the_reference(mode, kind):
    cell = WeightedAttention(kind)
    names = {"landmark.weight": "Qlandmark_op.weight", "landmark_norm.gamma": "Qnorm_act.0.weight",
             "landmark_norm.beta": "Qnorm_act.0.bias", "local.weight": "conv.weight"}
    weights = [p for p in cell.attention.trainable_params() if p.name in names]
    for weight in weights:
        weight.set_data(Tensor(UNIT[f"att_{kind}_{names[weight.name]}"]))
    gradient = ms.value_and_grad(cell, (0, 1), ms.ParameterTuple(weights), has_aux=True)
    inputs = [Tensor(UNIT[f"att_{kind}_{name}"].transpose(0, 2, 1, 3)) for name in ("Q", "V")]
    (_, out), ((queries, values), slopes) = gradient(*inputs)
    computed = {"out": out, "dQ": queries, "dV": values}
    computed = {name: value.asnumpy().transpose(0, 2, 1, 3) for name, value in computed.items()}
    computed |= {f"d_{names[w.name]}": slope.asnumpy() for w, slope in zip(weights, slopes)}
    assert len(computed) == 7
    for name, ours in computed.items():
        stored = UNIT[f"att_{kind}_{name}"]
        assert np.abs(ours - stored).max() <= 2e-5 * max(1.0, np.abs(stored).max()), name


@pytest.mark.parametrize("cell, alone", [(NewtonInverse, True), (NormalisedInverse, False)])
def test_only_the_normalised_inverse_depends_on_companions_before_it_has_converged(cell, alone):
    mixed = Tensor(np.concatenate([UNIT["A_1"][:1], UNIT["A_0.1"][:1]]))
    both, single = cell(3)(mixed).asnumpy()[:1], cell(3)(mixed[:1]).asnumpy()
    assert np.allclose(both, single, rtol=1e-4, atol=1e-6) == alone


def test_kernels_are_gaussian():
    rng = np.random.default_rng(0)
    queries, landmarks = (rng.standard_normal((2, 3, n, 4)).astype(np.float32) for n in (7, 5))
    wide, square = GaussianKernels()(Tensor(queries), Tensor(landmarks))
    for kernel, left in ((wide, queries), (square, landmarks)):
        distances = ((left[:, :, :, None] - landmarks[:, :, None]) ** 2).sum(-1)
        assert np.allclose(kernel.asnumpy(), np.exp(-distances / 2), atol=1e-6)


def test_gelu_is_the_approximation_by_tanh(mode):
    x = np.linspace(-6, 6, 101, dtype=np.float32)
    exact = x.astype(np.float64)
    expected = 0.5 * exact * (1 + np.tanh(math.sqrt(2 / math.pi) * (exact + 0.044715 * exact ** 3)))
    assert np.abs(TanhGELU()(Tensor(x)).asnumpy() - expected).max() < 1e-6


# sizes, precision, initial values

COUNTS = {"tiny": 13_069_056, "small": 38_858_462, "small_24m": 24_110_092, "medium": 45_812_707, "large": 64_700_646,
          "huge": 87_108_273}


@pytest.mark.parametrize("size", COUNTS)
def test_variants_have_their_published_number_of_parameters(size, uninitialised):
    """Also the normalised ones."""
    for family in ("soft", "soft_norm"):
        network = SPEC.build(f"{family}_{size}")
        assert sum(p.size for p in network.trainable_params()) == COUNTS[size]
        assert network.normalised == (family == "soft_norm")


def test_twelve_variants_are_known_and_the_spelling_of_names_does_not_matter():
    assert set(SPEC.variants) == {f"{family}_{size}" for family in ("soft", "soft_norm") for size in COUNTS}
    assert set(COUNTS) == set(SIZES)
    assert SPEC.variant("SOFT_tiny") == "soft_tiny" and SPEC.variant("Soft_Norm_Huge") == "soft_norm_huge"


@pytest.mark.parametrize("variant", ["soft_tiny", "soft_norm_tiny"])
@pytest.mark.parametrize("mode, level", [("graph", "O3"), ("pynative", "O2")], indirect=["mode"])
def test_newton_gets_and_computes_float32_at_half_precision(mode, level, variant):
    """At the ill-conditioned kernel half precision would be off by the size of the result."""
    from common.layers.precision import apply_precision

    network = apply_precision(small(variant), level)
    inverse = network.block1[0].attn.inverse
    kernel = UNIT["A_0.1"]
    exact = type(inverse)(20)(Tensor(kernel)).asnumpy()
    result = inverse(Tensor(kernel))
    assert result.dtype == ms.float32 and np.abs(result.asnumpy() - exact).max() < 1e-4 * np.abs(exact).max()
    queries = Tensor(np.random.default_rng(0).standard_normal((1, 1, 6, 4)).astype(np.float16))
    wide, square = network.block1[0].attn.kernels(queries, queries)
    assert wide.dtype == square.dtype == ms.float32


@pytest.mark.parametrize("mode, level", [pytest.param("graph", "O3", marks=pytest.mark.long), ("pynative", "O2"),
                                         ("pynative", "O3")], indirect=["mode"])
def test_half_precision_is_near_float32_and_has_finite_float32_gradients(mode, level):
    gradients = check_half_precision(small(newton_iterations=2), small(newton_iterations=2), level, 64)
    assert all(np.abs(gradients[f"block{stage}.0.attn.landmark.weight"]).max() > 0 for stage in (1, 2, 3))


def test_largest_intermediate_grows_with_the_tokens_and_not_with_their_square():
    """The attention of 4,096 tokens runs under a size that their products with each other would exceed by far."""
    attention = SoftmaxFreeAttention(16, 1, 16, 3)
    sizes = []
    for cell in (attention.kernels, attention.inverse, attention.mixture):
        cell.register_forward_hook(lambda cell, inputs, outputs: sizes.extend(
            t.size for t in (*inputs, *(outputs if isinstance(outputs, tuple) else (outputs,)))))
    attention(Tensor(np.ones((1, 4096, 16), np.float32)), (64, 64))
    assert max(sizes) == 4096 * 16  # 16 landmarks, 16 channels


def test_nothing_large_is_broadcast_by_a_training_on_a_cpu(tmp_path):
    """3 x 16 tokens in 2 heads, with 4 landmarks: the kernel has 384 numbers, that among landmarks 96."""
    class Blocks(nn.Cell):
        def __init__(self):
            super().__init__()
            self.positions, self.placed = PositionTable(4, 16), PlusTable()
            self.block = SoftBlock(16, 2, 0.2, SoftmaxFreeAttention(16, 2, 2, 3, iterations=2))
            self.last = Block(16, 4, 2, 0.2)

        def construct(self, x):
            return self.last(self.block(self.placed(x, self.positions((4, 4))), (4, 4)))

    tokens = Tensor(np.ones((3, 16, 16), np.float32))
    assert not broadcasts(Gradient(Blocks()).set_train(), tokens, tmp_path, 100, always=("FloorMod", "Transpose"))


def test_norms_have_the_epsilons_of_their_stage():
    network = small()
    assert network.block1[0].norm1.epsilon == network.block3[0].norm2.epsilon == 1e-5
    assert network.block2[0].attn.landmark_norm.epsilon == 1e-5
    assert network.block4[0].norm1.epsilon == network.norm.epsilon == 1e-6


def test_drop_rates_rise_over_all_stages():
    network = small(depths=(1, 1, 1, 2), drop_path_rate=0.4)
    rates = [block.drop1.rate for stage in (network.block1, network.block2, network.block3) for block in stage]
    rates += [block.drop_path2.rate for block in network.block4]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


def test_dropout_drops_its_share_of_elements_and_keeps_the_mean(mode):
    cell = Dropout(0.3).set_train()
    x = Tensor(np.ones((3, 50, 64), np.float32))
    first = cell(x).asnumpy()
    plain = Dropout(0.3).set_train()
    plain.product = None  # as on a card
    assert (plain(x).asnumpy() == first).all()
    assert np.unique(first).size == 2 and (first == 0).mean() == pytest.approx(0.3, abs=0.02)
    assert first.max() == pytest.approx(1 / 0.7, rel=1e-3)
    for axis in range(3):  # no sample, token or channel is favoured
        shares = (first == 0).mean(tuple(i for i in range(3) if i != axis))
        assert shares.min() > 0.3 - 0.2 and shares.max() < 0.3 + 0.2
    cell.random_state.set_data(Tensor([7, 1], ms.int32))
    second = cell(x).asnumpy()
    assert ((first == 0) & (second == 0)).mean() == pytest.approx(0.09, abs=0.02)
    assert (cell.set_train(False)(x).asnumpy() == 1).all()


def test_one_network_takes_images_of_every_size_and_shape():
    network = small(image_size=(64, 96), in_channels=1, newton_iterations=6).set_train(False)
    for size in ((64, 96), (40, 64)):
        assert network(Tensor(np.zeros((3, 1, *size), np.float32))).shape == (3, 10)


@pytest.mark.parametrize("size, new_size", [(4, 7), (7, 4)])
def test_resized_positions_are_weighted_means(size, new_size):
    from soft.src.softmax_free_vision_transformer import bilinear

    weights = bilinear(size, new_size).asnumpy()
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)
    centres = np.clip((np.arange(new_size) + 0.5) * size / new_size - 0.5, 0, size - 1)
    np.testing.assert_allclose(weights @ np.arange(size), centres, atol=1e-5)


@pytest.mark.parametrize("variant, uniform", [("soft_tiny", False), ("soft_norm_tiny", True)])
def test_initial_values_have_the_stated_distributions(variant, uniform):
    values = parameters(SPEC.build(variant, dims=(64, 64, 64, 64), num_heads=(2, 2, 2, 2), depths=(1, 1, 1, 1)))
    linear, bias = values["block2.0.fc1.weight"], values["block2.0.fc1.bias"]
    if uniform:  # PyTorch's initial values: the authors forgot to replace them
        assert linear.std() == pytest.approx(64 ** -0.5 / math.sqrt(3), rel=0.03) and 0 < np.abs(bias).max() <= 1 / 8
    else:
        assert linear.std() == pytest.approx(0.02, rel=0.03) and not bias.any()
    for name in ("block4.0.mlp.fc1.weight", "position1.table", "position4.table", "head.weight"):
        assert values[name].std() == pytest.approx(0.02, rel=0.06), name
    for name, fan_in in (("patch_embed2.proj.0", 64 * 9), ("patch_embed1.proj.3", 32 * 9)):
        assert values[f"{name}.weight"].std() == pytest.approx(fan_in ** -0.5 / math.sqrt(3), rel=0.05), name
        assert 0 < np.abs(values[f"{name}.bias"]).max() <= fan_in ** -0.5
    assert values["block1.0.attn.local.weight"].std() == pytest.approx(1 / 9 / math.sqrt(3), rel=0.15)
    assert (values["norm.gamma"] == 1).all() and not values["head.bias"].any()


@pytest.mark.parametrize("arguments, words", [
    ({"image_size": 28}, "28 x 28 gives a map of 7 x 7 tokens in stage 1, too small for one landmark"),
    ({"image_size": (64, 20)}, "64 x 20"),
    ({"dims": (16, 32, 64)}, "dims"),
    ({"depths": (1, 0, 1, 1)}, "depths"),
    ({"num_heads": 4}, "num_heads: 4 must be four numbers"),
    ({"num_heads": (3, 2, 4, 4)}, "must divide dims"),
    ({"drop_path_rate": 1.0}, "drop_path_rate"),
    ({"patch_size": 4}, "patch_size is not an argument of soft_tiny"),
    ({"depth": 4}, "Did you mean 'depths'"),
])
def test_arguments_that_do_not_fit_are_refused_by_name(arguments, words):
    with pytest.raises(UserError, match=words):
        small(**arguments)


# names of weights

@pytest.mark.parametrize("variant", ["soft_tiny", "soft_norm_tiny"])
def test_names_go_to_the_authors_and_back(variant):
    ours = parameters(small(variant))
    theirs = SPEC.restore(ours)
    stored = {name for name, _, kind in Golden(variant).manifest["entries"] if not name.endswith("num_batches_tracked")}
    assert set(theirs) <= stored  # the stored network has more blocks
    assert "block1.0.att.mha.attn.Qnorm_act.0.weight" in theirs and "pos_embed4" in theirs
    assert {name: value.shape for name, value in SPEC.convert(theirs).items()} == {n: v.shape for n, v in ours.items()}


def test_sizes_are_found_in_the_weights_under_either_names():
    settings = {"dims": (16, 32, 64, 64), "num_heads": (1, 2, 4, 4), "depths": (1, 2, 1, 3), "num_classes": 7,
                "in_channels": 1}
    ours = parameters(small(**settings))
    assert architecture(ours) == architecture(SPEC.restore(ours)) == settings
    assert architecture({"head.weight": np.zeros((10, 64))}) == {}


@pytest.mark.parametrize("name, shape, decayed", [
    ("block1.0.fc1.weight", (256, 64), True), ("position1.table", (1, 3136, 64), True),
    ("block1.0.attn.local.weight", (2, 1, 9, 9), True), ("cls_token", (1, 1, 512), False),
    ("block1.0.norm1.gamma", (64,), False), ("head.bias", (1000,), False)])
def test_weight_decay_is_the_authors(name, shape, decayed):
    assert SPEC.no_weight_decay(name, shape) != decayed


def test_log_lines_are_those_of_the_seed():
    style = SPEC.log_style
    values = {"epoch0": 1, "epoch_time": 324.57, "step_time": 0.2594, "loss": 5.984635, "lr": 0.000367, "fps": 3946.87}
    assert style.train_epoch.format(**values) == "epoch[1], step_num[1], loss=5.984635"
    part = style.evaluated_part.format(top1=0.06194, eval_time=5.44)
    assert style.epoch_total.format(**values, evaluated_part=part) == (
        "epoch[1], epoch time: 324.57s, per step time: 0.2594s, loss=5.984635, lr=0.000367, fps=3946.87, "
        "accuracy=0.061940, eval_cost=5.44")
    assert style.finished.format(train_time=99876.6) == "training time used=99876.60s"
    assert style.best.format(best=0.78482) == "last_metric[0.78482]"
    assert style.closing.format(host="None", mean_fps=3938.18) == "ip[None], mean_fps[3938.18]"
    assert style.evaluation.format(top1=0.78442, step_time=0.2805) == "accuracy=0.784420, per step time: 0.2805s"
    assert style.prefix == "%(asctime)s:%(levelname)s:%(message)s"
