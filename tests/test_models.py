"""The zoo in programs of one's own: every variant by its name, with weights, as features; from any folder."""
import inspect
import json
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from entry import ROOT, environment
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file

from common import Predictor, create_model, list_models
from common.checkpoint.file import save_checkpoint
from common.checkpoint.weights import weights_of
from common.config.load import from_mapping
from common.errors import UserError
from common.spec import find_model
from common.tasks.export import export

TINY = {"gmlp_ti": {"image_size": 16, "patch_size": 4, "embed_dim": 8, "depth": 3},
        "convmlp_s": {"image_size": 32, "channels": 8, "dims": (8, 16), "depths": (1, 1), "mlp_ratio": 2},
        "soft_tiny": {"image_size": 32, "dims": (8, 8, 8, 16), "num_heads": (1, 1, 1, 1), "depths": (1, 1, 1, 1)},
        "hlg_mobile": {"image_size": 112, "dims": (16, 16, 16, 16), "num_heads": (1, 1, 1, 1), "depths": (1, 1, 1, 1)},
        "hlg_tiny_avgpool": {"image_size": 56, "dims": (16, 32), "num_heads": (1, 1), "depths": (1, 1)},
        "vit_base_patch16": {"image_size": 16, "patch_size": 4, "embed_dim": 8, "depth": 3, "num_heads": 2}}


def images(size: int, count: int = 2) -> ms.Tensor:
    return ms.Tensor(np.random.default_rng(0).standard_normal((count, 3, size, size), np.float32))


def test_models_are_listed_by_pattern():
    assert list_models("gmlp*") == ["gmlp_b", "gmlp_s", "gmlp_ti"]
    assert len(list_models()) == len(set(list_models())) > 20
    assert {find_model(name).name for name in list_models()} == {"gmlp", "convmlp", "soft", "hlg", "mae"}


@pytest.mark.parametrize("name", [*TINY, "mae_vit_base_patch16"])
def test_a_class_without_arguments_is_a_variant(name):
    """The first variant of each class, for colour images; its drop path is asked for."""
    spec = find_model(name)
    network, given = spec.network(**{key: size for key, size in spec.variants[name].items() if key != "drop_path_rate"})
    usual = {key: argument.default for key, argument in inspect.signature(network).parameters.items()}
    assert usual | given | {"in_channels": 3} == usual


def test_a_name_that_is_none_is_answered_with_the_nearest():
    with pytest.raises(UserError, match="model: 'gmlp_x' is not a variant of any model here; there are .*Did you mean"):
        create_model("gmlp_x")


@pytest.mark.parametrize("name", TINY)
def test_the_head_reads_the_features_and_they_come_from_the_last_stage(name):
    """Logits = head(features); without a head the network gives the features; the stages are as many as there are."""
    size = TINY[name]["image_size"]
    network = create_model(name, num_classes=5, **TINY[name])
    for parameter in network.head.get_parameters():
        parameter.set_data(ms.Tensor(np.random.default_rng(1).standard_normal(parameter.shape), ms.float32))
    file = save_checkpoint(Path("x.ckpt"), weights_of(network), {"family": find_model(name).name, "model": name,
                                                                  "config": {"model": name, **TINY[name]}})
    pooled = create_model(name, num_classes=0, ckpt_path=file)(images(size))
    expected = network(images(size)).asnumpy()
    assert np.allclose(network.head(pooled).asnumpy(), expected, atol=1e-5)
    stages = create_model(name, ckpt_path=file, features=True)(images(size))
    assert len(stages) == (TINY[name]["depth"] if "depth" in TINY[name] else len(TINY[name]["dims"]) + (name == "convmlp_s"))
    assert all(len(stage) == 2 for stage in stages)
    assert create_model(name, ckpt_path=file)(images(size)).shape == (2, 5)


@pytest.mark.parametrize("model, sizes, name, file", [
    ("gmlp_Ti", {"embed_dim": 128, "depth": None, "norm_eps": 1e-5}, "gmlp_Ti", "gmlp_Ti"),
    ("gmlp_ti", {"embed_dim": 64}, "gmlp (dim 64, depth 30)", "gmlp_dim64_depth30"),
    ("gmlp_ti", {"patch_size": 8}, "gmlp_Ti (patch_size 8)", "gmlp_Ti_patch_size8"),
    ("hlg_mobile", {"dims": [8, 16], "depths": [1, 1], "num_heads": [1, 2]}, "hlg (dims 8-16, depths 1-1)",
     "hlg_dims8-16_depths1-1")])
def test_a_network_of_other_sizes_does_not_have_the_papers_name(model, sizes, name, file):
    values = {"model": model, **sizes}
    assert (find_model(model).name_of(values), find_model(model).file_name_of(values)) == (name, file)


