"""Curves for TensorBoard, to be followed while a training goes on (``tensorboard: true``)."""
import time
from importlib.util import find_spec

from mindspore.train import Callback

from common.config.options import Config
from common.errors import UserError, reason
from common.run.training import Run

FOLDER = "tensorboard"
SCALARS = {"loss": "loss/train", "eval_loss": "loss/eval", "top1": "accuracy/top1", "top5": "accuracy/top5", "lr": "lr",
           "grad_norm": "training/grad_norm", "images_per_second": "training/images_per_second",
           "loss_scale": "training/loss_scale", "skipped": "training/skipped"}  # of a record -> as TensorBoard calls it


def check_tensorboard(config: Config) -> None:
    """Check that event files can be written if they are asked for.

    Raises:
        UserError: if not.
    """
    if config.tensorboard and find_spec("tensorboard") is None:
        raise UserError("tensorboard: the package tensorboard, which writes the files and shows them, is not "
                        "installed; run 'pip install -c requirements.txt tensorboard', or leave the key out.")


class EventFiles(Callback):
    """Writes the records of the epochs as an event file, a point per epoch.

    The records of the run are the truth: each process begins a file with those of all epochs before, in the place of
    the files of earlier processes. So an epoch that has to be done again has one point, and a changed one shows.
    """

    def __init__(self, run: Run):
        super().__init__()
        self.run = run
        self.writer = None

    def on_train_epoch_end(self, run_context):
        self.write()

    def write(self) -> None:
        """Write the records that are not in the file yet.

        Raises:
            UserError: if that is not possible.
        """
        from tensorboard.summary import Writer

        folder, history = self.run.file(FOLDER), self.run.state.history
        rows = history[-1:] if self.writer else history
        left = sum(_seconds(row) for row in rows)
        try:
            if self.writer is None:
                for old in folder.glob("events.out.tfevents.*"):
                    old.unlink()
                self.writer = Writer(str(folder))
            for row in rows:
                left -= _seconds(row)
                for key, tag in SCALARS.items():
                    if row.get(key) is not None:
                        self.writer.add_scalar(tag, row[key], row["epoch"], wall_time=time.time() - left)
            self.writer.flush()
        except OSError as error:
            raise UserError(f"ckpt_save_dir: {folder} cannot be written ({reason(error)}).") from error


def _seconds(row: dict) -> float:
    return row["epoch_time"] + row.get("eval_time", 0.0)
