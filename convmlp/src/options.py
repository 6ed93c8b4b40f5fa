"""The keys that only ConvMLP has. Imports no MindSpore."""
from dataclasses import dataclass

from common.config.options import Config, option


@dataclass(frozen=True)
class Options(Config):
    """The keys of all models, and ConvMLP's."""

    channels: int | None = option(None, "width of the maps before the first stage; none: the variant's own",
                                  section="model", ge=1)
    n_conv_blocks: int | None = option(None, "blocks of convolutions before the first stage; none: the variant's own",
                                       section="model", ge=1, le=1000)
