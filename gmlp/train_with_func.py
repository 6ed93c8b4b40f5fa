"""Train gMLP with a loop in the open instead of the framework's, with the same result; the options are train.py's."""
import sys
from pathlib import Path

if not __package__: sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository root, when run as a script

from common.main import main
from gmlp.src.spec import SPEC

if __name__ == "__main__":
    main("train", SPEC, in_the_open=True)
