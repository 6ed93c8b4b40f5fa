"""Start jobs of several ranks by msrun, and end them."""
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

from entry import ROOT, environment
from PIL import Image

from common.dataset.digits import load_digits


def free_port() -> int:
    """Return a port that nobody else uses: tests may run in several processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launcher(ranks: int, folder: Path, port: int | None = None) -> list[str]:
    """Return the beginning of the command that starts so many ranks; their logs go to ``folder``."""
    program = Path(sys.executable).with_name("msrun")
    # ended with the tests, even if these are killed; msrun ends its ranks when it is interrupted
    before = ["setpriv", "--pdeathsig", "INT"] if shutil.which("setpriv") else []
    return [*before, str(program), f"--worker_num={ranks}", f"--local_worker_num={ranks}", "--master_addr=127.0.0.1",
            f"--master_port={port or free_port()}", f"--log_dir={folder}", "--join=True"]


def stop(process: subprocess.Popen) -> None:
    """End a job that still runs; msrun and the scripts end their ranks when they are interrupted."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()


def with_own_python(**more: str) -> dict[str, str]:
    """The environment for msrun, which starts the first ``python`` on PATH."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return environment(PATH=path, PYTHONPATH=str(ROOT), ONEDNN_MAX_CPU_ISA=os.environ["ONEDNN_MAX_CPU_ISA"], **more)


def logs(folder: Path) -> str:
    return "\n".join(f"== {file}\n{file.read_text(errors='replace')[-3000:]}" for file in sorted(folder.rglob("*log*"))
                     if file.is_file())


def write_images(folder: Path, count: int) -> None:
    """Write digits into ten class folders, some of which may stay empty."""
    images, labels = load_digits("eval")
    for digit in range(10):
        (folder / str(digit)).mkdir(parents=True)
    for number in range(count):
        Image.fromarray(images[number]).save(folder / str(labels[number]) / f"{number:04d}.png")


def process_of(run: Path, rank: int) -> int | None:
    """Return the process of a rank whose training writes to a folder; ``None``: there is none."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
            environment = (path / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(run).encode() in words and words[1].endswith(b"train.py") and f"RANK_ID={rank}".encode() in environment:
            return int(path.name)
    return None
