"""Saving inside an epoch, and the end of a training that a signal has asked for, after the same step on all ranks."""
import time
from pathlib import Path
from typing import Any, Iterable

import mindspore as ms
import numpy as np
from mindspore import Parameter
from mindspore.train import Callback

from common.command import ENDING
from common.context.ranks import Runtime
from common.run.training import Run, tensors_of_ranks, together, training_tensors
from common.train_step import TrainStep


class Interrupted(Exception):
    """An evaluation ends because a signal has asked for the end of the training."""


class StopWhenAsked(Callback):
    """Saves inside an epoch: every ``save_checkpoint_steps`` steps, and when a signal asks for the end, on all ranks.

    Ranks have to stop after the same step. They ask each other about once a second: every step would cost time.
    """

    SECONDS = 1.0  # between two questions

    def __init__(self, run: Run, step: TrainStep):
        super().__init__()
        self.run = run
        self.step = step
        self.batches = run.state.start_step * run.config.accumulation_steps  # of the epoch, that are done
        self.asked = 0  # the signal, once all ranks know of it
        self.calls, self.pause, self.last = 0, 1, time.monotonic()
        ENDING.remains = self.remains

    def remains(self) -> str:
        """Say from where the training can go on, or how much of it is lost."""
        saved = self.run.folder.checkpoints()
        return (f"; the training goes on from {saved[-1].name} when it is started again" if saved else
                f"; no checkpoint was saved yet, so that {time.time() - self.run.state.started:.0f} s of training are "
                "lost")

    def on_train_step_end(self, run_context):
        run, step = self.run, self.step
        ENDING.saves = True  # from now on there is something to save
        if sinks(run_context):
            self.batches = int(step.micro_steps.asnumpy()) - (run.state.epoch - 1) * run.micro_batches
        else:
            self.batches += 1
        asked = self.signal()
        done, rest = divmod(self.batches, run.config.accumulation_steps)
        interval = run.config.save_checkpoint_steps
        if rest == 0 and asked:
            self.save_and_leave(done)
        elif rest == 0 and interval and done % interval == 0 and done < run.state.steps_per_epoch:
            self.save(done)

    def on_train_epoch_end(self, run_context):
        self.batches = 0

    def signal(self) -> int:
        """Return the signal that has asked for the end, the same on all ranks; 0: none."""
        runtime = self.run.runtime
        if runtime.world_size == 1:
            return ENDING.asked
        self.calls += 1
        if not self.asked and self.calls >= self.pause:
            now = time.monotonic()
            pause = max(1, int(self.SECONDS * self.calls / max(now - self.last, 1e-6)))
            mine = np.eye(runtime.world_size)[runtime.rank]
            told = runtime.sum(np.stack([mine * ENDING.asked, mine * pause]))
            self.asked, self.pause = int(told[0].max()), int(told[1, 0])
            self.calls, self.last = 0, time.monotonic()
        return self.asked

    def interrupt(self) -> None:
        """Raise ``Interrupted`` if a signal has asked for the end."""
        if self.signal():
            raise Interrupted

    def save(self, done: int) -> Path | None:
        """Save after ``done`` optimizer steps of the epoch; every rank has to call this."""
        run, path = self.run, None
        tensors = training_tensors(self.step)
        if run.runtime.world_size > 1:
            tensors = tensors | gather_ranks(tensors_of_ranks(self.step), run.runtime)
        if run.runtime.is_main and run.config.save_checkpoint:
            path = run.folder.save(run.state.epoch, done, tensors, run.description(done))
            run.log.emit("saved", path=path)
        return path

    def save_and_leave(self, done: int) -> None:
        """Save and say so, wait until that is done on all ranks, and end the process.

        A launcher ends the other ranks when the first one has left, so nothing is said after the waiting.
        """
        def save_and_say() -> None:
            path, state = self.save(done), self.run.state
            if self.run.runtime.is_main:
                self.run.log.logger.info(f"Stopped by a signal in epoch {state.epoch} after step {done} of "
                                         f"{state.steps_per_epoch}" + (f"; saved {path}" if path else ""))

        together(self.run.runtime, save_and_say)
        ENDING.leave(self.signal())


def gather_ranks(parameters: Iterable[Parameter], runtime: Runtime) -> dict[str, np.ndarray]:
    """Return ``ranks.NAME`` -> the values of all ranks, (world_size, ...), of parameters that differ between them."""
    found = {}
    for parameter in parameters:
        rows = np.zeros((runtime.world_size, *parameter.shape))
        rows[runtime.rank] = parameter.asnumpy()
        found[f"ranks.{parameter.name}"] = runtime.sum(rows).astype(np.float32)
    return found


def sinks(run_context: Any) -> bool:
    """Whether the framework calls once for all batches of an epoch; in PyNative mode it calls for each also then."""
    arguments = run_context.original_args()
    return (arguments.dataset_sink_mode and arguments.device_target != "CPU"
            and ms.get_context("mode") == ms.GRAPH_MODE)
