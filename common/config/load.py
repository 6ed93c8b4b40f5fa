"""From a YAML file and flags to one checked ``Config``. Imports no MindSpore.

Precedence: defaults of the schema and of the model < the file's ``base`` < the file < checkpoint < flags. Keys, their
other names and limits are in ``common/config/options.py`` and ``MODEL/src/options.py``.
"""
import dataclasses
import functools
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.config.addresses import on_cloud
from common.config.datasets import DATASETS
from common.config.finetune import finetuning_file, network_of
from common.config.help import help_text
from common.config.options import CALLER_VARIABLE, NAMES, TRAINING_TASKS, Config, fields_of, names_of, network_keys
from common.config.origins import is_file
from common.config.rules import check_paths, check_program, check_rules, fit_schedule
from common.config.seed_forms import best_of_default, shipped_file
from common.config.values import coerce, kinds_of
from common.config.yaml_file import effective_text, read_yaml
from common.errors import UserError, nearest
from common.spec import ModelSpec, all_specs

_BLOCKS = ("context", "parallel", "model_config")
_COMMAND_LINE = "command line"
_SECTIONS_OF_CHECKPOINT = ("data", "augment", "model")
_NOT_OF_CHECKPOINT = ("ckpt_path", "batch_size", "eval_batch_size", "num_workers", "eval_num_workers", "download",
                      "on_error")
_SWITCHES = ("print_config", "dry_run", "finetune")
_READERS_OWN = ("config", "config_path", *_SWITCHES)  # flags that are no keys
_INPUTS = ("data_dir", "eval_dir", "ckpt_path", "resume", "img_ids", "class_names")

logger = logging.getLogger(__name__)


def load_config(argv: Sequence[str], *, task: str, spec: ModelSpec, model_dir: Path,
                trained_with: Callable[[str], Mapping[str, Any] | None] | None = None, fetched: str = "",
                about: str = "") -> Config:
    """Return the configuration of a run.

    Args:
        argv: the command line without the program.
        task: what the entry point does; ``train`` follows the key ``task`` where that names a kind of training.
        spec: the model.
        model_dir: the model's folder; relative configuration files are looked for there too.
        trained_with: path of a checkpoint -> the configuration that it holds, or ``None``. Asked when no file is named;
            what it says comes between the model's default file and the flags.
        fetched: the checkpoint that is asked, where it is not yet the configuration's own.
        about: what the program does and an example, for the help.

    Raises:
        UserError: for anything that the user should correct.
        SystemExit: with code 0 after ``--help``, ``--print_config`` and ``--dry_run``.
    """
    schema = spec.options or Config
    if any(word in ("--help", "-h") for word in argv):
        sys.stdout.write(_help(argv, task, spec, Path(model_dir), about))
        raise SystemExit(0)
    flags = _read_flags(argv, schema)
    shows, tries = _takes_switch(flags, "print_config"), _takes_switch(flags, "dry_run")
    finetunes = _takes_switch(flags, "finetune")
    named = _named_file(flags, Path(model_dir))
    given = _canonical(flags, _COMMAND_LINE, schema)
    default = Path(model_dir) / spec.default_configs.get(task, "")
    if finetunes:
        default = finetuning_file(task, named, Path(model_dir), fetched or given.get("ckpt_path") or given.get("model"))
    file = named or (default if default.is_file() else None)
    layers = [(source, _found(values, Path(model_dir)))
              for source, values in (_read_file(file, schema) if file else [])]
    checkpoint = fetched or (_merged(layers) | given).get("ckpt_path", "")
    if (task == "eval" and named is None and "ckpt_path" not in given and not Path(checkpoint).is_file()
            and not (given.get("enable_modelarts") or on_cloud(given, os.environ))):  # where it is fetched later
        if best := best_of_default(spec.default_configs, Path(model_dir)):
            logger.warning("ckpt_path: %s, the best of the last training there, is evaluated", best)
            layers.append(("the last training", {"ckpt_path": (checkpoint := str(best))}))
    if named is None and trained_with is not None and Path(checkpoint).is_file() and (
            finetunes or task not in TRAINING_TASKS):
        held = _of_checkpoint(trained_with(checkpoint) or {}, checkpoint, given, schema)
        layers.append((checkpoint, network_of(held, spec, spec.for_task(task), schema) if finetunes else held))
    written = _merged(layers)
    layers.append((_COMMAND_LINE, given))
    values = _merged(layers)
    origins = _origins(layers)
    values["task"] = _task(task, written, given)
    check_program(values["task"], written.get("task"), spec, file)
    spec = spec.for_task(values["task"])
    values["model"] = spec.variant(values.get("model") or next(iter(spec.variants)))
    config = _build(values, given=origins, spec=spec, planned=written.get("epochs"))
    if shows:
        sys.stdout.write(effective_text(config, origins))
        raise SystemExit(0)
    check_paths(config, config.task)
    if tries:
        sys.stdout.write("Nothing is wrong with the configuration, and the paths in it are there.\n")
        raise SystemExit(0)
    return config


