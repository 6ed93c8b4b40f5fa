"""Damaged and malicious files: each is read, or refused with a sentence; no other error, no long wait, nothing written.

Of a checkpoint of this zoo every change is noticed, because a training goes on from it.
"""
import random
import shutil
import time
import traceback
from pathlib import Path

import numpy as np
import pytest
from hostile import Kind, damaged, kinds
from runs import tell

from common.checkpoint.file import Damaged, load_checkpoint, save_checkpoint
from common.errors import user_sentence

SEED = 7
LONGEST = 20.0  # seconds for one file; some machines are busy


def read_damaged(kind: Kind, folder: Path, number: int) -> tuple[str, list[str]]:
    """Read a file that was changed in a way which the number says, 0: not; return a name, and what is wrong."""
    place = folder / "in"
    place.mkdir()
    content = damaged(kind.content, random.Random(f"{SEED} {kind.name} {number}")) if number else kind.content
    (place / kind.name).write_bytes(content)
    began, said = time.monotonic(), []
    try:
        kind.reads(place / kind.name)
    except Exception as error:
        if number == 0 or user_sentence(error) is None:
            said.append(traceback.format_exc()[-500:])
    if time.monotonic() - began > LONGEST:
        said.append(f"took {time.monotonic() - began:.0f} s")
    if [path.name for path in folder.iterdir()] != ["in"]:
        said.append(f"wrote {sorted(path.name for path in folder.iterdir())}")
    shutil.rmtree(place)
    return f"{kind.name} {number}", said


@pytest.mark.parametrize("count", [4, pytest.param(60, marks=pytest.mark.torture)])
def test_damaged_files_of_every_kind_are_read_or_refused(count, tmp_path, counts):
    folder = tmp_path / "alone"
    folder.mkdir()
    results = [read_damaged(kind, folder, number) for kind in kinds() for number in range(count)]
    tell(counts, "damaged and hostile files", results)


@pytest.mark.parametrize("count", [20, pytest.param(400, marks=pytest.mark.torture)])
def test_every_change_of_a_checkpoint_is_noticed(count, tmp_path, counts):
    rng, results = random.Random(SEED), []
    numbers = np.random.default_rng(SEED).standard_normal((9, 7, 5)).astype(np.float32)
    tensors = {f"w{number}": numbers[number] for number in range(9)}
    whole = save_checkpoint(tmp_path / "whole.ckpt", tensors, {"epoch": 3}).read_bytes()
    for number in range(count):
        (tmp_path / "x.ckpt").write_bytes(damaged(whole, rng))
        try:
            load_checkpoint(tmp_path / "x.ckpt")
            said = ["was not noticed"]
        except Damaged:
            said = []
        results.append((str(number), said))
    tell(counts, "damaged checkpoints", results)
