"""Runs tests in a copy of the repository, and knows which of them run a line; for ``scripts/mutate.py``."""
import functools
import gc
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil
import pytest

from scripts.mutate_trace import FOLDER, ROOT, Trace

KEPT_OUT = shutil.ignore_patterns(".git", ".venv", "__pycache__", "outputs")
ELSEWHERE = ("torture/", "devices/", "ranks/", "scripts/", "test_readme.py", "test_house.py", "test_own_photos.py",
             "test_sixth_model.py")  # take minutes, or test what is no code of a room
HARNESS = 99  # exit code of a process that could not start the tests
LONG, FIRST, SECOND = 8, 8, 30  # seconds: of a test that waits for the second round; of all tests of a round


class Failures:
    """Of pytest: writes down which test failed."""

    def __init__(self, file: Path):
        self.file = file

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.file.write_text(report.nodeid, encoding="utf-8")

    pytest_collectreport = pytest_runtest_logreport


class Tracing:
    """Of pytest: tells the trace which test runs, and notes how long each takes and whether it passes.

    A fixture that several tests share is named by itself, since its lines belong to all who use it.
    """

    def __init__(self, root: Path, folder: Path):
        self.trace, self.now, self.test, self.tests, self.long = Trace(root, folder), "", "", {}, set()
        signal.signal(signal.SIGALRM, self.too_long)
        (folder / "sitecustomize.py").write_text("import mutate_trace\n\nmutate_trace.in_a_program()\n")
        start = subprocess.Popen.__init__

        def started(process, *arguments, env=None, **options):
            env = dict(os.environ if env is None else env)
            paths = [str(folder), str(root / "scripts"), *filter(None, [env.get("PYTHONPATH")])]
            env |= {FOLDER: str(folder), ROOT: str(root), "PYTHONPATH": os.pathsep.join(paths)}
            start(process, *arguments, env=env, **options)

        subprocess.Popen.__init__ = started
        self.become("import")
        self.trace.start()

    def become(self, name: str) -> None:
        """Write what the last one ran, and begin with the next."""
        if self.now:
            self.trace.write(self.now)
        self.now = name
        (self.trace.folder / "now").write_text(name, encoding="utf-8")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item):
        if item.nodeid.split("[")[0] in self.long:  # was run with other parameters: once is enough
            self.pytest_deselected([item])
            return True
        self.become(item.nodeid)
        self.test, file = item.nodeid, item.nodeid.split("::")[0]
        self.tests[item.nodeid] = {"seconds": 0, "passed": True, "long": False,
                                   "fixtures": [f"{name}@{file}" for name in item.fixturenames]}
        signal.setitimer(signal.ITIMER_REAL, LONG)
        return None

    def pytest_deselected(self, items):
        for item in items:
            if not item.get_closest_marker("distributed"):
                self.tests[item.nodeid] = {"seconds": 0, "passed": True, "long": True, "fixtures": []}

    def too_long(self, *_) -> None:
        self.long.add(self.test.split("[")[0])
        if "entry" in sys.modules:
            sys.modules["entry"]._server.cache_clear()  # it is still busy with what is given up
        raise TimeoutError(f"takes more than {LONG} s")

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef, request):
        if fixturedef.scope == "function":
            return (yield)
        before = self.now
        self.become(f"{fixturedef.argname}@{self.test.split('::')[0]}")
        try:
            return (yield)
        finally:
            self.become(before)

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.failed:
            signal.setitimer(signal.ITIMER_REAL, 0)
        test = self.tests[report.nodeid]
        test["seconds"] += report.duration
        test["passed"] &= report.passed
        test["long"] |= report.nodeid.split("[")[0] in self.long

    def pytest_sessionfinish(self):
        self.become("end")
        (self.trace.folder / "tests.json").write_text(json.dumps(self.tests), encoding="utf-8")


def end_family(process: psutil.Process, itself: bool = True) -> None:
    """End what a process started, and the process."""
    for member in [*process.children(recursive=True), *([process] if itself else [])]:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue


