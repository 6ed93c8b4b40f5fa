"""Kills and full disks at every moment of a run: started again, it ends with the files of one that nothing befell.

The ordinary run takes a few moments, chosen by a seed; ``bash scripts/run_tests.sh --torture`` takes all of them, and
real processes of several models besides. Each test prints how many were tried, how many survived and how many were lost.
"""
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Mapping

import psutil
import pytest
from entry import ROOT, TINY, environment, run, write_yaml
from moments import WRITES, copies, disk_full_at
from rank_jobs import process_of
from runs import differences, files, tell

from common.config.load import from_mapping
from common.errors import UserError
from common.spec import ModelSpec
from common.tasks.train import train
from convmlp.src.spec import SPEC as CONVMLP
from gmlp.src.spec import SPEC as GMLP
from mae.src.spec import SPEC as MAE

SEED = 20
# The last epoch's network is not the best, one epoch has no checkpoint of its own, and the oldest checkpoint goes.
SMALL = TINY | {"model": "gmlp_ti", "image_size": 8, "embed_dim": 8, "depth": 1, "batch_size": 256,
                "accumulation_steps": 2, "epochs": 4,
                "warmup_epochs": 0, "lr": 0.03, "ema": True, "ema_decay": 0.5, "save_checkpoint_epochs": 2,
                "keep_checkpoint_max": 1, "keep_best_max": 2, "save_checkpoint_steps": 1}
MODELS = {
    "gmlp": ("gmlp/train.py", TINY | {"depth": 1, "epochs": 4, "mixup": 0.8, "ema": True, "accumulation_steps": 2,
                                      "save_checkpoint_steps": 2}),
    "convmlp": ("convmlp/train.py", {"model": "convmlp_s", "dataset": "digits", "num_classes": 10, "image_size": 32,
                                     "channels": 8, "n_conv_blocks": 1, "dims": [8, 16], "depths": [1, 1],
                                     "mlp_ratio": 2, "batch_size": 64, "epochs": 3, "lr": 0.01, "warmup_epochs": 0,
                                     "device_target": "CPU", "num_workers": 1, "save_checkpoint_steps": 3}),
    "mae": ("mae/pretrain.py", {"model": "mae_vit_base_patch16", "dataset": "digits", "image_size": 32, "patch_size": 8,
                                "embed_dim": 16, "depth": 1, "num_heads": 2, "decoder_embed_dim": 16, "decoder_depth": 1,
                                "decoder_num_heads": 2, "batch_size": 64, "epochs": 3, "lr": 0.001, "warmup_epochs": 0,
                                "device_target": "CPU", "num_workers": 1, "save_checkpoint_steps": 3}),
}


def train_in(folder: Path, spec: ModelSpec = GMLP, keys: Mapping[str, Any] = SMALL) -> None:
    config = from_mapping({**keys, "ckpt_save_dir": str(folder)}, "test", spec)
    train(config, spec.for_task(config.task))


