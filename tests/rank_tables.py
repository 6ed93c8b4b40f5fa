"""Rank tables for tests."""
import json
from pathlib import Path


def table(*servers: int, version: str = "1.0") -> dict:
    """A table of servers with so many devices each."""
    entries, rank = [], 0
    for number, count in enumerate(servers):
        devices = []
        for device in range(count):
            devices.append({"device_id": str(device), "device_ip": f"192.168.{number}.{device + 1}",
                            "rank_id": str(rank)})
            rank += 1
        entries.append({"server_id": f"10.9.8.{number + 1}", "device": devices, "host_nic_ip": "reserve"})
    return {"version": version, "server_count": str(len(servers)), "server_list": entries, "status": "completed"}


def write(document, path: Path = Path("table.json")) -> Path:
    """Write a document, or a text as it is."""
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return path
