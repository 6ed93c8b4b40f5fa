"""Names of ConvMLP's tensors in other people's files. Imports without MindSpore."""
import re
from typing import Any, Mapping

import numpy as np

# A BatchNorm's prefix in names: it comes after a convolution, and its ReLU makes the third of a group. A LayerNorm's.
BATCH_NORM = r"(?:^|\.)(?:block|conv_blocks\.\d+)\.[147]\."
LAYER_NORM = r"(?:^|\.)(?:norm|norm1|norm2|connect_norm)\."
NORM = re.compile(f"({BATCH_NORM}|{LAYER_NORM})")
OURS = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
THEIRS = {ours: theirs for theirs, ours in OURS.items()}


def convert(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rename the authors' tensors to ours, and leave out the counters of PyTorch's BatchNorm; other names are kept."""
    return {_rename(name, OURS): value for name, value in tensors.items() if not name.endswith("num_batches_tracked")}


def restore(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rename our tensors to the authors'; PyTorch does not miss the counters."""
    return {_rename(name, THEIRS): value for name, value in tensors.items()}


def _rename(name: str, kinds: Mapping[str, str]) -> str:
    prefix, _, kind = name.rpartition(".")
    return f"{prefix}.{kinds[kind]}" if kind in kinds and NORM.search(name) else name


def architecture(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Constructor arguments that a whole set of weights, under either names, was made for.

    Returns:
        An empty dict if the tensors are not those of a ConvMLP.
    """
    ours = convert(tensors)
    first, last = ours.get("tokenizer.block.0.weight"), ours.get("tokenizer.block.6.weight")
    head = ours.get("head.weight")
    stages = [match for name in ours if (match := re.fullmatch(r"stages\.(\d+)\.blocks\.0\.channel_mlp1\.fc1\.weight",
                                                               name))]
    if first is None or last is None or head is None or not stages:
        return {}
    hidden = [ours[match[0]].shape for match in sorted(stages, key=lambda match: int(match[1]))]
    depths = [_count(ours, rf"stages\.{stage}\.blocks\.(\d+)\.") for stage in range(len(hidden))]
    ratios = [_whole(width / dim) for width, dim in hidden]
    return {"num_classes": len(head), "in_channels": first.shape[1], "channels": len(last),
            "n_conv_blocks": _count(ours, r"conv_stages\.conv_blocks\.(\d+)\."), "dims": tuple(dim for _, dim in hidden),
            "depths": tuple(depths), "mlp_ratio": ratios[0] if len(set(ratios)) == 1 else tuple(ratios)}


def _count(names: Mapping[str, Any], pattern: str) -> int:
    """One more than the highest number that ``pattern`` finds in the names."""
    return 1 + max((int(match[1]) for name in names if (match := re.match(pattern, name))), default=-1)


def _whole(value: float) -> int | float:
    return int(value) if value == int(value) else value
