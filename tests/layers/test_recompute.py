"""Blocks that are computed twice: the same training with less memory."""
import numpy as np
import pytest

from common.layers.recompute import recompute_blocks
from devices.networks import FAMILIES, build
from entry import ROOT, run


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_blocks_that_can_be_computed_twice(family):
    step, _ = build(f"{family}:train")
    assert recompute_blocks(step.network) > 0


@pytest.mark.parametrize("mode, family", [
    ("graph", "gmlp"), ("pynative", "gmlp"), ("pynative", "hlg_mobile"),
    pytest.param("graph", "hlg_mobile", marks=pytest.mark.long)], indirect=["mode"])
def test_weights_and_statistics_after_two_steps_are_the_same(family, mode, monkeypatch):
    one_stage = {"dims": (16,), "num_heads": (2,), "depths": (2,), "mlp_ratio": (2,)}
    monkeypatch.setitem(FAMILIES, "hlg_mobile", (*FAMILIES["hlg_mobile"][:3], 28, one_stage))
    trained = []
    for options in ("", ":recompute"):
        step, inputs = build(f"{family}:train{options}")
        for _ in range(2):
            step(*inputs)
        trained.append({p.name: p.asnumpy() for p in step.network.get_parameters()})
    for name, value in trained[0].items():
        np.testing.assert_allclose(trained[1][name], value, rtol=1e-5, atol=1e-6, err_msg=name)


PEAK = f"""
import sys
sys.path[:0] = {[str(ROOT), str(ROOT / 'tests')]}
import mindspore as ms
from devices import networks
from scripts.measure import peak_memory
networks.BATCH = 64
larger = networks.VIT | dict(patch_size=4, embed_dim=192, num_heads=3, depth=6)
networks.FAMILIES["vit"] = ("mae", "finetune", "vit_base_patch16", 32, larger)
step, inputs = networks.build(sys.argv[1])
step(*inputs).asnumpy()
print(peak_memory() >> 20)
"""


@pytest.mark.long
def test_a_deep_network_needs_less_memory(tmp_path):
    program = tmp_path / "peak.py"
    program.write_text(PEAK)
    plain, twice = (int(run(program, graph, cwd=tmp_path).stdout.split()[-1])
                    for graph in ("vit:train", "vit:train:recompute"))
    assert twice < 0.8 * plain, (plain, twice)
