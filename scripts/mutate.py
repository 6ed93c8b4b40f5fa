"""Try whether the tests notice mistakes: change one operator or number at a time and run the tests of its room.

``python scripts/mutate.py --count 50`` changes 50 places, drawn by ``--seed`` over ``common`` and the models, in a copy
of the repository; ``--room lr`` (a file or folder of common) or ``--room hlg`` stays in one room. A mutant that survived
is something to look at: a test is missing, or the change means the same. Not a part of the tests.
"""
import argparse
import ast
import copy
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Iterator

if not __package__: sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository root, when run as a script

from common.files import ROOT

MODELS = ("gmlp", "convmlp", "soft", "hlg", "mae")
KEPT_OUT = shutil.ignore_patterns(".git", ".venv", "__pycache__", "outputs")
OPERATORS = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
             ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.Add: ast.Sub,
             ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div, ast.Mod: ast.Mult,
             ast.Pow: ast.Mult, ast.And: ast.Or, ast.Or: ast.And}


def rooms() -> dict[str, tuple[list[Path], list[Path]]]:
    """Return room -> its source files, and the files and folders of its tests."""
    found = {}
    for place in sorted((ROOT / "common").iterdir()):
        files = sorted(place.rglob("*.py")) if place.is_dir() else [place] if place.suffix == ".py" else []
        tests = [test for test in (ROOT / "tests" / f"test_{place.stem}.py", ROOT / "tests" / place.stem)
                 if test.exists()]
        if files and tests:
            found[place.stem] = files, tests
    return found | {model: (sorted((ROOT / model / "src").glob("*.py")), [ROOT / "tests" / model]) for model in MODELS}


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


def expressions(node: ast.AST) -> Iterator[ast.AST]:
    """Go through what is computed: no annotations, and nothing inside of texts."""
    for name, field in ast.iter_fields(node):
        if name in ("annotation", "returns") or isinstance(field, ast.JoinedStr):
            continue
        for child in field if isinstance(field, list) else [field]:
            if isinstance(child, ast.AST) and not isinstance(child, ast.JoinedStr):
                yield child
                yield from expressions(child)


def mutants(file: Path) -> list[tuple[int, str, str, str]]:
    """Return line, expression, what it becomes, and the whole changed source, for every place of a file."""
    source = file.read_text(encoding="utf-8")
    starts = [0]
    for line in source.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []
    for node in expressions(ast.parse(source)):
        other = changed(node)
        if other is None:
            continue
        first = starts[node.lineno - 1] + node.col_offset
        last = starts[node.end_lineno - 1] + node.end_col_offset
        text = ast.unparse(other)
        whole = source.encode()[:first] + f"({text})".encode() + source.encode()[last:]
        try:
            ast.parse(whole)
        except SyntaxError:  # a number in a pattern of match takes no brackets
            continue
        found.append((node.lineno, ast.unparse(node), text, whole.decode()))
    return found


def survives(tree: Path, tests: list[Path], limit: float) -> bool:
    """Run the tests of a room in the copy; whoever takes longer than the limit hangs, and so is noticed."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-c", tree / "tests" / "pytest.ini", "--rootdir",
               tree / "tests", *(tree / test.relative_to(ROOT) for test in tests)]
    try:
        return subprocess.run(command, cwd=tree, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                              timeout=limit).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=50, help="mutants to try")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--room", choices=sorted(rooms()), action="append", help="only there; may be repeated")
    arguments = parser.parse_args()
    wanted = {name: room for name, room in rooms().items() if not arguments.room or name in arguments.room}
    places = [(name, file, *mutant)
              for name, (files, _) in wanted.items() for file in files for mutant in mutants(file)]
    drawn = random.Random(arguments.seed).sample(places, min(arguments.count, len(places)))
    killed, limits = 0, {}
    with tempfile.TemporaryDirectory() as folder:
        tree = shutil.copytree(ROOT, Path(folder) / "zoo", ignore=KEPT_OUT)
        for number, (name, file, line, before, after, source) in enumerate(drawn, start=1):
            tests = wanted[name][1]
            if name not in limits:  # the unchanged room: it must pass, and says how long a mutant may take
                started = time.monotonic()
                if not survives(tree, tests, 3600):
                    sys.exit(f"error: the tests of the room {name} fail without any mutant.")
                limits[name] = 60 + 5 * (time.monotonic() - started)
            place = tree / file.relative_to(ROOT)
            place.write_text(source, encoding="utf-8")
            alive = survives(tree, tests, limits[name])
            shutil.copy(file, place)
            killed += not alive
            print(f"{'SURVIVED' if alive else 'killed  '} {file.relative_to(ROOT)}:{line}  {before}  ->  {after}   "
                  f"({killed} of {number} killed)", flush=True)


if __name__ == "__main__":
    main()
