"""The commands of ``python -m common.rank_table``: check, make, merge and plan. Imports no MindSpore."""
import argparse
import os
import re
import sys
from typing import Sequence

from common.command import Parser, run
from common.context.cores import share_cores
from common.errors import UserError
from common.rank_table.cost import epoch_costs, layout_and_costs
from common.rank_table.make import find_addresses, make, merge, notes, own_address, parse_devices, write_table
from common.rank_table.table import HCCN_CONF, counted, find_server, numbers, read_rank_table


def _check_command(options: argparse.Namespace) -> list[str]:
    table = read_rank_table(options.file, options.wait)
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
    return [write_table(document, options.out, name)]


def _merge_command(options: argparse.Namespace) -> list[str]:
    if len(options.files) < 2:
        raise UserError("merge: give at least two rank tables.")
    document = merge([read_rank_table(file) for file in options.files])
    servers = document["server_list"]
    name = f"hccl_{len(servers)}s_{sum(len(server['device']) for server in servers)}p.json"
    return [write_table(document, options.out, name)]


def _plan_command(options: argparse.Namespace) -> list[str]:
    if (options.file is None) == (options.cards is None):
        raise UserError("plan: give a rank table, or --cards and a number.")
    if options.epoch and options.file is None:
        return epoch_costs(options.cards, options.cards_per_server, options.link, options.network, options.latency)
    if options.file is None:
        return layout_and_costs(options.cards, options.cards_per_server, options.link, options.network,
                                options.latency, options.step_ms, options.batch_size)
    table = read_rank_table(options.file)
    server = find_server(table, options.server_id)
    shares = share_cores(len(server.devices))
    return [f"rank {device.rank} device {device.id} server {server.id} cores {numbers(cores) if cores else 'all'}"
            for device, cores in zip(server.devices, shares)]


def _parser() -> Parser:
    parser = Parser("common.rank_table", "Read, check, write and join rank tables.")
    commands = parser.add_subparsers(dest="command", required=True)
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


def main(argv: Sequence[str]) -> str:
    """Run a command; returns what to tell.

    Raises:
        UserError: for the first mistake.
    """
    options = _parser().parse_args(argv)
    return "\n".join(options.action(options))


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))
