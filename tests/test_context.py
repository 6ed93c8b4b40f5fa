"""Which device a process takes, and whether the processes of a job can meet."""
import os
import socket

import pytest

from common.config.load import from_mapping
from common.context.device import device_number, start
from common.context.msrun import check_msrun, time
from common.errors import UserError


@pytest.mark.parametrize("values, environment, expected", [
    ({}, {}, None), ({"device_id": 3}, {}, 3), ({"device_id": 3}, {"DEVICE_ID": "5"}, 3), ({}, {"DEVICE_ID": "5"}, 5),
    ({"device_id": 0, "distribute": True}, {"DEVICE_ID": "5"}, 5),  # the old zoo's files say device_id: 0
    ({"device_id": 0, "distribute": True}, {"ASCEND_DEVICE_ID": "6", "DEVICE_ID": ""}, 6),
    ({"device_id": 0, "distribute": True}, {"DEVICE_ID": "1", "ASCEND_DEVICE_ID": "6"}, 1),
    ({"device_id": 2, "distribute": True}, {}, 2)])
def test_each_of_several_processes_takes_the_device_of_its_launcher(values, environment, expected):
    assert device_number(from_mapping(values, "test"), environment) == expected


def test_a_process_that_has_computed_something_goes_on_with_the_cpu():
    """As in a notebook; the framework refuses to be told the device then, even the one in use."""
    import mindspore as ms

    assert ms.ops.add(ms.Tensor(1.0), 1.0).asnumpy() == 2
    with pytest.raises(RuntimeError, match="has been initialized"):
        ms.set_device("CPU")
    assert start(from_mapping({"device_target": "CPU"}, "test")).device == "CPU"


def test_a_scheduler_whose_port_is_taken_says_so():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"the port {port} of 127.0.0.1, .* in use; give another one"):
            check_msrun({"MS_ROLE": "MS_SCHED", "MS_SCHED_HOST": "127.0.0.1", "MS_SCHED_PORT": str(port)})
    check_msrun({"MS_ROLE": "MS_SCHED", "MS_SCHED_HOST": "127.0.0.1", "MS_SCHED_PORT": str(port)})


def test_without_msrun_above_it_a_process_does_not_wait_for_a_scheduler(monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waits"))
    check_msrun({"MS_ROLE": "MS_WORKER", "MS_SCHED_PORT": "8118"})
    check_msrun({})
    assert os.getppid() > 0
