"""gMLP: the authors' numbers, sizes, initial values, bad arguments, names of other implementations."""
import math
import signal

import mindspore as ms
import numpy as np
import pytest
from golden import Golden, Module, check_classifier, full_size, phases_in
from golden_rule import fill

from common.errors import UserError
from gmlp.src.spec import SPEC

GATE = "blocks.1.gate.proj"


def tiny(**arguments):
    """The network of the golden numbers gmlp_tiny."""
    settings = {"num_classes": 10, "image_size": 32, "patch_size": 4, "embed_dim": 32, "depth": 2}
    return SPEC.build("gmlp_ti", **(settings | arguments))


def parameters(network) -> dict[str, np.ndarray]:
    return {p.name: p.asnumpy() for p in network.get_parameters()}


def test_tiny_network_reproduces_the_golden_numbers(mode):
    check_classifier(Golden("gmlp_tiny"), tiny(), SPEC.convert, SPEC.restore, phases=phases_in(mode))


def test_fused_operators_reproduce_the_golden_numbers(tmp_path, monkeypatch):
    """In training, with SIGTERM blocked as there; what the compiler writes stays out of the working directory."""
    monkeypatch.chdir(tmp_path)
    ms.set_context(mode=ms.GRAPH_MODE)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        check_classifier(Golden("gmlp_tiny"), tiny(), SPEC.convert, SPEC.restore, phases=("train",), fused=True)
        assert signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@full_size("gmlp_s16_224", later=["gmlp_ti16_224"])
def test_published_variant_reproduces_the_golden_numbers(mode, name, uninitialised):
    """Once: without dropped paths training computes the same as evaluation, as the tiny network shows."""
    check_classifier(Golden(name), SPEC.build(name), SPEC.convert, SPEC.restore, phases=("eval",))


def test_gating_unit_reproduces_the_golden_numbers_at_both_scales(mode):
    from gmlp.src.gmlp import SpatialGatingUnit

    Module("gmlp_sgu").check(SpatialGatingUnit(24, 16), SPEC.convert)


def test_block_reproduces_the_golden_numbers_at_both_scales(mode):
    from gmlp.src.gmlp import GMLPBlock

    Module("gmlp_block").check(GMLPBlock(8, 48, 16), SPEC.convert)


# sizes and arguments

@pytest.mark.parametrize("name, count", [("gmlp_ti", 5_867_328), ("gmlp_s", 19_422_656), ("gmlp_b", 73_075_392)])
def test_variant_has_its_published_number_of_parameters(name, count, uninitialised):
    assert sum(math.prod(p.shape) for p in SPEC.build(name).get_parameters()) == count


@pytest.mark.parametrize("spelling", ["gmlp_S", "gmlp_s", "GMLP_S", "gmlp_s16_224", "gmlp_s16"])
def test_every_spelling_names_the_same_variant(spelling):
    assert SPEC.variant(spelling) == "gmlp_s"
    assert SPEC.display_name(spelling) == "gmlp_S"


@pytest.mark.parametrize("name, rate", [("gmlp_ti", 0.0), ("gmlp_s", 0.05), ("gmlp_b", 0.2)])
def test_drop_path_rate_is_the_variants_own_only_when_none_is_given(name, rate):
    small = {"image_size": 32, "embed_dim": 8, "depth": 2}
    assert [b.drop_path.rate for b in SPEC.build(name, drop_path_rate=None, **small).blocks] == [rate, rate]
    assert [b.drop_path.rate for b in SPEC.build(name, **small).blocks] == [0, 0]
    assert [b.drop_path.rate for b in SPEC.build(name, drop_path_rate=0.3, **small).blocks] == [0.3, 0.3]


def test_the_two_kinds_of_norm_have_their_own_epsilon():
    network = tiny()
    assert network.norm.epsilon == network.blocks[0].norm.epsilon == 1e-6
    assert network.blocks[0].gate.norm.epsilon == 1e-5
    assert tiny(norm_eps=1e-4).blocks[1].norm.epsilon == 1e-4


@pytest.mark.parametrize("arguments, words", [
    ({"image_size": 30}, "image_size: 30 x 30"),
    ({"image_size": 4096, "patch_size": 4, "depth": 30}, "image_size: 4096 with patch_size: 4 gives 1,048,576 tokens"),
    ({"embed_dim": 5, "mlp_ratio": 1}, "mlp_ratio"),
    ({"drop_path_rate": 1.0}, "drop_path_rate"),
    ({"num_heads": 4}, "num_heads is not an argument of gmlp_Ti"),
    ({"embed_dims": 4}, "Did you mean 'embed_dim'"),
])
def test_arguments_that_do_not_fit_are_refused_by_name(arguments, words):
    with pytest.raises(UserError, match=words):
        tiny(**arguments)


