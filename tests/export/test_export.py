"""Exported files: the same numbers as the network, whole or not there at all, and described."""
import json
import os
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from PIL import Image

from common.augment.pipeline import eval_transform
from common.config.load import from_mapping
from common.errors import UserError
from common.export.contents import Contents
from common.export.description import describe_ports, description_path, preprocessing_of
from common.export.load import load_mindir
from common.export.write import choose_format, export_network
from entry import ROOT
from tiny_networks import FixedBatch, Restless, TinyClassifier, Uncompilable

IMAGES = np.random.default_rng(7).standard_normal((5, 3, 16, 16)).astype(np.float32)


def run(cell, images):
    return cell(ms.Tensor(images)).asnumpy()


def export(network, file_name="tiny", batch=None, **more):
    return export_network(network, input_shape=(batch, 3, 16, 16), file_name=file_name, **more)


def test_a_file_for_any_batch_gives_the_numbers_of_the_network(mode):
    network = TinyClassifier().set_train(False)
    loaded = load_mindir(export(network))
    for count in (1, 5, 2):
        assert np.abs(run(loaded, IMAGES[:count]) - run(network, IMAGES[:count])).max() < 1e-6


def test_a_file_for_a_fixed_batch_gives_the_numbers_of_the_network(mode):
    network = FixedBatch(5)
    file = export(network, batch=5)
    assert np.abs(run(load_mindir(file), IMAGES) - run(network, IMAGES)).max() < 1e-6
    assert json.loads(description_path(file).read_text())["compared_images"] == 10  # whole batches


def test_training_behaviour_is_not_exported_and_the_mode_comes_back():
    network = TinyClassifier().set_train(True)
    loaded = load_mindir(export(network))
    assert network.training and network.drop.training
    evaluated = run(network.set_train(False), IMAGES)
    assert np.abs(run(loaded, IMAGES) - evaluated).max() < 1e-6
    assert np.abs(run(network.set_train(True), IMAGES) - evaluated).max() > 1e-2


def test_the_description_says_what_a_caller_needs():
    config = from_mapping({"image_size": 16, "crop_pct": 1.0, "dataset": "cifar10", "eval_interpolation": "bicubic"},
                          "test")
    names = [f"class {n}" for n in range(10)]
    file = export(TinyClassifier(), "tiny.mindir", model="tiny_ti", class_names=names,
                  preprocessing=preprocessing_of(config))
    assert file == Path("tiny.mindir") and description_path(file) == Path("tiny.mindir.json")
    description = json.loads(Path("tiny.mindir.json").read_text())
    assert description["input"] == {"name": "images", "layout": "NCHW", "dtype": "float32", "shape": [None, 3, 16, 16],
                                    "values": "RGB, (v / 255 - mean) / std"}
    assert description["output"] == {"name": "logits", "dtype": "float32", "shape": [None, 10]}
    assert (description["model"], description["num_classes"], description["class_names"]) == ("tiny_ti", 10, names)
    assert description["preprocessing"]["mean"] == [0.4914, 0.4822, 0.4465]
    assert (description["file_format"], description["mindspore_version"]) == ("MINDIR", ms.__version__)
    assert description["largest_difference"] <= 1e-6 and description["compared_images"] == 8


def test_a_network_of_one_channel_takes_grey_images():
    ports = describe_ports([("images", (None, 1, 16, 16), "float32")], [np.zeros((1, 10))], Contents())
    assert ports["input"]["values"] == "grey, (v / 255 - mean) / std"


@pytest.mark.parametrize("values", [
    {"image_size": 32}, {"image_size": 32, "eval_image_size": 24, "crop_pct": None, "interpolation": "random"},
    {"dataset": "cifar100", "eval_interpolation": "nearest"}, {"in_channels": 1, "mean": [0.3], "std": [0.2]},
    {"mean": [124, 116, 104], "std": [58, 57, 57]}])
def test_the_described_preprocessing_is_that_of_the_evaluation(values):
    config = from_mapping(values, "test")
    again = from_mapping(json.loads(json.dumps(preprocessing_of(config))), "test")
    image = Image.fromarray(np.random.default_rng(1).integers(0, 255, (50, 70, 3), np.uint8))
    assert np.array_equal(eval_transform(again)(image), eval_transform(config)(image))


def test_the_file_can_be_read_by_others_and_replaced():
    export(TinyClassifier(seed=1))
    file = export(TinyClassifier(seed=2))
    os.chmod(file, 0o400)  # as the framework itself leaves its files
    network = TinyClassifier(seed=3).set_train(False)
    file = export(network)
    assert np.abs(run(load_mindir(file), IMAGES) - run(network, IMAGES)).max() < 1e-6
    assert sorted(os.listdir()) == ["tiny.mindir", "tiny.mindir.json"]
    Path("any").touch()
    assert file.stat().st_mode == Path("any").stat().st_mode


