"""Bad inputs of every program, generated from the schema by a seed, and the rule: code 0, or one sentence and code 2.

A program runs in this process up to where its configuration is checked, which takes milliseconds.
"""
import contextlib
import io
import random
import string
import time
import traceback
from pathlib import Path
from typing import Callable, NamedTuple, Sequence

import yaml

import common.dataset.__main__
import common.dataset.digits
import common.dataset.shards
import common.launch.__main__
import common.main
import common.pictures.__main__
import common.rank_table.__main__
import common.run.__main__
from common.command import run
from common.config.options import Config, names_of
from common.spec import all_specs

NUMBERS = ["nan", "inf", "-inf", "1e308", "-1e308", "1e309", "1e-300", "5e-324", "0", "-0.0", "-1", "-0.0001", "1.5",
           "99999999999", "9" * 400, "9" * 5000, "0x10", "1_000", "\u0661", "\u00bd", "1e", "1,2", "[1,2", "[]", "()",
           "true", "none"]
TEXTS = ["", " ", "x" * 300, "a/" * 3000, "\u202e\u00e9", "a\nb", "a\tb\r", "\x1b[31m", "../../..", "~nobody/x",
         "$NOT_SET/x", "${", "/dev/null", "/dev/full", "/proc/self/mem", "/", ".", "s3://", "obs://a b", "\udcff", "%s%n",
         "{}", "'", "#", "--", "=", "randaug-m9-m9", "rand-mstd-", "Infinity", "no_such_thing", "0,1,", "*", "?["]
NODES = ["[]", "{}", "[[1]]", "{a: 1}", "~", "true", "2020-01-01", "0o17", "!!binary aGk=", "!!set {a}", "[1, x]",
         ".nan", "-.inf", "!!python/object:os.system x", "*a", "&a [*a]", "'\\0'", '"\\0"', "|\n  a\n  b", "1e400", "0b1",
         "12:30:45"]
FILES = ["", "a", "- 1", "a: b: c", "{", "\t", "lr: 1\nlr: 2", "base: .", "base: 5", "base: run.yaml", "base: [a]", "<<: 1",
         "? [a]\n: 1", "--- \n...\n%", "\ufeffepochs: 1", "\x00", "1: 2", "context: 5", "context: {context: {lr: x}}",
         "model_config: [1]", "lr: 1\nbase_lr: 1", "a: " + "[" * 500, "&a a: *a", "null: 1", "true: 1", "!!str a: 1"]
OTHERS: dict[str, tuple[Callable, Sequence[str]]] = {  # program -> what it does, words that it knows
    "common.dataset": (common.dataset.__main__.main, ["check", "--workers", "."]),
    "common.dataset.digits": (common.dataset.digits.main, ["write", "--help"]),
    "common.dataset.shards": (common.dataset.shards.main, ["--shard_mb", ".", "out"]),
    "common.pictures": (common.pictures.__main__.main, ["curves", "schedule", "--config_path", "--out", "run.yaml",
                                                        "--epochs", "--steps_per_epoch", "--lr", "--scheduler", "3"]),
    "common.rank_table": (common.rank_table.__main__.main, [
        "check", "make", "merge", "plan", "--devices", "--device_ips", "--server_ip", "--hccn_conf", "--out", "--cards",
        "--cards_per_server", "--link", "--latency", "--batch_size", "--epoch", "--wait", "0-7", "1.1.1.1", "run.yaml",
        "0"]),
    "common.run": (common.run.__main__.main, ["compare", ".", "run.yaml", "weights.ckpt"]),
    "common.launch": (common.launch.__main__.main, [
        "standalone", "distribute", "cpu", "gpu", "ascend", "train", "eval", "gmlp", "python", ".", "run.yaml",
        "--config_path", "--epochs", "3"]),
}
LONGEST = 20.0  # seconds of one input, with the imports of the first one


class Case(NamedTuple):
    """One start of a program: its name, command line, and the text of ``run.yaml``, which may be named there."""

    program: str
    words: list[str]
    file: str


def cases(count: int, seed: int) -> list[Case]:
    """Return inputs, most of which are wrong in one place; the same ones for a seed."""
    rng = random.Random(seed)
    tasks = [(spec, task) for spec in all_specs() for task in dict.fromkeys([*spec.tasks, "eval", "export", "infer",
                                                                           "visualize"])]
    made = []
    for number in range(count):
        if number % 5 == 4:
            name = rng.choice(sorted(OTHERS))
            words = [rng.choice(NUMBERS + TEXTS) if rng.random() < 0.4 else rng.choice(OTHERS[name][1])
                     for _ in range(rng.randrange(1, 9))]
            if name == "common.launch":  # with a job that the scripts would ask for, and a wrong word in it
                words = ["standalone", "cpu", "train", "gmlp", "python", ".", "run.yaml", *words[:2], "--dry_run"]
            made.append(Case(name, words, rng.choice(FILES)))
            continue
        spec, task = rng.choice(tasks)
        file = "dataset: digits\nckpt_path: weights.ckpt\nimage: weights.ckpt\n"
        made.append(Case(f"{spec.name} {task}", *_mistake(rng, names_of(spec.options or Config), file)))
    return made


def _mistake(rng: random.Random, known: dict[str, str], file: str) -> tuple[list[str], str]:
    """Return a command line and the text of a file, with something wrong in one of them."""
    name = rng.choice(sorted(known))
    kind = rng.random()
    if kind < 0.12:
        return ["--config_path", "run.yaml"], rng.choice(FILES)
    if kind < 0.2:
        return ["--config_path", rng.choice(TEXTS)], file
    if kind < 0.3:  # another name: misspelt, shortened, none
        place = rng.randrange(len(name))
        name = rng.choice([name[:place] + name[place + 1:], name[:place] + rng.choice(string.printable) + name[place:],
                           name[:3], name.upper(), "-" + name, ""])
    value = rng.choice(NUMBERS + TEXTS)
    if kind < 0.6:
        text = rng.choice(NODES) if rng.random() < 0.5 else yaml.safe_dump(value).replace("\n...\n", "")
        return ["--config_path", "run.yaml"], f"{file}{name}: {text}\n"
    words = rng.choice([[f"--{name}", value], [f"--{name}={value}"], [f"--{name}"], [name, value],
                        [f"--{name}", value, f"--{name}", "1"]])
    return ["--config_path", "run.yaml", *words], file


def attempt(case: Case, folder: Path) -> str:
    """Start a program in this process; returns ``accepted``, ``refused``, or what is wrong with how it ended.

    The task itself is left out: ``common.main.run`` must do nothing, and the launcher start nothing.
    """
    (folder / "run.yaml").write_bytes(case.file.encode("utf-8", "surrogateescape"))
    out, errors, began = io.StringIO(), io.StringIO(), time.monotonic()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            if case.program in OTHERS:
                code = run(OTHERS[case.program][0], case.words)
            else:
                model, task = case.program.split()
                common.main.main(task, {spec.name: spec for spec in all_specs()}[model], case.words)
                code = 0
    except SystemExit as error:
        code = error.code or 0
    except BaseException:
        return f"traceback: {traceback.format_exc()[-600:]}"
    if time.monotonic() - began > LONGEST:
        return f"took {time.monotonic() - began:.0f} s"
    said = errors.getvalue()
    if code == 2 and said.count("error: ") >= 1 and "\n" not in said[said.index("error: "):].rstrip("\n"):
        return "refused"
    return "accepted" if code == 0 else f"code {code}: {said[-300:]}"
