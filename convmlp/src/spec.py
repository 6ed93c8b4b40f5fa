"""What the zoo knows of ConvMLP: its variants, the rules of its training, its log lines. Imports without MindSpore."""
from typing import Any

from common.logger import LogStyle
from common.spec import ModelSpec
from convmlp.src.options import Options
from convmlp.src.weights import architecture, convert, restore

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


def network(image_size: Any = None, **arguments: Any):
    """Return the class of the network, which fits every ``image_size``, and its arguments."""
    from convmlp.src.convmlp import ConvMLP

    return ConvMLP, arguments


def visualize(config: Any, network: Any, classes: Any, subjects: Any) -> Any:
    """Return where the network sees classes, by the maps of its last stages; see ``common.pictures.inside``."""
    from common.pictures.inside import grad_cam_rows

    return grad_cam_rows(config, network, [stage.blocks for stage in network.stages], classes, subjects)


SPEC = ModelSpec(
    name="convmlp", variants=VARIANTS, network=network, convert=convert, restore=restore,
    architecture=architecture, aliases=ALIASES, log_style=LOG_STYLE, options=Options,
    visualize=visualize,
    default_configs={"train": "config/convmlp_s_cifar10.yaml", "eval": "config/convmlp_eval.yaml",
                     "export": "config/convmlp_export.yaml"},
    uses_convolutions=True,
)
