"""MAE and its ViT: the authors' numbers, sizes, initial values, the faults of the old zoo's version, bad arguments."""
import json
import math

import mindspore as ms
import numpy as np
import pytest
from broadcasts import broadcasts
from entry import ROOT
from golden import GRAPH_LATER, Golden, Module, check_classifier, full_size, load_strictly, phases_in
from golden_rule import fill, noise
from half_precision import Gradient
from mindspore import ops

from common.errors import UserError
from common.layers.fused_attention import fuse_attention
from mae.src.spec import SPEC
from mae.src.vit import Attention, Block

SMALL = {"image_size": 32, "patch_size": 4, "embed_dim": 64, "depth": 2, "num_heads": 4}
SMALL_DECODER = {"decoder_embed_dim": 32, "decoder_depth": 1, "decoder_num_heads": 4}
FIXED = ("pos_embed", "decoder_pos_embed")
DATA = ROOT / "tests" / "data"
CONFIGS = ROOT / "mae" / "config"
TABLES = json.loads((DATA / "golden" / "schedules.json").read_text())


def tiny_mae(**arguments):
    """The network of the golden numbers mae_vit_tiny."""
    return SPEC.build("mae_vit_base_patch16", **(SMALL | SMALL_DECODER | arguments))


def tiny_vit(**arguments):
    """The network of the golden numbers vit_tiny_*."""
    return SPEC.build("vit_base_patch16", **({"num_classes": 10} | SMALL | arguments))


def parameters(network) -> dict[str, np.ndarray]:
    return {p.name: p.asnumpy().copy() for p in network.get_parameters() if not p.name.endswith("random_state")}


# the authors' numbers: ViT

@pytest.mark.parametrize("pooling", ["cls", "gap"])
def test_tiny_vit_reproduces_the_golden_numbers(mode, pooling):
    network = tiny_vit(global_pool=pooling == "gap")
    check_classifier(Golden(f"vit_tiny_{pooling}"), network, SPEC.convert, SPEC.restore, phases=phases_in(mode))


@pytest.mark.slow
@full_size("vit_base_patch16_cls", later=["vit_base_patch16_gap"])
def test_base_vit_reproduces_the_golden_numbers(mode, name, uninitialised):
    """Once: without dropped paths training computes the same as evaluation, as the tiny network shows."""
    network = SPEC.build("vit_base_patch16", global_pool=name.endswith("gap"))
    check_classifier(Golden(name), network, SPEC.convert, SPEC.restore, phases=("eval",))


def test_block_reproduces_the_golden_numbers_at_both_scales(mode):
    Module("vit_block").check(Block(16, 4), SPEC.convert)


# the authors' numbers: masked autoencoder

class Reconstruction:
    """What a masked autoencoder computed, with gradients under the authors' names."""

    def __init__(self, network, images, noise_values, normalised: bool):
        import mindspore as ms
        from mindspore import Tensor

        network.norm_pix_loss = normalised
        weights = network.trainable_params()
        step = ms.value_and_grad(network, None, ms.ParameterTuple(weights), has_aux=True)
        (loss, pred, mask), gradients = step(Tensor(images), Tensor(noise_values))
        self.loss, self.pred, self.mask = float(loss.asnumpy()), pred.asnumpy(), mask.asnumpy()
        self.gradients = SPEC.restore({p.name: g.asnumpy() for p, g in zip(weights, gradients)})


def check_autoencoder(golden: Golden, network, kinds=("raw", "norm")) -> dict[str, float]:
    """Fill a masked autoencoder and hold it to the stored results; returns the largest differences."""
    from mindspore import Tensor

    from mae.src.mae_vit import shuffled

    own = {name: value for name, value in parameters(network).items() if name in FIXED}
    load_strictly(network, SPEC.convert(golden.tensors()) | own)
    stored, found = golden.arrays, {}
    masking = noise(2, network.noise_length)
    ids_shuffle, ids_restore = shuffled(Tensor(masking))
    np.testing.assert_array_equal(ids_restore.asnumpy(), stored["ids_restore"])
    latent = network.encode(Tensor(golden.images), ids_shuffle[:, :network.kept]).asnumpy()
    found["latent"] = max(np.abs(latent[:, 0] - stored["latent_cls"]).max(),
                          np.abs(latent.mean(-1) - stored["latent_token_mean"]).max())
    np.testing.assert_allclose(np.linalg.norm(latent, axis=-1), stored["latent_token_l2"], rtol=1e-5)
    for kind in kinds:
        result = Reconstruction(network, golden.images, masking, kind == "norm")
        np.testing.assert_array_equal(result.mask, stored["mask"])
        assert result.pred.shape == tuple(stored["pred_shape"])
        found["pred"] = np.abs(result.pred[:, :8] - stored["pred_first8"]).max()
        np.testing.assert_allclose(np.linalg.norm(result.pred, axis=-1), stored["pred_patch_l2"], rtol=1e-5)
        np.testing.assert_allclose(result.pred.sum(-1), stored["pred_patch_sum"], atol=2e-5 * result.pred.shape[-1])
        found[f"loss_{kind}"] = abs(result.loss / float(stored[f"loss_{kind}"]) - 1)
        norms = np.array([np.linalg.norm(result.gradients[k].astype(np.float64)) for k in golden.manifest["grad_keys"]])
        expected = stored[f"grad_norms_{kind}"]
        found[f"gradient norms {kind}"] = (np.abs(norms - expected) / (1e-4 * expected + 1e-6)).max()
        for key in golden.manifest["full_grads"]:
            whole = stored[f"grad_{kind}/{key}"]
            found[f"gradient {key} {kind}"] = (np.linalg.norm(result.gradients[key] - whole)
                                               / (1e-4 * np.linalg.norm(whole) + 1e-6))
    assert found["pred"] <= 2e-5 and found["latent"] <= 2e-5, found
    assert all(found[f"loss_{kind}"] <= 1e-5 for kind in kinds), found
    assert all(share <= 1 for name, share in found.items() if name.startswith("gradient")), found
    return found


