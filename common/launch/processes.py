"""The processes of a job: started, watched, followed on the screen, ended together. Imports no MindSpore."""
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Mapping, Sequence

import psutil

from common.errors import UserError
from common.launch.plan import Plan, Process

TICK = 0.2  # seconds between two looks at the processes
GRACE = 5.0  # seconds between asking a process to end and killing it
SAVING = 60.0  # the same where ranks first save: they finish their step
TAIL = 20  # lines of a failing log that are shown
CHUNK = 1 << 16  # bytes of a log that are read at once
LEAVING = 60.0  # seconds that the scheduler gets, after the ranks of its server, to see all others leave
EXIT_CODE = "exit_code"


def write_environment(folder: Path, environment: Mapping[str, str]) -> None:
    """Write ``env.log``, readable by its owner alone: environments hold passwords."""
    file = folder / "env.log"
    file.touch(mode=0o600)
    file.write_text("".join(f"{name}={environment[name]}\n" for name in sorted(environment)), encoding="utf-8",
                    errors="surrogateescape")


def shell_code(code: int) -> int:
    """Return an exit code as shells give it: 128 and the number of the signal for a process that was killed."""
    return 128 - code if code < 0 else code


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
        self.since = 0.0

    def start(self) -> None:
        """Start all; if one cannot be started, none stays."""
        inherited = dict(os.environ)
        for process in self.plan.processes:
            environment = process.environment(inherited)
            if process.rank:
                write_environment(process.folder, environment)
            try:
                with open(process.folder / process.log, "wb") as log:
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
        failed = []
        for process, child in self.running:
            code = child.poll()
            if code is None:
                continue
            code = shell_code(code)
            if process.rank and not (process.folder / EXIT_CODE).exists():
                (process.folder / EXIT_CODE).write_text(f"{code}\n", encoding="ascii")
            if code:
                failed.append((process, code))
        if not failed:
            return None
        process, code = failed[0]  # ranks stand before the scheduler, which ends when it loses one
        rank = process.rank
        who = f"rank {rank.rank} (device {rank.device})" if rank else "the scheduler, at which the processes meet,"
        return who, process.folder / process.log, code

    def ended(self) -> bool:
        """Whether nothing runs any more; a scheduler that outlives its ranks for long counts as ended."""
        codes = [child.poll() for process, child in self.running if process.rank]
        if any(codes) or None in codes:
            return False
        self.since = self.since or time.monotonic()
        return all(child.poll() is not None for _, child in self.running) or time.monotonic() > self.since + LEAVING

    def how_to_end(self) -> str:
        """Return the command that ends all: their process groups."""
        return f"kill -- {' '.join(f'-{child.pid}' for _, child in self.running)}"

    def stop(self, grace: float = GRACE) -> None:
        """End all processes and what they have started; those that do not go within ``grace`` seconds are killed.

        A scheduler goes last: its ranks need it until they have saved.
        """
        groups = [child.pid for process, child in self.running if process.rank]
        _send(groups, signal.SIGTERM)
        asked, end = self.signals.count, time.monotonic() + grace
        while time.monotonic() < end and self.signals.count == asked:
            self.look()  # so that those that have gone are not counted as alive
            if not any(map(_alive, groups)):
                break
            time.sleep(TICK / 4)
        _send([child.pid for _, child in self.running], signal.SIGKILL)
        for _, child in self.running:
            child.wait()
        self.look()  # notes the exit codes


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
        for folder in [rank.folder for rank in plan.ranks]:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the results cannot be written to {error.filename or parent}: {error.strerror}; RESULTS_DIR "
                        "names another folder.") from None
    return number if earlier else 0


def _check_idle(folder: Path) -> None:
    """Refuse to move the folder of a process that still runs in it."""
    try:
        pid = int((folder / "pid").read_text(encoding="ascii"))
        busy = not (folder / EXIT_CODE).exists() and Path(psutil.Process(pid).cwd()) == folder.resolve()
    except (OSError, ValueError, psutil.Error):
        return
    if busy:
        raise UserError(f"{folder} belongs to a run that still goes on (process {pid}); wait for it, end it with "
                        f"'kill {pid}', or name another folder with RESULTS_DIR.")
