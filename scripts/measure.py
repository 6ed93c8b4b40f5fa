"""Time and peak memory of something that is done again and again, in a process of its own. Imports no MindSpore."""
import multiprocessing
import os
import platform
import re
import resource
import sys
import time
from pathlib import Path
from typing import Any, Callable, Sequence

import psutil

from common.context.cores import own_cores
from common.errors import UserError, user_sentence

Step = Callable[[], Any]


def serve(pipe: Any, build: Callable[..., tuple[dict, Step]], arguments: Sequence[Any]) -> None:
    """Body of a measuring process: build, then run once for every request; at the end, tell the peak memory.

    Sends the facts that ``build`` returns, after each request the (wall, CPU) seconds, and last the bytes; or a
    sentence as a ``str`` when the user made a mistake.
    """
    try:
        facts, run = build(*arguments)
        pipe.send(facts)
        while pipe.recv():
            cpu, wall = cpu_time(), time.perf_counter()
            run()
            pipe.send((time.perf_counter() - wall, cpu_time() - cpu))
        pipe.send(peak_memory())
    except EOFError:
        return  # the other side has given up
    except Exception as error:
        sentence = user_sentence(error)
        if sentence is None:
            raise
        pipe.send(sentence)


def cpu_time() -> float:
    """Return the seconds of CPU time that this process and those that it started and that still run have used."""
    total = time.process_time()
    for child in psutil.Process().children(recursive=True):
        times = child.cpu_times()
        total += times.user + times.system
    return total


def peak_memory() -> int:
    """Return the most memory that this process has held so far, in bytes."""
    status = Path("/proc/self/status")
    if status.is_file():  # ru_maxrss would begin with the memory of the process that started this one
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class Measurement:
    """A measuring process, seen from outside; a context manager, which ends it.

    Args:
        name: what is measured, for the report.
        build: called in the process; returns what is known of the thing, and a function that does one step.
        arguments: of ``build``.
    """

    def __init__(self, name: str, build: Callable[..., tuple[dict, Step]], *arguments: Any):
        context = multiprocessing.get_context("spawn")
        self.name, self.seconds, self.peak = name, [], 0
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, build, arguments))  # a daemon could not have workers
        self.process.start()
        theirs.close()
        self.facts = self._receive()

    def __enter__(self) -> "Measurement":
        return self

    def __exit__(self, *error: Any) -> None:
        self.pipe.close()
        self.process.join()

    def step(self) -> float:
        """Do one step; return and remember its wall time in seconds."""
        self.pipe.send(True)
        self.seconds.append(self._receive())
        return self.seconds[-1][0]

    def finish(self) -> None:
        """Ask for the peak memory; there are no steps after it."""
        self.pipe.send(False)
        self.peak = self._receive()

    def _receive(self) -> Any:
        try:
            answer = self.pipe.recv()
        except EOFError:
            self.process.join()
            raise UserError(f"the measurement of {self.name} ended early with code {self.process.exitcode}; -9 means "
                            "that the memory was not enough (lower --batch_size), otherwise the reason stands above."
                            ) from None
        if isinstance(answer, str):
            raise UserError(answer)
        return answer


def machine() -> dict[str, Any]:
    """Return processor, cores that this process may use, and the load of the last minute."""
    names = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    name = next((line.partition(":")[2].strip() for line in names.splitlines() if line.startswith("model name")),
                platform.processor() or platform.machine())
    return {"processor": name, "cores": len(own_cores()), "load": round(os.getloadavg()[0], 2)}
