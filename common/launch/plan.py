"""From a job to the processes of this server: folders, environments, cores, commands. Imports no MindSpore.

Two ways to start several processes: with a rank table in the environment of each, as HCCL's documentation has it, or
with MindSpore's own launcher ``msrun``, for which the table only says who takes part.
"""
import ipaddress
import os
import shlex
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

from common.config.options import CALLER_VARIABLE
from common.context.cores import share_cores
from common.errors import UserError
from common.launch.job import DEVICES, ROOT, Job
from common.rank_table.table import numbers

# What launchers leave in the environment. A process that finds the wrong one of them waits for others that never come,
# and RANK_TABLE_FILE alone makes MindSpore skip a check for overflow.
LAUNCHER_VARIABLES = ("RANK_TABLE_FILE", "MINDSPORE_HCCL_CONFIG_PATH", "RANK_ID", "RANK_SIZE", "MS_ROLE",
                      "MS_WORKER_NUM", "MS_SCHED_HOST", "MS_SCHED_PORT", "MS_NODE_ID")
CLUSTER_TIMEOUT = 600  # seconds that processes wait for each other: the first compilation of a large network is long
FIRST_PORT = 8118  # msrun's own default


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
        folder: where it runs, and where its ``log`` is.
        command: program and arguments.
        set: variables of its environment.
        unset: variables that it must not inherit.
        rank: its rank; ``None`` for msrun, which starts the ranks itself.
    """

    folder: Path
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
        UserError: if msrun cannot do what the table says.
    """
    folders = [job.results / f"{job.folder_name}{number}" for number in range(job.local)]
    if not job.launcher:
        return _single(job)
    if job.launcher == "msrun":
        return _with_msrun(job, folders)
    return _with_table(job, folders)


def _entry_command(job: Job) -> list[str]:
    """Return the command of a rank; what the user gave himself is not given a second time."""
    own = {"config_path": str(job.config), "device_target": DEVICES[job.request.device],
           "distribute": "True" if job.launcher else "False"}
    given = {word[2:].partition("=")[0].replace("-", "_") for word in job.arguments if word.startswith("--")}
    flags = [word for name, value in own.items() if name not in given for word in (f"--{name}", value)]
    return [job.python, str(job.entry), *flags, *job.arguments]


def _bound(command: list[str], cores: list[int]) -> tuple[str, ...]:
    return tuple((["taskset", "-c", numbers(cores)] if cores and shutil.which("taskset") else []) + command)


def _common_variables(job: Job) -> dict[str, str]:
    wanted = {"PYTHONUNBUFFERED": "1"} | ({"HCCL_CONNECT_TIMEOUT": str(CLUSTER_TIMEOUT)} if job.table else {})
    given = {name: job.environment.get(name) or value for name, value in wanted.items()}
    return given | {CALLER_VARIABLE: os.path.abspath(job.caller)}


def _single(job: Job) -> Plan:
    device = job.environment.get("DEVICE_ID") or "0"
    folder = job.results / job.folder_name
    rank = Rank(0, int(device) if device.isdigit() else 0, folder)
    variables = _common_variables(job) | ({"DEVICE_ID": device} if job.request.device != "cpu" else {})
    return Plan((rank,), (Process(folder, tuple(_entry_command(job)), variables, LAUNCHER_VARIABLES, rank),), 1)


def _with_table(job: Job, folders: list[Path]) -> Plan:
    ranks = tuple(Rank(device.rank, device.id, folder) for device, folder in zip(job.server.devices, folders))
    shares = share_cores(job.local)
    processes = []
    for rank, cores in zip(ranks, shares):
        variables = _common_variables(job) | {
            "RANK_TABLE_FILE": str(job.table.path.absolute()), "RANK_ID": str(rank.rank),
            "RANK_SIZE": str(job.table.world_size), "DEVICE_ID": str(rank.device)}
        # device ids of the table count all devices of the server, so nothing may hide some of them
        unset = tuple(name for name in (*LAUNCHER_VARIABLES, "ASCEND_RT_VISIBLE_DEVICES") if name not in variables)
        processes.append(Process(rank.folder, _bound(_entry_command(job), cores), variables, unset, rank))
    return Plan(ranks, tuple(processes), job.table.world_size)