def test_tiny_autoencoder_reproduces_the_golden_numbers(mode):
    """In graph mode with one of the two losses, each of which is a compilation."""
    check_autoencoder(Golden("mae_vit_tiny"), tiny_mae(), ("raw", "norm") if mode == "pynative" else ("norm",))


@pytest.mark.slow
@full_size("mae_vit_base_patch16")
def test_base_autoencoder_reproduces_the_golden_numbers(mode, name):
    """With one of the two losses, whose difference the tiny network shows."""
    check_autoencoder(Golden(name), SPEC.build(name), ("norm",))


# positions

def test_sine_cosine_table_is_the_authors():
    from mae.src.pos_embed import sine_cosine_table

    table = sine_cosine_table(16, (4, 4))
    assert table.dtype == np.float32 and table.shape == (1, 17, 16)
    np.testing.assert_allclose(table[0], Golden("pos_embed").arrays["sincos_d16_g4_cls"], atol=1e-7)


@pytest.mark.parametrize("side", [6, 2, 3])
def test_position_table_is_resized_as_the_authors_do(side):
    from mae.src.pos_embed import resize_table

    resized = resize_table(fill("pos_embed", (1, 17, 8)), (side, side))
    np.testing.assert_allclose(resized, Golden("pos_embed").arrays[f"interp_4_to_{side}"], atol=2e-6)


def test_positions_of_a_grid_that_is_not_square_have_the_column_first():
    from mae.src.pos_embed import resize_table, sine_cosine_table

    table = sine_cosine_table(8, (2, 3))[0]
    np.testing.assert_array_equal(table[0], 0)
    np.testing.assert_allclose(table[1 + 1 * 3 + 2, :2], np.sin([2, 0.02]), rtol=1e-6)  # row 1, column 2
    np.testing.assert_allclose(table[1 + 1 * 3 + 2, 4:6], np.sin([1, 0.01]), rtol=1e-6)
    assert resize_table(fill("pos_embed", (1, 17, 8)), (2, 3)).shape == (1, 7, 8)
    with pytest.raises(UserError, match="6 patches, which is no square grid"):
        resize_table(table[None], (4, 4))


@pytest.mark.parametrize("name", ["mae_vit_tiny", "mae_vit_base_patch16"])
def test_stored_rows_of_both_tables_are_ours(name):
    from mae.src.pos_embed import sine_cosine_table

    golden = Golden(name)
    side = golden.manifest["config"]["img_size"] // golden.manifest["config"]["patch_size"]
    for key, prefix in (("embed_dim", ""), ("decoder_embed_dim", "decoder_")):
        table = sine_cosine_table(golden.manifest["config"][key], (side, side))[0]
        rows = golden.arrays[f"{prefix}pos_embed_rows"]
        np.testing.assert_allclose(table[golden.manifest["pos_embed_rows_index"]], rows, atol=1e-7)
        np.testing.assert_allclose(table.sum(1), golden.arrays[f"{prefix}pos_embed_row_sum"], atol=1e-3)


# linear probe

class ProbeLoss:
    """Head and loss of the stored linear probe."""

    def __init__(self):
        from mindspore import nn

        from mae.src.vit import ProbeNorm, linear

        self.head = nn.SequentialCell([ProbeNorm(12), linear(12, 5)])
        stored = {key: fill(key, shape) for key, shape in Golden("linprobe_head").manifest["keys"]}
        stored.pop("head.0.num_batches_tracked")
        load_strictly(self.head, {name.removeprefix("head."): value for name, value in SPEC.convert(stored).items()})
        self.norm = self.head[0]


