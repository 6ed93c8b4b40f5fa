"""The multiply-adds that the table of models gives, of every row, counted from the networks themselves.

No product is computed: linear layers, convolutions and batched products are counted and give zeros of the right shape.
"""
import contextlib
import importlib
import math
import re

import mindspore as ms
import numpy as np
import pytest
from entry import ROOT
from golden_rule import noise
from mindspore import Tensor, nn, ops

from common.layers.cells import PatchProjection
from hlg.src.hlg_official import PositionBias
from soft.src.softmax_free_transformer import GaussianKernels, Mixture

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| ([^|,(]+?)[ ,(|][^|]*\| \[\w+\][^|]*\|[^|]*\| ([\d.]+) G", re.MULTILINE)
ROWS = {found[1]: found[2] for found in ROW.finditer(TEXT)}
VARIANTS = {"gMLP-Ti": "gmlp_ti", "gMLP-S": "gmlp_s", "gMLP-B": "gmlp_b", "ConvMLP-S": "convmlp_s",
            "ConvMLP-M": "convmlp_m", "ConvMLP-L": "convmlp_l", "HLG-mobile": "hlg_mobile",
            "HLG-tiny": "hlg_tiny_avgpool",
            "HLG-small": "hlg_small_avgpool", "HLG-medium": "hlg_medium_avgpool", "HLG-large": "hlg_large_avgpool",
            "MAE": "mae_vit_base_patch16", "ViT-Base": "vit_base_patch16", "SOFT-tiny": "soft_tiny",
            "SOFT-small": "soft_small", "SOFT-medium": "soft_medium", "SOFT-large": "soft_large",
            "SOFT-huge": "soft_huge"}
MODELS = {name: name for name in ("gmlp", "convmlp", "hlg", "soft")}


class Counter:
    """The multiply-adds of a forward pass.

    Attributes:
        total: of our network.
        theirs: what the authors take more for the same result. SOFT's multiply K (N, M) and the inverse (M, M) first,
            and sum the squares of queries and landmarks by products with ones; HLG's compute the position bias of all
            offsets on a map, also of those that do not occur.
    """

    total = theirs = 0

    def zeros(self, shape, inner: int) -> Tensor:
        """Count a product over ``inner`` numbers for every element of the result."""
        self.total += math.prod(shape) * inner
        return Tensor(np.zeros(shape, np.float32))


def counting(monkeypatch) -> Counter:
    """Let the cells count instead of compute."""
    counter, mixture, kernels, bias = Counter(), Mixture.construct, GaussianKernels.construct, PositionBias.construct

    def dense(cell, x):
        return counter.zeros((*x.shape[:-1], cell.out_channels), cell.in_channels)

    def convolution(cell, x):
        padding = 0 if cell.pad_mode == "valid" else cell.padding
        sides = [(side + 2 * padding - kernel) // stride + 1
                 for side, kernel, stride in zip(x.shape[2:], cell.kernel_size, cell.stride)]
        return counter.zeros((len(x), cell.out_channels, *sides), math.prod(cell.weight.shape[1:]))

    def patches(cell, x):
        return counter.zeros((*x.shape[:2], cell.embed_dim), cell.width)

    def batched(primitive, x, y):
        rows, inner = (x.shape[-1], x.shape[-2]) if primitive.transpose_a else x.shape[-2:]
        return counter.zeros((*x.shape[:-2], rows, y.shape[-2 if primitive.transpose_b else -1]), inner)

    def mixed(cell, kernel, inverse, values):
        counter.theirs += math.prod(inverse.shape) * (kernel.shape[-2] - values.shape[-1])
        return mixture(cell, kernel, inverse, values)

    def compared(cell, queries, landmarks):
        counter.theirs += 2 * math.prod(landmarks.shape) * (queries.shape[-2] + landmarks.shape[-2])
        return kernels(cell, queries, landmarks)

    def biased(cell):
        before, rows = counter.total, len(cell.distances)
        table = bias(cell)
        offsets = (2 * math.isqrt(cell.size[0]) - 1) ** 2
        counter.theirs += (counter.total - before) // rows * (offsets - rows)
        return table

    for cell, construct in ((nn.Dense, dense), (nn.Conv2d, convolution), (PatchProjection, patches), (Mixture, mixed),
                            (GaussianKernels, compared), (PositionBias, biased)):
        monkeypatch.setattr(cell, "construct", construct)
    monkeypatch.setattr(ops.BatchMatMul, "__call__", batched)
    return counter


def test_every_model_of_the_table_is_counted():
    assert ROWS.keys() == VARIANTS.keys()


@pytest.mark.parametrize("name", VARIANTS)
def test_the_table_of_models_has_the_multiply_adds(name, monkeypatch):
    variant = VARIANTS[name]
    module = importlib.import_module(f"{MODELS.get(variant.split('_')[0], 'mae')}.src")
    for file in ("gmlp", "convmlp", "hlg", "hlg_official", "mae_vit", "vit", "softmax_free_vision_transformer"):
        with contextlib.suppress(ImportError):  # initial values take longer than all else
            monkeypatch.setattr(importlib.import_module(f"{module.__name__}.{file}"), "initialise", lambda *_: None)
    network = importlib.import_module(f"{module.__name__}.spec").SPEC.build(variant).set_train(False)
    counter = counting(monkeypatch)
    mode = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    inputs = [Tensor(np.zeros((1, 3, 224, 224), np.float32))]
    network(*inputs, *([Tensor(noise(1, 196))] if name == "MAE" else []))
    ms.set_context(mode=mode)
    assert f"{(counter.total + counter.theirs) / 1e9:.{len(ROWS[name].partition('.')[2])}f}" == ROWS[name]
    if name == "SOFT-tiny":
        assert f"{counter.total / 1e9:.2f} G" in TEXT.partition("in a cheaper order here")[2][:30]
