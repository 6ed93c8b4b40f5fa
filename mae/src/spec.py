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

# Sizes: the authors' code. ``masked`` tells the two kinds of network apart.
CLASSIFIERS = {f"vit_{size}": {"masked": False} | encoder for size, encoder in _ENCODERS.items()}
AUTOENCODERS = {f"mae_vit_{size}": {"masked": True} | encoder | _DECODER for size, encoder in _ENCODERS.items()}
VARIANTS = CLASSIFIERS | AUTOENCODERS

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

_NORM = re.compile(r"((?:^|\.)(?:fc_|decoder_)?norm[12]?)\.(weight|bias|gamma|beta)$")
_THEIRS = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
_OURS = {theirs: ours for ours, theirs in _THEIRS.items()}
_STATISTICS = re.compile(r"(head\.0)\.(running_mean|running_var|moving_mean|moving_variance)$")  # of the linear probe

# what a classifier may find in a checkpoint and not need: decoder, the other pooling's norm, a head for other classes
_NOT_NEEDED = re.compile(r"(decoder_|mask_token$|norm\.|fc_norm\.|head\.)")


def network(masked: bool, **arguments: Any):
    """Build a ``MaskedAutoencoder`` (``masked``) or a ``VisionTransformer``."""
    if masked:
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
    return {_renamed(name, _OURS): value for name, value in tensors.items()}


