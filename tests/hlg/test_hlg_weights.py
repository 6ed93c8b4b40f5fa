"""HLG: names of weights, sizes found in weights, files of the old zoo, sentences about weights of another network."""
import sys
import types

import mindspore as ms
import numpy as np
import pytest
from golden import Golden
from mindspore import Tensor

from common.checkpoint.file import load_checkpoint
from common.checkpoint.foreign import read_tensors, write_safetensors
from common.checkpoint.weights import load_into, weights_of
from common.errors import UserError
from common.main import read_config
from common.network import load_network
from common.tasks.convert import to_checkpoint, to_safetensors
from hlg.src.spec import SPEC, misfit
from hlg.src.weights import architecture, dead

SIZES = {"num_classes": 5, "image_size": 56, "dims": (16, 32), "num_heads": (2, 4), "depths": (2, 3)}
ZOO = SIZES | {"mlp_ratio": (2, 4)}


def network(variant="hlg_tiny_avgpool", **arguments):
    return SPEC.build(variant, **((ZOO if variant == "hlg_mobile" else SIZES) | arguments))


def parameters(cell) -> dict[str, np.ndarray]:
    return {name: parameter.asnumpy() for name, parameter in weights_of(cell).items()}


# names and sizes

@pytest.mark.parametrize("name", ["hlg_mobile", "hlg_mobile_avgpool", "hlg_tiny_avgpool", "hlg_tiny_avgpool_paper",
                                  "hlg_tiny_dwconv"])
def test_names_go_to_the_references_and_back(name):
    theirs = Golden(name).tensors()
    ours = SPEC.convert(theirs)
    back = SPEC.restore(ours)
    assert set(back) == {key for key in theirs if not key.endswith("num_batches_tracked")}
    assert all(back[key] is theirs[key] for key in back)
    assert name != "hlg_mobile" or back == theirs


def test_names_of_a_backbone_come_without_its_own_norms():
    tensors = SPEC.restore(parameters(network()))
    backbone = {key: value for key, value in tensors.items() if not key.startswith("head.")}
    backbone |= {f"norm_out_{stage}.{kind}": np.ones(16) for stage in (0, 1, 2) for kind in ("weight", "bias")}
    assert set(SPEC.convert(backbone)) == {key for key in parameters(network()) if not key.startswith("head.")}
    assert "num_classes" not in architecture(backbone)


@pytest.mark.parametrize("variant", ["hlg_tiny_avgpool", "hlg_tiny_dwconv"])
@pytest.mark.parametrize("layout", ["head", "paper"])
def test_sizes_of_the_authors_networks_are_found_under_either_names(variant, layout):
    ours = parameters(network(variant, layout=layout, in_channels=1))
    expected = SIZES | {"design": "official", "in_channels": 1, "layout": layout, "pool": variant.rpartition("_")[2]}
    assert architecture(ours) == architecture(SPEC.restore(ours)) == expected


def test_sizes_of_the_zoos_network_are_found():
    expected = {key: value for key, value in ZOO.items() if key != "num_heads"} | {"design": "zoo", "in_channels": 3}
    assert architecture(parameters(network("hlg_mobile"))) == expected
    assert architecture(parameters(network("hlg_mobile", dead_parameters=True))) == expected


@pytest.mark.parametrize("layout, smoothed", [("head", False), ("paper", True)])
def test_hidden_widths_decide_the_layout_and_the_smoothing_without_effect_may_be_there_or_not(layout, smoothed):
    """The authors' files could not be seen: the two differences of the layouts may be mixed in them."""
    donor = parameters(network(layout="head"))
    smoothing = {name: value for name, value in donor.items() if name.startswith("block2.") and "smooth" in name}
    tensors = {name: value for name, value in parameters(network(layout=layout)).items() if name not in smoothing}
    tensors |= smoothing if smoothed else {}
    assert architecture(tensors)["layout"] == layout
    cell = network(layout=layout)
    report = load_into(cell, tensors, "a.ckpt", dead=SPEC.dead)
    assert set(report.dead) == set(smoothing if smoothed else {})
    assert set(report.new) == (set() if smoothed else set(smoothing))


def test_widths_that_do_not_tell_leave_it_to_the_smoothing():
    for layout in ("head", "paper"):
        tensors = parameters(network(layout=layout, dims=(16, 16), num_heads=(2, 2)))
        assert architecture(tensors)["layout"] == layout


@pytest.mark.parametrize("arguments, variant, settings", [
    ({}, "hlg_medium_avgpool", {"layout": "paper"}),
    ({"depths": (2, 2, 16, 2)}, "hlg_small_avgpool", {"layout": "paper", "depths": (2, 2, 16, 2)}),
    ({"depths": (2, 2, 6, 2)}, "hlg_small_avgpool", {"layout": "paper"})])
