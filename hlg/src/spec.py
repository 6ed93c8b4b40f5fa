"""What the zoo knows of HLG: variants, names of weights, log lines. Imports without MindSpore."""
import inspect
import re
from typing import Any, Mapping

import numpy as np

from common.errors import UserError, nearest
from common.spec import OLD_ZOO_STYLE, ModelSpec

ZOO, OFFICIAL = "zoo", "official"

# Two networks that share a name. The old zoo's: its code. The authors': their code; see hlg_official for what is
# certain about it.
VARIANTS = {
    "hlg_mobile": {"design": ZOO, "dims": (32, 64, 192, 384), "num_heads": (2, 4, 8, 16), "depths": (2, 2, 2, 2),
                   "drop_path_rate": 0.1},
} | {name: {"design": OFFICIAL, "dims": tuple(width * factor for factor in (1, 2, 4, 8)),
            "num_heads": tuple(width // 32 * factor for factor in (1, 2, 4, 8)), "depths": (2, 2, depth, 2),
            "pool": name.rpartition("_")[2], "drop_path_rate": 0.1}
     for name, width, depth in (("hlg_tiny_avgpool", 64, 6), ("hlg_tiny_dwconv", 64, 6), ("hlg_small_avgpool", 96, 6),
                                ("hlg_medium_avgpool", 96, 14), ("hlg_large_avgpool", 128, 14))}
VARIANTS["hlg_mobile_avgpool"] = {"design": OFFICIAL, "dims": (32, 64, 192, 384), "num_heads": (2, 4, 6, 12),
                                  "depths": (2, 2, 2, 2), "pool": "avgpool", "drop_path_rate": 0.1}

# prefix of a norm's tensors in the authors' names, which are otherwise ours
NORM = re.compile(r"(^|\.)(norm|norm0|norm1|norm2|h0_norm|pos[123]\.0|s0_conv\.\d\.1|down_proj\.proj\.1|"
                  r"spatial_smooth\.0\.[147])$")
KINDS = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
KINDS_BACK = {ours: theirs for theirs, ours in KINDS.items()}


def network(design: str, **arguments: Any):
    """Build the network; see ``hlg.src.hlg.ZooHLG`` and ``hlg.src.hlg_official.OfficialHLG``."""
    if design == ZOO:
        from hlg.src.hlg import ZooHLG as cell
    else:
        from hlg.src.hlg_official import OfficialHLG as cell

    known = list(inspect.signature(cell.__init__).parameters)[1:]
    for key in arguments:
        if key not in known:
            name = "hlg_mobile" if design == ZOO else "the official HLG"
            raise UserError(f"{key} is not an argument of {name}; there are {', '.join(known)}.{nearest(key, known)}")
    return cell(**arguments)


def convert(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rename the authors' tensors to ours, and leave out the counters of PyTorch's BatchNorm; other names are kept."""
    renamed = {}
    for name, value in tensors.items():
        prefix, _, kind = name.rpartition(".")
        if kind != "num_batches_tracked":
            renamed[f"{prefix}.{KINDS[kind]}" if kind in KINDS and NORM.search(prefix) else name] = value
    return renamed


def restore(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rename our tensors to the authors'; PyTorch does not miss the counters. Those of the zoo's network are kept."""
    if any(name.startswith("patch_embed") for name in tensors):
        return dict(tensors)
    renamed = {}
    for name, value in tensors.items():
        prefix, _, kind = name.rpartition(".")
        renamed[f"{prefix}.{KINDS_BACK[kind]}" if kind in KINDS_BACK and NORM.search(prefix) else name] = value
    return renamed


def no_weight_decay(name: str, shape: tuple[int, ...]) -> bool:
    """Biases and norms are not decayed; class token and position tables are. Source: the authors' training."""
    return len(shape) < 2


SPEC = ModelSpec(
    name="hlg", variants=VARIANTS, network=network, convert=convert, restore=restore, no_weight_decay=no_weight_decay,
    log_style=OLD_ZOO_STYLE,
    default_configs={"train": "config/hlg_config.yml", "eval": "config/hlg_eval.yml",
                     "export": "config/hlg_export.yml"},
    uses_convolutions=True,
)
