"""The card of a run says what it was made of and how to do it again; two runs say why they differ."""
import re
import shlex
import shutil
from pathlib import Path

import mindspore as ms
import pytest
from entry import ROOT, TINY, run, sentence, write_yaml

from common.config.load import from_mapping
from common.run.compare import compare
from common.run.facts import CARD, read_facts
from common.run.history import HISTORY
from common.tasks.train import train
from gmlp.src.spec import SPEC

SMALL = TINY | {"model": "gmlp_ti", "image_size": 8, "embed_dim": 8, "depth": 1, "batch_size": 128, "log_interval": 1,
                "warmup_epochs": 0, "mode": "pynative"}  # 11 steps per epoch


def train_in(folder: Path, **keys) -> Path:
    train(from_mapping(SMALL | {"ckpt_save_dir": str(folder)} | keys, "test", SPEC), SPEC)
    return folder


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    """A run of two epochs, from a file and the command line."""
    folder = tmp_path_factory.mktemp("card")
    result = run("gmlp/train.py", "--config_path", write_yaml(folder / "a.yaml", **SMALL), "--ckpt_save_dir",
                 folder / "run", "--mixup", "0.2")
    assert result.returncode == 0, result.stderr[-2000:]
    return folder / "run"


def test_a_card_says_what_a_run_was_made_of_and_what_came_of_it(done):
    facts, text = read_facts(done), (done / CARD).read_text()
    assert (facts["model"], facts["seed"], facts["epochs_done"], facts["epochs"]) == (
        "gmlp (dim 8, depth 1)", 3, 2, 2)
    assert {key: value for key, value in facts["data"].items() if "hash" not in key} == {
        "name": "digits", "training_images": 1437, "evaluation_images": 360, "classes": 10}
    assert len({facts["data"]["training_hash"], facts["data"]["evaluation_hash"]}) == 2
    assert facts["last"]["epoch"] == 2 and facts["best"][0]["top1"] >= facts["last"]["top1"]
    start, = facts["starts"]
    assert (start["ranks"], start["device"], start["versions"]["mindspore"]) == (1, "CPU", ms.__version__)
    assert re.fullmatch(r"[0-9a-f]{40}( and changes)?|unknown", start["commit"])
    places = {row[0]: row[1:] for line in text.splitlines() if len(row := line.strip("| ").split(" | ")) == 3}
    assert places["`lr`"][0] == f"`{TINY['lr']}`" and re.search(r"card\d*/a.yaml, line \d+$", places["`lr`"][1])
    assert places["`mixup`"] == ["`0.2`", "command line"] and "`weight_decay`" not in places  # which has its default
    assert f"**Best top-1: {facts['best'][0]['top1']:.2%}**, after epoch" in text and "(curves.png)" in text
    assert re.search(r"2 epochs took 0:\d\d:\d\d\.$", text, re.MULTILINE)


def test_the_command_of_a_card_repeats_the_run(done):
    command = shlex.split((done / CARD).read_text().split("```bash\n")[1].split("\n```")[0])
    assert command[0] == "python" and Path(command[1]) == ROOT / "gmlp" / "train.py"
    again = run(*command[1:])
    assert again.returncode == 0, again.stderr[-2000:]
    said = run("-m", "common.run", "compare", done, f"{done}_again")
    assert said.returncode == 0, said.stderr
    lines = said.stdout.splitlines()
    assert lines[:2] == ["data: the same", "configuration: the same"] and not lines[2].count("versions")
    assert lines[3] == "losses: the same in all 2 epochs that both have"


def test_two_runs_say_why_they_differ(done, tmp_path):
    other = train_in(tmp_path / "other", mixup=0.3, batch_size=64)
    shutil.copytree(done, tmp_path / "old")
    (tmp_path / "old" / CARD).unlink()  # of an earlier version
    lines = compare(done, other).splitlines()
    assert lines[1] == "configuration: batch_size: 128 -> 64; mixup: 0.2 -> 0.3"
    assert re.match(r"losses: part in epoch 1 \(\d\.\d+ -> \d\.\d+, relative \S+\), ", lines[3])
    assert re.match(r"logs: (after batch \d of epoch 1, )?by batch \d of epoch 1 \(\d\.\d{4} -> \d\.\d{4}\)", lines[4])
    old = compare(tmp_path / "old", done).splitlines()
    assert f"old has no {CARD}" in old[0] and old[1] == "configuration: the same" and "losses: the same" in old[2]
    wrong = run("-m", "common.run", "compare", done, tmp_path)
    assert f"{tmp_path} is no folder of a run: it has no {HISTORY}" in sentence(wrong)


def test_a_card_outlives_what_happens_to_a_run(done, tmp_path):
    folder = Path(shutil.copytree(done, tmp_path / "run"))
    train_in(folder, mixup=0.2)  # complete: nothing is started
    assert len(read_facts(folder)["starts"]) == 1
    train_in(folder, mixup=0.2, epochs=3)
    facts = read_facts(folder)
    assert [start["epochs_done"] for start in facts["starts"]] == [0, 2] and facts["epochs_done"] == 3
    (folder / CARD).write_text((folder / CARD).read_text()[:50])  # damaged by somebody
    train_in(folder, mixup=0.2, epochs=4)
    facts = read_facts(folder)
    assert [start["epochs_done"] for start in facts["starts"]] == [3] and facts["epochs_done"] == 4


def test_equal_data_have_an_equal_hash_in_any_folder_and_others_another(tmp_path):
    from PIL import Image

    from common.dataset.shard_samples import open_shards
    from common.dataset.shards import main as pack
    from common.dataset.sources import read_folder

    for name in ("one", "two"):
        for label in ("a", "b"):
            (tmp_path / name / label).mkdir(parents=True)
            Image.new("RGB", (4, 4)).save(tmp_path / name / label / "0.png")
    first = read_folder(tmp_path / "one", "train").fingerprint()
    assert read_folder(tmp_path / "two", "train").fingerprint() == first
    assert pack([str(tmp_path / "two"), str(tmp_path / "packed")]) is not None
    assert open_shards(tmp_path / "packed").fingerprint() == first
    (tmp_path / "two" / "b" / "0.png").rename(tmp_path / "two" / "b" / "1.png")
    assert read_folder(tmp_path / "two", "train").fingerprint() != first
