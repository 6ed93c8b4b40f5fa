"""Equal parts once, fused operators, graphs on disk: the same numbers, never another cell's, and nothing left behind."""
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops
from small_networks import Linear

from common.config.load import from_mapping
from common.context import compiling
from common.context.compiling import compile_with, digest
from common.context.ranks import Runtime
from common.layers.cells import Blocks
from common.network import compiled_as_wanted


class Scaled(nn.Cell):
    """x * factor * weight; the factor becomes a constant of the graph."""

    def __init__(self, factor, weight: float = 2.0):
        super().__init__()
        self.factor = factor
        self.weight = Parameter(Tensor(np.full(4, weight, np.float32)), name="weight")

    def construct(self, x):
        return x * self.factor * self.weight


class Shifted(Scaled):
    """The same attributes, another computation."""

    def construct(self, x):
        return x + self.factor + self.weight


def result(cell: nn.Cell, cache) -> float:
    return float(compile_with(cell, cache=cache)(Tensor(np.ones((2, 4), np.float32))).asnumpy()[0, 0])


@pytest.fixture(autouse=True)
def graph_mode():
    ms.set_context(mode=ms.GRAPH_MODE)


def test_a_graph_is_taken_from_the_folder_for_the_same_cell_alone(tmp_path):
    assert result(Scaled(3.0), tmp_path) == 6
    file, = tmp_path.iterdir()
    written = file.stat().st_mtime_ns
    assert result(Scaled(3.0, weight=5.0), tmp_path) == 15  # the graph holds no weights
    assert list(tmp_path.iterdir()) == [file] and file.stat().st_mtime_ns == written
    assert [result(cell, tmp_path) for cell in (Scaled(4.0), Shifted(4.0), Scaled(Tensor(7.0)))] == [8, 7, 14]
    other = max(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    other.write_bytes(file.read_bytes())
    assert result(Scaled(Tensor(7.0)), tmp_path) == 6, "the folder is not read"


def test_a_damaged_graph_is_compiled_again(tmp_path):
    assert result(Scaled(3.0), tmp_path) == 6
    file, = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-9])
    assert result(Scaled(3.0), tmp_path) == 6
    assert len(file.read_bytes()) == len(whole)


def test_a_folder_that_cannot_be_written_costs_the_cache_alone(tmp_path, caplog, monkeypatch):
    folder = tmp_path / "cache"
    cell = compile_with(Scaled(3.0), cache=folder)
    folder.rmdir()
    folder.write_text("in the way")
    assert float(cell(Tensor(np.ones((2, 4), np.float32))).asnumpy()[0, 0]) == 6
    assert "compile_cache: the graph is not kept: " in caplog.text and folder.read_text() == "in the way"
    assert result(Scaled(3.0), tmp_path / "good") == 6
    file_in_the_way = tmp_path / "temporary"
    file_in_the_way.touch()
    monkeypatch.setattr(compiling, "_folder", lambda: str(file_in_the_way))
    assert result(Scaled(3.0), tmp_path / "good") == 6 and "compile_cache: not used: " in caplog.text


def test_a_digest_differs_with_everything_that_a_graph_depends_on(monkeypatch):
    def frozen():
        cell = Scaled(3.0)
        cell.weight.requires_grad = False
        return cell

    kinds = [Scaled(3.0), Scaled(2.0), Scaled(Tensor([3.0])), Scaled(Tensor([2.0])), Shifted(3.0), frozen(),
             Scaled(3.0).set_train(), Scaled(3.0).to_float(ms.float16), nn.SequentialCell([Scaled(3.0)]),
             Scaled(ops.MatMul()), Scaled(ops.MatMul(transpose_b=True)), Scaled(ms.float16), Scaled((1, 2))]
    assert len({digest(cell) for cell in kinds}) == len(kinds)
    before = digest(kinds[0])
    assert digest(Scaled(3.0)) == before
    monkeypatch.setattr(compiling.ms, "__version__", "0")
    assert digest(kinds[0]) != before


