"""The name that the seed also uses for ``eval.py``, which has no loop of the framework's; the same thing."""
import sys
from pathlib import Path

if not __package__: sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository root, when run as a script

from common.main import main
from gmlp.src.spec import SPEC

if __name__ == "__main__":
    main("eval", SPEC)
