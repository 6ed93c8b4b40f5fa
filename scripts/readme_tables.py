"""Write the tables of options in the README files anew, and the costs of networks: ``python scripts/readme_tables.py``.

A table of options, from the schema, stands between ``<!-- options SECTION -->`` and ``<!-- /options -->``; keys after
the section choose rows. Parameters and multiply-adds are those that ``python -m common.profile`` counts: in a table
with columns of these names, in every row that names a variant or a configuration. With ``--check`` nothing is written,
and the exit code is 1 if a file would change.
"""
import functools
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

# word in the head of a column -> which of ``costs``; the first that is found counts
COSTS = {"multiply-adds": 2, "乘加次数": 2, "all parameters": 1, "全部参数量": 1, "parameters": 0, "参数量": 0}
NUMBER = re.compile(r"\d+\.\d+ G|\d{1,3}(?:,\d{3})+")


def readme_files() -> list[Path]:
    """Return every README of the repository, of its folders and of their pictures, in any language; and SPEED.md."""
    found = [*ROOT.glob("README*.md"), *ROOT.glob("*/README*.md"), *ROOT.glob("*/resources/README*.md"),
             ROOT / "scripts/SPEED.md"]
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


def fill_costs(text: str) -> str:
    """Return the text of a README with the costs of its networks counted anew."""
    lines, heads = text.split("\n"), []
    for number, line in enumerate(lines):
        if not line.startswith("|"):
            heads = []
        elif not heads:
            heads = line.split("|")
        elif any(word in head for head in heads for word in COSTS):
            cells = line.split("|")
            lines[number] = "|".join([with_costs(head, cell, cells) for head, cell in zip(heads, cells, strict=True)])
    return "\n".join(lines)


def with_costs(head: str, cell: str, row: Sequence[str]) -> str:
    """Return a cell of a table with the numbers that its column's head asks for; the second is of HLG's other layout.

    The head may name the variants, such as ``vit_*`` with the rest in the first cell of the row. ``all parameters`` are
    also those that are not trained.
    """
    what = next((cost for word, cost in COSTS.items() if word in head), None)
    numbers = list(NUMBER.finditer(cell))
    if what is None or not numbers:
        return cell
    name = re.search(r"`([\w-]+)`", row[1])
    pattern = re.search(r"`(\w+_)\*`", head)
    linked = re.search(r"\((\w+/config/[\w-]+\.ya?ml)\)", row[-2])
    variant = ((pattern[1] if pattern else "") + name[1] if name else
               re.search(r"^model: *(\S+)", (ROOT / linked[1]).read_text(encoding="utf-8"), re.MULTILINE)[1])
    for number, layout in reversed(list(zip(numbers, ("", "paper")))):
        count = costs(variant, layout)[what]
        said = f"{count / 1e9:.{len(number[0].split()[0].partition('.')[2])}f} G" if what == 2 else f"{count:,}"
        cell = cell[:number.start()] + said + cell[number.end():]
    return cell


@functools.cache
def costs(variant: str, layout: str = "") -> tuple[int, int, int]:
    """Return trained and all parameters of a network with 1000 classes, and multiply-adds at 224 x 224."""
    from common.profile import profile  # which imports MindSpore

    total = profile(variant, **({"layout": layout} if layout else {})).total
    return total.parameters, total.parameters + total.fixed, total.multiply_adds


def main(argv: Sequence[str]) -> int:
    """Write, or check; returns the exit code."""
    changed = 0
    for file in readme_files():
        before = file.read_text(encoding="utf-8")
        after = fill_costs(fill(before, schema_of(file)))
        if after != before:
            changed += 1
            sys.stdout.write(f"{file.relative_to(ROOT)} {'is out of date' if '--check' in argv else 'written'}\n")
            if "--check" not in argv:
                file.write_text(after, encoding="utf-8")
    return int("--check" in argv and changed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
