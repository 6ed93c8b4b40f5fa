"""Cloud platforms (ModelArts, OpenI): data and weights are fetched before a run, its results are sent away after it.

These platforms start the entry point itself, once per card. Of the processes of a node the first one that comes
fetches; the others wait for it and see its error. (Which card that is cannot be fixed: a job may use any cards of a
node, and the variables with their numbers may be missing.) A marker with the job and the source says what has been
fetched, so that one left by another job counts for nothing. Imports no MindSpore.
"""
import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator, Mapping

from common.cloud.data import data_root, unpack_archives
from common.cloud.storage import bring, check_local, failing, optional, send as send_of_storage
from common.config.addresses import base_name, has_c2net, is_remote, sources as sources_of_addresses
from common.config.datasets import DATASETS
from common.config.options import TRAINING_TASKS, Config
from common.config.rules import check_paths
from common.dataset.once import once
from common.errors import UserError
from common.files import make_folder, write_whole
from common.logger import set_up

DATA, WEIGHTS = Path("/cache/data"), Path("/cache/pretrain")  # the large local disk of both platforms
PATIENCE_VARIABLE = "ZOO_STAGING_SECONDS"  # environment: how long a process waits for the one that fetches
PATIENCE = 4 * 3600
FRESH_SECONDS = 60.0  # without the name of the job, an older marker may be that of an earlier start
_SENT = ".sent-after-failure"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """Where a process is among those of its job.

    Attributes:
        job: the platform's name of the job; empty: unknown.
        size: number of processes of the job.
        leader: whether it sends the results of its node. Rank 0, which writes the checkpoints, always does.
        patience: seconds that it waits for another process.
    """

    job: str = ""
    size: int = 1
    leader: bool = True
    patience: float = PATIENCE


def place(environment: Mapping[str, str]) -> Place:
    """Read the variables of ModelArts, OpenI, msrun, mpirun and rank-table scripts; any may be missing or empty.

    Raises:
        UserError: if the variable for the patience is no number.
    """
    def number(*names: str) -> int | None:
        return next((int(text) for name in names if (text := environment.get(name, "").strip()).isdecimal()), None)

    rank = number("RANK_ID", "OMPI_COMM_WORLD_RANK")
    device = number("OMPI_COMM_WORLD_LOCAL_RANK", "DEVICE_ID", "ASCEND_DEVICE_ID")
    size = max(1, number("RANK_SIZE", "OMPI_COMM_WORLD_SIZE", "MS_WORKER_NUM") or 1)
    nodes = number("MA_NUM_HOSTS", "VC_WORKER_NUM") or 0
    per_node = size // nodes if nodes and size % nodes == 0 else min(size, 8)
    known = [index for index in (rank, device) if index is not None]
    patience = environment.get(PATIENCE_VARIABLE, "").strip() or str(PATIENCE)
    if not patience.isdecimal():
        raise UserError(f"{PATIENCE_VARIABLE}: {patience!r} is not a number of seconds.")
    return Place(environment.get("JOB_ID", "").strip(), size,
                 not known or any(index % per_node == 0 for index in known), float(patience))


@contextlib.contextmanager
def staged(config: Config, environment: Mapping[str, str],
           reread: Callable[[str], Config] | None = None) -> Iterator[Config]:
    """Fetch what the run needs, give its configuration with local paths, and send its results, after a failure too.

    A run that failed stays the failure that it was, whatever becomes of its results.

    Args:
        config: ``enable_modelarts``, the addresses and the local folders.
        environment: that of the process.
        reread: gives the configuration with what a checkpoint, which has only now been fetched, says of itself.

    Raises:
        UserError: if something cannot be fetched, in every process of the node; or cannot be sent after a success.
    """
    if not config.enable_modelarts:
        yield config
        return
    here = place(environment)
    set_up(None, 0 if here.leader else 1)
    _check_addresses(config)
    config = _with_settings(config, fetch(config, environment, here), reread)
    check_paths(dataclasses.replace(config, enable_modelarts=False), config.task)
    for folder in _results(config):
        (folder / _SENT).unlink(missing_ok=True)
    try:
        yield config
    except BaseException:
        _send_after_failure(config, environment, here)
        raise
    if here.leader:
        send(config, environment)


def _with_settings(before: Config, fetched: Config, reread: Callable[[str], Config] | None) -> Config:
    """Take over what a checkpoint that was not there before says, but for what the fetching has changed."""
    if reread is None or Path(before.ckpt_path).is_file() or not Path(fetched.ckpt_path).is_file():
        return fetched
    changed = {field.name: value for field in dataclasses.fields(fetched) if field.name != "given"
               and (value := getattr(fetched, field.name)) != getattr(before, field.name)}
    if "data_dir" in changed:
        changed["eval_dir"] = fetched.eval_dir  # the checkpoint's belongs to the machine of its training
    return dataclasses.replace(reread(fetched.ckpt_path), **changed)


