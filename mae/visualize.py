"""Draw what MAE and its ViT see: ``python mae/visualize.py --ckpt FILE.ckpt --image FILE [--out out.png]``.

Of a masked autoencoder reconstructions, of a classifier its attention; ``--view`` chooses the other.
"""
import sys
from pathlib import Path

if not __package__: sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository root, when run as a script

from common.main import main
from mae.src.spec import SPEC

if __name__ == "__main__":
    main("visualize", SPEC)
