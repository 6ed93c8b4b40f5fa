"""Rank tables made, merged and written. Imports no MindSpore."""
import ipaddress
import json
import re
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any, Sequence

from common.errors import UserError
from common.rank_table.table import RankTable, check_rank_table, device_addresses, numbers


def parse_devices(text: str) -> list[int]:
    """Read a set of devices: ``0-7``, ``0,1,4-5``, or ``[0,8)`` as the old zoo's tool has it."""
    interval = re.fullmatch(r"\s*\[\s*(\d+)\s*,\s*(\d+)\s*\)\s*", text)
    parts = [f"{interval[1]}-{int(interval[2]) - 1}"] if interval else text.split(",")
    found: list[int] = []
    for part in parts:
        ends = re.fullmatch(r"\s*(\d{1,4})\s*(?:-\s*(\d{1,4})\s*)?", part)
        if not ends or int(ends[2] or ends[1]) < int(ends[1]):
            raise UserError(f"--devices: '{text}' is no set of devices; write 0-7 or 0,1,4-5.")
        found += range(int(ends[1]), int(ends[2] or ends[1]) + 1)
    if len(set(found)) != len(found):
        raise UserError(f"--devices: '{text}' names a device twice.")
    return found


def find_addresses(devices: Sequence[int], hccn_conf: str | Path) -> list[str]:
    """Return the network address of each device, from ``hccn_tool`` or from ``hccn_conf``.

    Raises:
        UserError: if one of them is to be found nowhere.
    """
    tool = shutil.which("hccn_tool")
    stated = device_addresses(hccn_conf)
    found = []
    for device in devices:
        address = (_ask(tool, device) if tool else "") or stated.get(device, "")
        if not address:
            raise UserError(f"device {device}: no network address found: hccn_tool "
                            f"{'gives none' if tool else 'is not on PATH'}, and {hccn_conf} "
                            f"{f'has no address_{device}' if Path(hccn_conf).is_file() else 'is not there'}; give the "
                            f"addresses of all devices with --device_ips.")
        found.append(address)
    return found


def _ask(tool: str, device: int) -> str:
    try:
        result = subprocess.run([tool, "-i", str(device), "-ip", "-g"], capture_output=True, text=True, timeout=30,
                                stdin=subprocess.DEVNULL, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    match = re.search(r"ipaddr:\s*(\S+)", result.stdout)
    return match[1] if match and result.returncode == 0 else ""


def own_address() -> str:
    """Return the address under which other servers reach this one.

    Raises:
        UserError: if this machine has none but the loopback.
    """
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))  # asks for the route; a datagram socket sends nothing here
            found = probe.getsockname()[0]
    except OSError:
        found = ""
    try:
        found = found or socket.gethostbyname(socket.gethostname())
    except OSError:
        pass
    if not found or ipaddress.ip_address(found).is_loopback:
        raise UserError("--server_ip: this machine's own address cannot be found; give it.")
    return found


def make(devices: Sequence[int], addresses: Sequence[str], server: str) -> dict[str, Any]:
    """Return the table of one server; ranks follow the order of ``devices``."""
    if len(devices) != len(addresses):
        raise UserError(f"--device_ips: {len(addresses)} addresses for {len(devices)} devices; give one for each.")
    entries = [{"device_id": str(device), "device_ip": address, "rank_id": str(rank)}
               for rank, (device, address) in enumerate(zip(devices, addresses))]
    return {"version": "1.0", "server_count": "1",
            "server_list": [{"server_id": server, "device": entries, "host_nic_ip": "reserve"}], "status": "completed"}


def merge(tables: Sequence[RankTable]) -> dict[str, Any]:
    """Return one table with the servers of all, in this order, with new ranks."""
    versions = sorted({table.version for table in tables})
    if len(versions) > 1:
        raise UserError(f"tables of versions {' and '.join(versions)} cannot be merged: "
                        f"{', '.join(f'{table.path} is {table.version}' for table in tables)}.")
    servers, rank = [], 0
    for table in tables:
        for server in table.document["server_list"]:
            devices = []
            for device in sorted(server["device"], key=lambda device: int(device["rank_id"])):
                devices.append(device | {"rank_id": str(rank)})
                rank += 1
            servers.append(server | {"device": devices})
    merged = tables[0].document | {"server_count": str(len(servers)), "server_list": servers}
    pods: dict[str, dict[str, Any]] = {}
    for pod in (pod for table in tables for pod in table.document.get("super_pod_list", [])):
        name = str(pod.get("super_pod_id"))
        pods[name] = pod | {"server_list": pods.get(name, {}).get("server_list", []) + pod["server_list"]}
    return merged | ({"super_pod_list": list(pods.values())} if pods else {})


def notes(table: RankTable) -> list[str]:
    """Return what is allowed by the format, but not on every machine."""
    found = []
    for server in table.servers:
        ids = [device.id for device in server.devices]
        if max(ids) < 8 and (len(ids) not in (1, 2, 4, 8) or len(ids) in (2, 4) and len({i // 4 for i in ids}) > 1):
            found.append(f"note: server '{server.id}' uses the devices {numbers(ids)}; servers with Ascend 910A work "
                         "with 1, 2, 4 or 8 devices, and 2 or 4 must be among 0-3 or among 4-7.")
    return found


def write_table(document: dict[str, Any], out: str, default: str) -> str:
    """Write a table to ``out``, or to ``default`` in the working directory; returns the name.

    Raises:
        UserError: if the file is there already or cannot be written, or the table is not right.
    """
    file = Path(out or default)
    check_rank_table(document, file)  # what this writes can be read
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(json.dumps(document, indent=4) + "\n")
    except FileExistsError:
        raise UserError(f"{file} is there already; remove it, or name another file with --out.") from None
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}.") from None
    return str(file)
