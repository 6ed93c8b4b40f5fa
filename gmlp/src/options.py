"""The keys that only gMLP has. Imports no MindSpore."""
from dataclasses import dataclass

from common.config.options import Config, option


@dataclass(frozen=True)
class Options(Config):
    """The keys of all models, and gMLP's."""

    norm_eps: float | None = option(None, "epsilon of LayerNorm; none: 1e-6", section="model", gt=0)
