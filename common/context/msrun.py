"""Whether the processes that msrun starts can meet. Imports no MindSpore.

msrun starts a scheduler, at whose port the workers meet, and does not look after it until the workers have ended. Where
the port is taken, the scheduler ends at once, and the workers would wait for it for ten minutes without a word (they
cannot be interrupted meanwhile). So a worker first looks whether the scheduler beside it is there and listens.
"""
import socket
import time
from pathlib import Path
from typing import Mapping

import psutil

from common.errors import UserError

PATIENCE = 60.0  # seconds; a scheduler that is not to be seen for so long is left to the framework


def check_msrun(environment: Mapping[str, str]) -> None:
    """Return when the scheduler of this machine listens, or there is none, or nothing can be said.

    Raises:
        UserError: in the scheduler, if its port cannot be used; in a worker, if the scheduler has ended.
    """
    role, host = environment.get("MS_ROLE"), environment.get("MS_SCHED_HOST", "")
    port = int(environment.get("MS_SCHED_PORT") or 0)
    if role == "MS_SCHED":
        _check_port(host, port)
    elif role == "MS_WORKER":
        end = time.monotonic() + PATIENCE
        while not _listens(port) and time.monotonic() < end:
            time.sleep(0.2)


def _check_port(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(f"distribute: the port {port} of {host}, at which the processes meet, cannot be used: "
                            f"{error.strerror}; give another one (msrun --master_port, or MASTER_PORT for the scripts)."
                            ) from error


def _listens(port: int) -> bool:
    """Whether the scheduler among msrun's children listens; also if there is none.

    Raises:
        UserError: if a child has ended unnoticed: the scheduler, since msrun notices the end of its workers.
    """
    try:
        children = _children_of_msrun()
        ended = any(child.status() == psutil.STATUS_ZOMBIE for child in children)
        schedulers = [] if ended else [child for child in children if child.environ().get("MS_ROLE") == "MS_SCHED"]
        listens = not schedulers or any(
            connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
            for scheduler in schedulers for connection in scheduler.net_connections("tcp"))
    except psutil.Error:
        return False  # a process has gone meanwhile, or may not be looked at
    if ended:
        raise UserError("distribute: msrun's scheduler has ended, and its log, scheduler.log, says why; if the port "
                        f"{port} is in use, give another one (msrun --master_port).")
    return listens


def _children_of_msrun() -> list[psutil.Process]:
    """Return the children of msrun, if it has started this process, itself or by another between them."""
    for above in psutil.Process().parents()[:2]:
        if any(Path(word).name == "msrun" for word in above.cmdline()):
            return above.children()
    return []