def test_weights_come_from_other_files_too_and_a_new_head_keeps_its_initial_values():
    network = create_model("gmlp_ti", num_classes=4, **TINY["gmlp_ti"])
    theirs = find_model("gmlp_ti").restore({name: value.asnumpy() for name, value in weights_of(network).items()})
    save_file(theirs, "x.safetensors")
    with pytest.raises(UserError, match="model: the file does not hold gmlp_Ti: it has embed_dim 8 instead of 128"):
        create_model("gmlp_ti", ckpt_path="x.safetensors")
    found = create_model("gmlp_ti", num_classes=7, ckpt_path=save_checkpoint(
        Path("x.ckpt"), weights_of(network), {"family": "gmlp", "model": "gmlp_ti", "config": TINY["gmlp_ti"]}))
    assert found(images(16)).shape == (2, 7)
    assert np.array_equal(found.stem.proj.weight.asnumpy(), network.stem.proj.weight.asnumpy())


def test_exported_weights_are_read_elsewhere_and_back_again():
    network = create_model("gmlp_ti", num_classes=2, **TINY["gmlp_ti"])
    config = {"model": "gmlp_ti", "num_classes": 2, "mean": [0.5], **TINY["gmlp_ti"], "device_target": "CPU",
              "data_dir": "/of/my/own"}
    save_checkpoint(Path("run.ckpt"), weights_of(network), {"family": "gmlp", "model": "gmlp_ti", "config": config,
                                                            "classes": ["cat", "dog"]})
    spec = find_model("gmlp_ti")
    wanted = {"task": "export", "model": "gmlp_ti", "ckpt_path": "run.ckpt", "file_name": "net",
              "file_format": "safetensors", "device_target": "CPU"}
    file = export(from_mapping(wanted, "the test", spec), spec)
    with safe_open(file, "np") as opened:  # as others read it
        theirs = {name: opened.get_tensor(name) for name in opened.keys()}
        held = json.loads(opened.metadata()["zoo_meta"])
    assert held["classes"] == ["cat", "dog"] and held["config"]["mean"] == [0.5] and "data_dir" not in held["config"]
    ours = {name: value.asnumpy() for name, value in weights_of(network).items()}
    found = create_model("gmlp_ti", ckpt_path=file)  # whose sizes are no variant's
    for name, value in spec.convert(theirs).items():
        assert value.tobytes() == ours[name].tobytes() == weights_of(found)[name].asnumpy().tobytes()
    for more in ({"softmax": True}, {"with_preprocess": True}):
        with pytest.raises(UserError, match="SAFETENSORS holds the weights"):
            export(from_mapping(wanted | more, "the test", spec), spec)
    with pytest.raises(UserError, match="holds gmlp_ti, a gmlp model; create that one"):
        create_model("soft_tiny", ckpt_path=file)


def test_sentences_name_arguments_and_not_flags():
    with pytest.raises(UserError) as error:
        create_model("gmlp_ti", ckpt_path="x.txt")
    assert "--" not in str(error.value)
    with pytest.raises(UserError, match="dims is not an argument of gmlp_Ti"):
        create_model("gmlp_ti", dims=(1, 2))


def test_a_predictor_takes_the_checkpoint_of_a_run_and_an_unreadable_image_is_a_result():
    network = create_model("gmlp_ti", num_classes=2, **TINY["gmlp_ti"])
    config = {"model": "gmlp_ti", "num_classes": 2, **TINY["gmlp_ti"], "device_target": "CPU"}
    save_checkpoint(Path("run.ckpt"), weights_of(network), {"family": "gmlp", "model": "gmlp_ti", "config": config,
                                                            "classes": ["cat", "dog"]})
    Image.new("RGB", (20, 20), "red").save("a.png")
    Path("b.png").write_text("no image")
    good, bad = Predictor("run.ckpt")(["a.png", "b.png"])
    assert str(good) in ("a.png: cat 50.0 %", "a.png: dog 50.0 %") and str(bad).startswith("b.png: cannot be read")


def test_a_masked_autoencoder_gives_features():
    sizes = {"image_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2, "decoder_embed_dim": 16,
             "decoder_depth": 1, "decoder_num_heads": 2}
    network = create_model("mae_vit_base_patch16", **sizes)
    file = save_checkpoint(Path("mae.ckpt"), weights_of(network), {
        "family": "mae", "model": "mae_vit_base_patch16", "config": {"task": "pretrain", "model": "mae_vit_base_patch16",
                                                                     "device_target": "CPU", **sizes}})
    Image.new("RGB", (20, 20), "red").save("a.png")
    features = Predictor(file).features(["a.png", "a.png", "a.png"])
    assert features.shape == (3, 16) and np.allclose(features[0], features[2])
    pooled = create_model("vit_base_patch16", num_classes=0, ckpt_path=file)
    assert pooled(images(16)).shape == (2, 16)
    with pytest.raises(UserError, match="is no classifier: it holds the part: encoder"):
        Predictor(file)("a.png")


def test_it_works_from_any_folder_with_the_path_of_the_repository(tmp_path):
    code = "from common import list_models; import sys; print(list_models('gmlp_t*'), 'mindspore' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment(PYTHONPATH=str(ROOT)), text=True,
                          capture_output=True, timeout=600)
    assert done.stdout.startswith("['gmlp_ti']"), done.stderr
