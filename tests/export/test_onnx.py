"""ONNX files of every network, exact and for any number of images; what is put inside of exported files; mistakes."""
import dataclasses
import importlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from entry import ROOT, environment
from export_networks import OPERATIONS, SIDE, Changing, Cumulative, Several
from golden_rule import fill
from PIL import Image
from tiny_networks import TinyClassifier

from common.augment.pipeline import eval_transform
from common.config.load import from_mapping
from common.errors import UserError
from common.export.contents import Contents, Deployed
from common.export.description import description_path, preprocessing_of
from common.export.load import load_model
from common.export.mindir_graph import read_graph
from common.export.onnx_network import load_onnx
from common.export.write import export_network
from common.predict import Predictor
from common.tasks.export import export as export_of_export

NETWORKS = {
    "gmlp": ("gmlp_ti", {"image_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 1}),
    "convmlp": ("convmlp_s", {"image_size": 32, "channels": 8, "n_conv_blocks": 1, "dims": (16, 16, 24),
                              "depths": (1, 1, 1)}),
    "soft": ("soft_tiny", {"image_size": 32, "dims": (16, 16, 20, 32), "num_heads": (1, 1, 2, 2),
                           "depths": (1, 1, 1, 1), "newton_iterations": 2}),
    "hlg": ("hlg_mobile", {"image_size": 28, "dims": (16, 32), "num_heads": (1, 2), "mlp_ratio": (2, 2),
                           "depths": (1, 1)}),
    "mae": ("vit_base_patch16", {"image_size": 32, "embed_dim": 32, "depth": 1, "num_heads": 2}),
}


@pytest.fixture(autouse=True)
def device_chosen(monkeypatch):
    """A process chooses its device once, before it computes; this one has."""
    monkeypatch.setattr("common.tasks.export.start", lambda config: SimpleNamespace(rank=0))


@pytest.fixture
def onnx():
    """What only runs where the optional packages are."""
    pytest.importorskip("onnxruntime")
    return pytest.importorskip("onnx")


def images(count, side=SIDE, channels=3):
    return np.random.default_rng(count).standard_normal((count, channels, side, side)).astype(np.float32)


def run(network, *arrays):
    found = network(*map(ms.Tensor, arrays))
    return [one.asnumpy() for one in (found if isinstance(found, tuple) else (found,))]


def export(network, side=SIDE, batch=None, file_format="ONNX", **more):
    return export_network(network, input_shape=(batch, 3, side, side), file_name="net", file_format=file_format, **more)


def build(family, **changes):
    """Build a tiny network of a family with weights that are nowhere zero."""
    variant, arguments = NETWORKS[family]
    spec = importlib.import_module(f"{family}.src.spec").SPEC
    network = spec.build(variant, num_classes=5, **arguments | changes)
    for parameter in network.get_parameters():
        if not parameter.name.endswith("random_state"):
            parameter.set_data(ms.Tensor(fill(parameter.name, parameter.shape)))
    return network.set_train(False), arguments["image_size"]


@pytest.mark.parametrize("family, file_format", [
    *((family, "ONNX") for family in NETWORKS), ("gmlp", "MINDIR"),
    *(pytest.param(family, "MINDIR", marks=pytest.mark.long) for family in NETWORKS if family != "gmlp")])
def test_every_network_becomes_a_file_for_any_number_of_images(family, file_format, request):
    if file_format == "ONNX":
        request.getfixturevalue("onnx")
    network, side = build(family)
    loaded = load_model(export(network, side, file_format=file_format, verify=False))
    for count in (1, 3, 8):
        expected, = run(network, images(count, side))
        found, = run(loaded, images(count, side))
        assert found.shape == (count, 5) and np.abs(expected).max() > 0.1
        assert np.abs(found - expected).max() < 1e-5


@pytest.mark.parametrize("cell", OPERATIONS, ids=lambda cell: cell.__name__)
def test_every_operation_is_translated(onnx, cell):
    network = cell()
    loaded = load_onnx(export(network, verify=False))
    for count in (1, 4):
        expected, = run(network, images(count))
        found, = run(loaded, images(count))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


def test_a_file_for_a_fixed_number_takes_no_other(onnx):
    loaded = load_onnx(export(TinyClassifier(), batch=2))
    assert run(loaded, images(2))[0].shape == (2, 10)
    with pytest.raises(ValueError, match="Got: 3 Expected: 2"):
        loaded(ms.Tensor(images(3)))


def test_a_file_holds_the_weights_once_and_by_name(onnx):
    network, side = build("mae")
    graph = onnx.load(export(network, side)).graph
    held = {one.name: tuple(one.dims) for one in graph.initializer}
    assert {p.name: tuple(p.shape) for p in network.get_parameters()}.items() <= held.items()
    extra = sum(int(np.prod(shape)) for name, shape in held.items() if name.startswith("constant_"))
    assert extra < 200
    assert [one.name for one in (*graph.input, *graph.output)] == ["images", "logits"]
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_several_outputs_keep_their_order_and_names(onnx):
    loaded = load_onnx(export(Several(), contents=Contents("reconstruction")))
    for found, expected in zip(run(loaded, images(3)), run(Several(), images(3)), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)
    assert [one.name for one in loaded.session.get_outputs()] == ["reconstruction", "mask"]


def test_an_operation_without_translation_is_named(onnx):
    with pytest.raises(UserError, match="the operation CumSum .* has no translation to ONNX"):
        export(Cumulative())
    assert list(Path().iterdir()) == []


def test_a_network_that_looks_at_the_number_of_images_is_refused(onnx):
    with pytest.raises(UserError, match="something else for another number of images; give a fixed --batch_size"):
        export(Changing())
    assert np.abs(run(load_onnx(export(Changing(), batch=2)), images(2))[0] - np.exp(images(2))).max() < 1e-5


def test_a_network_that_no_onnx_file_can_hold_is_refused(onnx, monkeypatch):
    monkeypatch.setattr("common.export.onnx_file.LARGEST", 1000)
    with pytest.raises(UserError, match="holds at most 2 GB, and this network has 1,352 bytes .* choose MINDIR"):
        export(TinyClassifier())


def test_only_a_sequence_of_operations_can_be_read():
    Path("text.mindir").write_text("no protocol buffer")
    with pytest.raises(UserError, match="'text.mindir' is not a MINDIR file"):
        read_graph("text.mindir")


def test_a_graph_is_read_without_the_onnx_package():
    graph = read_graph(export(TinyClassifier(), batch=2, file_format="MINDIR"))
    assert [kind.shape for kind in graph.inputs.values()] == [(2, 3, SIDE, SIDE)]
    assert {"conv.weight", "norm.gamma", "head.bias"} <= set(graph.parameters.values())
    names = [operation.name for operation in graph.operations]
    assert {"Conv2D", "Erf", "BatchNorm"} <= set(names)
    erf = graph.operations[names.index("Erf")]
    assert erf.kinds[0].shape == (2, 8, SIDE, SIDE) and erf.kinds[0].dtype == "float32"


# what is inside a file

CONFIG = from_mapping({"image_size": SIDE, "crop_pct": 1.0, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}, "test")
NAMES = [f"class {n}" for n in range(10)]


@pytest.mark.parametrize("file_format", ["ONNX", "MINDIR"])
@pytest.mark.parametrize("normalization, softmax", [(True, False), (False, True), (True, True)])
def test_what_is_inside_a_file_changes_no_prediction(normalization, softmax, file_format, request):
    if file_format == "ONNX":
        request.getfixturevalue("onnx")
    network = TinyClassifier().set_train(False)
    prepared = preprocessing_of(CONFIG)
    contents = Contents(normalization=normalization, softmax=softmax)
    wrapped = Deployed(network, *((prepared["mean"], prepared["std"]) if normalization else ((), ())), softmax)
    file = export(wrapped, file_format=file_format, contents=contents, class_names=NAMES, preprocessing=prepared)
    predictor = Predictor(file)
    pictures = [Image.fromarray(np.random.default_rng(n).integers(0, 256, (30, 20, 3), np.uint8)) for n in range(3)]
    for found, expected in zip(predictor(pictures), Predictor(network, eval_transform(CONFIG), NAMES)(pictures)):
        assert [one.name for one in found.top] == [one.name for one in expected.top]
        assert [one.probability for one in found.top] == pytest.approx([one.probability for one in expected.top],
                                                                       abs=1e-5)
    raw = np.stack([predictor.transform(picture) for picture in pictures])
    output, = run(predictor.network, raw)
    assert raw.dtype == (np.uint8 if normalization else np.float32)
    assert np.allclose(output.sum(1), 1, atol=1e-6) == softmax
    description = json.loads(description_path(file).read_text())
    assert description["inside"] == {"part": "classifier", "normalization": normalization, "softmax": softmax}
    assert description["input"]["dtype"] == raw.dtype.name and description["file_format"] == file_format
    assert description["input"]["values"] == ("RGB, 0..255" if normalization else "RGB, (v / 255 - mean) / std")
    assert description["output"]["name"] == ("probability" if softmax else "logits")
    assert description["largest_difference"] < 1e-5


def test_the_weights_keep_their_names_behind_what_is_put_around():
    network = TinyClassifier()
    names = [parameter.name for parameter in network.get_parameters()]
    Deployed(network, (0.5,), (0.5,), True)
    assert [parameter.name for parameter in network.get_parameters()] == names


def test_probabilities_come_from_classifiers_only():
    with pytest.raises(UserError, match="softmax: probabilities come from a classifier, not from part: encoder"):
        Contents("encoder", softmax=True)


# the parts of a masked autoencoder, and the export as a user configures it

def config_for(family, **values):
    """The configuration of an export of a tiny network, and its specification."""
    spec = importlib.import_module(f"{family}.src.spec").SPEC
    config = from_mapping({"task": "export", "device_target": "CPU", "mode": "pynative", "num_classes": 5,
                           "batch_size": "dynamic", "file_name": "net", **values}, "test", spec)
    return dataclasses.replace(config, model=spec.variant(values["model"])), spec.for_task("export")


MASKED = {"model": "mae_vit_base_patch16", "image_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1,
          "num_heads": 2, "decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2, "norm_pix_loss": True,
          "ckpt_path": "mae.ckpt"}


@pytest.fixture
def masked():
    """A masked autoencoder whose weights are in mae.ckpt."""
    from mae.src.spec import SPEC

    network = SPEC.build(MASKED["model"], **{key: value for key, value in MASKED.items()
                                             if key not in ("model", "ckpt_path")})
    for parameter in network.get_parameters():
        if "pos_embed" not in parameter.name:
            parameter.set_data(ms.Tensor(fill(parameter.name, parameter.shape)))
    ms.save_checkpoint(network, "mae.ckpt")
    return network.set_train(False)


@pytest.mark.parametrize("file_format", ["ONNX", "MINDIR"])
def test_the_encoder_gives_the_class_token_of_the_masked_autoencoder(masked, file_format, request):
    if file_format == "ONNX":
        request.getfixturevalue("onnx")
    file = export_of_export(*config_for("mae", part="encoder", file_format=file_format, **MASKED))
    everything = ms.Tensor(np.tile(np.arange(16, dtype=np.int32), (3, 1)))
    expected = masked.encode(ms.Tensor(images(3, 32)), everything)[:, 0].asnumpy()
    found, = run(load_model(file), images(3, 32))
    assert found.shape == (3, 32) and np.abs(found - expected).max() < 1e-5
    description = json.loads(description_path(file).read_text())
    assert (description["output"]["name"], description["num_classes"]) == ("features", 0)
    with pytest.raises(UserError, match="is no classifier: it holds the part: encoder"):
        Predictor(file)([])


@pytest.mark.parametrize("file_format, pixels", [("ONNX", True), ("MINDIR", False)])
def test_the_reconstruction_is_that_of_the_pictures(masked, file_format, pixels, request):
    if file_format == "ONNX":
        request.getfixturevalue("onnx")
    from mae.src.reconstruction import reconstruct

    config, spec = config_for("mae", part="reconstruction", file_format=file_format, with_preprocess=pixels, **MASKED)
    file = export_of_export(config, spec)
    raw = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), np.uint8)
    mean, std = (np.array(preprocessing_of(config)[key]).reshape(1, 3, 1, 1) for key in ("mean", "std"))
    prepared = ((raw / 255 - mean) / std).astype(np.float32)
    noise = np.random.default_rng(1).random((3, 16), np.float32)
    expected, removed = reconstruct(masked, prepared, noise)
    found, mask = run(load_model(file), raw if pixels else prepared, noise)
    assert np.array_equal(mask > 0.5, removed) and removed.mean() == 0.75
    assert np.abs(found - (expected * std + mean if pixels else expected)).max() < 1e-5
    description = json.loads(description_path(file).read_text())
    assert description["more_inputs"] == [{"name": "noise", "dtype": "float32", "shape": [None, 16],
                                           "values": "0 <= v < 1"}]
    assert [one["name"] for one in description["more_outputs"]] == ["mask"]


