"""How a network is put on a device: precision, recomputation, fused attention, warnings."""
from types import SimpleNamespace

import mindspore as ms
import pytest
from mindspore import nn

from common import network as module
from common.config.load import from_mapping
from common.errors import UserError
from common.layers.precision import apply_precision
from common.network import build_network
from mae.src.spec import SPEC as MAE
from soft.src.spec import SPEC as SOFT

VIT = {"task": "train", "model": "vit_base_patch16", "image_size": 16, "patch_size": 8, "embed_dim": 32, "depth": 2,
       "num_heads": 2}
TINY_SOFT = {"model": "soft_tiny", "image_size": 64, "dims": [32, 32, 32, 32], "num_heads": [1, 1, 1, 1],
             "depths": [1, 1, 1, 1]}


@pytest.fixture
def warnings(monkeypatch):
    said = []
    monkeypatch.setattr(module, "get_logger", lambda: SimpleNamespace(warning=said.append))
    return said


def on_ascend(monkeypatch):
    monkeypatch.setattr(ms, "get_current_device", lambda: ("Ascend", 0))


def vit(**keys):
    spec = MAE.for_task("train")
    return build_network(from_mapping(VIT | keys, "test", spec), spec)


def test_bfloat16_is_refused_where_there_are_no_operators_for_it():
    with pytest.raises(UserError, match="amp_level: bf16 is for Ascend .* operators for CPU know no bfloat16"):
        vit(amp_level="bf16")


def test_bfloat16_is_for_the_cells_that_are_float16_at_o2(monkeypatch):
    on_ascend(monkeypatch)
    flags = [{name: cell.get_flags() for name, cell in network.cells_and_names()}
             for network in (vit(amp_level="O2"), vit(amp_level="bfloat16"))]
    halves = [{name for name, found in kind.items() if found.get(key)} for kind, key in zip(flags, ("fp16", "bf16"))]
    floats = [{name for name, found in kind.items() if found.get("fp32")} for kind in flags]
    assert halves[0] == halves[1] and floats[0] == floats[1]
    assert "blocks.0.mlp.fc1" in halves[1] and "blocks.0.attn.softmax" in floats[1]


@pytest.mark.parametrize("task, wanted, marked", [("train", True, True), ("train", False, False), ("eval", True, False)])
def test_blocks_are_computed_twice_where_a_training_asks_for_it(task, wanted, marked):
    network = vit(recompute=wanted, task=task)
    assert ["output_recompute" in block.get_flags() for block in network.blocks] == [marked] * 2


@pytest.mark.parametrize("device, keys, fused", [
    ("Ascend", {"amp_level": "O2", "fused_attention": True}, True), ("Ascend", {"amp_level": "O2"}, False),
    ("Ascend", {"fused_attention": True}, False), ("CPU", {"amp_level": "O2", "fused_attention": True}, False)])
def test_attention_is_fused_where_the_device_can_and_the_key_says_so(device, keys, fused, monkeypatch, warnings):
    monkeypatch.setattr(ms, "get_current_device", lambda: (device, 0))
    assert [block.attn.fused for block in vit(**keys).blocks] == [fused] * 2


@pytest.mark.parametrize("spec, values, warned", [(SOFT, TINY_SOFT, True), (MAE.for_task("train"), VIT, False)])
def test_who_needs_float32_is_warned_of_a_device_that_multiplies_in_float16(spec, values, warned, monkeypatch, warnings):
    monkeypatch.setattr(module, "is_first_generation", lambda: True)
    build_network(from_mapping(values, "test", spec), spec)
    assert ["multiplies in float16" in line for line in warnings] == [True] * warned


def test_what_has_no_bfloat16_is_float32_beside_it():
    pool = apply_precision(nn.SequentialCell(nn.MaxPool2d(2), nn.ReLU()), "bf16")
    assert [cell.get_flags().get("fp32", False) for cell in pool] == [True, False]


def test_an_unknown_level_is_refused():
    with pytest.raises(UserError, match="amp_level: 'O9' is not one of O0, O1, O2, O3, bf16"):
        apply_precision(vit(), "O9")
