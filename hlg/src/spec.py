"""What the zoo knows of HLG: variants, names of weights, log lines. Imports without MindSpore."""
import inspect
import math
import re
from typing import Any, Mapping

import numpy as np

from common.errors import UserError, nearest
from common.spec import ModelSpec, OLD_ZOO_STYLE

ZOO, OFFICIAL = "zoo", "official"

# Two networks that share a name. The old zoo's: its code. The authors': their code; see hlg_official for what is
# certain about it.
VARIANTS = {
    "hlg_mobile": {"design": ZOO, "dims": (32, 64, 192, 384), "num_heads": (2, 4, 8, 16), "depths": (2, 2, 2, 2),
                   "mlp_ratio": (8, 8, 4, 4), "drop_path_rate": 0.1},
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
# sizes that the command line can change, in the order in which they are named
OPTIONS = ("dims", "num_heads", "depths", "mlp_ratio", "layout", "image_size")


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
    """Rename the authors' tensors to ours; other names are kept.

    Left out are the counters of PyTorch's BatchNorm, and the norms that networks for segmentation and detection have
    behind the stages.
    """
    renamed = {}
    for name, value in tensors.items():
        prefix, _, kind = name.rpartition(".")
        if kind != "num_batches_tracked" and not re.match(r"norm_out_\d\.", name):
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
             "mlp_ratio": tuple(_whole(weight.shape[0] / dim) for weight, dim in zip(hidden, dims))}
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


def _whole(ratio: float) -> int | float:
    return int(ratio) if ratio == int(ratio) else ratio


def misfit(tensors: Mapping[str, np.ndarray], meta: Mapping[str, Any], network: Any) -> str:
    """Say which other HLG weights are for: the other design, or other sizes or another layout of the same."""
    try:
        found = architecture(tensors)
    except UserError as error:
        return str(error).removeprefix("ckpt_path: ").replace("these are", "holds", 1)
    if not found:
        return ""
    names = [name for name, sizes in VARIANTS.items()
             if all(found.get(key, value) == value for key, value in sizes.items())]
    if found["design"] != network.design:
        kinds = {ZOO: "the old zoo's hlg_mobile", OFFICIAL: "the authors' HLG"}
        return (f"holds {kinds[found['design']]}, but this network is {kinds[network.design]}: two networks that share "
                f"a name, not weights; give --model {' or '.join(names) or 'the right one'}.")
    wrong = [key for key in ("pool", *OPTIONS) if key in found and found[key] != _value(network, key)]
    if not wrong:
        return ""
    advice = [f"--model {names[0]}"] if names and set(wrong) - {"layout", "image_size"} else []
    advice += [f"--{key} {_shown(found[key])}" for key in OPTIONS
               if key in wrong and (not advice or key in ("layout", "image_size"))]
    held, here = (", ".join(f"{key} {_shown(value(key))}" for key in wrong)
                  for value in (found.get, lambda key: _value(network, key)))
    return (f"is for a network with {held}, but this one has {here}; give "
            f"{' '.join(advice) or 'another checkpoint'}.")


def _value(network: Any, key: str) -> Any:
    value = getattr(network, key)
    return value[0] if key == "image_size" and value[0] == value[1] else value


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


SPEC = ModelSpec(
    name="hlg", variants=VARIANTS, network=network, convert=convert, restore=restore, log_style=OLD_ZOO_STYLE,
    default_configs={"train": "config/hlg_config.yml", "eval": "config/hlg_eval.yml",
                     "export": "config/hlg_export.yml"},
    uses_convolutions=True, architecture=architecture, misfit=misfit, dead=dead,
)
