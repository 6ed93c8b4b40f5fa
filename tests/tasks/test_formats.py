"""Checkpoints of every format load for ever: ``tests/data/formats`` keeps one of each, by its number.

Each is the second of three epochs of ``formats/gmlp.yaml`` (drop path, accumulation, moving average, mixup, dynamic loss
scale), and ``history.jsonl`` is what the version recorded that wrote the first, which had no number: 0.
"""
import json
import re
import shutil

import mindspore as ms
import pytest
from entry import ROOT, run

from common.checkpoint.file import FORMAT, META

KEPT = ROOT / "tests" / "data" / "formats"
IMAGES = 360  # of the evaluation
EPOCHS = [json.loads(line) for line in (KEPT / "history.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("number", range(FORMAT + 1))
def test_a_checkpoint_of_each_format_is_evaluated_to_its_own_accuracy(number):
    file = KEPT / str(number) / "gmlp_Ti-2_11.ckpt"
    assert json.loads(ms.load_checkpoint(str(file))[META]).get("format", 0) == number
    result = run("gmlp/eval.py", "--ckpt_path", file, "--engine", "mindspore")
    assert result.returncode == 0, result.stderr
    top1 = float(re.search(r"Top_1_Accuracy': ([\d.]+)", result.stdout)[1])
    assert top1 == pytest.approx(EPOCHS[1]["top1"], abs=1.01 / IMAGES)


@pytest.mark.parametrize("number", range(FORMAT))  # that of today every test of resuming takes
def test_a_training_continues_from_an_old_checkpoint_as_the_old_version_did(tmp_path, number):
    shutil.copy(KEPT / str(number) / "gmlp_Ti-2_11.ckpt", tmp_path)
    shutil.copy(KEPT / "history.jsonl", tmp_path)
    result = run("gmlp/train.py", "--config_path", KEPT / "gmlp.yaml", "--ckpt_save_dir", tmp_path)
    assert result.returncode == 0, result.stderr
    assert "Continuing after epoch 2" in result.stdout
    epochs = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert epochs[:2] == EPOCHS[:2] and len(epochs) == 3
    for name in ("loss", "lr", "grad_norm", "loss_scale", "eval_loss"):
        assert epochs[2][name] == pytest.approx(EPOCHS[2][name], rel=1e-5), name
    assert epochs[2]["top1"] == pytest.approx(EPOCHS[2]["top1"], abs=1.01 / IMAGES)
