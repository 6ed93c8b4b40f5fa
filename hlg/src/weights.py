"""Names of HLG's tensors in other people's files. Imports without MindSpore."""
import math
import re
from typing import Any, Mapping

import numpy as np

from common.checkpoint.names import norms_to_ours, norms_to_theirs, whole
from common.errors import UserError

ZOO, OFFICIAL = "zoo", "official"

# a norm; only its tensors have other names in the authors' files than here
NORM = re.compile(r"(^|\.)(norm|norm0|norm1|norm2|h0_norm|pos[123]\.0|s0_conv\.\d\.1|down_proj\.proj\.1|"
                  r"spatial_smooth\.0\.[147])$")


def convert(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rename the authors' tensors to ours; other names are kept.

    Left out are the counters of PyTorch's BatchNorm, and the norms that networks for segmentation and detection have
    behind the stages.
    """
    return norms_to_ours({name: value for name, value in tensors.items() if not re.match(r"norm_out_\d\.", name)}, NORM)


def restore(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rename our tensors to the authors'; PyTorch does not miss the counters. Those of the zoo's network are kept."""
    if any(name.startswith("patch_embed") for name in tensors):
        return dict(tensors)
    return norms_to_theirs(tensors, NORM)


def dead(name: str, network: Any) -> bool:
    """Whether a parameter has no effect; see ``dead_parameters`` of ``ZooHLG`` and ``layout`` of ``OfficialHLG``."""
    last = len(network.dims)
    if network.design == ZOO:
        return bool(re.match(rf"patch_embed1\.(conv|norm)\.|patch_embed([2-9])\.(conv|norm)[123]\.|"
                             rf"block{last}_\d+\.(norm0|spatial_smooth)\.", name))
    return bool(re.match(rf"block{last}\.\d+\.spatial_smooth\.", name))


def architecture(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Constructor arguments that a whole set of weights, under either names, was made for.

    The heads of the zoo's network leave no trace in the weights. The layout of the authors' is seen in the hidden width
    of the MLPs that begin a stage; where widths do not tell, in the smoothing of the last stage.

    Returns:
        An empty dict if the tensors are of neither network; no ``num_classes`` without a head.

    Raises:
        UserError: for the authors' first version, which is another network than both.
    """
    ours = convert(tensors)
    found = _zoo_architecture(ours) or _official_architecture(ours)
    if not found and "pos_embed1" in ours and (kv := [name for name in ours if re.match(r"block1\.0\.attn\.kv", name)]):
        raise UserError("ckpt_path: these are weights of the authors' first version of HLG (commit d08329e, names such "
                        f"as pos_embed1 and {kv[0]}), which is another network than hlg_mobile and than their present "
                        "ones; it is not offered here.")
    if found and "head.weight" in ours:
        found["num_classes"] = len(ours["head.weight"])
    return found


def _zoo_architecture(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    depths = _depths(tensors, "_")
    tables = [tensors.get(f"pos_embed{stage}") for stage in range(1, len(depths) + 1)]
    hidden = [tensors.get(f"block{stage}_0.mlp.ff1.weight") for stage in range(1, len(depths) + 1)]
    stem = tensors.get("patch_embed1.conv1.weight")
    if not depths or any(tensor is None for tensor in (stem, *tables, *hidden)):
        return {}
    dims = tuple(table.shape[-1] for table in tables)
    found = {"design": ZOO, "in_channels": stem.shape[1], "dims": dims, "depths": depths,
             "mlp_ratio": tuple(whole(weight.shape[0] / dim) for weight, dim in zip(hidden, dims))}
    side = math.isqrt(tables[0].shape[1])
    return found | ({"image_size": 4 * side} if side * side == tables[0].shape[1] else {})


def _official_architecture(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    depths = _depths(tensors, r"\.")
    stages = range(1, len(depths) + 1)
    stem = tensors.get("s0_conv.0.0.weight")
    hidden = [tensors.get(f"block{stage}.0.mlp.fc1.weight") for stage in stages]
    queries = [tensors.get(f"block{stage}.0.q.weight") for stage in stages]
    biases = [tensors.get(f"block{stage}.0.pos_global.pos3.2.weight") for stage in stages]
    if not depths or any(tensor is None for tensor in (stem, *hidden, *queries, *biases)):
        return {}
    dims = tuple(weight.shape[0] for weight in queries)
    widths = {(4 * weight.shape[1] == weight.shape[0], 4 * dim == weight.shape[0])
              for weight, dim in zip(hidden, dims)} - {(True, True)}
    smoothed = any(re.match(rf"block{len(depths)}\.\d+\.spatial_smooth\.", name) for name in tensors)
    paper = (True, False) in widths or not widths and not smoothed
    pooled = any(re.match(r"block\d\.\d+\.h0_conv\.", name) for name in tensors)
    return {"design": OFFICIAL, "in_channels": stem.shape[1], "dims": dims, "depths": depths,
            "num_heads": tuple(weight.shape[0] for weight in biases), "pool": "dwconv" if pooled else "avgpool",
            "layout": "paper" if paper else "head", "image_size": 7 * 2 ** (len(depths) + 1)}


def _depths(names: Mapping[str, Any], separator: str) -> tuple[int, ...]:
    """Return the number of blocks of every stage; the names are those of whole networks."""
    found = {(int(match[1]), int(match[2])) for name in names
             if (match := re.match(rf"block(\d+){separator}(\d+)\.", name))}
    return tuple(1 + max(index for stage, index in found if stage == wanted)
                 for wanted in range(1, 1 + max((stage for stage, _ in found), default=0))
                 if wanted in {stage for stage, _ in found})
