"""The sizes that no stored result covers: names, shapes and counts of their tensors, and their cells at full width.

A reference run of one size lists all tensors of its authors' network. The networks of the other sizes have the same
tensors, block by block, only wider; so one of them, a block or two deep, is compared with that list, and with one block
in every stage also with what PyTorch computes (``data/large_sizes.py``). How many parameters the whole one has is in
test_profile.py.
"""
import functools
import json
import math
import re

import numpy as np
import pytest
from golden import FOLDER, TYPICAL, load_strictly
from golden_rule import fill, image, noise
from mindspore import Tensor

from convmlp.src.spec import SPEC as CONVMLP
from gmlp.src.spec import SPEC as GMLP
from hlg.src.spec import SPEC as HLG
from mae.src.spec import SPEC as MAE
from soft.src.spec import SPEC as SOFT

# model, variant of the stored run, the run, other variants
FAMILIES = [(GMLP, "gmlp_ti", "gmlp_ti16_224", ("gmlp_s", "gmlp_b")),
            (CONVMLP, "convmlp_s", "convmlp_s", ("convmlp_m", "convmlp_l")),
            (SOFT, "soft_tiny", "soft_tiny", ("soft_small", "soft_small_24m", "soft_medium", "soft_large",
                                              "soft_huge")),
            (SOFT, "soft_norm_tiny", "soft_norm_tiny", ("soft_norm_small", "soft_norm_huge")),
            (HLG, "hlg_tiny_avgpool", "hlg_tiny_avgpool", ("hlg_small_avgpool", "hlg_medium_avgpool",
                                                           "hlg_large_avgpool")),
            (MAE, "vit_base_patch16", "vit_base_patch16_gap", ("vit_large_patch16", "vit_huge_patch14")),
            (MAE, "mae_vit_base_patch16", "mae_vit_base_patch16", ("mae_vit_large_patch16", "mae_vit_huge_patch14"))]
CASES = [pytest.param(*family[:3], other, id=other) for family in FAMILIES for other in family[3]]
BLOCK = re.compile(r"(^|.*\.)(blocks|block\d|conv_blocks|decoder_blocks)\.(\d+)\.(.*)")
OTHER_AXES = ("pos_embed", "decoder_pred.weight", "decoder_pred.bias")  # as long as there are patches, pixels of one
DEPTHS = ("depth", "depths", "decoder_depth", "n_conv_blocks")
# variant -> what PyTorch computes in float64, what its float32 is off by, the image size, the number of parameters
COMPUTED = json.loads((FOLDER.parent / "large_sizes.json").read_text())
SPECS = {other: family[0] for family in FAMILIES for other in family[3]}


def at_most(limit, depth):
    return min(depth, limit) if isinstance(depth, int) else tuple(min(number, limit) for number in depth)


def shallow(spec, variant, blocks=2, **arguments):
    """Build a variant at full width, at most so many blocks deep, all zeros."""
    sizes = spec.variants[variant]
    return spec.build(variant, **{key: at_most(blocks, sizes[key]) for key in DEPTHS if key in sizes}, **arguments)


def theirs(spec, network) -> dict[str, tuple[int, ...]]:
    """The shapes of a network's tensors under the authors' names."""
    return {name: tuple(p.shape) for name, p in spec.restore({p.name: p for p in network.get_parameters()}).items()}


def pattern(name: str) -> str:
    """A name in which all blocks but the first of a stage are called the second."""
    found = BLOCK.fullmatch(name)
    return f"{found[1]}{found[2]}.{min(int(found[3]), 1)}.{found[4]}" if found else name


@pytest.mark.parametrize("spec, variant, golden, other", CASES)
def test_tensors_are_those_of_the_reference_at_other_widths(spec, variant, golden, other, uninitialised):
    entries = json.loads((FOLDER / f"{golden}.json").read_text())["entries"]
    listed = {pattern(name): tuple(shape) for name, shape, _ in entries if not name.endswith("num_batches_tracked")}
    assert theirs(spec, shallow(spec, variant)) == listed
    found = theirs(spec, shallow(spec, other))

    def like_the_first(name):  # a second block, where the reference has only one
        return name if name in listed else re.sub(r"(block\w*)\.1\.", r"\1.0.", name)

    assert {like_the_first(name) for name in found} == listed.keys()
    sizes, wide = spec.variants[variant], spec.variants[other]
    ratios = {1.0} | {new / old for key in ("embed_dim", "decoder_embed_dim", "dims", "channels", "num_heads",
                                            "patch_size") if key in sizes
                      for new, old in zip(np.atleast_1d(wide[key]), np.atleast_1d(sizes[key]))}
    ratios |= {ratio * wide.get("mlp_ratio", 1) / sizes.get("mlp_ratio", 1) for ratio in ratios}
    for name, shape in found.items():
        for new, old in zip(shape, listed[like_the_first(name)], strict=True):
            assert any(math.isclose(new, old * ratio) for ratio in ratios) or name.endswith(OTHER_AXES), (name, shape)


@functools.cache
def outputs_of_one_block(variant, size):
    """Fill a variant with one block in every stage by the rule; return its outputs and its number of parameters."""
    spec = SPECS[variant]
    more = {"global_pool": False} if variant.startswith("vit") else {}
    if not variant.startswith("mae"):
        more |= {"num_classes": 10, "drop_path_rate": 0.0}
    network = shallow(spec, variant, 1, image_size=size, **more).set_train(False)
    filled = spec.convert({name: fill(name, shape) for name, shape in theirs(spec, network).items()})
    load_strictly(network, filled | {p.name: p.asnumpy() for p in network.get_parameters()
                                     if not p.requires_grad and p.name.endswith("pos_embed")})
    images = Tensor(image(1, size))
    found = network(images, Tensor(noise(1, 16)))[1][:, ::5, :8] if variant.startswith("mae") else network(images)
    return found.asnumpy(), sum(p.size for p in network.trainable_params())


@pytest.mark.parametrize("variant", COMPUTED)
def test_one_block_of_every_stage_computes_what_pytorch_does(variant, uninitialised):
    """Of all outputs the worst of another order of sums may be some times farther off than PyTorch's own float32."""
    def but_depths(other):
        return {key: value for key, value in SPECS[other].variants[other].items() if key not in DEPTHS}

    stored = COMPUTED[variant]
    same = next(other for other in COMPUTED if but_depths(other) == but_depths(variant))
    found, parameters = outputs_of_one_block(same, stored["image_size"])
    assert parameters == stored["parameters"], f"{variant}: the cells of a stage have other sizes than the authors'"
    share = np.abs(found.ravel() - stored["outputs"]).max() / (TYPICAL * stored["float32_error"])
    print("share of what is allowed:", round(share, 3))
    assert share <= 1, f"{variant}: tensors of the authors' sizes, but other numbers, as with another number of heads"


def test_every_size_is_compared():
    """Those of SOFT's normalised kernel are those of the plain one; gMLP-S has a stored run of its own."""
    kinds = {name: sizes for name, sizes in SOFT.variants.items() if name.startswith("soft_norm_")}
    assert all(sizes | {"normalised": False} == SOFT.variants[name.replace("_norm", "")]
               for name, sizes in kinds.items())
    assert SPECS.keys() - kinds.keys() - {"gmlp_s"} == COMPUTED.keys()