def test_linear_probe_reproduces_the_golden_numbers(mode):
    from golden_rule import image, labels
    from mindspore import Tensor, nn

    from common.optimizer.rules import LARS
    from common.train_step import ClassifierLoss, TrainStep

    stored, probe = Golden("linprobe_head").arrays, ProbeLoss()
    features, targets = image(6, 2, channels=3, seed=9).reshape(6, 12), labels(6, 5, seed=9).astype(np.int32)
    probe.head.set_train(False)
    np.testing.assert_allclose(probe.head(Tensor(features)).asnumpy(), stored["logits_eval"], atol=2e-5)
    step = TrainStep(ClassifierLoss(probe.head, nn.CrossEntropyLoss()), probe.head,
                     LARS(probe.head.trainable_params(), 6.4, 0.0))
    losses = []
    for number in range(1, 6):
        losses.append(float(step(Tensor(features), Tensor(targets)).asnumpy()))
        if number in (1, 5):
            np.testing.assert_allclose(probe.norm.moving_mean.asnumpy(), stored[f"running_mean_{number}"], rtol=1e-5,
                                       atol=1e-7)
            np.testing.assert_allclose(probe.norm.moving_variance.asnumpy(), stored[f"running_var_{number}"], rtol=1e-5)
    np.testing.assert_allclose(losses, stored["losses"], rtol=1e-5)
    np.testing.assert_allclose(probe.head[1].weight.asnumpy(), stored["weight_5"], atol=2e-5)
    np.testing.assert_allclose(probe.head[1].bias.asnumpy(), stored["bias_5"], atol=2e-5)


def test_linear_probe_trains_the_head_alone():
    from common.tasks.train import freeze_body

    network = tiny_vit(global_pool=False, batchnorm_head=True)
    freeze_body(network)
    assert [p.name for p in network.trainable_params()] == ["head.1.weight", "head.1.bias"]


# sizes and arguments

@pytest.mark.parametrize("name, total, trainable", [
    ("mae_vit_base_patch16", 111_907_840, 111_655_680), ("mae_vit_large_patch16", 329_541_888, 329_239_296),
    ("mae_vit_huge_patch14", 657_074_508, 656_613_964), ("vit_base_patch16", 86_567_656, 86_567_656),
    ("vit_large_patch16", 304_326_632, 304_326_632), ("vit_huge_patch14", 632_045_800, 632_045_800)])
def test_variant_has_its_published_number_of_parameters(name, total, trainable, uninitialised):
    """Blocks are equal, so networks of one and two blocks tell how many parameters any depth has."""
    variant = SPEC.variants[name]

    def count(chosen, **depths):
        return sum(math.prod(p.shape) for p in SPEC.build(name, **depths).get_parameters() if chosen(p))

    for expected, chosen in ((total, lambda p: True), (trainable, lambda p: p.requires_grad)):
        depths = {key: 1 for key in ("depth", "decoder_depth") if key in variant}
        found = smallest = count(chosen, **depths)
        for key in depths:
            found += (variant[key] - 1) * (count(chosen, **(depths | {key: 2})) - smallest)
        assert found == expected


@pytest.mark.parametrize("spelling, name", [
    ("mae-vit-base-p16", "mae_vit_base_patch16"), ("vit-huge-p14", "vit_huge_patch14"),
    ("mae_vit_large_patch16_dec512d8b", "mae_vit_large_patch16"), ("vit_base_patch16_224", "vit_base_patch16")])
def test_other_spellings_name_a_variant(spelling, name):
    assert SPEC.variant(spelling) == name


@GRAPH_LATER
def test_images_that_are_not_square_and_have_other_channels_are_allowed(mode):
    from mindspore import Tensor

    images = np.random.default_rng(0).standard_normal((2, 1, 16, 24)).astype(np.float32)
    assert tiny_vit(image_size=(16, 24), in_channels=1)(Tensor(images)).shape == (2, 10)
    network = tiny_mae(image_size=(16, 24), in_channels=1, patch_size=(4, 6))
    loss, pred, mask = network(Tensor(images), Tensor(noise(2, 16)))
    assert pred.shape == (2, 16, 24) and mask.asnumpy().sum() == 24 and np.isfinite(float(loss))


