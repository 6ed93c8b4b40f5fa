"""The keys that only gMLP has. Imports no MindSpore."""
from dataclasses import dataclass

from common.config.options import Config, option


@dataclass(frozen=True)
class Options(Config):
    """The keys of all models, and gMLP's."""

    logger_name: str = option("gmlp", "name of the logger in the log lines; the original MindSpore version's is "
                              "mindcv.utils.callbacks", section="run")
    norm_eps: float | None = option(None, "epsilon of LayerNorm; none: 1e-6", section="model", gt=0)
