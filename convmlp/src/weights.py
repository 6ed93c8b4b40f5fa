"""Names of ConvMLP's tensors in other people's files. Imports without MindSpore."""
import re
from typing import Any, Mapping

import numpy as np

from common.checkpoint.names import count, norms_to_ours, norms_to_theirs, whole

# a BatchNorm comes after each convolution of a group, and a ReLU after it
NORM = re.compile(r"(^|\.)((block|conv_blocks\.\d+)\.[147]|norm|norm1|norm2|connect_norm)$")


def convert(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rename the authors' tensors to ours, and leave out the counters of PyTorch's BatchNorm; other names are kept."""
    return norms_to_ours(tensors, NORM)


def restore(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rename our tensors to the authors'; PyTorch does not miss the counters."""
    return norms_to_theirs(tensors, NORM)


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
    depths = [count(ours, rf"stages\.{stage}\.blocks\.(\d+)\.") for stage in range(len(hidden))]
    ratios = [whole(width / dim) for width, dim in hidden]
    return {"num_classes": len(head), "in_channels": first.shape[1], "channels": len(last),
            "n_conv_blocks": count(ours, r"conv_stages\.conv_blocks\.(\d+)\."), "dims": tuple(dim for _, dim in hidden),
            "depths": tuple(depths), "mlp_ratio": ratios[0] if len(set(ratios)) == 1 else tuple(ratios)}
