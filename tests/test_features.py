"""The table of features names tests and commands that are there."""
import ast
import functools
import re
from pathlib import Path

from entry import ROOT

ROWS = re.findall(r"^\| (\d+) \| ([^|]+) \| (\w) \| ([^|]+) \|", (ROOT / "common/FEATURES.md").read_text("utf-8"),
                  re.MULTILINE)


@functools.cache
def names_in(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_every_feature_is_in_the_table_once():
    assert [int(number) for number, *_ in ROWS] == list(range(1, len(ROWS) + 1)) and len(ROWS) > 100


def test_every_feature_has_its_test_or_command_or_a_reason():
    for number, feature, here, said in ROWS:
        tests = re.findall(r"`tests/([\w/]+\.py)::(\w+)`", said)
        commands = re.findall(r"`(?:python|bash) ([^`]+)`", said)
        for file, name in tests:
            assert name in names_in(ROOT / "tests" / file), f"{number}: {file}::{name}"
        for command in commands:
            program, *words = command.split()
            place = ROOT / (words[0].replace(".", "/") if program == "-m" else program)
            assert any(file.is_file() for file in (place, place.with_suffix(".py"), place / "__main__.py")), command
        assert here in "ypn" and (tests or commands or here == "n"), feature
        reason = re.sub(r"`[^`]+`;? ?", "", said)
        assert here == "y" or len(reason.split()) > 2, feature
