"""The scripts that make the environment and run the tests: real shells, real virtual environments, pip without network.

The packages are stand-ins: wheels of one empty module each, so that an installation takes a second.
"""
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from entry import ROOT

MODULES = {"pyyaml": "yaml", "pillow": "PIL", "opencv-python-headless": "cv2"}


def pins(requirements: Path) -> dict[str, str]:
    """Return package -> version of a requirements file."""
    return dict(re.findall(r"^([\w.-]+)==([\w.]+)", requirements.read_text(encoding="utf-8"), re.MULTILINE))


def write_wheel(folder: Path, name: str, version: str, code: str = "") -> None:
    """Write a wheel that installs one module with ``code`` in it."""
    module, stem = MODULES.get(name, name), f"{name.replace('-', '_')}-{version}"
    texts = {f"{module}.py": code,
             f"{stem}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
             f"{stem}.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"}
    record = f"{stem}.dist-info/RECORD"
    texts[record] = "".join(f"{path},,\n" for path in [*texts, record])
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
        for path, text in texts.items():
            wheel.writestr(path, text)


def copy_scripts(folder: Path) -> Path:
    """Copy what the scripts need into ``folder``, with one test that passes and one that fails."""
    for name in ("scripts/_env.sh", "scripts/run_tests.sh", ".ci/run", "requirements.txt", "tests/pytest.ini"):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)
    (folder / "tests" / "test_two.py").write_text(
        "import time\n\ndef test_good():\n    assert True\n\ndef test_bad():\n    assert False\n\n"
        "def test_long():\n    time.sleep(60)\n")
    return folder


def environment(**values: str) -> dict[str, str]:
    """Return a small environment in which pip can reach nothing and reads no configuration."""
    return {"PATH": os.environ["PATH"], "HOME": os.getcwd(), "PYTHON": sys.executable, "PIP_NO_INDEX": "1",
            "PIP_CONFIG_FILE": os.devnull, **values}


def prepare(tree: Path, **values: str) -> subprocess.CompletedProcess:
    """Run prepare_environment of a copied tree and print the interpreter that it found."""
    script = '. "$1/scripts/_env.sh"; prepare_environment; echo "PY=$PY"'
    return subprocess.run(["bash", "-c", script, "bash", str(tree)], env=environment(**values), text=True,
                          capture_output=True, timeout=600)


def find(*folders: Path, **values: str) -> subprocess.CompletedProcess:
    """Run find_python with ``folders`` alone on PATH, beside the tools that the shell needs."""
    tools = folders[0].parent / "tools"
    tools.mkdir(exist_ok=True)
    for name in ("dirname", "cat", "sh"):
        if not (tools / name).exists():
            (tools / name).symlink_to(shutil.which(name))
    script = '. "$1/scripts/_env.sh"; find_python; echo "FOUND=$FOUND"'
    return subprocess.run([shutil.which("bash"), "-c", script, "bash", str(ROOT)], text=True, capture_output=True,
                          env={"PATH": ":".join(map(str, [*folders, tools])), **values}, timeout=300)


def stand_in(folder: Path, name: str, version: str, *, venv: bool = True) -> Path:
    """Write an executable that answers as an interpreter of ``version``, with or without the venv modules."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\ncase \"$*\" in\n*version_info*) echo {version} ;;\n"
                    f"*ensurepip*) exit {0 if venv else 1} ;;\n*) exit 9 ;;\nesac\n")
    path.chmod(0o755)
    return path


def broken_launcher(folder: Path, name: str) -> None:
    """Write what a version manager leaves on PATH for an interpreter that is not switched on."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\necho '{name}: command not found' >&2\nexit 127\n")
    (folder / name).chmod(0o755)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory) -> Path:
    """Return a folder of stand-in wheels for every pinned package."""
    folder = tmp_path_factory.mktemp("wheels")
    for name, version in pins(ROOT / "requirements.txt").items():
        write_wheel(folder, name, version)
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory, wheels) -> tuple[Path, subprocess.CompletedProcess]:
    """Build an environment once, in a path with a space; return the tree and what the build printed."""
    pytest.importorskip("ensurepip")
    tree = copy_scripts(tmp_path_factory.mktemp("built") / "a b")
    return tree, prepare(tree, PIP_FIND_LINKS=str(wheels))


@pytest.fixture
def tree(built, tmp_path) -> Path:
    """Return a copy of the built tree that a test may spoil."""
    return shutil.copytree(built[0], tmp_path / "c d", symlinks=True)


def test_every_requirement_is_pinned_to_one_version():
    lines = [line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines if line)
    assert set(pins(ROOT / "requirements.txt")) == {"mindspore", "numpy", "pyyaml", "pillow",
                                                    "opencv-python-headless", "tqdm", "psutil",
                                                    "matplotlib", "onnx", "onnxruntime", "decorator", "sympy"}


