"""What the zoo knows of gMLP: variants, names of weights, log lines. Imports without MindSpore."""
import inspect
import math
import re
from typing import Any, Mapping

import numpy as np

from common.errors import UserError, nearest
from common.spec import LogStyle, ModelSpec

# Sizes: the paper, table 1, and timm. One minus the paper's survival probability is the drop path rate.
VARIANTS = {
    "gmlp_ti": {"embed_dim": 128, "depth": 30, "patch_size": 16, "mlp_ratio": 6, "drop_path_rate": 0.0},
    "gmlp_s": {"embed_dim": 256, "depth": 30, "patch_size": 16, "mlp_ratio": 6, "drop_path_rate": 0.05},
    "gmlp_b": {"embed_dim": 512, "depth": 30, "patch_size": 16, "mlp_ratio": 6, "drop_path_rate": 0.2},
}

ALIASES = {alias: variant for variant, size in (("gmlp_ti", "Ti"), ("gmlp_s", "S"), ("gmlp_b", "B"))
           for alias in (f"gmlp_{size}", f"gmlp_{size.lower()}16", f"gmlp_{size.lower()}16_224")}

LOG_STYLE = LogStyle(
    prefix="[%(asctime)s] mindcv.utils.callbacks %(levelname)s - %(message)s",
    train_epoch="Epoch: [{epoch}/{epochs}], batch: [{steps}/{steps}], loss: {loss:.6f}, lr: {lr:.6f}, "
                "time: {epoch_time:.6f}s",
    evaluated="Validation Top_1_Accuracy: {top1:.4%}, Top_5_Accuracy: {top5:.4%}, time: {eval_time:.6f}s",
    saved="Saving model to {path}",
    epoch_total="Total time since last epoch: {total_time:.6f}(train: {train_time:.6f}, val: {eval_time:.6f})s, "
                "ETA: {eta:.6f}s\n" + "-" * 80,
    finished="Finish training!",
    best="The best validation Top_1_Accuracy is: {best:.4%} at epoch {best_epoch}.",
    evaluation="{{'Top_1_Accuracy': {top1:.4f}, 'Top_5_Accuracy': {top5:.4f}, 'loss': {loss:.6f}}}",
)

# lucidrains/g-mlp-pytorch -> ours, tried in this order on the beginning of a name
LUCIDRAINS = (
    (r"to_patch_embed\.1\.", "stem.proj."),
    (r"layers\.(\d+)\.fn\.norm\.", r"blocks.\1.norm."),
    (r"layers\.(\d+)\.fn\.fn\.proj_in\.0\.", r"blocks.\1.fc1."),
    (r"layers\.(\d+)\.fn\.fn\.sgu\.norm\.", r"blocks.\1.gate.norm."),
    (r"layers\.(\d+)\.fn\.fn\.sgu\.(weight|bias)$", r"blocks.\1.gate.proj.\2"),
    (r"layers\.(\d+)\.fn\.fn\.proj_out\.", r"blocks.\1.fc2."),
    (r"to_logits\.0\.", "norm."),
    (r"to_logits\.2\.", "head."),
)
LUCIDRAINS_NORM_EPS = 1e-5


def network(**arguments: Any):
    """Build the network; see ``gmlp.src.gmlp.GMLP``."""
    from gmlp.src.gmlp import GMLP

    known = list(inspect.signature(GMLP.__init__).parameters)[1:]
    for key in arguments:
        if key not in known:
            raise UserError(f"{key} is not an argument of gMLP; there are {', '.join(known)}.{nearest(key, known)}")
    return GMLP(**arguments)


def convert(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rename the tensors of timm or lucidrains to ours; names of neither are kept.

    Raises:
        UserError: for lucidrains' gate with several heads, which this network does not have.
    """
    if "to_patch_embed.1.weight" in tensors:
        tensors = _from_lucidrains(tensors)
    renamed = {}
    for name, value in tensors.items():
        name = name.replace("mlp_channels.", "")
        name = re.sub(r"(^|\.)norm\.weight$", r"\1norm.gamma", name)
        renamed[re.sub(r"(^|\.)norm\.bias$", r"\1norm.beta", name)] = value
    return renamed


def restore(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rename our tensors to those of timm."""
    renamed = {}
    for name, value in tensors.items():
        name = re.sub(r"(^|\.)(fc1|fc2|gate)\.", r"\1mlp_channels.\2.", name)
        renamed[name.replace("norm.gamma", "norm.weight").replace("norm.beta", "norm.bias")] = value
    return renamed


def _from_lucidrains(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    renamed = {}
    for name, value in tensors.items():
        if name == "to_patch_embed.1.weight":
            value = value.reshape(len(value), *_patch_shape(value.shape[1]))
        elif re.search(r"\.sgu\.(weight|bias)$", name):
            if len(value) != 1:
                raise UserError(f"{name} has {len(value)} heads; a gate with more than one head is another network.")
            value = value[0]
        for pattern, replacement in LUCIDRAINS:
            if re.match(pattern, name):
                name = re.sub(pattern, replacement, name)
                break
        renamed[name] = value
    return renamed


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
                 "embed_dim": embed_dim, "mlp_ratio": _whole(len(fc1) / embed_dim),
                 "depth": 1 + max(int(found[1]) for name in ours if (found := re.match(r"blocks\.(\d+)\.", name)))}
    if "head.weight" in ours:
        arguments["num_classes"] = len(ours["head.weight"])
    if "to_patch_embed.1.weight" in tensors:
        arguments["norm_eps"] = LUCIDRAINS_NORM_EPS
    return arguments


def _whole(value: float) -> int | float:
    return int(value) if value == int(value) else value


def no_weight_decay(name: str, shape: tuple[int, ...]) -> bool:
    """Biases and norms are not decayed: everything with fewer than two axes."""
    return len(shape) < 2


def layer_id(name: str, depth: int) -> int:
    """Number of a parameter's layer: 0 for the stem, i + 1 for block i, depth + 1 for norm and head."""
    found = re.match(r"blocks\.(\d+)\.", name)
    if found:
        return int(found[1]) + 1
    return 0 if name.startswith("stem.") else depth + 1


SPEC = ModelSpec(
    name="gmlp", variants=VARIANTS, network=network, convert=convert, restore=restore, no_weight_decay=no_weight_decay,
    layer_id=layer_id, aliases=ALIASES, display_names={"gmlp_ti": "gmlp_Ti", "gmlp_s": "gmlp_S", "gmlp_b": "gmlp_B"},
    log_style=LOG_STYLE,
    default_configs={"train": "config/gmlp_Ti.yaml", "eval": "config/gmlp_eval.yaml",
                     "export": "config/gmlp_export.yaml"},
)
