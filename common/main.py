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

from common import config as config_module
from common.cloud import staged
from common.config import Config
from common.config_rules import TRAINING_TASKS
from common.context import prepare_environment
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
        action: what is done instead of the task of this name in ``common.runner``.
    """
    if argv is None:
        stop_on_interrupt()
    arguments = list(sys.argv[1:] if argv is None else argv)
    prepare_environment(spec)
    try:
        config = read_config(task, spec, arguments)
        with staged(config, os.environ) as config:
            (action or run)(config, spec.for_task(config.task))
    except Exception as error:
        sentence = user_sentence(error)
        if sentence is None:
            raise
        print(f"error: {sentence}", file=sys.stderr)
        sys.exit(2)


def stop_on_interrupt() -> None:
    """End the process at once, with exit code 130, when Ctrl-C is pressed.

    MindSpore handles the signal itself once it computes, and may then wait for ever for its own data workers. So the
    signal is blocked in every thread but one, which waits for it. Nothing is lost: checkpoints are whole or absent.
    """
    def wait() -> None:
        signal.sigwait({signal.SIGINT})
        sys.stderr.write("\nStopped; a training goes on from its last checkpoint when it is started again.\n")
        sys.stderr.flush()
        os._exit(130)

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    threading.Thread(target=wait, daemon=True).start()


def read_config(task: str, spec: ModelSpec, arguments: Sequence[str]) -> Config:
    """Read flags and YAML.

    Without ``--config_path``, a checkpoint that this zoo trained brings the configuration that it was trained with, so
    that evaluation, export and prediction need nothing but ``--ckpt_path``. Of another one, the model may know the
    variant by its tensors.

    Raises:
        UserError: for an unknown key, a wrong value, or a missing file.
    """
    def trained_with(path: str) -> dict | None:
        from common import checkpoint
        from common.convert import describe

        tensors, meta = checkpoint.load(path)
        if "config" in meta or spec.architecture is None or not spec.architecture(tensors):
            return meta.get("config")
        variant, settings = describe(spec, tensors, spec.architecture)
        return {"model": variant, **settings}

    return config_module.load(arguments, task=task, spec=spec, model_dir=ROOT / spec.name,
                              trained_with=None if task in TRAINING_TASKS else trained_with)


def run(config: Config, spec: ModelSpec) -> None:
    """Run the task that ``config.task`` names. MindSpore is imported here and not before."""
    from common import runner

    tasks = ({"eval": runner.evaluate, "export": runner.export, "infer": runner.predict}
             | {task: runner.train for task in spec.tasks})
    if config.task not in tasks:
        raise UserError(f"task: {config.task} is not offered for {spec.name}; allowed are {', '.join(tasks)}.")
    tasks[config.task](config, spec)
