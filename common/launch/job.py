"""What a launch script was asked for: arguments and environment to a ``Job``. Imports no MindSpore.

The scripts in ``scripts/`` call ``python -m common.launch``, which begins here.
"""
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Mapping, Sequence

from common.config.options import FIELDS, NAMES
from common.config.seed_forms import shipped_file
from common.errors import UserError, nearest
from common.files import ROOT
from common.rank_table.table import MAX_DEVICES, RankTable, Server, find_server, read_rank_table, table_of_hosts

DEVICES = {"ascend": "Ascend", "gpu": "GPU", "cpu": "CPU"}
SHOWN_PROCESSES = 8  # of a dry run where no GPU is seen
NO_PATHS = ("", "0", "1", "false", "true", "none")  # values of path options that are no paths


@dataclass(frozen=True)
class Request:
    """What a script is for.

    Attributes:
        kind: ``distribute`` (several processes) or ``standalone`` (one).
        device: ascend, gpu or cpu.
        task: train, eval, pretrain or finetune; the name of the entry point.
        fallback: the model when neither arguments nor path tell it; empty: there is none.
    """

    kind: str
    device: str
    task: str
    fallback: str = ""


@dataclass(frozen=True)
class Job:
    """What is to be started here.

    Attributes:
        request: what the script is for.
        python: the interpreter of the ranks.
        entry: the entry point.
        config: the YAML file.
        arguments: further arguments of the entry point.
        local: number of processes here.
        table: who takes part, if a rank table or HOSTS says it.
        server: this server in the table.
        results: the folder in which the folders of the ranks are made.
        caller: the directory from which the script was started.
        environment: that of the script.
        dry_run: print what would start, and start nothing.
    """

    request: Request
    python: str
    entry: Path
    config: Path
    arguments: tuple[str, ...]
    local: int
    table: RankTable | None
    server: Server | None
    results: Path
    caller: Path
    environment: Mapping[str, str]
    dry_run: bool

    @property
    def folder_name(self) -> str:
        """What the folder of a rank is called; with several processes the number of the rank here follows."""
        if self.request.task == "eval":
            return "eval"
        parallel = "train_parallel" if self.request.task != "train" else f"train_parallel_{self.request.device}"
        return "train" if self.request.kind == "standalone" else parallel  # the names of the old zoo's scripts


def models() -> list[str]:
    """Return the model folders of this repository."""
    return sorted(file.parent.name for file in ROOT.glob("*/train.py"))


def understand(request: Request, words: Sequence[str], python: str, caller: Path,
               environment: Mapping[str, str]) -> Job:
    """Read the arguments of a script.

    Args:
        request: what the script is for.
        words: ``[MODEL] [RANK_TABLE_FILE] CONFIG_PATH [--key value ...]``.
        python: the interpreter of the ranks.
        caller: the directory from which the script was started; relative paths start there.
        environment: HOSTS, SERVER_ID, DEVICE_NUM, RESULTS_DIR and RANK_TABLE_WAIT are read.

    Raises:
        UserError: for the first mistake.
    """
    dry_run = "--dry_run" in words
    words = [word for word in words if word != "--dry_run"]
    split = next((number for number, word in enumerate(words) if word.startswith("--")), len(words))
    names, arguments = list(words[:split]), words[split:]
    model = names.pop(0) if names and names[0] in models() else ""
    _refuse_rank_table_start(environment)
    several = request.kind == "distribute"
    hosts = environment.get("HOSTS", "") if several else ""
    with_table = several and (not hosts and request.device == "ascend" or any(map(_is_json, names)))
    if with_table and hosts:
        raise UserError("HOSTS: a rank table says already who takes part; unset HOSTS, or leave the table out.")
    if not model and len(names) == 2 + with_table and not names[0].lower().endswith((".json", ".yaml", ".yml")):
        raise UserError(f"'{names[0]}' is no model; there are {', '.join(models())}.{nearest(names[0], models())}")
    table_name = _take_table(several, with_table, names)
    config_name = _take_config(names, arguments)
    if names:
        raise UserError(f"'{names[0]}' is one argument too many; further options are written --key value.")
    config, model = _find_config(config_name, model, caller, request.fallback or _model_of(caller / config_name))
    entry = ROOT / model / f"{request.task}.py"
    if not entry.is_file():
        raise UserError(f"{model} has no {request.task}.py (the model of {config}).")
    table = server = None
    if table_name is not None or hosts:
        table = table_of_hosts(hosts) if hosts else read_rank_table(caller / table_name, _seconds(environment))
        server = find_server(table, environment.get("SERVER_ID"))
    local = len(server.devices) if server else _device_number(request.device, environment, dry_run) if several else 1
    results = Path(caller / environment["RESULTS_DIR"] if environment.get("RESULTS_DIR") else ROOT / "scripts")
    return Job(request, python, entry, config, tuple(_absolute(arguments, caller)), local, table, server,
               results, caller, environment, dry_run)


