"""The drawings of the networks: made by scripts/draw_architectures.py, with the numbers of the networks."""
import importlib
import math
from functools import cache

import numpy as np
import pytest
from PIL import Image

from entry import ROOT, run, sentence
from scripts.diagram import Arc, Diagram, Row, Step, draw, save
from scripts.draw_architectures import DRAWINGS, diagram

LARGEST = 80_000  # bytes of a picture


@cache
def drawn(model: str) -> Diagram:
    return diagram(model)


@pytest.fixture(autouse=True)
def graph_mode_again():
    """Drawing runs networks op by op; other tests expect the mode that they set."""
    import mindspore as ms

    mode = ms.get_context("mode")
    yield
    ms.set_context(mode=mode)


def test_every_model_has_a_drawing():
    assert set(DRAWINGS) == {file.parents[1].name for file in ROOT.glob("*/src/spec.py")}


@pytest.mark.parametrize("model", DRAWINGS)
def test_the_shipped_picture_is_the_one_that_the_script_draws(model, tmp_path):
    save(drawn(model), tmp_path / "again.png")
    shipped, again = (Image.open(file) for file in (ROOT / model / "resources/architecture.png", tmp_path / "again.png"))
    assert shipped.text["Description"] == again.text["Description"], "run python scripts/draw_architectures.py"
    pixels = [np.asarray(image.convert("L"), np.float32) for image in (shipped, again)]
    assert pixels[0].shape == pixels[1].shape
    assert np.abs(pixels[0] - pixels[1]).mean() < 0.5  # letters may be set a little differently by another Pillow
    assert (tmp_path / "again.png").stat().st_size < LARGEST


@pytest.mark.parametrize("model", DRAWINGS)
def test_the_table_has_the_sizes_of_every_variant(model):
    spec = importlib.import_module(f"{model}.src.spec").SPEC
    rows = [line for line in drawn(model).texts() if " | " in line][1:]
    for name, sizes in spec.variants.items():
        row = next(row for row in rows if name.removeprefix("mae_").removeprefix("vit_") in row.split(" | ")[0])
        for key in ("embed_dim", "dims", "depth", "depths", "decoder_depth"):
            value = sizes.get(key)
            if value is not None:
                assert (", ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)) in row.split(" | ")


def test_a_changed_variant_changes_the_picture():
    from dataclasses import replace

    spec = importlib.import_module("gmlp.src.spec").SPEC
    other = replace(spec, variants={"gmlp_ti": spec.variants["gmlp_ti"] | {"patch_size": 32, "depth": 7,
                                                                           "embed_dim": 64}})
    texts = "\n".join(DRAWINGS["gmlp"](other).texts())
    for changed in ("patches 32 x 32", "7 gMLP", "49 tokens\nof width 64", "W: 49 x 49", "gmlp_ti | 64 | 7 | 384"):
        assert changed in texts


def test_the_drawing_of_soft_says_how_many_landmarks_there_are():
    """One for r x r tokens of each of the first three stages."""
    counts = [math.floor(224 / (4 << stage) / ratio) ** 2 for stage, ratio in enumerate((8, 4, 2))]
    assert f"the three stages have {', '.join(map(str, counts))} landmarks" in "\n".join(drawn("soft").texts())


def test_a_row_that_does_not_fit_is_refused():
    row = Row("a row", tuple(Step("a box with many words in it") for _ in range(9)), (Arc(0, 1),))
    with pytest.raises(ValueError, match="'a row' is too wide by"):
        draw(Diagram("wide", (row,), (("a",), ("b",))))


def test_an_unknown_model_is_one_sentence():
    result = run("scripts/draw_architectures.py", "gmpl")
    assert sentence(result).startswith("error: model 'gmpl' has no drawing;") and "gmlp" in sentence(result)
