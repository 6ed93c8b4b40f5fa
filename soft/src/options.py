"""The keys that only SOFT has. Imports no MindSpore."""
from dataclasses import dataclass

from common.config.options import Config, option
from common.errors import UserError


def read_positions(text: str) -> list[tuple[float, float]]:
    """Read "ROW,COLUMN;ROW,COLUMN", shares of height and width.

    Raises:
        UserError: unless they are pairs of numbers from 0 to 1.
    """
    try:
        pairs = [tuple(float(share) for share in pair.split(",")) for pair in str(text).split(";")]
    except ValueError:
        pairs = []
    if not pairs or any(len(pair) != 2 or not all(0 <= share <= 1 for share in pair) for pair in pairs):
        raise UserError("it should be pairs ROW,COLUMN of numbers from 0 to 1, with ; between them, such as "
                        "0.5,0.5;0.2,0.8")
    return pairs


def _positions(text: str) -> str:
    read_positions(text)
    return text


@dataclass(frozen=True)
class Options(Config):
    """The keys of all models, and SOFT's."""

    mlp_ratio: int | float | None = option(None, "hidden width of an MLP / width of the tokens; none: 4",
                                           section="model", ge=0.1, le=100)
    soft_config_path: str = option("", "no effect, the variant says it all", section="model", unused=True)
    eval_engine: str = option("", "no effect, evaluation follows the data set", section="model", unused=True)
    positions: str = option("0.5,0.5;0.25,0.25;0.7,0.7", "visualize.py: the places that look, ROW,COLUMN;ROW,COLUMN "
                            "as shares of height and width", section="export", tasks=("visualize",), convert=_positions)
