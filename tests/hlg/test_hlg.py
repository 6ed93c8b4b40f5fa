"""HLG, the zoo's and the official networks: the references' numbers, parts, sizes, precision, bad arguments."""
import math
from dataclasses import replace

import mindspore as ms
import numpy as np
import pytest
from broadcasts import broadcasts
from golden import Golden, Tolerances, check_classifier, full_size, load_strictly, phases_in, run
from golden_rule import fill, pattern
from half_precision import Gradient, check_half_precision
from mindspore import Tensor, nn

from common.errors import UserError
from common.layers.cells import GELU, LayerNorm, TanhGELU
from common.layers.drop_path import DropPath, seed_random_states
from common.layers.precision import apply_precision
from hlg.src import cells
from hlg.src.hlg import LocalGlobalBlock
from hlg.src.hlg_official import PositionBias, global_places, local_places
from hlg.src.spec import SPEC, VARIANTS
from hlg.src.weights import dead

TOLERANCES = Tolerances(logits_train=2e-4, loss_train=1e-4, norms_eval=(1e-3, 1e-5), norms_train=(5e-3, 0.0))
# the reference's float32 is 8e-3 from its float64 here: LayerNorms of two numbers, which may differ by next to nothing
POSITION_BIAS = {f"block1.{index}.pos_{kind}.": (1.5e-2, 0.0) for index in (0, 1) for kind in ("local", "global")}
GOLDENS = ("hlg_mobile", "hlg_mobile_avgpool", "hlg_tiny_avgpool", "hlg_tiny_avgpool_paper", "hlg_tiny_dwconv")
ZOO = {"num_classes": 5, "image_size": 56, "dims": (16, 32), "num_heads": (2, 4), "depths": (2, 1), "mlp_ratio": (2, 2)}
OFFICIAL = {"num_classes": 5, "image_size": 56, "dims": (16, 32), "num_heads": (2, 4), "depths": (2, 1)}
BOTH = pytest.mark.parametrize("variant", ["hlg_mobile", "hlg_tiny_avgpool"])


def small(variant="hlg_tiny_avgpool", **arguments):
    """Return a network of two stages, for images of 56 pixels: maps of 14 and 7."""
    return SPEC.build(variant, **((ZOO if variant == "hlg_mobile" else OFFICIAL) | arguments))


def parameters(network) -> dict[str, np.ndarray]:
    return {p.name: p.asnumpy() for p in network.get_parameters()}


def random_images(count=2, size=56):
    return Tensor(np.random.default_rng(1).standard_normal((count, 3, size, size)).astype(np.float32))


# the whole network

class Reference(Golden):
    """A stored run."""

    def __init__(self, name: str):
        super().__init__(name)
        self.zoo = name == "hlg_mobile"
        self.variant = name.removesuffix("_paper")
        self.layout = {} if self.zoo else {"layout": "paper" if name.endswith("_paper") else "head"}
        self.unused = {key for key, _, kind in self.manifest["entries"] if kind == "unused"}

    def network(self):
        return SPEC.build(self.variant, **({"dead_parameters": True} if self.zoo else self.layout))


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
    logits, stages = Stages(network).set_train(False)(Tensor(pattern(2, 224)))
    assert np.abs(logits.asnumpy() - reference.arrays["logits_pattern"]).max() < 2e-5
    assert len(stages) == 4
    for stage, tokens in enumerate(stages, start=1):
        tokens, stored = tokens.asnumpy(), reference.arrays[f"pattern_stage{stage}"]
        assert np.abs(tokens[:, :49:4, :16] - stored).max() < 2e-5 * max(1.0, np.abs(stored).max()), stage
        norm = np.linalg.norm(tokens.astype(np.float64))
        assert norm == pytest.approx(reference.arrays["pattern_stage_norms"][stage - 1], rel=1e-5), stage


