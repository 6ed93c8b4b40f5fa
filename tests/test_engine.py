"""Who answers: both engines say the same for every model, and whatever is in the way, one of them answers."""
import importlib
import logging
import os
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from entry import ROOT, TINY, run
from export.test_onnx import NETWORKS
from golden_rule import fill
from PIL import Image

from common import Predictor, engine
from common.checkpoint.file import save_checkpoint
from common.checkpoint.weights import weights_of
from common.config.load import from_mapping
from common.config.options import Config
from common.context.device import without_devices
from common.errors import UserError
from common.export.cache import FOLDER, KEPT, OnnxCache
from common.export.onnx_network import OnnxNetwork
from common.export.onnx_operators import OPERATORS
from common.main import main
from gmlp.src.spec import SPEC as GMLP

PICTURES = [Image.fromarray(np.random.default_rng(n).integers(0, 256, (40, 30, 3), np.uint8)) for n in range(5)]

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")


def arguments_of(family: str) -> tuple[str, dict]:
    """Return the variant and the keys of a tiny network; SOFT has all of its iterations, which amplify rounding."""
    variant, arguments = NETWORKS[family]
    return variant, {key: value for key, value in arguments.items() if key != "newton_iterations"}


def checkpoint(family: str, path: str = "run.ckpt", scale: float = 1.0, **config) -> Path:
    """Write a checkpoint of a tiny network with weights that are nowhere zero."""
    variant, arguments = arguments_of(family)
    spec = importlib.import_module(f"{family}.src.spec").SPEC
    network = spec.build(variant, num_classes=5, **arguments)
    for parameter in network.get_parameters():
        if not parameter.name.endswith("random_state"):
            parameter.set_data(ms.Tensor(scale * fill(parameter.name, parameter.shape)))
    task = "finetune" if family == "mae" else "train"
    return save_checkpoint(path, weights_of(network), {
        "family": family, "model": variant, "classes": list("abcde"),
        "config": {"task": task, "model": variant, "num_classes": 5, "device_target": "CPU", **arguments} | config})


def opened(file="run.ckpt", family="gmlp", **values) -> engine.Opened:
    variant, arguments = arguments_of(family)
    config = from_mapping({"task": "infer", "model": variant, "num_classes": 5, "ckpt_path": str(file), **arguments}
                          | values, "test", GMLP)
    return engine.open_network(config, GMLP)


def kept() -> list[Path]:
    return sorted(Path(FOLDER).iterdir()) if Path(FOLDER).is_dir() else []


class Lines(logging.Handler, list):
    """The lines of the log."""

    def emit(self, record):
        self.append(record.getMessage())

    def count(self, start):
        return sum(line.startswith(start) for line in self)

    __hash__ = logging.Handler.__hash__


@pytest.fixture
def said():
    lines = Lines()
    for name in ("zoo", "common"):  # whatever a test before has set up
        logging.getLogger(name).addHandler(lines)
        logging.getLogger(name).setLevel(logging.INFO)
    yield lines
    for name in ("zoo", "common"):
        logging.getLogger(name).removeHandler(lines)


@pytest.mark.parametrize("family", [  # that the files of all networks are right is in test_onnx.py
    pytest.param(family, marks=[pytest.mark.long] if family in ("soft", "hlg") else []) for family in NETWORKS])
def test_both_engines_give_the_same_answers(family, said):
    file = checkpoint(family)
    ours = Predictor(file, engine="mindspore", batch_size=2)
    assert isinstance(ours.network, ms.nn.Cell) and not kept()
    expected = ours(PICTURES)
    for _ in range(2):  # made, and taken from the cache
        theirs = Predictor(file, batch_size=2)
        assert isinstance(theirs.network, OnnxNetwork) and "onnxruntime" in said[-1]
        for one, other in zip(expected, theirs(PICTURES), strict=True):
            assert [best.name for best in one.top] == [best.name for best in other.top]
            assert [best.probability for best in one.top] == pytest.approx([best.probability for best in other.top],
                                                                           abs=1e-5)
    assert len(kept()) == 1 == said.count("Making an ONNX file") and max(best.probability for best in expected[0].top) > 0.25


def test_an_answer_from_the_cache_takes_no_mindspore():
    file = checkpoint("gmlp")
    PICTURES[0].save("a.png")
    expected = str(Predictor(file)("a.png")[0])
    code = ("import sys; from common import Predictor; from common.main import main; from gmlp.src.spec import SPEC\n"
            "print(*Predictor('run.ckpt')('a.png'), 'mindspore' in sys.modules)\n"
            "main('infer', SPEC, ['--ckpt_path', 'run.ckpt', '--image', 'a.png', '--top_k', '1'])\n"
            "print('mindspore' in sys.modules)")
    result = run("-c", code, cwd=Path.cwd(), PYTHONPATH=str(ROOT))
    lines = result.stdout.splitlines()
    assert (lines[0], lines[-1]) == (f"{expected} False", "False"), result.stderr
    assert "a.png" in lines[-2] and "onnxruntime" in result.stdout


def test_what_computes_on_a_cpu_can_be_told_without_mindspore(monkeypatch):
    assert without_devices(Config(device_target="CPU"), {}) and not without_devices(Config(device_target="GPU"), {})
    assert not without_devices(Config(device_target="CPU"), {"MS_ROLE": "MS_WORKER", "MS_WORKER_NUM": "2"})
    for pattern, cards in (("none*", False), ("*.ckpt", True)):
        Path("a.ckpt").touch()
        monkeypatch.setattr("common.context.device.CARDS", {"GPU": pattern})
        assert without_devices(Config(), {}) != cards