def test_variant_and_depths_are_found_from_the_shapes(arguments, variant, settings, monkeypatch):
    monkeypatch.setattr("hlg.src.hlg_official.initialise", lambda cell, rule: None)
    tensors = parameters(SPEC.build("hlg_medium_avgpool", num_classes=2, layout="paper", **arguments))
    settings |= {"in_channels": 3, "num_classes": 2, "image_size": 224}
    assert SPEC.recognise(tensors) == (variant, settings)


def test_weights_of_something_else_are_not_taken_for_an_hlg():
    assert architecture(Golden("soft_tiny").tensors()) == {} == architecture({"head.weight": np.zeros((10, 64))})
    incomplete = parameters(network())
    del incomplete["block2.0.q.weight"]
    assert architecture(incomplete) == {}


def test_the_authors_first_version_is_recognised_by_its_names():
    first = {"patch_embed1.conv1.weight": np.zeros((32, 3, 3, 3)), "pos_embed1": np.zeros((1, 3136, 32)),
             "block1.0.attn.kv.weight": np.zeros((64, 32)), "block1.0.attn.q.weight": np.zeros((32, 32))}
    with pytest.raises(UserError, match="first version of HLG .*another network"):
        architecture(first)
    assert misfit(first, {}, network()).startswith("holds weights of the authors' first version")


def test_options_that_the_authors_training_keeps_beside_the_weights_are_no_obstacle(tmp_path, monkeypatch):
    """Swin's programs, which they took over, write a dictionary of a package that need not be here."""
    torch = pytest.importorskip("torch", reason="reading .pth files needs torch, which is not installed here")
    package, module = types.ModuleType("yacs"), types.ModuleType("yacs.config")
    module.CfgNode = type("CfgNode", (dict,), {"__module__": "yacs.config"})
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "yacs", package)
        patch.setitem(sys.modules, "yacs.config", module)
        options = module.CfgNode(DATA=module.CfgNode(BATCH_SIZE=128))
        options.__dict__.update(frozen=False, renamed=set())
        torch.save({"model": {"module.head.weight": torch.ones(2)}, "max_accuracy": 81.1, "config": options},
                   tmp_path / "hlg.pth")
    assert read_tensors(tmp_path / "hlg.pth")["head.weight"].tolist() == [1, 1]


# another network of the family

@pytest.mark.parametrize("held, asked, words", [
    ({"variant": "hlg_mobile"}, {}, "holds the old zoo's hlg_mobile, but this network is the authors' HLG: two"),
    ({}, {"variant": "hlg_mobile"}, "holds the authors' HLG, but this network is the old zoo's hlg_mobile"),
    ({"layout": "paper"}, {}, "layout paper, but this one has layout head; give --layout paper."),
    ({"depths": (2, 4)}, {}, "depths 2,4, but this one has depths 2,3; give --depths 2,4."),
    ({"dims": (16, 48), "num_heads": (1, 2)}, {}, "give --dims 16,48 --num_heads 1,2."),
    ({"variant": "hlg_tiny_dwconv"}, {}, "pool dwconv, but this one has pool avgpool; give"),
    ({"variant": "hlg_mobile", "image_size": 112}, {"variant": "hlg_mobile"},
     "image_size 112, but this one has image_size 56; give --image_size 112."),
    ({"variant": "hlg_mobile", "mlp_ratio": (8, 4)}, {"variant": "hlg_mobile"}, "give --mlp_ratio 8,4.")])
def test_weights_of_another_hlg_say_what_to_give(held, asked, words):
    problem = misfit(parameters(network(**held)), {}, network(**asked))
    assert words in problem, problem


def test_weights_of_a_named_variant_say_its_name(monkeypatch):
    monkeypatch.setattr("hlg.src.hlg_official.initialise", lambda cell, rule: None)
    tensors = parameters(SPEC.build("hlg_mobile_avgpool", layout="paper"))
    problem = misfit(tensors, {}, SPEC.build("hlg_tiny_avgpool"))
    assert problem.endswith("give --model hlg_mobile_avgpool --layout paper.")


@pytest.mark.parametrize("variant", ["hlg_mobile", "hlg_tiny_dwconv"])
def test_fitting_weights_are_not_complained_about(variant):
    assert misfit(parameters(network(variant)), {}, network(variant)) == ""
    assert misfit({"head.weight": np.zeros((5, 32))}, {}, network(variant)) == ""


# files of the old zoo

