"""What the zoo knows of SOFT: its variants, the rules of its training, its log lines. Imports without MindSpore."""
from dataclasses import replace
from typing import Any, Mapping

import numpy as np

from common.logger import OLD_ZOO_STYLE
from common.spec import ModelSpec
from soft.src.options import Options
from soft.src.weights import architecture, convert, restore

# name: (dims, heads, depths). Source: the authors' code, which differs from their paper in one place: its "small" has
# 20 blocks in stage 3 and 38.9 M parameters; the 24.1 M of the paper and of their table need 7, here soft_small_24m.
SIZES = {
    "tiny": ((64, 128, 320, 512), (2, 4, 10, 16), (1, 2, 3, 2)),
    "small": ((64, 128, 320, 512), (2, 4, 10, 16), (1, 3, 20, 4)),
    "small_24m": ((64, 128, 320, 512), (2, 4, 10, 16), (1, 3, 7, 4)),
    "medium": ((64, 128, 288, 512), (2, 4, 9, 16), (1, 3, 29, 5)),
    "large": ((64, 128, 320, 512), (2, 4, 10, 16), (1, 3, 40, 5)),
    "huge": ((64, 128, 352, 512), (2, 4, 11, 16), (1, 5, 49, 5)),
}

VARIANTS = {f"{family}_{size}": {"dims": dims, "num_heads": heads, "depths": depths, "drop_path_rate": 0.1,
                                 "normalised": family == "soft_norm"}
            for family in ("soft", "soft_norm") for size, (dims, heads, depths) in SIZES.items()}

LOG_STYLE = replace(OLD_ZOO_STYLE, evaluation="accuracy={top1:.6f}, per step time: {step_time:.4f}s")


def network(**arguments: Any):
    """Return the class of the network and its arguments."""
    from soft.src.softmax_free_vision_transformer import SOFT

    return SOFT, arguments


def misfit(tensors: Mapping[str, np.ndarray], meta: Mapping[str, Any], network: Any) -> str:
    """Say which other SOFT weights are for: of other depths or widths, or, if the file says so, of the other kernel."""
    held = meta.get("model") if meta.get("family") == SPEC.name else None
    if held in VARIANTS and VARIANTS[held]["normalised"] != network.normalised:
        kinds = ("the plain kernel", "the normalised kernel")
        return (f"holds {held}, which has {kinds[VARIANTS[held]['normalised']]}, but this network has "
                f"{kinds[network.normalised]}: the same weights mean another function there; give --model {held}.")
    found = architecture(tensors)
    wrong = [key for key in ("depths", "dims") if found and found[key] != tuple(getattr(network, key))]
    if not wrong:
        return ""
    names = [name for name, sizes in VARIANTS.items() if all(sizes[key] == found[key] for key in sizes if key in found)]
    advice = (f"--model {' or '.join(names)}" if names else
              " ".join(f"--{key} {','.join(map(str, found[key]))}" for key in wrong))
    return (f"is for a network with {', '.join(f'{key} {list(found[key])}' for key in wrong)}, but this one has "
            f"{', '.join(f'{key} {list(getattr(network, key))}' for key in wrong)}; give {advice}.")


def no_weight_decay(name: str, shape: tuple[int, ...]) -> bool:
    """Biases, norms and the class token are not decayed; position tables are. Source: the authors' training."""
    return len(shape) < 2 or name == "cls_token"


def visualize(config: Any, network: Any, classes: Any, subjects: Any) -> Any:
    """Return what some places of images look at; see ``soft.src.attention_picture``."""
    from soft.src.attention_picture import attention_rows

    return attention_rows(config, network, subjects)


SPEC = ModelSpec(
    name="soft", variants=VARIANTS, network=network, convert=convert, restore=restore, no_weight_decay=no_weight_decay,
    log_style=LOG_STYLE,
    options=Options, visualize=visualize,
    default_configs={"train": "config/SOFT_config.yml", "eval": "config/SOFT_eval.yml",
                     "export": "config/SOFT_export.yml"},
    uses_convolutions=True, architecture=architecture, misfit=misfit,
    float32_products="Newton's iteration for the inverse in SOFT's attention needs float32",
)
