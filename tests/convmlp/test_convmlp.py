"""ConvMLP: the authors' numbers, sizes, initial values, bad arguments, names of weights, recipes."""
import json
import math
import re

import mindspore as ms
import numpy as np
import pytest
from broadcasts import broadcasts
from entry import ROOT
from golden import GRAPH_LATER, Golden, Module, check_classifier, full_size, phases_in
from half_precision import Gradient
from mindspore import nn

from common.config.load import from_file, from_mapping, load_config
from common.errors import UserError
from common.lr import schedule
from convmlp.src.convmlp import ConvMLPStage, framed
from convmlp.src.spec import SPEC
from convmlp.src.weights import architecture

CONFIGS = ROOT / "convmlp" / "config"
SIZES = {"channels": 8, "n_conv_blocks": 2, "dims": (16, 32, 64), "depths": (2, 1, 2), "mlp_ratio": (2, 2, 3)}


def tiny(**arguments):
    """The network of the golden numbers convmlp_tiny."""
    return SPEC.build("convmlp_s", **({"num_classes": 10, "image_size": 64} | SIZES | arguments))


def parameters(network) -> dict[str, np.ndarray]:
    return {p.name: p.asnumpy() for p in network.get_parameters()}


# the authors' numbers

def test_tiny_network_reproduces_the_golden_numbers(mode):
    check_classifier(Golden("convmlp_tiny"), tiny(), SPEC.convert, SPEC.restore, phases=phases_in(mode))


@pytest.mark.slow
@full_size("convmlp_s")
def test_published_variant_reproduces_the_golden_numbers(mode, name, uninitialised):
    check_classifier(Golden(name), SPEC.build(name), SPEC.convert, SPEC.restore, phases=phases_in(mode))


def test_block_reproduces_the_golden_numbers_at_both_scales(mode):
    from convmlp.src.convmlp import ConvMLPBlock

    Module("convmlp_block").check(ConvMLPBlock(12, 24), SPEC.convert)


def test_convolution_stage_reproduces_the_golden_numbers_at_both_scales(mode):
    from convmlp.src.convmlp import ConvStage

    Module("convmlp_convstage").check(ConvStage(8, 16, 2), SPEC.convert)


def test_tokenizer_reproduces_the_golden_numbers_at_both_scales(mode):
    from convmlp.src.convmlp import ConvTokenizer

    Module("convmlp_tokenizer").check(ConvTokenizer(3, 8), SPEC.convert)


class Pooled(nn.Cell):
    """ReLU and a pool."""

    def __init__(self, pool, frame):
        super().__init__()
        self.pool, self.frame = pool, frame

    def construct(self, x):
        x = nn.ReLU()(x)
        return self.pool(framed(x) if self.frame else x)


def test_the_tokenizers_pool_is_one_padded_with_zeros_in_every_call(mode):
    """The padded pool of the framework is three-dimensional, which is slow on Ascend."""
    pool = SPEC.build("convmlp_s").tokenizer.pool
    assert pool.pad_mode == "VALID"
    gradients = [ms.grad(Pooled(nn.MaxPool2d(3, 2, pad_mode="pad", padding=1), False)), ms.grad(Pooled(pool, True))]
    for seed, side in ((0, 8), (1, 8), (2, 7)):
        x = ms.Tensor(np.random.default_rng(seed).standard_normal((2, 3, side, side)).astype(np.float32))
        expected, found = (gradient(x).asnumpy() for gradient in gradients)
        np.testing.assert_array_equal(found, expected)


@GRAPH_LATER
def test_running_statistics_after_one_step_are_the_references(mode):
    from golden import load_strictly, run

    golden, network = Golden("convmlp_tiny"), tiny()
    load_strictly(network, SPEC.convert(golden.tensors()))
    run(network, golden.images, golden.labels, train=True)
    ours = SPEC.restore(parameters(network))
    for kind in ("running_mean", "running_var"):
        name = f"tokenizer.block.1.{kind}"
        np.testing.assert_allclose(ours[name], golden.arrays[f"bn/{name}"], rtol=1e-5, atol=1e-7)


# sizes and arguments