def restore(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rename our tensors to those of the authors."""
    return {_renamed(name, _THEIRS): value for name, value in tensors.items()}


def _renamed(name: str, kinds: Mapping[str, str]) -> str:
    for pattern in (_NORM, _STATISTICS):
        name = pattern.sub(lambda found: f"{found[1]}.{kinds.get(found[2], found[2])}", name)
    return name


def architecture(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Constructor arguments that a set of weights, under the authors' names or ours, was made for.

    The heads cannot be seen in the shapes. Weights of an encoder alone are those of a ViT without a head.

    Returns:
        An empty dict if the tensors are not those of a ViT or a masked autoencoder for square images.
    """
    ours = convert(tensors)
    needed = ("patch_embed.proj.weight", "pos_embed", "blocks.0.mlp.fc1.weight", "blocks.0.attn.qkv.weight")
    if any(name not in ours for name in needed):
        return {}
    patches, positions, fc1 = (ours[name] for name in needed[:3])
    side = math.isqrt(positions.shape[1] - 1)
    if patches.ndim != 4 or patches.shape[2] != patches.shape[3] or side * side != positions.shape[1] - 1:
        return {}
    embed_dim, in_channels, patch_size, _ = patches.shape
    found = {"masked": "decoder_pred.weight" in ours, "image_size": side * patch_size, "in_channels": in_channels,
             "patch_size": patch_size, "embed_dim": embed_dim, "depth": _depth(ours, "blocks"),
             "mlp_ratio": _whole(len(fc1) / embed_dim)}
    if found["masked"]:
        return found | {"decoder_embed_dim": len(ours["decoder_embed.weight"]),
                        "decoder_depth": _depth(ours, "decoder_blocks")}
    head = next((ours[name] for name in ("head.weight", "head.1.weight") if name in ours), ())
    return found | {"num_classes": len(head), "global_pool": "fc_norm.gamma" in ours,
                    "batchnorm_head": "head.1.weight" in ours}


def _depth(tensors: Mapping[str, np.ndarray], blocks: str) -> int:
    return 1 + max(int(found[1]) for name in tensors if (found := re.match(rf"{blocks}\.(\d+)\.", name)))


def _whole(value: float) -> int | float:
    return int(value) if value == int(value) else value


def fit(tensors: Mapping[str, np.ndarray], network: Any) -> tuple[dict[str, np.ndarray], list[str]]:
    """Fit weights to a network that is trained further: those of a pre-training, or of a training on other data.

    A classifier leaves out the decoder and what its pooling does not use, gets the position table resized, and a new
    head if there is none for its classes. A masked autoencoder takes the weights of another one as they are.

    Args:
        tensors: by our names.
        network: a ``VisionTransformer`` or a ``MaskedAutoencoder``.

    Returns:
        The tensors, and the names of the parameters that keep initial values. A new head has got its own.
    """
    parameters = {p.name: tuple(p.shape) for p in network.get_parameters()}
    if "decoder_pred.weight" in parameters:
        return dict(tensors), []
    from mae.src.pos_embed import resize_table
    from mae.src.vit import new_head

    fitted = {name: value for name, value in tensors.items() if name in parameters or not _NOT_NEEDED.match(name)}
    if "pos_embed" in fitted and fitted["pos_embed"].shape[1] != parameters["pos_embed"][1]:
        fitted["pos_embed"] = resize_table(fitted["pos_embed"], network.patch_embed.grid)
    new = [name for name in parameters if name.startswith(("norm.", "fc_norm.")) and name not in fitted]
    head = [name for name in parameters if name.startswith("head.")]
    if any(name not in fitted or fitted[name].shape != parameters[name] for name in head):
        fitted = {name: value for name, value in fitted.items() if name not in head}
        new += new_head(network)
    return fitted, new


def no_decay_when_pretraining(name: str, shape: tuple[int, ...]) -> bool:
    """Biases and norms are not decayed; class and mask token are (the authors' skip list is empty)."""
    return len(shape) < 2


def no_weight_decay(name: str, shape: tuple[int, ...]) -> bool:
    """Biases, norms, class token and positions are not decayed."""
    return len(shape) < 2 or name in ("cls_token", "pos_embed")


def layer_id(name: str, depth: int) -> int:
    """Number of a parameter's layer: 0 for tokens, i + 1 for block i, depth + 1 for the last norm and the head."""
    found = re.match(r"blocks\.(\d+)\.", name)
    if found:
        return int(found[1]) + 1
    return 0 if name in ("cls_token", "pos_embed") or name.startswith("patch_embed.") else depth + 1


def draw_samples(config: Any, network: Any, samples: Any, path: Any) -> None:
    """Write a picture of reconstructed training images; see ``mae.src.reconstruction``."""
    from mae.src.reconstruction import draw_samples as draw

    draw(config, network, samples, path)


def export_part(config: Any, spec: ModelSpec) -> Any:
    """Build what ``config.part`` names for export; see ``mae.src.export_part``."""
    from mae.src.export_part import export_part as build

    return build(config, spec)


_CLASSIFIER = {
    "variants": CLASSIFIERS,
    "remark": " The mae_* networks are trained by pretrain.py and shown by visualize.py; finetune.py makes classifiers "
              "of their checkpoints."}
_PRETRAINING = {"variants": AUTOENCODERS, "log_style": PRETRAINING_LOG_STYLE,
                "no_weight_decay": no_decay_when_pretraining}
_VISUALIZING = {
    "variants": AUTOENCODERS,
    "remark": " A reconstruction needs the decoder: give a checkpoint of pretrain.py, or the authors' "
              "mae_visualize_vit_large.pth (https://dl.fbaipublicfiles.com/mae/visualize/) converted with pth2ckpt.py; "
              "their mae_pretrain_vit_* and mae_finetuned_vit_* files hold the encoder only."}

SPEC = ModelSpec(
    name="mae", variants=VARIANTS, network=network, convert=convert, restore=restore, no_weight_decay=no_weight_decay,
    layer_id=layer_id, aliases=ALIASES, log_style=LOG_STYLE, fit=fit, draw_samples=draw_samples,
    export_part=export_part,
    tasks=("train", "pretrain", "finetune", "linprobe"),
    per_task={task: _CLASSIFIER for task in ("train", "finetune", "linprobe", "eval", "infer")}
    | {"pretrain": _PRETRAINING, "visualize": _VISUALIZING},
    default_configs={"train": "config/vit-base-p16.yaml", "pretrain": "config/mae-vit-base-p16.yaml",
                     "finetune": "config/finetune-vit-base-p16.yaml", "linprobe": "config/linprobe-vit-base-p16.yaml",
                     "eval": "config/eval.yml", "export": "config/export.yml"},
)