def _help(argv: Sequence[str], task: str, spec: ModelSpec, model_dir: Path, about: str) -> str:
    """Return the help of a program; only the file among the flags matters, the others may be wrong."""
    words = [word for word in argv if word not in ("--help", "-h")]
    known = [word for i, word in enumerate(words) if {word.partition("=")[0], *words[max(i - 1, 0):i]} & {
        "--config", "--config_path"}]
    schema = spec.options or Config
    file = _named_file(_read_flags(known, schema), model_dir) or model_dir / spec.default_configs.get(task, "")
    found, spec = file.is_file(), spec.for_task(task)
    defaults = from_file(file, spec, task=task) if found else from_mapping({"task": task}, "", spec)
    defaults = dataclasses.replace(defaults, model=defaults.model or next(iter(spec.variants)))
    return help_text(schema, task, about=about, defaults=defaults, source=str(file) if found else "", spec=spec)


def load_any(argv: Sequence[str]) -> Config:
    """Return the configuration that a training with this command line has, whatever the model, or with no file at all.

    The variant's name and the paths are not checked, and the keys that only some model has are left out.

    Raises:
        UserError: for anything else that the user should correct.
        SystemExit: with code 0 after ``--print_config``.
    """
    flags = _read_flags(argv, Config, others=True)
    shows = _takes_switch(flags, "print_config")
    file = _named_file(flags)
    folder = file.resolve().parent if file else Path()
    model_dir = folder.parent if folder.name == "config" else Path()
    layers = [(source, _found(values, model_dir))
              for source, values in (_read_file(file, Config, others=True) if file else [])]
    written = _merged(layers)
    given = _canonical(flags, _COMMAND_LINE, Config, others=True)
    layers.append((_COMMAND_LINE, given))
    values, origins = _merged(layers), _origins(layers)
    config = _build(values | {"task": _task("train", written, given)}, given=origins, planned=written.get("epochs"))
    if shows:
        sys.stdout.write(effective_text(config, origins))
        raise SystemExit(0)
    return config


def from_file(file: str | Path, spec: ModelSpec | None = None, **changes: Any) -> Config:
    """Return the configuration that a YAML file gives, with its base, and ``changes`` over it; see ``from_mapping``."""
    schema = (spec.options if spec else None) or Config
    layers = [*_read_file(Path(file), schema), ("changes", _canonical(changes, "changes", schema))]
    return _build(_merged(layers), given=_origins(layers), spec=spec, planned=_merged(layers[:-1]).get("epochs"))


def from_mapping(values: Mapping[str, Any], source: str, spec: ModelSpec | None = None) -> Config:
    """Return the configuration that ``values`` gives, in any of the names that YAML may use.

    Args:
        values: key -> value, as from YAML.
        source: where the values come from, for messages.
        spec: the model; ``None``: only the keys that all models have.

    Raises:
        UserError: for unknown keys, wrong types, and rules that do not hold.
    """
    canonical = _canonical(values, source, (spec.options if spec else None) or Config)
    return _build(canonical, given=dict.fromkeys(canonical, source), spec=spec)