COUNTS = {"convmlp_s": (9_022_920, 8_515_050, 8_561_220), "convmlp_m": (17_410_504, 16_902_634, 16_948_804),
          "convmlp_l": (42_728_440, 41_967_130, 42_036_340)}


@pytest.mark.parametrize("name", COUNTS)
def test_variant_has_its_published_number_of_parameters(name, uninitialised):
    sizes = {p.name: math.prod(p.shape) for p in SPEC.build(name).trainable_params()}
    width = sizes["norm.gamma"]
    assert (sizes["head.weight"], sizes["head.bias"]) == (1000 * width, 1000)
    for classes, count in zip((1000, 10, 100), COUNTS[name]):
        assert sum(sizes.values()) - (1000 - classes) * (width + 1) == count


@pytest.mark.parametrize("classes", [10, 100])
def test_the_head_has_as_many_outputs_as_there_are_classes(classes):
    network = SPEC.build("convmlp_s", num_classes=classes)
    assert sum(math.prod(p.shape) for p in network.trainable_params()) == COUNTS["convmlp_s"][(10, 100).index(classes) + 1]


@pytest.mark.parametrize("spelling", ["convmlp_s", "ConvMLP_S", "cmlp_s", "CMLP_s"])
def test_every_spelling_names_the_same_variant(spelling):
    assert SPEC.variant(spelling) == "convmlp_s"


def rates(network) -> list[list[float]]:
    for stage in network.stages:
        assert [b.drop_path1.rate for b in stage.blocks] == [b.drop_path2.rate for b in stage.blocks]
    return [[block.drop_path1.rate for block in stage.blocks] for stage in network.stages]


@pytest.mark.parametrize("name, expected", [
    ("convmlp_s", [[0, .1], [0, .1 / 3, .2 / 3, .1], [0, .1]]),
    ("convmlp_m", [[0, .05, .1], [0, .02, .04, .06, .08, .1], [0, .05, .1]]),
    ("convmlp_l", [[0, .1 / 3, .2 / 3, .1], [i / 70 for i in range(8)], [0, .05, .1]]),
])
def test_drop_path_rises_from_zero_anew_in_every_stage(name, expected):
    network = SPEC.build(name, drop_path_rate=None, num_classes=2, channels=4, dims=(4, 4, 4), mlp_ratio=1)
    assert rates(network) == [pytest.approx(stage) for stage in expected]


def test_drop_path_follows_the_rate_that_is_given():
    assert rates(tiny()) == [[0, 0], [0], [0, 0]]
    assert rates(tiny(drop_path_rate=0.4)) == [[0, 0.4], [0], [0, 0.4]]


def test_dropped_branches_are_drawn_for_each_sample_and_branch(mode):
    from mindspore import Tensor

    from common.layers.drop_path import seed_random_states
    from convmlp.src.convmlp import ConvMLPBlock

    block = ConvMLPBlock(4, 8, drop_path_rate=0.5)
    for parameter in block.get_parameters():  # each branch adds a constant of its own; what is between them is left out
        if parameter.name.endswith("fc2.bias"):
            parameter.set_data(Tensor(np.full(4, 1 if "mlp1" in parameter.name else 10, np.float32)))
        if parameter.name == "connect.weight":
            kernel = np.zeros((4, 1, 3, 3), np.float32)
            parameter.set_data(Tensor(kernel))
    seed_random_states(block, 5)
    images = Tensor(np.zeros((64, 2, 2, 4), np.float32))
    second = block.set_train(True)(images).asnumpy()[:, 0, 0, 0]
    assert set(second.tolist()) == {0.0, 20.0}  # the constant over the probability to keep it
    assert block.drop_path1.draw(64).asnumpy().tolist() != block.drop_path2.draw(64).asnumpy().tolist()
    assert set(block.set_train(False)(images).asnumpy()[:, 0, 0, 0].tolist()) == {10.0}


def test_every_norm_has_the_epsilon_of_pytorch():
    from mindspore import nn

    cells = [cell for _, cell in tiny().cells_and_names()]
    assert {c.eps for c in cells if isinstance(c, nn.BatchNorm2d)} == {1e-5}
    assert {c.epsilon for c in cells if isinstance(c, nn.LayerNorm)} == {1e-5}


