"""The walk-through "Add a model" of common/README.md: exactly its files are written, and its commands run."""
import re
import shlex
import shutil
from pathlib import Path

import pytest

from entry import ROOT, run
from scripts.readme_tables import readme_files

TEXT = (ROOT / "common/README.md").read_text(encoding="utf-8").partition("\n## Add a model\n")[2].partition("\n## ")[0]
FILES = dict(re.findall(r"^<!-- file (\S+) -->\n```\w+\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL))
COMMANDS = [shlex.split(line) for body in
            re.findall(r"^<!-- of the files above -->\n```bash\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
            for line in body.splitlines()]
LIMIT = 120  # lines that a model may need


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """What a model needs of the repository, and the files of the walk-through."""
    root = tmp_path_factory.mktemp("repository")
    shutil.copytree(ROOT / "common", root / "common", ignore=shutil.ignore_patterns("__pycache__"))
    for name, content in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    for words in COMMANDS:
        if words[0] == "cp":
            shutil.copy(root / words[1], root / words[2])
    return root


def test_the_walk_through_is_where_it_should_be():
    assert set(FILES) == {"mixer/src/mixer.py", "mixer/src/spec.py", "mixer/train.py", "mixer/config/mixer_digits.yaml"}
    assert {words[0] for words in COMMANDS} == {"cp", "python"}
    assert not any("<!-- file" in file.read_text(encoding="utf-8") for file in readme_files() if file.parent != ROOT / "common")


def test_a_model_needs_few_lines(repository):
    lines = [line for file in sorted((repository / "mixer").rglob("*.*")) for line in file.read_text().splitlines()]
    assert 0 < len(lines) < LIMIT
    assert all(len(line) <= 120 for line in lines)


@pytest.mark.long
def test_the_commands_of_the_walk_through_work(repository):
    """Two epochs instead of all; the accuracy is far above that of a guess."""
    tasks = []
    for words in COMMANDS:
        if words[0] == "cp":
            continue
        task = "" if words[1] == "-m" else Path(words[1]).stem
        extra = {"": [], "train": ["--epochs", "2", "--num_workers", "1"]}.get(task, ["--device_target", "CPU"])
        result = run(*words[1:], *extra, cwd=repository)
        assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
        tasks.append(task)
        if task == "eval":
            assert float(re.search(r"accuracy=(\d\.\d+)", result.stdout)[1]) > 0.6
        if task == "infer":
            assert len(re.findall(r"\.png", result.stdout)) > 10
    assert tasks == ["", "train", "eval", "export", "infer"]
    assert (repository / "outputs/mixer/mixer_nano.mindir").is_file()
