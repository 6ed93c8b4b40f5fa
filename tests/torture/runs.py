"""Two runs are the same: all checkpoints bit for bit, the best, the records, the curves."""
import json
from pathlib import Path
from typing import Callable

import numpy as np

from common.checkpoint.file import load_checkpoint

TIMES = ("epoch_time", "images_per_second", "eval_time")


def without_times(row: dict) -> dict:
    return {key: value for key, value in row.items() if key not in TIMES}


def history(folder: Path) -> list[dict]:
    return [without_times(json.loads(line)) for line in (folder / "history.jsonl").read_text().splitlines()]


def files(folder: Path) -> list[str]:
    """Return the files of a run that a reader sees."""
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock" and not path.name.startswith("log_rank"))


def differences(found: Path, expected: Path) -> list[str]:
    """Return what is different between a run that was stopped and one that was not; nothing, if all is well."""
    if files(found) != files(expected):
        return [f"files {files(found)} instead of {files(expected)}"]
    said = [] if history(found) == history(expected) else [f"history {history(found)} instead of {history(expected)}"]
    if (found / "curves.png").read_bytes() != (expected / "curves.png").read_bytes():
        said.append("curves.png")
    for path in expected.glob("*.ckpt"):
        (tensors, meta), (others, other_meta) = load_checkpoint(found / path.name), load_checkpoint(path)
        said += [f"{path.name}: {name}" for name in tensors.keys() | others.keys()
                 if name not in tensors or name not in others or not np.array_equal(tensors[name], others[name])]
        for description in (meta, other_meta):
            description["row"] = without_times(description["row"])
            description["config"].pop("ckpt_save_dir")
        said += [f"{path.name}: {key} is {meta.get(key)} instead of {other_meta.get(key)}"
                 for key in meta.keys() | other_meta.keys() if meta.get(key) != other_meta.get(key)]
    return said


def tell(counts: Callable[[str], None], what: str, results: list[tuple[str, list[str]]]) -> None:
    """Let the summary of all tests show the counts, and fail if anything was lost."""
    lost = [(name, said) for name, said in results if said]
    counts(f"{what}: tried {len(results)}, survived {len(results) - len(lost)}, lost {len(lost)}")
    assert not lost, lost