@GRAPH_LATER
@pytest.mark.parametrize("size", [(33, 47), (32, 32), (5, 5)])
def test_any_image_size_and_number_of_channels_will_do(mode, size):
    from mindspore import Tensor

    logits = tiny(in_channels=1)(Tensor(np.ones((2, 1, *size), np.float32)))
    assert logits.shape == (2, 10)


@pytest.mark.parametrize("level", ["O0", "O1", "O2", "O3"])
def test_every_precision_gives_float32_logits_near_the_exact_ones(level):
    import mindspore as ms
    from mindspore import Tensor

    from common.layers.precision import apply_precision

    ms.set_seed(4)
    images = Tensor(Golden("convmlp_tiny").images)
    exact = tiny()(images).asnumpy()
    logits = apply_precision(tiny(), level)(images)
    assert logits.dtype == ms.float32
    assert np.abs(logits.asnumpy() - exact).max() < (1e-6 if level == "O0" else 2e-3)


@pytest.mark.parametrize("arguments, words", [
    ({"channels": 7}, "channels: 7 is odd"),
    ({"dims": (16, 32)}, "one number per stage"),
    ({"mlp_ratio": (2, 2)}, "one number per stage"),
    ({"drop_path_rate": 1.0}, "drop_path_rate"),
    ({"num_heads": 4}, "num_heads is not an argument of convmlp_s"),
    ({"depth": (1, 1, 1)}, "Did you mean 'depths'"),
])
def test_arguments_that_do_not_fit_are_refused_by_name(arguments, words):
    with pytest.raises(UserError, match=words):
        tiny(**arguments)


# initial values

def test_exact_initial_values():
    for name, value in parameters(tiny()).items():
        if name.endswith(("gamma", "moving_variance")):
            assert (value == 1).all(), name
        elif name.endswith(("beta", "moving_mean", "fc1.bias", "fc2.bias", "head.bias")):
            assert (value == 0).all(), name
        else:
            assert value.std() > 0, name


def test_drawn_initial_values_have_the_stated_distributions():
    values = parameters(SPEC.build("convmlp_s"))
    for name, value in values.items():
        if value.ndim == 4:  # Kaiming's over the outputs, also for the depthwise convolution
            std = math.sqrt(2 / (value.shape[0] * value.shape[2] * value.shape[3]))
        elif value.ndim == 2:
            std = 0.02
        else:
            continue
        assert value.std() == pytest.approx(std, rel=5 / math.sqrt(value.size)), name
        assert abs(value.mean()) < 5 * std / math.sqrt(value.size), name
    assert values["stages.0.blocks.0.connect.weight"].std() == pytest.approx(0.0417, rel=0.1)
    for name, fan_in in (("conv_stages.downsample", 64 * 9), ("stages.0.downsample_mlp.downsample", 128 * 9),
                         ("stages.1.downsample_mlp.downsample", 256 * 9)):
        bias = values[f"{name}.bias"]
        assert 0.9 / math.sqrt(fan_in) < np.abs(bias).max() <= 1 / math.sqrt(fan_in)
        assert bias.std() == pytest.approx(1 / math.sqrt(3 * fan_in), rel=0.2)


def test_initial_values_follow_the_seed():
    import mindspore as ms

    ms.set_seed(11)
    first, again = parameters(tiny()), parameters(tiny())
    ms.set_seed(12)
    other = parameters(tiny())
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["conv_stages.downsample.bias"], other["conv_stages.downsample.bias"])
    assert not np.array_equal(first["stages.0.blocks.0.connect.weight"], first["stages.0.blocks.1.connect.weight"])


# names of weights

def test_the_authors_names_go_both_ways_bit_for_bit():
    golden = {name: value for name, value in Golden("convmlp_s").tensors().items()
              if not name.endswith("num_batches_tracked")}
    ours = SPEC.convert(golden)
    back = SPEC.restore(ours)
    assert list(back) == list(golden) and all(back[name] is golden[name] for name in golden)
    assert "conv_stages.conv_blocks.1.7.moving_variance" in ours and "stages.2.blocks.1.connect_norm.gamma" in ours