def check_gradients(reference, network, phases) -> None:
    """Hold the network to everything else that is stored, and the set of parameters without effect as well."""
    tolerances = replace(TOLERANCES, exceptions_train=(
        POSITION_BIAS if reference.variant == "hlg_mobile_avgpool" else {}))
    weights = {p.name for p in network.trainable_params()}
    vanishing = reference.unused.union(*(reference.manifest[f"zero_grad_keys_{phase}"] for phase in phases))

    def restore(tensors):
        theirs = SPEC.restore(tensors)
        if set(tensors) == weights:  # gradients
            zero = {name for name, gradient in theirs.items() if not gradient.any()}
            assert reference.unused <= zero <= vanishing
        return theirs

    print(reference.variant, check_classifier(reference, network, SPEC.convert, restore, tolerances, phases))


@pytest.mark.slow
@full_size("hlg_mobile", "hlg_mobile_avgpool", later=["hlg_tiny_avgpool", "hlg_tiny_dwconv"])
def test_network_reproduces_the_golden_numbers(mode, name, uninitialised):
    reference = Reference(name)
    network = reference.network()
    check_gradients(reference, network, phases_in(mode))
    if mode == "pynative":  # in graph mode it would be another compilation
        check_stages(reference, network)


@pytest.mark.long
@pytest.mark.parametrize("mode", ["graph", "pynative"], indirect=True)
def test_network_of_the_papers_layout_reproduces_the_golden_numbers(mode, uninitialised):
    reference = Reference("hlg_tiny_avgpool_paper")
    check_gradients(reference, reference.network(), phases_in(mode))


@pytest.mark.slow
@pytest.mark.parametrize("mode, name", [
    ("pynative", "hlg_tiny_dwconv"), ("pynative", "hlg_tiny_avgpool_paper"),
    *(pytest.param("graph", name, marks=pytest.mark.long) for name in GOLDENS)], indirect=["mode"])
def test_network_reproduces_the_golden_stages(mode, name, uninitialised):
    reference = Reference(name)
    check_stages(reference, reference.network())


def test_both_modes_compute_the_same():
    """Of a small network of the authors: a whole one takes ten times as long to compile, in the long part."""
    network, results = small(depths=(1, 1)), []
    tensors = {name: fill(name, value.shape) for name, value in parameters(network).items()}
    for mode in (ms.GRAPH_MODE, ms.PYNATIVE_MODE):
        ms.set_context(mode=mode)
        load_strictly(network, tensors)
        results.append(run(network, random_images().asnumpy(), np.array([1, 3]), train=True))
    graph, pynative = results
    assert np.abs(graph.logits - pynative.logits).max() < TOLERANCES.logits_train
    for name, gradient in pynative.gradients.items():
        difference = np.linalg.norm(graph.gradients[name] - gradient)
        assert difference <= TOLERANCES.norms_train[0] * np.linalg.norm(gradient) + 1e-5, name


# parts

@pytest.mark.parametrize("lean", [False, True])
@pytest.mark.parametrize("dilated", [False, True])
def test_groups_are_windows_or_dilated_and_go_back_to_where_they_were(mode, dilated, lean):
    rows, columns, channels = 2, 3, 2
    maps = np.random.default_rng(0).standard_normal((2, channels, 7 * rows, 7 * columns)).astype(np.float32)
    groups = cells.group(Tensor(maps), dilated, lean)
    assert groups.shape == (2 * rows * columns, 49, channels)
    found = groups.asnumpy().reshape(2, rows, columns, 7, 7, channels)
    for a, b, u, v in np.ndindex(rows, columns, 7, 7):
        row, column = (u * rows + a, v * columns + b) if dilated else (7 * a + u, 7 * b + v)
        assert (found[:, a, b, u, v] == maps[:, :, row, column]).all()
    tokens = cells.ungroup(groups, (7 * rows, 7 * columns), dilated, lean)
    assert (tokens.asnumpy() == maps.reshape(2, channels, -1).swapaxes(1, 2)).all()


