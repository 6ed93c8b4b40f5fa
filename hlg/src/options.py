"""The keys that only HLG has. Imports no MindSpore."""
from dataclasses import dataclass

from common.config.options import Config, option


@dataclass(frozen=True)
class Options(Config):
    """The keys of all models, and HLG's."""

    layout: str | None = option(None, "widths of the MLPs as in the authors' code for classification (head) or for "
                                "segmentation (paper); none: head", section="model", choices=("head", "paper"))
    dead_parameters: bool | None = option(None, "give hlg_mobile the parameters without effect that the old zoo's has; "
                                          "none: false", section="model")
    norm_eps: float | None = option(None, "epsilon of LayerNorm; none: 1e-7 for hlg_mobile, else 1e-6",
                                    section="model", gt=0)
    hlg_config_path: str = option("", "no effect, the variant says it all", section="model", unused=True)
    eval_engine: str = option("", "no effect, evaluation follows the data set", section="model", unused=True)
