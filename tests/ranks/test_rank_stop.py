"""Two real ranks of which one gets a signal: both save and stop after the same step, and go on there bit for bit."""
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from entry import ROOT
from rank_jobs import launcher, logs, process_of, stop, with_own_python

from common.checkpoint.file import load_checkpoint
from common.run.facts import read_facts

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

# Running statistics, which differ from rank to rank inside an epoch, a moving average of them, and accumulation. Op by op:
# six processes would compile for longer than they train.
KEYS = {"model": "convmlp_s", "dataset": "digits", "num_classes": 10, "image_size": 32, "channels": 8,
        "n_conv_blocks": 1, "dims": [8, 16], "depths": [1, 1], "mlp_ratio": 2, "batch_size": 16, "mode": "pynative", "accumulation_steps": 2,
        "epochs": 1, "lr": 0.01, "warmup_epochs": 0, "device_target": "CPU", "num_workers": 1, "ema": True,
        "ema_decay": 0.9, "distribute": True, "log_interval": 1, "mixup": 0.5, "drop_path_rate": 0.1}


def begin(folder: Path, config: Path, name: str) -> subprocess.Popen:
    with open(folder / f"{name}.out", "wb") as out:
        return subprocess.Popen([*launcher(2, folder / f"logs_{name}"), ROOT / "convmlp" / "train.py", "--config_path",
                                 config, "--ckpt_save_dir", folder / name.split("_")[0]], cwd=folder, stdout=out,
                                env=with_own_python(), stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT)


def wait_for(text: str, file: Path, process: subprocess.Popen, folder: Path) -> None:
    end = time.monotonic() + 300
    while not file.is_file() or text not in file.read_text(errors="replace"):
        assert process.poll() is None and time.monotonic() < end, logs(folder)
        time.sleep(0.05)


@pytest.mark.long
def test_a_signal_to_one_rank_stops_both_after_the_same_step_and_the_job_goes_on_there(tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text("".join(f"{key}: {value}\n" for key, value in KEYS.items()))
    jobs = [begin(tmp_path, config, "whole"), begin(tmp_path, config, "parts")]
    try:
        log = tmp_path / "parts" / "log_rank_0.txt"
        wait_for("batch 5/", log, jobs[1], tmp_path)
        os.kill(process_of(tmp_path / "parts", 1), signal.SIGTERM)
        assert jobs[1].wait(timeout=600) != 0
        assert jobs[0].wait(timeout=600) == 0, logs(tmp_path)
        saved, = (tmp_path / "parts").glob("*-1_*.ckpt")
        step = int(re.search(r"-1_(\d+)$", saved.stem)[1])
        assert 2 < step < 22 and f"in epoch 1 after step {step} of 22; saved" in log.read_text()
        assert load_checkpoint(saved)[0]["ranks.train.loss_sum"].shape == (2,)
        jobs.append(begin(tmp_path, config, "parts_again"))
        assert jobs[2].wait(timeout=600) == 0, logs(tmp_path)
        for rank in range(2):
            said = (tmp_path / "parts" / f"log_rank_{rank}.txt").read_text()
            assert f"Continuing after epoch 0 and {step} steps of the next" in said
        assert [(one["ranks"], one["steps_done"]) for one in read_facts(tmp_path / "parts")["starts"]] == [(2, 0), (2, step)]
    finally:
        for job in jobs:
            stop(job)
    names = [sorted(path.name for path in (tmp_path / run).glob("*.ckpt")) for run in ("whole", "parts")]
    assert names[0] == names[1]
    for name in names[0]:
        (expected, meta), (found, other) = (load_checkpoint(tmp_path / run / name) for run in ("whole", "parts"))
        assert expected.keys() == found.keys() and meta["row"]["loss"] == other["row"]["loss"]
        for tensor in expected:
            np.testing.assert_array_equal(found[tensor], expected[tensor], err_msg=tensor)