def test_counters_of_batch_norm_are_left_out_and_our_names_kept():
    assert not [name for name in SPEC.convert(Golden("convmlp_tiny").tensors()) if "tracked" in name]
    ours = parameters(tiny())
    assert list(SPEC.convert(ours)) == list(ours)


@pytest.mark.parametrize("name", SPEC.variants)
def test_architecture_is_read_from_the_shapes(name):
    small = {"channels": 8, "dims": (8, 12, 16)}
    network = SPEC.build(name, num_classes=7, in_channels=1, **small)
    expected = SPEC.variants[name] | small | {"num_classes": 7, "in_channels": 1}
    del expected["drop_path_rate"]
    assert architecture(parameters(network)) == expected
    assert architecture(SPEC.restore(parameters(network))) == expected


def test_architecture_of_stages_with_ratios_of_their_own():
    found = architecture(Golden("convmlp_tiny").tensors())
    assert found == SIZES | {"num_classes": 10, "in_channels": 3}
    assert architecture(Golden("gmlp_tiny").tensors()) == {}


def test_biases_and_norms_are_not_decayed_and_kernels_are():
    undecayed = {p.name for p in tiny().trainable_params() if SPEC.no_weight_decay(p.name, tuple(p.shape))}
    assert {"tokenizer.block.1.gamma", "conv_stages.downsample.bias", "stages.0.blocks.0.connect_norm.beta",
            "head.bias"} <= undecayed
    assert not undecayed & {"tokenizer.block.0.weight", "stages.0.blocks.0.connect.weight", "head.weight"}


# recipes

def shipped(name: str, *flags: str):
    """Read a shipped file as the entry points do; its data need not be there."""
    return from_file(CONFIGS / name, SPEC, **dict(flags))


def test_all_recipes_of_the_issue_are_there():
    names = {f"convmlp_{size}_{data}" for size in "sml" for data in ("imagenet", "cifar10", "cifar100")}
    others = {"convmlp_eval", "convmlp_export", "convmlp_digits", "finetune_small"}
    assert {file.stem for file in CONFIGS.iterdir()} == names | others


@pytest.mark.parametrize("file", sorted(CONFIGS.iterdir()), ids=lambda file: file.stem)
def test_recipe_loads_and_says_what_and_from_where(file):
    config = shipped(file.name)
    header = file.read_text().split("\n\n")[0]
    assert all(line.startswith("#") for line in header.splitlines())
    assert all(word in header for word in ("python ", "Hardware: ", "Expected: ", "Source: "))
    if found := re.match(r"convmlp_([sml])_(\w+)", file.stem):
        assert (config.model, config.dataset) == (f"convmlp_{found[1]}", found[2])
        network = SPEC.build(config.model, num_classes=config.num_classes, drop_path_rate=config.drop_path_rate)
        count = sum(math.prod(p.shape) for p in network.trainable_params())
        assert re.search(r"\((.*) M parameters\)", header)[1] in (f"{count / 1e6:.1f}", f"{count / 1e6:.2f}",
                                                                  f"{math.floor(count / 1e4) / 100:.2f}")


@pytest.mark.parametrize("name, table", [("convmlp_s_imagenet", "convmlp_imagenet_e300_w5_cool10"),
                                         ("convmlp_l_imagenet", "convmlp_imagenet_e300_w5_cool10"),
                                         ("convmlp_m_cifar10", "convmlp_cifar_e50_w10_cool10"),
                                         ("convmlp_l_cifar100", "convmlp_cifar_e50_w10_cool10")])
def test_recipe_has_the_authors_learning_rates(name, table):
    stored = json.loads((ROOT / "tests" / "data" / "golden" / "schedules.json").read_text())["timm_cosine"][table]
    rates_of_epochs = schedule(shipped(f"{name}.yaml"), 2, 128).reshape(-1, 2)
    np.testing.assert_allclose(rates_of_epochs[:, 0], stored["values"], rtol=1e-6)
    assert (rates_of_epochs[:, 0] == rates_of_epochs[:, 1]).all()


