"""Rank tables: which devices of which servers work together, and which server this is. Imports no MindSpore.

    python -m common.rank_table check FILE                              is it right, and which server is this one?
    python -m common.rank_table make --devices 0-7 [--server_ip IP]     write the table of this server
    python -m common.rank_table merge a.json b.json                     join the tables of several servers
    python -m common.rank_table plan FILE | --cards N                   what starts where, and what it costs

Formats 1.0 and 1.2 as the HCCL documentation describes them (hiascend.com, "rank table"). For a launch the two do not
differ: 1.2 adds the super pods to which servers belong.
"""
import ipaddress
import json
import os
import re
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Sequence

from common.errors import UserError

VERSIONS = ("1.0", "1.2")
HCCN_CONF = Path("/etc/hccn.conf")
MAX_SERVER_ID = 63  # characters
MAX_DEVICES = 128  # of a host, in a list of hosts


@dataclass(frozen=True)
class Device:
    """A device of a server.

    Attributes:
        id: its physical number in the server.
        rank: the number of its process among all processes of the job.
        ip: the address of its own network card; empty where the table gives none.
    """

    id: int
    rank: int
    ip: str = ""


@dataclass(frozen=True)
class Server:
    """A server and its devices, in the order of their ranks."""

    id: str
    devices: tuple[Device, ...]


@dataclass(frozen=True)
class RankTable:
    """A table without mistakes.

    Attributes:
        path: its file.
        version: 1.0 or 1.2.
        servers: in the order of the file.
        document: all that the file says, for tools that write another one; empty for a list of hosts, which gives
            numbers of devices and not which.
    """

    path: Path
    version: str
    servers: tuple[Server, ...]
    document: dict[str, Any]

    @property
    def names_devices(self) -> bool:
        """Whether it says which devices of a server take part, and not only how many."""
        return bool(self.document)

    @property
    def world_size(self) -> int:
        """Number of devices, which is the number of processes."""
        return sum(len(server.devices) for server in self.servers)

    @property
    def by_rank(self) -> tuple[Server, ...]:
        """The servers in the order of their lowest ranks."""
        return tuple(sorted(self.servers, key=lambda server: server.devices[0].rank))


def read_rank_table(path: str | Path, wait: float = 0.0) -> RankTable:
    """Read and check a rank table.

    Args:
        path: the JSON file.
        wait: seconds to wait for a table that a platform is still writing (its status is ``initializing``).

    Raises:
        UserError: for the first mistake, with the server and the device where it is.
    """
    path = Path(path)
    end = time.monotonic() + wait
    document = _load_json(path)
    while isinstance(document, dict) and document.get("status") == "initializing" and time.monotonic() < end:
        time.sleep(min(1.0, max(wait / 10, 0.05)))
        try:
            document = _load_json(path)
        except UserError:  # caught in the middle of being written
            continue
    return check_rank_table(document, path)


def table_of_hosts(text: str) -> RankTable:
    """Read a list of hosts, ``10.0.0.1:8,10.0.0.2:4``: address (or name) and number of devices, in the order of ranks.

    Raises:
        UserError: for the first mistake.
    """
    servers: list[Server] = []
    rank = 0
    for entry in text.split(","):
        name, _, number = entry.strip().rpartition(":")
        if not name or not re.fullmatch(r"[0-9]{1,4}", number) or not 1 <= int(number) <= MAX_DEVICES:
            raise UserError(f"HOSTS: '{entry.strip()}' is not ADDRESS:NUMBER with 1 to {MAX_DEVICES} devices, such as "
                            "10.0.0.1:8; several are separated by commas.")
        name = name.strip("[]")
        servers.append(Server(name, tuple(Device(one, rank + one) for one in range(int(number)))))
        rank += int(number)
    names = [server.id for server in servers]
    if len(set(names)) < len(names):
        raise UserError(f"HOSTS: '{text}' names a host twice.")
    return RankTable(Path("HOSTS"), "", tuple(servers), {})


def check_rank_table(document: Any, path: str | Path) -> RankTable:
    """Check what a file says; ``path`` is named in messages."""
    path = Path(path)
    try:
        return _read_document(document, path)
    except UserError as error:
        raise UserError(f"rank table {path}: {error}") from None


