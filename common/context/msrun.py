"""Whether the processes that msrun starts can meet. Imports no MindSpore.

msrun starts a scheduler, at whose port the workers meet, and does not look after it until the workers have ended. Where
the port is taken, the scheduler ends at once, and the workers would wait for it for ten minutes without a word (they
cannot be interrupted meanwhile). So a worker first looks whether the scheduler beside it is there and listens.
"""
import os
import socket
import time
from pathlib import Path
from typing import Mapping

from common.errors import UserError

LISTENING = "0A"  # in /proc/net/tcp
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
        states = {pid: _fields(pid)[0] for pid in _family()}
        ended = "Z" in states.values()
        alive = [pid for pid, state in states.items() if state != "Z"]
        schedulers = [pid for pid in alive if b"MS_ROLE=MS_SCHED" in _read(pid, "environ")]
        listens = not schedulers or any(_has_socket(pid, _listening(port)) for pid in schedulers)
    except (OSError, ValueError, IndexError):
        return not Path("/proc/self/stat").exists()  # a process has gone meanwhile; without /proc there is no looking
    if ended:
        raise UserError("distribute: msrun's scheduler has ended, and its log, scheduler.log, says why; if the port "
                        f"{port} is in use, give another one (msrun --master_port, or MASTER_PORT for the scripts).")
    return listens


def _family() -> list[str]:
    """Return the children of msrun, if it is the parent of this process or of the ``common.launch.rank`` above it."""
    parent = os.getppid()
    if b"common.launch.rank" in _read(parent, "cmdline"):
        parent = int(_fields(parent)[1])
    children = Path(f"/proc/{parent}/task/{parent}/children")
    known = b"msrun" in _read(parent, "cmdline") and children.exists()  # some kernels do not list them
    return children.read_text(encoding="ascii").split() if known else []


def _read(pid: int | str, name: str) -> bytes:
    return Path(f"/proc/{pid}/{name}").read_bytes()


def _fields(pid: int | str) -> list[str]:
    """Return what follows the name of a process in its ``stat``: state, parent, ..."""
    return _read(pid, "stat").decode(errors="replace").rsplit(")", 1)[1].split()


def _listening(port: int) -> set[str]:
    """Return the numbers of the sockets that listen at a port."""
    lines = [line.split() for name in ("tcp", "tcp6") if (file := Path(f"/proc/net/{name}")).exists()
             for line in file.read_text(encoding="ascii").splitlines()[1:]]
    return {f"socket:[{line[9]}]" for line in lines if line[3] == LISTENING and line[1].endswith(f":{port:04X}")}


def _has_socket(pid: str, sockets: set[str]) -> bool:
    return any(os.readlink(file) in sockets for file in Path(f"/proc/{pid}/fd").iterdir())
