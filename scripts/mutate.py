"""Try whether the tests notice mistakes: change one operator or number at a time and run the tests that reach it.

``python scripts/mutate.py --count 300`` changes 300 places, drawn by ``--seed`` over ``common`` and the models, in a
copy of the repository; ``--room lr`` (a file or folder of common) or ``--room hlg`` stays in one room. First every test
runs once, traced, so that each mutant meets only the tests that reach its line, the fast ones first, and who survives
those also the slow ones and all of its room. ``--work FOLDER`` keeps the trace for the next run. A mutant that survived
is something to look at: a test is missing, or the change means the same. Not a part of the tests.
"""
import argparse
import ast
import copy
import dataclasses
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

if not __package__: sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository root, when run as a script

ROOT = Path(__file__).resolve().parents[1]
MODELS = ("gmlp", "convmlp", "soft", "hlg", "mae")
OPERATORS = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
             ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.Add: ast.Sub,
             ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div, ast.Mod: ast.Mult,
             ast.Pow: ast.Mult, ast.And: ast.Or, ast.Or: ast.And}


def rooms() -> dict[str, list[Path]]:
    """Return room -> its source files: every folder and file of common, and the models."""
    found = {place.stem: sorted(place.rglob("*.py")) if place.is_dir() else [place]
             for place in sorted((ROOT / "common").iterdir()) if place.is_dir() or place.suffix == ".py"}
    return {name: files for name, files in found.items() if files} | {
        model: sorted((ROOT / model / "src").glob("*.py")) for model in MODELS}


def changed(node: ast.AST) -> ast.AST | None:
    """Return a node that means something else, or ``None`` where nothing is known to change."""
    other = copy.deepcopy(node)
    match node:
        case ast.Compare(ops=[operator]) if type(operator) in OPERATORS:
            other.ops = [OPERATORS[type(operator)]()]
        case ast.BinOp(op=operator) | ast.BoolOp(op=operator) if type(operator) in OPERATORS:
            other.op = OPERATORS[type(operator)]()
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            other = operand
        case ast.IfExp(body=body, orelse=orelse):
            other.body, other.orelse = orelse, body
        case ast.Constant(value=bool(value)):
            other.value = not value
        case ast.Constant(value=int(value) | float(value)):
            other.value = value + 1
        case _:
            return None
    return other


def expressions(node: ast.AST, statement: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    """Go through what is computed, each with its statement: no annotations, nothing inside of texts or patterns."""
    for name, field in ast.iter_fields(node):
        for child in field if isinstance(field, list) else [field]:
            if name not in ("annotation", "returns") and isinstance(child, ast.AST) and not isinstance(
                    child, (ast.JoinedStr, ast.pattern)):
                inside = child if isinstance(child, ast.stmt) else statement
                yield child, inside
                yield from expressions(child, inside)


@dataclasses.dataclass(frozen=True)
class Mutant:
    room: str
    file: str  # from the root
    node: ast.AST
    other: ast.AST
    statement: ast.AST

    def __str__(self) -> str:
        return (f"{self.file}:{self.node.lineno}:{self.node.col_offset}  {ast.unparse(self.node)}  ->  "
                f"{ast.unparse(self.other)}")

    def lines(self) -> Iterator[range]:
        """The lines of the changed place, and of its statement; of a compound one those before its body."""
        yield range(self.node.lineno, self.node.end_lineno + 1)
        body = getattr(self.statement, "body", None)
        yield range(self.statement.lineno, body[0].lineno if body else self.statement.end_lineno + 1)

    def source(self) -> bytes:
        """The whole file, changed."""
        lines = (ROOT / self.file).read_bytes().splitlines(keepends=True)
        first = sum(map(len, lines[:self.node.lineno - 1])) + self.node.col_offset
        last = sum(map(len, lines[:self.node.end_lineno - 1])) + self.node.end_col_offset
        source = b"".join(lines)
        return source[:first] + f"({ast.unparse(self.other)})".encode() + source[last:]


def mutants(room: str, file: Path) -> list[Mutant]:
    """Return every place of a file, changed."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return [Mutant(room, str(file.relative_to(ROOT)), node, other, statement)
            for node, statement in expressions(tree, tree) if (other := changed(node))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=50, help="mutants to try")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--room", choices=sorted(rooms()), action="append", help="only there; may be repeated")
    parser.add_argument("--work", type=Path, help="folder for the copy, the trace and the results; kept, and continued")
    arguments = parser.parse_args()
    try:
        from scripts.mutate_tests import Reach, Tests
    except ImportError as error:
        sys.exit(f"error: this needs pytest and psutil: {error}.")
    work = arguments.work or Path(tempfile.mkdtemp())
    places = [mutant for room, files in rooms().items() if not arguments.room or room in arguments.room
              for file in files for mutant in mutants(room, file)]
    drawn = random.Random(arguments.seed).sample(places, min(arguments.count, len(places)))
    tests = Tests(ROOT, work)
    tests.trace()
    reach, record = Reach(work), work / "results.json"
    results = json.loads(record.read_text()) if record.exists() else {}  # mutant -> what noticed it in each round
    for number in (0, 1):
        for mutant in drawn:
            noticed = results.setdefault(str(mutant), [])
            if len(noticed) != number or any(noticed):
                continue
            names = reach.rounds(mutant.room, mutant.file, mutant.lines())[number]
            limit = 30 + 4 * sum(map(reach.tests.get, names))
            started, place = time.monotonic(), tests.tree / mutant.file
            place.write_bytes(mutant.source())  # newer than what is compiled of it
            try:
                said = names and tests.run(names, limit) or ""
            finally:
                shutil.copy2(ROOT / mutant.file, place)
            if said and said not in reach.tests and tests.run(names, limit):
                sys.exit(f"error: {said} without any mutant, too; {work / 'last.log'} says why.")
            noticed.append(said)
            record.write_text(json.dumps(results), encoding="utf-8")
            word = "killed  " if said else ("later   ", "SURVIVED")[number]
            print(f"{word} {mutant}  ({said or f'{len(names)} tests'}, {time.monotonic() - started:.0f} s)", flush=True)
    killers = {results[str(mutant)][-1] for mutant in drawn}
    doubtful = sorted(name for name in killers & set(reach.tests) if tests.run([name], 30 + 4 * reach.tests[name]))
    for room in sorted({mutant.room for mutant in drawn}):
        noticed = [results[str(mutant)][-1] for mutant in drawn if mutant.room == room]
        print(f"{room:12} tried {len(noticed):4}, killed {sum(map(bool, noticed)):4}")
    if doubtful:
        print(f"These fail without any mutant, too; try again what they killed: {', '.join(doubtful)}")
    if not arguments.work:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
