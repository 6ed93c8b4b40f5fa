"""Rank tables: what is read, what is refused and with which words, which server is this one, and the tools."""
import copy
import json
import os
import socket
import sys
from pathlib import Path

import pytest
from entry import ROOT, run as run_program, sentence
from rank_tables import table, write

from common.command import run
from common.context.cores import share_cores
from common.errors import UserError
from common.launch.__main__ import main as launch
from common.rank_table.__main__ import main
from common.rank_table.cost import all_reduce_ms, layout
from common.rank_table.make import own_address, parse_devices
from common.rank_table.table import Device, Server, find_server, is_local, read_rank_table


def with_pods(*pods: list[int]) -> dict:
    """A table of version 1.2 with two servers, which are in these super pods."""
    document = table(2, 2, version="1.2")
    document["super_pod_list"] = [{"super_pod_id": str(number), "server_list": [
        {"server_id": f"10.9.8.{server}"} for server in members]} for number, members in enumerate(pods)]
    return document


def changed(path: str, value=None, servers=(2, 2)) -> dict:
    """A table in which one entry, such as ``server_list.0.device.1.rank_id``, has another value, or is not there."""
    document = table(*servers)
    *way, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    place = document
    for part in way:
        place = place[part]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return document


def device(server: int, number: int, key: str, value=None, servers=(2, 2)) -> dict:
    """A table in which one key of a device is changed."""
    return changed(f"server_list.{server}.device.{number}.{key}", value, servers)


def same_address_in_two_spellings() -> dict:
    """A table in which two devices have one address, written differently."""
    document = device(0, 0, "device_ip", "fe80::1", (2,))
    document["server_list"][0]["device"][1]["device_ip"] = "fe80:0::1"
    return document


