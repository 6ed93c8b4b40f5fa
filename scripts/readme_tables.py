"""Write the tables of options in the README files anew, from the schema: ``python scripts/readme_tables.py``.

A table stands between ``<!-- options SECTION -->`` and ``<!-- /options -->``; keys after the section choose rows. With
``--check`` nothing is written, and the exit code is 1 if a file would change.
"""
import importlib
import re
import sys
from pathlib import Path
from typing import Sequence

if not __package__: sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository root, when run as a script

from common.config.help import markdown_table
from common.config.options import SECTIONS, Config, fields_of
from common.errors import UserError
from common.files import ROOT

TABLE = re.compile(r"(<!-- options ([\w ]+) -->\n).*?(<!-- /options -->)", re.DOTALL)


def readme_files() -> list[Path]:
    """Return every README of the repository, of its folders and of their pictures, in any language."""
    found = [*ROOT.glob("README*.md"), *ROOT.glob("*/README*.md"), *ROOT.glob("*/resources/README*.md")]
    return sorted(file for file in found if not file.parent.name.startswith(".") or file.parent == ROOT)


def schema_of(file: Path) -> type[Config]:
    """Return the keys that a README may show: those of its folder's model."""
    if not (file.parent / "src/spec.py").is_file():
        return Config
    return importlib.import_module(f"{file.parent.name}.src.spec").SPEC.options or Config


def table(section: str, keys: Sequence[str] = (), schema: type[Config] = Config) -> str:
    """Return the table of a section, of all its keys or of some.

    Raises:
        UserError: if there is no such section, or a key is not in it.
    """
    if section not in SECTIONS:
        raise UserError(f"options: there is no section {section}; allowed are {', '.join(SECTIONS)}.")
    for key in keys:
        if key not in fields_of(schema) or fields_of(schema)[key].metadata["section"] != section:
            raise UserError(f"options: {key} is not a key of the section {section}.")
    head, line, *rows = markdown_table(section, schema).splitlines()
    return "\n".join([head, line, *(row for row in rows if not keys or re.match(r"\| `(\w+)`", row)[1] in keys)]) + "\n"


def fill(text: str, schema: type[Config] = Config) -> str:
    """Return the text of a README with its tables written anew."""
    def anew(found: re.Match) -> str:
        section, *keys = found[2].split()
        return found[1] + table(section, keys, schema) + found[3]

    return TABLE.sub(anew, text)


def main(argv: Sequence[str]) -> int:
    """Write, or check; returns the exit code."""
    changed = 0
    for file in readme_files():
        before = file.read_text(encoding="utf-8")
        after = fill(before, schema_of(file))
        if after != before:
            changed += 1
            sys.stdout.write(f"{file.relative_to(ROOT)} {'is out of date' if '--check' in argv else 'written'}\n")
            if "--check" not in argv:
                file.write_text(after, encoding="utf-8")
    return int("--check" in argv and changed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
