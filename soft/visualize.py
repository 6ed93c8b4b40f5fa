"""Draw what SOFT looks at: ``python soft/visualize.py --ckpt_path FILE.ckpt --image FILE [--out out.png]``.

``--positions 0.5,0.5;0.2,0.8`` chooses the places that look: row and column as shares of height and width.
"""
import sys
from pathlib import Path

if not __package__: sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository root, when run as a script

from common.errors import UserError
from common.main import main
from soft.src.spec import SPEC


def parse_positions(text: str) -> list[tuple[float, float]]:
    """Read "ROW,COLUMN;ROW,COLUMN".

    Raises:
        UserError: unless they are pairs of numbers from 0 to 1.
    """
    try:
        pairs = [tuple(float(share) for share in pair.split(",")) for pair in text.split(";")]
    except ValueError:
        pairs = []
    if not pairs or any(len(pair) != 2 or not all(0 <= share <= 1 for share in pair) for pair in pairs):
        raise UserError(f"positions: '{text}' should be pairs ROW,COLUMN of numbers from 0 to 1, with ; between them, "
                        "such as 0.5,0.5;0.2,0.8.")
    return pairs


def take_positions(arguments: list[str]) -> tuple[list[str], str]:
    """Take ``--positions TEXT`` or ``--positions=TEXT``, which no other program has, out of the command line."""
    rest, text = [], ""
    words = iter(arguments)
    for word in words:
        if word == "--positions":
            text = next(words, "-")
        elif word.startswith("--positions="):
            text = word.partition("=")[2] or "-"
        else:
            rest.append(word)
    return rest, text


if __name__ == "__main__":
    rest, text = take_positions(sys.argv[1:])
    if {"--help", "-h"} & set(rest):
        print(__doc__)

    def draw(config, spec):
        """Load MindSpore only now: help and mistakes are answered without it."""
        chosen = {"positions": parse_positions(text)} if text else {}
        from soft.src.attention_picture import visualize

        visualize(config, spec, **chosen)

    main("visualize", SPEC, rest, action=draw)
