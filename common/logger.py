"""Logging of a run: people read rank 0 on the console, and every rank keeps a file. Imports no MindSpore."""
import logging
import sys
from pathlib import Path

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
            handlers.append(logging.FileHandler(file, mode="a", encoding="utf-8"))
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
