"""HLG, the zoo's and the official networks: the references' numbers, sizes, precision, initial values, bad arguments."""
import mindspore as ms
import numpy as np
import pytest
from golden import Golden, Tolerances, check_classifier, load_strictly
from golden_rule import pattern
from mindspore import Tensor, nn

from hlg.src.spec import SPEC

TOLERANCES = Tolerances(logits_train=2e-4, loss_train=1e-4, norms_eval=(1e-3, 1e-5), norms_train=(5e-3, 0.0))


class Reference(Golden):
    """A stored run."""

    def __init__(self, name: str):
        super().__init__(name)
        self.zoo = name == "hlg_mobile"
        self.variant = name.removesuffix("_paper")
        self.layout = {} if self.zoo else {"layout": "paper" if name.endswith("_paper") else "head"}

    def network(self):
        arguments = {"num_classes": 1001, "dead_parameters": True} if self.zoo else self.layout
        return SPEC.build(self.variant, **arguments)


@pytest.mark.parametrize("name", ["hlg_mobile", "hlg_mobile_avgpool", "hlg_tiny_avgpool", "hlg_tiny_avgpool_paper"])
def test_network_reproduces_the_golden_numbers(mode, name):
    reference = Reference(name)
    print(name, check_classifier(reference, reference.network(), SPEC.convert, SPEC.restore, TOLERANCES))


class Stages(nn.Cell):
    """The network's logits, and the tokens after each stage."""

    def __init__(self, network):
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, images):
        return self.network(images), self.network.stages(images)


@pytest.mark.parametrize("name", ["hlg_mobile", "hlg_mobile_avgpool", "hlg_tiny_avgpool", "hlg_tiny_avgpool_paper"])
def test_stages_reproduce_the_golden_numbers_on_pattern_images(mode, name):
    reference = Reference(name)
    network = reference.network().set_train(False)
    load_strictly(network, SPEC.convert(reference.tensors()))
    logits, stages = Stages(network)(Tensor(pattern(2, 224)))
    assert np.abs(logits.asnumpy() - reference.arrays["logits_pattern"]).max() < 2e-5
    for stage, tokens in enumerate(stages, start=1):
        tokens, stored = tokens.asnumpy(), reference.arrays[f"pattern_stage{stage}"]
        difference = np.abs(tokens[:, :49:4, :16] - stored).max()
        print(name, mode, stage, difference, np.abs(stored).max())
        assert difference < 2e-5 * max(1.0, np.abs(stored).max()), stage
        norm = np.linalg.norm(tokens.astype(np.float64))
        assert norm == pytest.approx(reference.arrays["pattern_stage_norms"][stage - 1], rel=1e-5), stage