@pytest.mark.parametrize("data", ["cifar10", "cifar100"])
def test_the_seeds_recipe_has_its_length_and_batch(data):
    config = shipped(f"convmlp_s_{data}.yaml")
    assert (config.epochs, config.batch_size, config.num_classes) == (125, 64, int(data.removeprefix("cifar")))


# the seed's options

SEED = {"run_modelarts": ("False", "enable_modelarts", False), "is_distributed": ("False", "distribute", False),
        "device_id": ("4", "device_id", 4), "batch_size": ("64", "batch_size", 64), "epoch_size": ("125", "epochs", 125),
        "dataset_choose": ("cifar100", "dataset", "cifar100"), "device_target": ("Ascend", "device_target", "Ascend"),
        "save_checkpoint_path": ("./ckpt", "ckpt_save_dir", "./ckpt"),
        "train_data_path": ("./data/cifar-10-batches-bin", "data_dir", "./data/cifar-10-batches-bin"),
        "val_data_path": ("./data/cifar-10-val-bin", "eval_dir", "./data/cifar-10-val-bin"),
        "chcekpoint_path": ("./checkpoint/cifa10_CMLP.ckpt", "ckpt_path", "./checkpoint/cifa10_CMLP.ckpt")}


@pytest.mark.parametrize("option", SEED)
def test_option_of_the_seed_is_understood(option):
    written, name, value = SEED[option]
    assert getattr(from_mapping({option: written}, "seed"), name) == value


def test_all_options_of_the_seed_together(tmp_path):
    (tmp_path / "data" / "cifar-10-batches-bin").mkdir(parents=True)
    flags = [word for option, (written, _, _) in SEED.items() if option != "chcekpoint_path"
             for word in (f"--{option}", "cifar10" if option == "dataset_choose" else written)]
    config = load_config(flags, task="train", spec=SPEC, model_dir=ROOT / "convmlp")
    assert (config.dataset, config.num_classes, config.model) == ("cifar10", 10, "convmlp_s")
    assert (config.data_dir, config.lr, config.epochs) == ("./data/cifar-10-batches-bin", 3e-4, 125)


def test_the_other_data_set_needs_only_its_name():
    config = load_config(["--dataset_choose", "cifar100"], task="train", spec=SPEC, model_dir=ROOT / "convmlp")
    assert (config.dataset, config.num_classes, config.mean) == ("cifar100", 100, None)


def test_folders_of_the_shipped_file_are_looked_for_here_and_then_beside_it(tmp_path, monkeypatch):
    model_dir = tmp_path / "zoo" / "convmlp"
    (model_dir / "config").mkdir(parents=True)
    (model_dir / "data").mkdir()
    (model_dir / "config" / "convmlp_s_cifar10.yaml").write_text((CONFIGS / "convmlp_s_cifar10.yaml").read_text())

    def data_dir() -> str:
        return load_config([], task="train", spec=SPEC, model_dir=model_dir).data_dir

    assert data_dir() == str(model_dir / "data")
    (tmp_path / "data").mkdir()
    assert data_dir() == "./data"


def test_log_lines_are_the_seeds():
    style = SPEC.log_style
    assert style.prefix == "%(message)s"
    assert style.train_epoch.format(epoch=1, steps=768, loss=0.9696) == "epoch:1 step:768, loss is 0.96960"
    lines = style.evaluation.format(top1=0.9806, top5=0.9999, loss=0.07, seen=10000, total_time=61, step_time=1)
    assert lines.splitlines()[0] == "accuracy:{'acc':0.9806}"
    assert "top-1 98.06%" in lines and "top-5 99.99%" in lines


def test_nothing_large_is_transposed_by_a_training_on_a_cpu(tmp_path):
    """2 maps of 6 x 6 pixels with 8 channels have 576 numbers, those of half the size with 16 channels 288."""
    stage = ConvMLPStage(8, 16, 1, 2.0, 0.1)
    maps = ms.Tensor(np.ones((2, 6, 6, 8), np.float32))
    assert not broadcasts(Gradient(stage).set_train(), maps, tmp_path, 200, always=("Transpose",))
