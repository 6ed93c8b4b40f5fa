"""A training that was killed and started again ends as one that was never stopped, bit for bit."""
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from common.checkpoint.file import load_checkpoint
from entry import ROOT, environment, run, sentence, write_yaml

# Everything that is random, and everything that has a state.
FULL = {"epochs": 3, "drop_path_rate": 0.3, "mixup": 0.8, "cutmix": 1.0, "label_smoothing": 0.1, "ema": True,
        "ema_decay": 0.9, "auto_augment": "rand-m5-mstd0.5", "re_prob": 0.3, "clip_grad": True, "accumulation_steps": 2,
        "batch_size": 170, "dynamic_loss_scale": True, "loss_scale": 1024, "loss_scale_window": 5}


def tensors_of(path):
    return load_checkpoint(path)[0]


def history(folder):
    keep = ("epoch", "loss", "lr", "top1", "top5", "eval_loss", "grad_norm", "loss_scale")
    return [{k: row[k] for k in keep} for row in map(json.loads, (folder / "history.jsonl").read_text().splitlines())]


def kill_after(config, folder, epoch):
    """Start a training and kill it (SIGKILL: no clean-up) as soon as the epoch's checkpoint is there."""
    process = subprocess.Popen([sys.executable, "gmlp/train.py", "--config_path", config, "--ckpt_save_dir", folder],
                               cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(2400):
        if list(folder.glob(f"gmlp_dim16_depth2-{epoch}_*.ckpt")):
            break
        assert process.poll() is None, "the training ended before it could be killed"
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize("fused", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_killed_training_continues_as_if_it_had_never_stopped(tmp_path, fused):
    how = {"graph_kernel": True, "compile_cache": tmp_path / "graphs"} if fused else {"mode": "pynative"}
    config = write_yaml(tmp_path / "run.yaml", **(FULL | how))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run("gmlp/train.py", "--config_path", config, "--ckpt_save_dir", whole).returncode == 0
    kill_after(config, parts, epoch=1)
    resumed = run("gmlp/train.py", "--config_path", config, "--ckpt_save_dir", parts)
    assert resumed.returncode == 0, resumed.stderr
    assert "Continuing after epoch" in resumed.stdout + resumed.stderr
    assert history(parts) == history(whole)
    assert [row["epoch"] for row in history(parts)] == [1, 2, 3]
    last = next(whole.glob("gmlp_dim16_depth2-3_*.ckpt")).name
    expected, found = tensors_of(whole / last), tensors_of(parts / last)
    assert expected.keys() == found.keys() and any(name.startswith("ema.") for name in found)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A short training that is complete."""
    folder = tmp_path_factory.mktemp("finished")
    config = write_yaml(folder / "run.yaml", epochs=1, batch_size=130, mode="pynative")
    result = run("gmlp/train.py", "--config_path", config, "--ckpt_save_dir", folder / "run")
    assert result.returncode == 0, result.stderr
    return config, folder / "run"


def test_a_complete_training_is_left_as_it_is(finished):
    config, folder = finished
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.ckpt")}
    result = run("gmlp/train.py", "--config_path", config, "--ckpt_save_dir", folder)
    assert result.returncode == 0 and "is complete (1 of 1 epochs)" in result.stdout + result.stderr
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("*.ckpt")} == before
    assert len(history(folder)) == 1


@pytest.mark.parametrize("change, words", [
    (("--batch_size", "32"),
     "batch_size was 130 and is now 32, so that a step takes 32 images instead of 130; --batch_size 130 continues it"),
    (("--opt", "lion"), "opt was adamw and is now lion"), (("--model", "gmlp_S"), "asks for gmlp_s; give --model gmlp_ti")])
def test_a_run_that_cannot_be_continued_says_what_changed(finished, change, words):
    config, folder = finished
    before = {path.name: path.read_bytes() for path in folder.glob("*.ckpt")}
    result = run("gmlp/train.py", "--config_path", config, "--ckpt_save_dir", folder, "--epochs", "2", *change)
    assert words in sentence(result)
    assert {path.name: path.read_bytes() for path in folder.glob("*.ckpt")} == before


def test_weights_alone_start_a_new_training(finished, tmp_path):
    config, folder = finished
    result = run("gmlp/train.py", "--config_path", config, "--ckpt_save_dir", tmp_path / "new", "--ckpt_path",
                 folder / "gmlp_dim16_depth2_best.ckpt")
    assert result.returncode == 0, result.stderr
    assert "Starting from the weights of" in result.stdout + result.stderr
    assert history(tmp_path / "new")[0]["loss"] < history(folder)[0]["loss"]


def test_resume_in_another_folder_takes_the_whole_state(finished, tmp_path):
    config, folder = finished
    source = next(folder.glob("gmlp_dim16_depth2-1_*.ckpt"))
    result = run("gmlp/train.py", "--config_path", config, "--ckpt_save_dir", tmp_path / "new", "--resume", source,
                 "--epochs", "2")
    assert result.returncode == 0, result.stderr
    said = result.stdout + result.stderr
    assert "Changed since the run was begun: epochs 1 -> 2" in said
    assert "gmlp_dim16_depth2_best.ckpt was missing; it is made again from " in said
    assert [row["epoch"] for row in history(tmp_path / "new")] == [2]


def test_the_run_folder_holds_what_a_reader_looks_for(finished):
    _, folder = finished
    names = {path.name for path in folder.iterdir()}
    assert {"config.yaml", "classes.json", "history.jsonl", "curves.png", "log_rank_0.txt",
            "gmlp_dim16_depth2_best.ckpt", "gmlp_dim16_depth2-1_11.ckpt"} <= names
    assert not [name for name in names if "unfinished" in name]
