"""What the zoo knows of ConvMLP: variants, names of weights, log lines. Imports without MindSpore."""
import inspect
import re
from typing import Any, Mapping

import numpy as np

from common.errors import UserError, nearest
from common.spec import LogStyle, ModelSpec

# Source: the authors' code; the sizes of table 2 of the paper. Every stage drops paths up to a tenth.
VARIANTS = {
    "convmlp_s": {"channels": 64, "n_conv_blocks": 2, "dims": (128, 256, 512), "depths": (2, 4, 2), "mlp_ratio": 2,
                  "drop_path_rate": 0.1},
    "convmlp_m": {"channels": 64, "n_conv_blocks": 3, "dims": (128, 256, 512), "depths": (3, 6, 3), "mlp_ratio": 3,
                  "drop_path_rate": 0.1},
    "convmlp_l": {"channels": 96, "n_conv_blocks": 3, "dims": (192, 384, 768), "depths": (4, 8, 3), "mlp_ratio": 3,
                  "drop_path_rate": 0.1},
}

ALIASES = {alias: f"convmlp_{size}" for size in "sml" for alias in (f"cmlp_{size}", f"conv_mlp_{size}")}

LOG_STYLE = LogStyle(
    prefix="%(message)s",
    train_epoch="epoch:{epoch} step:{steps}, loss is {loss:.5f}",
    evaluated="accuracy:{{'acc':{top1:.4f}}}, top-1 {top1:.2%}, top-5 {top5:.2%}, loss {eval_loss:.5f}, "
              "{eval_time:.1f} s",
    saved="Saved {path}",
    finished="Training took {train_time:.1f} s, {mean_fps:.1f} images/s",
    best="Best accuracy:{{'acc':{best:.4f}}} after epoch {best_epoch}",
    evaluation="accuracy:{{'acc':{top1:.4f}}}\ntop-1 {top1:.2%}, top-5 {top5:.2%}, loss {loss:.5f}, {seen} images, "
               "{total_time:.1f} s",
)

# A BatchNorm's prefix in names: it comes after a convolution, and its ReLU makes the third of a group. A LayerNorm's.
BATCH_NORM = r"(?:^|\.)(?:block|conv_blocks\.\d+)\.[147]\."
LAYER_NORM = r"(?:^|\.)(?:norm|norm1|norm2|connect_norm)\."
NORM = re.compile(f"({BATCH_NORM}|{LAYER_NORM})")
OURS = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
THEIRS = {ours: theirs for theirs, ours in OURS.items()}


def network(image_size: Any = None, **arguments: Any):
    """Build the network, which fits every ``image_size``; see ``convmlp.src.convmlp.ConvMLP``."""
    from convmlp.src.convmlp import ConvMLP

    known = list(inspect.signature(ConvMLP.__init__).parameters)[1:]
    for key in arguments:
        if key not in known:
            raise UserError(f"{key} is not an argument of ConvMLP; there are {', '.join(known)}.{nearest(key, known)}")
    return ConvMLP(**arguments)


def convert(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rename the authors' tensors to ours, and leave out the counters of PyTorch's BatchNorm; other names are kept."""
    return {_rename(name, OURS): value for name, value in tensors.items() if not name.endswith("num_batches_tracked")}


def restore(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rename our tensors to the authors'; PyTorch does not miss the counters."""
    return {_rename(name, THEIRS): value for name, value in tensors.items()}


def _rename(name: str, kinds: Mapping[str, str]) -> str:
    prefix, _, kind = name.rpartition(".")
    return f"{prefix}.{kinds[kind]}" if kind in kinds and NORM.search(name) else name


def architecture(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Constructor arguments that a whole set of weights, under either names, was made for.

    Returns:
        An empty dict if the tensors are not those of a ConvMLP.
    """
    ours = convert(tensors)
    first, last = ours.get("tokenizer.block.0.weight"), ours.get("tokenizer.block.6.weight")
    head = ours.get("head.weight")
    stages = [match for name in ours if (match := re.fullmatch(r"stages\.(\d+)\.blocks\.0\.channel_mlp1\.fc1\.weight",
                                                               name))]
    if first is None or last is None or head is None or not stages:
        return {}
    hidden = [ours[match[0]].shape for match in sorted(stages, key=lambda match: int(match[1]))]
    depths = [_count(ours, rf"stages\.{stage}\.blocks\.(\d+)\.") for stage in range(len(hidden))]
    ratios = [_whole(width / dim) for width, dim in hidden]
    return {"num_classes": len(head), "in_channels": first.shape[1], "channels": len(last),
            "n_conv_blocks": _count(ours, r"conv_stages\.conv_blocks\.(\d+)\."), "dims": tuple(dim for _, dim in hidden),
            "depths": tuple(depths), "mlp_ratio": ratios[0] if len(set(ratios)) == 1 else tuple(ratios)}


def _count(names: Mapping[str, Any], pattern: str) -> int:
    """One more than the highest number that ``pattern`` finds in the names."""
    return 1 + max((int(match[1]) for name in names if (match := re.match(pattern, name))), default=-1)


def _whole(value: float) -> int | float:
    return int(value) if value == int(value) else value


def no_weight_decay(name: str, shape: tuple[int, ...]) -> bool:
    """Biases and norms are not decayed: everything with fewer than two axes."""
    return len(shape) < 2


SPEC = ModelSpec(
    name="convmlp", variants=VARIANTS, network=network, convert=convert, restore=restore,
    no_weight_decay=no_weight_decay, aliases=ALIASES, log_style=LOG_STYLE,
    default_configs={"train": "config/convmlp_s_cifar10.yaml", "eval": "config/convmlp_eval.yaml",
                     "export": "config/convmlp_export.yaml"},
    uses_convolutions=True, architecture=architecture,
)
