"""Averages of checkpoints: of the last or the best of a run, of named files, or the greedy choice among them.

The mean of weights that one training went through often predicts better than each of them (Izmailov et al. 2018,
https://arxiv.org/abs/1803.05407). A greedy soup (Wortsman et al. 2022, https://arxiv.org/abs/2203.05482) begins with
the best checkpoint and takes each further one, the better first, if the average does not become worse by it.
"""
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Callable, Sequence

import numpy as np

from common.checkpoint.file import load_checkpoint, save_checkpoint
from common.checkpoint.weights import network_tensors
from common.errors import UserError
from common.files import ROOT

ENDING = re.compile(r"-(\d+)_(\d+)\.ckpt$")  # epoch and step in the name of a run's checkpoint
ACCURACY = re.compile(r"(?:Top_1_Accuracy|accuracy|acc)'?\W+(\d\.\d+)")  # what eval.py of a model prints
SAME = ("family", "model", "classes")  # what averaged checkpoints must agree in


def checkpoints_of(paths: Sequence[Path]) -> list[Path]:
    """Return the files that paths name; a folder stands for its checkpoints, in the order of their epochs.

    Raises:
        UserError: if there are none.
    """
    found = []
    for path in paths:
        inside = [file for file in path.glob("*.ckpt") if not file.name.startswith(".")] if path.is_dir() else [path]
        if not inside:
            raise UserError(f"{path} holds no checkpoint (.ckpt).")
        found += sorted(inside, key=lambda file: (*(map(int, m.groups()) if (m := ENDING.search(file.name)) else
                                                    (float("inf"), 0)), file.name))
    return found


def choose(paths: Sequence[Path], last: int = 0, best: int = 0) -> list[Path]:
    """Return the last or the best of the checkpoints that were written at the end of an epoch, one per epoch.

    Args:
        paths: the files.
        last: so many with the highest epochs; 0: no choice by epoch.
        best: so many with the highest top-1 of the evaluation during the training; 0: no choice by accuracy.

    Raises:
        UserError: if there are fewer than asked for.
    """
    epochs: dict[int, tuple[Path, float]] = {}
    for path in paths:
        meta = load_checkpoint(path)[1]
        if meta.get("epoch") and not meta.get("step"):
            epochs.setdefault(meta["epoch"], (path, meta.get("row", {}).get("top1")))
    if best:
        rated = [(top1, -epoch, path) for epoch, (path, top1) in epochs.items() if top1 is not None]
        found = [path for *_, path in sorted(rated, reverse=True)[:best]]
    else:
        found = [epochs[epoch][0] for epoch in sorted(epochs)[-last:]]
    if len(found) < max(last, best, 1):
        raise UserError(f"there are {len(found)} checkpoints of whole epochs{' with a top-1' if best else ''}, and "
                        f"{max(last, best, 1)} are wanted; keep_checkpoint_max says how many a training keeps.")
    return found


def average(paths: Sequence[Path]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the mean of the weights that an evaluation of each checkpoint takes, and a description of it.

    Those are the moving averages where a checkpoint holds them. Running statistics of BatchNorm are averaged like
    weights. Whole numbers are those of the first.

    Raises:
        UserError: if the checkpoints are not of one network and the same classes.
    """
    sums: dict[str, np.ndarray] = {}
    types: dict[str, np.dtype] = {}
    described: dict[str, Any] = {}
    for path in paths:
        tensors, meta = load_checkpoint(path)
        weights = network_tensors(tensors, ema=meta.get("config", {}).get("ema", False))
        if not described:
            described = {key: meta[key] for key in (*SAME, "config") if key in meta} | {"averaged": []}
            sums = {name: value.astype(np.float64 if value.dtype.kind == "f" else value.dtype)
                    for name, value in weights.items()}
            types = {name: value.dtype for name, value in weights.items()}
        else:
            shapes = [{name: value.shape for name, value in held.items()} for held in (weights, sums)]
            if shapes[0] != shapes[1] or any(meta.get(key) != described.get(key) for key in SAME):
                raise UserError(f"{path} holds another network, or other classes, than {paths[0]}; 'python -m "
                                "common.checkpoint diff' says what differs.")
            for name, value in weights.items():
                if types[name].kind == "f":
                    sums[name] += value
        described["averaged"].append({"file": path.name, "epoch": meta.get("epoch")})
    return {name: (value / len(paths) if types[name].kind == "f" else value).astype(types[name])
            for name, value in sums.items()}, described


def greedy(paths: Sequence[Path], evaluate: Callable[[Path], float], say: Callable[[str], None]) -> list[Path]:
    """Return the checkpoints of a greedy soup.

    Args:
        paths: the candidates.
        evaluate: file -> accuracy on the data that decides, which should not be those of the final result.
        say: is told every accuracy.
    """
    scores = {}
    for path in paths:
        scores[path] = evaluate(path)
        say(f"{scores[path]:.4%} {path.name}")
    first, *others = sorted(paths, key=lambda path: -scores[path])
    chosen, reached = [first], scores[first]
    with tempfile.TemporaryDirectory() as folder:
        for path in others:
            score = evaluate(save_checkpoint(Path(folder) / "soup.ckpt", *average([*chosen, path])))
            say(f"{score:.4%} with {path.name}: {'taken' if score >= reached else 'left out'}")
            if score >= reached:
                chosen, reached = [*chosen, path], score
    return chosen


def evaluate(path: Path, flags: Sequence[str]) -> float:
    """Return the top-1 that ``eval.py`` of a checkpoint's model prints with further flags, in a process of its own.

    Raises:
        UserError: if the checkpoint does not say of which model it is, or the evaluation failed, with its sentence.
    """
    family = load_checkpoint(path)[1].get("family")
    if not family:
        raise UserError(f"{path} does not say of which model it is, so it cannot be evaluated.")
    done = subprocess.run([sys.executable, ROOT / family / "eval.py", "--ckpt_path", path, *flags], text=True,
                          capture_output=True, stdin=subprocess.DEVNULL)
    found = ACCURACY.findall(done.stdout)
    if done.returncode or not found:
        said = [line.removeprefix("error: ") for line in done.stderr.splitlines() if line.startswith("error: ")]
        raise UserError(said[-1] if said else f"{path} could not be evaluated: {done.stderr.strip()[-500:]}")
    return float(found[-1])