def bias_of_every_offset(cell, side) -> np.ndarray:
    """Return the bias of the offsets in [1 - side, side - 1]^2, (2 side - 1, 2 side - 1, heads), in float64."""
    weights = {name: value.astype(np.float64) for name, value in parameters(cell).items()}
    steps = np.arange(1 - side, side)
    x = np.stack(np.meshgrid(steps, steps, indexing="ij"), -1) @ weights["pos_proj.weight"].T + weights["pos_proj.bias"]
    for layer in ("pos1", "pos2", "pos3"):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        x = np.maximum(x * weights[f"{layer}.0.gamma"] + weights[f"{layer}.0.beta"], 0)
        x = x @ weights[f"{layer}.2.weight"].T + weights[f"{layer}.2.bias"]
    return x


def random_bias(places):
    cell = PositionBias(64, 3, places)
    rng = np.random.default_rng(0)
    for parameter in cell.get_parameters():
        parameter.set_data(Tensor(rng.standard_normal(parameter.shape).astype(np.float32)))
    return cell


@pytest.mark.parametrize("side", [7, 14, 28])
def test_global_bias_is_the_first_columns_of_the_whole_table(mode, side):
    """As in the authors' code, the whole table is computed and cut here; in the network, only what is left."""
    cell = random_bias(global_places(side))
    rows, columns = np.divmod(np.arange(side * side), side)
    whole = bias_of_every_offset(cell, side)[rows[:, None] - rows + side - 1, columns[:, None] - columns + side - 1]
    used = (side // 7) ** 2
    bias = cell()
    assert bias.shape == (3, side * side, used)
    assert np.abs(bias.asnumpy() - whole.transpose(2, 0, 1)[:, :, :used]).max() < 1e-4


def test_global_bias_at_224_pixels_holds_nothing_but_the_columns_that_are_used():
    """57 of 111 rows of offsets occur: those of keys in the first two rows of the map."""
    offsets, index, size = global_places(56)
    assert size == (3136, 64) and index.shape == (3136 * 64,)
    assert 6000 < len(offsets) < 57 * 111 < 111 * 111


def test_local_bias_depends_on_the_distance_of_two_tokens(mode):
    cell = random_bias(local_places())
    table = bias_of_every_offset(cell, 7)
    bias = cell().asnumpy()
    assert bias.shape == (3, 49, 49)
    for i, j in [(0, 48), (48, 0), (10, 3), (5, 5), (20, 44)]:
        down, right = i // 7 - j // 7, i % 7 - j % 7
        assert np.abs(bias[:, i, j] - table[down + 6, right + 6]).max() < 1e-4


@pytest.mark.parametrize("variant, act, epsilons", [("hlg_mobile", TanhGELU, {1e-7}),
                                                    ("hlg_tiny_avgpool", GELU, {1e-6, 1e-5})])
def test_activations_and_epsilons_are_those_of_the_reference(variant, act, epsilons):
    found = dict(small(variant).cells_and_names())
    assert {type(cell) for cell in found.values() if isinstance(cell, (GELU, TanhGELU, nn.GELU))} == {act}
    norms = {name: cell.epsilon for name, cell in found.items() if isinstance(cell, nn.LayerNorm)}
    assert set(norms.values()) == epsilons
    assert all((epsilon == 1e-5) == (".pos_" in name) for name, epsilon in norms.items())
    for cell in found.values():
        if isinstance(cell, nn.BatchNorm2d):
            assert cell.eps == 1e-5 and cell.momentum == pytest.approx(0.1)  # the framework keeps 1 - momentum


@BOTH
def test_epsilon_of_the_norms_is_an_argument(variant):
    norms = {name: cell.epsilon for name, cell in small(variant, norm_eps=1e-3).cells_and_names()
             if isinstance(cell, LayerNorm)}
    assert all(epsilon == (1e-5 if ".pos_" in name else 1e-3) for name, epsilon in norms.items())


@BOTH
def test_blocks_alternate_windows_and_dilated_groups_and_drop_ever_more_paths(variant):
    network = small(variant, depths=(3, 2), drop_path_rate=0.2)
    assert [block.dilated for block in network.blocks[0]] == [False, True, False]
    rates = [{cell.rate for _, cell in block.cells_and_names() if isinstance(cell, DropPath)}
             for blocks in network.blocks for block in blocks]
    assert [len(found) for found in rates] == [1] * 5
    np.testing.assert_allclose([found.pop() for found in rates], [0, 0.05, 0.1, 0.15, 0.2])


def test_local_attention_of_the_zoo_drops_single_groups(mode):
    """All weights are zero but the bias behind both attentions: the branches are ones, the smoothing nothing."""
    block = LocalGlobalBlock((14, 14), True, 16, 2, 2, 1e-7, drop_path_rate=0.5).set_train()
    block.attn.proj.bias.set_data(Tensor(np.ones(16, np.float32)))
    seed_random_states(block, 3)
    out = block(Tensor(np.zeros((8, 196, 16), np.float32)))
    groups = cells.group(cells.as_maps(out, (14, 14), False), True, False).asnumpy().reshape(8, 4, 49 * 16)
    assert (groups == groups[:, :, :1]).all()  # one number per group: 0 or 2, and as much for its sample
    own = groups[:, :, 0]
    assert set(np.unique(own)) == {0.0, 2.0, 4.0}
    assert any(len(set(sample)) == 2 for sample in own) and all(np.ptp(sample) <= 2 for sample in own)


@pytest.mark.parametrize("variant", ["hlg_mobile", pytest.param("hlg_tiny_avgpool", marks=pytest.mark.long)])
def test_nothing_large_is_broadcast_by_a_training_on_a_cpu(variant, tmp_path):
    network = small(variant, depths=(1, 1), drop_path_rate=0.2).set_train()
    assert not broadcasts(Gradient(network), random_images(), tmp_path, 500, always=("Transpose",))


# sizes, precision, initial values

COUNTS = {"hlg_mobile_avgpool": (5_064_552, 4_140_904), "hlg_tiny_avgpool": (12_656_560, 11_035_824),
          "hlg_tiny_dwconv": (12_752_560, 11_131_824), "hlg_small_avgpool": (27_896_044, 24_273_004),
          "hlg_medium_avgpool": (43_601_452, 39_978_412), "hlg_large_avgpool": (76_875_960, 70_455_992)}


def count(*arguments, **more) -> int:
    return sum(p.size for p in SPEC.build(*arguments, **more).trainable_params())


@pytest.mark.parametrize("variant", COUNTS)
def test_official_variants_have_their_number_of_parameters_in_both_layouts(variant, uninitialised):
    assert (count(variant, layout="head"), count(variant, layout="paper")) == COUNTS[variant]


def test_one_class_more_is_one_row_more(uninitialised):
    assert count("hlg_mobile_avgpool", num_classes=1001) == COUNTS["hlg_mobile_avgpool"][0] + 385


@pytest.mark.parametrize("variant, depth, millions", [("hlg_medium_avgpool", 16, 43.905), ("hlg_large_avgpool", 18,
                                                                                         84.356)])
def test_other_depths_have_the_published_sizes(variant, depth, millions, uninitialised):
    assert round(count(variant, depths=(2, 2, depth, 2), layout="paper") / 1e6, 3) == millions


def test_the_zoos_network_has_1001_outputs_and_no_dead_parameters_unless_asked_for(uninitialised):
    assert count("hlg_mobile") == 6_147_657
    assert count("hlg_mobile", dead_parameters=True) == 6_768_201
    assert count("hlg_mobile", dead_parameters=True, num_classes=1000) == 6_767_816
    assert SPEC.build("hlg_mobile").head.out_channels == 1001
    assert SPEC.build("hlg_mobile_avgpool").head.out_channels == 1000


@pytest.mark.parametrize("name", GOLDENS)
def test_dead_parameters_are_those_of_the_reference(name, uninitialised):
    reference = Reference(name)
    network = reference.network()
    names = {p.name for p in network.trainable_params() if dead(p.name, network)}
    theirs = names if reference.zoo else set(SPEC.restore(dict.fromkeys(names)))
    assert theirs == reference.unused and bool(names) != name.endswith("_paper")


def test_seven_variants_are_known_and_their_heads_divide_them():
    assert set(VARIANTS) == {"hlg_mobile", *COUNTS}
    for sizes in VARIANTS.values():
        assert all(dim % heads == 0 for dim, heads in zip(sizes["dims"], sizes["num_heads"]))
    assert SPEC.variant("HLG_Mobile") == "hlg_mobile"


@pytest.mark.parametrize("variant, stages, size", [
    ("hlg_mobile", 1, 28), ("hlg_mobile", 2, (28, 56)), ("hlg_mobile", 3, 56), ("hlg_tiny_dwconv", 1, 28),
    ("hlg_tiny_dwconv", 2, 56)])
def test_networks_of_fewer_stages_take_smaller_images(variant, stages, size):
    more = {"mlp_ratio": (2,) * stages} if variant == "hlg_mobile" else {}
    network = SPEC.build(variant, num_classes=3, image_size=size, dims=(16,) * stages, num_heads=(2,) * stages,
                         depths=(1,) * stages, **more).set_train(False)
    height, width = (size, size) if isinstance(size, int) else size
    found = network.stage_outputs(Tensor(np.zeros((2, 3, height, width), np.float32)))
    lengths = [math.ceil(height / 2 ** (stage + 2)) * math.ceil(width / 2 ** (stage + 2)) for stage in range(stages)]
    lengths[-1] += variant == "hlg_mobile"  # the class token
    assert [tokens.shape for tokens in found] == [(2, length, 16) for length in lengths]


@pytest.mark.parametrize("variant, arguments, words", [
    ("hlg_mobile", {"image_size": 42}, "42 x 42 .* 2 stages takes multiples of 28 pixels: 28, 56, 84"),
    ("hlg_mobile", {"image_size": (56, 64)}, "56 x 64"),
    ("hlg_tiny_avgpool", {"image_size": 112}, "112 x 112 .* 2 stages takes images of 56 x 56 pixels"),
    ("hlg_tiny_avgpool", {"image_size": (56, 28)}, "56 x 28"),
    ("hlg_mobile", {"dims": (16, 20)}, "dims: .*multiple of 16"),
    ("hlg_mobile", {"dims": 16}, "dims"),
    ("hlg_mobile", {"depths": (1, 0)}, r"depths: \[1, 0\] must be 2 positive numbers"),
    ("hlg_mobile", {"mlp_ratio": 4}, "mlp_ratio: 4 must be 2"),
    ("hlg_tiny_avgpool", {"num_heads": (2, 4, 8)}, "num_heads"),
    ("hlg_tiny_avgpool", {"num_heads": (3, 4)}, "must divide dims"),
    ("hlg_tiny_avgpool", {"drop_path_rate": 1.0}, "drop_path_rate"),
    ("hlg_tiny_avgpool", {"layout": "seg"}, "layout: 'seg' is not one of head, paper"),
    ("hlg_tiny_avgpool", {"pool": "maxpool"}, "pool: 'maxpool'"),
    ("hlg_mobile", {"layout": "paper"}, "layout is not an argument of hlg_mobile"),
    ("hlg_tiny_avgpool", {"dead_parameters": True}, "dead_parameters is not an argument of hlg_tiny_avgpool"),
    ("hlg_tiny_avgpool", {"depth": 4}, "Did you mean 'depths'")])
def test_arguments_that_do_not_fit_are_refused_by_name(variant, arguments, words):
    with pytest.raises(UserError, match=words):
        small(variant, **arguments)


@BOTH
def test_images_of_another_size_are_refused(variant):
    with pytest.raises(ValueError, match=r"\(3, 28, 28\).* built for \(3, 56, 56\)"):
        small(variant).stage_outputs(random_images(size=28))


@pytest.mark.parametrize("mode, level, variant", [
    *(pytest.param("graph", "O3", name, marks=pytest.mark.long) for name in ("hlg_mobile", "hlg_tiny_avgpool")),
    ("pynative", "O3", "hlg_tiny_avgpool"), ("pynative", "O2", "hlg_mobile"), ("pynative", "O2", "hlg_tiny_avgpool")],
    indirect=["mode"])
def test_half_precision_is_near_float32_and_has_finite_float32_gradients(mode, level, variant):
    check_half_precision(small(variant, depths=(1, 1)), small(variant, depths=(1, 1)), level, 56)


@pytest.mark.parametrize("level", ["O1", "O2", "O3"])
def test_position_bias_is_computed_in_float32_at_half_precision(mode, level):
    network = apply_precision(small(), level)
    block = network.blocks[0][0]
    exact = PositionBias(16, 2, global_places(14))
    load_strictly(exact, {name.split("pos_global.")[1]: value for name, value in parameters(network).items()
                          if name.startswith("block1.0.pos_global.")})
    bias = block.pos_global()
    assert bias.dtype == ms.float32
    assert (bias.asnumpy() == exact().asnumpy()).all()


def test_initial_values_of_the_zoos_network():
    ms.set_seed(4)
    values = parameters(SPEC.build("hlg_mobile", num_classes=10, dims=(64, 128, 192, 256), depths=(1, 1, 1, 1)))
    assert values["pos_embed1"].std() == pytest.approx(1, rel=0.02) and values["cls"].std() == pytest.approx(1, rel=0.2)
    assert values["block3_0.attn.to_q.weight"].std() == pytest.approx(0.02, rel=0.03)
    kernel = values["patch_embed2.conv.weight"]
    assert np.abs(kernel).max() <= (64 * 9) ** -0.5 and kernel.std() == pytest.approx((64 * 9 * 3) ** -0.5, rel=0.03)
    assert not values["patch_embed2.conv.bias"].any() and not values["block1_0.attn.to_q.bias"].any()
    assert (values["norm.gamma"] == 1).all()


def test_initial_values_of_the_official_network():
    ms.set_seed(4)
    values = parameters(SPEC.build("hlg_tiny_dwconv", num_classes=10, depths=(1, 1, 1, 1)))
    assert values["block3.0.q.weight"].std() == pytest.approx(0.02, rel=0.03)
    for name, fan_in in (("block3.0.mlp.fc1", 128), ("block3.0.mlp.fc2", 9), ("block1.0.h0_conv", 49),
                         ("block2.0.spatial_smooth.0.3", 32 * 9)):
        kernel = values[f"{name}.weight"]
        assert np.abs(kernel).max() <= fan_in ** -0.5, name
        assert kernel.std() == pytest.approx((3 * fan_in) ** -0.5, rel=0.06), name
        assert 0 < np.abs(values[f"{name}.bias"]).max() <= fan_in ** -0.5, name
    assert not values["block3.0.q.bias"].any() and not values["block1.0.pos_local.pos3.2.bias"].any()


@pytest.mark.parametrize("name, shape, decayed", [
    ("block1.0.q.weight", (64, 64), True), ("pos_embed1", (1, 3136, 32), True), ("cls", (1, 1, 384), True),
    ("block1.0.aux_q.weight", (64, 1, 3, 3), True), ("block1.0.norm1.gamma", (64,), False),
    ("head.bias", (1000,), False)])
def test_biases_and_norms_are_not_decayed(name, shape, decayed):
    assert SPEC.no_weight_decay(name, shape) != decayed


def test_result_of_an_evaluation_is_written_as_in_the_seed():
    line = SPEC.log_style.evaluation.format(top1=0.75488, step_time=0.2441, total_time=95.4355)
    assert line == "accuracy=0.754880, per step time: 0.2441s, total cost time: 95.4355s"
