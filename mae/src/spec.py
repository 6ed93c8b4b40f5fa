"""What the zoo knows of MAE and its ViT: variants, names of weights, rules, log lines. Imports without MindSpore."""
import inspect
import math
import re
from typing import Any, Mapping

import numpy as np

from common.errors import UserError, nearest
from common.spec import LogStyle, ModelSpec

_ENCODERS = {
    "base_patch16": {"patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12, "mlp_ratio": 4},
    "large_patch16": {"patch_size": 16, "embed_dim": 1024, "depth": 24, "num_heads": 16, "mlp_ratio": 4},
    "huge_patch14": {"patch_size": 14, "embed_dim": 1280, "depth": 32, "num_heads": 16, "mlp_ratio": 4},
}
_DECODER = {"decoder_embed_dim": 512, "decoder_depth": 8, "decoder_num_heads": 16}

# Sizes: the authors' code.
VARIANTS = ({f"vit_{size}": encoder for size, encoder in _ENCODERS.items()}
            | {f"mae_vit_{size}": encoder | _DECODER for size, encoder in _ENCODERS.items()})

ALIASES = {alias: variant for variant in VARIANTS
           for alias in (re.sub(r"_(base|large|huge)_patch", r"-\1-p", variant).replace("_", "-"),
                         f"{variant}_224", f"{variant}_dec512d8b")}

LOG_STYLE = LogStyle(
    prefix="%(asctime)s:%(levelname)s:%(message)s",
    epoch_total="epoch[{epoch0}], epoch time: {epoch_time:.2f}s, per step time: {step_time:.4f}s, loss={loss:.6f}, "
                "fps={fps:.2f}{evaluated_part}",
    evaluated_part=", accuracy={top1:.6f}, eval_cost={eval_time:.2f}",
    finished="training time used={train_time:.2f}s",
    best="last_metric[{best:.5f}]",
    evaluation="accuracy={top1:.6f}",
)
PRETRAINING_LOG_STYLE = LogStyle(
    prefix=LOG_STYLE.prefix,
    train_epoch="epoch: {epoch} step: {steps}, loss is {loss:.6f}\n"
                "epoch time: {epoch_time:.2f}s, per step time: {step_time:.4f}s, lr={lr:.6f}, fps={fps:.2f}",
    finished=LOG_STYLE.finished,
)

_NORM = re.compile(r"((?:^|\.)(?:fc_|decoder_)?norm[12]?)\.(weight|bias)$")
_NORM_BACK = re.compile(r"((?:^|\.)(?:fc_|decoder_)?norm[12]?)\.(gamma|beta)$")
_THEIRS = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
_OURS = {theirs: ours for ours, theirs in _THEIRS.items()}


def network(**arguments: Any):
    """Build a ``MaskedAutoencoder`` for arguments with a decoder, otherwise a ``VisionTransformer``."""
    if "decoder_depth" in arguments:
        from mae.src.mae_vit import MaskedAutoencoder as Network

        name = "a masked autoencoder"
        arguments.pop("num_classes", None)
        if arguments.pop("drop_path_rate", 0.0):
            raise UserError("drop_path_rate: a masked autoencoder drops no paths; leave it out for pre-training.")
    else:
        from mae.src.vit import VisionTransformer as Network

        name = "a ViT"
    known = list(inspect.signature(Network.__init__).parameters)[1:]
    for key in arguments:
        if key not in known:
            raise UserError(f"{key} is not an argument of {name}; there are {', '.join(known)}.{nearest(key, known)}")
    return Network(**arguments)


def convert(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rename the authors' tensors to ours; names of neither are kept."""
    renamed = {}
    for name, value in tensors.items():
        name = _NORM.sub(lambda found: f"{found[1]}.{_OURS[found[2]]}", name)
        renamed[re.sub(r"^head\.0\.(running_mean|running_var)$", lambda f: f"head.0.{_OURS[f[1]]}", name)] = value
    return renamed


def restore(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rename our tensors to those of the authors."""
    renamed = {}
    for name, value in tensors.items():
        name = _NORM_BACK.sub(lambda found: f"{found[1]}.{_THEIRS[found[2]]}", name)
        renamed[re.sub(r"^head\.0\.(moving_mean|moving_variance)$", lambda f: f"head.0.{_THEIRS[f[1]]}", name)] = value
    return renamed


_OURS |= {"weight": "gamma", "bias": "beta"}

SPEC = ModelSpec(
    name="mae", variants=VARIANTS, network=network, convert=convert, restore=restore,
    no_weight_decay=lambda name, shape: len(shape) < 2, log_style=LOG_STYLE, aliases=ALIASES,
)
