"""Names of SOFT's tensors in other people's files. Imports without MindSpore."""
import re
from typing import Any, Mapping

import numpy as np

from common.checkpoint.names import count, norms_to_ours, norms_to_theirs, renamed

# the authors' names -> ours, and back; the order matters where one is part of another
NAMES = (
    (r"^pos_embed([1-4])$", r"position\1.table"),
    (r"\.att\.mha\.W_q\.", ".attn.query."),
    (r"\.att\.mha\.W_v\.", ".attn.value."),
    (r"\.att\.mha\.attn\.Qlandmark_op\.", ".attn.landmark."),
    (r"\.att\.mha\.attn\.Qnorm_act\.0\.", ".attn.landmark_norm."),
    (r"\.att\.mha\.attn\.conv\.", ".attn.local."),
    (r"\.att\.mha\.ff\.", ".attn.proj."),
    (r"\.att\.(norm1|norm2)\.", r".\1."),
    (r"\.att\.ff([12])\.", r".fc\1."),
)
BACK = (
    (r"^position([1-4])\.table$", r"pos_embed\1"),
    (r"^(block[123]\.\d+)\.attn\.query\.", r"\1.att.mha.W_q."),
    (r"^(block[123]\.\d+)\.attn\.value\.", r"\1.att.mha.W_v."),
    (r"^(block[123]\.\d+)\.attn\.landmark\.", r"\1.att.mha.attn.Qlandmark_op."),
    (r"^(block[123]\.\d+)\.attn\.landmark_norm\.", r"\1.att.mha.attn.Qnorm_act.0."),
    (r"^(block[123]\.\d+)\.attn\.local\.", r"\1.att.mha.attn.conv."),
    (r"^(block[123]\.\d+)\.attn\.proj\.", r"\1.att.mha.ff."),
    (r"^(block[123]\.\d+)\.(norm1|norm2)\.", r"\1.att.\2."),
    (r"^(block[123]\.\d+)\.fc([12])\.", r"\1.att.ff\2."),
)

# a norm under our names: BatchNorm is the second of each three cells of a patch embedding
NORM = re.compile(r"(^|\.)(norm|norm1|norm2|landmark_norm|proj\.[147])$")


def convert(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rename the authors' tensors to ours, and leave out the counters of PyTorch's BatchNorm; other names are kept."""
    return norms_to_ours({renamed(name, NAMES): value for name, value in tensors.items()}, NORM)


def restore(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rename our tensors to the authors'; PyTorch does not miss the counters."""
    return {renamed(name, BACK): value for name, value in norms_to_theirs(tensors, NORM).items()}


def architecture(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Constructor arguments that a whole set of weights, under either names, was made for.

    The heads of the last stage leave no trace in the weights; they are taken to be as wide as those before, as in every
    published variant. Nor does the normalised kernel: the file itself does not tell soft_tiny from soft_norm_tiny.

    Returns:
        An empty dict if the tensors are not those of a SOFT; no ``num_classes`` without a head.
    """
    ours = convert(tensors)
    depths = tuple(count(ours, rf"block{stage}\.(\d+)\.") for stage in (1, 2, 3, 4))
    stem = ours.get("patch_embed1.proj.0.weight")
    widths = [ours.get(f"position{stage}.table") for stage in (1, 2, 3, 4)]
    landmarks = [ours.get(f"block{stage}.0.attn.landmark.weight") for stage in (1, 2, 3)]
    if 0 in depths or any(tensor is None for tensor in (stem, *widths, *landmarks)):
        return {}
    dims = tuple(table.shape[-1] for table in widths)
    head_dims = [kernel.shape[0] for kernel in landmarks]
    arguments = {"in_channels": stem.shape[1], "dims": dims, "depths": depths,
                 "num_heads": tuple(dim // width for dim, width in zip(dims, [*head_dims, head_dims[-1]]))}
    hidden = ours.get("block1.0.fc1.weight")
    if hidden is not None and hidden.shape[0] != 4 * dims[0]:
        arguments["mlp_ratio"] = hidden.shape[0] / dims[0]
    if "head.weight" in ours:
        arguments["num_classes"] = len(ours["head.weight"])
    return arguments