def test_newest_supported_python_is_found(tmp_path):
    stand_in(tmp_path / "bin", "python3.10", "3.10")
    newest = stand_in(tmp_path / "bin", "python3.12", "3.12")
    assert find(tmp_path / "bin").stdout == f"FOUND={newest}\n"


def test_launcher_without_interpreter_is_passed_over(tmp_path):
    broken_launcher(tmp_path / "bin", "python3.12")
    plain = stand_in(tmp_path / "bin", "python3", "3.11")
    result = find(tmp_path / "bin")
    assert result.stdout == f"FOUND={plain}\n" and result.stderr == ""


def test_second_python_of_the_same_name_on_path_is_found(tmp_path):
    broken_launcher(tmp_path / "bin", "python3.11")
    behind = stand_in(tmp_path / "usr bin", "python3.11", "3.11")
    result = find(tmp_path / "bin", tmp_path / "usr bin")
    assert result.stdout == f"FOUND={behind}\n"


def test_python_that_can_make_environments_is_preferred(tmp_path):
    stand_in(tmp_path / "bin", "python3.12", "3.12", venv=False)
    complete = stand_in(tmp_path / "bin", "python3.10", "3.10")
    assert find(tmp_path / "bin").stdout == f"FOUND={complete}\n"


def test_python_without_venv_module_names_the_package_to_install(tmp_path):
    stand_in(tmp_path / "bin", "python3", "3.11", venv=False)
    result = find(tmp_path / "bin")
    assert result.returncode == 2 and "apt-get install python3.11-venv" in result.stderr


def test_no_suitable_python_names_what_is_there(tmp_path):
    stand_in(tmp_path / "bin", "python3", "3.13")
    stand_in(tmp_path / "bin", "python", "2.7")
    result = find(tmp_path / "bin")
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "no Python 3.10, 3.11 or 3.12 on PATH (only 3.13 2.7)" in result.stderr


@pytest.mark.parametrize("version, sentence", [("3.9", "is Python 3.9; MindSpore 2.10 needs 3.10, 3.11 or 3.12"),
                                               ("3.13", "is Python 3.13; MindSpore 2.10 needs 3.10, 3.11 or 3.12")])
def test_named_python_of_another_version_is_refused(tmp_path, version, sentence):
    stand_in(tmp_path / "bin", "python3.12", "3.12")
    named = stand_in(tmp_path, "mine", version)
    result = find(tmp_path / "bin", PYTHON=str(named))
    assert result.returncode == 2 and sentence in result.stderr


def test_named_python_that_does_not_exist_is_refused(tmp_path):
    stand_in(tmp_path / "bin", "python3.12", "3.12")
    result = find(tmp_path / "bin", PYTHON="python9")
    assert result.returncode == 2 and "PYTHON=python9 is not a program" in result.stderr


def test_environment_is_built_in_a_path_with_spaces(built):
    tree, result = built
    assert result.returncode == 0, result.stderr
    assert f"PY={tree}/.venv/bin/python" in result.stdout and "Making a virtual environment" in result.stdout
    listed = subprocess.run([tree / ".venv/bin/python", "-m", "pip", "freeze"], capture_output=True, text=True).stdout
    wanted = {f"{name}=={version}".lower() for name, version in pins(ROOT / "requirements.txt").items()}
    assert {line.lower() for line in listed.split()} == wanted


def test_second_run_says_nothing_and_needs_no_packages(built):
    result = prepare(built[0])
    assert (result.returncode, result.stdout) == (0, f"PY={built[0]}/.venv/bin/python\n"), result.stderr


def test_changed_requirements_are_installed(tree, tmp_path, wheels):
    links = shutil.copytree(wheels, tmp_path / "links")
    write_wheel(links, "tqdm", "99.1")
    text = (tree / "requirements.txt").read_text()
    (tree / "requirements.txt").write_text(re.sub(r"tqdm==[\d.]+", "tqdm==99.1", text))
    result = prepare(tree, PIP_FIND_LINKS=str(links))
    assert result.returncode == 0 and "Making" not in result.stdout, result.stderr
    assert list((tree / ".venv").rglob("tqdm-99.1.dist-info"))


def test_lost_package_is_installed_again(tree, wheels):
    module, = (tree / ".venv").glob("lib/python*/site-packages/yaml.py")
    subprocess.run([tree / ".venv/bin/python", "-m", "pip", "uninstall", "-qy", "pyyaml"], check=True)
    assert not module.exists()
    result = prepare(tree, PIP_FIND_LINKS=str(wheels))
    assert result.returncode == 0 and module.exists(), result.stderr


