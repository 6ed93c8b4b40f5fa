"""gMLP: the authors' numbers, sizes, initial values, bad arguments, names of other implementations."""
import inspect
import math
import subprocess
import sys

import numpy as np
import pytest
from golden import Golden, Module, check_classifier
from golden_rule import fill

from common.errors import UserError
from gmlp.src.spec import SPEC

GATE = "blocks.1.gate.proj"


def tiny(**arguments):
    """The network of the golden numbers gmlp_tiny."""
    settings = {"num_classes": 10, "image_size": 32, "patch_size": 4, "embed_dim": 32, "depth": 2}
    return SPEC.build("gmlp_ti", **(settings | arguments))


def parameters(network) -> dict[str, np.ndarray]:
    return {p.name: p.asnumpy() for p in network.get_parameters()}


def test_tiny_network_reproduces_the_golden_numbers(mode):
    check_classifier(Golden("gmlp_tiny"), tiny(), SPEC.convert, SPEC.restore)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gmlp_ti16_224", "gmlp_s16_224"])
def test_published_variant_reproduces_the_golden_numbers(mode, name):
    check_classifier(Golden(name), SPEC.build(name), SPEC.convert, SPEC.restore)


def test_gating_unit_reproduces_the_golden_numbers_at_both_scales(mode):
    from gmlp.src.gmlp import SpatialGatingUnit

    Module("gmlp_sgu").check(SpatialGatingUnit(24, 16), SPEC.convert)


def test_block_reproduces_the_golden_numbers_at_both_scales(mode):
    from gmlp.src.gmlp import GMLPBlock

    Module("gmlp_block").check(GMLPBlock(8, 48, 16), SPEC.convert)