def test_images_that_are_not_square_and_have_other_channels_are_allowed(mode):
    from mindspore import Tensor

    network = tiny(image_size=(16, 24), in_channels=1)
    logits = network(Tensor(np.zeros((3, 1, 16, 24), np.float32)))
    assert logits.shape == (3, 10)


# initial values

def test_first_logits_are_zero_and_the_first_loss_is_the_logarithm_of_the_classes(mode):
    from mindspore import Tensor, ops

    logits = tiny()(Tensor(Golden("gmlp_tiny").images))
    assert not logits.asnumpy().any()
    assert float(ops.cross_entropy(logits, Tensor([1, 9]))) == pytest.approx(math.log(10), rel=1e-6)


def test_exact_initial_values():
    for name, value in parameters(tiny()).items():
        if name.endswith(("gamma", "gate.proj.bias")):
            assert (value == 1).all(), name
        elif name.endswith("beta") or name in ("stem.proj.bias", "head.weight", "head.bias"):
            assert (value == 0).all(), name
        else:
            assert value.std() > 0, name


def test_drawn_initial_values_have_the_stated_distributions():
    ms.set_seed(5)  # a mean of 128 numbers is beyond its limit once in forty draws
    values = parameters(SPEC.build("gmlp_ti", depth=2))
    stem = values["stem.proj.weight"]
    assert stem.std() == pytest.approx(768 ** -0.5, rel=0.02) and 0.080 < np.abs(stem).max() < 0.0821
    for name, fan_in, fan_out in (("fc1", 128, 768), ("fc2", 384, 128)):
        weight, bound = values[f"blocks.1.{name}.weight"], math.sqrt(6 / (fan_in + fan_out))
        assert weight.std() == pytest.approx(bound / math.sqrt(3), rel=0.02)
        assert 0.99 * bound < np.abs(weight).max() <= bound
        bias = values[f"blocks.1.{name}.bias"]
        assert bias.std() == pytest.approx(1e-6, rel=0.2) and abs(bias.mean()) < 2e-7
    gate = values[f"{GATE}.weight"]
    assert gate.std() == pytest.approx(1e-6, rel=0.02) and abs(gate.mean()) < 1e-7


def test_initial_values_follow_the_seed():
    import mindspore as ms

    ms.set_seed(11)
    first, again = parameters(tiny()), parameters(tiny())
    ms.set_seed(12)
    other = parameters(tiny())
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["stem.proj.weight"], other["stem.proj.weight"])
    assert not np.array_equal(first["blocks.0.fc1.weight"], first["blocks.1.fc1.weight"])


def test_a_fresh_block_acts_on_the_first_half_as_an_ordinary_feed_forward_layer():
    from mindspore import Tensor

    from common.layers.cells import GELU

    block = tiny().blocks[0]
    x = Tensor(np.random.default_rng(0).standard_normal((2, 64, 32)).astype(np.float32))
    hidden = GELU()(block.fc1(block.norm(x)))
    plain = x + block.fc2(hidden[..., :96])
    assert np.abs(block(x).asnumpy() - plain.asnumpy()).max() < 1e-3


# rules for the optimizer

def test_biases_and_norms_are_not_decayed_and_matrices_are():
    undecayed = {p.name for p in tiny().trainable_params() if SPEC.no_weight_decay(p.name, tuple(p.shape))}
    assert "blocks.0.norm.gamma" in undecayed and "blocks.0.gate.proj.bias" in undecayed
    assert not undecayed & {"stem.proj.weight", "blocks.0.fc1.weight", f"{GATE}.weight", "head.weight"}
    assert len(undecayed) == 26 - 8


def test_layers_are_numbered_from_the_input():
    ids = {p.name: SPEC.layer_id(p.name, 2) for p in tiny().trainable_params()}
    assert (ids["stem.proj.weight"], ids["blocks.0.fc1.bias"], ids[f"{GATE}.weight"]) == (0, 1, 2)
    assert ids["norm.gamma"] == ids["head.weight"] == 3


# names of other implementations

def test_timm_names_go_both_ways_bit_for_bit():
    golden = Golden("gmlp_ti16_224").tensors()
    back = SPEC.restore(SPEC.convert(golden))
    assert list(back) == list(golden)
    assert all(back[name] is golden[name] for name in golden)


def test_our_names_are_kept_by_the_conversion():
    ours = parameters(tiny())
    assert list(SPEC.convert(ours)) == list(ours)