@pytest.mark.long
def test_killed_installation_is_made_anew(tmp_path, wheels):
    pytest.importorskip("ensurepip")
    tree = copy_scripts(tmp_path / "tree")
    script = '. "$1/scripts/_env.sh"; prepare_environment'
    process = subprocess.Popen(["bash", "-c", script, "bash", str(tree)], stdout=subprocess.PIPE, text=True,
                               env=environment(PIP_FIND_LINKS=str(wheels)), start_new_session=True)
    for line in process.stdout:
        if line.startswith("Installing requirements"):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    (tree / ".venv" / "left over").touch()
    result = prepare(tree, PIP_FIND_LINKS=str(wheels))
    assert result.returncode == 0 and "incomplete or broken: making it anew" in result.stdout, result.stderr
    assert not (tree / ".venv" / "left over").exists() and prepare(tree).returncode == 0


@pytest.mark.long
def test_environment_whose_python_is_gone_is_made_anew(tree, wheels):
    for link in (tree / ".venv/bin").glob("python*"):
        link.unlink()
        link.symlink_to("/nowhere/python")
    result = prepare(tree, PIP_FIND_LINKS=str(wheels))
    assert result.returncode == 0 and "making it anew" in result.stdout, result.stderr


def test_failed_installation_shows_the_reason_and_keeps_what_was_there(tree):
    text = (tree / "requirements.txt").read_text()
    (tree / "requirements.txt").write_text(text.replace("tqdm==", "tqdm==99."))
    result = prepare(tree)
    assert result.returncode == 2 and "No matching distribution found for tqdm==99." in result.stderr
    assert "error: pip could not install requirements.txt" in result.stderr
    (tree / "requirements.txt").write_text(text)
    assert prepare(tree).stdout == f"PY={tree}/.venv/bin/python\n"


@pytest.mark.long
def test_package_that_does_not_load_is_reported_and_not_taken_as_installed(tree, tmp_path):
    write_wheel(tmp_path, "opencv-python-headless", "99.1", "raise ImportError('libsomething.so.1 is missing')")
    text = (tree / "requirements.txt").read_text()
    (tree / "requirements.txt").write_text(re.sub(r"headless==[\d.]+", "headless==99.1", text))
    result = prepare(tree, PIP_FIND_LINKS=str(tmp_path))
    assert result.returncode == 2 and "libsomething.so.1 is missing" in result.stderr
    assert "do not load on this machine" in result.stderr
    assert prepare(tree, PIP_FIND_LINKS=str(tmp_path)).returncode == 2


def test_folder_that_is_no_environment_is_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    result = prepare(ROOT, ZOO_VENV=str(tmp_path / "mine"))
    assert result.returncode == 2 and "name another place with ZOO_VENV" in result.stderr
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_environment_of_another_python_than_the_named_one_is_reported(tree, tmp_path):
    other = "3.12" if sys.version_info[:2] != (3, 12) else "3.11"
    result = prepare(tree, PYTHON=str(stand_in(tmp_path / "bin", "python", other)))
    assert result.returncode == 2 and "was made with another Python than PYTHON=" in result.stderr


@pytest.mark.long
@pytest.mark.skipif(not shutil.which("flock"), reason="no flock on this machine")
def test_second_script_waits_for_the_first(tmp_path, wheels):
    pytest.importorskip("ensurepip")
    tree = copy_scripts(tmp_path / "tree")
    script = '. "$1/scripts/_env.sh"; prepare_environment; echo "PY=$PY"'
    first = subprocess.Popen(["bash", "-c", script, "bash", str(tree)], stdout=subprocess.PIPE, text=True,
                             env=environment(PIP_FIND_LINKS=str(wheels)))
    assert first.stdout.readline().startswith("Making")
    second = prepare(tree)  # it has no packages of its own
    assert first.wait() == 0 and second.returncode == 0
    assert second.stdout.startswith("Another script is preparing") and "Making" not in second.stdout
    first.stdout.close()


def test_own_environment_that_lacks_packages_is_named(tree, tmp_path):
    python = str(tree / ".venv/bin/python")
    subprocess.run([python, "-m", "pip", "uninstall", "-qy", "pyyaml", "tqdm"], check=True)
    result = prepare(tree, ZOO_VENV="none", PYTHON=python)
    assert result.returncode == 2 and "pyyaml is missing; tqdm is missing" in result.stderr


def test_own_environment_with_other_versions_is_taken_with_a_warning(tree, tmp_path):
    text = (tree / "requirements.txt").read_text()
    (tree / "requirements.txt").write_text(text.replace("tqdm==", "tqdm==99."))
    result = prepare(tree, ZOO_VENV="none", PYTHON=str(tree / ".venv/bin/python"))
    assert result.returncode == 0 and re.search(r"warning: .* tqdm is [\d.]+, not 99\.", result.stderr)


