"""Logging of a run: people read rank 0 on the console, and every rank keeps a file. Imports no MindSpore."""
import logging
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from tqdm import tqdm

from common.errors import UserError

_CONFIGURED = ("zoo", "common")  # get_logger's own name, and that of modules which use their own name


class _Console(logging.Handler):
    """Writes to the standard output without tearing a progress bar apart."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            tqdm.write(self.format(record), file=sys.stdout)
            sys.stdout.flush()
        except (OSError, ValueError):  # a closed or broken output must not end a training
            self.handleError(record)


class _File(logging.FileHandler):
    """Writes to a file; when that is not possible, as on a full disk, it says so once and the training goes on."""

    said = False

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self.said:
            self.said = True
            print(f"warning: the log {self.baseFilename} cannot be written: {error.strerror}.", file=sys.stderr)


def get_logger(name: str = "zoo") -> logging.Logger:
    """Return the logger of the run; silent up to warnings until ``set_up`` was called."""
    return logging.getLogger(name)


def set_up(run_dir: str | Path | None, rank: int = 0, prefix: str = "%(asctime)s:%(levelname)s:%(message)s",
           date_format: str = "%Y-%m-%d %H:%M:%S") -> logging.Logger:
    """Send log lines of level INFO and above to the console (rank 0 only) and to ``run_dir/log_rank_<rank>.txt``.

    A later call replaces what an earlier one set up. The file is continued when it is there already, so that a resumed
    run has one log.

    Args:
        run_dir: folder of the run, made if it is missing; ``None``: no file.
        rank: number of this process among those of the run.
        prefix: format of a line, as the standard library's ``logging.Formatter`` takes it.
        date_format: format of ``%(asctime)s``, as ``time.strftime`` takes it.

    Raises:
        UserError: if the file cannot be opened.
    """
    handlers: list[logging.Handler] = [_Console()] if rank == 0 else []
    if run_dir is not None:
        file = Path(run_dir) / f"log_rank_{rank}.txt"
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            handlers.append(_File(file, mode="a", encoding="utf-8"))
        except OSError as error:
            raise UserError(f"ckpt_save_dir: the log {file} cannot be written: {error.strerror}.") from error
    for handler in handlers:
        handler.setFormatter(logging.Formatter(prefix, date_format))
    for name in _CONFIGURED:
        logger = logging.getLogger(name)
        for old in logger.handlers[:]:
            logger.removeHandler(old)
            old.close()
        for handler in handlers or [logging.NullHandler()]:
            logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    return get_logger()


class Waiting:
    """Says what is going on while nothing moves: after five seconds, then every half minute, and when it is over.

    Begins and ends like a context, or with ``begin`` and ``end``, which may be called again.

    Args:
        what: what is going on, or a function that says how far it is.
    """

    FIRST, PAUSE = 5.0, 30.0  # seconds

    def __init__(self, what: str | Callable[[], str]):
        self.what = what if callable(what) else lambda: what
        self.over, self.said = threading.Event(), False

    def begin(self) -> None:
        self.started, self.said = time.monotonic(), False
        self.over = threading.Event()
        threading.Thread(target=self._tell, args=(self.over,), daemon=True).start()

    def end(self) -> None:
        if self.said and not self.over.is_set():
            self._say("; done after")
        self.over.set()

    def _tell(self, over: threading.Event) -> None:
        pause = self.FIRST
        while not over.wait(pause) and threading.main_thread().is_alive():
            self.said, pause = True, self.PAUSE
            self._say(",")

    def _say(self, joint: str) -> None:
        get_logger().info("%s%s %.0f s", self.what(), joint, time.monotonic() - self.started)

    def __enter__(self) -> "Waiting":
        self.begin()
        return self

    def __exit__(self, *_: Any) -> None:
        self.end()


@dataclass(frozen=True)
class LogStyle:
    """The log lines of one family of models, as templates for ``str.format``; an empty template prints nothing.

    Every line of a template is logged by itself. The values that each template may use:

    Attributes:
        prefix: ``logging`` format of a line, in which ``{KEY}`` stands for a key of the configuration.
        train_epoch: an epoch's training is done: epoch (from 1), epoch0 (from 0), epochs, steps, loss (mean of the
            epoch), lr (of its last step), epoch_time and step_time in seconds, fps (images per second).
        evaluated: an evaluation is done: top1 and top5 as fractions, eval_loss, eval_time in seconds, epoch, epochs.
        saved: a checkpoint was written: path.
        epoch_total: an epoch is done altogether: what train_epoch has, train_time, eval_time, total_time and eta in
            seconds, and evaluated_part.
        evaluated_part: what ``{evaluated_part}`` becomes in an epoch with an evaluation; otherwise nothing.
        finished: training is done: train_time in seconds, mean_fps, host.
        best: training is done and there was an evaluation: best (fraction), best_epoch. It follows ``finished``.
        closing: the very last line: what finished has.
        evaluation: eval.py's result: top1, top5, loss, seen, step_time and total_time in seconds.
    """

    prefix: str = "%(asctime)s:%(levelname)s:%(message)s"
    train_epoch: str = ""
    evaluated: str = ""
    saved: str = ""
    epoch_total: str = ""
    evaluated_part: str = ""
    finished: str = ""
    best: str = ""
    closing: str = ""
    evaluation: str = "accuracy={top1:.6f}"


# what users of the old model zoo know: SOFT and HLG
OLD_ZOO_STYLE = LogStyle(
    train_epoch="epoch[{epoch0}], step_num[{epoch0}], loss={loss:.6f}",
    epoch_total="epoch[{epoch0}], epoch time: {epoch_time:.2f}s, per step time: {step_time:.4f}s, loss={loss:.6f}, "
                "lr={lr:.6f}, fps={fps:.2f}{evaluated_part}",
    evaluated_part=", accuracy={top1:.6f}, eval_cost={eval_time:.2f}",
    finished="training time used={train_time:.2f}s",
    best="last_metric[{best:.5g}]",
    closing="ip[{host}], mean_fps[{mean_fps:.2f}]",
    evaluation="accuracy={top1:.6f}, per step time: {step_time:.4f}s, total cost time: {total_time:.4f}s",
)


class LogLines:
    """Fills the family's templates and logs the lines."""

    def __init__(self, style: LogStyle, logger: logging.Logger):
        self.style = style
        self.logger = logger

    def emit(self, template: str, **values: Any) -> None:
        """Log the lines of the template of this name, if the family has it."""
        for line in getattr(self.style, template).format(**values).splitlines():
            self.logger.info(line)