def _load_json(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"rank table {path}: is no text in UTF-8; a rank table is a JSON file.") from None
    except OSError as error:
        raise UserError(f"rank table {path}: cannot be read ({error.strerror}); 'python -m common.rank_table make' "
                        "writes one.") from None
    if not text.strip():
        raise UserError(f"rank table {path}: is empty; a rank table is a JSON object with server_list.")
    try:
        return json.loads(text, object_pairs_hook=_without_doubles)
    except json.JSONDecodeError as error:
        comment = re.search(r"(^|[\s,{\[}\]])(//|/\*|#)", text)
        if comment:
            line = text.count("\n", 0, comment.start(2)) + 1
            raise UserError(f"rank table {path}: line {line} holds a comment, which JSON does not allow; remove those "
                            "that the samples of the documentation have.") from None
        raise UserError(f"rank table {path}: is no JSON: {error.msg} in line {error.lineno}, column {error.colno}."
                        ) from None
    except RecursionError:
        raise UserError(f"rank table {path}: is nested too deeply.") from None
    except UserError as error:
        raise UserError(f"rank table {path}: {error}") from None
    except ValueError:
        raise UserError(f"rank table {path}: holds a number of thousands of digits.") from None


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            where = "".join(f" of {name} {found[name]!r}" for name in ("server_id", "device_id") if name in found)
            raise UserError(f"the key '{key}'{where} stands there twice.")
        found[key] = value
    return found


def _read_document(document: Any, path: Path) -> RankTable:
    if not isinstance(document, dict):
        raise UserError("must be a JSON object with version, server_count, server_list and status.")
    for key in ("group_list", "group_count", "instance_list", "deploy_mode"):
        if key in document:
            raise UserError(f"has '{key}', the older template of rank tables, which is not supported; write version "
                            "1.0 with 'python -m common.rank_table make'.")
    if "server_group_list" in document:
        raise UserError("has 'server_group_list': a global rank table of a scheduler, not the table of one job.")
    version = str(document.get("version", "missing"))
    if version not in VERSIONS:
        raise UserError(f"version is {version}; supported are {' and '.join(VERSIONS)}.")
    status = document.get("status", "missing")
    if status != "completed":
        still = "; the platform has not finished it" if status == "initializing" else ""
        raise UserError(f"status is {status!r}, not 'completed'{still}.")
    entries = document.get("server_list")
    if not isinstance(entries, list) or not entries:
        raise UserError("server_list must be a list with at least one server.")
    if "server_count" not in document:
        raise UserError(f"server_count is missing; server_list has {counted(len(entries), 'server')}.")
    count = _number(document["server_count"], "server_count")
    if count != len(entries):
        raise UserError(f"server_count is {count}, but server_list has {counted(len(entries), 'server')}.")
    servers = tuple(_server(entry, number, len(entries)) for number, entry in enumerate(entries))
    _check_servers(servers)
    _check_ranks(servers)
    if "super_pod_list" in document:
        _check_super_pods(document["super_pod_list"], [server.id for server in servers])
    return RankTable(path, version, servers, document)


def _server(entry: Any, number: int, servers: int) -> Server:
    """Read one server of ``servers``."""
    if not isinstance(entry, dict):
        raise UserError(f"server number {number} of server_list is {entry!r}, not an object with server_id and device.")
    name = entry.get("server_id")
    if not isinstance(name, (str, int)) or isinstance(name, bool) or not str(name).strip():
        raise UserError(f"server number {number} of server_list has no server_id (its address or a name).")
    if len(str(name)) > MAX_SERVER_ID:
        raise UserError(f"server '{name}': server_id has {len(str(name))} characters; allowed are at most "
                        f"{MAX_SERVER_ID}.")
    devices = entry.get("device")
    if not isinstance(devices, list) or not devices:
        raise UserError(f"server '{name}': device must be a list with at least one device.")
    found = [_device(device, f"server '{name}', device", index, servers) for index, device in enumerate(devices)]
    return Server(str(name), tuple(sorted(found, key=lambda device: device.rank)))


def _device(entry: Any, place: str, index: int, servers: int) -> Device:
    if not isinstance(entry, dict):
        raise UserError(f"{place} number {index} is {entry!r}, not an object with device_id, device_ip and rank_id.")
    if "device_id" not in entry:
        raise UserError(f"{place} number {index} has no device_id.")
    device = _number(entry["device_id"], f"{place} number {index}: device_id")
    place = f"{place} {device}"
    if "rank_id" not in entry:
        raise UserError(f"{place} has no rank_id.")
    rank = _number(entry["rank_id"], f"{place}: rank_id")
    address = entry.get("device_ip", "")
    if not address and servers > 1:
        raise UserError(f"{place} has no device_ip, which a table of several servers needs (see {HCCN_CONF} there).")
    if address:
        try:
            ipaddress.ip_address(address if isinstance(address, str) else "")
        except ValueError:
            raise UserError(f"{place}: device_ip {address!r} is no IP address, such as 192.168.1.6.") from None
    return Device(device, rank, address)


def _number(value: Any, what: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value.strip()):
        return int(value)
    raise UserError(f"{what} is {value!r}; it must be a whole number from 0, such as \"0\".")