def send_unfinished(config: Config, environment: Mapping[str, str]) -> None:
    """Send the results of a run that is being ended from outside."""
    if config.enable_modelarts:
        _send_after_failure(config, environment, place(environment))


def _check_addresses(config: Config) -> None:
    """A missing package, or a folder that cannot be made, is to show now and not after the training."""
    for key in ("data_url", "multi_data_url", "checkpoint_url", "train_url"):
        for address, _ in sources_of_addresses(key, getattr(config, key)):
            if is_remote(address):
                optional("moxing", key, address)
            elif key == "train_url":
                make_folder(key, Path(address))


def fetch(config: Config, environment: Mapping[str, str], here: Place) -> Config:
    """Fetch data and weights once per node and return the configuration with the paths where they are.

    Raises:
        UserError: naming the key and the address.
    """
    if _uses_c2net(config, environment):
        config = _prepare_c2net(config, here)
    else:
        config = _fetch_weights(_fetch_data(config, here), here)
    if not config.output_path:
        return config
    output = Path(config.output_path)
    make_folder("output_path", output)
    if "ckpt_save_dir" not in config.given:
        config = dataclasses.replace(config, ckpt_save_dir=config.output_path)
    if config.task == "export":
        config = dataclasses.replace(config, file_name=str(output / (config.file_name or config.model)))
    return config


def send(config: Config, environment: Mapping[str, str]) -> None:
    """Copy the results to ``train_url``, or have OpenI's c2net send them.

    Raises:
        UserError: if they cannot be copied.
    """
    c2net = _uses_c2net(config, environment) and not config.train_url
    address = config.output_path if c2net else config.train_url
    for folder in _results(config) if address else []:
        send_of_storage(folder, address)
    if c2net and address:
        context = optional("c2net.context", "output_path", config.output_path)
        with failing("output_path", config.output_path, "OpenI"):
            context.upload_output()


def _send_after_failure(config: Config, environment: Mapping[str, str], here: Place) -> None:
    """Send what there is, from whichever process fails first: the leader may wait for it until the platform ends it."""
    folders = _results(config)
    if not folders or not (config.train_url or _uses_c2net(config, environment)):
        return
    try:
        once(folders[0] / _SENT, lambda: send(config, environment), patience=here.patience)
    except (UserError, TimeoutError) as error:
        logger.error("The results of the failed run could not be sent: %s", error)


def _results(config: Config) -> list[Path]:
    """Return the folders that hold results: ``output_path``, and the run folder where it lies elsewhere."""
    found = [Path(config.output_path)] if config.output_path else []
    run = Path(config.ckpt_save_dir)
    if config.task in TRAINING_TASKS and not any(run.resolve().is_relative_to(path.resolve()) for path in found):
        found.append(run)
    return [path for path in found if path.is_dir() and any(path.iterdir())]


# Data.

def _fetch_data(config: Config, here: Place) -> Config:
    key = "multi_data_url" if sources_of_addresses("multi_data_url", config.multi_data_url) else "data_url"
    sources = sources_of_addresses(key, getattr(config, key))
    if not sources:
        return config
    first = sources[0][0]
    if len(sources) == 1 and not is_remote(first) and not config.data_path and not Path(first).is_file():
        check_local(key, first)
        return _with_data(config, Path(first))  # the platform has brought it; no second copy
    folder = Path(config.data_path or DATA)
    _refuse_other_sources(folder, [url for url, _ in sources])
    for url, name in sources:
        def work(url: str = url, name: str = name) -> None:
            bring(key, url, folder, name)
            unpack_archives(folder, config.task, own_folders=bool(name))

        _once("data_path", key, url, folder, work, here)
    return _with_data(config, folder)


def _with_data(config: Config, folder: Path) -> Config:
    """Point ``data_dir`` and ``eval_dir`` to what was fetched, unless they name something else that is there."""
    root = data_root(folder)
    changes = {}
    for key, otherwise in (("data_dir", str(root)), ("eval_dir", "")):
        named = getattr(config, key)
        path = Path(named or folder)
        if named.lower().endswith(".json"):
            continue  # a list of images, looked for in data_dir
        if path.absolute().is_relative_to(folder.absolute()):
            below = path.absolute().relative_to(folder.absolute())
            changes[key] = str(path if path.exists() else root / below) if below.parts else otherwise
        elif path.exists():
            logger.warning("%s: %s is used, although data was fetched to %s", key, path, folder)
        else:
            logger.warning("%s: %s is not there; what was fetched to %s is used", key, path, folder)
            changes[key] = otherwise
    return dataclasses.replace(config, **changes)


