"""What a training is: its configuration, its place, its state, its folder, its log, and what a checkpoint holds.

A checkpoint holds, by the names of its tensors:

- as in the network: weights and running statistics;
- ``ema.NAME``: their moving average, with ``ema``;
- ``optimizer.NAME``: what the update rule keeps (``common.optimizer.rules``): moments, the number of updates;
- ``train.NAME``: loss scale and counters of the step (``common.train_step``);
- ``zoo_meta``: JSON text, what ``Run.description`` gives.

- ``ranks.NAME``: inside an epoch, what differs from rank to rank, with one row per rank: the sum of the losses, and
  running statistics, which are averaged at the end of an epoch.

It lacks what follows from the configuration and the counters: learning rates, the states of random cells, and the sums
over micro-batches, which are zero after every optimizer step. ``common.checkpoint`` writes and reads the file,
``common.tasks.resume`` continues from it.
"""
import dataclasses
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Iterable, TypeVar

import mindspore as ms
import numpy as np

from common.checkpoint.run_folder import RunFolder
from common.checkpoint.weights import weights_of
from common.config.options import Config
from common.context.ranks import Runtime
from common.dataset.samples import Samples
from common.errors import UserError
from common.files import make_folder
from common.logger import LogLines, get_logger, set_up
from common.run.history import as_json
from common.spec import ModelSpec
from common.train_step import TrainStep

Result = TypeVar("Result")


@dataclass
class TrainingState:
    """What the callbacks know of the run.

    Attributes:
        epochs: epochs of the whole training.
        steps_per_epoch: optimizer steps.
        global_batch: images per optimizer step, over all ranks.
        lr: learning rate of every optimizer step.
        epoch: the current epoch, from 1.
        start_step: optimizer steps that were done of the first epoch when the process began.
        row: the record of the current epoch, one line of ``history.jsonl``.
        history: the records of the epochs before.
        bests: top-1, as a fraction, and epoch of the best so far, the best first; so many as are kept.
    """

    epochs: int
    steps_per_epoch: int
    global_batch: int
    lr: np.ndarray
    epoch: int = 0
    start_step: int = 0
    row: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    bests: list[tuple[float, int]] = field(default_factory=list)
    fps: list[float] = field(default_factory=list)
    started: float = field(default_factory=time.time)

    @property
    def best(self) -> float:
        """Best top-1 so far, as a fraction; -1 before the first evaluation."""
        return self.bests[0][0] if self.bests else -1.0

    @property
    def best_epoch(self) -> int:
        """Its epoch; 0 before the first evaluation."""
        return self.bests[0][1] if self.bests else 0


@dataclass(frozen=True)
class Run:
    """One training: what everything around its steps needs to know.

    Attributes:
        config: the effective configuration.
        spec: the model's interface.
        runtime: device and rank.
        samples: the training images.
        state: how far it is.
        folder: its checkpoints, and where its other files go.
        log: its log lines.
    """

    config: Config
    spec: ModelSpec
    runtime: Runtime
    samples: Samples
    state: TrainingState
    folder: RunFolder
    log: LogLines

    @property
    def micro_batches(self) -> int:
        """Batches of this rank in an epoch."""
        return self.state.steps_per_epoch * self.config.accumulation_steps

    def file(self, name: str) -> Path:
        """Return the path of a file of the run folder."""
        return self.folder.folder / name

    def description(self, step: int = 0) -> dict[str, Any]:
        """Return what a checkpoint says about itself, as JSON values.

        ``epoch`` counts the epochs that are done, ``step`` the optimizer steps of the next one. ``row`` is the last
        epoch's record, because a run may be killed between its checkpoint and its line of history.

        Args:
            step: optimizer steps that are done of the current epoch, where that is not done.
        """
        state = self.state
        return {"family": self.spec.name, "model": self.config.model, "classes": self.samples.classes,
                "config": plain(self.config), "epoch": state.epoch - bool(step), "step": step,
                "steps_per_epoch": state.steps_per_epoch,
                "world_size": self.runtime.world_size, "best": state.best,
                "best_epoch": state.best_epoch, "bests": state.bests, "row": {} if step else as_json(state.row),
                "mindspore": ms.__version__}


def open_run(config: Config, spec: ModelSpec, runtime: Runtime, samples: Samples, state: TrainingState) -> Run:
    """Make the run's folder, take it for this training, and begin its log.

    Raises:
        UserError: if that is not possible, or another training writes there.
    """
    names = [config.prefix] if config.prefix else [spec.file_name_of(vars(config)), spec.display_name(config.model)]
    folders = [RunFolder(Path(config.ckpt_save_dir), name, config.keep_checkpoint_max, state.steps_per_epoch,
                         config.keep_best_max)
               for name in names]
    folder = next((one for one in folders if one.checkpoints()), folders[0])  # once all sizes had the variant's name

    def begin() -> None:
        make_folder("ckpt_save_dir", folder.folder)
        if runtime.is_main:
            folder.begin()

    together(runtime, begin)
    logger = set_up(folder.folder, runtime.rank, spec.log_style.prefix.format(**vars(config)))
    return Run(config, spec, runtime, samples, state, folder, LogLines(spec.log_style, logger))


def together(runtime: Runtime, action: Callable[[], Result]) -> Result:
    """Do something on every rank, and go on only if all can.

    Raises:
        UserError: that of this rank; or one that points to the rank that has it, so that nobody waits for others.
    """
    result, problem = None, None
    try:
        result = action()
    except UserError as error:
        problem = error
    failed = runtime.sum(np.eye(runtime.world_size)[runtime.rank] * (problem is not None))
    if problem is not None:
        raise problem
    if failed.any():
        raise UserError(f"rank {int(failed.argmax())} cannot go on, and its log says why; rank {runtime.rank} stops.")
    return result


def training_tensors(step: TrainStep) -> dict[str, ms.Parameter]:
    """Return what a checkpoint holds of a training step, by the names there; this module's head says what that is."""
    weights = weights_of(step.network)

    def stored(name: str) -> str:
        return name if name in weights or name.startswith(("train.", "ema.", "optimizer.")) else f"optimizer.{name}"

    return {stored(p.name): p
            for p in step.get_parameters()
            if not p.name.endswith("random_state") and not p.name.startswith(("sum.", "learning_rate"))}


def tensors_of_ranks(step: TrainStep) -> list[ms.Parameter]:
    """Return what differs from rank to rank inside an epoch: the sum of the losses, and running statistics."""
    return [step.loss_sum, *statistics_of(step.get_parameters())]


STATISTICS = ("moving_mean", "moving_variance")


def statistics_of(parameters: Iterable[ms.Parameter]) -> list[ms.Parameter]:
    """Return the running statistics among parameters, also those of a moving average."""
    return [parameter for parameter in parameters if parameter.name.rsplit(".", 1)[-1] in STATISTICS]


def plain(config: Config) -> dict[str, Any]:
    """The configuration as JSON values: tuples become lists."""
    return {f.name: list(v) if isinstance(v := getattr(config, f.name), tuple) else v
            for f in dataclasses.fields(config) if f.name != "given"}


def open_console(config: Config, spec: ModelSpec, runtime: Runtime) -> logging.Logger:
    """Begin the log of a task that keeps no folder: lines go to the console alone."""
    set_up(None, runtime.rank, spec.log_style.prefix.format(**vars(config)))
    return get_logger()