@pytest.fixture(scope="module", autouse=True)
def graphs_are_kept(tmp_path_factory):
    """Compile what these many trainings share once: that was half of their time."""
    SMALL["compile_cache"] = str(tmp_path_factory.mktemp("graphs"))
    yield
    SMALL["compile_cache"] = ""


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The folder of a run that nothing befell, copies of it before its file operations, and those that write."""
    folder = tmp_path_factory.mktemp("unbroken")
    into = tmp_path_factory.mktemp("moments")
    found, operations = copies(folder / "run", into, lambda: train_in(folder / "run"))
    return folder / "run", found, [number for number, what in enumerate(operations) if what.startswith(WRITES)]


def resume_from(moments: list[tuple[Path, str]], expected: Path, **model) -> list[tuple[str, list[str]]]:
    results = []
    for folder, what in moments:
        train_in(folder, **model)
        results.append((f"{folder.name} {what}", differences(folder, expected)))
        shutil.rmtree(folder)
    return results


def test_a_run_is_watched_at_every_file_that_it_writes(unbroken):
    folder, moments, _ = unbroken
    whats = " ".join(what for _, what in moments)
    for name in files(folder):
        stem, ending = name.rsplit(".", 1)
        assert f".{stem}.{os.getpid()}.unfinished.{ending} {name}" in whats, name  # its renaming
    assert "os.remove" in whats and len(moments) > 40


def test_a_run_that_was_killed_at_some_moments_ends_like_one_that_was_not(unbroken, counts):
    folder, moments, _ = unbroken
    last = [moment for moment in moments if (moment[0] / "history.jsonl").is_file()
            and len((moment[0] / "history.jsonl").read_text().splitlines()) == 3]  # most of them need no more training
    chosen = random.Random(SEED).sample(last, 3)
    copied = [(Path(shutil.copytree(path, path.with_name(f"{path.name}_again"))), what) for path, what in chosen]
    tell(counts, "kills at some moments", resume_from(copied, folder))


@pytest.mark.torture
def test_a_run_that_was_killed_at_any_moment_ends_like_one_that_was_not(unbroken, counts):
    folder, moments, _ = unbroken
    tell(counts, "kills at every file operation", resume_from(moments, folder))


@pytest.mark.torture
@pytest.mark.parametrize("spec", [CONVMLP, MAE], ids=lambda spec: spec.name)
def test_a_run_of_another_model_that_was_killed_at_some_moments_ends_like_one_that_was_not(spec, tmp_path, counts):
    program, keys = MODELS[spec.name]
    model = {"spec": spec, "keys": keys | {"task": Path(program).stem, "batch_size": 256, "save_checkpoint_steps": 2}}
    found, _ = copies(tmp_path / "run", tmp_path / "moments", lambda: train_in(tmp_path / "run", **model))
    chosen = random.Random(SEED).sample(found, 12)
    tell(counts, f"{spec.name}: kills at 12 of {len(found)} file operations",
         resume_from(chosen, tmp_path / "run", **model))


def disk_full(tmp_path: Path, numbers, expected: Path) -> list[tuple[str, list[str]]]:
    """Run on a disk that is full from a moment on, and again after space was made."""
    results = []
    for number in numbers:
        folder, said, reached = tmp_path / f"full_{number}", [], False
        try:
            reached = disk_full_at(folder, number, lambda: train_in(folder))
        except UserError as error:
            reached = "No space left" in str(error)
            said = [] if reached else [f"said {error}"]
        if not reached and not said:
            break  # the run has no more file operations
        if folder.exists() and (left := [p.name for p in folder.glob(".*.unfinished.*")]):
            said.append(f"left {left}")
        train_in(folder)
        results.append((f"operation {number}", said + differences(folder, expected)))
        shutil.rmtree(folder)
    return results


def test_a_full_disk_at_some_moment_is_one_sentence_and_nothing_is_lost(unbroken, tmp_path, counts):
    tell(counts, "full disk at some moments", disk_full(tmp_path, unbroken[2][-3:-2], unbroken[0]))


@pytest.mark.torture
def test_a_full_disk_at_any_moment_is_one_sentence_and_nothing_is_lost(unbroken, tmp_path, counts):
    tell(counts, "full disk at every file operation", disk_full(tmp_path, unbroken[2], unbroken[0]))


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 60 kB, and a function that makes it larger."""
    def mount(options: str) -> int:
        return subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", tmp_path], capture_output=True).returncode

    if shutil.which("mount") is None or mount("size=60k"):
        pytest.skip("no file system can be mounted here (that needs root)")
    yield tmp_path, lambda: mount("remount,size=64m")
    os.chdir("/")
    subprocess.run(["umount", "-l", tmp_path], check=True)


@pytest.mark.torture
def test_a_disk_that_is_really_full_is_one_sentence_and_nothing_is_lost(unbroken, small_disk, counts):
    folder, enlarge = small_disk
    with pytest.raises(UserError, match="cannot be written .*No space left"):
        train_in(folder / "run")
    assert enlarge() == 0
    train_in(folder / "run")
    tell(counts, "a disk of 60 kB", [("once", differences(folder / "run", unbroken[0]))])


