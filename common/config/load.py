"""From a YAML file and flags to one checked ``Config``, and back to YAML. Imports no MindSpore.

Precedence: defaults of the schema < YAML < flags. Keys, their other names and limits are in ``common/config/options.py``.
"""
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.config.addresses import on_cloud
from common.config.datasets import CLASSES
from common.config.help import help_text
from common.config.options import CALLER_VARIABLE, FIELDS, NAMES, NETWORK_KEYS, Config
from common.config.rules import TRAINING_TASKS, check, check_paths
from common.config.values import coerce, kinds_of
from common.config.yaml_file import read_yaml
from common.errors import UserError, nearest
from common.spec import ModelSpec

_BLOCKS = ("context", "parallel", "model_config")
_COMMAND_LINE = "command line"
# What an evaluation takes from the training of its checkpoint: network, data and image size, not how they were loaded.
_OF_CHECKPOINT = [name for name, field in FIELDS.items() if field.metadata["section"] in ("data", "augment", "model")
                  and name not in ("ckpt_path", "batch_size", "eval_batch_size", "num_workers", "eval_num_workers",
                                   "download", "on_error")]
_INPUTS = ("data_dir", "eval_dir", "ckpt_path", "resume", "img_ids", "class_names")
# Defaults that differ for a task: MAE's recipes.
_OF_TASK = {"pretrain": {"scale": (0.2, 1.0), "interpolation": "bicubic"},
            "linprobe": {"global_pool": False, "batchnorm_head": True}}


def load_config(argv: Sequence[str], *, task: str, spec: ModelSpec, model_dir: Path,
         trained_with: Callable[[str], Mapping[str, Any] | None] | None = None, fetched: str = "") -> Config:
    """Return the configuration of a run.

    Args:
        argv: the command line without the program.
        task: what the entry point does; ``train`` follows the key ``task`` where that names a kind of training.
        spec: the model.
        model_dir: the model's folder; relative configuration files are looked for there too.
        trained_with: path of a checkpoint -> the configuration that it holds, or ``None``. Asked when no file is named;
            what it says comes between the model's default file and the flags.
        fetched: the checkpoint that is asked, where it is not yet the configuration's own.

    Raises:
        UserError: for anything that the user should correct.
        SystemExit: with code 0 after ``--help``.
    """
    if any(word in ("--help", "-h") for word in argv):
        sys.stdout.write(help_text(spec.for_task(task), task))
        raise SystemExit(0)
    flags = _read_flags(argv)
    named = _named_file(flags, Path(model_dir))
    default = Path(model_dir) / spec.default_configs.get(task, "")
    file = named or (default if default.is_file() else None)
    written = _found(_canonical(read_yaml(file), str(file)), Path(model_dir)) if file else {}
    given = _canonical(flags, _COMMAND_LINE)
    checkpoint = fetched or (written | given).get("ckpt_path", "")
    if named is None and trained_with is not None and Path(checkpoint).is_file():
        written |= _of_checkpoint(trained_with(checkpoint) or {}, checkpoint, given)
    values = _merged(written, given)
    names = frozenset(values)
    values["task"] = _task(task, written, given)
    spec = spec.for_task(values["task"])
    values["model"] = spec.variant(values.get("model") or next(iter(spec.variants)))
    config = _build(values, given=names)
    check_paths(config, config.task)
    return config


def load_any(argv: Sequence[str]) -> Config:
    """Return the configuration that a training with this command line has, whatever the model, or with no file at all.

    The variant's name and the paths are not checked.

    Raises:
        UserError: for anything else that the user should correct.
    """
    flags = _read_flags(argv)
    file = _named_file(flags)
    folder = file.resolve().parent if file else Path()
    model_dir = folder.parent if folder.name == "config" else Path()
    written = _found(_canonical(read_yaml(file), str(file)), model_dir) if file else {}
    given = _canonical(flags, _COMMAND_LINE)
    values = _merged(written, given)
    return _build(values | {"task": _task("train", written, given)}, given=frozenset(values))


