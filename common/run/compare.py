"""Why two runs differ: data, configuration, versions, and where their losses part. Imports no MindSpore."""
import re
from pathlib import Path
from typing import Any, Mapping

from common.config.yaml_file import read_yaml
from common.errors import UserError
from common.run.facts import CARD, read_facts
from common.run.history import HISTORY, read_history

OF_THE_START = ("device", "ranks", "commit", "versions", "host")
NOT_COMPARED = ("ckpt_save_dir",)
APART = 0.01  # relative difference of losses that is more than rounding
BATCH = re.compile(r"epoch (\d+)/\d+ batch (\d+)/\d+ loss (\S+),")


def compare(first: Path, second: Path) -> str:
    """Return what differs between two run folders, as lines.

    Raises:
        UserError: if one of them is no run.
    """
    folders = (first, second)
    for folder in folders:
        if not (folder / HISTORY).is_file():
            raise UserError(f"{folder} is no folder of a run: it has no {HISTORY}.")
    facts = [read_facts(folder) for folder in folders]
    without = [f"{folder} has no {CARD} that can be read: its data and versions are not known."
               for folder, known in zip(folders, facts) if not known]
    starts = [(known.get("starts") or [{}])[-1] for known in facts]
    configs = [read_yaml(file) if (file := folder / "config.yaml").is_file() else {} for folder in folders]
    parts = [("data", *(known.get("data", {}) for known in facts)), ("configuration", *configs),
             ("last start", *({key: start[key] for key in OF_THE_START if key in start} for start in starts))]
    lines = [f"{what}: {'; '.join(_differences(one, other)) or 'the same'}" for what, one, other in parts
             if one and other]
    histories = [{row["epoch"]: row for row in read_history(folder / HISTORY)} for folder in folders]
    return "\n".join([*without, *lines, *_losses(*histories), *_batches(*map(_logged, folders)), *_best(*histories)])


def _differences(one: Mapping[str, Any], other: Mapping[str, Any], above: str = "") -> list[str]:
    """Return ``key: value -> value`` for what differs, also inside of mappings."""
    found = []
    for key in one | other:
        a, b = one.get(key), other.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += _differences(a, b, f"{above}{key} ")
        elif a != b and key not in NOT_COMPARED:
            found.append(f"{above}{key}: {a} -> {b}")
    return found


def _losses(one: Mapping[int, Mapping], other: Mapping[int, Mapping]) -> list[str]:
    """Say in which epoch the mean losses part, and from which on by more than rounding."""
    both = sorted(one.keys() & other.keys())
    if not both:
        return ["losses: no epoch that both have"]
    apart = {epoch: abs(a - b) / max(abs(a), 1e-12) for epoch in both
             if (a := one[epoch].get("loss")) is not None and (b := other[epoch].get("loss")) is not None and a != b}
    if not apart:
        return [f"losses: the same in all {len(both)} epochs that both have"]
    begin = min(apart)
    far = [epoch for epoch, share in apart.items() if share > APART]
    more = (f"by more than {APART:.0%} from epoch {min(far)} on" if far else
            f"never by more than {max(apart.values()):.2g}")
    return [f"losses: part in epoch {begin} ({one[begin]['loss']:.9g} -> {other[begin]['loss']:.9g}, relative "
            f"{apart[begin]:.2g}), {more}"]


def _logged(folder: Path) -> dict[tuple[int, int], str]:
    """Return the losses that the log shows inside of epochs, by epoch and batch; of repeated ones the last."""
    log = folder / "log_rank_0.txt"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    return {(int(found[1]), int(found[2])): found[3] for line in lines if (found := BATCH.search(line))}


def _batches(one: Mapping[tuple[int, int], str], other: Mapping[tuple[int, int], str]) -> list[str]:
    """Say between which batches the losses in the logs part."""
    both = sorted(one.keys() & other.keys())
    first = next((number for number, place in enumerate(both) if one[place] != other[place]), None)
    if first is None:
        return []
    epoch, batch = both[first]
    before = f"after batch {both[first - 1][1]} of epoch {both[first - 1][0]}, " if first else ""
    return [f"logs: {before}by batch {batch} of epoch {epoch} ({one[both[first]]} -> {other[both[first]]})"]


def _best(one: Mapping[int, Mapping], other: Mapping[int, Mapping]) -> list[str]:
    best = [max(((row["top1"], -epoch) for epoch, row in rows.items() if row.get("top1") is not None), default=None)
            for rows in (one, other)]
    if None in best:
        return []
    return ["best top-1: " + " -> ".join(f"{top1:.2%} (epoch {-epoch})" for top1, epoch in best)]
