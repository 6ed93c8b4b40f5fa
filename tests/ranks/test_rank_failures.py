"""What happens to a job of real processes on the CPU when one rank fails: all end soon, with a message and a code.

The jobs run side by side: they wait for each other's start most of the time.
"""
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from entry import ROOT, run, write_yaml
from rank_jobs import free_port, launcher, logs, stop, with_own_python, write_images
from script_tree import CPU, gone

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

MINUTE = 600  # in which a job must end after a rank has failed; on an idle machine it takes seconds


class Job:
    """A job of two ranks while it runs, and what it left."""

    def __init__(self, folder: Path, name: str, with_msrun: bool, port: int | None = None, **changes):
        self.folder, self.with_msrun = folder / name, with_msrun
        self.run = self.folder / "run"
        self.folder.mkdir()
        write_yaml(self.folder / "gmlp.yaml", mode="pynative", depth=1, epochs=200, **changes)
        words = ["--config_path", "gmlp.yaml"] if with_msrun else ["gmlp", "gmlp.yaml"]
        start = ([*launcher(2, self.folder / "logs", port), ROOT / "gmlp" / "train.py"] if with_msrun
                 else ["bash", ROOT / "scripts" / CPU])
        environment = with_own_python(PYTHON=sys.executable, RESULTS_DIR=str(self.folder / "results"),
                                      MASTER_PORT=str(free_port()))
        self.process = subprocess.Popen([*start, *words, "--ckpt_save_dir", self.run], cwd=self.folder, text=True,
                                        env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE)
        self.out = self.err = ""

    def kill_rank_1(self) -> None:
        """Kill rank 1 (SIGKILL) after the first epoch."""
        end = time.monotonic() + 240
        while not (self.run / "history.jsonl").is_file() or not (self.run / "history.jsonl").read_text():
            assert self.process.poll() is None and time.monotonic() < end, logs(self.folder)
            time.sleep(0.1)
        self.pids = self.processes()
        assert len(self.pids) >= 2
        rank_1 = next(pid for pid in self.pids if "RANK_ID=1\0" in environment_of(pid))
        os.kill(rank_1, signal.SIGKILL)

    def processes(self) -> list[int]:
        """Return the processes that run the training of this job."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                words = (path / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if str(self.run).encode() in words and words[1].endswith(b"gmlp/train.py"):
                found.append(int(path.name))
        return [pid for pid in found if "MS_ROLE=MS_WORKER" in environment_of(pid)]

    def end(self, seconds: float) -> None:
        self.out, self.err = self.process.communicate(timeout=seconds)


def environment_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/environ").read_text(errors="replace")
    except OSError:
        return ""


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> Job:
    """A job of the script of which rank 1 was killed, after its end."""
    job = Job(tmp_path_factory.mktemp("killed"), "killed", False)
    try:
        job.kill_rank_1()
        job.end(MINUTE)
    finally:
        stop(job.process)
    return job


@pytest.fixture(scope="module")
def jobs(tmp_path_factory) -> dict[str, Job]:
    """More jobs that ended early: one of msrun of which rank 1 was killed, and those whose training went wrong."""
    folder = tmp_path_factory.mktemp("failures")
    write_images(folder / "images" / "train", 100)
    broken = next((folder / "images" / "train").glob("*/0007.png"))
    broken.write_bytes(broken.read_bytes()[:100])
    jobs = {"killed under msrun": Job(folder, "killed under msrun", True),
            "no number": Job(folder, "no number", False, lr=1e30, warmup_epochs=0),
            "broken image": Job(folder, "broken image", True, dataset="imagenet", data_dir=folder / "images",
                                val_while_train=False, batch_size=8)}
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    jobs["port in use"] = Job(folder, "port in use", True, port=taken.getsockname()[1])
    try:
        jobs["killed under msrun"].kill_rank_1()  # first: it would train all the time
        jobs["port in use"].end(900)
        taken.close()
        jobs["killed under msrun"].end(MINUTE)
        for name in ("no number", "broken image"):
            jobs[name].end(900)
    finally:
        for job in jobs.values():
            stop(job.process)
    return jobs


def test_a_killed_rank_ends_the_job_of_a_script_with_its_code_and_the_end_of_its_log(killed):
    job = killed
    assert job.process.returncode == 128 + signal.SIGKILL
    assert "error: rank 1 (device 1) ended with code 137, all others were ended" in job.err
    assert str(job.folder / "results" / "train_parallel_cpu1" / "log") in job.err
    assert all(map(gone, job.pids))


@pytest.mark.long
def test_a_killed_rank_ends_the_job_of_msrun(jobs):
    job = jobs["killed under msrun"]
    assert job.process.returncode not in (0, None)
    assert "exit with exception. Error code: -9" in job.err + job.out
    assert all(map(gone, job.pids))


@pytest.mark.long
def test_a_loss_that_is_no_number_ends_the_job_with_a_sentence(jobs):
    job = jobs["no number"]
    assert job.process.returncode == 2 and "ended with code 2" in job.err, job.out + job.err
    assert "error: training stopped: the " in job.err and "Traceback" not in job.out + job.err
    assert not list(job.run.glob("*.ckpt"))


@pytest.mark.long
def test_a_rank_that_raises_ends_the_job_of_msrun_and_leaves_its_sentence_in_its_log(jobs):
    job = jobs["broken image"]
    assert job.process.returncode not in (0, None), job.out + job.err
    said = [line for file in (job.folder / "logs").glob("worker_*.log") for line in
            file.read_text(errors="replace").splitlines() if line.startswith("error: ")]
    assert said and "0007.png" in said[0]


@pytest.mark.long
def test_a_port_that_is_in_use_is_a_sentence_and_not_a_silence(jobs):
    job = jobs["port in use"]
    assert job.process.returncode not in (0, None)
    said = {file.name: file.read_text(errors="replace") for file in (job.folder / "logs").glob("*.log")}
    assert re.search(r"error: distribute: the port \d+ of 127.0.0.1.*Address already in use", said["scheduler.log"])
    assert "error: distribute: the scheduler, at which the processes meet, has ended" in said["worker_0.log"] + said["worker_1.log"]


def test_a_job_leaves_one_writer_s_files_and_a_log_per_rank(killed):
    job = killed
    assert {"log_rank_0.txt", "log_rank_1.txt", "history.jsonl", "config.yaml"} <= set(os.listdir(job.run))
    rows = [json.loads(line)["epoch"] for line in (job.run / "history.jsonl").read_text().splitlines()]
    assert rows == list(range(1, len(rows) + 1))  # two writers would repeat them
    second = (job.folder / "results" / "train_parallel_cpu1" / "log").read_text()
    assert "Epoch" not in second and "epoch" not in second  # people read the first rank's
    assert job.out.count("2 x CPU") == 1


def test_one_rank_continues_what_two_began_with_the_same_global_batch(killed):
    job = killed
    done = len((job.run / "history.jsonl").read_text().splitlines())
    result = run("gmlp/train.py", "--config_path", job.folder / "gmlp.yaml", "--ckpt_save_dir", job.run, "--distribute",
                 "False", "--epochs", done + 1, "--accumulation_steps", "2")
    assert result.returncode == 0, result.stderr
    assert "Continuing after epoch" in result.stdout and "world_size 2 -> 1" in result.stdout
    assert "accumulation_steps 1 -> 2" in result.stdout and "steps of 128 images" in result.stdout
    *_, before, last = map(json.loads, (job.run / "history.jsonl").read_text().splitlines())
    assert last["epoch"] == done + 1
    assert last["loss"] == pytest.approx(before["loss"], rel=0.5)  # both are means over all images