def _check_servers(servers: Sequence[Server]) -> None:
    """Ids of servers, of devices in a server, and addresses must be unique."""
    ids: set[str] = set()
    addresses: dict[Any, str] = {}
    for server in servers:
        if server.id in ids:
            raise UserError(f"server '{server.id}' stands there twice; server_id must be unique.")
        ids.add(server.id)
        devices: set[int] = set()
        for device in server.devices:
            place = f"server '{server.id}', device {device.id}"
            if device.id in devices:
                raise UserError(f"{place} stands there twice; device_id must be unique in a server.")
            devices.add(device.id)
            address = ipaddress.ip_address(device.ip) if device.ip else place
            if address in addresses:
                raise UserError(f"{place}: device_ip {device.ip} is also that of {addresses[address]}.")
            addresses[address] = place


def _check_ranks(servers: Sequence[Server]) -> None:
    """Ranks must be 0 to n-1, each once."""
    places = [(device.rank, f"server '{server.id}', device {device.id}") for server in servers
              for device in server.devices]
    seen: dict[int, str] = {}
    for rank, place in places:
        if rank in seen:
            raise UserError(f"{place}: rank_id {rank} is also that of {seen[rank]}.")
        seen[rank] = place
    for rank, place in places:
        if rank >= len(places):
            gap = next(number for number in range(len(places)) if number not in seen)
            raise UserError(f"{place}: rank_id is {rank}, but {counted(len(places), 'device')} must have the ranks 0 "
                            f"to {len(places) - 1}; {gap} is missing.")


def _check_super_pods(pods: Any, servers: Sequence[str]) -> None:
    if not isinstance(pods, list):
        raise UserError("super_pod_list must be a list of objects with super_pod_id and server_list.")
    placed: set[str] = set()
    for number, pod in enumerate(pods):
        members = pod.get("server_list") if isinstance(pod, dict) else None
        if not isinstance(members, list) or not all(isinstance(one, dict) and "server_id" in one for one in members):
            raise UserError(f"super pod number {number} must have a server_list of objects with server_id.")
        for name in (str(one["server_id"]) for one in members):
            if name not in servers:
                raise UserError(f"server '{name}' of super pod '{pod.get('super_pod_id', number)}' is not in "
                                "server_list.")
            if name in placed:
                raise UserError(f"server '{name}' is in two super pods.")
            placed.add(name)
    for name in servers:
        if name not in placed:
            raise UserError(f"server '{name}' is in no super pod of super_pod_list.")


def find_server(table: RankTable, wanted: str | None = None, hccn_conf: str | Path | None = None) -> Server:
    """Return the server on which this process runs.

    In this order: ``wanted`` (SERVER_ID: an id of the table, or an index from 0), the only server, the one whose id is
    an address or the name of this machine, the one whose device_ip stands in ``hccn_conf``.

    Raises:
        UserError: if none or several can be meant; it lists the servers.
    """
    names = ", ".join(f"{number}: {server.id}" for number, server in enumerate(table.servers))
    if wanted:
        for server in table.servers:
            if server.id == wanted:
                return server
        if wanted.isascii() and wanted.isdigit() and int(wanted) < len(table.servers):
            return table.servers[int(wanted)]
        raise UserError(f"SERVER_ID: '{wanted}' is no server of {table.path}; there are {names} (index or id).")
    if len(table.servers) == 1:
        return table.servers[0]
    file = Path(hccn_conf or os.environ.get("HCCN_CONF") or HCCN_CONF)
    own = set(device_addresses(file).values())
    for matches in ([server for server in table.servers if is_local(server.id)],
                    [server for server in table.servers if own & {device.ip for device in server.devices}]):
        if len(matches) == 1:
            return matches[0]
    raise UserError(f"SERVER_ID: cannot tell which server of {table.path} this is: none or several have an address of "
                    f"this machine as their id, or a device_ip of {file}; set SERVER_ID to one of {names}.")


def is_local(name: str) -> bool:
    """Whether ``name`` is an IP address or the host name of this machine."""
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name in (socket.gethostname(), socket.getfqdn())
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((name, 0))  # only an own address can be bound; nothing is sent
    except OSError:
        return False
    return True


def device_addresses(file: str | Path) -> dict[int, str]:
    """Return device -> address of its network card, as ``/etc/hccn.conf`` states them; nothing if there is no file."""
    try:
        text = Path(file).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    found = re.findall(r"^\s*address_(\d+)\s*=\s*(\S+)", text, re.MULTILINE)
    return {int(device): address for device, address in found}


def numbers(values: Sequence[int]) -> str:
    """Write sorted numbers shortly: ``0-3,6``."""
    ends: list[list[int]] = []
    for value in sorted(values):
        if ends and value == ends[-1][1] + 1:
            ends[-1][1] = value
        else:
            ends.append([value, value])
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in ends)


def counted(number: int, what: str) -> str:
    """Write ``1 server`` or ``2 servers``."""
    return f"{number} {what}" + ("" if number == 1 else "s")
