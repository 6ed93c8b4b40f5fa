"""What the zoo knows of HLG: its variants, the rules of its training, its log lines. Imports without MindSpore."""
from typing import Any, Mapping

import numpy as np

from common.errors import UserError
from common.logger import OLD_ZOO_STYLE
from common.spec import ModelSpec
from hlg.src.options import Options
from hlg.src.weights import OFFICIAL, ZOO, architecture, convert, dead, restore

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

# sizes that the command line can change, in the order in which they are named
OPTIONS = ("dims", "num_heads", "depths", "mlp_ratio", "layout", "image_size")


def network(design: str, **arguments: Any):
    """Return the class of the network and its arguments."""
    if design == ZOO:
        from hlg.src.hlg import ZooHLG

        return ZooHLG, arguments
    from hlg.src.hlg_official import OfficialHLG

    return OfficialHLG, arguments


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


def visualize(config: Any, network: Any, classes: Any, subjects: Any) -> Any:
    """Return where the network sees classes, by the tokens before the last stage; see ``common.pictures.inside``.

    The last stage of hlg_mobile hands on a class token alone, and its map is smaller.
    """
    from common.pictures.inside import grad_cam_rows

    return grad_cam_rows(config, network, [blocks[-1] for blocks in network.blocks[:-1]], classes, subjects)


SPEC = ModelSpec(
    name="hlg", variants=VARIANTS, network=network, convert=convert, restore=restore, log_style=OLD_ZOO_STYLE,
    options=Options, visualize=visualize,
    default_configs={"train": "config/hlg_config.yml", "eval": "config/hlg_eval.yml",
                     "export": "config/hlg_export.yml"},
    uses_convolutions=True, architecture=architecture, misfit=misfit, dead=dead,
)