@pytest.mark.parametrize("build, arguments, words", [
    (tiny_vit, {"num_heads": 5}, "num_heads: 5 does not divide the width 64"),
    (tiny_mae, {"decoder_num_heads": 5}, "num_heads: 5 does not divide the width 32"),
    (tiny_vit, {"image_size": 30}, "image_size: 30 x 30 is not a multiple of patch_size 4 x 4"),
    (tiny_mae, {"embed_dim": 66, "num_heads": 2}, "embed_dim: 66 is not a multiple of 4"),
    (tiny_mae, {"mask_ratio": 0.99}, "mask_ratio: 0.99 of 64 patches means that none stays visible"),
    (tiny_mae, {"mask_ratio": 0.0}, "none is removed"),
    (tiny_mae, {"drop_path_rate": 0.1}, "drop_path_rate: a masked autoencoder drops no paths"),
    (tiny_mae, {"global_pool": True}, "global_pool is not an argument of mae_vit_base_patch16"),
    (tiny_vit, {"decoder_depth": 2}, "decoder_depth is not an argument of vit_base_patch16"),
    (tiny_vit, {"drop_path_rate": 1.0}, "drop_path_rate: 1.0"),
])
def test_arguments_that_do_not_fit_are_refused_by_name(build, arguments, words):
    with pytest.raises(UserError, match=words):
        build(**arguments)


@pytest.mark.parametrize("ratio, patches, kept", [(0.75, 196, 49), (0.75, 256, 64), (0.6, 16, 6), (0.9, 100, 9)])
def test_kept_patches_are_rounded_down_in_double_precision_as_in_the_authors_code(ratio, patches, kept):
    from mae.src.mae_vit import kept_patches

    assert kept_patches(patches, ratio) == int(patches * (1 - ratio)) == kept


# the faults of the old zoo's version

def test_masks_follow_the_noise_of_every_call_and_differ_between_samples(mode):
    from mindspore import Tensor

    network, images = tiny_mae(), Golden("mae_vit_tiny").images
    draws = [network(Tensor(images), Tensor(np.random.default_rng(i).random((2, 64), np.float32)))[2].asnumpy()
             for i in range(2)]
    assert all((mask.sum(1) == 48).all() for mask in draws)
    assert (draws[0] != draws[1]).any() and (draws[0][0] != draws[0][1]).any()


def test_the_data_pipeline_draws_new_noise_for_every_sample_and_epoch_and_the_same_again():
    from common.config.load import from_mapping
    from common.dataset.batches import TrainBatches
    from common.dataset.sources import open_samples

    config = from_mapping({"task": "pretrain", "dataset": "digits", "image_size": 8, "batch_size": 16}, "test")
    first, again = (TrainBatches(config, open_samples(config, "train"), 0, 1, noise_length=64) for _ in range(2))
    batches = {number: first[number][1] for number in (0, 1, len(first), 7 * len(first))}
    rows = np.concatenate(list(batches.values()))
    assert len(np.unique(rows[:, 0])) == len(rows) and 0.45 < rows.mean() < 0.55
    place = {int(i): row for row, i in enumerate(first.indices(0, 0))}  # the same image in two epochs
    later = {int(i): (k, row) for k in range(len(first)) for row, i in enumerate(first.indices(1, k))}
    image = next(i for i in place if i in later)
    number, row = later[image]
    assert (first[len(first) + number][1][row] != batches[0][place[image]]).all()
    for number, values in batches.items():
        np.testing.assert_array_equal(again[number][1], values)


def reference_loss(images, pred, mask, normalised):
    """The loss by the paper's words, in float64, patch by patch."""
    errors = []
    for picture, tokens, removed in zip(images.astype(np.float64), pred, mask):
        for number in np.flatnonzero(removed):
            row, column = divmod(number, 8)
            patch = picture[:, 4 * row:4 * row + 4, 4 * column:4 * column + 4]
            target = np.array([patch[c, y, x] for y in range(4) for x in range(4) for c in range(3)])
            if normalised:
                target = (target - target.mean()) / np.sqrt(target.var(ddof=1) + 1e-6)
            errors.append(((tokens[number] - target) ** 2).mean())
    return np.mean(errors)


@GRAPH_LATER
@pytest.mark.parametrize("normalised", [False, True])
def test_loss_is_that_of_removed_patches_in_the_order_row_column_channel_with_unbiased_variance(mode, normalised):
    from mindspore import Tensor

    network, images = tiny_mae(norm_pix_loss=normalised), Golden("mae_vit_tiny").images
    loss, pred, mask = (value.asnumpy() for value in network(Tensor(images), Tensor(noise(2, 64))))
    assert float(loss) == pytest.approx(reference_loss(images, pred, mask, normalised), rel=1e-5)
    changed = pred + 100 * (1 - mask[..., None])  # the visible patches do not count
    assert float(network.loss(Tensor(images), Tensor(changed), Tensor(mask))) == pytest.approx(float(loss), rel=1e-6)


