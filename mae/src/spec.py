"""What the zoo knows of MAE and its ViT: variants, rules of trainings, log lines. Imports without MindSpore."""
import re
from typing import Any

from common.errors import UserError
from common.logger import LogStyle
from common.spec import ModelSpec, fewer_than_two_axes
from mae.src.options import Options
from mae.src.weights import architecture, convert, fit, restore

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


def network(masked: bool, **arguments: Any):
    """Return the class of the network, a masked autoencoder or a classifier, and its arguments."""
    if not masked:
        from mae.src.vit import VisionTransformer

        return VisionTransformer, arguments
    from mae.src.mae_vit import MaskedAutoencoder

    arguments.pop("num_classes", None)
    if arguments.pop("drop_path_rate", 0.0):
        raise UserError("drop_path_rate: a masked autoencoder drops no paths; leave it out for pre-training.")
    return MaskedAutoencoder, arguments


def no_weight_decay(name: str, shape: tuple[int, ...]) -> bool:
    """Biases, norms, class token and positions are not decayed when classifiers are trained."""
    return fewer_than_two_axes(name, shape) or name in ("cls_token", "pos_embed")


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


def visualize(config: Any, network: Any, classes: Any, subjects: Any) -> Any:
    """Return reconstructions of a masked autoencoder, or the attention of one or of a classifier.

    Raises:
        UserError: if a classifier is to reconstruct.
    """
    from common.pictures.inside import operation_by_operation
    from mae.src.attention_picture import attention_rows
    from mae.src.reconstruction import reconstruction_rows

    masked = hasattr(network, "mask_token")
    if (config.view or ("reconstruction" if masked else "attention")) == "attention":
        return attention_rows(config, network, subjects)
    if not masked:
        raise UserError(f"view: a reconstruction needs the decoder, which {config.model} lacks: give a checkpoint of "
                        "pretrain.py, or the authors' mae_visualize_vit_large.pth "
                        "(https://dl.fbaipublicfiles.com/mae/visualize/) converted with pth2ckpt.py; their "
                        "mae_pretrain_vit_* and mae_finetuned_vit_* files hold the encoder only.")
    with operation_by_operation():  # these few images are not worth compiling a graph
        return reconstruction_rows(config, network, subjects)


def is_head(name: str, network: Any) -> bool:
    """Whether a parameter takes no part in what is drawn: encoders without a head show their attention too."""
    return name.startswith("head.")


def export_part(config: Any, spec: ModelSpec) -> Any:
    """Build what ``config.part`` names for export; see ``mae.src.export_part``."""
    from mae.src.export_part import export_part as build

    return build(config, spec)


_CLASSIFIER = {
    "variants": CLASSIFIERS,
    "remark": " The mae_* networks are trained by pretrain.py and shown by visualize.py; finetune.py makes classifiers "
              "of their checkpoints."}
_PRETRAINING = {"variants": AUTOENCODERS, "log_style": PRETRAINING_LOG_STYLE,
                "no_weight_decay": fewer_than_two_axes,  # of tokens too: the authors' list of exceptions is empty
                "defaults": {"scale": (0.2, 1.0), "interpolation": "bicubic"}}

SPEC = ModelSpec(
    name="mae", variants=VARIANTS, network=network, convert=convert, restore=restore, no_weight_decay=no_weight_decay,
    layer_id=layer_id, aliases=ALIASES, log_style=LOG_STYLE, fuses_operators=True, fit=fit, draw_samples=draw_samples,
    visualize=visualize, export_part=export_part, architecture=architecture,
    tasks=("train", "pretrain", "finetune", "linprobe"),
    per_task={task: _CLASSIFIER for task in ("train", "finetune", "linprobe", "eval", "infer")}
    | {"linprobe": _CLASSIFIER | {"defaults": {"global_pool": False, "batchnorm_head": True}},
       "pretrain": _PRETRAINING, "visualize": {"dead": is_head}},
    options=Options,
    default_configs={"train": "config/vit-base-p16.yaml", "pretrain": "config/mae-vit-base-p16.yaml",
                     "finetune": "config/finetune-vit-base-p16.yaml", "linprobe": "config/linprobe-vit-base-p16.yaml",
                     "eval": "config/eval.yml", "export": "config/export.yml"},
)
