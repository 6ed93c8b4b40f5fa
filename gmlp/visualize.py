"""Draw the spatial filters of a gMLP: ``python gmlp/visualize.py --ckpt_path FILE.ckpt [--out out.png]``."""
import sys
from pathlib import Path

if not __package__: sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository root, when run as a script

from common.main import main
from gmlp.src.spec import SPEC

if __name__ == "__main__":
    main("visualize", SPEC)