def network_arguments(config: Config) -> dict[str, Any]:
    """Return the arguments of the network that the configuration sets, beside those that every network has."""
    return {name: value for name in network_keys(type(config)) if (value := getattr(config, name)) is not None}


def _read_file(file: Path, schema: type[Config], others: bool = False) -> list[tuple[str, dict[str, Any]]]:
    """Return the layers of a file: its base, if it names one, and itself, each as source and checked values.

    Raises:
        UserError: if one of them is not there or wrong, or the base has a base.
    """
    values = read_yaml(file)
    layers = []
    if "base" in values:
        name = values.pop("base")
        base = file.parent / str(name or "")
        if not name or not base.is_file():
            raise UserError(f"base: {name!r} ({file}) should be a YAML file, its path beginning in the folder of this "
                            "one, but there is no such file.")
        if base.resolve() == file.resolve():
            raise UserError(f"base: {name!r} ({file}) is this file itself.")
        below = read_yaml(base)
        if "base" in below:
            raise UserError(f"base: {name!r} ({file}) has a base itself, {below['base']!r}; only one level is allowed.")
        layers.append((f"base {base}", _canonical(below, str(base), schema, others)))
    return [*layers, (str(file), _canonical(values, str(file), schema, others))]


def _merged(layers: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Lay later layers over earlier ones; ``lr`` or ``base_lr`` also replaces the other one."""
    result: dict[str, Any] = {}
    for _, values in layers:
        if "lr" in values or "base_lr" in values:
            result = {name: value for name, value in result.items() if name not in ("lr", "base_lr")}
        result |= values
    return result


def _origins(layers: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, str]:
    """Return key -> the layer that its value comes from."""
    return _merged([("", dict.fromkeys(values, source)) for source, values in layers])


def _takes_switch(flags: dict[str, Any], name: str) -> bool:
    return str(flags.pop(name, "false")).lower() not in ("false", "0")


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


def _of_checkpoint(held: Mapping[str, Any], path: str, given: Mapping[str, Any],
                   schema: type[Config]) -> dict[str, Any]:
    """Return what a checkpoint's configuration says about network, data and image size, not how they were loaded."""
    held = {name: held[name] for name, field in fields_of(schema).items()
            if name in held and name not in _NOT_OF_CHECKPOINT and not field.metadata["unused"]
            and field.metadata["section"] in _SECTIONS_OF_CHECKPOINT}
    if "data_dir" in given:
        held.pop("eval_dir", None)  # belongs to the data folder of the training
    return _canonical(held, path, schema)


def _task(task: str, written: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """Return the task of a run: the entry point's, but train.py follows the key where it names a kind of training."""
    allowed = TRAINING_TASKS if task == "train" else (task,)
    if given.get("task", task) not in allowed:
        raise UserError(f"task: {given['task']!r} (command line) is not what this program does, which is {task}; leave "
                        "it out, or start the program for it.")
    wanted = given.get("task") or written.get("task")
    return wanted if wanted in allowed else task


def _read_flags(argv: Sequence[str], schema: type[Config], others: bool = False) -> dict[str, Any]:
    """Return name -> text of ``--name value`` and ``--name=value``; of a name that comes twice the later one."""
    flags: dict[str, Any] = {}
    words, known = list(argv), names_of(schema)
    while words:
        word = words.pop(0)
        if not word.startswith("--") or word == "--":
            raise UserError(f"'{word}' (command line) belongs to no flag; options are written --key value or "
                            "--key=value, lists without spaces or in quotes.")
        name, equals, value = word[2:].partition("=")
        name = name.replace("-", "_")
        if name not in known and name not in _READERS_OWN and not (others and name in _models()):
            raise UserError(f"--{name} (command line) {_unknown(name, schema, [*known, *_READERS_OWN])}")
        if not equals and words and not words[0].startswith("--"):
            flags[name] = words.pop(0)
        elif equals:
            flags[name] = value
        elif name in _SWITCHES or name in known and bool in kinds_of(fields_of(schema)[known[name]]):
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
    if found := shipped_file(name, model_dir):
        logger.warning("config_path: there is no %s; %s is read", name, found)
        return found
    shipped = [f"config/{file.name}" for file in sorted(model_dir.glob("config/*.y*ml"))]
    places = " or ".join(dict.fromkeys(map(str, (Path.cwd(), model_dir.resolve()))))
    raise UserError(f"config_path: '{name}' (command line) was not found in {places}; {model_dir.name} has "
                    f"{', '.join(shipped) or 'no configurations'}.{nearest(name, shipped)}")


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


def _canonical(values: Mapping[str, Any], source: str, schema: type[Config], others: bool = False) -> dict[str, Any]:
    """Return standard name -> value in its type; with ``others``, leave out the keys that only some model has."""
    result: dict[str, Any] = {}
    origin: dict[str, tuple[str, Any]] = {}
    names, fields = names_of(schema), fields_of(schema)
    for name, raw in _flatten(values, source):
        if name not in names:
            if others and name in _models() or _says_nothing(name, raw):
                continue
            raise UserError(f"key '{name}' ({source}) {_unknown(name, schema, names)}")
        standard = names[name]
        value = coerce(fields[standard], raw, name, source)
        if fields[standard].metadata["unused"]:
            logger.warning("%s (%s) is accepted for old files: %s", name, source, fields[standard].metadata["help"])
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


@functools.cache
def _models() -> dict[str, dict[str, Any]]:
    """Return, of all models beside this package, key that not all models have -> model -> default."""
    owners: dict[str, dict[str, Any]] = {}
    for spec in all_specs():
        schema = spec.options or Config
        for name, key in names_of(schema).items():
            if name not in NAMES:
                owners.setdefault(name, {})[spec.name] = fields_of(schema)[key].default
    return owners


def _unknown(name: str, schema: type[Config], known: Sequence[str] | Mapping[str, Any]) -> str:
    owners = _models().get(name)
    if owners:
        return f"is a key of {' and '.join(owners)}, not of this model; --help shows those of this one."
    return f"is not an option; --help shows all.{nearest(str(name), known)}"


def _says_nothing(name: str, value: Any) -> bool:
    """Whether a key of another model has its default: the files that runs write held the keys of all models once."""
    return any(value == default for default in _models().get(name, {}).values())


def _build(values: dict[str, Any], given: Mapping[str, str], spec: ModelSpec | None = None,
           planned: int | None = None) -> Config:
    """Fill in what follows from other keys, fit what a file says to what the user says, and check."""
    follows: dict[str, Any] = {}
    if not values.get("data_dir") and values.get("data_path"):
        values = values | {"data_dir": values["data_path"]}  # the name that MAE's files use
    if values.get("img_ids"):
        follows["dataset"] = "list"
    if on_cloud(values, os.environ):
        follows["enable_modelarts"] = True
    if spec is not None:
        follows |= spec.for_task(values.get("task", "train")).defaults
    dataset = values.get("dataset", follows.get("dataset"))
    known = DATASETS.get(dataset)
    if (known and known.classes and is_file(given.get("dataset", ""))
            and (Path(values.get("data_dir", "")) / "train").is_dir()):
        logger.warning("dataset: folder instead of %s (%s): %s holds train/.", dataset, given["dataset"],
                       values["data_dir"])
        values, dataset = values | {"dataset": "folder"}, "folder"
    if dataset in DATASETS and DATASETS[dataset].classes:
        follows["num_classes"] = DATASETS[dataset].classes
    if values.get("dynamic_loss_scale"):
        follows |= {"loss_scale": 65536.0, "drop_overflow_update": True}  # it looks for the limit by crossing it
    config = ((spec.options if spec else None) or Config)(**follows | values, given=given)
    config = fit_schedule(config, planned or Config.epochs)
    check_rules(config)
    return config
