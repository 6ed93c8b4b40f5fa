"""Checkpoints of earlier versions load: one that was written before ``common/`` had rooms is kept here.

It is the second of three epochs of ``old_format/gmlp.yaml`` (drop path, accumulation, moving average, mixup, dynamic loss
scale), and ``history.jsonl`` is what that version recorded.
"""
import json
import re
import shutil

import pytest
from entry import ROOT, run

OLD = ROOT / "tests" / "data" / "old_format"
IMAGES = 360  # of the evaluation
EPOCHS = [json.loads(line) for line in (OLD / "history.jsonl").read_text().splitlines()]


def test_an_old_checkpoint_is_evaluated_to_its_own_accuracy():
    result = run("gmlp/eval.py", "--ckpt_path", OLD / "gmlp_Ti-2_11.ckpt")
    assert result.returncode == 0, result.stderr
    top1 = float(re.search(r"Top_1_Accuracy': ([\d.]+)", result.stdout)[1])
    assert top1 == pytest.approx(EPOCHS[1]["top1"], abs=1.01 / IMAGES)


def test_a_training_continues_from_an_old_checkpoint_as_the_old_version_did(tmp_path):
    shutil.copy(OLD / "gmlp_Ti-2_11.ckpt", tmp_path)
    shutil.copy(OLD / "history.jsonl", tmp_path)
    result = run("gmlp/train.py", "--config_path", OLD / "gmlp.yaml", "--ckpt_save_dir", tmp_path)
    assert result.returncode == 0, result.stderr
    assert "Continuing after epoch 2" in result.stdout
    epochs = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert epochs[:2] == EPOCHS[:2] and len(epochs) == 3
    for name in ("loss", "lr", "grad_norm", "loss_scale", "eval_loss"):
        assert epochs[2][name] == pytest.approx(EPOCHS[2][name], rel=1e-5), name
    assert epochs[2]["top1"] == pytest.approx(EPOCHS[2]["top1"], abs=1.01 / IMAGES)
