"""How the processes of a job find each other: MindSpore's dynamic cluster. Imports no MindSpore.

A scheduler (``scheduler.py``) listens at an address that all know; every process registers there under its rank. The
environment says it to each: ``worker_variables`` and ``scheduler_variables``. ``msrun`` and the launch scripts start the
scheduler themselves; where a platform starts one process per card, rank 0 does (``SCHEDULER_HERE``).

A process that waits in ``init()`` hears no signal and says no word, for ten minutes if nobody comes. So it first looks
whether the scheduler beside it is there and listens.
"""
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Callable, Iterator, Mapping

import psutil

from common.command import ENDING
from common.errors import UserError
from common.files import ROOT

TIMEOUT = 600  # seconds that processes wait for each other: the first compilation of a large network is long
PORT = 8118  # msrun's own default
PATIENCE = 60.0  # seconds; a scheduler that is not to be seen for so long is left to the framework
GRACE = 2.0  # seconds in which whoever ends msrun will have ended its processes too, if he means to
SCHEDULER_HERE = "ZOO_SCHEDULER_HERE"  # environment: this process starts the scheduler of its job
# What launchers leave in the environment. A process that finds the wrong one of them waits for others that never come,
# and RANK_TABLE_FILE is refused by MindSpore 2.10 and makes it skip a check for overflow.
TABLE_VARIABLES = ("RANK_TABLE_FILE", "MINDSPORE_HCCL_CONFIG_PATH")
VARIABLES = (*TABLE_VARIABLES, "RANK_ID", "RANK_SIZE", "MS_ROLE", "MS_WORKER_NUM", "MS_SCHED_HOST", "MS_SCHED_PORT",
             "MS_NODE_ID", SCHEDULER_HERE)


def worker_variables(rank: int, size: int, host: str, port: int) -> dict[str, str]:
    """Return the variables by which a process joins as ``rank`` of ``size`` at the scheduler of ``host`` and ``port``."""
    return {"MS_ROLE": "MS_WORKER", "MS_WORKER_NUM": str(size), "MS_SCHED_HOST": host, "MS_SCHED_PORT": str(port),
            "MS_NODE_ID": str(rank), "RANK_ID": str(rank), "RANK_SIZE": str(size)}


def scheduler_variables(size: int, host: str, port: int) -> dict[str, str]:
    """Return the variables of the scheduler for ``size`` processes."""
    return {"MS_ROLE": "MS_SCHED", "MS_WORKER_NUM": str(size), "MS_SCHED_HOST": host, "MS_SCHED_PORT": str(port)}


def launched_size(environment: Mapping[str, str]) -> int | None:
    """Return the number of processes of which a launcher has started this one; ``None``: no launcher did."""
    names = ["MS_WORKER_NUM"] if environment.get("MS_ROLE") else ["OMPI_COMM_WORLD_SIZE"]
    given = next((text for name in names if (text := environment.get(name, ""))), "")
    if not given and environment.get("RANK_SIZE") == "1":
        given = "1"  # a platform's job of one card
    return int(given) if given.isdecimal() else None


@contextlib.contextmanager
def scheduler_ready(environment: Mapping[str, str]) -> Iterator[None]:
    """Do what is inside, joining the others, when the scheduler of this machine listens, or nothing can be said.

    Raises:
        UserError: in the scheduler, if its port cannot be used; in a worker, if the scheduler beside it has ended.
    """
    role, host = environment.get("MS_ROLE"), environment.get("MS_SCHED_HOST", "")
    port = int(environment.get("MS_SCHED_PORT") or 0)
    if role == "MS_SCHED":
        check_port(host, port)
    if role != "MS_WORKER":
        yield
    elif not environment.get(SCHEDULER_HERE):
        if msrun := _msrun():
            threading.Thread(target=_end_with, args=(msrun,), daemon=True).start()
            _wait(msrun.children, port)
        yield
    else:
        path = os.pathsep.join(filter(None, (str(ROOT), environment.get("PYTHONPATH"))))
        variables = {"MS_ROLE": "MS_SCHED", "PYTHONPATH": path}
        own = subprocess.Popen([sys.executable, "-m", "common.context.scheduler", "child"], stdin=subprocess.PIPE,
                               start_new_session=True, env={**environment, **variables})
        _wait(lambda: [psutil.Process(own.pid), *psutil.Process(own.pid).children()], port)
        yield
        own.stdin.write(b"joined")  # from now on it ends when all have left
        own.stdin.close()


def check_port(host: str, port: int) -> None:
    """Raise a UserError if nothing can listen at the port ``port`` of ``host``."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(f"distribute: the port {port} of {host}, at which the processes meet, cannot be used: "
                            f"{error.strerror}; give another one (msrun --master_port, otherwise MASTER_PORT)."
                            ) from error


def _wait(family: Callable[[], list[psutil.Process]], port: int) -> None:
    """Wait until the scheduler among ``family`` listens, if there is one."""
    end = time.monotonic() + PATIENCE
    while not _listens(family, port) and time.monotonic() < end:
        time.sleep(0.2)


def _listens(family: Callable[[], list[psutil.Process]], port: int) -> bool:
    """Whether the scheduler among the processes listens; also if there is none.

    Raises:
        UserError: if one has ended unnoticed: the scheduler, since a launcher notices the end of its workers.
    """
    try:
        processes = family()
        ended = any(process.status() == psutil.STATUS_ZOMBIE for process in processes)
        schedulers = [] if ended else [one for one in processes if one.environ().get("MS_ROLE") == "MS_SCHED"]
        listens = not schedulers or any(
            connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
            for scheduler in schedulers for connection in scheduler.net_connections("tcp"))
    except psutil.Error:
        return False  # a process has gone meanwhile, or may not be looked at
    if ended:
        raise UserError("distribute: the scheduler, at which the processes meet, has ended, and its log (scheduler.log "
                        f"of msrun) says why; if the port {port} is in use, give another one (msrun --master_port, "
                        "otherwise MASTER_PORT).")
    return listens


def _msrun() -> psutil.Process | None:
    """Return msrun, if it has started this process, itself or by another between them."""
    with contextlib.suppress(psutil.Error):  # it has gone meanwhile, or may not be looked at
        for above in psutil.Process().parents()[:2]:
            if any(Path(word).name == "msrun" for word in above.cmdline()):
                return above
    return None


def _end_with(launcher: psutil.Process) -> None:
    """Do what SIGTERM asks for when the launcher has gone: msrun takes none of its processes along when it is ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        while launcher.is_running() and launcher.status() != psutil.STATUS_ZOMBIE:
            time.sleep(GRACE)
    time.sleep(GRACE)
    if not ENDING.asked:
        ENDING.take(signal.SIGTERM)