def lucidrains(depth=2, dim=32, tokens=64, heads=1) -> dict[str, np.ndarray]:
    """A state dict as lucidrains/g-mlp-pytorch names it, for 32 pixels, patch 4, expansion 4, 10 classes."""
    shapes = {"to_patch_embed.1.weight": (dim, 48), "to_patch_embed.1.bias": (dim,)}
    for i in range(depth):
        inner = f"layers.{i}.fn.fn"
        shapes |= {f"layers.{i}.fn.norm.weight": (dim,), f"layers.{i}.fn.norm.bias": (dim,),
                   f"{inner}.proj_in.0.weight": (4 * dim, dim), f"{inner}.proj_in.0.bias": (4 * dim,),
                   f"{inner}.sgu.weight": (heads, tokens, tokens), f"{inner}.sgu.bias": (heads, tokens),
                   f"{inner}.sgu.norm.weight": (2 * dim,), f"{inner}.sgu.norm.bias": (2 * dim,),
                   f"{inner}.proj_out.weight": (dim, 2 * dim), f"{inner}.proj_out.bias": (dim,)}
    shapes |= {"to_logits.0.weight": (dim,), "to_logits.0.bias": (dim,), "to_logits.2.weight": (10, dim),
               "to_logits.2.bias": (10,)}
    return {name: fill(name, shape) for name, shape in shapes.items()}


def lucidrains_forward(tensors, images, depth=2):
    """The other implementation's arithmetic in NumPy: patches as rows (channel, row, column), all epsilons 1e-5."""
    from scipy.special import erf

    def norm(x, name):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred ** 2).mean(-1, keepdims=True) + 1e-5) * tensors[f"{name}.weight"] \
            + tensors[f"{name}.bias"]

    def linear(x, name):
        return x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]

    patches = images.reshape(len(images), 3, 8, 4, 8, 4).transpose(0, 2, 4, 1, 3, 5).reshape(len(images), 64, 48)
    x = linear(patches.astype(np.float64), "to_patch_embed.1")
    for i in range(depth):
        inner = f"layers.{i}.fn.fn"
        h = linear(norm(x, f"layers.{i}.fn.norm"), f"{inner}.proj_in.0")
        u, v = np.split(h * 0.5 * (1 + erf(h / np.sqrt(2))), 2, axis=-1)
        v = tensors[f"{inner}.sgu.weight"][0] @ norm(v, f"{inner}.sgu.norm") + tensors[f"{inner}.sgu.bias"][0][:, None]
        x = x + linear(u * v, f"{inner}.proj_out")
    return linear(norm(x, "to_logits.0").mean(1), "to_logits.2")


def test_lucidrains_weights_compute_the_same_here():
    from golden import load_strictly
    from mindspore import Tensor

    from gmlp.src.weights import architecture

    tensors, images = lucidrains(), Golden("gmlp_tiny").images
    network = SPEC.build("gmlp_ti", **architecture(tensors))
    load_strictly(network, SPEC.convert(tensors))
    assert network.norm.epsilon == 1e-5
    difference = network(Tensor(images)).asnumpy() - lucidrains_forward(tensors, images)
    assert np.abs(difference).max() < 2e-5


def test_lucidrains_gate_with_several_heads_is_refused():
    with pytest.raises(UserError, match="4 heads"):
        SPEC.convert(lucidrains(heads=4))


def test_architecture_follows_from_the_shapes():
    from gmlp.src.weights import architecture

    golden = Golden("gmlp_s16_224").tensors()
    assert architecture(golden) == {"num_classes": 1000, "image_size": 224, "in_channels": 3, "patch_size": 16,
                                    "embed_dim": 256, "mlp_ratio": 6, "depth": 30}
    assert architecture(lucidrains())["mlp_ratio"] == 4
    assert architecture({"conv1.weight": np.zeros((8, 3, 7, 7))}) == {}


# log lines

def test_log_lines_are_those_of_the_seed():
    style = SPEC.log_style
    assert style.train_epoch.format(epoch=348, epochs=350, steps=2502, loss=4.418964, lr=0.0000025,
                                    epoch_time=679.655316) == \
        "Epoch: [348/350], batch: [2502/2502], loss: 4.418964, lr: 0.000003, time: 679.655316s"
    assert style.evaluated.format(top1=0.72104, top5=0.90796, eval_time=31.933918) == \
        "Validation Top_1_Accuracy: 72.1040%, Top_5_Accuracy: 90.7960%, time: 31.933918s"
    assert style.saved.format(path="/cache/gmlp_Ti-348_2502.ckpt") == "Saving model to /cache/gmlp_Ti-348_2502.ckpt"
    assert style.epoch_total.format(total_time=712.945024, train_time=679.709016, eval_time=31.933918,
                                    eta=1425.890047).split("\n") == [
        "Total time since last epoch: 712.945024(train: 679.709016, val: 31.933918)s, ETA: 1425.890047s", "-" * 80]
    assert style.finished == "Finish training!"
    assert style.best.format(best=0.72256, best_epoch=347) == \
        "The best validation Top_1_Accuracy is: 72.2560% at epoch 347."
    assert style.evaluation.format(top1=0.7225, top5=0.9081, loss=4.493013) == \
        "{'Top_1_Accuracy': 0.7225, 'Top_5_Accuracy': 0.9081, 'loss': 4.493013}"
