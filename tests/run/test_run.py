"""What ranks do together: one mistake ends all, and all continue from one checkpoint."""
import logging
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest

from common.checkpoint.run_folder import RunFolder
from common.config.options import Config
from common.context.ranks import Runtime
from common.errors import UserError
from common.logger import LogLines, LogStyle
from common.run.training import Run, TrainingState, together
from common.spec import ModelSpec
from common.tasks.resume import find_checkpoint

RANKS = 2


class Thread(Runtime):
    """A rank that is a thread of this process."""

    meeting: Barrier
    told: list

    def sum(self, counts):
        self.told[self.rank] = np.array(counts, np.float64)
        self.meeting.wait(60)
        total = sum(self.told)
        self.meeting.wait(60)
        return total


@pytest.fixture
def on_ranks():
    """Runs a function on two ranks and returns what each returned or raised."""
    class Here(Thread):
        meeting, told = Barrier(RANKS), [None] * RANKS

    def one(action, rank):
        try:
            return action(Here("CPU", rank, RANKS))
        except UserError as error:
            return str(error)

    def run(action):
        with ThreadPoolExecutor(RANKS) as pool:
            return list(pool.map(lambda rank: one(action, rank), range(RANKS)))
    return run


def test_a_mistake_on_one_rank_ends_all_and_only_that_rank_explains_it(on_ranks):
    def work(runtime):
        if runtime.rank == 1:
            raise UserError("the disk of rank 1 is full.")
        return runtime.rank

    said = on_ranks(lambda runtime: together(runtime, lambda: work(runtime)))
    assert said == ["rank 1 cannot go on, and its log says why; rank 0 stops.", "the disk of rank 1 is full."]
    assert on_ranks(lambda runtime: together(runtime, lambda: runtime.rank)) == [0, 1]


def checkpoint(run: Run):
    found = find_checkpoint(run)
    return found and found.path.name


def run_in(folder, runtime: Runtime) -> Run:
    log = LogLines(LogStyle(), logging.getLogger("test"))
    return Run(Config(), ModelSpec("net", {}, None), runtime, None, TrainingState(4, 5, 8, np.ones(20)),
               RunFolder(folder, "net", steps_per_epoch=5), log)


def test_all_ranks_continue_from_the_same_checkpoint_or_none_does(tmp_path, on_ranks):
    folders = [tmp_path / "0", tmp_path / "1"]
    for folder in folders:
        for epoch, step in ((1, 0), (1, 3)):
            RunFolder(folder, "net").save(epoch + bool(step), step or 5, {"w": np.ones(1, np.float32)},
                                          {"epoch": epoch, "step": step})
    assert on_ranks(lambda runtime: checkpoint(run_in(folders[runtime.rank], runtime))) == ["net-2_3.ckpt"] * 2
    (folders[1] / "net-2_3.ckpt").write_bytes(b"cut")
    said = on_ranks(lambda runtime: checkpoint(run_in(folders[runtime.rank], runtime)))
    assert said[0] == "rank 1 cannot go on, and its log says why; rank 0 stops."
    assert "rank 0 continues from epoch 1, step 3 of the next, but rank 1 from epoch 1 in" in said[1]
    said = on_ranks(lambda runtime: checkpoint(run_in(folders[0] if runtime.is_main else tmp_path / "other", runtime)))
    assert "but rank 1 from the beginning in" in said[1]
