"""Weights of other programs: which network they are, the report, strictness, bit-exact round trips."""
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from entry import ROOT, sentence
from golden import Golden, load_strictly
from golden_rule import fill
from safetensors.numpy import load_file, save_file

from common.checkpoint.file import load_checkpoint, save_checkpoint
from common.checkpoint.weights import weights_of
from common.errors import UserError
from common.main import read_config
from common.tasks.convert import NO_PROOF, main, to_checkpoint, to_safetensors, verify
from gmlp.src.spec import SPEC
from mae.src.spec import SPEC as MAE

TINY = {"num_classes": 10, "image_size": 32, "in_channels": 3, "patch_size": 4, "embed_dim": 32, "mlp_ratio": 6,
        "depth": 2}
TORCH = ROOT / "tests/data/torch"
SMALL = {"image_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 1}  # of a ViT


@pytest.fixture(name="weights")
def tiny_weights() -> dict[str, np.ndarray]:
    return Golden("gmlp_tiny").tensors()


@pytest.fixture(name="file")
def tiny_file(weights, tmp_path) -> Path:
    save_file(weights, tmp_path / "tiny.safetensors")
    return tmp_path / "tiny.safetensors"


def same(left, right) -> bool:
    return set(left) == set(right) and all(
        left[n].dtype == right[n].dtype and left[n].shape == right[n].shape and left[n].tobytes() == right[n].tobytes()
        for n in left)


# which network it is

@pytest.mark.parametrize("golden, variant", [("gmlp_ti16_224", "gmlp_ti"), ("gmlp_s16_224", "gmlp_s")])
def test_variant_is_found_from_the_shapes(golden, variant):
    found, settings = SPEC.recognise(Golden(golden).tensors())
    assert found == variant
    assert settings == {"image_size": 224, "in_channels": 3, "num_classes": 1000}


def test_sizes_of_no_variant_are_given_as_settings(weights):
    variant, settings = SPEC.recognise(weights)
    assert SPEC.variants[variant] | settings == TINY | {"drop_path_rate": 0.0}


def test_another_variant_than_expected_is_refused_with_both_sizes():
    with pytest.raises(UserError, match="gmlp_S: it has embed_dim 128 instead of 256"):
        SPEC.recognise(Golden("gmlp_ti16_224").tensors(), model="gmlp_S")


def test_weights_of_another_network_are_refused_by_their_names():
    with pytest.raises(UserError, match="not the weights of a gmlp: the first tensors are conv1.weight"):
        SPEC.recognise({"conv1.weight": np.zeros((4, 3, 7, 7))})


@pytest.mark.parametrize("spec, variant, sizes", [
    (SPEC, "gmlp_ti", TINY | {"mlp_ratio": 2}),
    (MAE, "vit_base_patch16", SMALL | {"num_classes": 7, "in_channels": 1, "global_pool": False}),
    (MAE, "vit_base_patch16", SMALL | {"num_classes": 0}),
    (MAE, "mae_vit_base_patch16", SMALL | {"decoder_embed_dim": 32, "decoder_depth": 2}),
])
def test_a_checkpoint_of_another_program_tells_the_programs_its_network(spec, variant, sizes, tmp_path):
    save_checkpoint(tmp_path / "x.ckpt", weights_of(spec.build(variant, **sizes)), {})
    config = read_config("export", spec, ["--ckpt_path", str(tmp_path / "x.ckpt")])
    expected = {key: value for key, value in sizes.items() if value != 0}  # no head: any number of classes
    assert {"model": config.model} | {key: getattr(config, key) for key in expected} == {"model": variant} | expected


# conversion

def test_a_file_of_pytorch_becomes_a_checkpoint(tmp_path):
    result = run("gmlp/pth2ckpt.py", "--ckpt_path", TORCH / "timm.pth", "--out", tmp_path / "x.ckpt", "--verify")
    assert result.returncode == 0, result.stderr
    assert "16 entries" in result.stdout and "from its part 'state_dict_ema'" in result.stdout
    tensors, meta = load_checkpoint(tmp_path / "x.ckpt")
    gate = fill("blocks.0.mlp_channels.gate.proj.weight", (4, 4))
    assert np.array_equal(tensors["blocks.0.gate.proj.weight"], gate / 2)
    assert meta["config"] | {"embed_dim": 8, "depth": 1, "image_size": 8, "num_classes": 3} == meta["config"]


def test_conversion_fills_every_parameter_and_reports(file, weights, tmp_path):
    report = []
    to_checkpoint(SPEC, file, tmp_path / "tiny.ckpt", say=report.append)
    tensors, meta = load_checkpoint(tmp_path / "tiny.ckpt")
    assert same(tensors, SPEC.convert(weights))
    assert (meta["family"], meta["model"], meta["source"]) == ("gmlp", "gmlp_ti", "tiny.safetensors")
    assert {"model": "gmlp_ti", "drop_path_rate": 0.0} | SPEC.variants["gmlp_ti"] | meta["config"] == \
        {"model": "gmlp_ti", "drop_path_rate": 0.0} | TINY
    assert f"read: 26 entries of {file}" in report and "matched: 26" in report
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tiny.ckpt", "tiny.safetensors"]


def test_converted_network_reproduces_the_golden_logits(file, tmp_path):
    from mindspore import Tensor

    to_checkpoint(SPEC, file, tmp_path / "tiny.ckpt", say=lambda line: None)
    tensors, meta = load_checkpoint(tmp_path / "tiny.ckpt")
    network = SPEC.build(meta["model"], **{k: v for k, v in meta["config"].items() if k != "model"})
    load_strictly(network, tensors)
    golden = Golden("gmlp_tiny")
    assert np.abs(network(Tensor(golden.images)).asnumpy() - golden.arrays["logits"]).max() < 2e-5


def test_round_trip_is_bit_exact(file, weights, tmp_path):
    report = []
    to_checkpoint(SPEC, file, tmp_path / "a.ckpt", say=lambda line: None)
    to_safetensors(SPEC, tmp_path / "a.ckpt", tmp_path / "b.safetensors", say=report.append)
    assert same(load_file(tmp_path / "b.safetensors"), weights) and not [line for line in report if "ignored" in line]


def test_state_of_the_training_is_left_behind_and_the_average_preferred(weights, tmp_path):
    ours = SPEC.convert(weights)
    content = ({name: np.zeros_like(value) for name, value in ours.items()}
               | {f"ema.{name}": value for name, value in ours.items()}
               | {"adam_m.head.bias": np.ones(10, np.float32), "global_step": np.array([7], np.int32)})
    save_checkpoint(tmp_path / "run.ckpt", content, {"family": "gmlp", "config": {"ema": True}})
    report = []
    to_safetensors(SPEC, tmp_path / "run.ckpt", tmp_path / "run.safetensors", say=report.append)
    assert same(load_file(tmp_path / "run.safetensors"), weights)
    assert "ignored: 28, state of the training and the weights before averaging" in report


def change(weights, *, without=(), **replaced):
    return {name: value for name, value in weights.items() if name not in without} | replaced


@pytest.mark.parametrize("name, words", [("blocks.1.mlp_channels.gate.norm.bias", "1 missing"),
                                         ("head.bias", "1 missing"), ("norm.weight", "1 missing")])
def test_a_missing_tensor_is_refused_and_nothing_is_written(weights, tmp_path, name, words):
    save_file(change(weights, without=[name]), tmp_path / "x.safetensors")
    report = []
    with pytest.raises(UserError, match=words):
        to_checkpoint(SPEC, tmp_path / "x.safetensors", tmp_path / "x.ckpt", say=report.append)
    assert [line for line in report if line.startswith("missing: ")]
    assert not (tmp_path / "x.ckpt").exists()


def test_a_tensor_of_another_shape_is_reported_with_both_shapes(weights, tmp_path):
    wrong = change(weights, **{"blocks.1.mlp_channels.fc2.weight": np.zeros((32, 95), np.float32)})
    save_file(wrong, tmp_path / "x.safetensors")
    report = []
    with pytest.raises(UserError, match=r"blocks.1.fc2.weight: network \(32, 96\), checkpoint \(32, 95\)"):
        to_checkpoint(SPEC, tmp_path / "x.safetensors", tmp_path / "x.ckpt", say=report.append)
    assert "shape: blocks.1.fc2.weight is (32, 95) in the file and (32, 96) in the network" in report


def test_an_unexpected_tensor_is_reported_and_refused(weights, tmp_path):
    save_file(change(weights, **{"extra.weight": np.zeros(3, np.float32)}), tmp_path / "x.safetensors")
    report = []
    with pytest.raises(UserError, match="1 unexpected"):
        to_checkpoint(SPEC, tmp_path / "x.safetensors", tmp_path / "x.ckpt", say=report.append)
    assert "unexpected: extra.weight (3,)" in report


@pytest.mark.parametrize("without", [(), ("head.weight", "head.bias")])
def test_a_new_head_needs_the_number_of_classes_and_is_named(weights, tmp_path, without):
    save_file(change(weights, without=without), tmp_path / "x.safetensors")
    report = []
    to_checkpoint(SPEC, tmp_path / "x.safetensors", tmp_path / "x.ckpt", num_classes=7, say=report.append)
    tensors, meta = load_checkpoint(tmp_path / "x.ckpt")
    assert tensors["head.weight"].shape == (7, 32) and meta["config"]["num_classes"] == 7
    assert "new, with initial values: head.weight, head.bias" in report
    assert np.array_equal(tensors["norm.gamma"], weights["norm.weight"])


# the command

def run(*arguments, cwd=ROOT):
    return subprocess.run([sys.executable, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, check=False)


def test_command_converts_verifies_and_goes_back_from_every_place(file, weights, tmp_path):
    first = run("gmlp/pth2ckpt.py", "--ckpt_path", file, "--verify")
    assert first.returncode == 0, first.stderr
    assert f"written: {file.with_suffix('.ckpt')}" in first.stdout and "top five: class " in first.stdout
    back = run("pth2ckpt.py", "--ckpt_path", file.with_suffix(".ckpt"), "--out", tmp_path / "b.safetensors", "--verify",
               cwd=ROOT / "gmlp")
    assert back.returncode == 0, back.stderr
    assert same(load_file(tmp_path / "b.safetensors"), weights)
    assert first.stdout.splitlines()[-3:] == back.stdout.splitlines()[-3:]  # checksums and top five
    module = run("-m", "gmlp.pth2ckpt", "--ckpt_path", file, "--model", "gmlp_S")
    assert module.returncode == 2
    assert module.stderr.count("\n") == 1 and "gmlp_S: it has embed_dim 32 instead of 256" in module.stderr


@pytest.mark.parametrize("arguments, words", [
    (["--out", "x.safetensors"], "must end in .ckpt"),
    (["--num_classes", "0"], "num_classes: 0"), (["--out_file", "x"], "unrecognized arguments: --out_file x"),
    (["--model", "gmlp_x"], "not a variant"),
])
def test_mistakes_end_with_code_2_and_one_sentence(file, capsys, arguments, words):
    with pytest.raises(SystemExit) as end:
        main(SPEC, ["--ckpt_path", str(file), *arguments])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_output_that_cannot_be_written_leaves_nothing_behind(file, tmp_path, capsys):
    (tmp_path / "taken").write_text("a file where a folder is needed")
    for source, out in ((file, "x.ckpt"),):
        with pytest.raises(SystemExit) as end:
            main(SPEC, ["--ckpt_path", str(source), "--out", str(tmp_path / "taken" / out)])
        assert end.value.code == 2
        assert "cannot be written" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["taken", "tiny.safetensors"]


def test_verification_notices_a_changed_weight(weights):
    network = SPEC.build("gmlp_ti", **TINY)
    load_strictly(network, SPEC.convert(weights))
    before = verify(network, 3, (32, 32))
    weights["head.bias"][3] += 10
    load_strictly(network, SPEC.convert(weights))
    after = verify(network, 3, (32, 32))
    assert all(left != right for left, right in zip(before, after, strict=True))
    assert after[2].startswith("top five: class 3 ")


def test_comparing_with_timm_needs_timm_before_anything_is_written(file):
    if find_spec("timm") and find_spec("torch"):
        pytest.skip("torch and timm are installed")
    result = run("gmlp/pth2ckpt.py", "--ckpt_path", file, "--against", "timm")
    assert "comparing needs torch and timm" in sentence(result)
    assert not file.with_suffix(".ckpt").exists()


@pytest.mark.slow
def test_a_converted_network_computes_what_timm_does(tmp_path):
    pytest.importorskip("timm", reason="this compares with timm, which is not installed here")
    save_file(Golden("gmlp_ti16_224").tensors(), tmp_path / "ti.safetensors")
    result = run("gmlp/pth2ckpt.py", "--ckpt_path", tmp_path / "ti.safetensors", "--against", "timm")
    assert result.returncode == 0, result.stderr
    difference = float(result.stdout.rsplit("differ by at most ", 1)[1])
    assert difference < 2e-5


def test_logits_that_are_all_zero_prove_nothing():
    class Zeros:
        def set_train(self, mode):
            return lambda image: ms.Tensor(np.zeros((1, 3), np.float32))

        def get_parameters(self):
            return []

    assert verify(Zeros(), 3, (8, 8))[-1] == NO_PROOF
