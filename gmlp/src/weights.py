"""Names of gMLP's tensors in other people's files. Imports without MindSpore."""
import math
import re
from typing import Any, Mapping

import numpy as np

from common.checkpoint.names import count, norms_to_ours, norms_to_theirs, renamed, whole
from common.errors import UserError

NORM = re.compile(r"(^|\.)norm$")

# lucidrains/g-mlp-pytorch -> ours
LUCIDRAINS = (
    (r"^to_patch_embed\.1\.", "stem.proj."),
    (r"^layers\.(\d+)\.fn\.norm\.", r"blocks.\1.norm."),
    (r"^layers\.(\d+)\.fn\.fn\.proj_in\.0\.", r"blocks.\1.fc1."),
    (r"^layers\.(\d+)\.fn\.fn\.sgu\.norm\.", r"blocks.\1.gate.norm."),
    (r"^layers\.(\d+)\.fn\.fn\.sgu\.(weight|bias)$", r"blocks.\1.gate.proj.\2"),
    (r"^layers\.(\d+)\.fn\.fn\.proj_out\.", r"blocks.\1.fc2."),
    (r"^to_logits\.0\.", "norm."),
    (r"^to_logits\.2\.", "head."),
)
LUCIDRAINS_NORM_EPS = 1e-5


def convert(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rename the tensors of timm or lucidrains to ours; names of neither are kept.

    Raises:
        UserError: for lucidrains' gate with several heads, which this network does not have.
    """
    if "to_patch_embed.1.weight" in tensors:
        tensors = _from_lucidrains(tensors)
    return norms_to_ours({name.replace("mlp_channels.", ""): value for name, value in tensors.items()}, NORM)


def restore(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rename our tensors to those of timm."""
    return {re.sub(r"(^|\.)(fc1|fc2|gate)\.", r"\1mlp_channels.\2.", name): value
            for name, value in norms_to_theirs(tensors, NORM).items()}


def _from_lucidrains(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    ours = {}
    for name, value in tensors.items():
        if name == "to_patch_embed.1.weight":
            value = value.reshape(len(value), *_patch_shape(value.shape[1]))
        elif re.search(r"\.sgu\.(weight|bias)$", name):
            if len(value) != 1:
                raise UserError(f"{name} has {len(value)} heads; a gate with more than one head is another network.")
            value = value[0]
        ours[renamed(name, LUCIDRAINS)] = value
    return ours


def _patch_shape(pixels: int) -> tuple[int, int, int]:
    """Channels, height and width of a square patch of so many values: colour if that is possible."""
    for channels in (3, 1):
        side = math.isqrt(pixels // channels)
        if channels * side * side == pixels:
            return channels, side, side
    raise UserError(f"to_patch_embed.1.weight has {pixels} columns, which is no square patch of 3 or 1 channels.")


def architecture(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Constructor arguments that a set of weights, under any of the known names, was made for.

    Returns:
        An empty dict if the tensors are not those of a gMLP for square images; no ``num_classes`` without a head.
    """
    ours = convert(tensors)
    needed = ("stem.proj.weight", "blocks.0.fc1.weight", "blocks.0.gate.proj.weight")
    if any(name not in ours for name in needed):
        return {}
    stem, fc1, gate = (ours[name] for name in needed)
    rows = math.isqrt(len(gate))
    if stem.ndim != 4 or rows * rows != len(gate):
        return {}
    embed_dim, in_channels, patch_size, _ = stem.shape
    arguments = {"image_size": rows * patch_size, "in_channels": in_channels, "patch_size": patch_size,
                 "embed_dim": embed_dim, "mlp_ratio": whole(len(fc1) / embed_dim),
                 "depth": count(ours, r"blocks\.(\d+)\.")}
    if "head.weight" in ours:
        arguments["num_classes"] = len(ours["head.weight"])
    if "to_patch_embed.1.weight" in tensors:
        arguments["norm_eps"] = LUCIDRAINS_NORM_EPS
    return arguments
