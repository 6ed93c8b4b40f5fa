"""Every README keeps its word: commands, options, paths, links and tables are checked, and a chain of them is run.

A block marked ``bash`` holds commands, which run in the folder of their README unless a ``cd`` leads elsewhere. What
begins with ``/path/`` stands for something of the reader's. README files of new models are found by themselves. Blocks
after a comment ``file NAME`` or ``of the files above`` belong to the walk-through that test_sixth_model.py follows.
"""
import ast
import importlib
import re
import shlex
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Iterator

import pytest
import yaml
from entry import ROOT, environment, run
from PIL import Image
from rank_tables import table as rank_table, write as write_rank_table

from common.config.load import load_config
from common.config.options import FIELDS, Config, names_of
from common.dataset.digits import write_digits
from common.errors import UserError
from gmlp.src.spec import SPEC as GMLP
from scripts.readme_tables import TABLE, fill, readme_files, schema_of, table

READMES = readme_files()
TRANSLATIONS = [file for file in READMES if file.stem == "README_CN"]
TOP_LEVEL = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")}
PRODUCED = ("outputs", "data", "ckpt")  # folders of a model that commands make
RESULTS = re.compile(r"(train|eval)(_parallel)?(_[a-z]+)?\d*")  # folders that launch scripts make
SPECS = [importlib.import_module(f"{file.parents[1].name}.src.spec").SPEC for file in ROOT.glob("*/src/spec.py")]
NAMES = {name: key for spec in SPECS for name, key in names_of(spec.options or Config).items()}
PLACES = (ROOT, *(file.parents[1] for file in ROOT.glob("*/src/spec.py")))  # where commands are said to work
OTHER_PROGRAMS = {"source", "pip", "git", "export"}  # not ours: only that they are meant is known
PLACEHOLDER = "/path/"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
WALK_THROUGH = re.compile(r"^<!-- (?:file \S+|of the files above) -->\n```.*?^```", re.MULTILINE | re.DOTALL)
CHAPTERS = ("Description", "Architecture", "Data set", "Features", "Requirements", "Quick start",
            "Scripts and parameters", "Training", "Evaluation", "Export and prediction", "Performance", "Randomness")