@pytest.mark.parametrize("folder", ["new/folder", "with space", "größe+x"])
def test_the_folder_is_made_whatever_its_name(folder):
    file = export(TinyClassifier(), f"{folder}/tiny.v2")
    assert file == Path(folder, "tiny.v2.mindir") and run(load_mindir(file), IMAGES).shape == (5, 10)


def test_a_file_that_differs_is_an_error_and_leaves_the_earlier_one():
    file = export(TinyClassifier())
    before = file.read_bytes(), description_path(file).read_bytes()
    with pytest.raises(RuntimeError, match="differs from the network by .* on 8 images"):
        export(Restless())
    assert (file.read_bytes(), description_path(file).read_bytes()) == before
    assert sorted(os.listdir()) == ["tiny.mindir", "tiny.mindir.json"]


def test_a_difference_that_is_not_a_number_is_an_error():
    network = TinyClassifier()
    network.head.bias.set_data(ms.Tensor(np.full(10, np.nan, np.float32)))
    with pytest.raises(RuntimeError, match="by nan"):
        export(network)
    assert os.listdir() == []


def test_without_verification_the_description_says_so():
    file = export(Restless(), verify=False)
    description = json.loads(description_path(file).read_text())
    assert description["largest_difference"] is None and description["compared_images"] == 0


def test_class_names_must_be_as_many_as_the_outputs():
    with pytest.raises(UserError, match="there are 3 names, but the network tells 10 classes apart"):
        export(TinyClassifier(), class_names=["a", "b", "c"])
    assert os.listdir() == []


def test_an_unknown_format_is_named():
    with pytest.raises(UserError, match="'MINDR' is not offered; allowed are MINDIR, AIR, ONNX. Did you mean 'MINDIR'"):
        export(TinyClassifier(), file_format="MINDR")
    assert choose_format("mindir").ending == ".mindir"


@pytest.mark.skipif(ms.get_current_device()[0] == "Ascend", reason="this is an Ascend")
def test_air_needs_an_ascend():
    with pytest.raises(UserError, match="AIR can only be written on Ascend, and this is"):
        export(TinyClassifier(), file_format="AIR")
    assert os.listdir() == []


def test_air_is_written_on_an_ascend_and_not_compared(monkeypatch):
    """No Ascend is here: its name and the framework's own export are stand-ins, everything else is real."""
    monkeypatch.setattr(ms, "get_current_device", lambda: ("Ascend", 0))
    monkeypatch.setattr(ms, "export", lambda network, *inputs, file_name, file_format: Path(file_name).write_text(
        f"{file_format} {inputs[0].shape}"))
    file = export(TinyClassifier(), batch=1, file_format="air")
    assert (file, file.read_text()) == (Path("tiny.air"), "AIR (1, 3, 16, 16)")
    description = json.loads(Path("tiny.air.json").read_text())
    assert (description["file_format"], description["largest_difference"]) == ("AIR", None)
    assert description["output"]["shape"] == [1, 10]


@pytest.mark.parametrize("name, reason", [
    ("tiny.air", "ends in .air"), ("my tiny", "is not a name"), ("ü", "is not a name"), (".mindir", "is not a name"),
    ("", "is not a name")])
def test_a_file_name_that_cannot_be_used_is_named(name, reason):
    with pytest.raises(UserError, match=reason):
        export(TinyClassifier(), name)


def test_a_place_that_cannot_be_written_is_named():
    Path("file").write_text("")
    with pytest.raises(UserError, match="file_name: 'file/tiny.mindir' cannot be written"):
        export(TinyClassifier(), "file/tiny")
    Path("taken.mindir").mkdir()
    with pytest.raises(UserError, match="'taken.mindir' cannot be written"):
        export(TinyClassifier(), "taken")
    assert not list(Path().glob(".export_*"))


def test_a_full_disk_is_one_sentence_and_leaves_nothing():
    """The limit of the process on the size of a file stands in for the full disk."""
    program = f"""
import resource, sys
sys.path.insert(0, {str(ROOT / "tests")!r})
from tiny_networks import TinyClassifier
from common.errors import UserError
from common.export.write import export_network
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    export_network(TinyClassifier(), input_shape=(None, 3, 16, 16), file_name="tiny")
except UserError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=600)
    assert "file_name: 'tiny.mindir' cannot be written (File too large)." in done.stdout, done.stderr
    assert os.listdir() == []


def test_a_failed_export_leaves_the_framework_as_it_was():
    level = ms.get_context("jit_syntax_level")
    with pytest.raises(RuntimeError, match="Unsupported statement"):
        export(Uncompilable())
    assert os.listdir() in ([], ["rank_0"])
    assert ms.get_context("jit_syntax_level") == level