@pytest.fixture(scope="module")
def zoo_file(tmp_path_factory):
    """A file as the old zoo's training writes it: its parameters, the dead ones too, and the optimizer's."""
    tensors = Golden("hlg_mobile").tensors()
    state = {f"adam_{kind}.{name}": tensors[name] for kind in "mv" for name in list(tensors)[:20]}
    state |= {"beta1_power": np.float32(0.5), "beta2_power": np.float32(0.9), "global_step": np.zeros(1, np.int32),
              "learning_rate": np.zeros(9, np.float32), "scale_sense": np.float32(1024)}
    path = tmp_path_factory.mktemp("zoo") / "hlg_mobile-300_1251.ckpt"
    ms.save_checkpoint([{"name": name, "data": Tensor(value)} for name, value in (tensors | state).items()], str(path))
    return path, tensors


def test_a_zoo_file_is_evaluated_without_any_further_word(zoo_file):
    """Variant, number of classes and image size are found in it; what has no effect is reported."""
    path, tensors = zoo_file
    config = read_config("eval", SPEC, ["--ckpt_path", str(path), "--dataset", "digits"])
    assert (config.model, config.num_classes, config.image_size) == ("hlg_mobile", 1001, 224)
    cell, report, classes = load_network(config, SPEC)
    ours = parameters(cell)
    assert all(np.array_equal(ours[name], tensors[name]) for name in ours) and classes == []
    assert set(report.dead) == set(tensors) - set(ours) == {name for name in tensors if dead(name, cell)}
    assert "without effect and left out: 100 (patch_embed1.conv.weight" in report.summary()


def test_a_network_with_the_dead_parameters_takes_them_all(zoo_file):
    path, tensors = zoo_file
    config = read_config("eval", SPEC, ["--ckpt_path", str(path), "--dead_parameters", "true", "--dataset", "digits"])
    cell, report, _ = load_network(config, SPEC)
    assert len(report.matched) == len(tensors) == 393 and not report.dead
    assert len(parameters(cell)) == 393


def test_1001_outputs_against_1000_is_one_sentence(zoo_file):
    config = read_config("eval", SPEC, ["--ckpt_path", str(zoo_file[0]), "--num_classes", "1000", "--dataset", "list",
                                        "--data_dir", str(zoo_file[0].parent)])
    with pytest.raises(UserError, match="has 1001 outputs, but num_classes is 1000; give --num_classes 1001"):
        load_network(config, SPEC)


def test_a_zoo_file_of_another_image_size_is_one_sentence(zoo_file):
    config = read_config("eval", SPEC, ["--ckpt_path", str(zoo_file[0]), "--image_size", "112", "--dataset", "digits"])
    with pytest.raises(UserError, match="image_size 224, but this one has image_size 112; give --image_size 224"):
        load_network(config, SPEC)


def test_a_zoo_file_goes_out_under_its_names_and_says_what_has_no_effect(zoo_file, tmp_path):
    lines = []
    to_safetensors(SPEC, zoo_file[0], tmp_path / "out.safetensors", say=lines.append)
    written = read_tensors(tmp_path / "out.safetensors")
    assert set(written) == set(zoo_file[1])
    assert all(np.array_equal(written[name], zoo_file[1][name]) for name in written)
    assert any(line.startswith("without effect: 100, only in the file") for line in lines)


# files of the authors

def test_the_authors_file_comes_in_with_its_layout(tmp_path):
    ours = parameters(network(layout="paper"))
    write_safetensors(tmp_path / "in.safetensors", SPEC.restore(ours))
    lines = []
    to_checkpoint(SPEC, tmp_path / "in.safetensors", tmp_path / "out.ckpt", say=lines.append)
    tensors, meta = load_checkpoint(tmp_path / "out.ckpt")
    assert set(tensors) == set(ours) and all(np.array_equal(tensors[name], ours[name]) for name in ours)
    assert meta["config"]["layout"] == "paper" and meta["config"]["depths"] == [2, 3]
    assert f"matched: {len(ours)}" in lines and not any("missing" in line or "unexpected" in line for line in lines)


def test_a_backbone_needs_a_new_head(tmp_path):
    theirs = SPEC.restore(parameters(network()))
    backbone = {key: value for key, value in theirs.items() if not key.startswith("head.")}
    write_safetensors(tmp_path / "in.safetensors", backbone)
    with pytest.raises(UserError, match="2 missing .head.weight, head.bias"):
        to_checkpoint(SPEC, tmp_path / "in.safetensors", tmp_path / "out.ckpt", say=lambda line: None)
    to_checkpoint(SPEC, tmp_path / "in.safetensors", tmp_path / "out.ckpt", num_classes=7,
                  say=lambda line: None)
    assert load_checkpoint(tmp_path / "out.ckpt")[0]["head.weight"].shape == (7, 32)