def _with_msrun(job: Job, folders: list[Path]) -> Plan:
    node, nodes = 0, 1
    devices = list(range(job.local))
    variables = _common_variables(job)
    unset = [*LAUNCHER_VARIABLES, "DEVICE_ID"]
    if job.table:
        servers = job.table.by_rank
        node, nodes = servers.index(job.server), len(servers)
        if len({len(server.devices) for server in servers}) > 1:
            counts = ", ".join(f"{len(one.devices)} on {one.id}" for one in servers)
            raise UserError(f"LAUNCHER: msrun needs the same number of devices on every server, and {job.table.path} "
                            f"has {counts}; use LAUNCHER=rank_table.")
        devices = sorted(device.id for device in job.server.devices)
        unset.append("ASCEND_RT_VISIBLE_DEVICES")
        if devices != list(range(job.local)):  # msrun numbers the devices from 0: show it only those of the table
            variables["ASCEND_RT_VISIBLE_DEVICES"] = ",".join(map(str, devices))
            unset.remove("ASCEND_RT_VISIBLE_DEVICES")
    ranks = tuple(Rank(node * job.local + number, device, folder)
                  for number, (device, folder) in enumerate(zip(devices, folders)))
    program, interpreter, path = _find_msrun(job)
    if path:
        variables["PATH"] = path
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), job.environment.get("PYTHONPATH"))))
    logs = folders[0] / "msrun"
    command = [program, f"--worker_num={nodes * job.local}", f"--local_worker_num={job.local}",
               f"--node_rank={node}", f"--master_addr={_master(job)}", f"--master_port={_port(job, nodes)}",
               f"--log_dir={logs}", "--join=True", f"--cluster_time_out={CLUSTER_TIMEOUT}",
               interpreter, "-m", "common.launch.rank", str(job.results / job.folder_name),
               str(job.local if job.table else 0), *_entry_command(job)]
    return Plan(ranks, (Process(logs, tuple(command), variables, tuple(unset), None),), nodes * job.local)


def _find_msrun(job: Job) -> tuple[str, str, str]:
    """Return msrun, the name by which it shall call Python, and the PATH on which it finds this name.

    msrun belongs to the Python in whose folder it lies, and starts no other program but one of these names.
    """
    beside = Path(job.python).parent
    program = shutil.which("msrun", path=str(beside)) or shutil.which("msrun", path=job.environment.get("PATH"))
    if not program:
        raise UserError(f"LAUNCHER: msrun is neither beside {job.python} nor on PATH; it comes with MindSpore 2.3 and "
                        "newer.")
    name = next((name for name in ("python", "python3") if (beside / name).exists()), "python")
    path = job.environment.get("PATH", "")
    found = shutil.which(name, path=path)
    suits = found and Path(found).parent == beside
    return program, name, "" if suits else os.pathsep.join(filter(None, (str(beside), path)))


def _master(job: Job) -> str:
    given = job.environment.get("MASTER_ADDR")
    if given or not job.table or len(job.table.servers) == 1:
        return given or "127.0.0.1"
    name = job.table.by_rank[0].id
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return socket.gethostbyname(name)
    except OSError:
        raise UserError(f"MASTER_ADDR: msrun needs the address of the server with rank 0, and its server_id '{name}' "
                        "is none; set MASTER_ADDR.") from None


def _port(job: Job, nodes: int) -> int:
    """Return the port of the scheduler: MASTER_PORT, or one that is free; several servers must agree on it."""
    given = job.environment.get("MASTER_PORT", "")
    if given:
        if not (given.isascii() and given.isdigit() and 1024 <= int(given) <= 65535):
            raise UserError(f"MASTER_PORT: '{given}' must be a number from 1024 to 65535.")
        return int(given)
    for port in range(FIRST_PORT, FIRST_PORT + (200 if nodes == 1 else 0)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    return FIRST_PORT


def shell_commands(plan: Plan, inherited: dict[str, str]) -> list[str]:
    """Return the plan as commands for a shell, one per process, each after a line that says what it is."""
    lines = []
    for process in plan.processes:
        ranks = [process.rank] if process.rank else list(plan.ranks)
        what = "; ".join(f"rank {rank.rank} of {plan.world_size} on device {rank.device} in {rank.folder}"
                         for rank in ranks)
        unset = [word for name in process.unset if name in inherited for word in ("-u", name)]
        words = ["env", *unset, *(f"{name}={value}" for name, value in process.set.items()), *process.command]
        lines += [f"# {what}", f"cd {shlex.quote(str(process.folder))} && {shlex.join(words)} > log 2>&1"]
    return lines
