"""A copy of the launch scripts with a stand-in for the Python of the ranks.

The stand-in records its environment and arguments, and behaves as a test wants it to: STAY (seconds), FAIL (a rank).
"""
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable

from entry import ROOT
from rank_tables import table, write

MODELS = ("gmlp", "convmlp", "soft", "hlg", "mae")
ASCEND, GPU, CPU = ("run_distribute_train_ascend.sh", "run_distribute_train_gpu.sh", "run_distribute_train_cpu.sh")

# Commands of the launcher itself run in the real Python; a scheduler that has nothing to do leaves at once.
PYTHON = """#!/bin/sh
name=${{RANK_ID:-alone}}
case "$*" in
    "-m common.context.scheduler") name=scheduler ;;
    *".py "*--dry_run) [ -z "$BAD" ] || echo "error: $BAD" >&2; [ -z "$BAD" ]; exit ;;
    -m* | -c* | -I*) exec '{real}' "$@" ;;
esac
new='{records}/new.'$$
{{ echo "cwd $PWD"; echo "pid $$"; for word in "$@"; do echo "word $word"; done; env | sed 's/^/env /'; }} >"$new"
mv "$new" '{records}/'"$name"
[ "$name" != scheduler ] || exit 0
echo "rank $name is at work"
case "$DEAF" in ?*) trap '' TERM ;; esac
if [ "$name" = "$FAIL" ]; then
    while [ "$(ls '{records}' | wc -l)" -lt "$AWAIT" ]; do sleep 0.05; done
    echo "it broke on rank $name"
    exit 7
fi
for i in $(seq "${{STAY:-0}}"); do sleep 1; done
"""


class Tree:
    """A copy of the repository's scripts, in a path with a space, and the stand-ins on a PATH of its own."""

    def __init__(self, folder: Path):
        self.root = folder / "the zoo"
        self.records = folder / "records"
        self.bin = folder / "bin"
        for name in ("scripts", "common", *MODELS):
            (self.root / name).mkdir(parents=True)
        self.records.mkdir()
        self.bin.mkdir()
        for file in [*(ROOT / "scripts").glob("*.sh"), *(ROOT / "common").rglob("*.py")]:
            target = self.root / file.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
        for model in MODELS:
            (self.root / model / "config").mkdir()
            (self.root / model / "scripts").symlink_to("../scripts")
            for task in ("train", "eval") + (("pretrain", "finetune") if model == "mae" else ()):
                (self.root / model / f"{task}.py").touch()
            for name in (f"{model}_a.yaml", "both.yml" if model in ("soft", "mae") else f"{model}_b.yml"):
                (self.root / model / "config" / name).touch()
        self.program("python", PYTHON)
        self.table = write(table(2), folder / "a table.json")

    def program(self, name: str, text: str) -> None:
        """Put a program on PATH."""
        file = self.bin / name
        file.write_text(text.format(real=sys.executable, records=self.records))
        file.chmod(0o755)

    def environment(self, **more: str) -> dict[str, str]:
        return {"PATH": f"{self.bin}:/usr/bin:/bin", "HOME": str(self.records.parent), "LC_ALL": "C.UTF-8"} | more

    def start(self, script: str, *words, cwd: Path | None = None, shell: str = "bash", **env) -> subprocess.Popen:
        """Start a script, by the path that a user in ``cwd`` would give."""
        cwd = cwd or self.root / "scripts"
        path = os.path.relpath(self.root / "scripts" / script, cwd)
        return subprocess.Popen([shell, path, *map(str, words)], cwd=cwd, env=self.environment(**env), text=True,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def run(self, script: str, *words, **options) -> subprocess.CompletedProcess:
        """Run a script to its end."""
        process = self.start(script, *words, **options)
        try:
            out, err = process.communicate(timeout=300)
        finally:
            process.kill()
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def record(self, name: str) -> tuple[list[str], dict[str, str]]:
        """Return the arguments and the environment of a process; ``cwd`` and ``pid`` are among the latter."""
        lines = (self.records / name).read_text().splitlines()
        words = [line[5:] for line in lines if line.startswith("word ")]
        found = dict(line[4:].split("=", 1) for line in lines if line.startswith("env ") and "=" in line)
        return words, found | dict(line.split(" ", 1) for line in lines if line.startswith(("cwd ", "pid ")))

    def wait_for(self, *names: str) -> list[int]:
        """Wait until these processes have recorded themselves; return their numbers."""
        wait_until(lambda: all((self.records / name).exists() for name in names))
        return [int(self.record(name)[1]["pid"]) for name in names]

    def result(self, name: str, file: str) -> str:
        return (self.root / "scripts" / name / file).read_text()


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has taken leave of counts as ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
    except OSError:
        return True