def _refuse_rank_table_start(environment: Mapping[str, str]) -> None:
    if environment.get("LAUNCHER") not in (None, "", "msrun"):  # msrun was the name of what is now the only way
        raise UserError("LAUNCHER: leave it unset; MindSpore 2.10 does not start from a rank table any more, and here "
                        "the table only says who takes part.")


def _take_table(several: bool, with_table: bool, names: list[str]) -> str | None:
    """Take the name of the rank table off the arguments, where there is one."""
    if not several and any(map(_is_json, names)):
        raise UserError(f"'{next(filter(_is_json, names))}' looks like a rank table, which this script does not take; "
                        "give CONFIG_PATH alone.")
    if not with_table:
        return None
    if not names:
        raise UserError("RANK_TABLE_FILE and CONFIG_PATH are missing; --help shows the usage.")
    if _is_yaml(names[0]) and any(map(_is_json, names)):
        raise UserError(f"'{names[0]}' stands where RANK_TABLE_FILE belongs; first comes the rank table, then the "
                        "configuration.")
    if _is_yaml(names[0]):
        raise UserError(f"RANK_TABLE_FILE is missing before '{names[0]}'; 'python -m common.rank_table make --devices "
                        "0-7' writes one, or HOSTS=ADDRESS:NUMBER says it.")
    return names.pop(0)


def _is_json(name: str) -> bool:
    return name.lower().endswith(".json")


def _take_config(names: list[str], arguments: list[str]) -> str:
    if names:
        return names.pop(0)
    given = next((word for word in arguments if re.match(r"--config(_path)?(=|$)", word)), None)
    raise UserError("CONFIG_PATH is missing; --help shows the usage." if given is None else
                    f"CONFIG_PATH is missing: here it is written without {given.split('=')[0]}.")


def _is_yaml(name: str) -> bool:
    return name.lower().endswith((".yaml", ".yml"))


