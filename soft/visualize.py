"""Draw what SOFT looks at: ``python soft/visualize.py --ckpt_path FILE.ckpt --image FILE [--out out.png]``.

``--positions 0.5,0.5;0.2,0.8`` chooses the places that look: row and column as shares of height and width.
"""
import sys
from pathlib import Path

if not __package__: sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository root, when run as a script

from common.main import main
from soft.src.spec import SPEC

if __name__ == "__main__":
    main("visualize", SPEC)
