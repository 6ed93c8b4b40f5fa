"""What scripts/README.md says of MindSpore Lite, as far as it can be tried without it."""
import configparser
import json
import re
import sys
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from entry import ROOT
from PIL import Image
from tiny_networks import TinyClassifier

from common.export.contents import Contents, Deployed
from common.export.load import load_mindir
from common.export.mindir_graph import read_graph
from common.export.write import export_network

TEXT = (ROOT / "scripts" / "README.md").read_text(encoding="utf-8")
INI, PROGRAM = (re.search(rf"<!-- lite: {what} -->\n```\w+\n(.*?)```", TEXT, re.DOTALL)[1]
                for what in ("the configuration of the converter", "the program"))


class Model:
    """Stands in for Lite's: computes with MindSpore, and takes only what Lite would."""

    def build_from_file(self, path, kind, context):
        assert kind == "MINDIR" and context.target == ["ascend"]
        self.cell, (self.kind,) = load_mindir(path), read_graph(path).inputs.values()

    def get_inputs(self):
        return [self]

    def set_data_from_numpy(self, data):
        assert data.flags.c_contiguous and (data.shape, str(data.dtype)) == (self.kind.shape, self.kind.dtype)
        self.data = data

    def predict(self, inputs):
        result = self.cell(ms.Tensor(inputs[0].data)).asnumpy()
        return [SimpleNamespace(get_data_to_numpy=lambda: result)]


@pytest.fixture
def exported(tmp_path):
    network = Deployed(TinyClassifier(), (0.5,) * 3, (0.5,) * 3, softmax=True).set_train(False)
    return export_network(network, input_shape=(1, 3, 224, 224), file_name=tmp_path / "gmlp_Ti.mindir",
                          class_names=[f"class {n}" for n in range(10)],
                          contents=Contents(normalization=True, softmax=True))


def test_the_converters_configuration_names_the_input_of_an_exported_file(exported):
    config = configparser.ConfigParser()
    config.read_string(INI)
    said = config["acl_build_options"]
    name, shape = said["input_shape"].split(":")
    (held, kind), = read_graph(exported).inputs.items()
    about = json.loads(exported.with_name("gmlp_Ti.mindir.json").read_text())["input"]
    assert held.partition(":")[2] == name == about["name"] and said["input_format"] == about["layout"]
    assert kind.shape == tuple(map(int, shape.split(","))) == tuple(about["shape"])
    assert kind.dtype == about["dtype"] == "uint8"


def test_the_program_says_what_the_network_says(exported, tmp_path, monkeypatch, capsys):
    lite = SimpleNamespace(Context=SimpleNamespace, Model=Model, ModelType=SimpleNamespace(MINDIR="MINDIR"))
    monkeypatch.setitem(sys.modules, "mindspore_lite", lite)
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(pixels).save("photo.jpg")
    program = PROGRAM.replace("/path/gmlp_Ti_ascend.mindir", str(exported)).replace("/path", str(tmp_path))
    exec(compile(program, "program", "exec"), {})
    said = capsys.readouterr().out
    image = Image.open("photo.jpg").convert("RGB").resize((224, 224))
    shares = load_mindir(exported)(ms.Tensor(np.asarray(image).transpose(2, 0, 1)[None])).asnumpy()[0]
    assert said == f"class {shares.argmax()} {shares.max():.1%}\n"
