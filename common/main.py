"""What every entry point calls: parse, run the task, turn a user's mistake into one sentence and exit code 2."""
import importlib.util
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any, Callable, Sequence

PACKAGES = ("mindspore", "numpy", "yaml", "PIL", "cv2", "tqdm")
MISSING = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
if MISSING:  # before anything imports them: entry points import this module first
    print(f"error: {sys.executable} lacks {', '.join(MISSING)}; run 'pip install -r requirements.txt' with it, or use "
          "the environment that scripts/quickstart.sh makes (.venv/bin/python).", file=sys.stderr)
    sys.exit(2)

from common.config.load.load import load
from common.cloud.staging.staging import send_unfinished, staged
from common.config.load.options import Config
from common.config.load.rules import TRAINING_TASKS
from common.context.device.device import prepare_environment
from common.errors import UserError, user_sentence
from common.spec import ModelSpec

ROOT = Path(__file__).resolve().parents[1]
Action = Callable[[Config, ModelSpec], Any]


def main(task: str, spec: ModelSpec, argv: Sequence[str] | None = None, action: Action | None = None) -> None:
    """Run a task of a model and exit: 0 when it is done, 2 with one sentence for a mistake of the user.

    Args:
        task: a kind of training, eval, export or infer; or one of the model's own, for which ``action`` is given.
        spec: the model.
        argv: command line without the program; ``None``: that of the process.
        action: what is done instead of the task of this name in ``common.tasks.train``.
    """
    ending = Ending()
    if argv is None:
        ending.begin()
    arguments = list(sys.argv[1:] if argv is None else argv)
    prepare_environment(spec)
    try:
        config = read_config(task, spec, arguments)
        with staged(config, os.environ, lambda path: read_config(task, spec, arguments, path)) as config:
            ending.rescue = lambda: send_unfinished(config, os.environ)
            (action or run)(config, spec.for_task(config.task))
    except Exception as error:
        sentence = user_sentence(error)
        if sentence is None:
            raise
        print(f"error: {sentence}", file=sys.stderr)
        sys.exit(2)


class Ending:
    """Ends the process at once when Ctrl-C is pressed (exit code 130) or a platform ends the job (SIGTERM, 143).

    MindSpore handles Ctrl-C itself once it computes, and may then wait for ever for its own data workers. So the
    signals are blocked in every thread but one, which waits for them. Threads that libraries have begun before cannot
    be reached; a signal that one of them gets is passed on through a pipe. Nothing is lost: checkpoints are whole or
    absent.

    Attributes:
        rescue: is done before the end; a second signal does not wait for it.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self):
        self.rescue: Callable[[], None] = lambda: None

    def begin(self) -> None:
        """Wait for the signals from now on."""
        received, passed_on = os.pipe()
        os.set_blocking(passed_on, False)
        signal.set_wakeup_fd(passed_on)
        signal.signal(signal.SIGTERM, lambda number, frame: None)
        signal.pthread_sigmask(signal.SIG_BLOCK, self.SIGNALS)
        os.register_at_fork(after_in_child=_be_ended_by_sigterm)
        for wait in (lambda: signal.sigwait(self.SIGNALS), lambda: self._passed_on(received)):
            threading.Thread(target=lambda wait=wait: self._end(wait()), daemon=True).start()

    def _passed_on(self, received: int) -> int:
        while (number := os.read(received, 1)[0]) not in self.SIGNALS:
            pass
        return number

    def _end(self, number: int) -> None:
        sys.stderr.write("\nStopped; a training goes on from its last checkpoint when it is started again.\n")
        sys.stderr.flush()
        rescue = threading.Thread(target=self.rescue, daemon=True)
        rescue.start()
        while rescue.is_alive() and signal.sigtimedwait(self.SIGNALS, 0.1) is None:
            pass
        os._exit(128 + number)


def _be_ended_by_sigterm() -> None:
    """Undo in a forked process what ``Ending`` has set up: the framework ends its data workers with SIGTERM."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def read_config(task: str, spec: ModelSpec, arguments: Sequence[str], fetched: str = "") -> Config:
    """Read flags and YAML.

    Without ``--config_path``, a checkpoint that this zoo trained brings the configuration that it was trained with, so
    that evaluation, export and prediction need nothing but ``--ckpt_path``. Of another one, the model may know the
    variant by its tensors.

    Raises:
        UserError: for an unknown key, a wrong value, or a missing file.
    """
    def trained_with(path: str) -> dict | None:
        from common.checkpoint.file.file import load as load_of_file
        from common.tasks.convert import describe

        tensors, meta = load_of_file(path)
        if "config" in meta or spec.architecture is None or not spec.architecture(tensors):
            return meta.get("config")
        variant, settings = describe(spec, tensors, spec.architecture)
        return {"model": variant, **settings}

    return load(arguments, task=task, spec=spec, model_dir=ROOT / spec.name,
                              trained_with=None if task in TRAINING_TASKS else trained_with, fetched=fetched)


def run(config: Config, spec: ModelSpec) -> None:
    """Run the task that ``config.task`` names. MindSpore is imported here and not before."""
    from common.tasks.train import evaluate, export, predict, train

    tasks = ({"eval": evaluate, "export": export, "infer": predict}
             | {task: train for task in spec.tasks})
    if config.task not in tasks:
        raise UserError(f"task: {config.task} is not offered for {spec.name}; allowed are {', '.join(tasks)}.")
    tasks[config.task](config, spec)
