"""eval.py on ImageNet's relatives, and of several checkpoints."""
import csv
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from entry import TINY
from PIL import Image

from common.checkpoint.file import save_checkpoint
from common.checkpoint.weights import weights_of
from common.config.load import from_mapping
from common.config.options import CALLER_VARIABLE, Config
from common.config.several import each_checkpoint
from common.dataset.classes import imagenet_classes
from common.errors import UserError
from common.files import DATA
from common.main import main, read_config
from common.network import build_network
from common.tasks.evaluate import evaluate
from gmlp.src.spec import SPEC

KNOWN = list(imagenet_classes())
A = (DATA / "imagenet_a_classes.txt").read_text().split()


def write_network(path, favourites, **changes):
    """Write a network that answers the same for every image: the first of its favourite classes, then the next ..."""
    config = from_mapping(TINY | changes, "test")
    network = build_network(config, SPEC)
    bias = np.zeros(config.num_classes, np.float32)
    bias[list(favourites)] = np.arange(len(favourites), 0, -1)
    network.head.bias.set_data(ms.Tensor(bias))
    save_checkpoint(path, weights_of(network), {"family": "gmlp", "model": "gmlp_ti", "config": TINY | changes})
    return path


def write_images(folder, classes, images):
    """Make class folders, and some images in them: name below the folder -> class."""
    for name in classes:
        (folder / name).mkdir(parents=True)
    for name in images:
        Image.new("RGB", (16, 16), (90, 120, 60)).save(folder / name, "JPEG")


@pytest.fixture
def pynative():
    mode = ms.get_context("mode")
    yield "pynative"
    ms.set_context(mode=mode)


def test_relatives_of_imagenet_are_evaluated_on_their_own_classes(tmp_path, pynative, capsys):
    of_a = KNOWN.index(A[7])
    outside = 809  # no class of ImageNet-A, and what ReaL sees in the fourth of the first four images; in one nothing
    checkpoint = write_network(tmp_path / "a.ckpt", [outside, of_a, 10], num_classes=1000, dataset="imagenet")
    write_images(tmp_path / "imagenet-a", A, [f"{A[7]}/{n}.jpg" for n in range(3)] + [f"{A[8]}/x.jpg"])
    write_images(tmp_path / "v2", map(str, range(1000)), [f"{outside}/{n}.jpeg" for n in range(2)] + ["10/x.jpeg"])
    write_images(tmp_path / "val", KNOWN, [f"{KNOWN[0]}/ILSVRC2012_val_{n:08}.JPEG" for n in (1, 2, 3, 4)])
    found = {}
    for dataset, folder in (("imagenet_a", "imagenet-a"), ("imagenet_v2", "v2"), ("imagenet_real", "val")):
        config = read_config("eval", SPEC, ["--ckpt_path", str(checkpoint), "--dataset", dataset, "--mode", pynative,
                                            "--data_dir", str(tmp_path / folder), "--batch_size", "3"])
        found[dataset] = evaluate(config, SPEC)
    assert found["imagenet_a"].top1 == 3 / 4
    assert found["imagenet_v2"].top1 == 2 / 3 and found["imagenet_v2"].top5 == 1
    assert found["imagenet_real"].real == 1 / 3 and found["imagenet_real"].seen == 4
    assert "by the labels of ReaL: top-1 0.333333 of 3 images" in capsys.readouterr().out
    assert found["imagenet_a"].real is None
    with pytest.raises(UserError, match="dataset: imagenet_a is for eval.py"):
        from_mapping(TINY | {"dataset": "imagenet_a", "task": "train"}, "test")


def test_several_checkpoints_make_one_table_and_a_report_each(tmp_path, pynative, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    for name, digit in (("tiny-2_9", 1), ("tiny-10_9", 3)):
        write_network(f"run/{name}.ckpt", [digit])
    main("eval", SPEC, ["--ckpt_path", "run", "--report", "out", "--mode", pynative])
    *_, head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["checkpoint", "top-1", "top-5", "loss", "images"]
    rows = [line.replace("*", " ").split() for line in (first, second)]
    assert [row[0] for row in rows] == ["run/tiny-2_9.ckpt", "run/tiny-10_9.ckpt"]  # 2 before 10
    best = max(rows, key=lambda row: float(row[1]))
    assert [line.startswith("*") for line in (first, second)] == [row[1] == best[1] for row in rows]
    for number, row in enumerate(rows, start=1):
        with open(f"out/{number}_{Path(row[0]).stem}/metrics.csv", newline="", encoding="utf-8") as file:
            assert dict(csv.reader(file))["accuracy"] == row[1]


def test_commas_or_a_folder_name_several_checkpoints(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b.ckpt", "a,b.ckpt"):
        Path(name).write_text("")
    Path("none").mkdir()
    rest = ["--batch_size", "8"]
    assert each_checkpoint(["--pretrained=a.ckpt, b.ckpt", *rest], Config) == [
        ["--pretrained", "a.ckpt", *rest], ["--pretrained", "b.ckpt", *rest]]
    assert each_checkpoint([*rest, "--ckpt-path", "."], Config) == [
        [*rest, "--ckpt-path", "a,b.ckpt"], [*rest, "--ckpt-path", "b.ckpt"]]
    for one in (["--ckpt_path", "a,b.ckpt"], ["--ckpt_path", "b.ckpt", *rest], rest, ["--ckpt_path"]):
        assert each_checkpoint(one, Config) == [one]
    monkeypatch.setenv(CALLER_VARIABLE, "/there")  # by a launch script
    assert each_checkpoint(["--ckpt_path", "/there/a.ckpt,b.ckpt"], Config) == [["--ckpt_path", "/there/a.ckpt"],
                                                                                ["--ckpt_path", "/there/b.ckpt"]]
    with pytest.raises(UserError, match="ckpt_path: the folder none holds no .ckpt file"):
        each_checkpoint(["--ckpt_path", "none"], Config)
