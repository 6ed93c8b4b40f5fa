"""A platform's rank table becomes the variables of MindSpore's dynamic cluster. The scripts: tests/scripts/."""
import copy
import signal
import subprocess
import sys

import pytest
from entry import ROOT, run, sentence
from rank_tables import table, write

from common.errors import UserError
from common.launch.platform import leave_table


def left(document: dict, tmp_path, distribute: bool | None = None, **environment: str) -> dict[str, str]:
    """Return the environment after the table was left."""
    environment["RANK_TABLE_FILE"] = str(write(document, tmp_path / "t.json"))
    leave_table(distribute, environment)
    return environment


def test_every_process_of_a_platform_gets_its_place_and_rank_0_the_scheduler(tmp_path):
    for rank in ("0", "4"):
        assert left(table(2, 3), tmp_path, RANK_ID=rank, ASCEND_DEVICE_ID="1") == {
            "ASCEND_DEVICE_ID": "1", "RANK_ID": rank, "RANK_SIZE": "5", "MS_ROLE": "MS_WORKER", "MS_WORKER_NUM": "5",
            "MS_NODE_ID": rank, "MS_SCHED_HOST": "10.9.8.1", "MS_SCHED_PORT": "8118", "MS_TOPO_TIMEOUT": "3600"
        } | ({"ZOO_SCHEDULER_HERE": "1"} if rank == "0" else {})


def test_a_rank_is_found_by_server_and_device_where_the_platform_does_not_say_it(tmp_path):
    found = left(table(2, 3), tmp_path, True, SERVER_ID="1", DEVICE_ID="2")
    assert (found["RANK_ID"], found["MS_NODE_ID"]) == ("4", "4")
    with pytest.raises(UserError, match=r"RANK_ID is not set, and DEVICE_ID \('7'\) is no device of this server"):
        left(table(2, 3), tmp_path, True, SERVER_ID="1", DEVICE_ID="7")


def test_the_platform_may_name_another_place_to_meet(tmp_path):
    found = left(table(1, 1), tmp_path, RANK_ID="1", MASTER_ADDR="10.1.1.1", MASTER_PORT="9000", MS_TOPO_TIMEOUT="5")
    assert (found["MS_SCHED_HOST"], found["MS_SCHED_PORT"], found["MS_TOPO_TIMEOUT"]) == ("10.1.1.1", "9000", "5")
    document = table(1, 1)
    document["server_list"][0]["server_id"] = "no such name.invalid"
    with pytest.raises(UserError, match="MASTER_ADDR: .* 'no such name.invalid' is no address; set MASTER_ADDR"):
        left(document, tmp_path, RANK_ID="1")
    assert left(table(2), tmp_path, RANK_ID="1")["MS_SCHED_HOST"] == "127.0.0.1"  # one server needs no address


def test_a_job_of_one_card_joins_nobody(tmp_path):
    assert left(table(1), tmp_path, RANK_ID="0", DEVICE_ID="3") == {"RANK_ID": "0", "RANK_SIZE": "1", "DEVICE_ID": "3"}


def test_a_table_that_lies_about_is_taken_out_and_that_of_a_launcher_stays(tmp_path):
    assert left({"no": "table"}, tmp_path, DEVICE_ID="3") == {"DEVICE_ID": "3"}
    environment = {"RANK_TABLE_FILE": "/none.json", "MINDSPORE_HCCL_CONFIG_PATH": "/none", "MS_ROLE": "MS_WORKER"}
    before = copy.copy(environment)
    leave_table(None, environment)
    assert environment == before


def test_a_rank_outside_of_the_table_is_refused(tmp_path):
    with pytest.raises(UserError, match="RANK_ID: '2' is not among the ranks 0 to 1"):
        left(table(2), tmp_path, RANK_ID="2")


def test_the_launcher_without_arguments_says_what_is_missing():
    assert "the following arguments are required: kind, device, task" in sentence(run("-m", "common.launch"))


def test_ctrl_c_during_the_imports_shows_no_traceback():
    late = "import common.command, os, signal; os.kill(os.getpid(), signal.SIGINT); import time; time.sleep(9)"
    result = subprocess.run([sys.executable, "-c", late], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (-signal.SIGINT, "\nStopped.\n")