def test_pixel_normalisation_of_the_configuration_reaches_the_network():
    from common.config.load import from_file
    from common.network import build_network

    path = DATA / "seed_mae-vit-base-p16.yaml"
    small = {"encoder_layers": 1, "decoder_layers": 1, "encoder_dim": 48, "decoder_dim": 32, "decoder_num_heads": 2}
    config = from_file(path, SPEC, model="mae_vit_base_patch16", **small)
    network = build_network(config, SPEC.for_task("pretrain"))
    assert network.norm_pix_loss is True and network.kept == 49
    assert (len(network.blocks), len(network.decoder_blocks), network.cls_token.shape) == (1, 1, (1, 1, 48))
    assert (network.blocks[0].attn.num_heads, network.decoder_blocks[0].attn.num_heads) == (12, 2)


def test_original_file_gives_the_pretraining_that_we_ship_but_for_the_place_of_data_and_device():
    from common.config.load import from_file
    from common.config.options import fields_of

    ours = from_file(CONFIGS / "mae-vit-base-p16.yaml", SPEC)
    theirs = from_file(DATA / "seed_mae-vit-base-p16.yaml", SPEC, task="pretrain", model=ours.model)
    different = {name for name in fields_of(type(ours)) if getattr(ours, name) != getattr(theirs, name)}
    assert different == {"data_dir", "data_path", "img_ids", "dataset", "device_id"}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_file_fits_the_variant_that_it_names(path):
    from common.config.load import from_file, network_arguments
    from common.lr import peak_lr

    config = from_file(path, SPEC)
    spec = SPEC.for_task(config.task)
    variant = spec.variants[spec.variant(config.model)]
    if "digits" not in path.name and path.stem != "finetune_small":
        given = network_arguments(config)
        assert {key: given[key] for key in given if key in variant} == {key: variant[key] for key in given
                                                                       if key in variant}
        devices = {"pretrain": 64, "train": 64, "finetune": 32, "linprobe": 32}[config.task]
        expected = {"pretrain": 2.4e-3, "train": 1.6e-3, "linprobe": 6.4}.get(config.task,
                                                                           2e-3 if "base" in path.name else 4e-3)
        assert peak_lr(config, config.batch_size * devices) == pytest.approx(expected)


@GRAPH_LATER
def test_prediction_is_in_the_order_of_the_image_whatever_the_order_of_the_visible_patches(mode):
    from mindspore import Tensor

    network, images, masking = tiny_mae(), Golden("mae_vit_tiny").images, noise(2, 64)
    visible = np.sort(masking, 1)[:, 15:16]
    reordered = np.where(masking <= visible, visible - masking, masking)  # the same 16 patches, the other way round
    pred, other = (network(Tensor(images), Tensor(values.astype(np.float32)))[1].asnumpy()
                   for values in (masking, reordered))
    np.testing.assert_allclose(other, pred, atol=1e-5)


def test_decoder_has_the_encoders_kind_of_block_and_patches_have_no_norm():
    network = tiny_mae()
    assert type(network.decoder_blocks[0]) is type(network.blocks[0])
    assert [name for name in parameters(network) if name.startswith("patch_embed.")] == ["patch_embed.proj.weight",
                                                                                         "patch_embed.proj.bias"]


@GRAPH_LATER
def test_class_and_mask_token_are_one_row_each_and_trained_while_tables_are_fixed(mode):
    from mindspore import Tensor, nn

    from common.train_step import ReconstructionLoss, TrainStep

    network = tiny_mae()
    step = TrainStep(ReconstructionLoss(network), network, nn.SGD(network.trainable_params(), 0.1))
    before = parameters(network)
    step(Tensor(Golden("mae_vit_tiny").images), Tensor(noise(2, 64)))
    after = parameters(network)
    for name, width in (("cls_token", 64), ("mask_token", 32)):
        assert after[name].shape == (1, 1, width) and (after[name] != before[name]).mean() > 0.5
    for name in FIXED:
        np.testing.assert_array_equal(after[name], before[name])
        assert not after[name][0, 0].any()  # the class token has no position


def test_every_norm_has_the_epsilon_of_the_authors():
    from common.layers.cells import LayerNorm

    for network in (tiny_mae(), tiny_vit(), tiny_vit(global_pool=False)):
        norms = [cell for cell in network.cells_and_names() if isinstance(cell[1], LayerNorm)]
        assert len(norms) >= 5 and {cell.epsilon for _, cell in norms} == {1e-6}


def test_drop_path_grows_with_the_depth_and_there_is_no_dropout():
    from mindspore import nn

    network = tiny_vit(depth=4, drop_path_rate=0.3)
    rates = [(block.drop_path1.rate, block.drop_path2.rate) for block in network.blocks]
    np.testing.assert_allclose(rates, np.array([0, 0.1, 0.2, 0.3])[:, None].repeat(2, 1))
    assert not [c for n in (network, tiny_mae()) for _, c in n.cells_and_names() if isinstance(c, nn.Dropout)]
    assert not [p for p in tiny_mae().get_parameters() if p.name.endswith("random_state")]


