"""Which device a process takes, whether it is one of several, and whether these can meet."""
import os
import socket
import subprocess
import sys

import psutil
import pytest
from mindspore import device_context

from common.config.load import from_mapping
from common.context import cluster, device, tuning
from common.context.cluster import scheduler_ready
from common.context.device import device_number, joins_others, start
from common.context.tuning import is_first_generation, tune
from common.errors import UserError
from common.files import ROOT

RANK = {"MS_ROLE": "MS_WORKER", "MS_WORKER_NUM": "2"}


@pytest.mark.parametrize("wanted, joins, environment, expected", [
    (None, False, {}, None), (3, False, {}, 3), (3, False, {"DEVICE_ID": "5"}, 3), (None, False, {"DEVICE_ID": "5"}, 5),
    (0, True, {"DEVICE_ID": "5"}, 5),  # the old zoo's files say device_id: 0
    (0, True, {"ASCEND_DEVICE_ID": "6", "DEVICE_ID": ""}, 6), (0, True, {"DEVICE_ID": "1", "ASCEND_DEVICE_ID": "6"}, 1),
    (2, True, {}, 2)])
def test_each_of_several_processes_takes_the_device_of_its_launcher(wanted, joins, environment, expected):
    assert device_number(wanted, joins, environment) == expected


@pytest.mark.parametrize("values, environment, expected", [
    ({}, {}, False), ({}, RANK, True), ({"distribute": True}, RANK, True), ({"distribute": False}, {}, False),
    ({}, {"MS_ROLE": "MS_SCHED", "MS_WORKER_NUM": "2"}, True), ({}, {"MS_ROLE": "MS_WORKER", "MS_WORKER_NUM": "1"}, True),
    ({}, {"OMPI_COMM_WORLD_SIZE": "4"}, True), ({}, {"OMPI_COMM_WORLD_SIZE": "1"}, False),
    ({"distribute": True}, {"RANK_SIZE": "1"}, False),  # a platform's job of one card
    ({}, {"RANK_SIZE": "8"}, False), ({"distribute": False}, {"OMPI_COMM_WORLD_SIZE": "1"}, False)])
def test_a_process_of_a_launcher_joins_unless_the_user_says_no(values, environment, expected):
    assert joins_others(from_mapping(values, "test"), environment) is expected


@pytest.mark.parametrize("distribute, environment, said", [
    (True, {}, "not started by a launcher"), (True, {"RANK_SIZE": "8"}, "not started by a launcher"),
    (False, RANK, "a launcher has started 2 processes"), (False, {"OMPI_COMM_WORLD_SIZE": "3"}, "has started 3 proc")])
def test_what_the_user_says_and_how_it_was_started_must_fit(distribute, environment, said):
    with pytest.raises(UserError, match=said):
        joins_others(from_mapping({"distribute": distribute}, "test"), environment)


def test_a_process_that_has_computed_something_goes_on_with_the_cpu():
    """As in a notebook; the framework refuses to be told the device then, even the one in use."""
    import mindspore as ms

    assert ms.ops.add(ms.Tensor(1.0), 1.0).asnumpy() == 2
    with pytest.raises(RuntimeError, match="has been initialized"):
        ms.set_device("CPU")
    assert start(from_mapping({"device_target": "CPU"}, "test")).device == "CPU"


def test_a_library_without_a_card_is_no_device(monkeypatch):
    """CANN on a machine without a card: the framework calls Ascend available."""
    monkeypatch.setattr(device_context.ascend, "is_available", lambda: True)
    monkeypatch.setattr(device_context.ascend, "device_count", lambda: 0)
    assert start(from_mapping({"device_target": "auto"}, "test")).device == "CPU"
    with pytest.raises(UserError, match="Ascend is not available here.* needs CANN 8.2 to 9.1"):
        start(from_mapping({"device_target": "Ascend"}, "test"))


def test_a_card_that_the_framework_cannot_use_is_not_left_idle_in_silence(monkeypatch, tmp_path, caplog):
    (tmp_path / "nvidia0").touch()
    monkeypatch.setitem(device.CARDS, "GPU", f"{tmp_path}/nvidia[0-9]*")
    assert start(from_mapping({"device_target": "auto"}, "test")).device == "CPU"
    assert f"There is {tmp_path}/nvidia0, but MindSpore cannot use it: it needs CUDA 11.1 or 11.6" in caplog.text
    caplog.clear()
    start(from_mapping({"device_target": "CPU"}, "test"))
    assert not caplog.text


@pytest.mark.parametrize("level", ["O1", "O0"])
def test_the_jit_level_is_set_in_so_many_words(level):
    import mindspore as ms

    start(from_mapping({"device_target": "CPU", "jit_level": level}, "test"))
    assert ms.get_context("jit_config")["jit_level"] == level


