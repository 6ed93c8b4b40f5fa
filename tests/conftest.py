"""Shared test set-up: the repository on the path, a quiet framework, parts that run on request, a scratch folder."""
import ctypes
import functools
import gc
import os
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("GLOG_v", "3")  # read when MindSpore is imported: errors only
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # likewise; as common.context.device has it
# What common.context.device sets for networks with convolutions must hold from the first operation on, whichever test
# comes first. The tests hold on every set of instructions: ONEDNN_MAX_CPU_ISA=SSE41, AVX2, AVX512_CORE, or ALL. What is
# given so holds also for the programs that tests start; else these set it themselves.
if "ONEDNN_MAX_CPU_ISA" not in os.environ:
    os.environ |= {"ONEDNN_MAX_CPU_ISA": "AVX2", "ZOO_TEST_SET": "ONEDNN_MAX_CPU_ISA"}
os.environ["PYTHONPATH"] = str(ROOT)  # for the processes that tests start
os.environ.setdefault("MS_DEV_DUMP_IR_PASSES", "graph_build,validate")  # likewise; the graphs that tests read
# One thread for PyNative mode: the same bits at a seventh of the processor time, as its queues wait in busy loops.
os.environ.setdefault("MS_DEV_HOST_BLOCKING_RUN", "1")

# Tests with these marks run when the option of the same name is given, and then alone; with --all everything runs.
PARTS = {"long": "networks of full size compiled, the commands of READMEs one after the other",
         "torture": "kills, full disks, hostile files and thousands of mistakes",
         "devices": "everything compiled for Ascend and GPU over stand-in libraries"}
LEFT_OUT = pytest.StashKey[Counter]()
BRIEF = {"augment", "checkpoint", "dataset", "pictures"}  # rooms whose files take seconds each


def pytest_addoption(parser):
    group = parser.getgroup("zoo")
    group.addoption("--all", action="store_true", help="run every test")
    for name, what in PARTS.items():
        group.addoption(f"--{name}", action="store_true", help=f"run only {what}")


def pytest_configure(config):
    """Declare the markers here too, for a run from the root, which does not see tests/pytest.ini."""
    if not any(config.getoption(name) for name in ("all", *PARTS)):
        os.environ["ZOO_TEST_THREADS"] = "1"
    config.addinivalue_line("markers", "slow: takes more than half a minute")
    config.addinivalue_line("markers", "distributed: starts several processes")
    for name, what in PARTS.items():
        config.addinivalue_line("markers", f"{name}: {what}; runs with --{name} and --all")


def pytest_collection_modifyitems(config, items):
    """Leave out the parts that are not asked for; run fast files first, so that most of what is wrong shows soon.

    Processes of pytest-xdist, which get file by file, begin with the slow files, among which those that start several
    processes are spread: else one would be left with a long file at the end, or the machine be full at the beginning.
    """
    asked = {name for name in PARTS if config.getoption(name)}
    parts = [(next((name for name in PARTS if item.get_closest_marker(name)), None), item) for item in items]
    kept = [item for part, item in parts if config.getoption("all") or (part in asked if asked else part is None)]
    config.stash[LEFT_OUT] = Counter(part or "ordinary" for part, item in parts) - Counter(
        next((name for name in PARTS if item.get_closest_marker(name)), "ordinary") for item in kept)
    several, slow = ([*dict.fromkeys(item.path for item in kept if item.get_closest_marker(name))]
                     for name in ("distributed", "slow"))
    place = {path: (number + 0.5) / len(group) for group in (slow, several) for number, path in enumerate(group)}
    if hasattr(config, "workerinput"):
        others = [*dict.fromkeys(item.path for item in kept if item.path not in place)]
        others = sorted(reversed(others), key=lambda path: path.parent.name in BRIEF)  # nobody waits long for the last one
        place |= {path: 1 + number for number, path in enumerate(others)}
        items[:] = sorted(kept, key=lambda item: place[item.path])
    else:
        items[:] = sorted(kept, key=lambda item: item.path in place)


def pytest_collection_finish():
    gc.freeze()  # what has been imported stays: no garbage collection needs to go through it


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):  # a process of pytest-xdist: all of them collect the same
        session.config.workeroutput["left_out"] = dict(session.config.stash.get(LEFT_OUT, {}))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    node.config.stash[LEFT_OUT] = Counter(getattr(node, "workeroutput", {}).get("left_out", {}))


def pytest_terminal_summary(terminalreporter, config):
    """Say what was tried and lost, what did not run and why; pytest itself lists why tests were skipped (-rs)."""
    for report in (*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")):
        for name, value in report.user_properties:
            if name == "counts":
                terminalreporter.write_line(value)
    for name, count in config.stash.get(LEFT_OUT, Counter()).items():
        what = PARTS.get(name, "the ordinary tests")
        option = f"--{name} or --all" if name in PARTS else "--all, or no such option"
        terminalreporter.write_line(f"not run: {count} tests ({what}); {option} runs them")


@pytest.fixture
def counts(record_property):
    """Lets the summary show a line of counts, in whatever process the test runs."""
    return functools.partial(record_property, "counts")


@pytest.fixture(autouse=True)
def scratch_directory(tmp_path, monkeypatch):
    """Run every test in an empty folder: the framework writes rank_0/ and dumps into the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@functools.cache
def one_thread():
    """Let an operation have one thread in the ordinary tests, as processes share the cores; see fork_server.py."""
    sys.modules["mindspore"].device_context.cpu.op_tuning.threads_num(1)


@pytest.fixture(autouse=True)
def same_beginning():
    """Let every test begin alike, whatever ran before: in the framework's own mode, PyNative (to compile takes longer),
    and with one seed, which NumPy gets too.
    """
    if "mindspore" in sys.modules:
        ms = sys.modules["mindspore"]
        ms.set_context(mode=ms.PYNATIVE_MODE)
        ms.set_seed(1)
        if os.environ.get("ZOO_TEST_THREADS"):
            one_thread()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item, nextitem):
    """Free compiled graphs after every file and every slow test; return their memory where the C library can."""
    if item.get_closest_marker("slow") or nextitem is None or nextitem.path != item.path:
        gc.collect()
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim:
            trim(0)


@pytest.fixture
def uninitialised():
    """Build networks without initial values, where these do not matter: for large ones they take seconds."""
    from common.layers.initial_values import values_as_built

    with values_as_built():
        yield


@pytest.fixture(params=["graph", "pynative"])
def mode(request):
    """Run the test in graph mode and in PyNative mode."""
    import mindspore as ms

    ms.set_context(mode=ms.GRAPH_MODE if request.param == "graph" else ms.PYNATIVE_MODE)
    return request.param