@pytest.mark.parametrize("table, pooled", [("global_pool", True), ("cls_token", False)])
def test_layer_decay_and_weight_decay_of_every_parameter_are_the_authors(table, pooled):
    from common.config.load import from_mapping
    from common.optimizer.build import build_optimizer

    spec = SPEC.for_task("finetune")
    config = from_mapping({"model": "vit_base_patch16", "layer_decay": 0.65, "weight_decay": 0.05}, "test")
    network = spec.build("vit_base_patch16", embed_dim=48, image_size=32, global_pool=pooled)
    optimizer = build_optimizer(config, spec, network, np.full(3, 1e-3, np.float32))
    names = list(SPEC.restore({p.name: p for p in optimizer.parameters}))
    ours = dict(zip(names, zip(optimizer.lr_scales, optimizer.decays)))
    expected = TABLES[f"mae_layer_decay_vit_base_0.65_{table}"]["params"]
    compared = [name for name in expected if name in ours]
    assert len(compared) == len(expected) and len(set(ours.values())) <= 28
    np.testing.assert_allclose([ours[name] for name in compared], [expected[name] for name in compared], rtol=1e-6)


def test_pretraining_decays_the_tokens_and_fine_tuning_does_not():
    pretraining, finetuning = SPEC.for_task("pretrain"), SPEC.for_task("finetune")
    for name, shape in (("cls_token", (1, 1, 64)), ("mask_token", (1, 1, 32))):
        assert not pretraining.no_weight_decay(name, shape)
    assert finetuning.no_weight_decay("cls_token", (1, 1, 64)) and finetuning.no_weight_decay("pos_embed", (1, 65, 64))
    for spec in (pretraining, finetuning):
        assert spec.no_weight_decay("blocks.0.norm1.gamma", (64,)) and spec.no_weight_decay("head.bias", (10,))
        assert not spec.no_weight_decay("blocks.0.attn.qkv.weight", (192, 64))


def test_learning_rate_of_fine_tuning_begins_at_zero_and_reaches_its_peak_although_the_file_says_start_0():
    from common.config.load import from_mapping
    from common.lr import schedule

    config = from_mapping({"start_learning_rate": 0.0, "base_lr": 5e-4, "end_learning_rate": 1e-6, "warmup_epochs": 5,
                           "epoch": 100}, "test")
    values = schedule(config, 10, 1024)
    assert values[0] == 0 and values.argmax() == 50 and values.max() == pytest.approx(2e-3)
    assert values[51] > 0.999 * values[50] and values[-1] < 1e-5  # no drop at the end of the warm-up


def test_there_are_1000_classes_unless_told_otherwise():
    assert SPEC.build("vit_base_patch16", depth=1).head.weight.shape == (1000, 768)


# pooling

def test_mean_pooling_leaves_the_class_token_out(mode):
    from mindspore import Tensor, nn

    class LastTokens(nn.Cell):
        def construct(self, tokens):
            return tokens

    network, images = tiny_vit(), Tensor(Golden("vit_tiny_gap").images)
    network.blocks = LastTokens()  # now the class token reaches nothing but itself
    before = network(images).asnumpy()
    network.cls_token.set_data(network.cls_token + 5)
    np.testing.assert_array_equal(network(images).asnumpy(), before)


@GRAPH_LATER
def test_without_classes_the_output_is_the_features(mode):
    from mindspore import Tensor

    assert tiny_vit(num_classes=0)(Tensor(Golden("vit_tiny_gap").images)).shape == (2, 64)


# precision

@pytest.mark.parametrize("mode, level", [pytest.param("graph", "O3", marks=pytest.mark.long), ("pynative", "O2"),
                                         ("pynative", "O3")], indirect=["mode"])
def test_half_precision_stays_near_single_precision_and_the_loss_is_float32(mode, level):
    import mindspore as ms

    from common.layers.precision import apply_precision

    golden = Golden("mae_vit_tiny")
    networks = []
    for build in (tiny_mae, tiny_vit):
        network = apply_precision(build(), level)
        tensors = {k: fill(k, v.shape) for k, v in official(network).items() if k not in FIXED or build is tiny_vit}
        fixed = {name: value for name, value in parameters(network).items() if name in FIXED and build is tiny_mae}
        load_strictly(network, SPEC.convert(tensors) | fixed)
        networks.append(network)
    result = Reconstruction(networks[0], golden.images, noise(2, 64), False)
    assert result.loss == pytest.approx(float(golden.arrays["loss_raw"]), rel=5e-3)
    assert all(np.isfinite(gradient).all() for gradient in result.gradients.values())
    logits = networks[1].set_train(False)(ms.Tensor(golden.images))
    assert logits.dtype == ms.float32
    np.testing.assert_allclose(logits.asnumpy(), Golden("vit_tiny_gap").arrays["logits"], atol=2e-2)


