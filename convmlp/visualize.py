"""Draw where a ConvMLP sees a class (Grad-CAM): ``python convmlp/visualize.py --ckpt_path FILE.ckpt --image FILE``."""
import sys
from pathlib import Path

if not __package__: sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository root, when run as a script

from common.main import main
from convmlp.src.spec import SPEC

if __name__ == "__main__":
    main("visualize", SPEC)
