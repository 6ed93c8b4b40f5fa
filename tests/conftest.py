"""Shared test set-up: the repository on the path, a quiet framework, and a scratch folder as working directory."""
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("GLOG_v", "3")  # read when MindSpore is imported: errors only
# What common.context.device sets for networks with convolutions must hold from the first operation on, whichever test
# comes first. The tests hold on every set of instructions: ONEDNN_MAX_CPU_ISA=SSE41, AVX or AVX512_CORE.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")
os.environ["PYTHONPATH"] = str(ROOT)  # for the processes that tests start


def pytest_configure(config):
    """Declare the markers here too, for a run from the root, which does not see tests/pytest.ini."""
    config.addinivalue_line("markers", "slow: takes more than half a minute")
    config.addinivalue_line("markers", "distributed: starts several processes")


def pytest_collection_modifyitems(items):
    """Run the fast tests first, so that most of what is wrong shows within minutes."""
    items.sort(key=lambda item: any(item.get_closest_marker(name) for name in ("slow", "distributed")))


@pytest.fixture(autouse=True)
def scratch_directory(tmp_path, monkeypatch):
    """Run every test in an empty folder: the framework writes rank_0/ and dumps into the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(params=["graph", "pynative"])
def mode(request):
    """Run the test in graph mode and in PyNative mode."""
    import mindspore as ms

    ms.set_context(mode=ms.GRAPH_MODE if request.param == "graph" else ms.PYNATIVE_MODE)
    yield request.param
    ms.set_context(mode=ms.GRAPH_MODE)
