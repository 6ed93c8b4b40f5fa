"""Draw what a masked autoencoder sees: ``python mae/visualize.py --ckpt FILE.ckpt --image FILE --out out.png``."""
import sys
from pathlib import Path

if not __package__: sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository root, when run as a script

from common.main import main
from mae.src.spec import SPEC


def draw(config, spec):
    """Load MindSpore only now: help and mistakes are answered without it."""
    from mae.src.reconstruction import visualize

    visualize(config, spec)


if __name__ == "__main__":
    main("visualize", SPEC, action=draw)