class Tests:
    """Runs tests of the copy, each time in a new process in which MindSpore and the like are imported already."""

    def __init__(self, root: Path, work: Path):
        work = work.resolve()
        self.tree, self.work = work / "zoo", work
        if not self.tree.exists():
            shutil.copytree(root, self.tree, ignore=KEPT_OUT)
        sys.path[0] = str(self.tree)
        runpy.run_path(str(self.tree / "tests" / "conftest.py"))  # the environment that MindSpore reads when imported
        for name in ("mindspore", "mindspore.dataset", "cv2", "PIL.Image", "yaml", "tqdm", "hypothesis"):
            __import__(name)
        gc.freeze()

    def run(self, names: list[str], limit: float, plugin: Callable | None = None) -> str:
        """Return the name of the first test that fails, if any; who takes longer than the limit hangs: noticed, too."""
        scratch = Path(tempfile.mkdtemp(dir=self.work))
        child = os.fork()
        if not child:
            code = HARNESS
            try:
                code = self._child(names, scratch, plugin)
            finally:
                os._exit(code)
        end, done = time.monotonic() + limit, 0
        while not done and time.monotonic() < end:
            time.sleep(0.05)
            done, status = os.waitpid(child, os.WNOHANG)
        if not done:
            end_family(psutil.Process(child))
            os.waitpid(child, 0)
            shutil.rmtree(scratch, ignore_errors=True)
            return "the time limit"
        failed = scratch / "failed"
        code, named = os.waitstatus_to_exitcode(status), failed.exists() and failed.read_text()
        shutil.rmtree(scratch, ignore_errors=True)
        if code in (pytest.ExitCode.NO_TESTS_COLLECTED, HARNESS):
            raise SystemExit(f"error: tests did not run; {self.work / 'last.log'} says why.")
        return named or (f"exit code {code}" if code else "")

    def _child(self, names: list[str], scratch: Path, plugin: Callable | None) -> int:
        os.setsid()
        os.chdir(self.tree)
        log = os.open(self.work / "last.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for number, place in ((0, os.open(os.devnull, os.O_RDONLY)), (1, log), (2, log)):
            os.dup2(place, number)
        os.environ["TMPDIR"] = tempfile.tempdir = str(scratch)
        if plugin is None:  # what a mutant compiles is not kept
            os.environ["PYTHONDONTWRITEBYTECODE"], sys.dont_write_bytecode = "1", True
        tests = self.tree / "tests"
        try:
            options = ["-q", "-c", str(tests / "pytest.ini"), "--rootdir", str(tests), *([] if plugin else ["-x"])]
            return pytest.main([*options, *(str(tests / name) if ".py" in name else name for name in names)],
                               plugins=[plugin() if plugin else Failures(scratch / "failed")])
        finally:
            end_family(psutil.Process(), itself=False)
            sys.stdout.flush()

    def trace(self) -> None:
        """Run every file of tests once, unchanged, and note which lines each test runs."""
        for file in sorted((self.tree / "tests").rglob("test_*.py"), key=lambda file: ("workflow" in file.name, file)):
            name = str(file.relative_to(self.tree / "tests"))
            folder = self.work / "trace" / name.replace("/", "-")
            if name.startswith(ELSEWHERE) or (folder / "tests.json").exists():
                continue
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)

            started = time.monotonic()
            failed = self.run([name, "-m", "not slow and not distributed"], 1200,
                              functools.partial(Tracing, self.tree, folder))
            print(f"traced {name}: {time.monotonic() - started:.0f} s{failed and ', not all pass'}", flush=True)


class Reach:
    """Which tests reach a line, from the trace."""

    def __init__(self, work: Path):
        self.tests, self.users, self.lines = {}, defaultdict(set), defaultdict(set)
        for folder in (work / "trace").iterdir():
            if not (folder / "tests.json").exists():
                continue
            for name, test in json.loads((folder / "tests.json").read_text()).items():
                if test["passed"] or test["long"]:
                    self.tests[name] = 2 * LONG if test["long"] else test["seconds"]
                    for user in (name, *test["fixtures"]):
                        self.users[user].add(name)
            for record in folder.glob("*.lines"):
                for name, files in map(json.loads, record.read_text().splitlines()):
                    for file, lines in files.items():
                        for line in (*lines, None):  # None: reaches the file at all
                            self.lines[file, line] |= self.users[name]

    def rounds(self, room: str, file: str, places: Iterable[Iterable]) -> tuple[list[str], list[str]]:
        """Return the tests to run first, and those for a mutant that survives them; those of its room lead.

        ``places`` are ever wider ranges of lines: the first that any test reaches counts, or else the whole file.
        """
        own = {name for name in self.tests if f"{room}/" in name or f"test_{room}" in name}
        reaching = (set().union(*(self.lines.get((file, line), ()) for line in lines)) for lines in (*places, [None]))
        found = next(filter(None, reaching), set())
        unknown = {name for name in own if self.tests[name] == 2 * LONG}  # was not traced, or not to its end
        order = sorted(found | own, key=lambda name: (name not in found, name not in unknown, name not in own,
                                                      self.tests[name]))
        first, second, sums = [], [], [0.0, 0.0]
        for name in order:
            seconds = self.tests[name]
            if name in found and seconds < LONG and sums[0] + seconds < FIRST:
                first.append(name)
                sums[0] += seconds
            elif sums[1] + seconds < SECOND:
                second.append(name)
                sums[1] += seconds
        return first, second