@pytest.mark.parametrize("values, words", [
    ({"part": "classifier"}, "part: classifier is not in mae_vit_base_patch16"),
    ({"part": "encoder", "softmax": True}, "softmax: probabilities come from a classifier"),
    ({"part": "encoder", "global_pool": True}, "global_pool: true needs fc_norm"),
    ({"part": "reconstruction", "model": "vit_base_patch16"}, "needs the decoder, which vit_base_patch16 has not"),
    ({"part": "reconstruction", "in_channels": 1}, "does not fit"),
    ({"part": "encoder", "in_channels": 2}, "in_channels 2 cannot be read from images"),
    ({"part": "encoder", "ckpt_path": ""}, "ckpt_path: name the checkpoint")])
def test_a_part_that_cannot_be_had_is_one_sentence(masked, values, words):
    with pytest.raises(UserError, match=words):
        export_of_export(*config_for("mae", **MASKED | values))
    assert sorted(path.name for path in Path().iterdir()) == ["mae.ckpt"]


def test_other_models_have_the_classifier_only():
    with pytest.raises(UserError, match="part: 'encoder'"):
        export_of_export(*config_for("gmlp", model="gmlp_ti", part="encoder"))


def test_the_file_lies_beside_export_py_unless_it_is_named(monkeypatch):
    """The export itself is left out, as it would write into the repository."""
    seen = []
    monkeypatch.setattr("common.tasks.export.export_network", lambda network, **more: seen.append(more))
    monkeypatch.setattr("common.tasks.export.load_network", lambda config, spec: (TinyClassifier(), None, []))
    for family, variant in (("soft", "soft_tiny"), ("gmlp", "gmlp_ti")):
        export_of_export(*config_for(family, model=variant, file_name=""))
    assert [str(one["file_name"]) for one in seen] == [f"{ROOT}/soft/soft_tiny", f"{ROOT}/gmlp/gmlp_Ti"]
    assert seen[0]["input_shape"] == (None, 3, 224, 224)


