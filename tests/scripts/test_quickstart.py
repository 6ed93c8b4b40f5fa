"""The command that a newcomer runs first, as a whole: data, training, evaluation, export, prediction."""
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from entry import ROOT


@pytest.fixture
def tree(tmp_path) -> Path:
    """Return a copy of what the quick start needs, without results of earlier runs, in a path with a space."""
    folder = tmp_path / "a b"
    for name in ("common", "gmlp", "scripts"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "outputs", "digits"))
    shutil.copy(ROOT / "requirements.txt", folder)
    return folder


def quickstart(tree: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run the script from another folder with the packages of this interpreter."""
    environment = {"PATH": os.environ["PATH"], "HOME": os.getcwd(), "ZOO_VENV": "none", "PYTHON": sys.executable}
    return subprocess.run(["sh", str(tree / "scripts/quickstart.sh"), *arguments], env=environment, text=True,
                          capture_output=True, timeout=1200)


def test_help_explains_and_does_nothing_else(tree):
    result = quickstart(tree, "--help")
    assert result.returncode == 0 and "Trains, evaluates, exports" in result.stdout and "==" not in result.stdout
    assert not (tree / "gmlp/data/digits/images").exists()


def test_failing_step_is_named_and_its_exit_code_kept(tree):
    result = quickstart(tree, "--epohcs", "3")
    assert result.returncode == 2 and "Did you mean 'epochs'?" in result.stderr
    assert 'error: the step "Train" failed with exit code 2; the command above repeats it.' in result.stderr
    assert "gmlp/train.py --config_path config/gmlp_digits.yaml" in result.stdout and "Evaluate" not in result.stdout
    assert len(list(tree.glob("gmlp/data/digits/images/val/*/*.png"))) == 360


@pytest.mark.long
def test_quick_start_reaches_its_accuracy_and_does_not_train_again(tree):
    result = quickstart(tree)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    assert float(re.search(r"top-1 accuracy +([\d.]+) %", result.stdout)[1]) >= 96
    files = re.findall(r"^(?:curves|checkpoint|MINDIR) +(\S+)$", result.stdout, re.MULTILINE)
    assert len(files) == 3 and all((tree / file).stat().st_size > 10_000 for file in files)
    predicted = re.findall(r"images/val/(\d)/\d+\.png +1 +(\d)", result.stdout)
    assert len(predicted) == 10 and sum(folder == found for folder, found in predicted) >= 9
    before = (tree / files[1]).stat().st_mtime_ns
    again = quickstart(tree)
    assert again.returncode == 0 and "is complete (20 of 20 epochs)" in again.stdout + again.stderr
    assert (tree / files[1]).stat().st_mtime_ns == before and "has been exported" in again.stdout
