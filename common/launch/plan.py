"""From a job to the processes of this server: folders, environments, cores, commands. Imports no MindSpore.

Several processes join by MindSpore's dynamic cluster (``common/context/cluster.py``), which also fits servers with
unequal numbers of devices; the server with rank 0 runs the scheduler. A rank table only says who takes part.
"""
import os
import random
import shlex
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Mapping, Sequence

from common.config.options import CALLER_VARIABLE
from common.context.cluster import VARIABLES, scheduler_variables, worker_variables
from common.context.cores import share_cores
from common.launch.job import DEVICES, ROOT, Job
from common.launch.platform import scheduler_host, scheduler_port
from common.rank_table.table import numbers

VISIBLE = {"ascend": "ASCEND_RT_VISIBLE_DEVICES", "gpu": "CUDA_VISIBLE_DEVICES"}


@dataclass(frozen=True)
class Rank:
    """A process of the job: its number among all, its device, and the folder in which it runs."""

    rank: int
    device: int
    folder: Path


@dataclass(frozen=True)
class Process:
    """A command to start.

    Attributes:
        folder: where it runs.
        log: the file in it that takes what it says.
        command: program and arguments.
        set: variables of its environment.
        unset: variables that it must not inherit.
        rank: its rank; ``None`` for the scheduler.
    """

    folder: Path
    log: str
    command: tuple[str, ...]
    set: dict[str, str]
    unset: tuple[str, ...]
    rank: Rank | None

    def environment(self, inherited: dict[str, str]) -> dict[str, str]:
        """Return the whole environment of the process."""
        return {name: value for name, value in inherited.items() if name not in self.unset} | self.set


@dataclass(frozen=True)
class Plan:
    """What starts on this server."""

    ranks: tuple[Rank, ...]
    processes: tuple[Process, ...]
    world_size: int


def make_plan(job: Job) -> Plan:
    """Lay out the processes of this server.

    Raises:
        UserError: if the address or the port at which they meet is not to be found, or cannot be used.
    """
    return _single(job) if job.request.kind == "standalone" else _several(job)


def _entry_command(job: Job) -> list[str]:
    """Return the command of a rank; what the user gave himself is not given a second time."""
    own = {"config_path": str(job.config), "device_target": DEVICES[job.request.device],
           "distribute": str(job.request.kind == "distribute")}
    given = {word[2:].partition("=")[0].replace("-", "_") for word in job.arguments if word.startswith("--")}
    flags = [word for name, value in own.items() if name not in given for word in (f"--{name}", value)]
    return [job.python, str(job.entry), *flags, *job.arguments]


def _bound(command: list[str], cores: list[int]) -> tuple[str, ...]:
    return tuple((["taskset", "-c", numbers(cores)] if cores and shutil.which("taskset") else []) + command)


def _common_variables(job: Job) -> dict[str, str]:
    return {"PYTHONUNBUFFERED": job.environment.get("PYTHONUNBUFFERED") or "1",
            CALLER_VARIABLE: os.path.abspath(job.caller)}


def _single(job: Job) -> Plan:
    device = job.environment.get("DEVICE_ID") or "0"
    folder = job.results / job.folder_name
    rank = Rank(0, int(device) if device.isdigit() else 0, folder)
    variables = _common_variables(job) | ({"DEVICE_ID": device} if job.request.device != "cpu" else {})
    return Plan((rank,), (Process(folder, "log", tuple(_entry_command(job)), variables, VARIABLES, rank),), 1)


def _several(job: Job) -> Plan:
    cards = ([(device.rank, device.id) for device in job.server.devices] if job.server
             else [(number, number) for number in range(job.local)])
    devices = sorted(device for _, device in cards)
    size = job.table.world_size if job.table else job.local
    host, port = scheduler_host(job.table, job.environment), scheduler_port(job.environment)
    if size == job.local and not job.environment.get("MASTER_PORT"):  # several servers must agree
        port = _free_port(port)
    # every process counts the devices that it is shown from 0, as msrun's do
    shown = VISIBLE.get(job.request.device)
    limits = {shown: ",".join(map(str, devices))} if shown and devices != list(range(job.local)) else {}
    unset = VARIABLES if job.table is None or not job.table.names_devices else (*VARIABLES, *VISIBLE.values())
    shares = share_cores(job.local) if job.request.device == "ascend" else [[]] * job.local
    ranks, processes = [], []
    for number, ((rank, device), cores) in enumerate(zip(cards, shares)):
        ranks.append(Rank(rank, device, job.results / f"{job.folder_name}{number}"))
        variables = (_common_variables(job) | limits | worker_variables(rank, size, host, port)
                     | {"DEVICE_ID": str(devices.index(device))})
        processes.append(Process(ranks[-1].folder, "log", _bound(_entry_command(job), cores), variables,
                                 _without(unset, variables), ranks[-1]))
    if ranks[0].rank == 0:
        variables = scheduler_variables(size, host, port) | {"PYTHONPATH": str(ROOT)}
        processes.append(Process(ranks[0].folder, "scheduler.log", (job.python, "-m", "common.context.scheduler"),
                                 variables, _without(unset, variables), None))
    return Plan(tuple(ranks), tuple(processes), size)


def _without(names: Sequence[str], variables: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(name for name in names if name not in variables)


def _free_port(first: int) -> int:
    """Return a port of the 200 from ``first`` on that is free on this machine.

    Any of them: a job listens only seconds later, until when another one that is started would find the same.
    """
    for port in random.sample(range(first, first + 200), 200):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    return first


def shell_commands(plan: Plan, inherited: dict[str, str]) -> list[str]:
    """Return the plan as commands for a shell, one per process, each after a line that says what it is."""
    lines = []
    for process in plan.processes:
        rank = process.rank
        what = (f"rank {rank.rank} of {plan.world_size} on device {rank.device} in {rank.folder}" if rank
                else f"the scheduler, at which all ranks meet: {process.folder / process.log}")
        unset = [word for name in process.unset if name in inherited for word in ("-u", name)]
        words = ["env", *unset, *(f"{name}={value}" for name, value in process.set.items()), *process.command]
        lines += [f"# {what}", f"cd {shlex.quote(str(process.folder))} && {shlex.join(words)} > {process.log} 2>&1"]
    return lines
