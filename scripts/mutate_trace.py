"""Which lines of the project a process runs, and which it compiles to graphs; for ``scripts/mutate.py``.

Threads that MindSpore's data pipeline starts by itself, and processes that end without Python's leave, are not seen.
"""
import atexit
import json
import os
import sys
import threading
import types
from pathlib import Path

INSIDE = ("common", "gmlp", "convmlp", "soft", "hlg", "mae")
FOLDER, ROOT = "ZOO_TRACE_FOLDER", "ZOO_TRACE_ROOT"  # for the programs that tests start


class Trace:
    """The trace function of Python: collects (file, line), and writes them under the name of what runs now."""

    def __init__(self, root: Path, folder: Path):
        self.inside = tuple(f"{root / name}{os.sep}" for name in INSIDE)
        self.root, self.folder, self.seen = root, folder, set()

    def start(self) -> None:
        sys.settrace(self.call)
        threading.settrace(self.call)

    def call(self, frame: types.FrameType, event: str, _):
        code = frame.f_code
        if code.co_filename.startswith(self.inside):
            self.seen.add((code.co_filename, frame.f_lineno))
            return self.line
        if code.co_name == "parse" and code.co_filename.endswith("_parse/parser.py"):  # MindSpore compiles a function
            self.whole(getattr(frame.f_locals["self"].fn, "__code__", None))
        return None

    def line(self, frame: types.FrameType, event: str, _):
        if event == "line":
            self.seen.add((frame.f_code.co_filename, frame.f_lineno))
        return self.line

    def whole(self, code: types.CodeType | None) -> None:
        """Take all lines of a function that is compiled rather than run."""
        if code is not None and code.co_filename.startswith(self.inside):
            self.seen |= {(code.co_filename, line) for *_, line in code.co_lines() if line}
            for inner in code.co_consts:
                if isinstance(inner, types.CodeType):
                    self.whole(inner)

    def write(self, name: str) -> None:
        """Add what was seen since the last time to the file of this process."""
        seen, self.seen = self.seen, set()
        lines = {}
        for file, line in list(seen):
            lines.setdefault(str(Path(file).relative_to(self.root)), []).append(line)
        with (self.folder / f"{os.getpid()}.lines").open("a", encoding="utf-8") as out:
            out.write(json.dumps([name, lines]) + "\n")


def in_a_program() -> None:
    """Trace this program, which a test started, and what it forks; at its end the test is still the one that runs."""
    folder = Path(os.environ[FOLDER])
    trace = Trace(Path(os.environ[ROOT]), folder)

    def write() -> None:
        trace.write((folder / "now").read_text(encoding="utf-8"))

    atexit.register(write)
    os.register_at_fork(after_in_child=trace.seen.clear)
    trace.start()
