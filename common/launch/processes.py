"""The processes of a job: started, watched, followed on the screen, ended together. Imports no MindSpore."""
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Sequence

from common.errors import UserError
from common.launch.plan import Plan, Process
from common.launch.rank import EXIT_CODE, shell_code, write_environment

TICK = 0.2  # seconds between two looks at the processes
GRACE = 5.0  # seconds between asking a process to end and killing it
TAIL = 20  # lines of a failing log that are shown
CHUNK = 1 << 16  # bytes of a log that are read at once


def show(data: bytes) -> None:
    """Write to the standard output; when nobody reads it any more, as behind ``head``, the training goes on."""
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def say(text: str) -> None:
    """Show a line of the launcher's own."""
    show(f"{text}\n".encode(errors="surrogateescape"))


class Signals:
    """Remembers the signals that ask the script to end, so that they are dealt with between two steps."""

    def __init__(self):
        self.first = 0
        self.count = 0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:  # nohup stays nohup
                signal.signal(number, self._remember)

    def _remember(self, number, frame):
        self.first = self.first or number
        self.count += 1


class Follower:
    """Copies what is added to a log to the standard output."""

    def __init__(self, file: Path):
        self.file = file
        self.stream = None

    def copy(self) -> None:
        """Copy what is new."""
        if self.stream is None and self.file.exists():
            self.stream = self.file.open("rb")
        while self.stream and (data := self.stream.read(CHUNK)):
            show(data)


class Crew:
    """The processes of a plan while they run."""

    def __init__(self, plan: Plan, signals: Signals):
        self.plan = plan
        self.signals = signals
        self.running: list[tuple[Process, subprocess.Popen]] = []

    def start(self) -> None:
        """Start all; if one cannot be started, none stays."""
        inherited = dict(os.environ)
        for process in self.plan.processes:
            environment = process.environment(inherited)
            if process.rank:
                write_environment(process.folder, environment)
            try:
                with open(process.folder / "log", "wb") as log:
                    child = subprocess.Popen(process.command, cwd=process.folder, env=environment, stdout=log,
                                             stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, start_new_session=True)
            except OSError as error:
                self.stop()
                raise UserError(f"{process.command[0]} cannot be started: {error.strerror}.") from None
            self.running.append((process, child))
            if process.rank:
                (process.folder / "pid").write_text(f"{child.pid}\n", encoding="ascii")

    def look(self) -> tuple[str, Path, int] | None:
        """Return who failed, its log and its exit code, if one has."""
        for process, child in self.running:
            code = child.poll()
            if code is not None and process.rank and not (process.folder / EXIT_CODE).exists():
                (process.folder / EXIT_CODE).write_text(f"{shell_code(code)}\n", encoding="ascii")
        failed = [(file.stat().st_mtime_ns, rank, code) for rank in self.plan.ranks
                  if (code := _exit_code(file := rank.folder / EXIT_CODE))]
        if failed:
            _, rank, code = min(failed, key=lambda one: (one[0], one[1].rank))
            return f"rank {rank.rank} (device {rank.device})", rank.folder / "log", code
        for process, child in self.running:
            if child.returncode and not process.rank:
                return "msrun", process.folder / "log", shell_code(child.returncode)
        return None

    def ended(self) -> bool:
        """Whether nothing runs any more."""
        return all(child.poll() is not None for _, child in self.running)

    def how_to_end(self) -> str:
        """Return the command that ends all: their process groups; msrun ends its ranks when it is interrupted."""
        if self.running[0][0].rank is None:
            return f"kill -INT {self.running[0][1].pid}"
        return f"kill -- {' '.join(f'-{child.pid}' for _, child in self.running)}"

    def stop(self) -> None:
        """End all processes and what they have started; those that do not go are killed."""
        groups = self._groups()
        _send(groups, signal.SIGTERM)
        asked, end = self.signals.count, time.monotonic() + GRACE
        while time.monotonic() < end and self.signals.count == asked:
            self.ended()  # takes leave of those that have gone
            if not any(map(_alive, groups)):
                break
            time.sleep(TICK / 4)
        _send(groups, signal.SIGKILL)
        for _, child in self.running:
            child.wait()
        self.look()  # notes the exit codes

    def _groups(self) -> list[int]:
        """Return the process groups: each rank has its own, and msrun has one."""
        groups = []
        for rank in self.plan.ranks:
            started_here = any(process.rank == rank for process, _ in self.running)
            if not started_here and not (rank.folder / EXIT_CODE).exists():
                try:
                    groups.append(os.getpgid(int((rank.folder / "pid").read_text(encoding="ascii"))))
                except (OSError, ValueError):
                    pass  # not started yet, or gone
        return groups + [child.pid for _, child in self.running]


def _exit_code(file: Path) -> int:
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0


def _send(groups: Sequence[int], number: int) -> None:
    for group in groups:
        try:
            os.killpg(group, number)
        except (ProcessLookupError, PermissionError):
            pass


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def last_lines(file: Path, count: int = TAIL) -> str:
    """Return the end of a log; of a line that was drawn over itself, as a progress bar is, the last state."""
    try:
        text = file.read_bytes()[-CHUNK:].decode("utf-8", errors="replace")
    except OSError:
        return "(there is no log)"
    lines = [line.rsplit("\r", 1)[-1].rstrip() for line in text.replace("\r\n", "\n").split("\n")]
    return "\n".join([line for line in lines if line][-count:]) or "(the log is empty)"


def prepare_folders(plan: Plan, name: str) -> int:
    """Make the folders of the ranks; move earlier ones aside, all with the same number behind their names.

    Returns:
        The number, or 0 if there were none.

    Raises:
        UserError: if processes of an earlier run are still there, or a folder cannot be made.
    """
    parent = plan.ranks[0].folder.parent
    numbered = re.compile(re.escape(name) + (r"\d+" if plan.ranks[0].folder.name != name else "") + r"(?:\.(\d+))?")
    try:
        parent.mkdir(parents=True, exist_ok=True)
        found = [(folder, match[1]) for folder in sorted(parent.iterdir())
                 if (match := numbered.fullmatch(folder.name))]
        earlier = [folder for folder, number in found if number is None]
        for folder in earlier:
            _check_idle(folder)
        number = 1 + max((int(number) for _, number in found if number), default=0)
        for folder in earlier:
            folder.rename(f"{folder}.{number}")
        for folder in [rank.folder for rank in plan.ranks] + [process.folder for process in plan.processes]:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the results cannot be written to {error.filename or parent}: {error.strerror}; RESULTS_DIR "
                        "names another folder.") from None
    return number if earlier else 0


def _check_idle(folder: Path) -> None:
    """Refuse to move the folder of a process that still runs in it."""
    try:
        pid = int((folder / "pid").read_text(encoding="ascii"))
        busy = not (folder / EXIT_CODE).exists() and os.path.samefile(f"/proc/{pid}/cwd", folder)
    except (OSError, ValueError):
        return
    if busy:
        raise UserError(f"{folder} belongs to a run that still goes on (process {pid}); wait for it, end it with "
                        f"'kill {pid}', or name another folder with RESULTS_DIR.")
