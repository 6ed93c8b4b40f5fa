"""What the zoo knows of gMLP: its variants, the rules of its training, its log lines. Imports without MindSpore."""
import re
from typing import Any

from common.logger import LogStyle
from common.spec import ModelSpec
from gmlp.src.options import Options
from gmlp.src.weights import architecture, convert, restore

# Sizes: the paper, table 1, and timm. One minus the paper's survival probability is the drop path rate.
VARIANTS = {
    "gmlp_ti": {"embed_dim": 128, "depth": 30, "patch_size": 16, "mlp_ratio": 6, "drop_path_rate": 0.0},
    "gmlp_s": {"embed_dim": 256, "depth": 30, "patch_size": 16, "mlp_ratio": 6, "drop_path_rate": 0.05},
    "gmlp_b": {"embed_dim": 512, "depth": 30, "patch_size": 16, "mlp_ratio": 6, "drop_path_rate": 0.2},
}

ALIASES = {alias: variant for variant, size in (("gmlp_ti", "Ti"), ("gmlp_s", "S"), ("gmlp_b", "B"))
           for alias in (f"gmlp_{size}", f"gmlp_{size.lower()}16", f"gmlp_{size.lower()}16_224")}

LOG_STYLE = LogStyle(
    prefix="[%(asctime)s] {logger_name} %(levelname)s - %(message)s",
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


def network(**arguments: Any):
    """Return the class of the network and its arguments."""
    from gmlp.src.gmlp import GMLP

    return GMLP, arguments


def visualize(config: Any, network: Any, classes: Any, subjects: Any) -> Any:
    """Return the picture of the spatial filters; see ``gmlp.src.filter_picture``."""
    from gmlp.src.filter_picture import filter_rows

    return filter_rows(network)


def layer_id(name: str, depth: int) -> int:
    """Number of a parameter's layer: 0 for the stem, i + 1 for block i, depth + 1 for norm and head."""
    found = re.match(r"blocks\.(\d+)\.", name)
    if found:
        return int(found[1]) + 1
    return 0 if name.startswith("stem.") else depth + 1


SPEC = ModelSpec(
    name="gmlp", variants=VARIANTS, network=network, convert=convert, restore=restore, architecture=architecture,
    layer_id=layer_id, aliases=ALIASES, display_names={"gmlp_ti": "gmlp_Ti", "gmlp_s": "gmlp_S", "gmlp_b": "gmlp_B"},
    log_style=LOG_STYLE,
    options=Options, fuses_operators=True, visualize=visualize, looks_at_images=False,
    default_configs={"train": "config/gmlp_Ti.yaml", "eval": "config/gmlp_eval.yaml",
                     "export": "config/gmlp_export.yaml"},
)
