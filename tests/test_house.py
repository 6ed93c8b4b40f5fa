"""The structure of the repository: who may import whom, what loads without MindSpore, sizes, names, docstrings."""
import ast
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from entry import ROOT

MODELS = ("gmlp", "convmlp", "soft", "hlg", "mae")
TOP_LEVEL = {"README.md", "requirements.txt", "common", "scripts", "tests", *MODELS}
RUN_TIME = {"mindspore", "numpy", "yaml", "PIL", "cv2", "tqdm", "psutil"}
# What must answer at once.
WITHOUT_MINDSPORE = ("config.load", "config.options", "config.help", "rank_table.__main__", "launch.__main__", "lr",
                     "logger", "errors", "spec", "main", "dataset.sources", "pictures.schedule",
                     "engine", "predict", "tasks.predict")
# The floors of the house: a subject of common/ imports only subjects of lower floors.
FLOORS = ("errors", "files logger command", "context layers", "checkpoint spec train_step rank_table", "config",
          "lr loss augment network launch models", "dataset optimizer", "run metric export cloud", "engine",
          "predict pictures profile", "callback", "tasks", "main", "__init__")
MAX_LINES = 400
PATH_LINE = "if not __package__:\n    sys.path[0] = str(Path(__file__).resolve().parents[1])"


def sources(*folders: str) -> list[Path]:
    """Return the Python files below folders of the repository, without what runs and tests leave behind."""
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return [path for path in found if not {"outputs", "data"} & set(path.relative_to(ROOT).parts[1:-1])]


LIBRARY = [*sources("common"), *(path for model in MODELS for path in sources(f"{model}/src"))]
PROGRAMS = [path for folder in (*MODELS, "scripts") for path in sorted((ROOT / folder).glob("*.py"))]
ENTRY_POINTS = [path for path in PROGRAMS if path.parent.name != "scripts" or "__main__" in path.read_text("utf-8")]
TESTS = sources("tests")


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@dataclass(frozen=True)
class Import:
    """One imported name: ``a.b.c`` for ``from a.b import c``; at the top of a module, or inside of a function."""

    file: str
    line: int
    name: str
    relative: bool
    at_top: bool

    def __str__(self):
        return f"{self.file}:{self.line} {self.name}"

    def is_from(self, *packages: str) -> bool:
        return any(self.name == package or self.name.startswith(f"{package}.") for package in packages)


@cache
def imports(path: Path) -> list[Import]:
    """Return every import of a file."""
    module, found = tree(path), []
    inside = {id(node) for function in ast.walk(module)
              if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) for node in ast.walk(function)}
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            names, level = [alias.name for alias in node.names], 0
        elif isinstance(node, ast.ImportFrom):
            names, level = [f"{node.module or ''}.{alias.name}" for alias in node.names], node.level
        else:
            continue
        found += [Import(str(path.relative_to(ROOT)), node.lineno, name, level > 0, id(node) not in inside)
                  for name in names]
    return found


def offenders(paths, wrong) -> list[str]:
    """Return the imports for which ``wrong`` holds, as text."""
    return [str(one) for path in paths for one in imports(path) if wrong(one)]


def imported_modules(*names: str) -> set[str]:
    """Import modules in a fresh interpreter and return the names of the top packages that came with them."""
    code = (f"import sys, importlib; [*map(importlib.import_module, {names})]; "
            "print(*{name.split('.')[0] for name in sys.modules})")
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


def test_rules_see_the_sources():
    assert {"common/errors.py", "common/config/load.py"} <= {str(path.relative_to(ROOT)) for path in LIBRARY}
    assert {"train.py", "eval.py"} <= {path.name for path in PROGRAMS}
    assert any(one.name == "dataclasses.dataclass" and one.at_top for one in imports(Path(__file__)))


def test_common_imports_no_model():
    assert offenders(sources("common"), lambda one: one.is_from(*MODELS)) == []


@pytest.mark.parametrize("model", MODELS)
def test_model_imports_no_other_model(model):
    others = [name for name in MODELS if name != model]
    assert offenders(sources(model), lambda one: one.is_from(*others)) == []


def subject(name: str) -> str:
    """Return the subject of ``common.SUBJECT...`` or ``common/SUBJECT...``; empty for other names."""
    parts = re.split(r"[./]", name.removesuffix(".py"))
    return parts[1] if parts[0] == "common" and len(parts) > 1 else ""


def test_every_subject_of_common_has_a_floor_and_imports_only_lower_ones():
    floor = {name: number for number, names in enumerate(FLOORS) for name in names.split()}
    subjects = {subject(str(path.relative_to(ROOT))) for path in sources("common")}
    assert subjects == set(floor)

    def goes_up(one: Import) -> bool:
        mine, other = subject(one.file), subject(one.name)
        return bool(other) and mine != other and floor[other] >= floor[mine]

    assert offenders(sources("common"), goes_up) == []


def test_no_files_import_each_other_in_a_circle():
    """Imports inside of functions count too: they only hide a circle."""
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in [*LIBRARY, *PROGRAMS]}
    below = {name: {other for one in imports(path) for other in (one.name, one.name.rpartition(".")[0])
                    if other in modules and other != name} for name, path in modules.items()}
    while free := {name for name in below if not below[name]}:  # takes away what imports nothing that is left
        below = {name: others - free for name, others in below.items() if name not in free}
    assert sorted(below) == []