# initial values

def test_autoencoder_begins_as_the_authors_does():
    values = parameters(tiny_mae(embed_dim=256))
    bound = math.sqrt(6 / (3 * 256 + 256))  # query, key and value as one matrix
    assert 0.99 * bound < np.abs(values["blocks.0.attn.qkv.weight"]).max() <= bound
    assert not values["blocks.0.attn.qkv.bias"].any() and (values["norm.gamma"] == 1).all()
    bound = math.sqrt(6 / (48 + 256))
    assert 0.99 * bound < np.abs(values["patch_embed.proj.weight"]).max() <= bound
    assert 0.9 / math.sqrt(48) < np.abs(values["patch_embed.proj.bias"]).max() <= 1 / math.sqrt(48)
    for name in ("cls_token", "mask_token"):
        assert 0.012 < values[name].std() < 0.028


def test_vit_begins_as_the_authors_does():
    values = parameters(tiny_vit(embed_dim=256))
    for name in ("blocks.1.mlp.fc1.weight", "pos_embed", "head.weight", "cls_token"):
        assert values[name].std() == pytest.approx(0.02, rel=0.2), name
    assert 0.9 / math.sqrt(48) < np.abs(values["patch_embed.proj.weight"]).max() <= 1 / math.sqrt(48)
    assert not values["head.bias"].any()


# weights of others, and of a pre-training

def official(network) -> dict[str, np.ndarray]:
    """The network's tensors under the authors' names."""
    return SPEC.restore(parameters(network))


@pytest.mark.parametrize("name", ["mae_vit_base_patch16", "vit_base_patch16_gap", "vit_base_patch16_cls"])
def test_authors_names_go_both_ways(name):
    names = {key: None for key, _, _ in Golden(name).manifest["entries"]}
    back = SPEC.restore(SPEC.convert(names))
    assert list(back) == list(names) and len(back) == (254 if "mae" in name else 152)
    assert list(SPEC.convert(SPEC.convert(names))) == list(SPEC.convert(names))


def test_architecture_follows_from_the_tensors():
    from mae.src.weights import architecture

    common = {"image_size": 32, "in_channels": 3, "patch_size": 4, "embed_dim": 64, "depth": 2, "mlp_ratio": 4}
    assert architecture(official(tiny_mae())) == {"masked": True, "decoder_embed_dim": 32, "decoder_depth": 1} | common
    classifier = {"masked": False, "num_classes": 10, "global_pool": True, "batchnorm_head": False}
    assert architecture(official(tiny_vit())) == classifier | common
    probe = tiny_vit(global_pool=False, batchnorm_head=True)
    assert architecture(official(probe)) == classifier | common | {"global_pool": False, "batchnorm_head": True}
    encoder = {name: value for name, value in official(tiny_mae()).items()
               if not name.startswith(("decoder", "mask_token"))}
    assert architecture(encoder) == classifier | common | {"num_classes": 0, "global_pool": False}
    assert architecture({"stem.weight": np.zeros((4, 3, 4, 4))}) == {}


@pytest.mark.parametrize("pooled", [True, False])
def test_pretrained_weights_are_fitted_to_a_classifier(pooled):
    from common.checkpoint.weights import load_into

    source, network = parameters(tiny_mae()), tiny_vit(global_pool=pooled, image_size=48, num_classes=200)
    fitted, new = SPEC.fit(source, network)
    report = load_into(network, fitted, "mae.ckpt", new=new)
    assert report.new == (["fc_norm.gamma", "fc_norm.beta"] if pooled else []) + ["head.weight", "head.bias"]
    assert fitted["pos_embed"].shape == (1, 145, 64) and len(report.matched) == 4 + 24 + (0 if pooled else 2)
    values = parameters(network)
    np.testing.assert_array_equal(values["blocks.1.mlp.fc2.weight"], source["blocks.1.mlp.fc2.weight"])
    assert values["head.weight"].std() == pytest.approx(2e-5, rel=0.05) and not values["head.bias"].any()


def test_head_of_the_same_classes_is_kept_and_a_probes_head_begins_with_its_own_deviation():
    source = parameters(tiny_vit())
    fitted, new = SPEC.fit(source, tiny_vit())
    assert new == [] and list(fitted) == list(source)
    probe = tiny_vit(global_pool=False, batchnorm_head=True, num_classes=200)
    fitted, new = SPEC.fit(source, probe)
    assert not [name for name in fitted if name.startswith(("head", "fc_norm"))]
    assert sorted(new) == ["head.0.moving_mean", "head.0.moving_variance", "head.1.bias", "head.1.weight", "norm.beta",
                           "norm.gamma"]
    assert parameters(probe)["head.1.weight"].std() == pytest.approx(0.01, rel=0.05)


