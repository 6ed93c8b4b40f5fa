"""What programs share: flags, one sentence with exit code 2 for a mistake of the user, and the end by a signal.

Imports no MindSpore.
"""
import argparse
import contextlib
import os
import re
import signal
import sys
import threading
import time
from types import TracebackType
from typing import Any, Callable, Iterator, Sequence

from common.errors import UserError, user_sentence


def _say_stopped(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Show no traceback when Ctrl-C is pressed before a program has begun, as during its imports; the code is 130."""
    if issubclass(kind, KeyboardInterrupt):
        sys.stderr.write("\nStopped.\n")
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _say_stopped


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, and takes no abbreviated flags; ``prog`` is the module."""

    def __init__(self, prog: str, description: str = "", **more: Any):
        begin = "" if prog.startswith("python ") else "python -m "  # that of a subcommand holds the whole beginning
        super().__init__(prog=f"{begin}{prog}", description=description, allow_abbrev=False, **more)

    def error(self, message: str):
        raise UserError(f"{message}; '{self.prog} --help' shows the usage.")


def whole_number(least: int):
    """Return a reader of whole numbers from ``least`` on."""
    def read(text: str) -> int:
        number = int(text)
        if number < least:
            raise argparse.ArgumentTypeError(f"{text} is less than {least}")
        return number

    read.__name__ = "whole number"
    return read


def refuse(error: Exception) -> int:
    """Say a user's mistake in its one sentence and return the exit code 2; any other error goes on."""
    sentence = user_sentence(error)
    if sentence is None:
        raise error
    shown = re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda found: repr(found[0])[1:-1], sentence)  # one line, whatever was given
    print(f"error: {shown}", file=sys.stderr)
    return 2


def run(action: Callable[[Sequence[str]], str | int], argv: Sequence[str]) -> int:
    """Print what ``action`` says about ``argv``; return its code if it gives one, else 0, or 2 after a mistake."""
    try:
        said = action(argv)
    except Exception as error:
        return refuse(error)
    if isinstance(said, int):
        return said
    sys.stdout.write(f"{said}\n")
    return 0


class Ending:
    """Ends the process when Ctrl-C is pressed (exit code 130) or a platform ends the job (SIGTERM, 143).

    At once, or, where there is something to save, after whoever works has saved it and calls ``leave``; a second signal
    ends at once then too. MindSpore handles Ctrl-C itself once it computes: it makes a SIGTERM of it, and may then wait
    for ever for its own data workers. So the signals are blocked in every thread but one, which waits for them. Threads
    that libraries have begun before cannot be reached, but by ``held_back`` around their imports; a signal that one of
    them gets is passed on through a pipe.

    Attributes:
        rescue: is done before the end; a further signal does not wait for it.
        remains: says what becomes of the work, as the end of a sentence; empty: there is nothing to say.
        saves: whether the first signal is only noted, for somebody who will save and call ``leave``.
        asked: the number of the signal that came; 0: none.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)
    PATIENCE = 60.0  # seconds for a step to end when no more images come: perhaps it waits for them
    ECHO = 0.5  # seconds in which a second signal is the same request: a terminal and a launcher may both send one

    def __init__(self):
        self.rescue: Callable[[], None] = lambda: None
        self.remains: Callable[[], str] = lambda: ""
        self.saves = False
        self.asked = 0
        self.first = 0.0  # when
        self.leaving = False

    def begin(self) -> None:
        """Wait for the signals from now on."""
        received, passed_on = os.pipe()
        os.set_blocking(passed_on, False)
        signal.set_wakeup_fd(passed_on)
        for number in self.SIGNALS:
            signal.signal(number, lambda number, frame: None)
        signal.pthread_sigmask(signal.SIG_BLOCK, self.SIGNALS)
        os.register_at_fork(after_in_child=_be_ended_by_parent)
        for wait in (self._wait, lambda: self._passed_on(received)):
            threading.Thread(target=self._watch, args=(wait,), daemon=True).start()

    def _wait(self) -> int:
        if not hasattr(signal, "sigwaitinfo"):
            return signal.sigwait(self.SIGNALS)
        found = signal.sigwaitinfo(self.SIGNALS)
        if found.si_pid == os.getpid() and not self.asked:
            sys.stderr.write("\nMindSpore ends the training, as it does when a process that reads images has ended; "
                             "perhaps the memory was not enough for all of them (num_workers).\n")
            given_up = threading.Timer(self.PATIENCE, self.leave, (found.si_signo,))
            given_up.daemon = True
            given_up.start()
        return found.si_signo

    def _passed_on(self, received: int) -> int:
        while (number := os.read(received, 1)[0]) not in self.SIGNALS:
            pass
        return number

    def _watch(self, wait: Callable[[], int]) -> None:
        while True:
            self.take(wait())

    def take(self, number: int) -> None:
        """Do what a signal asks for."""
        if self.asked and time.monotonic() - self.first < self.ECHO:
            return
        if self.leaving or (self.asked and not self.saves):
            os._exit(128 + number)
        if self.asked or not self.saves:
            threading.Thread(target=self.leave, args=(number,), daemon=True).start()
        else:
            sys.stderr.write("\nStopping after this step; a second signal stops at once.\n")
            sys.stderr.flush()
        self.asked, self.first = self.asked or number, time.monotonic()

    def leave(self, number: int) -> None:
        """End the process because of a signal."""
        self.leaving = True
        sys.stderr.write(f"\nStopped{self.remains()}.\n")
        sys.stderr.flush()
        try:
            self.rescue()
        finally:
            os._exit(128 + number)


ENDING = Ending()  # of this process


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Let a signal wait while a library is imported that begins threads (NumPy): they will leave signals to others."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, Ending.SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _be_ended_by_parent() -> None:
    """Undo in a forked process what ``Ending`` has set up: the framework ends its data workers with SIGTERM.

    One that a platform sends to all processes of a job is left to the parent, which still needs its workers to save.
    """
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_wait_for_parent, args=(os.getppid(),), daemon=True).start()


def _wait_for_parent(parent: int) -> None:
    """Take a SIGTERM of the parent, or any once it is gone, in the way that the framework has set up since."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid not in (parent, os.getpid()) and os.getppid() == parent:
        pass
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    signal.raise_signal(signal.SIGTERM)