ONE, TWO = "10.9.8.1", "10.9.8.2"
BROKEN = {
    "empty file": (" \n", "is empty"),
    "no JSON": ('{"version": ', "is no JSON", "line 1"),
    "a comment of the documentation": ('{\n"version": "1.0", // the version\n"status": "completed"}', "line 2",
                                       "comment"),
    "a key twice": ('{"version": "1.0", "version": "1.2"}', "'version'", "twice"),
    "a key twice in a device": ('{"server_list": [{"server_id": "a", "device": [{"device_id": "3", "rank_id": "0", '
                                '"rank_id": "1"}]}]}', "'rank_id' of device_id '3'", "twice"),
    "a list": ([], "JSON object"),
    "the older template": ({"status": "completed", "group_count": "1", "group_list": []}, "'group_list'",
                           "older template"),
    "a global table": ({"version": "1.0", "status": "completed", "server_group_list": []}, "'server_group_list'"),
    "no version": (changed("version"), "version is missing", "1.0 and 1.2"),
    "another version": (changed("version", "2.0"), "version is 2.0"),
    "not finished": (changed("status", "initializing"), "'initializing'", "has not finished"),
    "another status": (changed("status", "failed"), "'failed'", "'completed'"),
    "no status": (changed("status"), "'missing'"),
    "no servers": (changed("server_list"), "server_list"),
    "an empty list of servers": (changed("server_list", []), "server_list"),
    "no server_count": (changed("server_count"), "server_count is missing", "2 servers"),
    "a wrong server_count": (changed("server_count", "3"), "server_count is 3", "2 servers"),
    "a server_count in words": (changed("server_count", "two"), "server_count is 'two'"),
    "a server that is a text": (changed("server_list.1", TWO), "server number 1", TWO),
    "no server_id": (changed("server_list.1.server_id"), "server number 1", "no server_id"),
    "an empty server_id": (changed("server_list.0.server_id", " "), "server number 0", "no server_id"),
    "a server_id too long": (changed("server_list.0.server_id", "a" * 64), f"server '{'a' * 64}'", "64 characters"),
    "a server twice": (changed("server_list.1.server_id", ONE), f"server '{ONE}'", "twice"),
    "no devices": (changed("server_list.1.device"), f"server '{TWO}'", "at least one device"),
    "an empty list of devices": (changed("server_list.1.device", []), f"server '{TWO}'", "at least one device"),
    "a device that is a number": (changed("server_list.1.device.1", 1), f"server '{TWO}'", "device number 1"),
    "no device_id": (device(0, 1, "device_id"), f"server '{ONE}'", "device number 1", "no device_id"),
    "a device_id in words": (device(0, 1, "device_id", "one"), f"server '{ONE}'", "device number 1", "'one'"),
    "a negative device_id": (device(0, 1, "device_id", -1), f"server '{ONE}'", "device number 1", "-1"),
    "a device_id that is true": (device(0, 1, "device_id", True), f"server '{ONE}'", "device number 1", "True"),
    "a device_id that is no whole number": (device(0, 1, "device_id", 1.5), f"server '{ONE}'", "1.5"),
    "a device twice": (device(0, 1, "device_id", "0"), f"server '{ONE}', device 0", "twice"),
    "no rank_id": (device(1, 0, "rank_id"), f"server '{TWO}', device 0", "no rank_id"),
    "a rank_id in words": (device(1, 0, "rank_id", "x"), f"server '{TWO}', device 0", "'x'"),
    "a rank twice": (device(1, 0, "rank_id", "1"), f"server '{TWO}', device 0", f"server '{ONE}', device 1", "1"),
    "a gap in the ranks": (device(1, 1, "rank_id", "7"), f"server '{TWO}', device 1", "is 7", "0 to 3", "3 is missing"),
    "ranks from 1": (device(0, 0, "rank_id", "1", (1,)), f"server '{ONE}', device 0", "0 is missing"),
    "no address among several servers": (device(1, 1, "device_ip"), f"server '{TWO}', device 1", "no device_ip"),
    "an address that is none": (device(0, 1, "device_ip", "192.168.0"), f"server '{ONE}', device 1", "'192.168.0'"),
    "an address that is a number": (device(0, 1, "device_ip", 17), f"server '{ONE}', device 1", "17"),
    "an address twice": (device(1, 1, "device_ip", "192.168.0.1"), f"server '{TWO}', device 1", f"'{ONE}', device 0"),
    "an address twice in another spelling": (same_address_in_two_spellings(), f"server '{ONE}', device 1", "fe80:0::1"),
    "super pods that are none": ({**table(1), "version": "1.2", "super_pod_list": {}}, "super_pod_list"),
    "a super pod without servers": ({**table(1), "super_pod_list": [{"super_pod_id": "0"}]}, "super pod number 0"),
    "a super pod with a strange server": (with_pods([1, 2, 3]), "'10.9.8.3'", "super pod '0'"),
    "a server in two super pods": (with_pods([1, 2], [2]), f"'{TWO}'", "two super pods"),
    "a server in no super pod": (with_pods([1]), f"'{TWO}'", "no super pod"),
}