class Left(Exception):
    """The process would have ended here."""


class Asks:
    """Stands for ``ENDING``: a signal comes just before somebody asks for the n-th time (from 0) whether one came."""

    def __init__(self, number: int):
        self.left, self.saves = number, False

    @property
    def asked(self) -> int:
        self.left -= 1
        return signal.SIGTERM if self.left < 0 else 0

    def leave(self, number: int) -> None:
        raise Left


def stopped(tmp_path: Path, monkeypatch, numbers, expected: Path) -> list[tuple[str, list[str]]]:
    """Stop a run by a signal at given questions, and continue it."""
    results = []
    for number in numbers:
        folder = tmp_path / f"stopped_{number}"
        with monkeypatch.context() as patch:
            patch.setattr("common.callback.stop.ENDING", Asks(number))
            try:
                train_in(folder)
                break  # the run asks no more
            except Left:
                said = [] if list(folder.glob("*-*_*.ckpt")) else ["no checkpoint"]
        train_in(folder)
        results.append((f"question {number}", said + differences(folder, expected)))
        shutil.rmtree(folder)
    return results


def test_a_signal_in_a_step_and_in_an_evaluation_loses_nothing(unbroken, tmp_path, monkeypatch, counts):
    # an epoch asks for 4 batches (2 steps) and 2 batches of the evaluation: 7 is in a step, 10 in an evaluation
    tell(counts, "signals at some moments", stopped(tmp_path, monkeypatch, [7, 10], unbroken[0]))


@pytest.mark.torture
def test_a_signal_at_any_moment_loses_nothing(unbroken, tmp_path, monkeypatch, counts):
    tell(counts, "signals at every batch", stopped(tmp_path, monkeypatch, range(100), unbroken[0]))


def start(program: str, config: Path, folder: Path) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, program, "--config_path", config, "--ckpt_save_dir", folder], cwd=ROOT,
                            env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True)


@pytest.mark.torture
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_ended_at_random_moments_ends_like_one_that_was_not(model, how, tmp_path, counts):
    program, keys = MODELS[model]
    config = tmp_path / "run.yaml"
    config.write_text("".join(f"{key}: {value}\n" for key, value in keys.items()))
    began = time.monotonic()
    whole = start(program, config, tmp_path / "whole")
    said = whole.communicate(timeout=900)[0]
    assert whole.returncode == 0, said
    length, rng, results = time.monotonic() - began, random.Random(f"{SEED} {model} {how}"), []
    for _ in range(3):
        process = start(program, config, tmp_path / "ended")
        try:
            said = process.communicate(timeout=rng.uniform(0.3, 0.9) * length)[0]
            break
        except subprocess.TimeoutExpired:
            process.send_signal(how)
            said = process.communicate(timeout=300)[0]
            wrong = process.returncode not in (-how if how == signal.SIGKILL else 128 + how, 0)  # 0: just then done
            results.append((f"{how.name}", [f"code {process.returncode}: {said[-800:]}"] if wrong else []))
    last = start(program, config, tmp_path / "ended")
    said = last.communicate(timeout=900)[0]
    problems = [] if last.returncode == 0 else [said[-800:]]
    results.append(("at the end", problems + differences(tmp_path / "ended", tmp_path / "whole")))
    tell(counts, f"{model}, {how.name} at random", results)