def test_weights_of_another_depth_are_not_cut_to_fit():
    from common.checkpoint.weights import load_into

    network = tiny_vit(depth=1)
    with pytest.raises(UserError, match="unexpected .blocks.1.norm1.gamma"):
        load_into(network, SPEC.fit(parameters(tiny_mae()), network)[0], "mae.ckpt", new_head=True)


# reconstructions

class Perfect:
    """Stands for a network that predicts every pixel: patches of 4 x 4, normalised or not."""

    def __init__(self, images, normalised):
        from mindspore import Tensor

        network = tiny_mae(norm_pix_loss=normalised)
        self.patch_embed, self.norm_pix_loss = network.patch_embed, normalised
        target = network.patchify(Tensor(images)).asnumpy()
        if normalised:
            target = (target - target.mean(-1, keepdims=True)) / np.sqrt(target.var(-1, ddof=1, keepdims=True) + 1e-6)
        self.target, self.done = target, 0

    def __call__(self, images, noise_values):
        from mindspore import Tensor

        pred = self.target[self.done:self.done + len(images.asnumpy())]
        pred = np.concatenate([pred, np.repeat(pred[-1:], len(images.asnumpy()) - len(pred), 0)])
        self.done += len(pred)
        return None, Tensor(pred), Tensor((noise_values.asnumpy() > 0.25).astype(np.float32))


@pytest.mark.parametrize("normalised", [False, True])
def test_a_perfect_prediction_gives_the_image_back(normalised):
    from mae.src.reconstruction import reconstruct

    images = np.random.default_rng(0).standard_normal((11, 3, 32, 32)).astype(np.float32)
    masking = np.random.default_rng(1).random((11, 64), np.float32)
    image, removed = reconstruct(Perfect(images, normalised), images, masking)
    np.testing.assert_allclose(image, images, atol=1e-5)
    assert removed.shape == (11, 1, 32, 32)
    for sample in (0, 10):  # patch 9 is row 1, column 1
        assert removed[sample, 0, 4:8, 4:8].all() == (masking[sample, 9] > 0.25) == removed[sample, 0, 4:8, 4:8].any()


# log lines

def test_log_lines_are_those_of_the_old_zoo():
    style = SPEC.for_task("finetune").log_style
    values = {"epoch": 3, "epoch0": 2, "steps": 312, "loss": 2.5, "lr": 1e-3, "epoch_time": 103.6, "step_time": 0.332,
              "fps": 3084.3}
    part = style.evaluated_part.format(top1=0.807, eval_time=12.345)
    assert style.epoch_total.format(evaluated_part=part, **values) == (
        "epoch[2], epoch time: 103.60s, per step time: 0.3320s, loss=2.500000, fps=3084.30, accuracy=0.807000, "
        "eval_cost=12.35")
    assert style.best.format(best=0.807) == "last_metric[0.80700]"
    assert style.evaluation.format(top1=0.81) == "accuracy=0.810000"
    pretraining = SPEC.for_task("pretrain").log_style
    assert pretraining.train_epoch.format(**values).splitlines()[0] == "epoch: 3 step: 312, loss is 2.500000"
    assert not pretraining.best


def test_the_fused_form_of_attention_is_the_plain_one(monkeypatch, mode):
    """The device's operator is what its documentation says; only a device that has it can show more."""
    def operator(query, key, value, head_num, scalar_value, input_layout):
        assert (input_layout, head_num) == ("BNSD", query.shape[1])
        return ops.matmul(ops.softmax(ops.matmul(query, key.swapaxes(-1, -2)) * scalar_value, -1), value)

    monkeypatch.setattr(ops, "flash_attention_score", operator)
    rng = np.random.default_rng(0)
    cell = Attention(32, 2)
    for parameter in cell.get_parameters():
        parameter.set_data(ms.Tensor(rng.standard_normal(parameter.shape).astype(np.float32) * 0.3))
    x = ms.Tensor(rng.standard_normal((2, 9, 32)).astype(np.float32))
    plain = cell(x).asnumpy()
    fused = Attention(32, 2)
    ms.load_param_into_net(fused, cell.parameters_dict())
    assert fuse_attention(fused) == 1
    np.testing.assert_allclose(fused(x).asnumpy(), plain, rtol=1e-5, atol=1e-6)


def test_nothing_large_is_transposed_by_a_training_on_a_cpu(tmp_path):
    """2 x 9 tokens of 16 channels: 288 numbers, and three times as many of query, key and value."""
    tokens = ms.Tensor(np.ones((2, 9, 16), np.float32))
    assert not broadcasts(Gradient(Block(16, 2)).set_train(), tokens, tmp_path, 200, always=("Transpose",))
