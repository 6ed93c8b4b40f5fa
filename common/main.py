"""What every entry point calls: parse, run the task, turn a user's mistake into one sentence and exit code 2."""
import importlib
import importlib.util
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Sequence

from common.command import ENDING, held_back, refuse

PACKAGES = ("mindspore", "numpy", "yaml", "PIL", "cv2", "tqdm", "psutil")
MISSING = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
if MISSING:  # before anything imports them: entry points import this module first
    print(f"error: {sys.executable} lacks {', '.join(MISSING)}; run 'pip install -r requirements.txt' with it, or use "
          "the environment that scripts/quickstart.sh makes (.venv/bin/python).", file=sys.stderr)
    sys.exit(2)

with held_back():
    import numpy  # noqa: F401

from common.checkpoint.meta import read_meta
from common.cloud.staging import send_unfinished, staged
from common.config.load import load_config
from common.config.options import Config
from common.config.several import each_checkpoint
from common.context.device import prepare_environment
from common.errors import UserError
from common.files import ROOT
from common.launch.platform import leave_table
from common.spec import ModelSpec, program


def main(task: str, spec: ModelSpec, argv: Sequence[str] | None = None, in_the_open: bool = False) -> None:
    """Run a task of a model and exit: 0 when it is done, 2 with one sentence for a mistake of the user.

    Args:
        task: a kind of training, eval, export, infer or visualize.
        spec: the model.
        argv: command line without the program; ``None``: that of the process.
        in_the_open: train with a loop of our own instead of the framework's.
    """
    if argv is None:
        ENDING.begin()
    arguments = list(sys.argv[1:] if argv is None else argv)
    prepare_environment(spec.uses_convolutions)
    try:
        lines = each_checkpoint(arguments, spec.options or Config) if task == "eval" else [arguments]
        if len(lines) > 1:
            evaluate_several([read_config(task, spec, line) for line in lines], spec)
            return
        arguments = lines[0]
        config = read_config(task, spec, arguments)
        with staged(config, os.environ, lambda path: read_config(task, spec, arguments, path)) as config:
            leave_table(config.distribute if "distribute" in config.given else None, os.environ)
            ENDING.rescue = lambda: send_unfinished(config, os.environ)
            run(config, spec.for_task(config.task), in_the_open)
    except Exception as error:
        sys.exit(refuse(error))


def read_config(task: str, spec: ModelSpec, arguments: Sequence[str], fetched: str = "") -> Config:
    """Read flags and YAML.

    Without ``--config_path``, a checkpoint that this zoo trained brings the configuration that it was trained with, so
    that evaluation, export and prediction need nothing but ``--ckpt_path``. Of another one, the model may know the
    variant by its tensors.

    Raises:
        UserError: for an unknown key, a wrong value, or a missing file.
    """
    def trained_with(path: str) -> dict | None:
        tensors, meta = {}, read_meta(path)
        if "config" not in meta:
            from common.checkpoint.file import load_checkpoint

            tensors, meta = load_checkpoint(path)
        if meta.get("family", spec.name) != spec.name:
            raise UserError(f"ckpt_path: {path} holds {meta.get('model')}, a network of {meta['family']}: use "
                            f"{program(meta['family'], task)}.")
        if "config" in meta or spec.architecture is None or not spec.architecture(tensors):
            return meta.get("config")
        variant, settings = spec.recognise(tensors)
        return {"model": variant} | {key: value for key, value in settings.items() if value != 0}  # 0: without a head

    return load_config(arguments, task=task, spec=spec, model_dir=ROOT / spec.name,
                       trained_with=trained_with, fetched=fetched,
                       about=sys.modules["__main__"].__doc__ or "")


def evaluate_several(configs: Sequence[Config], spec: ModelSpec) -> None:
    """Evaluate several checkpoints; each has a report of its own, in a numbered folder.

    Raises:
        UserError: on a cloud platform, whose storage is asked for one.
    """
    if any(config.enable_modelarts for config in configs):
        raise UserError("ckpt_path: on a cloud platform one checkpoint is evaluated at a time; name one.")
    from common.tasks.evaluate import evaluate_all

    leave_table(configs[0].distribute if "distribute" in configs[0].given else None, os.environ)
    configs = [replace(config, report=config.report and f"{config.report}/{number}_{Path(config.ckpt_path).stem}")
               for number, config in enumerate(configs, start=1)]
    evaluate_all(configs, spec.for_task(configs[0].task))


def run(config: Config, spec: ModelSpec, in_the_open: bool = False) -> None:
    """Run the task that ``config.task`` names. MindSpore is imported here and not before, if it is needed."""
    tasks = ({"eval": "evaluate", "export": "export", "infer": "predict", "visualize": "visualize"}
             | dict.fromkeys(spec.tasks, "train"))
    if config.task not in tasks:
        raise UserError(f"task: {config.task} is not offered for {spec.name}; allowed are {', '.join(tasks)}.")
    name = tasks[config.task]
    more = {"in_the_open": in_the_open} if name == "train" else {}
    getattr(importlib.import_module(f"common.tasks.{name}"), name)(config, spec, **more)
