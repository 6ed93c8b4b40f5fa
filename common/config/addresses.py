"""Addresses of cloud storage in a configuration. Imports no MindSpore."""
import json
from pathlib import Path
from typing import Any, Mapping

from common.errors import UserError

REMOTE = ("obs://", "s3://")


C2NET = ("DATA_DOWNLOAD_METHOD", "LOCAL_DATASET_PATH")  # set where c2net is to be used


def is_remote(address: str) -> bool:
    """Whether an address is one of the cloud's storage."""
    return address.lower().startswith(REMOTE)


def has_c2net(environment: Mapping[str, str]) -> bool:
    """Whether OpenI started this process in the way that goes with its package c2net."""
    return all(environment.get(name) for name in C2NET)


def on_cloud(values: Mapping[str, Any], environment: Mapping[str, str]) -> bool:
    """Whether a run is on a cloud although it does not say so with ``enable_modelarts``: so does OpenI start it."""
    named = [value for key in ("data_url", "train_url", "checkpoint_url", "multi_data_url")
             for value, _ in sources(key, str(values.get(key) or ""))]
    return any(map(is_remote, named)) or has_c2net(environment)


def sources(key: str, text: str) -> list[tuple[str, str]]:
    """Return address and name of what a key lists: one address, or OpenI's JSON, ``[{"dataset_url": ..., ...}]``.

    Raises:
        UserError: if it is neither.
    """
    text = text.strip()
    if not text.startswith(("[", "{")):
        return [(text, "")] if text else []
    try:
        entries = json.loads(text)
        found = []
        for entry in entries if isinstance(entries, list) else [entries]:
            fields = {"url": entry} if isinstance(entry, str) else {name.rsplit("_", 1)[-1]: value
                                                                   for name, value in entry.items()}
            found.append((str(fields["url"]), Path(str(fields.get("name", ""))).name))
        return found
    except (ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{key}: {text!r} is neither an address nor a JSON list such as "
                        '[{"dataset_url": "obs://bucket/a.zip", "dataset_name": "a.zip"}].') from error


def base_name(address: str) -> str:
    """Return the last part of an address."""
    return address.rstrip("/").rsplit("/", 1)[-1]