def test_an_evaluation_says_the_same_with_either_engine(capsys):
    config = TINY | {"model": "gmlp_ti"}
    network = GMLP.build("gmlp_ti", num_classes=10, **{key: config[key] for key in ("image_size", "patch_size",
                                                                                    "embed_dim", "depth", "mlp_ratio")})
    for parameter in network.get_parameters():
        parameter.set_data(ms.Tensor(fill(parameter.name, parameter.shape)))
    save_checkpoint("run.ckpt", weights_of(network), {"family": "gmlp", "model": "gmlp_ti", "config": config})
    texts = {}
    for name in ("mindspore", "onnxruntime", "auto"):
        main("eval", GMLP, ["--ckpt_path", "run.ckpt", "--device_target", "CPU", "--engine", name])
        *lines, texts[name] = capsys.readouterr().out.strip().splitlines()
        who = "MindSpore" if name == "mindspore" else "onnxruntime"
        assert sum(who in line and " answers" in line for line in lines) == 1
    assert texts["mindspore"] == texts["onnxruntime"] == texts["auto"] and "Top_1_Accuracy" in texts["auto"]


def test_a_cache_is_used_only_for_what_it_was_made_from(said):
    checkpoint("gmlp")
    first = opened()
    assert opened().engine == first.engine and len(kept()) == 1 and said.count("Making") == 1
    checkpoint("gmlp", scale=0.5)  # other weights under the same name
    images = ms.Tensor(np.ones((1, 3, 32, 32), np.float32))
    assert np.abs(opened().network(images).asnumpy() - first.network(images).asnumpy()).max() > 1e-3
    assert len(kept()) == 2 and opened().classes == list("abcde") and "loaded" in opened().loaded[0]


def test_a_damaged_file_is_made_again(said):
    checkpoint("gmlp")
    opened()
    file, = kept()
    content = file.read_bytes()
    for damaged in (b"", content[:len(content) // 2], content[:-1] + bytes([content[-1] ^ 1])):
        file.write_bytes(damaged)
        assert opened().engine.startswith("onnxruntime") and kept() == [file] and file.read_bytes() == content
    assert said.count("Making") == 4


def test_a_folder_that_cannot_be_written_costs_the_cache_alone(said):
    Path(FOLDER).write_text("in the way")
    checkpoint("gmlp")
    assert opened().engine.startswith("onnxruntime")
    assert "not kept" in said[-1] and Path(FOLDER).read_text() == "in the way"


def test_a_cache_does_not_grow_without_limit():
    for number in range(KEPT + 3):
        Path(f"{number}.ckpt").write_bytes(b"weights %d" % number)
        OnnxCache(f"{number}.ckpt", {}, []).keep(b"graph")
        for file in kept():
            os.utime(file, (file.stat().st_atime, file.stat().st_mtime - 10))
    assert [file.name[:6] for file in kept()] == [f"{number}.ckpt" for number in range(3, KEPT + 3)]
    assert OnnxCache("3.ckpt", {}, []).find() == b"graph"  # used: now it is the youngest
    Path("5.ckpt").unlink()
    Path(FOLDER, ".left.1.unfinished.onnx").write_bytes(b"of a process that was killed")
    os.utime(Path(FOLDER, ".left.1.unfinished.onnx"), (0, 0))
    Path("new.ckpt").write_bytes(b"weights")
    OnnxCache("new.ckpt", {}, []).keep(b"graph")
    assert [file.name[:6] for file in kept()] == ["3.ckpt", "6.ckpt", "new.ck"]


def test_two_processes_that_make_the_same_file_leave_one():
    Path("a.ckpt").write_bytes(b"weights")
    one, other = OnnxCache("a.ckpt", {"x": 1}, []), OnnxCache("a.ckpt", {"x": 1}, [])
    one.keep(b"graph")
    other.keep(b"graph")
    assert len(kept()) == 1 and one.find() == b"graph"
    assert OnnxCache("a.ckpt", {"x": 2}, []).find() is None
    assert OnnxCache("a.ckpt", {"x": 1}, [Path(__file__)]).find() is None


def test_where_onnxruntime_cannot_answer_the_framework_does(said, monkeypatch):
    checkpoint("gmlp")
    with monkeypatch.context() as patch:
        patch.delitem(OPERATORS, "LayerNorm")
        assert opened().engine == "MindSpore" and not kept()
        assert "so that MindSpore does: file_format: the operation LayerNorm" in said[-1]
        with pytest.raises(UserError, match="engine: onnxruntime cannot answer .* LayerNorm"):
            opened(engine="onnxruntime")
    with monkeypatch.context() as patch:
        patch.setattr(engine, "TOLERANCE", -1.0)
        assert opened().engine == "MindSpore" and not kept() and "differs" in said[-1]
    for values in ({"mode": "pynative"}, {"amp_level": "O2"}):
        assert opened(**values).engine == "MindSpore" and not kept()
        with pytest.raises(UserError, match="engine: onnxruntime .* leave one of them out"):
            opened(**values, engine="onnxruntime")
    monkeypatch.setattr(engine, "PACKAGES", ("onnx", "no_such_package"))
    assert opened().engine == "MindSpore" and not kept()
    with pytest.raises(UserError, match="engine: onnxruntime needs no_such_package; run 'pip install -r"):
        opened(engine="onnxruntime")


def test_a_missing_checkpoint_is_named_as_ever():
    with pytest.raises(UserError, match="ckpt_path: none.ckpt does not exist"):
        opened("none.ckpt")