@pytest.mark.torture
@pytest.mark.distributed
def test_two_ranks_of_which_one_is_killed_at_random_end_like_two_that_were_not(tmp_path, counts):
    program, keys = MODELS["convmlp"]
    config = tmp_path / "run.yaml"
    keys = keys | {"batch_size": 32, "distribute": True}
    config.write_text("".join(f"{key}: {value}\n" for key, value in keys.items()))

    def begin(name: str) -> subprocess.Popen:
        return subprocess.Popen(["bash", ROOT / "scripts" / "run_distribute_train_cpu.sh", "convmlp", config,
                                 "--ckpt_save_dir", tmp_path / name], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True, start_new_session=True,
                                env=environment(RESULTS_DIR=str(tmp_path / "results"), PYTHON=sys.executable))

    began, rng, results = time.monotonic(), random.Random(SEED), []
    whole = begin("whole")
    said = whole.communicate(timeout=900)[0]
    assert whole.returncode == 0, said
    length = time.monotonic() - began
    for _ in range(3):
        job = begin("ended")
        try:
            said = job.communicate(timeout=rng.uniform(0.35, 0.7) * length)[0]
            break
        except subprocess.TimeoutExpired:
            rank = process_of(tmp_path / "ended", rng.randrange(2))
            if rank:
                os.kill(rank, signal.SIGKILL)
            said = job.communicate(timeout=300)[0]
            results.append(("killed" if rank else "already done", [] if not rank or job.returncode else [said[-800:]]))
    last = begin("ended")
    said = last.communicate(timeout=900)[0]
    problems = [] if last.returncode == 0 else [said[-800:]]
    results.append(("at the end", problems + differences(tmp_path / "ended", tmp_path / "whole")))
    assert "killed" in dict(results), "every job ended before a rank could be killed"
    tell(counts, "two ranks, one of them killed at random", results)


@pytest.mark.torture
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_an_evaluation_is_one_sentence_and_nothing_is_half_written(how, tmp_path, counts):
    train_in(tmp_path / "run")
    weights = next((tmp_path / "run").glob("*_best.ckpt"))

    def begin(report: str) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, "gmlp/eval.py", "--ckpt_path", weights, "--report", tmp_path / report],
                                cwd=ROOT, env=environment(), text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE)

    began, rng, results = time.monotonic(), random.Random(SEED), []
    assert begin("whole").communicate(timeout=600) and (tmp_path / "whole" / "classes.csv").is_file()
    length = time.monotonic() - began
    for number in range(6):
        process, said = begin(f"report_{number}"), []
        try:
            out, error = process.communicate(timeout=rng.uniform(0.4, 1.0) * length)
        except subprocess.TimeoutExpired:
            process.send_signal(how)
            out, error = process.communicate(timeout=60)
        if process.returncode not in (0, 128 + how):
            said.append(f"code {process.returncode}: {error[-500:]}")
        if process.returncode and error.strip().splitlines()[-1:] != ["Stopped."]:
            said.append(f"said {error[-500:]}")
        said += [f"{path.name} is not whole" for path in (tmp_path / f"report_{number}").glob("[!.]*")
                 if path.read_bytes() != (tmp_path / "whole" / path.name).read_bytes()]
        results.append((str(number), said))
    tell(counts, f"evaluations with {how.name} at random", results)


@pytest.mark.torture
def test_a_run_of_which_a_process_that_reads_images_is_killed_goes_on_where_it_was(tmp_path, counts):
    assert run("-m", "common.dataset.digits", "write", tmp_path).returncode == 0
    config = write_yaml(tmp_path / "run.yaml", dataset="imagenet", data_dir=tmp_path / "images", num_workers=2, epochs=1,
                        depth=1, batch_size=32, log_interval=1, save_checkpoint_steps=2)
    whole = start("gmlp/train.py", config, tmp_path / "whole")
    assert "Finish" in whole.communicate(timeout=600)[0]
    results = []
    for number in range(2):
        folder, said = tmp_path / f"killed_{number}", []
        process = start("gmlp/train.py", config, folder)
        for line in process.stdout:
            if f"batch {5 + 9 * number}/" in line:
                break
        os.kill(psutil.Process(process.pid).children(recursive=True)[number].pid, signal.SIGKILL)
        text = process.communicate(timeout=300)[0]
        if process.returncode not in (0, 128 + signal.SIGTERM) or "Traceback" in text or (
                process.returncode and "reads images has ended" not in text):
            said.append(f"code {process.returncode}: {text[-800:]}")
        start("gmlp/train.py", config, folder).communicate(timeout=600)
        results.append((str(number), said + differences(folder, tmp_path / "whole")))
    tell(counts, "killed processes that read images", results)
