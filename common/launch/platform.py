"""Where a platform starts one process per card and gives it a rank table, as ModelArts and OpenI do. No MindSpore.

MindSpore 2.10 refuses to start from a rank table ("MindSpore does not support ranktable startup"). So the process reads
the table itself and joins the others as ``common/context/cluster.py`` describes; rank 0 starts the scheduler.
"""
import ipaddress
import re
import socket
from pathlib import Path
from typing import Mapping, MutableMapping

from common.context.cluster import PORT, SCHEDULER_HERE, TABLE_VARIABLES, worker_variables
from common.errors import UserError
from common.rank_table.table import RankTable, find_server, read_rank_table

TABLE_WAIT = 600.0  # seconds for a table that the platform is still writing
TIMEOUT = 3600  # seconds that processes wait for each other: the data of one node may come later than that of another


def leave_table(distribute: bool | None, environment: MutableMapping[str, str]) -> None:
    """Put the cluster's variables in the place of a platform's rank table; must come before MindSpore is imported.

    A table that no process of a job was given (RANK_ID is missing, and ``distribute`` is not set) is one that lies
    about in the environment; it is only taken out.

    Args:
        distribute: what the user said; ``None``: nothing.
        environment: that of the process, which is changed.

    Raises:
        UserError: if the table is wrong, or does not tell this process its rank.
    """
    file = next((environment[name] for name in TABLE_VARIABLES if environment.get(name)), "")
    if not file or environment.get("MS_ROLE"):
        return
    variables = {}
    if environment.get("RANK_ID") or distribute:
        table = read_rank_table(Path(file), TABLE_WAIT)
        variables = _variables(table, environment)
    for name in TABLE_VARIABLES:
        environment.pop(name, None)
    environment.update(variables)


def _variables(table: RankTable, environment: Mapping[str, str]) -> dict[str, str]:
    size, rank = table.world_size, _rank(table, environment)
    if size == 1:
        return {"RANK_ID": "0", "RANK_SIZE": "1"}
    found = worker_variables(rank, size, scheduler_host(table, environment), scheduler_port(environment))
    found["MS_TOPO_TIMEOUT"] = environment.get("MS_TOPO_TIMEOUT") or str(TIMEOUT)
    return found | ({SCHEDULER_HERE: "1"} if rank == 0 else {})


def _rank(table: RankTable, environment: Mapping[str, str]) -> int:
    """Return the rank of this process: RANK_ID, or that of its device in the table."""
    given = environment.get("RANK_ID", "")
    if given.isdecimal() and int(given) < table.world_size:
        return int(given)
    if given:
        raise UserError(f"RANK_ID: '{given}' is not among the ranks 0 to {table.world_size - 1} of {table.path}.")
    server = find_server(table, environment.get("SERVER_ID"))
    device = next((text for name in ("DEVICE_ID", "ASCEND_DEVICE_ID") if (text := environment.get(name))), "")
    found = [one.rank for one in server.devices if str(one.id) == device or table.world_size == 1]
    if not found:
        raise UserError(f"RANK_ID is not set, and DEVICE_ID ('{device}') is no device of this server in {table.path}; "
                        "set RANK_ID.")
    return found[0]


def scheduler_host(table: RankTable | None, environment: Mapping[str, str]) -> str:
    """Return the address of the scheduler: MASTER_ADDR, or that of the server with rank 0.

    Raises:
        UserError: if the table has only a name for that, which has no address here.
    """
    given = environment.get("MASTER_ADDR")
    if given or not table or len(table.servers) == 1:
        return given or "127.0.0.1"
    name = table.by_rank[0].id
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return socket.gethostbyname(name)
    except OSError:
        raise UserError(f"MASTER_ADDR: the processes meet at the server with rank 0, and its server_id '{name}' is no "
                        "address; set MASTER_ADDR.") from None


def scheduler_port(environment: Mapping[str, str]) -> int:
    """Return the port of the scheduler: MASTER_PORT, or msrun's own.

    Raises:
        UserError: if MASTER_PORT is no port.
    """
    given = environment.get("MASTER_PORT", "")
    if given and not (re.fullmatch("[0-9]{4,5}", given) and 1024 <= int(given) <= 65535):
        raise UserError(f"MASTER_PORT: '{given[:20]}' must be a number from 1024 to 65535.")
    return int(given or PORT)
