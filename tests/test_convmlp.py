"""ConvMLP: the authors' numbers, sizes, initial values, bad arguments, names of weights."""
import numpy as np
import pytest
from golden import Golden, Module, check_classifier

from common.errors import UserError
from convmlp.src.spec import SPEC


def tiny(**arguments):
    """The network of the golden numbers convmlp_tiny."""
    settings = {"num_classes": 10, "image_size": 64, "channels": 8, "n_conv_blocks": 2, "dims": (16, 32, 64),
                "depths": (2, 1, 2), "mlp_ratio": (2, 2, 3)}
    return SPEC.build("convmlp_s", **(settings | arguments))


def test_tiny_network_reproduces_the_golden_numbers(mode):
    print(check_classifier(Golden("convmlp_tiny"), tiny(), SPEC.convert, SPEC.restore))


@pytest.mark.slow
def test_published_variant_reproduces_the_golden_numbers(mode):
    print(check_classifier(Golden("convmlp_s"), SPEC.build("convmlp_s"), SPEC.convert, SPEC.restore))


def test_block_reproduces_the_golden_numbers_at_both_scales(mode):
    from convmlp.src.convmlp import ConvMLPBlock

    print(Module("convmlp_block").check(ConvMLPBlock(12, 24), SPEC.convert))


def test_convolution_stage_reproduces_the_golden_numbers_at_both_scales(mode):
    from convmlp.src.convmlp import ConvStage

    print(Module("convmlp_convstage").check(ConvStage(8, 16, 2), SPEC.convert))


def test_tokenizer_reproduces_the_golden_numbers_at_both_scales(mode):
    from convmlp.src.convmlp import ConvTokenizer

    print(Module("convmlp_tokenizer").check(ConvTokenizer(3, 8), SPEC.convert))