def _refuse_other_sources(folder: Path, addresses: list[str]) -> None:
    """Two data sets in one folder would be trained on as one."""
    for marker in sorted(folder.glob(".staged-*")):
        held = {}
        with contextlib.suppress(OSError, ValueError):  # a lock, or a marker that is just being written
            held = json.loads(marker.read_text(encoding="utf-8"))
        if held.get("key") in ("data_url", "multi_data_url") and held["source"] not in addresses:
            raise UserError(f"data_path: {folder} holds the data of {held['source']}, with which that of "
                            f"{', '.join(addresses)} must not be mixed; empty it, or give another --data_path.")


# Weights.

def _fetch_weights(config: Config, here: Place) -> Config:
    sources = sources_of_addresses("checkpoint_url", config.checkpoint_url)
    fetched: list[Path] = []
    for url, name in sources:
        if not is_remote(url) and not config.load_path:
            check_local("checkpoint_url", url)
            target = Path(url)
        else:
            folder = Path(config.load_path or WEIGHTS)
            name = name or base_name(url)  # so that the checkpoints of several sources stay apart
            _once("load_path", "checkpoint_url", url, folder,
                  lambda: bring("checkpoint_url", url, folder, name), here)
            target = folder / name
        fetched += [target] if target.is_file() else sorted(target.rglob("*.ckpt"))
    return _with_weights(config, fetched) if sources else config


def _with_weights(config: Config, fetched: list[Path]) -> Config:
    """Point ``ckpt_path`` to the checkpoint that was fetched; of several, its name or a part of its path chooses."""
    if config.ckpt_path and Path(config.ckpt_path).exists():
        return config
    wanted = Path(config.ckpt_path)
    found = [path for path in fetched if not config.ckpt_path or path.name == wanted.name]
    exact = [path for path in found if path.parts[-len(wanted.parts):] == wanted.parts]
    if len(exact or found) == 1:
        return dataclasses.replace(config, ckpt_path=str((exact or found)[0]))
    names = ", ".join(map(str, fetched[:5])) or "no checkpoint"
    raise UserError(f"ckpt_path: {config.ckpt_path!r} does not say which of the fetched checkpoints is meant "
                    f"({names}); give its name.")


# OpenI's c2net.

def _uses_c2net(config: Config, environment: Mapping[str, str]) -> bool:
    return has_c2net(environment) and not (config.data_url or
                                                   sources_of_addresses("multi_data_url", config.multi_data_url))


def _prepare_c2net(config: Config, here: Place) -> Config:
    """Have c2net fetch what was chosen on OpenI's page, once per node. Its own folders may be read-only."""
    def work() -> None:
        module = optional("c2net.context", "enable_modelarts", "what OpenI offers")
        with failing("data_path", "what was chosen on OpenI's page", "this machine"):
            context = module.prepare()
        write_whole(found, json.dumps([context.dataset_path, context.pretrain_model_path, context.output_path]))

    folder = Path(tempfile.gettempdir()) / f"zoo_c2net_{os.getuid()}"
    found = folder / f"paths-{_digest(here.job)}.json"
    _once("TMPDIR", "data_path", "OpenI", folder, work, here)
    data, weights, output = json.loads(found.read_text(encoding="utf-8"))
    config = dataclasses.replace(config, output_path=output or config.output_path)
    if not DATASETS[config.dataset].in_repository:
        config = _with_data(config, Path(data))
    files = sorted(Path(weights).rglob("*.ckpt")) if weights else []
    return _with_weights(config, files) if files else config


# Once per node.

def _once(folder_key: str, key: str, source: str, folder: Path, work: Callable[[], None], here: Place) -> None:
    """Do ``work`` in one process of the node, and leave a marker that names the job and the source."""
    marker = folder / f".staged-{_digest(here.job, key, source)}"
    make_folder(folder_key, folder)
    if not here.job:
        _forget_earlier_start(marker, here)

    def work_and_mark() -> None:
        work()
        text = json.dumps({"job": here.job, "key": key, "source": source, "time": time.strftime("%F %T")})
        write_whole(marker, text + "\n")

    logger.info("%s: %s is brought to %s", key, source, folder)
    began = time.monotonic()
    try:
        once(marker, work_and_mark, patience=here.patience)
    except TimeoutError as error:
        raise UserError(f"{key}: {source} was not in {folder} after {here.patience:g} seconds, in which another "
                        f"process of this node worked on it; see its log, or set {PATIENCE_VARIABLE} to wait "
                        "longer.") from error
    logger.info("%s: %s is in %s after %.0f s", key, source, folder, time.monotonic() - began)


def _forget_earlier_start(marker: Path, here: Place) -> None:
    """Remove a marker that an earlier start may have left; the processes of one start come within a minute."""
    with contextlib.suppress(OSError):
        if here.size == 1 or time.time() - marker.stat().st_mtime > FRESH_SECONDS:
            marker.unlink()


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
