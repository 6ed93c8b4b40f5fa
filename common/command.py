"""Small programs of ``python -m common.X``: flags, and one sentence with exit code 2 for a mistake of the user.

Imports no MindSpore.
"""
import argparse
import sys
from typing import Any, Callable, Sequence

from common.errors import UserError, user_sentence


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, and takes no abbreviated flags."""

    def __init__(self, prog: str, description: str, **more: Any):
        super().__init__(prog=f"python -m {prog}", description=description, allow_abbrev=False, **more)

    def error(self, message: str):
        raise UserError(f"{message}; '{self.prog} --help' shows the usage.")


def run(action: Callable[[Sequence[str]], str], argv: Sequence[str]) -> int:
    """Print what ``action`` says about ``argv``; return 0, or 2 after one sentence about a mistake."""
    try:
        said = action(argv)
    except Exception as error:
        sentence = user_sentence(error)
        if sentence is None:
            raise
        print(f"error: {sentence}", file=sys.stderr)
        return 2
    sys.stdout.write(f"{said}\n")
    return 0
