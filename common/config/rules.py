"""Rules of the configuration that concern several keys at once, and the paths that must exist before a run starts."""
import dataclasses
import logging
import math
import re
from pathlib import Path

from common.config.datasets import DATASETS, ImageNetTest, is_cifar
from common.config.options import TRAINING_TASKS, Config
from common.config.origins import is_asked
from common.errors import UserError
from common.spec import ModelSpec

logger = logging.getLogger(__name__)


def check_rules(config: Config) -> None:
    """Check the rules between values; the limits of single ones are checked where they are read.

    Raises:
        UserError: naming the keys, their values and what is allowed.
    """
    if config.batch_size == "dynamic" and config.task != "export":
        raise UserError("batch_size: 'dynamic' is for exported files; give a whole number >= 1.")
    if config.task != "eval" and isinstance(DATASETS[config.dataset], ImageNetTest):
        raise UserError(f"dataset: {config.dataset} is for eval.py: it has images for evaluations alone.")
    if "/" in config.prefix:
        raise UserError(f"prefix: {config.prefix!r} begins the names of the checkpoints in ckpt_save_dir, and so "
                        "cannot hold a '/'.")
    _check_schedule(config)
    for name in ("scale", "ratio"):
        pair = getattr(config, name)
        if len(pair) != 2 or pair[0] > pair[1]:
            raise UserError(f"{name}: {list(pair)} is not a pair, the smaller number first, such as [0.08, 1.0].")
    if config.dims and config.depths and len(config.dims) != len(config.depths):
        raise UserError(f"dims: {list(config.dims)} and depths: {list(config.depths)} name different numbers of "
                        "stages; give as many of one as of the other.")
    if config.eval_offset >= config.eval_interval:
        raise UserError(f"eval_offset: {config.eval_offset} never comes up with eval_interval: "
                        f"{config.eval_interval}; it must be below it, or -1 for the last epoch's place.")


def check_program(task: str, written: str | None, spec: ModelSpec, file: Path | None) -> None:
    """Refuse the file of one kind of training in the program of another; finetune.py trains from scratch as well.

    Raises:
        UserError: naming the program for the file.
    """
    if task in spec.tasks and written in spec.tasks and (task, written) not in ((task, task), ("finetune", "train")):
        raise UserError(f"task: {written} ({file}) is not what {spec.name}/{task}.py does; start "
                        f"{spec.name}/{written}.py with this file.")


def fit_schedule(config: Config, planned: int) -> Config:
    """Shorten warm-up, decay and cool-down that a file plans for a longer training, and say so.

    Args:
        config: the configuration; what the user wrote himself stays, and is checked afterwards.
        planned: epochs of the training for which the file is written.
    """
    lengths = {name: value for name in ("warmup_epochs", "decay_epochs", "cooldown_epochs")
               if (value := getattr(config, name))}
    total = sum(value for name, value in lengths.items() if name != "warmup_epochs" or not _overlaps(config))
    movable = {name: value for name, value in lengths.items() if not is_asked(config, name)}
    room = config.epochs - sum(lengths.values()) + sum(movable.values())
    if max(total, config.warmup_epochs) <= config.epochs or not movable or room < 0:
        return config
    most = room / sum(movable.values()) / (1 if config.decay_epochs else 2)  # half is left to a decay until the end
    factor = min(config.epochs / planned, most)
    fitted = {name: max(math.floor(100 * factor * value) / 100, 0.01) for name, value in movable.items()}
    changes = ", ".join(f"{name} {movable[name]:g} -> {value:g}" for name, value in fitted.items())
    logger.warning("epochs: %s is too short for the configured schedule, which is shortened: %s", config.epochs,
                   changes)
    return dataclasses.replace(config, **fitted)


def _overlaps(config: Config) -> bool:
    """Whether the decay counts from step 0, so that the warm-up takes the place of its beginning."""
    return bool(config.decay_epochs) and not config.warmup_prefix


def _check_schedule(config: Config) -> None:
    """A training that is shorter than its schedule would end in the middle of it, with a high learning rate."""
    if config.open_profiler:
        return  # a few steps to be looked at, with the recipe's own warm-up: no training comes of them
    if config.warmup_epochs > config.epochs:
        raise UserError(f"warmup_epochs: {config.warmup_epochs} is more than epochs: {config.epochs}; the warm-up must "
                        "end within the training.")
    parts = {name: getattr(config, name) for name in ("warmup_epochs", "decay_epochs", "cooldown_epochs")
             if getattr(config, name) and not (name == "warmup_epochs" and _overlaps(config))}
    total = sum(parts.values())
    if total > config.epochs:
        raise UserError(f"{' + '.join(f'{name}: {value}' for name, value in parts.items())} is {total:g}, more than "
                        f"epochs: {config.epochs}; lower them, or give decay_epochs: none to decay until the end.")
    if config.base_lr is None and config.min_lr > config.lr:
        raise UserError(f"min_lr: {config.min_lr:g} is more than lr: {config.lr:g}; the learning rate must not end "
                        "above its peak.")


def check_paths(config: Config, task: str) -> None:
    """Check that the paths which ``task`` reads exist, as far as that can be known before anything heavy starts.

    Raises:
        UserError: naming the key, the path and what should be there.
    """
    if (task in TRAINING_TASKS + ("eval",) and not config.enable_modelarts
            and not DATASETS[config.dataset].in_repository):
        _check_data(config, task)
    if config.enable_modelarts:
        return  # the weights too are fetched later
    if task == "eval" and not config.ckpt_path:
        raise UserError("ckpt_path: empty, but an evaluation needs weights; give --ckpt_path (also --pretrained) the "
                        "path of a checkpoint.")
    _check_exists("ckpt_path", config.ckpt_path, "a checkpoint")
    if task in TRAINING_TASKS:
        _check_exists("resume", config.resume, "a checkpoint")


def _check_data(config: Config, task: str) -> None:
    is_list = config.eval_dir.lower().endswith(".json")  # its images, and perhaps the list itself, are in data_dir
    if task == "eval" and config.eval_dir and not is_list and not is_cifar(config.dataset):
        _check_exists("eval_dir", config.eval_dir, "the folder of the evaluation images")
        return
    if not config.data_dir:
        raise UserError(f"data_dir: empty, but dataset: {config.dataset} has to be read from somewhere; give "
                        "--data_dir (also --dataset_path) the folder of the data set.")
    if not config.download and not is_cifar(config.dataset):  # CIFAR's archive may lie beside it
        _check_exists("data_dir", config.data_dir, "the folder of the data set")
        if task in ("train", "finetune", "linprobe") and config.val_while_train and not is_list:
            _check_exists("eval_dir", config.eval_dir, "the folder of the evaluation images")


def _check_exists(name: str, path: str, what: str) -> None:
    if not path or Path(path).exists():
        return
    unset = re.search(r"\$\{?(\w+)", path)
    reason = (f"the environment variable {unset.group(1)} is not set" if unset
              else f"there is no such file or folder (working directory {Path.cwd()})")
    made = "; 'python -m common.dataset.digits write gmlp/data/digits' makes it" if "data/digits/" in path else ""
    raise UserError(f"{name}: {path!r} should be {what}, but {reason}{made}.")
