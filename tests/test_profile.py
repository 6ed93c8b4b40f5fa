"""What networks cost, counted by ``python -m common.profile``, and what the README files say they do."""
import pytest
from entry import ROOT

from common.errors import UserError
from common.profile import main, profile
from common.spec import list_models
from scripts.readme_tables import costs, fill_costs, readme_files

# Of their authors, or the sum of their own tensors.
PUBLISHED = {"gmlp_ti": 5_867_328, "gmlp_s": 19_422_656, "gmlp_b": 73_075_392, "convmlp_s": 9_022_920,
             "convmlp_m": 17_410_504, "convmlp_l": 42_728_440, "soft_tiny": 13_069_056, "soft_small_24m": 24_110_092,
             "vit_base_patch16": 86_567_656, "vit_large_patch16": 304_326_632, "vit_huge_patch14": 632_045_800}


def check_tables(files):
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert fill_costs(text) == text, f"{file.relative_to(ROOT)}: run python scripts/readme_tables.py"


def test_the_tables_of_a_readme_have_the_counted_costs():
    """Of the family that is quickest to build; those of all are in the long part."""
    check_tables([ROOT / "gmlp" / "README.md"])


@pytest.mark.long
def test_the_tables_of_all_readme_files_have_the_counted_costs():
    costs.cache_clear()
    check_tables(readme_files())
    variants = [name for name in list_models() if not name.startswith("soft_norm_")]  # of the sizes of soft_*
    layouts = [name for name in variants if name.startswith("hlg_") and name != "hlg_mobile"]
    assert costs.cache_info().misses == len(variants) + len(layouts) + 3  # three in the spelling of their recipe
    assert {name: costs(name)[0] for name in PUBLISHED} == PUBLISHED


def test_every_number_is_that_of_the_formula():
    tokens, dim, classes, batch = 16, 8, 5, 3
    found = profile("gmlp_ti", batch, num_classes=classes, image_size=32, patch_size=8, embed_dim=dim, depth=4,
                    mlp_ratio=2)
    rows = {row.name: row for row in (*found.stages, found.total)}
    block = tokens * dim * 2 * dim + tokens * tokens * dim + tokens * dim * dim
    assert {name: row.multiply_adds for name, row in rows.items()} == {
        "stem": batch * tokens * 192 * dim, "blocks": 4 * batch * block, "norm": 0, "head": batch * dim * classes,
        "in all": batch * (tokens * 192 * dim + 4 * block + dim * classes)}
    # norm, fc1 and GELU (twice as wide), the gate's norm, mixture without bias and with it, and result, fc2, the sum
    assert rows["blocks"].activations == 4 * batch * tokens * dim * (1 + 2 + 2 + 1 + 1 + 1 + 1 + 1 + 1)
    assert rows["head"].parameters == (dim + 1) * classes
    assert rows["head"].memory == 4 * (4 * (dim + 1) * classes + batch * classes)
    assert rows["blocks"].blocks == 4


def test_what_does_not_depend_on_the_batch_counts_once():
    one, two, many = (profile("hlg_tiny_avgpool", batch, image_size=56, dims=(16, 32), num_heads=(1, 2), depths=(1, 2))
                      for batch in (1, 2, 9))
    image = two.total.multiply_adds - one.total.multiply_adds
    assert 0 < image < one.total.multiply_adds  # the position bias
    assert many.total.multiply_adds == one.total.multiply_adds + 8 * image


def test_the_command_names_stages_and_refuses_what_does_not_fit():
    said = main(["convmlp_s", "--image_size", "32", "--num_classes", "10"]).splitlines()
    assert [line.split()[0] for line in said[2:]] == ["tokenizer", "conv_stages", "stages.0", "stages.1", "stages.2",
                                                      "norm", "head", "in"]
    assert "8,515,050" in said[-1] and "1,536 numbers besides" in said[0]
    for argv, word in ((["gmlp_x"], "gmlp_x"), (["gmlp_s", "--image_size", "225"], "225"),
                       (["gmlp_s", "--batch_size", "0"], "less than 1")):
        with pytest.raises(UserError, match=word):
            main(argv)
