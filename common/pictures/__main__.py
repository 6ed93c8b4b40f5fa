"""``python -m common.pictures curves|schedule|batch``: what a training did, and what it would do, as pictures."""
import sys
from importlib import import_module
from typing import Sequence

from common.command import run
from common.errors import UserError, nearest

COMMANDS = {"curves": "loss, accuracy and learning rate of one run, or of several over each other",
            "schedule": "the learning rate of a training, step by step",
            "batch": "a batch of images as a training, or its evaluation, gets it"}


def main(argv: Sequence[str]) -> str:
    """Draw what the first word names; returns what to tell.

    Raises:
        UserError: for any mistake in the command line, the configuration or the data.
    """
    command = argv[0] if argv else "--help"
    if command in ("--help", "-h"):
        return "\n".join(["usage: python -m common.pictures COMMAND ...; COMMAND --help says more", ""]
                         + [f"  {name:<10}{about}" for name, about in COMMANDS.items()])
    if command not in COMMANDS:
        raise UserError(f"'{command}' is not a command; there are {', '.join(COMMANDS)}.{nearest(command, COMMANDS)}")
    module = import_module(f"common.pictures.{command}")  # the schedule needs no MindSpore, and so does not wait for it
    return getattr(module, f"show_{command}")(argv[1:])


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))
