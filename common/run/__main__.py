"""``python -m common.run compare A B``: why two runs differ."""
import sys
from pathlib import Path
from typing import Sequence

from common.command import Parser, run
from common.run.compare import compare


def main(argv: Sequence[str]) -> str:
    """Compare two runs; returns what to tell.

    Raises:
        UserError: for a mistake in the command line.
    """
    parser = Parser("common.run", "Say why two runs differ: data, configuration, versions, device, commit, and the "
                    "first epoch and batch at which their losses part.")
    parser.add_argument("what", choices=("compare",))
    parser.add_argument("runs", nargs=2, type=Path, metavar="RUN", help="folder of a run")
    options = parser.parse_args(argv)
    return compare(*options.runs)


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))
