"""The commands of ``python -m common.rank_table.table``: check, make, merge and plan. Imports no MindSpore."""
import argparse
import ipaddress
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Sequence

from common.rank_table.table.table import HCCN_CONF, check, device_addresses, find_server, read
from common.errors import UserError
from common.rank_table.table.table import RankTable, counted, numbers


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence."""

    def error(self, message: str):
        raise UserError(f"{self.prog}: {message}; --help shows the usage.")


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


def _write(document: dict[str, Any], out: str, default: str) -> str:
    file = Path(out or default)
    check(document, file)  # what this writes can be read
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(json.dumps(document, indent=4) + "\n")
    except FileExistsError:
        raise UserError(f"{file} is there already; remove it, or name another file with --out.") from None
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}.") from None
    return str(file)


def _check_command(options: argparse.Namespace) -> list[str]:
    table = read(options.file, options.wait)
    lines = [f"{table.path}: version {table.version}, {counted(len(table.servers), 'server')}, "
             f"{counted(table.world_size, 'rank')}."]
    for number, server in enumerate(table.servers):
        lines.append(f"server {number} '{server.id}': ranks {numbers([d.rank for d in server.devices])} on devices "
                     f"{','.join(str(device.id) for device in server.devices)}")
    try:
        lines.append(f"this server: '{find_server(table, options.server_id).id}'")
    except UserError as error:
        if options.server_id:
            raise
        lines.append(f"this server: not in the table, or not to be told; to launch here set SERVER_ID ({error})")
    return lines + notes(table)


def _make_command(options: argparse.Namespace) -> list[str]:
    devices = parse_devices(options.devices)
    server = options.server_ip or own_address()
    given = [address.strip() for address in options.device_ips.split(",") if address.strip()]
    document = make(devices, given or find_addresses(devices, options.hccn_conf), server)
    ids = "".join(map(str, devices)) if max(devices) < 10 else numbers(devices)
    name = f"hccl_{len(devices)}p_{ids}_{re.sub('[^0-9A-Za-z.-]', '_', server)}.json"
    return [_write(document, options.out, name)]


def _merge_command(options: argparse.Namespace) -> list[str]:
    if len(options.files) < 2:
        raise UserError("merge: give at least two rank tables.")
    document = merge([read(file) for file in options.files])
    servers = document["server_list"]
    name = f"hccl_{len(servers)}s_{sum(len(server['device']) for server in servers)}p.json"
    return [_write(document, options.out, name)]


def _plan_command(options: argparse.Namespace) -> list[str]:
    from common.launch.plan import share_cores
    from common.rank_table.table.cost import describe, per_epoch

    if (options.file is None) == (options.cards is None):
        raise UserError("plan: give a rank table, or --cards and a number.")
    if options.epoch and options.file is None:
        return per_epoch(options.cards, options.cards_per_server, options.link, options.network,
                                     options.latency)
    if options.file is None:
        return describe(options.cards, options.cards_per_server, options.link, options.network,
                                    options.latency, options.step_ms, options.batch_size)
    table = read(options.file)
    server = find_server(table, options.server_id)
    shares = share_cores(len(server.devices))
    return [f"rank {device.rank} device {device.id} server {server.id} cores {numbers(cores) if cores else 'all'}"
            for device, cores in zip(server.devices, shares)]


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="rank_table", description="Read, check, write and join rank tables.")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    one = commands.add_parser("check", help="check a table, and find this server in it")
    one.add_argument("file")
    one.add_argument("--server_id", default=os.environ.get("SERVER_ID", ""), help="id or index of this server")
    one.add_argument("--wait", type=float, default=0.0, help="seconds to wait for a table that is still being written")
    one.set_defaults(action=_check_command)
    one = commands.add_parser("make", help="write the table of this server")
    one.add_argument("--devices", "--device_num", required=True, help="such as 0-7 or 0,1,4-5")
    one.add_argument("--server_ip", default="", help="address of this server; default: that of its default route")
    one.add_argument("--device_ips", default="",
                     help="addresses of the devices, with commas; default: asked of hccn_tool, else from hccn.conf")
    one.add_argument("--hccn_conf", default=os.environ.get("HCCN_CONF") or str(HCCN_CONF))
    one.add_argument("--out", default="", help="file to write; default: hccl_<n>p_<devices>_<server>.json")
    one.set_defaults(action=_make_command)
    one = commands.add_parser("merge", help="join the tables of several servers, in this order")
    one.add_argument("files", nargs="+")
    one.add_argument("--out", default="", help="file to write; default: hccl_<servers>s_<ranks>p.json")
    one.set_defaults(action=_merge_command)
    one = commands.add_parser("plan", help="what would start on this server; or the layout and the cost of N cards")
    one.add_argument("file", nargs="?")
    one.add_argument("--server_id", default=os.environ.get("SERVER_ID", ""), help="id or index of this server")
    one.add_argument("--cards", type=int, help="number of devices altogether")
    one.add_argument("--cards_per_server", type=int, default=8)
    one.add_argument("--link", type=float, default=30.0, help="GB/s between two devices of a server")
    one.add_argument("--network", type=float, default=12.5, help="GB/s of a device's own network card")
    one.add_argument("--latency", type=float, default=20.0, help="microseconds of one transfer")
    one.add_argument("--step_ms", type=float, default=250.0, help="milliseconds that one device computes per step")
    one.add_argument("--batch_size", type=int, default=128, help="images per device and step")
    one.add_argument("--epoch", action="store_true", help="with --cards: a table of what an epoch on ImageNet costs, of "
                     "the models whose step times contributors of the original version report")
    one.set_defaults(action=_plan_command)
    return parser


def main(argv: Sequence[str]) -> int:
    """Run a command; return 0, or 2 after one sentence about a mistake."""
    try:
        options = _parser().parse_args(argv)
        lines = options.action(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 0
