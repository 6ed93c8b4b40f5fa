"""A long training: memory, open files and threads stay as they are."""
import ctypes
import gc
import os
import threading

import psutil
import pytest
from test_torture import SMALL

from common.callback.epoch import EpochRecord
from common.config.load import from_mapping
from common.tasks.train import train
from gmlp.src.spec import SPEC

MEGABYTE = 2**20


@pytest.mark.torture
def test_2000_steps_and_20_evaluations_leave_memory_and_handles_as_they_are(tmp_path, monkeypatch, counts):
    seen, process = [], psutil.Process()
    known = EpochRecord.on_train_epoch_end
    trim = getattr(ctypes.CDLL(None), "malloc_trim", gc.collect)  # what tests before this one have freed is no growth

    def look(self, run_context):
        gc.collect()
        trim(0)
        seen.append((process.memory_info().rss, len(os.listdir("/proc/self/fd")), threading.active_count()))
        return known(self, run_context)

    monkeypatch.setattr(EpochRecord, "on_train_epoch_end", look)
    keys = SMALL | {"batch_size": 70, "accumulation_steps": 1, "epochs": 100, "eval_interval": 5, "lr": 0.001,
                    "save_checkpoint_steps": 0, "save_checkpoint_epochs": 5, "ckpt_save_dir": str(tmp_path / "run")}
    state = train(from_mapping(keys, "test", SPEC), SPEC)
    evaluations = sum("top1" in row for row in state.history)
    early, late = ([sum(column) / 20 for column in zip(*rows)] for rows in (seen[20:40], seen[80:]))
    counts(f"endurance: {state.steps_per_epoch * state.epochs} steps, {evaluations} evaluations; memory "
           f"{early[0] / MEGABYTE:.1f} MB in epochs 21 to 40, {late[0] / MEGABYTE:.1f} MB in the last 20; open "
           f"files {early[1]:.1f} and {late[1]:.1f}, threads {early[2]:.1f} and {late[2]:.1f}")
    assert state.steps_per_epoch * state.epochs == 2000 and evaluations >= 20
    assert late[0] - early[0] < 10 * MEGABYTE
    assert late[1] <= early[1] + 1 and late[2] <= early[2] + 1