@pytest.mark.parametrize("values, words", [
    ({"file_format": "TFLITE"}, "file_format: 'TFLITE'"), ({"file_format": "ONX"}, "Did you mean 'ONNX'"),
    ({"batch_size": "some"}, "batch_size: 'some' .* is not a whole number >= 1 or dynamic"),
    ({"batch_size": "dynamic", "task": "train"}, "batch_size: 'dynamic' is for exported files"),
    ({"part": "decoder"}, "part: 'decoder'")])
def test_an_option_that_cannot_be_is_one_sentence(values, words):
    with pytest.raises(UserError, match=words):
        from_mapping({"task": "export", **values}, "test")


def test_a_missing_package_is_one_sentence_before_anything_is_built():
    """The entry point runs in a process in which onnxruntime cannot be imported; no checkpoint is named either."""
    program = (f"import sys, runpy; sys.modules['onnxruntime'] = None; sys.argv = ['export.py', '--file_format', "
               f"'onnx', '--file_name', 'net', '--device_target', 'CPU']; runpy.run_path({str(ROOT / 'gmlp/export.py')!r}, "
               "run_name='__main__')")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=600,
                          env=environment(PYTHONPATH=str(ROOT)))
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "ONNX needs the packages onnx and onnxruntime, which are not both installed; run 'pip " in done.stderr
    assert list(Path().iterdir()) == []


def test_a_file_that_is_no_onnx_is_refused(onnx):
    Path("net.onnx").write_text("text")
    with pytest.raises(UserError, match="'net.onnx' is not an ONNX file that onnxruntime can run"):
        load_onnx("net.onnx")
    with pytest.raises(UserError, match="there is no file 'none.onnx'"):
        load_onnx("none.onnx")


def test_a_file_is_written_in_the_forms_that_onnxruntime_knows_as_one_operator(onnx):
    network, side = build("gmlp")
    path = export(network, side, verify=False)
    kinds = Counter(node.op_type for node in onnx.load(path).graph.node)
    assert not {"Expand", "Shape"} & set(kinds) and kinds["Div"] == kinds["Erf"] == 1
    assert all(len(node.input) == 3 for node in onnx.load(path).graph.node if node.op_type == "Gemm")
    network, side = build("hlg")
    nodes = onnx.load(export(network, side, verify=False)).graph.node
    kinds = Counter(node.op_type for node in nodes)
    assert kinds["Tanh"] == kinds["Pow"] > 2 and not kinds["Sigmoid"]
