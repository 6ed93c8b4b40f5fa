"""What a run is: its state, its folder, its history, and the tensors that continue it."""
import dataclasses
import json
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np

from common.checkpoint.run_folder import RunFolder
from common.checkpoint.weights import weights_of
from common.config.options import Config
from common.context.ranks import Runtime
from common.errors import UserError
from common.logger import get_logger, set_up
from common.spec import ModelSpec
from common.train_step import TrainStep

log = logging.getLogger(__name__)


@dataclass
class TrainingState:
    """What the callbacks know of the run.

    Attributes:
        epochs: epochs of the whole training.
        steps_per_epoch: optimizer steps.
        global_batch: images per optimizer step, over all ranks.
        lr: learning rate of every optimizer step.
        epoch: the current epoch, from 1.
        row: the record of the current epoch, one line of ``history.jsonl``.
        best: best top-1 so far, as a fraction; -1 before the first evaluation.
    """

    epochs: int
    steps_per_epoch: int
    global_batch: int
    lr: np.ndarray
    epoch: int = 0
    row: dict[str, Any] = field(default_factory=dict)
    best: float = -1.0
    best_epoch: int = 0
    fps: list[float] = field(default_factory=list)
    started: float = field(default_factory=time.time)
    last_saved: Path | None = None


def keep_history(file: Path, epochs: int) -> list[dict]:
    """Cut ``history.jsonl`` back to the first ``epochs`` epochs, where a resumed run continues, and return them."""
    rows = [row for row in read_history(file) if row["epoch"] <= epochs] if file.is_file() else []
    unfinished = file.with_suffix(".unfinished")
    unfinished.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    unfinished.replace(file)
    return rows


HISTORY = "history.jsonl"


def read_history(path: str | Path) -> list[dict[str, Any]]:
    """Read ``history.jsonl``, one JSON object per line.

    A process that is killed while it writes leaves half a line, and one that resumes may continue that very line:
    what cannot be read is left out with a warning.

    Raises:
        UserError: if there is no such file.
    """
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"history '{path}' cannot be read ({error.strerror}); "
                        "it is the file history.jsonl in the folder of a run.") from None
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            row = None
        if isinstance(row, dict) and "epoch" in row:
            rows.append(row)
        else:
            log.warning("%s: line %d is not a whole record and is left out", path, number)
    return rows


def training_tensors(step: TrainStep) -> dict[str, ms.Parameter]:
    """Everything that a continued run needs: weights, optimizer, moving average, counters, loss scale.

    Left out: what follows from the configuration or the counters (learning rates, random states), and the sums over
    micro-batches, which are zero at the end of an epoch.
    """
    weights = weights_of(step.network)

    def stored(name: str) -> str:
        return name if name in weights or name.startswith(("train.", "ema.", "optimizer.")) else f"optimizer.{name}"

    return {stored(p.name): p
            for p in step.get_parameters()
            if not p.name.endswith("random_state") and not p.name.startswith(("sum.", "learning_rate"))}


def plain(config: Config) -> dict[str, Any]:
    """The configuration as JSON values: tuples become lists."""
    return {f.name: list(v) if isinstance(v := getattr(config, f.name), tuple) else v
            for f in dataclasses.fields(config) if f.name != "given"}


def open_run(config: Config, spec: ModelSpec, runtime: Runtime) -> tuple[logging.Logger, RunFolder]:
    """Make the run's folder and begin its log."""
    run_dir = Path(config.ckpt_save_dir)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"ckpt_save_dir: {run_dir} cannot be made a folder: {error.strerror}.") from error
    set_up(run_dir, runtime.rank, spec.log_style.prefix)
    name = config.prefix or spec.display_name(config.model)
    return get_logger(), RunFolder(run_dir, name, config.keep_checkpoint_max)


def open_console(spec: ModelSpec, runtime: Runtime) -> logging.Logger:
    """Begin the log of a task that keeps no folder: lines go to the console alone."""
    set_up(None, runtime.rank, spec.log_style.prefix)
    return get_logger()
