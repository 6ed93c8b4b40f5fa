"""The diagrams of the networks in the READMEs: their sizes are those of the variants, in both languages."""
import importlib
import re

import pytest

from entry import ROOT

BLOCK = re.compile(r"^```mermaid\n(.*?)^```", re.MULTILINE | re.DOTALL)
# What leaves the stages at 224 x 224 pixels: tokens x width, or channels x height x width.
SHAPES = {"gmlp": {"gmlp_ti": ("196 x {embed_dim}", "{depth} gMLP blocks")},
          "convmlp": {"convmlp_s": ("{channels} x 56 x 56", "{dims[0]} x 28 x 28", "{dims[1]} x 14 x 14",
                                    "{dims[2]} x 7 x 7", "{n_conv_blocks} convolution blocks",
                                    *(f"{{depths[{i}]}} ConvMLP blocks" for i in range(3)))},
          "soft": {"soft_tiny": ("3136 x {dims[0]}", "784 x {dims[1]}", "196 x {dims[2]}", "50 x {dims[3]}",
                                 "{depths[0]} SOFT block", "{depths[2]} SOFT blocks", "{depths[3]} attention blocks")},
          "hlg": {"hlg_mobile": ("3136 x {dims[0]}", "784 x {dims[1]}", "196 x {dims[2]}", "50 x {dims[3]}",
                                 "{depths[0]} local-global blocks", "{depths[3]} attention blocks"),
                  "hlg_tiny_avgpool": ("3136 x {dims[0]}", "784 x {dims[1]}", "196 x {dims[2]}", "49 x {dims[3]}",
                                       "{depths[2]} local-global blocks")},
          "mae": {"mae_vit_base_patch16": ("50 x {embed_dim}", "197 x {decoder_embed_dim}", "{depth} blocks",
                                           "{decoder_depth} blocks", "patches {patch_size} x {patch_size}"),
                  "vit_base_patch16": ("197 x {embed_dim}", "{depth} blocks")}}


def diagrams(model: str, name: str) -> str:
    return "".join(BLOCK.findall((ROOT / model / name).read_text(encoding="utf-8")))


def test_every_model_has_diagrams():
    assert set(SHAPES) == {file.parents[1].name for file in ROOT.glob("*/src/spec.py")}


@pytest.mark.parametrize("model, variant", [(model, variant) for model in SHAPES for variant in SHAPES[model]])
def test_the_sizes_are_those_of_the_variant(model, variant):
    sizes = importlib.import_module(f"{model}.src.spec").SPEC.variants[variant]
    drawn = diagrams(model, "README.md")
    assert [text for text in SHAPES[model][variant] if text.format(**sizes) not in drawn] == []


@pytest.mark.parametrize("model", SHAPES)
def test_both_languages_have_the_same_boxes_and_numbers(model):
    english, chinese = (diagrams(model, name) for name in ("README.md", "README_CN.md"))
    for pattern in (r"^ +(\w+)[\[(]", r"^ +\w.*-->.*$", r"\d+(?: x \d+)+"):
        assert re.findall(pattern, english, re.MULTILINE) == re.findall(pattern, chinese, re.MULTILINE)