def run_tests(tree: Path, *arguments: str, shell: str = "sh", **values: str) -> subprocess.CompletedProcess:
    """Run the copied run_tests.sh with the packages of this interpreter, in one process whether or not it has xdist."""
    return subprocess.run([shell, str(tree / "scripts/run_tests.sh"), *arguments], text=True, capture_output=True,
                          env=environment(**{"ZOO_VENV": "none", "ZOO_TEST_WORKERS": "1", **values}), timeout=600)


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_arguments_of_pytest_pass_through(tmp_path, shell):
    result = run_tests(copy_scripts(tmp_path / "a b"), "-k", "good or nothing", "-v", shell=shell)
    assert result.returncode == 0 and "test_two.py::test_good PASSED" in result.stdout, result.stderr
    assert "1 passed, 2 deselected" in result.stdout


def test_named_file_is_the_only_one_that_runs(tmp_path):
    tree = copy_scripts(tmp_path / "tree")
    (tree / "tests" / "test_other.py").write_text("def test_other():\n    assert True\n")
    result = run_tests(tree, str(tree / "tests" / "test_other.py"))
    assert result.returncode == 0 and "1 passed" in result.stdout and "failed" not in result.stdout


@pytest.mark.parametrize("word", ["--help", "-h"])
def test_help_explains_and_does_nothing_else(tmp_path, word):
    tree = copy_scripts(tmp_path / "tree")
    result = run_tests(tree, "-q", word, ZOO_VENV=str(tmp_path / "none"))
    assert (result.returncode, result.stderr) == (0, "") and not (tmp_path / "none").exists()
    for name in ("--all", "--long", "--torture", "--devices", "ZOO_TEST_LIMIT"):
        assert name in result.stdout


def test_parts_run_on_request_and_what_did_not_run_is_said(tmp_path):
    tree = copy_scripts(tmp_path / "tree")
    shutil.copy(ROOT / "tests" / "conftest.py", tree / "tests")
    (tree / "tests" / "test_two.py").write_text(
        "import pytest\n\ndef test_plain():\n    pass\n\n@pytest.mark.long\ndef test_full():\n    pass\n\n"
        "@pytest.mark.torture\ndef test_kill():\n    pass\n\ndef test_skipped():\n    pytest.skip('no such thing')\n")
    plain, long, everything = (run_tests(tree, *words).stdout for words in ((), ("--long",), ("--all",)))
    assert "1 passed, 1 skipped" in plain and "no such thing" in plain and "The ordinary tests: about" in plain
    assert "not run: 1 tests (networks of full size" in plain and "--torture or --all runs them" in plain
    assert "1 passed" in long and "not run: 2 tests (the ordinary tests)" in long
    assert "3 passed, 1 skipped" in everything and "not run" not in everything


def test_continuous_integration_runs_the_ordinary_tests_and_then_the_long_ones(tmp_path):
    """Its exit code is that of the first run that fails; the second does not begin where the first has failed."""
    tree = copy_scripts(tmp_path / "tree")
    shutil.copy(ROOT / "tests" / "conftest.py", tree / "tests")
    for ordinary, said in (("True", ("1 passed", "1 failed")), ("False", ("1 failed",))):
        (tree / "tests" / "test_two.py").write_text(
            f"import pytest\n\ndef test_plain():\n    assert {ordinary}\n\n"
            "@pytest.mark.long\ndef test_full():\n    assert False\n")
        result = subprocess.run([tree / ".ci" / "run"], text=True, capture_output=True, timeout=600,
                                env=environment(ZOO_VENV="none", ZOO_TEST_WORKERS="1"))
        assert result.returncode == 1 and tuple(re.findall(r"\d (?:passed|failed)", result.stdout)) == said, result


def test_temporary_files_of_the_tests_are_removed(tmp_path):
    tree = copy_scripts(tmp_path / "tree")
    (tree / "tests" / "test_two.py").write_text("def test_writes(tmp_path):\n    (tmp_path / 'x').write_text('x')\n")
    (tmp_path / "scratch").mkdir()
    assert run_tests(tree, TMPDIR=str(tmp_path / "scratch")).returncode == 0
    assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.skipif(not shutil.which("timeout"), reason="no timeout on this machine")
def test_run_beyond_the_limit_is_ended_and_says_so(tmp_path):
    result = run_tests(copy_scripts(tmp_path / "tree"), "-k", "long", ZOO_TEST_LIMIT="3")
    assert result.returncode == 124 and "the tests did not end within 3 s" in result.stderr
