"""How real processes on the CPU find each other: one server and two, a platform with a rank table, and what goes wrong.

The ranks only add up their numbers (meeting_worker.py). The "servers" are loopback addresses. All jobs run side by side.
"""
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from entry import ROOT, environment
from rank_jobs import free_port
from rank_tables import table, write
from script_tree import CPU, Tree, gone

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

MINUTE = 60  # seconds in which a job must end after something has gone wrong
HOSTS = ("127.0.0.1", "127.0.0.2")


class Meeting:
    """The processes of one job, started by the launch script on each "server", or by a platform."""

    def __init__(self, tree: Tree, name: str):
        self.tree, self.name = tree, name
        self.folder = tree.records.parent / name
        self.folder.mkdir()
        self.port = free_port()
        self.processes: list[subprocess.Popen] = []
        self.said: list[tuple[int, str, str]] = []

    def start(self, command: list, **more: str) -> None:
        variables = {"FOLDER": str(self.folder), "PYTHONPATH": str(ROOT), "PYTHON": sys.executable,
                     "MASTER_PORT": str(self.port), "GLOG_v": "3", **more}
        self.processes.append(subprocess.Popen(command, cwd=self.folder, env=environment(**variables), text=True,
                                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                               stderr=subprocess.PIPE))

    def script(self, *words, server: str = "", **more: str) -> None:
        """Start the launch script of the CPU on a server."""
        results = {"RESULTS_DIR": str(self.folder / f"server{server}")} | ({"SERVER_ID": server} if server else {})
        self.start(["bash", self.tree.root / "scripts" / CPU, *words, "gmlp_a.yaml"], **results, **more)

    def platform(self, file: Path, rank: int, **more: str) -> None:
        """Start one process as a platform does it."""
        self.start([sys.executable, ROOT / "tests" / "ranks" / "meeting_worker.py"], RANK_TABLE_FILE=str(file),
                   RANK_ID=str(rank), ASCEND_DEVICE_ID=str(rank), **more)

    def ranks(self, count: int) -> list[list[str]]:
        """Wait for what so many ranks have written: sum, number of processes, process, whether they see a table, patience."""
        end = time.monotonic() + 600  # on one core that is shared, ranks register for minutes
        files = [self.folder / f"rank_{rank}" for rank in range(count)]
        while not all(file.exists() and len(file.read_text().split()) == 5 for file in files):
            assert time.monotonic() < end, self.logs()
            time.sleep(0.1)
        return [file.read_text().split() for file in files]

    def end(self, seconds: float) -> None:
        """Wait for the end of all; keep code, output and errors of each."""
        until = time.monotonic() + seconds
        for process in self.processes:
            try:
                out, err = process.communicate(timeout=max(1.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                pytest.fail(f"{self.name} does not end:\n{self.logs()}")
            self.said.append((process.returncode, out, err))

    def logs(self) -> str:
        return "\n".join(f"== {file}\n{file.read_text(errors='replace')[-2000:]}"
                         for file in sorted(self.folder.rglob("*log")))

    def schedulers(self) -> list[int]:
        """Return the processes of its scheduler."""
        return [one.pid for one in psutil.process_iter() if belongs(one, str(self.port))]


def belongs(process: psutil.Process, port: str) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and process.environ().get("MS_SCHED_PORT") == port \
            and process.environ().get("MS_ROLE") == "MS_SCHED"
    except psutil.Error:
        return False


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Tree:
    """What the launch script needs, with the program of the ranks in the place of a training."""
    tree = Tree(tmp_path_factory.mktemp("meeting"))
    (tree.root / "gmlp" / "train.py").write_text((ROOT / "tests" / "ranks" / "meeting_worker.py").read_text())
    return tree


@pytest.fixture(scope="module")
def jobs(tree) -> dict[str, Meeting]:
    """The jobs that meet, after their end; of one a rank was killed."""
    document = table(2, 1)
    for server, host in zip(document["server_list"], HOSTS):
        server["server_id"] = host
    file = write(document, tree.records.parent / "unequal.json")
    pair = write(table(2), tree.records.parent / "two.json")
    jobs = {name: Meeting(tree, name) for name in ("unequal", "platform")}
    try:
        for server in ("0", "1"):
            jobs["unequal"].script(file, server=server, STAY="yes")
        for rank in (0, 1):
            jobs["platform"].platform(pair, rank)
        jobs["unequal"].found = jobs["unequal"].ranks(3)
        os.kill(int(jobs["unequal"].found[2][2]), signal.SIGKILL)
        jobs["unequal"].end(MINUTE + 30)
        jobs["platform"].found = jobs["platform"].ranks(2)
        jobs["platform"].end(240)
    finally:
        stop_all(jobs)
    return jobs


@pytest.fixture(scope="module")
def failures(tree) -> dict[str, Meeting]:
    """The jobs whose scheduler fails, after their end."""
    pair = write(table(2), tree.records.parent / "pair.json")
    jobs = {name: Meeting(tree, name) for name in ("scheduler killed", "port in use", "platform, port in use")}
    taken = socket.socket()
    taken.bind((HOSTS[0], 0))
    taken.listen()
    for name in ("port in use", "platform, port in use"):
        jobs[name].port = taken.getsockname()[1]
    try:
        jobs["scheduler killed"].script(STAY="yes")
        jobs["port in use"].script()
        jobs["platform, port in use"].platform(pair, 0)
        for name in ("port in use", "platform, port in use"):
            jobs[name].end(240)
        jobs["scheduler killed"].found = jobs["scheduler killed"].ranks(2)
        os.kill(jobs["scheduler killed"].schedulers()[0], signal.SIGKILL)
        jobs["scheduler killed"].end(MINUTE)
    finally:
        taken.close()
        stop_all(jobs)
    return jobs


def stop_all(jobs: dict[str, Meeting]) -> None:
    for job in jobs.values():
        for process in job.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.wait(timeout=30)


def test_two_servers_with_unequal_numbers_of_devices_are_one_job(jobs):
    assert [found[:2] for found in jobs["unequal"].found] == [["6", "3"]] * 3


def test_a_rank_that_is_killed_on_one_server_ends_the_job_on_the_other(jobs):
    job = jobs["unequal"]
    (first, _, said), (second, _, other) = job.said
    assert second == 128 + signal.SIGKILL and "error: rank 2 (device 0) ended with code 137" in other
    assert first not in (0, None) and "the cause may stand in the logs of another server" in said
    assert all(gone(int(found[2])) for found in job.found) and not job.schedulers()


@pytest.mark.long
def test_a_scheduler_that_is_killed_ends_the_job_with_a_sentence(failures):
    job = failures["scheduler killed"]
    (code, _, said), = job.said
    assert code == 128 + signal.SIGKILL
    assert "error: the scheduler, at which the processes meet, ended with code 137, all others were ended" in said
    assert all(gone(int(found[2])) for found in job.found)


@pytest.mark.long
def test_a_port_in_use_ends_the_job_with_a_sentence(failures):
    job = failures["port in use"]
    (code, _, said), = job.said
    assert code == 2 and f"error: distribute: the port {job.port} of 127.0.0.1" in said, said
    assert not job.schedulers() and not list(job.folder.glob("rank_*"))


def test_processes_of_a_platform_join_by_the_cluster_and_leave_the_table(jobs):
    job = jobs["platform"]
    assert [found[:2] + found[3:] for found in job.found] == [["3", "2", "False", "600"]] * 2
    assert [code for code, _, _ in job.said] == [0, 0], job.said
    assert not job.schedulers()


@pytest.mark.long
def test_a_port_in_use_is_a_sentence_on_a_platform_too(failures):
    job = failures["platform, port in use"]
    (code, _, said), = job.said
    assert code == 2 and f"error: distribute: the port {job.port} of 127.0.0.1" in said
    assert "error: distribute: the scheduler, at which the processes meet, has ended" in said
    assert "Traceback" not in said and not job.schedulers()
