"""Start entry points as a user does: real processes, real files."""
import functools
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
READ_EARLY = ("PYTHON", "LC_", "LANG", "LD_", "GLOG_", "MS_", "OMP_", "PATH")  # by the interpreter, by MindSpore's import

# A gMLP that trains on the digits in a second per epoch; every random ingredient is on.
TINY = {"model": "gmlp_Ti", "dataset": "digits", "num_classes": 10, "image_size": 16, "patch_size": 4, "embed_dim": 16,
        "depth": 2, "mlp_ratio": 2, "batch_size": 64, "epochs": 2, "lr": 0.004, "warmup_epochs": 0.5, "min_lr": 1e-5,
        "device_target": "CPU", "hflip": 0.0, "scale": [0.7, 1.0], "num_workers": 1, "seed": 3}


def environment(**more: str | None) -> dict[str, str]:
    """The process environment of a user who has not set anything up; ``None``: without that variable."""
    unset = ("PYTHONPATH", "ZOO_TEST_SET", os.environ.get("ZOO_TEST_SET"))  # what conftest.py sets
    inherited = {name: value for name, value in os.environ.items() if name not in unset}
    return {name: value for name, value in (inherited | more).items() if value is not None}


def run(*arguments: str, cwd: Path = ROOT, timeout: int = 600, **env: str | None
        ) -> subprocess.CompletedProcess:
    """Run ``python ARGUMENTS`` and return what it did.

    Programs and modules are started by the fork server, which saves the import of MindSpore; code after ``-c``, and
    what needs variables that are read before the program is, by a new interpreter.
    """
    command = [sys.executable, *map(str, arguments)]
    if arguments[0] == "-c" or any(name.startswith(READ_EARLY) for name in env):
        return subprocess.run(command, cwd=cwd, env=environment(**env), text=True, capture_output=True,
                              timeout=timeout, stdin=subprocess.DEVNULL)
    with tempfile.NamedTemporaryFile() as out, tempfile.NamedTemporaryFile() as err:
        code = _server().ask(arguments=command[1:], cwd=str(cwd), environment=environment(**env), timeout=timeout,
                             out=out.name, err=err.name)
        said = [Path(file.name).read_text() for file in (out, err)]
    if code is None:
        raise subprocess.TimeoutExpired(command, timeout, *said)
    return subprocess.CompletedProcess(command, code, *said)


class _Server:
    """The process of fork_server.py; it ends when its input does, with this process at the latest."""

    def __init__(self):
        self.process = subprocess.Popen([sys.executable, ROOT / "tests" / "fork_server.py"], env=environment(), cwd="/",
                                        text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert json.loads(self.process.stdout.readline()) == "ready"

    def ask(self, **request) -> int | None:
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@functools.cache
def _server() -> _Server:
    return _Server()


def write_yaml(path: Path, **changes) -> Path:
    """Write the tiny configuration with changes."""
    path.write_text("".join(f"{key}: {value}\n" for key, value in (TINY | changes).items()))
    return path


def check_help(model: str, *entries: str) -> None:
    """Every entry point of a model explains itself from the root; the first, also from its folder and as a module.

    That all find the repository by the same line is held by test_house.py.
    """
    ways = [(ROOT, f"{model}/{entry}.py") for entry in entries]
    for folder, *words in (*ways, (ROOT / model, f"{entries[0]}.py"), (ROOT, "-m", f"{model}.{entries[0]}")):
        result = run(*words, "--help", cwd=folder)
        assert result.returncode == 0 and "--ckpt_path" in result.stdout, (words, result.stderr)
        assert "mindspore" not in result.stderr.lower(), words


def sentence(result: subprocess.CompletedProcess) -> str:
    """Return the one sentence of a user's mistake, after checking that nothing else was printed for it."""
    assert result.returncode == 2, (result.returncode, result.stdout[-2000:], result.stderr[-2000:])
    assert "Traceback" not in result.stderr and "Traceback" not in result.stdout
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stderr
    return lines[0]


def check_old_zoo_lines(result: subprocess.CompletedProcess, epochs: int) -> None:
    """Hold a training to the log lines of the old model zoo, each of them and in their order."""
    time, number = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d:INFO:", r"\d+\.\d"
    epoch = (rf"epoch time: {number}{{2}}s, per step time: {number}{{4}}s, loss={number}{{6}}, lr={number}{{6}}, "
             rf"fps={number}{{2}}, accuracy={number}{{6}}, eval_cost={number}{{2}}")
    expected = [line for e in range(epochs) for line in (rf"epoch\[{e}\], step_num\[{e}\], loss={number}{{6}}",
                                                         rf"epoch\[{e}\], {epoch}")]
    expected += [rf"training time used={number}{{2}}s", r"last_metric\[[01]?\.?\d+\]",
                 rf"ip\[.+\], mean_fps\[{number}{{2}}\]"]
    own = r"epoch\[|training time|last_metric|mean_fps"
    lines = [line for line in result.stdout.splitlines() if re.search(own, line)]
    assert len(lines) == len(expected), result.stdout
    for line, pattern in zip(lines, expected):
        assert re.fullmatch(time + pattern, line), (line, pattern)
