"""The command lines of ``python -m common.pictures batch`` and ``schedule``. Imports no MindSpore."""
import argparse
import sys
from typing import Any, Sequence

from common.command import Parser
from common.config.help import help_text
from common.config.load import load_any
from common.config.options import Config


def read_command(program: str, about: str, argv: Sequence[str], own: dict[str, dict[str, Any]]
                 ) -> tuple[argparse.Namespace, Config]:
    """Read the program's own flags, and the configuration from the others."""
    parser = Parser(program, about, usage=f"python -m {program} [--config_path FILE.yaml] [flags]", add_help=False)
    for name, more in own.items():
        parser.add_argument(f"--{name}", **more)
    if any(word in ("--help", "-h") for word in argv):
        sys.stdout.write(f"{parser.format_help()}\nThe picture is written to --out. All options of a training:\n\n"
                         f"{help_text(Config, 'train')}")
        raise SystemExit(0)
    options, others = parser.parse_known_args(argv)
    return options, load_any(others)
