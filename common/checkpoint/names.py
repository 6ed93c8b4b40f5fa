"""Names in files of weights: of our description, and of other people's tensors. Imports without MindSpore.

The rules are what the models' ``weights.py`` share. PyTorch and MindSpore call the tensors of a linear layer and a
convolution alike, those of a norm differently; and PyTorch counts a BatchNorm's batches, which nothing needs.
"""
import re
from typing import Iterable, Mapping, Sequence

import numpy as np

META = "zoo_meta"  # of the JSON text inside a file of weights that says what it holds
# Number of the format, in the description. It rises when a program that knows only the number before would read a file
# wrongly; files of every number load for ever, also those of before there were numbers (0). tests/data/formats keeps
# one of each.
FORMAT = 1

OURS = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
THEIRS = {ours: theirs for theirs, ours in OURS.items()}
COUNTER = "num_batches_tracked"
Tensors = Mapping[str, np.ndarray]
Rules = Sequence[tuple[str, str]]


def norms_to_ours(tensors: Tensors, norm: re.Pattern) -> dict[str, np.ndarray]:
    """Give the tensors of norms MindSpore's names, and leave out the counters; other names are kept.

    Args:
        tensors: name -> array, under PyTorch's names or ours.
        norm: found in the name of a norm, which is a tensor's without its last part.
    """
    return {_with_kind(name, norm, OURS): value for name, value in tensors.items()
            if name.rpartition(".")[2] != COUNTER}


def norms_to_theirs(tensors: Tensors, norm: re.Pattern) -> dict[str, np.ndarray]:
    """Give the tensors of norms PyTorch's names, which does not miss the counters; the inverse of ``norms_to_ours``."""
    return {_with_kind(name, norm, THEIRS): value for name, value in tensors.items()}


def _with_kind(name: str, norm: re.Pattern, kinds: Mapping[str, str]) -> str:
    prefix, _, kind = name.rpartition(".")
    return f"{prefix}.{kinds[kind]}" if kind in kinds and norm.search(prefix) else name


def renamed(name: str, rules: Rules) -> str:
    """Return a name changed by the first of the rules, pattern and replacement, whose pattern is found in it."""
    for pattern, replacement in rules:
        if re.search(pattern, name):
            return re.sub(pattern, replacement, name)
    return name


def count(names: Iterable[str], pattern: str) -> int:
    """Return one more than the highest number that ``pattern`` finds at the beginning of the names; 0 for none."""
    return 1 + max((int(found[1]) for name in names if (found := re.match(pattern, name))), default=-1)


def whole(value: float) -> int | float:
    """Return a ratio of two sizes as configurations have it: as an int where it is one."""
    return int(value) if value == int(value) else value
