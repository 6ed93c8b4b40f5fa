"""The multiply-adds that the table of models gives, counted while an image runs through the networks."""
import importlib
import math
import re

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn, ops

from common.layers.cells import PatchProjection
from entry import ROOT

# variant -> its row of the table, and what is counted where that is another number
ROWS = {"gmlp_ti": ("gMLP-Ti", None), "convmlp_s": ("ConvMLP-S", None), "hlg_mobile": ("HLG-mobile", None),
        "soft_tiny": ("SOFT-tiny", "2.12")}  # fewer than the authors', as the README says


class Counter:
    """Adds up the products of linear layers, convolutions and batched matrix products."""

    def __init__(self, monkeypatch):
        self.total = 0
        product = ops.BatchMatMul.__call__

        def counted(primitive, x, y):
            out = product(primitive, x, y)
            self.total += math.prod(out.shape) * x.shape[-2 if primitive.transpose_a else -1]
            return out

        monkeypatch.setattr(ops.BatchMatMul, "__call__", counted)

    def hook(self, cell, inputs, output):
        """Count what a cell computes; ``PositionMixing`` is a subclass of Dense, but takes a batched product."""
        if type(cell) is nn.Dense or isinstance(cell, nn.Conv2d):
            self.total += math.prod(output.shape) * math.prod(cell.weight.shape[1:])
        elif isinstance(cell, PatchProjection):
            self.total += math.prod(output.shape) * cell.width


@pytest.mark.parametrize("variant", ROWS)
def test_the_table_of_models_has_the_multiply_adds(variant, monkeypatch):
    name, counted = ROWS[variant]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    row = re.search(rf"^\| {name}\b[^|]*\|[^|]*\|[^|]*\| ([\d.]+) G", text, re.MULTILINE)
    assert not counted or f"{counted} G" in text
    mode = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    counter = Counter(monkeypatch)
    network = importlib.import_module(f"{variant.split('_')[0]}.src.spec").SPEC.build(variant).set_train(False)
    for _, cell in network.cells_and_names():
        cell.register_forward_hook(counter.hook)
    network(ms.Tensor(np.zeros((1, 3, 224, 224), np.float32)))
    ms.set_context(mode=mode)
    expected = counted or row[1]
    assert f"{counter.total / 1e9:.{len(expected.partition('.')[2])}f}" == expected
