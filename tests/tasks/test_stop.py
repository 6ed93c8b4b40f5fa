"""A signal saves within a step and ends the process; started again, the training goes on inside the epoch."""
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from entry import ROOT, environment, run, write_yaml

from common.checkpoint.file import load_checkpoint

WAITS = """
import sys, threading, time
from common.command import ENDING

threading.Thread(target=time.sleep, args=(99,), daemon=True).start()  # as libraries do; it may get the signal
ENDING.begin()
ENDING.saves = sys.argv[1] == "saves"
print("waits", flush=True)
while not ENDING.asked:
    time.sleep(0.01)
print("asked", flush=True)
time.sleep(60)
"""


@pytest.fixture
def waiting(tmp_path):
    """Starts a program that waits for a signal; with ``saves`` it would save for a minute."""
    file, processes = tmp_path / "waits.py", []
    file.write_text(WAITS)

    def start(how: str) -> subprocess.Popen:
        process = subprocess.Popen([sys.executable, file, how], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                   env=environment(PYTHONPATH=str(ROOT)))
        processes.append(process)
        assert process.stdout.readline() == "waits\n"
        return process

    yield start
    for process in processes:
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_where_there_is_nothing_to_save_a_signal_ends_at_once(waiting, number):
    process = waiting("ends")
    process.send_signal(number)
    assert process.wait(timeout=30) == 128 + number
    assert process.stderr.read() == "\nStopped.\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_lets_a_training_save_and_the_second_ends_it(waiting, number):
    process = waiting("saves")
    process.send_signal(number)
    assert process.stdout.readline() == "asked\n"
    process.send_signal(number)  # the same request: from a terminal and from a launcher
    time.sleep(0.6)
    assert process.poll() is None
    process.send_signal(number)
    assert process.wait(timeout=30) == 128 + number
    assert "a second signal stops at once" in process.stderr.read()


@pytest.mark.parametrize("module", ["common.main", "common.tasks.convert"])
def test_threads_that_libraries_begin_during_the_imports_leave_signals_to_us(module):
    # one that takes Ctrl-C runs MindSpore's handler, which makes a SIGTERM of it: code 143 instead of 130
    program = f"""
import os, sys
import {module}
from pathlib import Path
print(*(path.read_text().split("SigBlk:")[1].split()[0] for path in Path("/proc/self/task").glob(
    "*/status") if path.parent.name != str(os.getpid())))
"""
    shown = run("-c", program, cwd=ROOT, OPENBLAS_NUM_THREADS="2")
    wanted = sum(1 << number - 1 for number in (signal.SIGINT, signal.SIGTERM))
    masks = [int(mask, 16) & wanted for mask in shown.stdout.split()]
    alone = len(os.sched_getaffinity(0)) == 1  # on one core the library begins none
    assert (masks or alone) and set(masks) <= {wanted}, shown


def test_a_job_that_is_ended_with_its_workers_saves_within_a_step_and_goes_on_there(tmp_path):
    """The signal goes to all processes of the job, also to those that read images."""
    write = run("-m", "common.dataset.digits", "write", tmp_path)
    assert write.returncode == 0, write.stderr
    config = write_yaml(tmp_path / "run.yaml", dataset="imagenet", data_dir=tmp_path / "images", num_workers=2, epochs=2,
                        batch_size=96, depth=1, log_interval=1, eval_batch_size=180, normalize_on="device", mixup=0.8,
                        auto_augment="rand-m5-mstd0.5", mode="pynative")
    folder = tmp_path / "run"
    process = subprocess.Popen([sys.executable, "gmlp/train.py", "--config_path", config, "--ckpt_save_dir", folder],
                               cwd=ROOT, env=environment(), start_new_session=True, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True)
    for line in process.stdout:
        if "batch 3/14" in line:
            break
    os.killpg(process.pid, signal.SIGTERM)
    said = process.communicate(timeout=600)[0]
    assert process.returncode == 128 + signal.SIGTERM, said
    saved, = folder.glob("gmlp_dim16_depth1-1_*.ckpt")
    step = int(saved.stem.rpartition("_")[2])
    assert 3 <= step < 14 and f"in epoch 1 after step {step} of 14" in said
    resumed = run("gmlp/train.py", "--config_path", config, "--ckpt_save_dir", folder)
    assert resumed.returncode == 0, resumed.stderr
    assert f"Continuing after epoch 0 and {step} steps of the next" in resumed.stdout
    whole = run("gmlp/train.py", "--config_path", config, "--ckpt_save_dir", tmp_path / "whole", "--num_workers", "1")
    assert whole.returncode == 0, whole.stderr
    assert [path.name for path in sorted(folder.glob("*.ckpt"))] == [
        "gmlp_dim16_depth1-1_14.ckpt", "gmlp_dim16_depth1-2_14.ckpt", "gmlp_dim16_depth1_best.ckpt"]
    found, expected = (load_checkpoint(one / "gmlp_dim16_depth1-2_14.ckpt")[0] for one in (folder, tmp_path / "whole"))
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    found, expected = ([(row["epoch"], row["loss"], row["eval_loss"]) for row in map(
        json.loads, (one / "history.jsonl").read_text().splitlines())] for one in (folder, tmp_path / "whole"))
    assert found == expected