def test_the_step_of_a_training_is_known_again():
    """The framework notes in it when it was made."""
    from common.tasks.train import build_step
    from gmlp.src.spec import SPEC

    config = from_mapping({"ema": True}, "test")
    first, second = (digest(build_step(config, SPEC, Linear(4, 3), np.ones(2, np.float32), Runtime())) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("keys, world_size, asked", [
    ({}, 1, (True, "")), ({"graph_kernel": False}, 1, (False, "")), ({"amp_level": "O2"}, 1, (False, "")),
    ({"graph_kernel": "auto", "image_size": 4096, "batch_size": 2}, 1, (False, "")),
    ({"graph_kernel": "auto", "image_size": 4096, "batch_size": 4}, 1, (True, "")),
    ({"compile_cache": "graphs"}, 1, (True, "graphs")), ({"mode": "pynative"}, 1, None),
    ({"compile_cache": "graphs"}, 2, (True, ""))])
def test_the_configuration_says_how_cells_are_compiled(keys, world_size, asked, monkeypatch):
    from common import network as module
    from common.tasks.train import build_step
    from gmlp.src.spec import SPEC

    found = []
    monkeypatch.setattr(module, "compile_with", lambda cell, fused, cache, facts: found.append((fused, cache)) or cell)
    config = from_mapping({"opt": "sgd", "batch_size": 1, "graph_kernel": True} | keys, "test")
    if world_size == 1:
        build_step(config, SPEC, Linear(4, 3), np.ones(2, np.float32), Runtime())
    else:
        compiled_as_wanted(Linear(4, 3), config, Runtime(world_size=world_size), fused=True)
    assert found == ([asked] if asked else [])


def test_fusing_without_its_packages_is_said_and_goes_on(monkeypatch, caplog):
    monkeypatch.setattr(compiling, "NEEDED", ("no_such_package",))
    monkeypatch.setattr(compiling, "_fusing", None)
    assert compile_with(Scaled(3.0), fused=True)(Tensor(np.ones((2, 4), np.float32))).asnumpy()[0, 0] == 6


class Marks(Blocks):
    """Notes what its parts are marked with when it is compiled."""

    def compile(self, *inputs):
        self.found = [getattr(part, "cell_init_args", "") for part in self]
        super().compile(*inputs)


class PlainMarks(Marks):
    """Likewise, of parts whose inputs may have any shapes."""

    one_shape = False


def test_equal_parts_alone_are_compiled_once(tmp_path):
    """Equal but for the numbers of their parameters; the third has another factor, the last is not trained."""
    parts = [nn.SequentialCell(Scaled(factor, weight)) for factor, weight in ((3, 2.0), (3, 5.0), (4, 2.0), (3, 1.0))]
    parts.append(nn.SequentialCell(Scaled(3, 0.5)))
    parts[-1][0].weight.requires_grad = False
    cell = compile_with(Marks(parts))
    assert cell(Tensor(np.ones((2, 4), np.float32))).asnumpy()[0, 0] == 6 * 15 * 8 * 3 * 1.5
    first, second, third, fourth, fifth = cell.found
    assert first == second == fourth != "" and third == fifth == ""
    plain = compile_with(PlainMarks([nn.SequentialCell(Scaled(3, 2.0)) for _ in range(2)]))
    plain(Tensor(np.ones((2, 4), np.float32)))
    assert plain.found == ["", ""], "the shapes of their inputs may differ"
    assert not any(hasattr(part, "cell_init_args") or hasattr(part, "no_inline") for part in parts), "nothing is left"


def test_kernels_of_fused_operators_are_kept_and_taken_from_the_folder(tmp_path):
    place = Path(compiling._folder()) / "akg_kernel_meta"
    found = []
    for _ in range(2):
        cell = compile_with(Scaled(3.0), fused=True, cache=tmp_path)
        assert cell(Tensor(np.ones((2, 4), np.float32))).asnumpy()[0, 0] == 6
        found.append(sorted(path.name for path in place.iterdir()))
        for path in place.iterdir():
            path.unlink()
    assert found[0] and found[0] == found[1]
    assert len(list(tmp_path.glob("*.kernels"))) == 1