# README files that are run command by command, and the model that their commands are about.
FOLLOWED = {"README.md": "gmlp", "gmlp/README.md": "gmlp"}
# What makes a model's networks small enough to be trained in seconds.
SMALL = {"gmlp": {"image_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "mlp_ratio": 2}}
BRIEF = {"epochs": 1, "warmup_epochs": 0, "decay_epochs": "none", "num_workers": 1, "num_classes": 10,
         "device_target": "CPU", "mode": "pynative"}


@dataclass(frozen=True)
class Command:
    """One command of a README: the folder in which it runs, relative to the repository, and its words."""

    readme: Path
    folder: Path
    words: tuple[str, ...]

    def __str__(self):
        return f"{self.readme.relative_to(ROOT)}: {' '.join(self.words)}"

    @property
    def launcher(self) -> tuple[str, ...]:
        """The words of msrun before the script, or none."""
        return self.words[:self.program] if self.words[0] == "msrun" else ()

    @property
    def program(self) -> int:
        """Where the script, or ``-m``, stands among the words."""
        if self.words[0] == "msrun":
            return next(i for i, word in enumerate(self.words) if word.endswith(".py"))
        return 1

    @property
    def script(self) -> Path:
        """The file that is run, relative to the repository."""
        words = self.words[self.program:]
        if words[0] == "-m":
            module = Path(words[1].replace(".", "/"))
            return module / "__main__.py" if (ROOT / module).is_dir() else module.with_suffix(".py")
        return Path(self.folder, words[0])

    @property
    def arguments(self) -> tuple[str, ...]:
        """The words after the script or module."""
        return self.words[self.program + (2 if self.words[self.program] == "-m" else 1):]

    @property
    def is_python(self) -> bool:
        return self.words[0] in ("python", "python3", "msrun")


def blocks(file: Path, language: str) -> list[str]:
    text = WALK_THROUGH.sub("", file.read_text(encoding="utf-8"))
    return [body for name, body in BLOCK.findall(text) if name == language]


def prose(file: Path) -> str:
    """The text of a README outside of blocks and of generated tables."""
    return TABLE.sub("", BLOCK.sub("", file.read_text(encoding="utf-8")))


def spans(file: Path) -> list[str]:
    """The inline code of a README."""
    return re.findall(r"`([^`\n]+)`", prose(file))


def commands(file: Path) -> list[Command]:
    found = []
    for body in blocks(file, "bash"):
        folder = file.parent.relative_to(ROOT)
        for line in body.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            while words and re.match(r"[A-Z_]+=", words[0]):
                words.pop(0)  # a variable of the environment
            if words and words[0] == "cd":
                folder = Path(ROOT, folder, words[1]).resolve().relative_to(ROOT)
            elif words:
                found.append(Command(file, folder, tuple(words)))
    return found


COMMANDS = [command for file in READMES for command in commands(file)]
PYTHON = [command for command in COMMANDS if command.is_python]
LAUNCHED = [command for command in COMMANDS if command.words[0] in ("bash", "sh")
            and "--dry_run" in (ROOT / "scripts/_lib.sh").read_text(encoding="utf-8")
            and "launch " in (ROOT / command.script).read_text(encoding="utf-8")
            and command.readme not in TRANSLATIONS]  # which have the same ones


def flags(words) -> dict[str, str | None]:
    """Return name -> value, or None for a switch, of ``--name value``, ``--name=value`` and ``--name``."""
    found = {}
    for word, following in zip(words, [*words[1:], "--"]):
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            found[name] = value if equals else None if following.startswith("--") else following
    return found


@cache
def task_of(script: Path) -> str | None:
    """The task that an entry point hands to ``common.main.main``; None for programs of another kind."""
    for node in ast.walk(ast.parse((ROOT / script).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "main" and node.args:
            if isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str):
                return node.args[0].value
    return None


@cache
def options_of(*program: str) -> frozenset[str]:
    """The options that ``program --help`` lists."""
    if program[0] == sys.executable:
        result = run(*program[1:], "--help")
    else:
        result = subprocess.run([*program, "--help"], cwd=ROOT, env=environment(), text=True, capture_output=True,
                                timeout=600)
    assert result.returncode == 0, result.stderr
    return frozenset(re.findall(r"--([\w-]+)", result.stdout))


def msrun() -> str:
    return str(Path(sys.executable).parent / "msrun")


def known_options(command: Command) -> frozenset[str]:
    """The options of the script of a command, if it gives any."""
    if task_of(command.script):
        return frozenset({*NAMES, "config", "config_path", "help", "print_config", "dry_run", "finetune"})
    module = command.words[command.program] == "-m"
    program = ("-m", command.words[command.program + 1]) if module else (str(command.script),)
    program += command.arguments[:1] if module and not command.arguments[0].startswith("-") else ()  # its sub-command
    return options_of(sys.executable, *program) if flags(command.arguments) else frozenset()


# commands

def test_commands_are_found_in_every_readme():
    assert {ROOT / "README.md", ROOT / "gmlp/README.md", ROOT / "gmlp/README_CN.md"} <= set(READMES)
    assert {command.readme for command in COMMANDS} >= {file for file in READMES if file.parent.name not in ("data", "common")}
    assert {task_of(command.script) for command in PYTHON} >= {"train", "eval", "export", "infer", None}


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_the_program_of_a_command_is_there(command):
    if command.words[0] in OTHER_PROGRAMS:
        return
    assert command.is_python or command.words[0] in ("bash", "sh"), "not a command that is known; is the block text?"
    assert (ROOT / command.script).is_file()


@pytest.mark.parametrize("command", PYTHON, ids=str)
def test_the_options_of_a_command_exist(command):
    assert set(flags(command.arguments)) <= known_options(command)
    assert set(flags(command.launcher)) <= (options_of(msrun()) if command.launcher else set())


@pytest.mark.parametrize("command", [c for c in PYTHON if task_of(c.script)], ids=str)
def test_the_values_of_a_command_are_accepted(command, tmp_path):
    """Read the configuration as the entry point does, with files of the right kinds in the place of the reader's."""
    (tmp_path / "folder").mkdir()
    arguments = []
    for word in command.arguments:
        option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        if value.startswith(PLACEHOLDER):
            value = str(tmp_path / (f"file{Path(value).suffix}" if Path(value).suffix else "folder"))
            Path(value).touch()
        arguments.append(option + equals + value)
    for name in ("data_dir", "eval_dir"):  # those of the configuration file
        if name not in {NAMES.get(flag) for flag in flags(arguments)}:
            arguments += [f"--{name}", str(tmp_path / "folder")]
    model = command.script.parts[0]
    spec = importlib.import_module(f"{model}.src.spec").SPEC
    config = load_config(arguments, task=task_of(command.script), spec=spec, model_dir=ROOT / model,
                                trained_with=lambda path: None)
    assert {NAMES[flag] for flag in flags(arguments) if flag in NAMES} <= set(config.given)


@pytest.mark.parametrize("command", LAUNCHED, ids=str)
def test_a_launch_script_would_start_what_the_command_says(command, tmp_path):
    arguments = [word.replace(PLACEHOLDER, f"{tmp_path}/") for word in command.words[2:]]
    for word in arguments:
        path = Path(word)
        if path.name == "rank_table.json":
            write_rank_table(rank_table(8), path)
        elif path.is_relative_to(tmp_path):
            path.touch() if path.suffix else path.mkdir()
    if not {"data_dir", "dataset_path"} & set(flags(arguments)):
        arguments += ["--data_dir", str(tmp_path)]  # that of the configuration file is the reader's
    result = subprocess.run(["bash", command.words[1], *arguments, "--dry_run"], cwd=ROOT / command.folder, text=True,
                            env=environment(PYTHON=sys.executable, SERVER_ID="0"), capture_output=True, timeout=600)
    assert result.returncode == 0, result.stdout + result.stderr
    task = next(word for word in ("pretrain", "finetune", "train", "eval") if word in command.script.name)
    assert f"/{task}.py" in result.stdout
    assert all(name in NAMES for name in flags(arguments))


@pytest.mark.parametrize("file", READMES, ids=lambda file: str(file.relative_to(ROOT)))
def test_the_programs_of_commands_in_the_text_are_there(file):
    for span in spans(file):
        if span.startswith(("python ", "python3 ", "bash ")):
            command = Command(file, Path(), tuple(shlex.split(span)))
            assert any(folder.joinpath(command.script).is_file() for folder in (file.parent, *PLACES)), span


# words, links, tables

@pytest.mark.parametrize("folder", [file.parents[1].name for file in ROOT.glob("*/src/spec.py")])
def test_a_model_is_described_in_all_chapters(folder):
    chapters = re.findall(r"^## (.+)$", (ROOT / folder / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert [chapter for chapter in chapters if chapter in CHAPTERS] == list(CHAPTERS)
    assert (ROOT / folder / "README_CN.md").is_file()


@pytest.mark.parametrize("file", READMES, ids=lambda file: str(file.relative_to(ROOT)))
def test_options_in_the_text_exist(file):
    """Those of a command that is shown are its program's; any other stands for a program of the zoo, or for msrun."""
    known = {*NAMES, "config", "config_path", "help", "print_config", "dry_run", "finetune"}
    loose: set[str] = set()
    for span in spans(file):
        words = shlex.split(span) if "'" in span else span.split()
        if words and words[0] in ("python", "python3"):
            folder = next(folder for folder in (file.parent, *PLACES) if folder.joinpath(
                Command(file, Path(), tuple(words)).script).is_file())
            command = Command(file, folder.relative_to(ROOT), tuple(words))
            assert set(flags(command.arguments)) <= known | known_options(command), span
        elif not span.startswith(("pip ", "apt", "tensorboard ")):
            loose |= set(flags(words))
    if loose - known:
        known |= options_of(msrun()) | options_of(sys.executable, "gmlp/pth2ckpt.py")
        known |= options_of("bash", "scripts/run_tests.sh")
        known |= frozenset().union(*(options_of(sys.executable, "-m", "common.rank_table", name)
                                     for name in ("make", "check", "plan")))
    assert loose <= known


@pytest.mark.parametrize("file", READMES, ids=lambda file: str(file.relative_to(ROOT)))
def test_keys_in_the_text_exist(file):
    """A word with an underscore, alone or before a colon, is an option or stands somewhere in the code."""
    keys = {found[1] for span in spans(file) if (found := re.match(r"(\w+_\w+)(?::.*|\.\d.*)?$", span))}
    known = words_of_the_code()
    assert not [key for key in keys - set(NAMES) if key not in known and key.rstrip("0123456789") not in known
                and not RESULTS.fullmatch(key)]


@cache
def words_of_the_code() -> set[str]:
    files = [path for folder in TOP_LEVEL - {"tests"} for ending in ("py", "y*ml")
             for path in (ROOT / folder).rglob(f"*.{ending}")]
    return {word for path in files for word in re.findall(r"\w+", path.read_text(encoding="utf-8"))} | {
        name for folder in PLACES[1:] for name in importlib.import_module(f"{folder.name}.src.spec").SPEC.variants}


@pytest.mark.parametrize("file", READMES, ids=lambda file: str(file.relative_to(ROOT)))
def test_files_in_the_text_exist(file):
    named = [word for span in spans(file) for word in span.split() if re.fullmatch(r"[\w.-]+(/[\w.-]+)+/?", word)]
    for word in named:
        first, second, *_ = word.split("/")
        if first in TOP_LEVEL and second not in PRODUCED and not RESULTS.fullmatch(second) and "NAME" not in word:
            assert (ROOT / word).exists(), word
        elif first in ("config", "src"):
            assert (file.parent / word).exists(), word
    for body in blocks(file, "text"):
        for name in re.findall(r"[\w-][\w.-]*\.(?:py|ya?ml|sh|md)\b", body):
            assert name in file_names(), name


@cache
def file_names() -> set[str]:
    """The names of all files of the repository."""
    return {path.name for folder in TOP_LEVEL for path in (ROOT / folder).rglob("*")} | {"README.md"}


@pytest.mark.parametrize("file", READMES, ids=lambda file: str(file.relative_to(ROOT)))
def test_links_lead_somewhere(file):
    for target in re.findall(r"\]\(([^)\s]+)\)|\bsrc=\"([^\"]+)\"", prose(file)):
        target = "".join(target)
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        place = file.parent / name if name else file
        assert place.exists(), target
        assert not anchor or anchor in set(anchors(place)), target


def anchors(file: Path) -> Iterator[str]:
    """The anchors that headings get: small letters, no punctuation, hyphens for spaces."""
    for heading in re.findall(r"^#+ (.+)$", prose(file), re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("file", READMES, ids=lambda file: str(file.relative_to(ROOT)))
def test_tables_of_options_are_those_of_the_schema(file):
    text = file.read_text(encoding="utf-8")
    assert fill(text, schema_of(file)) == text, "run python scripts/readme_tables.py"


def test_a_table_that_is_out_of_date_is_noticed():
    text = (ROOT / "gmlp/README.md").read_text(encoding="utf-8")
    changed = text.replace("| `hflip` | 0.5 |", "| `hflip` | 0.6 |")
    assert changed != text and fill(changed, GMLP.options) == text


def test_a_table_has_the_rows_that_are_asked_for():
    assert re.findall(r"^\| `(\w+)`", table("optim", ["opt", "momentum"]), re.MULTILINE) == ["opt", "momentum"]
    everything = re.findall(r"^\| `(\w+)`", table("loss"), re.MULTILINE)
    assert everything == [name for name, field in FIELDS.items() if field.metadata["section"] == "loss"]
    for section, keys in (("losses", []), ("loss", ["lr"])):
        with pytest.raises(UserError):
            table(section, keys)


def shown_yaml(file: Path) -> list[tuple[Path, str]]:
    """Configurations that a README shows: the file that the comment before a block names, and the block."""
    found = re.findall(r"<!-- yaml (\S+) -->\n```yaml\n(.*?)```", file.read_text(encoding="utf-8"), re.DOTALL)
    return [(file.parent / name, body) for name, body in found]


@pytest.mark.parametrize("file", READMES, ids=lambda file: str(file.relative_to(ROOT)))
def test_configurations_that_are_shown_are_those_of_the_files(file):
    assert len(shown_yaml(file)) == len(blocks(file, "yaml")), "name the file: <!-- yaml config/NAME.yaml -->"
    for shipped, body in shown_yaml(file):
        assert yaml.safe_load(body) == yaml.safe_load(shipped.read_text(encoding="utf-8"))


def test_the_original_recipe_is_shown():
    assert all(len(shown_yaml(ROOT / "gmlp" / name)) == 1 for name in ("README.md", "README_CN.md"))


@pytest.mark.parametrize("file", TRANSLATIONS, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_translation_has_the_same_commands_and_results(file):
    original = file.with_name("README.md")
    assert [c.words for c in commands(file)] == [c.words for c in commands(original)]
    for pattern in (r"\d+(?:\.\d+)?(?= ?%)", r"\d[\d,.]*\d", r"!\[[^]]*\]\((\S+)\)", r"\]\((config/\S+)\)"):
        found, expected = (set(re.findall(pattern, prose(one))) for one in (file, original))
        assert found == expected
    chapters, expected = (re.findall(r"^(##+) ", prose(one), re.MULTILINE) for one in (file, original))
    assert chapters == expected


def test_every_model_with_a_readme_is_in_the_table():
    described = {file.parent.name for file in ROOT.glob("*/README.md") if (file.parent / "src/spec.py").is_file()}
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    row = re.compile(r"^\| [^|]+ \| \[(\w+)\]\(\1/README\.md\) \|.*\]\(\1/\S+\.ya?ml\) \|$", re.MULTILINE)
    assert set(row.findall(text)) == described


# a chain of commands, run

class Reader:
    """Follows a README command by command, in a copy of the repository, with the digits for data and small networks."""

    def __init__(self, folder: Path, model: str):
        self.root, self.places, self.model = folder / "repository", folder / "path", model
        for name in ("common", model):
            ignored = shutil.ignore_patterns("__pycache__", *(PRODUCED if name == model else ()))
            shutil.copytree(ROOT / name, self.root / name, ignore=ignored)
        self.places.mkdir()
        self.batches, self.images = write_digits(folder / "digits")
        self.weights: Path | None = None

    def follow(self, command: Command) -> subprocess.CompletedProcess:
        """Run a command; what it reads is made first where it is missing."""
        task = task_of(command.script)
        words = [word.replace(PLACEHOLDER, f"{self.places}/") for word in command.arguments]
        given = flags(words)
        for name, value in given.items():
            if value and value.startswith(str(self.places)):
                self.provide(NAMES.get(name, name), Path(value), "cifar" in str(given.get("dataset")))
        if task:
            changes = SMALL[self.model] | BRIEF | ({"distribute": command.launcher != ()} if task == "train" else {})
            changes |= {"keep_checkpoint_max": 2, "batch_size": 16} if task == "train" else {}
            words = [f"--{name}" if value is None else f"--{name}={value}" for name, value in given.items()
                     if NAMES.get(name) not in changes]
            words += [f"--{name}={value}" for name, value in changes.items()]
        program = list(command.words[command.program:len(command.words) - len(command.arguments)])
        cwd = self.root / command.folder
        if command.launcher:
            return self.launch([*program, *words], cwd)
        result = run(*program, *words, cwd=cwd, timeout=600)
        if task == "train" and result.returncode == 0:
            run_folder = flags(words).get("ckpt_save_dir") or self.root / self.model / "outputs"
            self.weights = self.weights or next(Path(run_folder).rglob("*_best.ckpt"))
        return result

    def run_python(self, code: str) -> subprocess.CompletedProcess:
        """Run a block of Python at the root, with images in the place of the reader's."""
        for name in re.findall(r'"([^"\s]+\.(?:jpe?g|png))"', code):
            self.provide("image", self.root / name, False)
        return run("-c", code.replace(PLACEHOLDER, f"{self.places}/"), cwd=self.root, timeout=600)

    def launch(self, words: list[str], cwd: Path) -> subprocess.CompletedProcess:
        """Run a script as two processes, under another port than the usual one."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        start = [msrun(), "--worker_num=2", "--local_worker_num=2", "--join=True", f"--master_port={port}",
                 "--cluster_time_out=120", f"--log_dir={self.places}/launcher"]
        path = f"{Path(sys.executable).parent}:{environment()['PATH']}"  # msrun starts "python"
        return subprocess.run([*start, *words], cwd=cwd, env=environment(PATH=path), text=True, capture_output=True,
                              timeout=500)

    def some_weights(self) -> Path:
        """Return the weights of the first training; where nothing has been trained yet, train for an epoch."""
        if self.weights is None:
            settings = SMALL[self.model] | BRIEF | {"dataset": "digits", "ckpt_save_dir": self.places / "before"}
            result = run(f"{self.model}/train.py", "--config_path", f"config/{self.model}_digits.yaml",
                         *(f"--{name}={value}" for name, value in settings.items()), cwd=self.root, timeout=600)
            assert result.returncode == 0, result.stderr
            self.weights = next((self.places / "before").glob("*_best.ckpt"))
        return self.weights

    def provide(self, key: str, path: Path, cifar: bool) -> None:
        """Make what a command reads, if it is not there."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() or key not in ("data_dir", "ckpt_path", "image"):
            return
        if key == "data_dir":
            path.symlink_to(self.batches.parent if cifar else self.images)
        elif key == "image" and path.suffix:
            Image.open(next(self.images.glob("val/*/*.png"))).save(path)
        elif key == "image":
            path.symlink_to(self.images / "val" / "3")
        elif path.suffix == ".ckpt":
            shutil.copy(self.some_weights(), path)
        else:
            result = run(f"{self.model}/pth2ckpt.py", "--ckpt_path", self.some_weights(), "--out", path)
            assert result.returncode == 0, result.stderr


@pytest.mark.long
@pytest.mark.parametrize("file", FOLLOWED)
def test_the_commands_of_a_readme_work_one_after_the_other(file, tmp_path):
    if any("onnxruntime" in code for code in blocks(ROOT / file, "python")):
        pytest.importorskip("onnxruntime")
    reader = Reader(tmp_path, FOLLOWED[file])
    for image in reader.images.glob("*/*/*.png"):
        if image.stem[-1] not in "05":
            image.unlink()  # a fifth of the digits is enough for commands
    chain = [command for command in commands(ROOT / file) if command.is_python and not command.launcher]
    assert {"train", "eval", "export", "infer"} <= {task_of(command.script) for command in chain}
    for command in chain:
        result = reader.follow(command)
        assert result.returncode == 0, f"{command}\n{result.stdout[-2000:]}\n{result.stderr[-2000:]}"
        if task_of(command.script) == "eval":
            assert re.search(r"\d\.\d", result.stdout), command
    for code in blocks(ROOT / file, "python"):
        result = reader.run_python(code)
        assert result.returncode == 0 and result.stdout, f"{code}\n{result.stdout[-2000:]}\n{result.stderr[-2000:]}"


def test_every_block_of_python_is_run():
    assert {str(file.relative_to(ROOT)) for file in READMES if blocks(file, "python")} <= {
        *FOLLOWED, "scripts/README.md"}  # the latter's in export/test_lite.py


@pytest.mark.long
@pytest.mark.distributed
def test_the_launcher_of_a_readme_works(tmp_path):
    reader = Reader(tmp_path, "gmlp")
    command = next(command for command in commands(ROOT / "gmlp/README.md") if command.launcher)
    result = reader.follow(command)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    folder = Path(flags(command.arguments)["ckpt_save_dir"].replace(PLACEHOLDER, f"{reader.places}/"))
    assert list(folder.glob("*_best.ckpt"))
    assert "44 steps of 32 images" in (folder / "log_rank_1.txt").read_text(encoding="utf-8")