@pytest.fixture
def launched(monkeypatch, tmp_path):
    """Return a function that launches a training as the script does, with a program that leaves a trace."""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    python.chmod(0o755)
    monkeypatch.setenv("RESULTS_DIR", str(tmp_path / "results"))
    monkeypatch.setenv("RANK_TABLE_WAIT", "0")
    monkeypatch.setenv("SERVER_ID", "0")

    def launch_it(file: Path) -> int:
        return run(launch, ["distribute", "ascend", "train", "", str(python), str(tmp_path), str(file),
                            str(ROOT / "gmlp/config/gmlp_Ti.yaml")])

    return launch_it


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_table_is_one_sentence_and_starts_nothing(name, launched, capsys, tmp_path):
    document, *words = BROKEN[name]
    file = write(document, tmp_path / "table.json")
    assert run(main, ["check", str(file)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith(f"error: rank table {file}: ") and said.err.count("\n") == 1
    assert said.err.endswith(".\n")
    assert [word for word in words if word not in said.err] == []
    assert launched(file) == 2
    assert capsys.readouterr().err == said.err
    assert not (tmp_path / "results").exists() and not (tmp_path / "started").exists()


@pytest.mark.parametrize("make, words", [
    (lambda path: None, "No such file"), (lambda path: path.mkdir(), "Is a directory"),
    (lambda path: path.write_bytes(b"\xff\xfe{"), "no text in UTF-8"),
    (lambda path: path.write_text("[" * 100_000), "nested too deeply"),
    (lambda path: path.write_text("9" * 5000), "a number of thousands of digits")])
def test_a_file_that_cannot_be_read_is_one_sentence(make, words, launched, capsys, tmp_path):
    make(tmp_path / "table.json")
    assert run(main, ["check", "table.json"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: rank table table.json: ") and words in error and error.count("\n") == 1
    assert launched(Path("table.json")) == 2 and not (tmp_path / "results").exists()


def test_a_good_table_does_start(launched, tmp_path):
    assert launched(write(table(2))) == 0
    assert (tmp_path / "started").exists()


def test_both_versions_numbers_instead_of_texts_and_unknown_fields_are_read():
    read = read_rank_table(write(with_pods([2], [1])))
    assert (read.version, read.world_size) == ("1.2", 4)
    document = table(1, 1)
    document["server_count"] = 2
    for server in document["server_list"]:
        server["device"] = [{key: int(value) if key != "device_ip" else value for key, value in one.items()}
                            | {"device_port": "16666"} for one in server["device"]]
    assert [one.devices[0].rank for one in read_rank_table(write(document)).servers] == [0, 1]
    assert read_rank_table(write("\ufeff" + json.dumps(document))).world_size == 2


def test_devices_are_in_the_order_of_their_ranks_and_servers_in_that_of_their_lowest():
    document = table(2, 2)
    for server, ranks in zip(document["server_list"], (["3", "2"], ["0", "1"])):
        for one, rank in zip(server["device"], ranks):
            one["rank_id"] = rank
    read = read_rank_table(write(document))
    assert [(one.rank, one.id) for one in read.servers[0].devices] == [(2, 1), (3, 0)]
    assert [server.id for server in read.by_rank] == [TWO, ONE]


def test_one_server_may_leave_out_addresses():
    assert read_rank_table(write(device(0, 0, "device_ip", servers=(1,)))).servers[0].devices[0].ip == ""


def test_a_table_that_is_still_being_written_is_waited_for():
    file = write(table(1) | {"status": "initializing"})
    finish = f"import time, pathlib; time.sleep(0.5); pathlib.Path({str(file)!r}).write_text({json.dumps(table(1))!r})"
    child = os.spawnl(os.P_NOWAIT, sys.executable, sys.executable, "-c", finish)
    assert read_rank_table(file, wait=60).world_size == 1
    os.waitpid(child, 0)


def found(document: dict, wanted: str | None = None, conf: str = "") -> str:
    """Which server of a table this one is, with this text in hccn.conf."""
    Path("hccn.conf").write_text(conf)
    return find_server(read_rank_table(write(document)), wanted, "hccn.conf").id


def test_the_server_that_the_user_names_is_taken_by_index_or_by_id():
    assert found(table(1, 1), "1") == TWO and found(table(1, 1), TWO) == TWO
    document = table(1, 1)
    document["server_list"][0]["server_id"] = "1"  # an id goes before an index
    assert found(document, "1") == "1"


def test_the_only_server_is_this_one():
    assert found(table(2)) == ONE


@pytest.mark.parametrize("name", ["127.0.0.1", "::1", socket.gethostname()])
def test_a_server_with_an_own_address_or_name_is_this_one(name):
    if name == "::1" and not is_local(name):
        pytest.skip("no IPv6 here")
    assert found(changed("server_list.1.server_id", name)) == name


def test_a_server_whose_device_has_the_address_of_hccn_conf_is_this_one():
    assert found(table(2, 2), conf="address_0=192.168.1.1\nnetmask_0=255.255.255.0\naddress_1=192.168.1.2\n") == TWO


@pytest.mark.parametrize("wanted, conf", [("2", ""), ("10.9.8.7", ""), ("-1", ""), (None, ""),
                                          (None, "address_0=192.168.0.1\naddress_1=192.168.1.1\n")])
def test_a_server_that_cannot_be_told_is_asked_for_with_a_list(wanted, conf):
    with pytest.raises(UserError, match=f"^SERVER_ID: .*0: {ONE}, 1: {TWO}"):
        found(table(2, 2), wanted, conf)


def test_check_says_what_is_in_the_table_and_notes_odd_sets_of_devices(capsys):
    document = table(3)
    assert run(main, ["check", str(write(document))]) == 0
    said = capsys.readouterr().out
    assert "version 1.0, 1 server, 3 ranks." in said and f"server 0 '{ONE}': ranks 0-2 on devices 0,1,2" in said
    assert f"this server: '{ONE}'" in said and "910A" in said
    for ids, noted in (("018", False), ("34", True), ("01", False)):  # of sixteen devices; of both halves; of one
        document = table(len(ids))
        for device, number in zip(document["server_list"][0]["device"], ids):
            device["device_id"] = number
        assert run(main, ["check", str(write(document))]) == 0 and ("910A" in capsys.readouterr().out) == noted
    assert run(main, ["check", str(write(table(4, 4)))]) == 0
    said = capsys.readouterr().out
    assert "set SERVER_ID" in said and "910A" not in said


def test_the_command_lines_work_as_documented(tmp_path):
    file = write(table(2), tmp_path / "a table.json")
    assert "2 ranks" in run_program("-m", "common.rank_table", "check", file).stdout
    assert sentence(run_program("-m", "common.rank_table", "check", tmp_path / "none")).startswith("error: rank table ")
    assert "invalid choice: 'chekc'" in sentence(run_program("-m", "common.rank_table", "chekc", file))


def test_plan_names_rank_device_server_and_cores_of_each_process(capsys, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8, 16)), raising=False)
    document = table(2, 2)
    document["server_list"][1]["device"][0]["device_id"] = "6"
    assert run(main, ["plan", str(write(document)), "--server_id", "1"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"rank 2 device 6 server {TWO} cores 8-11",
                                                    f"rank 3 device 1 server {TWO} cores 12-15"]


def test_cores_are_shared_evenly_and_not_at_all_when_there_are_too_few(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 4, 5, 6}, raising=False)
    assert share_cores(2) == [[0, 1], [4, 5]]
    assert share_cores(5) == [[0], [1], [4], [5], [6]]
    assert share_cores(8) == [[]] * 8


def test_plan_of_many_cards_states_its_model_and_follows_it(capsys):
    assert run(main, ["plan", "--cards", "20", "--link", "10", "--network", "5", "--latency", "0",
                                  "--step_ms", "40", "--batch_size", "32"]) == 0
    said = capsys.readouterr().out
    assert "20 devices on 3 servers" in said and "server 2: ranks 16-19, devices 0-3" in said
    assert "not measured" in said and "10 GB/s in a server, 5 GB/s between servers" in said
    lines = said[said.index("images/step"):].splitlines()[1:]
    rows = {words[0]: words for words in map(str.split, lines)}
    assert set(rows) == {"1", "2", "4", "8", "16", "20"} and rows["20"][1] == "640"
    assert rows["8"][4:6] == ["9.2", "(81%)"]  # 2 * 7/8 of 4 bytes * 13.1 million at 10 GB/s, beside 40 ms
    assert rows["4"][4:6] == ["7.9", "(84%)"]
    assert float(rows["16"][4]) == pytest.approx(19.65, abs=0.06)  # 2 * 15/16 of them at 5 GB/s


def test_the_cost_of_an_epoch_follows_the_reported_step_and_the_ring(capsys):
    assert run(main, ["plan", "--cards", "64", "--epoch", "--latency", "0"]) == 0
    said = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in said.splitlines()[2:]]
    assert [row[1] for row in rows if row[0] == "SOFT-tiny, 128"] == ["8", "32", "64"]
    found = {(row[0].split(",")[0], row[1]): row[2:] for row in rows}
    assert found["SOFT-tiny", "8"][:3] == ["1,024", "1,251", "1,281,024"]
    ring = 2 * 7 / 8 * 4 * 13_069_056
    assert found["SOFT-tiny", "8"][3:5] == [f"{ring * 1251 / 1e9:.0f}", f"259, reported ({ring / 30e6:.1f})"]
    step = 259.4 - ring / 30e6 + 2 * 63 / 64 * 4 * 13_069_056 / 12.5e6  # between servers the network is the slowest
    assert found["SOFT-tiny", "64"][4:] == [f"{step:.0f} ({2 * 63 / 64 * 4 * 13_069_056 / 12.5e6:.1f})",
                                            f"{156 * step / 60_000:.1f}"]


def test_the_readme_shows_the_cost_of_an_epoch_as_the_command_does(capsys):
    assert run(main, ["plan", "--cards", "64", "--epoch"]) == 0
    assert capsys.readouterr().out in (ROOT / "scripts" / "README.md").read_text(encoding="utf-8")


def test_the_ring_costs_nothing_alone_and_its_latency_grows_with_the_devices():
    assert all_reduce_ms(1, 1e6, 8, 30, 12.5, 20) == 0
    assert all_reduce_ms(9, 0, 8, 30, 12.5, 20) == pytest.approx(2 * 8 * 0.020)
    assert layout(9, 8) == [(0, 7), (8, 8)]


@pytest.mark.parametrize("words, key", [(["--cards", "0"], "--cards"), ([], "rank table, or --cards"),
                                        (["--cards", "8", "--link", "0"], "--link"),
                                        (["--cards", "8", "--latency", "-1"], "--latency"),
                                        (["--cards", "0", "--epoch"], "--cards"),
                                        (["--epoch"], "rank table, or --cards"),
                                        (["--cards", "x"], "--cards")])
def test_plan_refuses_numbers_that_make_no_sense(words, key, capsys):
    assert run(main, ["plan", *words]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ") and key in said.err and said.err.count("\n") == 1 and not said.out


@pytest.mark.parametrize("text, devices", [
    ("0-7", list(range(8))), ("0,1,4-5", [0, 1, 4, 5]), ("[0,8)", list(range(8))),
    ("8-15", list(range(8, 16))), ("3", [3]), ("7,2", [7, 2])])
def test_sets_of_devices_in_all_spellings(text, devices):
    assert parse_devices(text) == devices


@pytest.mark.parametrize("text", ["", "a", "7-0", "0,0", "0-3,2", "-1", "[0,8]", "[0,0)", "0;1"])
def test_sets_of_devices_that_are_none(text):
    with pytest.raises(UserError, match="^--devices: "):
        parse_devices(text)


def make(*words: str) -> int:
    return run(main, ["make", *words])


def hccn_tool(folder: Path, answers: dict[int, str]) -> None:
    """Put a stand-in of the device tool on PATH."""
    lines = "".join(f'{device}) printf "ipaddr:{address}\\nnetmask:255.255.0.0\\n" ;;\n'
                    for device, address in answers.items())
    folder.mkdir()
    (folder / "hccn_tool").write_text('#!/bin/sh\n[ "$1 $3 $4" = "-i -ip -g" ] || exit 9\n'
                                      f'case "$2" in\n{lines}*) exit 1 ;;\nesac\n')
    (folder / "hccn_tool").chmod(0o755)


def test_make_with_given_addresses_writes_a_table_that_is_read(capsys):
    assert make("--devices", "4-5", "--server_ip", "10.0.0.7", "--device_ips", "1.1.1.4, 1.1.1.5") == 0
    assert capsys.readouterr().out == "hccl_2p_45_10.0.0.7.json\n"
    read = read_rank_table("hccl_2p_45_10.0.0.7.json")
    assert read.servers == (Server("10.0.0.7", (Device(4, 0, "1.1.1.4"),
                                                           Device(5, 1, "1.1.1.5"))),)


def test_make_asks_the_device_tool_and_reads_hccn_conf_for_the_rest(monkeypatch, tmp_path):
    hccn_tool(tmp_path / "bin", {0: "172.16.0.1"})
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    Path("hccn.conf").write_text("address_0=9.9.9.9\naddress_1=172.16.0.2\n")
    assert make("--devices", "0-1", "--server_ip", "a", "--hccn_conf", "hccn.conf", "--out", "t.json") == 0
    assert [one.ip for one in read_rank_table("t.json").servers[0].devices] == ["172.16.0.1", "172.16.0.2"]


def test_make_of_sixteen_devices_has_a_readable_name(capsys):
    assert make("--devices", "[0,16)", "--server_ip", "a", "--device_ips",
                ",".join(f"1.1.1.{number}" for number in range(16))) == 0
    assert capsys.readouterr().out == "hccl_16p_0-15_a.json\n"


def test_make_finds_the_address_of_this_server(monkeypatch):
    try:
        own = own_address()
    except UserError as error:
        assert "--server_ip" in str(error)
    else:
        assert is_local(own) and not own.startswith("127.")


@pytest.mark.parametrize("words, said", [
    (["--devices", "0-1", "--device_ips", "1.1.1.1"], "--device_ips: 1 addresses for 2 devices"),
    (["--devices", "0", "--device_ips", "1.1.1"], "'1.1.1' is no IP address"),
    (["--devices", "0-1", "--device_ips", "1.1.1.1,1.1.1.1"], "also that of"),
    (["--devices", "0"], "hccn_tool is not on PATH, and none.conf is not there; give the addresses"),
    (["--devices", "0", "--device_ips", "1.1.1.1", "--out", "no/t.json"], "cannot be written"), ([], "--devices")])
def test_make_says_what_is_missing(words, said, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert make(*words, "--server_ip", "a", "--hccn_conf", "none.conf") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1
    assert not list(Path().glob("*.json"))


def test_make_overwrites_nothing(capsys):
    Path("mine.json").write_text("precious")
    assert make("--devices", "0", "--server_ip", "a", "--device_ips", "1.1.1.1", "--out", "mine.json") == 2
    assert "mine.json is there already" in capsys.readouterr().err and Path("mine.json").read_text() == "precious"


def test_merge_joins_servers_in_order_and_renumbers_the_ranks(capsys):
    first, second = table(2), copy.deepcopy(table(1, 2))
    second["server_list"] = [second["server_list"][1]]
    second["server_count"] = "1"
    for rank, one in enumerate(second["server_list"][0]["device"]):
        one["rank_id"] = str(1 - rank)  # its own order is kept
    assert run(main, ["merge", str(write(second, Path("b.json"))), str(write(first, Path("a.json")))]) == 0
    assert capsys.readouterr().out == "hccl_2s_4p.json\n"
    merged = read_rank_table("hccl_2s_4p.json")
    assert [server.id for server in merged.servers] == [TWO, ONE]
    assert [[(one.rank, one.id) for one in server.devices] for server in merged.servers] == [[(0, 1), (1, 0)],
                                                                                             [(2, 0), (3, 1)]]
    assert merged.document["server_list"][0]["host_nic_ip"] == "reserve"


def test_merge_joins_super_pods():
    documents = [with_pods([1, 2]), json.loads(json.dumps(with_pods([1, 2])).replace("10.9.8.", "10.9.7.").replace(
        "192.168.", "192.169."))]
    files = [str(write(document, Path(f"{number}.json"))) for number, document in enumerate(documents)]
    assert run(main, ["merge", *files, "--out", "m.json"]) == 0
    pods = read_rank_table("m.json").document["super_pod_list"]
    assert [len(pod["server_list"]) for pod in pods] == [4]


@pytest.mark.parametrize("documents, said", [
    ([table(1)], "at least two"), ([table(1), table(1)], "twice"),
    ([table(1), with_pods([1, 2])], "versions 1.0 and 1.2"),
    ([table(1), changed("status", "failed")], "status is 'failed'"),
    ([table(1), json.loads(json.dumps(device(0, 0, "device_ip", servers=(1,))).replace(ONE, TWO))], "no device_ip")])
def test_merge_refuses_what_does_not_fit(documents, said, capsys):
    files = [str(write(document, Path(f"{number}.json"))) for number, document in enumerate(documents)]
    assert run(main, ["merge", *files, "--out", "m.json"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1 and not Path("m.json").exists()