def test_models_leave_tasks_and_main_to_their_entry_points():
    paths = [path for model in MODELS for path in sources(f"{model}/src")]
    assert offenders(paths, lambda one: one.is_from("common.tasks", "common.main")) == []


def test_library_imports_no_entry_point_script_or_test():
    modules = {f"{path.parent.name}.{path.stem}" for path in PROGRAMS} | {path.stem for path in TESTS}
    assert offenders(LIBRARY, lambda one: one.is_from("scripts", "tests", *modules)) == []


def test_imports_are_absolute_and_name_what_they_take():
    files = [*LIBRARY, *PROGRAMS, *TESTS]
    assert offenders(files, lambda one: one.relative or one.name.endswith(".*")) == []


def test_run_time_modules_import_only_what_requirements_install():
    allowed = RUN_TIME | set(sys.stdlib_module_names) | {"common", "scripts", *MODELS}
    others = ("_torch.py", "mutate_tests.py")  # for a comparison with PyTorch; runs tests
    files = [path for path in [*LIBRARY, *PROGRAMS] if not path.name.endswith(others)]
    wrong = offenders(files, lambda one: one.at_top and one.name.split(".")[0] not in allowed)
    assert wrong == []


def test_optional_packages_are_named_in_requirements():
    known = RUN_TIME | set(sys.stdlib_module_names) | {"common", "scripts", *MODELS}
    named = set(re.findall(r"[\w-]+", (ROOT / "requirements.txt").read_text(encoding="utf-8")))
    assert offenders([*LIBRARY, *PROGRAMS], lambda one: one.name.split(".")[0] not in known | named) == []


def test_modules_that_promise_to_load_without_mindspore_keep_their_word():
    promise = re.compile(r"Imports\s+(no|without)\s+MindSpore")
    promised = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in LIBRARY
                if promise.search(ast.get_docstring(tree(path)) or "")]
    assert promised
    names = [*(f"common.{name}" for name in WITHOUT_MINDSPORE), *(f"{model}.src.spec" for model in MODELS), *promised]
    if "mindspore" in imported_modules(*names):
        assert not [name for name in names if "mindspore" in imported_modules(name)]


def test_no_private_name_of_mindspore_is_imported():
    def private(one: Import) -> bool:
        return one.is_from("mindspore") and any(re.match(r"_(?!_)", part) for part in one.name.split("."))

    assert offenders([*LIBRARY, *PROGRAMS, *TESTS], private) == []


def test_no_private_name_of_mindspore_is_reached_as_an_attribute():
    wrong = []
    for path in [*LIBRARY, *PROGRAMS, *TESTS]:
        module = tree(path)
        bound = {alias.asname or alias.name.split(".")[0] for node in ast.walk(module)
                 if isinstance(node, (ast.Import, ast.ImportFrom)) for alias in node.names
                 if f"{getattr(node, 'module', None) or alias.name}.".startswith("mindspore.")}
        for node in ast.walk(module):
            if isinstance(node, ast.Attribute) and re.match(r"_(?!_)", node.attr):
                root = node.value
                while isinstance(root, ast.Attribute):
                    root = root.value
                if isinstance(root, ast.Name) and root.id in bound:
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)}")
    assert wrong == []


def test_modules_fit_their_size():
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
               for path in [*LIBRARY, *PROGRAMS]}
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def test_top_level_holds_only_what_the_layout_names():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, timeout=300)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    names = {line.split("/")[0].strip('"') for line in listed.stdout.splitlines()}
    assert {name for name in names if not name.startswith(".")} <= TOP_LEVEL


@pytest.mark.parametrize("path", ENTRY_POINTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_entry_point_finds_the_repository_with_the_one_line(path):
    touching = [ast.unparse(node) for node in tree(path).body if "sys.path" in ast.unparse(node)]
    assert touching == [PATH_LINE]


def test_nothing_else_changes_the_search_path():
    wrong = [str(path.relative_to(ROOT)) for path in LIBRARY
             if re.search(r"\bsys\.path\b", path.read_text(encoding="utf-8"))]
    assert wrong == []


def test_public_names_of_the_library_say_what_they_are():
    wrong = []
    for path in LIBRARY:
        module = tree(path)
        if path.name != "__init__.py" and not ast.get_docstring(module):
            wrong.append(str(path.relative_to(ROOT)))
        wrong += [f"{path.relative_to(ROOT)}:{node.lineno} {node.name}" for node in module.body
                  if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
                  and not ast.get_docstring(node)]
    assert wrong == []


def test_tests_follow_the_rooms_and_have_names_of_their_own():
    rooms = {subject(str(path.relative_to(ROOT))) for path in sources("common")}
    rooms |= {*MODELS, "scripts", "ranks", "torture", "devices"}
    assert {path.parent.name for path in TESTS if path.parent != ROOT / "tests"} - rooms == set()
    names = [path.stem for path in TESTS]
    assert sorted(name for name in set(names) if names.count(name) > 1) == []
    others = {path.stem for path in [*LIBRARY, *PROGRAMS]} | set(sys.stdlib_module_names) | {"common", *MODELS}
    assert [name for name in names if name in others] == []
