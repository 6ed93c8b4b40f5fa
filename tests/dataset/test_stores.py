"""Caches and shards: where images come from changes nothing in what a training sees; and lists of images."""
import json
import multiprocessing
import subprocess
import sys

import numpy as np
import pytest
from photographs import jpeg, photograph

from common.config.load import from_mapping
from common.dataset.batches import TrainBatches
from common.dataset.cache import Cache
from common.dataset.shard_samples import INDEX
from common.dataset.shards import main as pack
from common.dataset.sources import open_samples
from common.errors import UserError
from common.files import ROOT


@pytest.fixture
def folder(tmp_path):
    for number in range(12):
        file = tmp_path / "data" / "train" / "ab"[number % 2] / f"{number:02d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        photograph(60, 50, seed=number).save(file) if number % 3 else file.write_bytes(jpeg(photograph(50, 60)))
    return tmp_path / "data"


def source(folder, **values):
    config = from_mapping({"dataset": "folder", "data_dir": str(folder), "image_size": 32, "batch_size": 6, "seed": 5,
                           "num_classes": 2, **values}, "test")
    return TrainBatches(config, open_samples(config, "train"), 0, 1)


def assert_same_batches(one, other):
    for number in range(4):
        for array, again in zip(one[number], other[number]):
            np.testing.assert_array_equal(array, again)


@pytest.mark.parametrize("form", ["encoded", "decoded"])
@pytest.mark.parametrize("fast", [True, False])
def test_a_cache_changes_nothing_and_outlives_its_source(folder, tmp_path, form, fast):
    values = {"data_cache": str(tmp_path / "cache"), "data_cache_form": form, "fast_decode": fast}
    plain = source(folder, fast_decode=fast)
    batches = [plain[number] for number in range(4)]
    cached = source(folder, **values)
    assert_same_batches(batches, cached)
    for file in (folder / "train").rglob("*.jpg"):
        file.write_bytes(b"")
    assert_same_batches(batches, cached)
    assert_same_batches(batches, source(folder, **values))  # another run


def test_a_cache_holds_no_more_than_its_limit_and_says_so(tmp_path, caplog):
    cache = Cache(tmp_path / "cache", 25e-9, decoded=False)
    for name in "abc":
        assert cache.encoded(name, lambda: bytes(10)) == bytes(10)
    held = [file for file in (tmp_path / "cache").rglob("*.image")]
    assert len(held) == 2
    assert "data_cache_gb: 2.5e-08 is reached" in caplog.text


def fill(folder, start):
    cache = Cache(folder, 1e-6, decoded=False)
    start.wait()
    for number in range(40):
        assert cache.encoded(str(number), lambda: bytes([number]) * 100) == bytes([number]) * 100


def test_several_processes_fill_one_cache_and_the_limit_is_theirs_together(tmp_path):
    context = multiprocessing.get_context("fork")
    start = context.Event()
    processes = [context.Process(target=fill, args=(tmp_path / "cache", start)) for _ in range(4)]
    for process in processes:
        process.start()
    start.set()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    files = list((tmp_path / "cache").rglob("*.image"))
    assert files and sum(file.stat().st_size for file in files) <= 1000
    assert all(file.stat().st_size == 100 for file in files)


def test_a_cache_that_cannot_be_written_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="data_cache: .*file cannot be written to"):
        Cache(tmp_path / "file", 1.0, False)


def test_shards_give_the_batches_of_the_folder(folder, tmp_path):
    said = pack([str(folder / "train"), str(tmp_path / "shards" / "train")])
    assert "12 images of 2 classes in 1 shards" in said
    assert_same_batches(source(folder), source(tmp_path / "shards"))