def _find_config(name: str, model: str, caller: Path, fallback: str) -> tuple[Path, str]:
    """Find the file and the model that it is for.

    A path that does not exist from ``caller`` may also be one from the root or from a model's folder, such as
    ``config/gmlp_Ti.yaml``, or have been right in the old zoo, where ``scripts/`` lay in the model's folder.
    """
    names = [model] if model else models()
    if (caller / name).is_file():
        files = [Path(os.path.abspath(caller / name))]
    else:
        rest = re.sub(r"^(\.{1,2}/+)+", "", name)
        places = [ROOT] + [place for one in names for place in (ROOT / one, ROOT / one / "config")]
        files = [] if Path(rest).is_absolute() else [place / rest for place in places if (place / rest).is_file()]
        if not files or fallback and fallback not in map(_model_of, files):  # perhaps a name of the original version
            old = [file for one in names if (file := shipped_file(rest, ROOT / one))]
            files = [file for file in old if _model_of(file) == fallback] or files or old
    if not files:
        if (caller / name).is_dir():
            raise UserError(f"CONFIG_PATH: '{name}' is a folder; give one of the YAML files in it.")
        shipped = [str(file.relative_to(ROOT)) for one in names for file in sorted((ROOT / one).glob("config/*.y*ml"))]
        close = nearest(Path(name).name, [Path(file).name for file in shipped])
        raise UserError(f"CONFIG_PATH: '{name}' was found neither in {caller} nor in "
                        f"{f'the folder {model}' if model else 'the folder of a model'}.{close}")
    found = [model or _model_of(file) for file in files]
    if fallback in found and len(files) > 1:
        files, found = [files[found.index(fallback)]], [fallback]
    if len(files) > 1:
        raise UserError(f"CONFIG_PATH: '{name}' is there for several models ({', '.join(found)}); give the model "
                        "first, or the whole path.")
    if not (found[0] or fallback):
        raise UserError(f"CONFIG_PATH: {files[0]} does not tell the model by its folder; give the model first, one of "
                        f"{', '.join(models())}.")
    return files[0], found[0] or fallback


def _model_of(file: Path) -> str:
    """Return the model that the folders of a path name, or nothing if they name none or several."""
    inside = next((path.relative_to(ROOT) for path in (file, file.resolve()) if path.is_relative_to(ROOT)), file)
    found = set(inside.parts[:-1]) & set(models())
    return found.pop() if len(found) == 1 else ""


def _device_number(device: str, environment: Mapping[str, str], dry_run: bool) -> int:
    """Return how many processes to start where no rank table says it."""
    given = environment.get("DEVICE_NUM", "")
    if given:
        if not (re.fullmatch("[0-9]{1,9}", given) and 1 <= int(given) <= MAX_DEVICES):
            raise UserError(f"DEVICE_NUM: '{given[:20]}' must be a number of processes from 1 to {MAX_DEVICES}.")
        return int(given)
    if device == "cpu":
        return 2
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible:
        return len([one for one in visible.split(",") if one.strip()])
    tool = shutil.which("nvidia-smi")
    if tool:
        try:
            listed = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=60, check=False).stdout
        except (OSError, subprocess.TimeoutExpired):
            listed = ""
        count = sum(line.startswith("GPU ") for line in listed.splitlines())
        if count:
            return count
    if dry_run:
        print(f"note: nvidia-smi lists no GPU here; this is what would start with DEVICE_NUM={SHOWN_PROCESSES}.",
              file=sys.stderr)
        return SHOWN_PROCESSES
    raise UserError("DEVICE_NUM: nvidia-smi lists no GPU; set DEVICE_NUM to the number of processes.")


def _seconds(environment: Mapping[str, str]) -> float:
    text = environment.get("RANK_TABLE_WAIT", "") or "60"
    try:
        return float(text)
    except ValueError:
        raise UserError(f"RANK_TABLE_WAIT: '{text}' is no number of seconds.") from None


def _absolute(arguments: Sequence[str], caller: Path) -> list[str]:
    """Return the arguments with their paths made absolute: ranks run in folders of their own."""
    found: list[str] = []
    key = ""
    for word in arguments:
        if word.startswith("--"):
            key, equals, value = word[2:].partition("=")
            found.append(f"--{key}={_absolute_path(key, value, caller)}" if equals else word)
            key = "" if equals else key
        else:
            found.append(_absolute_path(key, word, caller))
            key = ""
    return found


def _absolute_path(key: str, value: str, caller: Path) -> str:
    name = NAMES.get(key.replace("-", "_"))
    if name is None or not FIELDS[name].metadata.get("path") or value.lower() in NO_PATHS:
        return value
    if value.startswith(("/", "~", "$")) or "://" in value or (name == "img_ids" and not (caller / value).exists()):
        return value
    return os.path.normpath(caller / value)