@pytest.mark.parametrize("device, names", [("Ascend", ("conv_allow_hf32", "matmul_allow_hf32")),
                                           ("GPU", ("conv_allow_tf32", "matmul_allow_tf32"))])
@pytest.mark.parametrize("allowed", [False, True])
def test_float32_is_float32_unless_allowed_otherwise(device, names, allowed, monkeypatch):
    import mindspore as ms

    said = {}
    for name in names:
        precision = getattr(ms.device_context, device.lower()).op_precision
        monkeypatch.setattr(precision, name, lambda value, name=name: said.update({name: value}))
    tune(from_mapping({"allow_hf32": allowed}, "test"), device)
    assert said == dict.fromkeys(names, allowed)


def test_determinism_and_the_limit_of_memory_reach_the_framework(monkeypatch):
    import mindspore as ms

    said = []
    tuning._make_deterministic.cache_clear(), tuning._limit_memory.cache_clear()
    monkeypatch.setattr(ms, "set_deterministic", said.append)
    monkeypatch.setattr(ms.runtime, "set_memory", lambda **sizes: said.append(sizes))
    tune(from_mapping({}, "test"), "CPU")
    assert said == []
    tune(from_mapping({"deterministic": True, "max_device_memory": 1.5}, "test"), "CPU")
    assert said == [True, {"init_size": "1.5GB", "increase_size": "1.5GB", "max_size": "1.5GB"}]


def test_the_framework_takes_the_limit_of_memory_as_it_is_written_and_no_queues_on_a_cpu():
    code = ("from common.config.load import from_mapping; from common.context.device import start;"
            "from mindspore._c_expression import RuntimeConf; keys = {'deterministic': True, 'device_target': 'CPU'};"
            "start(from_mapping(keys | {'max_device_memory': 1.5}, 'test'));"
            "start(from_mapping(keys | {'max_device_memory': 1.5}, 'test'));"
            "print('twice', RuntimeConf.get_instance().is_launch_blocking()); start(from_mapping(keys | {'max_device_memory': 2}, 'test'))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "twice True\n", done.stderr
    assert "max_device_memory cannot be set: The 'set_memory' can not be set repeatedly" in done.stderr


@pytest.mark.parametrize("name, first", [("Ascend910A", True), ("Ascend910ProB", True), ("Ascend910B", True),
                                         ("Ascend910B2", False), ("Ascend910_9391", False), ("Ascend310P3", False)])
def test_the_first_generation_is_known_by_its_name(name, first, monkeypatch):
    import mindspore as ms

    monkeypatch.setattr(ms, "get_current_device", lambda: ("Ascend", 3))
    monkeypatch.setattr(ms.hal, "get_device_name", {3: name}.get)
    assert is_first_generation() is first


def test_a_scheduler_whose_port_is_taken_says_so():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        environment = {"MS_ROLE": "MS_SCHED", "MS_SCHED_HOST": "127.0.0.1", "MS_SCHED_PORT": str(port)}
        with pytest.raises(UserError, match=f"the port {port} of 127.0.0.1, .* in use; give another one"):
            with scheduler_ready(environment):
                pytest.fail("it begins")
    with scheduler_ready(environment):
        pass


def test_without_msrun_above_it_a_process_does_not_wait_for_a_scheduler(monkeypatch):
    monkeypatch.setattr(cluster.time, "sleep", lambda seconds: pytest.fail("it waits"))
    for environment in ({"MS_ROLE": "MS_WORKER", "MS_SCHED_PORT": "8118"}, {}):
        with scheduler_ready(environment):
            pass


def test_the_others_join_when_the_scheduler_listens_at_its_port():
    code = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"MS_ROLE": "MS_SCHED"}, text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as scheduler:
        port, family = int(scheduler.stdout.readline()), [psutil.Process(scheduler.pid)]
        found = [cluster._listens(lambda: family, number) for number in (port, port + 1)]
        scheduler.communicate("\n")
    assert found == [True, False]


def test_a_process_whose_msrun_was_killed_saves_and_ends(tmp_path):
    """msrun starts its processes in sessions of their own; they would train on, and hold the run's folder."""
    (tmp_path / "msrun").write_text("""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "rank.py"], start_new_session=True)
print(child.pid, flush=True)
child.wait()
""")
    (tmp_path / "rank.py").write_text("""
import time
from common.command import ENDING
from common.context.cluster import scheduler_ready
ENDING.begin()
with scheduler_ready({"MS_ROLE": "MS_WORKER"}):
    print("joined", flush=True)
time.sleep(60)
""")
    with subprocess.Popen([sys.executable, "msrun"], cwd=tmp_path, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}) as msrun:
        assert msrun.stdout.readline().strip().isdecimal() and msrun.stdout.readline() == "joined\n"
        msrun.kill()
        assert msrun.communicate(timeout=30) == ("", "\nStopped.\n")  # the pipes close when the rank has gone