def test_shards_are_ordinary_tar_files_of_the_size_asked_for(folder, tmp_path):
    command = [sys.executable, "-m", "common.dataset.shards", folder / "train", tmp_path / "out", "--shard_mb", "1"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert str(tmp_path / "out") in result.stdout
    index = json.loads((tmp_path / "out" / INDEX).read_text())
    assert index["classes"] == ["a", "b"]
    names = subprocess.run(["tar", "tf", tmp_path / "out" / index["shards"][0]], capture_output=True, text=True,
                           check=True).stdout.split()
    assert names == index["names"]
    assert names[0] == "a/00.jpg"


def test_long_names_and_many_shards_keep_their_places(tmp_path, monkeypatch):
    monkeypatch.setattr("common.dataset.shards._MB", 4000)
    for number in range(5):
        file = tmp_path / "data" / "train" / "ä" / f"{'x' * 120}{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(jpeg(photograph(40, 40, seed=number)))
    pack([str(tmp_path / "data" / "train"), str(tmp_path / "out"), "--shard_mb", "1"])
    config = from_mapping({"dataset": "folder", "data_dir": str(tmp_path / "out")}, "test")
    packed = open_samples(config, "train")
    config = from_mapping({"dataset": "folder", "data_dir": str(tmp_path / "data")}, "test")
    loose = open_samples(config, "train")
    assert len(packed.shards) > 1 and packed.classes == loose.classes == ["ä"]
    assert [packed.read(i) for i in range(5)] == [loose.read(i) for i in range(5)]


def test_what_is_wrong_with_shards_is_a_sentence(folder, tmp_path):
    out = tmp_path / "out"
    pack([str(folder / "train"), str(out)])
    with pytest.raises(UserError, match="holds shards already"):
        pack([str(folder / "train"), str(out)])
    (out / "out-000000.tar").rename(out / "gone")
    with pytest.raises(UserError, match="lacks out-000000.tar"):
        source(out)
    (out / INDEX).write_text("{}")
    with pytest.raises(UserError, match="damaged"):
        source(out)
    with pytest.raises(UserError, match="is no folder"):
        pack([str(tmp_path / "nowhere"), str(out)])


@pytest.mark.parametrize("name, text", [
    ("l.csv", "path,label\na/00.jpg,0\nb/01.jpg,1\n"), ("l.csv", "a/00.jpg,0\r\nb/01.jpg,1\r\n"),
    ("l.csv", '"a/00.jpg",a\n"b/01.jpg",b\n'), ("l.csv", "\ufeffa/00.jpg\nb/01.jpg\n"),
    ("l.txt", "a/00.jpg 0\nb/01.jpg 1\n"), ("l.txt", "a/00.jpg\tb\n".replace("\tb", "") + "\nb/01.jpg\n")])
def test_lists_may_be_csv_and_txt(folder, name, text):
    (folder / "train" / name).write_text(text, encoding="utf-8")
    config = from_mapping({"dataset": "list", "data_dir": str(folder / "train"), "img_ids": name}, "test")
    samples = open_samples(config, "train")
    assert samples.labels.tolist() == [0, 1]
    assert samples.read(1) == (folder / "train" / "b" / "01.jpg").read_bytes()


def test_txt_lists_may_have_spaces_in_names(folder):
    (folder / "train" / "a" / "00.jpg").rename(folder / "train" / "a" / "my photo.jpg")
    (folder / "train" / "l.txt").write_text("a/my photo.jpg 1\n")
    config = from_mapping({"dataset": "list", "data_dir": str(folder / "train"), "img_ids": "l.txt"}, "test")
    samples = open_samples(config, "train")
    assert samples.where(0).endswith("my photo.jpg") and samples.labels.tolist() == [1]


@pytest.mark.parametrize("name, text, message", [
    ("l.csv", 'a/00.jpg,"0\n', "no CSV file"), ("l.csv", "a/00.jpg,0,7\n", "entry 0"), ("l.xml", "", "must end in .json"),
    ("l.txt", "\n", "lists no images")])
def test_wrong_lists_are_explained(folder, name, text, message):
    (folder / "train" / name).write_text(text)
    config = from_mapping({"dataset": "list", "data_dir": str(folder / "train"), "img_ids": name}, "test")
    with pytest.raises(UserError, match=message):
        open_samples(config, "train")