def _merged(written: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Lay flags over a file; a flag for ``lr`` or ``base_lr`` also replaces the other one."""
    if "lr" in given or "base_lr" in given:
        written = {name: value for name, value in written.items() if name not in ("lr", "base_lr")}
    return written | given


def _found(written: dict[str, Any], model_dir: Path) -> dict[str, Any]:
    """Look for what a file calls ``./data`` where the user is, and else in the model's folder.

    A launch script starts its processes in folders of their own and says where the user was. Nothing is written into
    the model's folder: what has to be fetched first goes to where the user is.
    """
    caller = Path(os.environ.get(CALLER_VARIABLE, ""))
    found = {}
    for name in _INPUTS:
        path = written.get(name)
        if path and not Path(path).is_absolute() and "://" not in path:
            places = [place / path for place in (caller, model_dir)]
            place = next((place for place in places if place.exists()), places[0] if name == "data_dir" else Path(path))
            found[name] = path if place == Path(path) else str(place)
    return written | found


def _of_checkpoint(held: Mapping[str, Any], path: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a checkpoint's configuration says about network and data."""
    held = {name: held[name] for name in _OF_CHECKPOINT if name in held}
    if "data_dir" in given:
        held.pop("eval_dir", None)  # belongs to the data folder of the training
    return _canonical(held, path)


def _task(task: str, written: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """Return the task of a run: the entry point's, but train.py follows the key where it names a kind of training."""
    allowed = TRAINING_TASKS if task == "train" else (task,)
    if given.get("task", task) not in allowed:
        raise UserError(f"task: {given['task']!r} (command line) is not what this program does, which is {task}; leave "
                        "it out, or start the program for it.")
    wanted = given.get("task") or written.get("task")
    return wanted if wanted in allowed else task


def network_arguments(config: Config) -> dict[str, Any]:
    """Return the arguments of the network that the configuration sets, beside those that every network has."""
    return {name: value for name in NETWORK_KEYS if (value := getattr(config, name)) is not None}


def from_mapping(values: Mapping[str, Any], source: str) -> Config:
    """Return the configuration that ``values`` gives, in any of the names that YAML may use.

    Args:
        values: key -> value, as from YAML.
        source: where the values come from, for messages.

    Raises:
        UserError: for unknown keys, wrong types, and rules that do not hold.
    """
    canonical = _canonical(values, source)
    return _build(canonical, given=frozenset(canonical))


def _read_flags(argv: Sequence[str]) -> dict[str, Any]:
    """Return name -> text of ``--name value`` and ``--name=value``; of a name that comes twice the later one."""
    flags: dict[str, Any] = {}
    words = list(argv)
    while words:
        word = words.pop(0)
        if not word.startswith("--") or word == "--":
            raise UserError(f"'{word}' (command line) belongs to no flag; options are written --key value or "
                            "--key=value, lists without spaces or in quotes.")
        name, equals, value = word[2:].partition("=")
        name = name.replace("-", "_")
        if name not in NAMES and name not in ("config", "config_path"):
            raise UserError(f"--{name} (command line) is not an option; --help shows all."
                            f"{nearest(name, [*NAMES, 'config_path'])}")
        if not equals and words and not words[0].startswith("--"):
            flags[name] = words.pop(0)
        elif equals:
            flags[name] = value
        elif name in NAMES and bool in kinds_of(FIELDS[NAMES[name]]):
            flags[name] = True
        else:
            raise UserError(f"--{name} (command line) needs a value, such as --{name} VALUE.")
    return flags


def _named_file(flags: dict[str, Any], model_dir: Path | None = None) -> Path | None:
    """Take the configuration file out of the flags and find it, below the working directory or the model's folder."""
    names = {flags.pop(key) for key in ("config_path", "config") if key in flags}
    if not names:
        return None
    if len(names) > 1:
        raise UserError(f"--config_path and --config (command line) name different files, "
                        f"{' and '.join(sorted(names))}; give one of them.")
    name = os.path.expanduser(os.path.expandvars(names.pop()))
    for file in (Path(name), *([model_dir / name] if model_dir else [])):
        if name and file.is_file():
            return file
        if name and file.is_dir():
            raise UserError(f"config_path: '{name}' (command line) is a folder; give one of the YAML files in it.")
    if model_dir is None:
        raise UserError(f"config_path: there is no file '{name}' (working directory {Path.cwd()}).")
    shipped = [f"config/{file.name}" for file in sorted(model_dir.glob("config/*.y*ml"))]
    raise UserError(f"config_path: '{name}' (command line) was found neither in {Path.cwd()} nor in {model_dir}; that "
                    f"folder has {', '.join(shipped) or 'no configurations'}.{nearest(name, shipped)}")


def _flatten(values: Mapping[str, Any], source: str) -> list[tuple[str, Any]]:
    """Return the keys and values with those of the nested blocks among them."""
    pairs: list[tuple[str, Any]] = []
    for name, value in values.items():
        if name in _BLOCKS and isinstance(value, Mapping):
            pairs += _flatten(value, source)
        elif isinstance(value, Mapping):
            raise UserError(f"{name} ({source}) is a block of keys; only {', '.join(_BLOCKS)} may be, other keys stand "
                            "at the left margin.")
        elif name not in _BLOCKS:
            pairs.append((name, value))
        elif value is not None:
            raise UserError(f"{name}: {value!r} ({source}) should be a block of keys.")
    return pairs


def _canonical(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return standard name -> value in its type."""
    result: dict[str, Any] = {}
    origin: dict[str, tuple[str, Any]] = {}
    for name, raw in _flatten(values, source):
        if name not in NAMES:
            raise UserError(f"key '{name}' ({source}) is not an option; --help shows all.{nearest(str(name), NAMES)}")
        standard = NAMES[name]
        value = coerce(FIELDS[standard], raw, name, source)
        if standard in result and "" in (value, result[standard]):
            value = value or result[standard]  # 'pretrained: False' beside a path says nothing against the path
        elif standard in result and result[standard] != value:
            other, other_raw = origin[standard]
            raise UserError(f"{other}: {other_raw!r} and {name}: {raw!r} ({source}) are two names of {standard} with "
                            "different values; keep one of them.")
        result[standard], origin[standard] = value, (name, raw)
    if result.get("lr") is not None and result.get("base_lr") is not None:
        raise UserError(f"lr: {result['lr']:g} and base_lr: {result['base_lr']:g} ({source}) are two ways to give the "
                        "learning rate, absolute and per 256 images of the global batch; keep one of them.")
    return result


def _build(values: dict[str, Any], given: frozenset[str]) -> Config:
    """Fill in what follows from other keys, and check."""
    follows: dict[str, Any] = {}
    if not values.get("data_dir") and values.get("data_path"):
        values = values | {"data_dir": values["data_path"]}  # the name that MAE's files use
    if values.get("img_ids"):
        follows["dataset"] = "list"
    if on_cloud(values, os.environ):
        follows["enable_modelarts"] = True
    follows |= _OF_TASK.get(values.get("task"), {})
    dataset = values.get("dataset", follows.get("dataset"))
    if dataset in CLASSES:
        follows["num_classes"] = CLASSES[dataset]
    if values.get("dynamic_loss_scale"):
        follows |= {"loss_scale": 65536.0, "drop_overflow_update": True}  # it looks for the limit by crossing it
    config = Config(**follows | values, given=given)
    check(config)
    return config
