"""ModelArts and OpenI without a cloud: local folders, a stand-in for moxing and c2net, several real processes."""
import contextlib
import dataclasses
import importlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest
from entry import ROOT, environment, run, sentence, write_yaml

from common.checkpoint.file import save_checkpoint
from common.checkpoint.weights import weights_of
from common.cloud.data import data_root
from common.cloud.staging import FRESH_SECONDS, Place, _with_settings, fetch, place, send, staged
from common.config.addresses import on_cloud, sources
from common.config.load import from_mapping, load_config
from common.config.options import Config
from common.dataset.once import once
from common.errors import UserError
from common.network import build_network
from common.run.training import plain
from gmlp.src.spec import SPEC

ALONE = Place(job="7")

# obs://bucket/x is the file or folder bucket/x below MOXING_ROOT; every call is a line of its file "calls". A copy
# begins when there are MOXING_WAITS_FOR files "N PATTERN" in MOXING_ROOT, and fails if MOXING_FAILS says how.
MOXING = '''
import os, pathlib, shutil, time

class file:
    @staticmethod
    def _local(path):
        for scheme in ("obs://", "s3://"):
            if path.startswith(scheme):
                return pathlib.Path(os.environ["MOXING_ROOT"], path[len(scheme):])
        return pathlib.Path(path)

    @staticmethod
    def _record(*words):
        with open(pathlib.Path(os.environ["MOXING_ROOT"], "calls"), "a") as calls:
            calls.write(" ".join(words) + "\\n")
        count, pattern = os.environ.get("MOXING_WAITS_FOR", "0 x").split()
        deadline = time.time() + 300
        while len(list(pathlib.Path(os.environ["MOXING_ROOT"]).glob(pattern))) < int(count) and time.time() < deadline:
            time.sleep(0.05)
        if os.environ.get("MOXING_FAILS"):
            raise RuntimeError(os.environ["MOXING_FAILS"])

    @staticmethod
    def exists(path):
        return file._local(path).exists()

    @staticmethod
    def is_directory(path):
        return file._local(path).is_dir()

    @staticmethod
    def copy(source, target):
        file._record("copy", source, target)
        shutil.copyfile(file._local(source), file._local(target))

    @staticmethod
    def copy_parallel(source, target):
        file._record("copy_parallel", source, target)
        shutil.copytree(file._local(source), file._local(target), dirs_exist_ok=True)
'''

C2NET = '''
import json, os, types

def _record(word):
    with open(os.environ["C2NET_CALLS"], "a") as calls:
        calls.write(word + "\\n")

def prepare():
    _record("prepare")
    return types.SimpleNamespace(**json.loads(os.environ["C2NET_PATHS"]))

def upload_output():
    _record("upload " + " ".join(sorted(os.listdir(json.loads(os.environ["C2NET_PATHS"])["output_path"]))))
'''


def fill(folder, **files):
    """Write files by name -> text; two underscores in a name stand for a slash."""
    for name, text in files.items():
        path = folder / (name.replace("__", "/") + ".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def names(folder):
    """Return the relative paths of what is not hidden."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*")
                  if path.is_file() and not path.name.startswith("."))


def make_tar(path, **files):
    with tarfile.open(path, "w") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name.replace("__", "/") + ".txt")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    return path


def configure(**values):
    """Return the configuration of a training on the cloud."""
    return from_mapping({"enable_modelarts": True, "val_while_train": False, "dataset": "folder"} | values, "test")


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """The stand-in for moxing, and the folder that holds obs://bucket."""
    packages, store = tmp_path / "packages", tmp_path / "store"
    packages.mkdir()
    (store / "bucket").mkdir(parents=True)
    (packages / "moxing.py").write_text(MOXING)
    monkeypatch.setenv("MOXING_ROOT", str(store))
    monkeypatch.syspath_prepend(str(packages))
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{packages}")
    monkeypatch.delitem(sys.modules, "moxing", raising=False)
    yield store / "bucket"
    sys.modules.pop("moxing", None)
    importlib.invalidate_caches()


def calls(bucket):
    file = bucket.parent / "calls"
    return file.read_text().splitlines() if file.exists() else []


# Where a process is.

@pytest.mark.parametrize("environment,leader,size,job", [
    ({}, True, 1, ""),
    ({"JOB_ID": "", "ASCEND_DEVICE_ID": "", "RANK_SIZE": ""}, True, 1, ""),
    ({"JOB_ID": " 12 ", "RANK_ID": "0", "RANK_SIZE": "8", "ASCEND_DEVICE_ID": "0"}, True, 8, "12"),
    ({"RANK_ID": "3", "RANK_SIZE": "8", "ASCEND_DEVICE_ID": "3"}, False, 8, ""),
    ({"RANK_ID": "8", "RANK_SIZE": "16", "DEVICE_ID": "0"}, True, 16, ""),
    ({"RANK_ID": "0", "RANK_SIZE": "2", "DEVICE_ID": "5"}, True, 2, ""),  # rank 0 sends, whatever its card
    ({"RANK_ID": "4", "RANK_SIZE": "16", "MA_NUM_HOSTS": "4"}, True, 16, ""),
    ({"RANK_ID": "4", "RANK_SIZE": "16", "MA_NUM_HOSTS": "2"}, False, 16, ""),
    ({"ASCEND_DEVICE_ID": "2", "RANK_SIZE": "8"}, False, 8, ""),
    ({"OMPI_COMM_WORLD_RANK": "9", "OMPI_COMM_WORLD_SIZE": "12", "OMPI_COMM_WORLD_LOCAL_RANK": "3"}, False, 12, ""),
    ({"OMPI_COMM_WORLD_RANK": "6", "OMPI_COMM_WORLD_SIZE": "12", "OMPI_COMM_WORLD_LOCAL_RANK": "0"}, True, 12, ""),
])
def test_place_follows_the_variables_that_are_there(environment, leader, size, job):
    here = place(environment)
    assert (here.leader, here.size, here.job) == (leader, size, job)


def test_patience_can_be_set_and_must_be_a_number():
    assert place({"ZOO_STAGING_SECONDS": "5"}).patience == 5
    with pytest.raises(UserError, match="ZOO_STAGING_SECONDS: 'long' is not a number"):
        place({"ZOO_STAGING_SECONDS": "long"})


# When a run is on a cloud.

@pytest.mark.parametrize("values,environment,expected", [
    ({}, {}, False), ({"data_url": "/mnt/data", "train_url": "/mnt/out"}, {}, False),
    ({"train_url": "obs://bucket/out"}, {}, True), ({"data_url": "S3://bucket/data"}, {}, True),
    ({"multi_data_url": '[{"dataset_url": "obs://b/a.zip", "dataset_name": "a.zip"}]'}, {}, True),
    ({"multi_data_url": "[]"}, {}, False),
    ({}, {"DATA_DOWNLOAD_METHOD": "MOXING", "LOCAL_DATASET_PATH": "/cache/data"}, True),
    ({}, {"DATA_DOWNLOAD_METHOD": "MOXING", "LOCAL_DATASET_PATH": ""}, False),
])
def test_remote_addresses_and_openi_mean_a_cloud(values, environment, expected):
    assert on_cloud(values, environment) is expected


def test_openi_start_needs_no_switch_and_a_switch_has_the_last_word():
    flags = {"data_url": "s3://bucket/data", "train_url": "s3://bucket/out", "device_target": "Ascend"}
    assert from_mapping(flags, "test").enable_modelarts
    assert not from_mapping(flags | {"run_modelarts": "False"}, "test").enable_modelarts


def test_nothing_happens_without_the_switch(tmp_path):
    config = Config(data_url="obs://bucket/data", train_url=str(tmp_path / "out"), ckpt_save_dir=str(tmp_path))
    with staged(config, {}) as same:
        assert same is config
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text,expected", [
    ("", []), ("[]", []), ("obs://b/a", [("obs://b/a", "")]), ('["obs://b/a"]', [("obs://b/a", "")]),
    ('[{"model_url": "obs://b/a", "model_name": "../x.ckpt"}]', [("obs://b/a", "x.ckpt")]),
    ('{"dataset_url": "/a", "dataset_name": "a.zip"}', [("/a", "a.zip")]),
])
def test_addresses_are_one_or_a_list(text, expected):
    assert sources("data_url", text) == expected


@pytest.mark.parametrize("text", ["[obs://b/a]", '[{"name": "x"}]', "[3]"])
def test_broken_list_of_addresses_is_one_sentence(text):
    with pytest.raises(UserError, match="multi_data_url: .* is neither an address nor a JSON list"):
        sources("multi_data_url", text)


# Data from local folders.

def test_local_data_is_copied_and_found(tmp_path):
    remote = fill(tmp_path / "remote", train__a__1="x", val__a__2="y")
    config = fetch(configure(data_url=str(remote), data_path=str(tmp_path / "cache")), {}, ALONE)
    assert names(tmp_path / "cache") == ["train/a/1.txt", "val/a/2.txt"]
    assert (config.data_dir, config.eval_dir) == (str(tmp_path / "cache"), "")


def test_local_data_without_data_path_is_used_where_it_is(tmp_path):
    remote = fill(tmp_path / "remote", train__a__1="x")
    assert fetch(configure(data_url=str(remote)), {}, ALONE).data_dir == str(remote)


def test_data_dir_below_data_path_is_kept(tmp_path):
    remote, cache = fill(tmp_path / "remote", train__a__1="x", val__a__2="y"), tmp_path / "cache"
    config = fetch(configure(data_url=str(remote), data_path=str(cache), data_dir=str(cache / "train"),
                             eval_dir=str(cache / "val")), {}, ALONE)
    assert (config.data_dir, config.eval_dir) == (str(cache / "train"), str(cache / "val"))


def test_placeholder_elsewhere_gives_way_and_real_data_elsewhere_does_not(tmp_path):
    remote, mine = fill(tmp_path / "remote", train__a__1="x", val__a__2="y"), fill(tmp_path / "mine", a__1="z")
    values = {"data_url": str(remote), "data_path": str(tmp_path / "cache")}
    config = fetch(configure(**values, data_dir="/path/to/imagenet", eval_dir="/path/to/val"), {}, ALONE)
    assert (config.data_dir, config.eval_dir) == (str(tmp_path / "cache"), "")
    assert fetch(configure(**values, data_dir=str(mine)), {}, ALONE).data_dir == str(mine)


def test_archive_of_everything_is_unpacked_and_its_top_folder_found(tmp_path):
    (tmp_path / "remote").mkdir()
    make_tar(tmp_path / "remote" / "imagenet.tar", imagenet__train__a__1="x", imagenet__val__a__2="y")
    cache = tmp_path / "cache"
    config = fetch(configure(data_url=str(tmp_path / "remote" / "imagenet.tar"), data_path=str(cache),
                             data_dir=str(cache / "train")), {}, ALONE)
    assert config.data_dir == str(cache / "imagenet" / "train")
    assert (cache / "imagenet" / "val" / "a" / "2.txt").read_text() == "y"


@pytest.mark.parametrize("files,root", [
    (["train/a/1", "val/a/2"], "."), (["top/train/a/1", "top/val/a/2"], "top"),
    (["a/b/train/x/1", "a/b/val/x/1"], "a/b"),
    (["train/train/a/1", "train/val/a/1"], "train"), (["train/a/1"], "."), (["a/1", "b/2"], "."), (["a/1"], "."),
    (["cifar-10-batches-bin/test_batch.bin", "images/train/a/1", "images/val/a/1"], "."),
    (["my/cifar-10-batches-bin/test_batch.bin"], "my"), (["one/train/a/1", "one/val/a/1", "two/train/a/1"], "."),
])
def test_top_folders_of_archives_are_passed(tmp_path, files, root):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert data_root(tmp_path) == tmp_path / root


def test_archives_of_the_splits_go_into_their_folders(tmp_path):
    (tmp_path / "remote").mkdir()
    make_tar(tmp_path / "remote" / "imagenet_train.tar", a__1="x")
    make_tar(tmp_path / "remote" / "imagenet_val.tar", a__2="y")
    values = {"data_url": str(tmp_path / "remote"), "data_path": str(tmp_path / "cache")}
    fetch(configure(**values), {}, ALONE)
    assert names(tmp_path / "cache") == ["imagenet_train.tar", "imagenet_val.tar", "train/a/1.txt", "val/a/2.txt"]
    fetch(configure(**values | {"task": "eval", "data_path": str(tmp_path / "other")}), {}, ALONE)
    assert "val/a/2.txt" in names(tmp_path / "other") and "train/a/1.txt" not in names(tmp_path / "other")


def test_openi_lists_of_zip_files_are_unpacked_into_folders_of_their_own(tmp_path, bucket):
    for name in ("flowers", "birds"):
        with zipfile.ZipFile(bucket / f"{name}-7f3a.zip", "w") as content:
            content.writestr(f"{name}/train/a/1.txt", name)
            content.writestr(f"{name}/val/a/1.txt", name)
    listed = [{"dataset_url": f"s3://bucket/{name}-7f3a.zip", "dataset_name": f"{name}.zip"} for name in
              ("flowers", "birds")]
    cache = tmp_path / "cache"
    config = fetch(configure(multi_data_url=json.dumps(listed), data_path=str(cache),
                             data_dir=str(cache / "birds" / "birds")), {}, ALONE)
    assert config.data_dir == str(cache / "birds" / "birds")
    assert (cache / "flowers" / "flowers" / "train" / "a" / "1.txt").read_text() == "flowers"
    one = fetch(configure(multi_data_url=json.dumps(listed[:1]), data_path=str(tmp_path / "one")), {}, ALONE)
    assert one.data_dir == str(tmp_path / "one" / "flowers" / "flowers")


@pytest.mark.parametrize("member", ["../evil.txt", "/tmp/evil.txt", "a/../../evil.txt"])
def test_zip_that_reaches_out_is_refused(tmp_path, member):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as content:
        content.writestr("good.txt", "1")
        content.writestr(member, "2")
    with pytest.raises(UserError, match="a.zip is refused: its member '.*evil.txt'"):
        fetch(configure(data_url=str(tmp_path / "a.zip"), data_path=str(tmp_path / "cache")), {}, ALONE)
    assert names(tmp_path / "cache") == ["a.zip"]


@pytest.mark.parametrize("name", ["a.zip", "a.tar"])
def test_damaged_archive_is_one_sentence(tmp_path, name):
    (tmp_path / name).write_text("<html>")
    with pytest.raises(UserError, match=f"{name} is damaged"):
        fetch(configure(data_url=str(tmp_path / name), data_path=str(tmp_path / "cache")), {}, ALONE)


def test_missing_source_is_one_sentence_that_names_it(tmp_path, bucket):
    for url in (str(tmp_path / "no"), "obs://bucket/no"):
        with pytest.raises(UserError, match=f"data_url: {url} does not exist"):
            fetch(configure(data_url=url, data_path=str(tmp_path / "cache")), {}, ALONE)


def test_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="data_path: .*file/cache cannot be made a folder"):
        fetch(configure(data_url=str(fill(tmp_path / "remote", a="x")), data_path=str(tmp_path / "file" / "cache")),
              {}, ALONE)


# Remote storage.

def test_remote_data_comes_through_moxing(tmp_path, bucket):
    fill(bucket / "data", train__a__1="x", val__a__2="y")
    cache = tmp_path / "cache"
    config = fetch(configure(data_url="obs://bucket/data/", data_path=str(cache)), {}, ALONE)
    assert config.data_dir == str(cache) and names(cache) == ["train/a/1.txt", "val/a/2.txt"]
    assert calls(bucket) == [f"copy_parallel obs://bucket/data/ {cache}"]


@pytest.mark.parametrize("key", ["data_url", "checkpoint_url", "train_url"])
def test_absent_moxing_is_one_sentence_before_anything_is_done(tmp_path, key):
    config = configure(dataset="digits", data_path=str(tmp_path / "cache"), load_path=str(tmp_path / "cache"),
                       output_path=str(tmp_path / "out"), **{key: "obs://bucket/x"})
    with pytest.raises(UserError, match=f"{key}: obs://bucket/x needs the package moxing"):
        with staged(config, {}):
            raise AssertionError("the run must not begin")
    assert names(tmp_path) == [] and not (tmp_path / "cache").exists()


def test_folder_for_the_results_that_cannot_be_made_is_one_sentence_before_the_run(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="train_url: .*file/out cannot be made a folder"):
        with staged(configure(dataset="digits", train_url=str(tmp_path / "file" / "out")), {}):
            raise AssertionError("the run must not begin")


def test_local_folders_need_no_moxing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "moxing", None)  # an import of it fails
    config = configure(data_url=str(fill(tmp_path / "remote", train__a__1="x")), data_path=str(tmp_path / "cache"),
                       output_path=str(tmp_path / "run"), train_url=str(tmp_path / "out"))
    with staged(config, {}) as ready:
        fill(Path(ready.ckpt_save_dir), log="done")
    assert names(tmp_path / "out") == ["log.txt"]


# Weights.

@pytest.mark.parametrize("url", ["obs://bucket/weights/best.ckpt", "obs://bucket/weights",
                                 '[{"model_url": "obs://bucket/weights/best.ckpt", "model_name": "best.ckpt"}]'])
def test_one_checkpoint_becomes_ckpt_path(tmp_path, bucket, url):
    (bucket / "weights").mkdir()
    (bucket / "weights" / "best.ckpt").write_text("w")
    config = fetch(configure(ckpt_url=url, load_path=str(tmp_path / "load")), {}, ALONE)
    assert Path(config.ckpt_path).read_text() == "w" and config.ckpt_path.startswith(str(tmp_path / "load"))


def test_of_several_checkpoints_the_name_chooses(tmp_path):
    for name in ("a/best", "b/best", "b/last"):
        (tmp_path / "weights" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "weights" / f"{name}.ckpt").write_text(name)
    values = {"checkpoint_url": str(tmp_path / "weights"), "load_path": str(tmp_path / "load")}
    for wanted, expected in (("last.ckpt", "b/last"), ("b/best.ckpt", "b/best"), ("/home/me/last.ckpt", "b/last")):
        assert Path(fetch(configure(**values, ckpt_path=wanted), {}, ALONE).ckpt_path).read_text() == expected
    for wanted in ("", "best.ckpt", "none.ckpt"):
        with pytest.raises(UserError, match=f"ckpt_path: '{wanted}' does not say which .*best.ckpt"):
            fetch(configure(**values, ckpt_path=wanted), {}, ALONE)


def test_empty_list_of_weights_changes_nothing():
    assert fetch(configure(pretrain_url="[]"), {}, ALONE).ckpt_path == ""


@pytest.mark.parametrize("flags, expected", [
    (["--pretrain_url", "[]"], ""), (["--ckpt_url", "obs://b/x.ckpt", "--pretrain_url", "[]"], "obs://b/x.ckpt"),
    (["--pretrain_url=[ ]", "--multi_data_url=[]", "--checkpoint_url", "obs://b/y"], "obs://b/y")])
def test_an_empty_list_of_a_platform_says_nothing(flags, expected):
    config = load_config(["--dataset", "digits", *flags], task="train", spec=SPEC, model_dir=Path("nowhere"))
    assert (config.checkpoint_url, config.multi_data_url) == (expected, "")
    assert config.enable_modelarts == bool(expected)


def test_addresses_may_be_a_list_in_yaml(tmp_path):
    (tmp_path / "c.yaml").write_text('pretrain_url: [{"model_url": "obs://b/a.ckpt"}]\ndata_url: []\ndataset: digits\n')
    config = load_config(["--config_path", str(tmp_path / "c.yaml")], task="train", spec=SPEC, model_dir=tmp_path)
    assert sources("checkpoint_url", config.checkpoint_url) == [("obs://b/a.ckpt", "")] and config.data_url == ""


# Once per node.

PROGRAM = """
import os, sys, threading
from pathlib import Path
from common.cloud.staging import fetch, place
from common.config.load import from_mapping
from common.errors import UserError
mine = Path(os.environ["MOXING_ROOT"], os.environ["RANK_ID"])
threading.Timer(0.5, mine.with_suffix(".waits").touch).start()
try:
    config = fetch(from_mapping({"data_url": "obs://bucket/data", "data_path": sys.argv[1], "dataset": "folder"}, "t"),
                   os.environ, place(os.environ))
    print(config.data_dir, len(list(Path(config.data_dir, "train", "a").iterdir())))
except UserError as error:
    print("error:", error)
mine.with_suffix(".ended").touch()
"""


def several(count, cache, **environment):
    """Run the staging in several processes at once; return what each printed."""
    started = [subprocess.Popen([sys.executable, "-c", PROGRAM, str(cache)], text=True, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE,
                                env=os.environ | {"RANK_ID": str(rank), "RANK_SIZE": str(count)} | environment)
               for rank in range(count)]
    results = [process.communicate(timeout=300) for process in started]
    assert not any(err for _, err in results), results
    return [out.strip() for out, _ in results]


@pytest.mark.distributed
def test_one_of_several_processes_fetches_and_all_find_the_data(tmp_path, bucket):
    fill(bucket / "data", **{f"train__a__{i}": "x" for i in range(50)}, val__a__1="y")
    cache = tmp_path / "cache"
    printed = several(4, cache, JOB_ID="12", MOXING_WAITS_FOR="4 *.waits")
    assert printed == [f"{cache} 50"] * 4
    assert calls(bucket) == [f"copy_parallel obs://bucket/data {cache}"]
    [marker] = cache.glob(".staged-*")
    assert json.loads(marker.read_text())["job"] == "12"
    assert json.loads(marker.read_text())["source"] == "obs://bucket/data"


@pytest.mark.distributed
def test_every_waiting_process_reports_the_error_of_the_copy(tmp_path, bucket):
    fill(bucket / "data", train__a__1="x")
    printed = several(4, tmp_path / "cache", JOB_ID="12", MOXING_WAITS_FOR="4 *.waits",
                      MOXING_FAILS="quota exceeded\nsecond line")
    wanted = f"error: data_url: obs://bucket/data could not be copied to {tmp_path / 'cache'}: quota exceeded"
    assert printed == [wanted] * 4
    assert len(calls(bucket)) == 1


@pytest.mark.distributed
def test_waiting_ends_when_the_patience_does(tmp_path, bucket):
    fill(bucket / "data", train__a__1="x")
    printed = several(2, tmp_path / "cache", JOB_ID="12", MOXING_WAITS_FOR="1 *.ended", ZOO_STAGING_SECONDS="1")
    assert sorted(text.startswith("error: data_url: obs://bucket/data was not in") for text in printed) == [False, True]
    assert any("after 1 seconds" in text and "ZOO_STAGING_SECONDS" in text for text in printed)


def test_patience_is_not_lost_on_one_who_works_himself(tmp_path):
    once(tmp_path / "marker", lambda: time.sleep(0.1), patience=0.0)
    assert (tmp_path / "marker").exists()


def stage(bucket, cache, **where):
    fetch(configure(data_url="obs://bucket/data", data_path=str(cache)), {}, Place(**where))
    return len(calls(bucket)), (cache / "train" / "a" / "1.txt").read_text()


def test_the_marker_of_another_job_does_not_keep_the_data_from_coming(tmp_path, bucket):
    fill(bucket / "data", train__a__1="old")
    assert stage(bucket, tmp_path / "cache", job="1") == (1, "old")
    fill(bucket / "data", train__a__1="new")
    assert stage(bucket, tmp_path / "cache", job="1") == (1, "old"), "a process of the same job fetches nothing again"
    assert stage(bucket, tmp_path / "cache", job="2") == (2, "new")


def test_without_a_job_a_start_of_one_process_always_fetches(tmp_path, bucket):
    fill(bucket / "data", train__a__1="old")
    stage(bucket, tmp_path / "cache")
    fill(bucket / "data", train__a__1="new")
    assert stage(bucket, tmp_path / "cache") == (2, "new")


def test_without_a_job_several_processes_accept_a_fresh_marker_only(tmp_path, bucket):
    fill(bucket / "data", train__a__1="x")
    assert stage(bucket, tmp_path / "cache", size=2) == (1, "x")
    assert stage(bucket, tmp_path / "cache", size=2) == (1, "x")
    [marker] = (tmp_path / "cache").glob(".staged-*")
    earlier = time.time() - FRESH_SECONDS - 1
    os.utime(marker, (earlier, earlier))
    assert stage(bucket, tmp_path / "cache", size=2) == (2, "x")


def test_a_stale_lock_of_an_earlier_job_stops_nobody(tmp_path, bucket):
    fill(bucket / "data", train__a__1="x")
    stage(bucket, tmp_path / "cache", job="1")
    [marker] = (tmp_path / "cache").glob(".staged-*")
    marker.rename(marker.with_name(f"{marker.name}.lock"))
    assert stage(bucket, tmp_path / "cache", job="2") == (2, "x")


def test_data_of_another_source_is_not_mixed_in(tmp_path, bucket):
    fill(bucket / "data", train__a__1="x")
    fill(bucket / "other", train__b__1="x")
    stage(bucket, tmp_path / "cache", job="1")
    with pytest.raises(UserError, match="data_path: .*cache holds the data of obs://bucket/data.*obs://bucket/other"):
        fetch(configure(data_url="obs://bucket/other", data_path=str(tmp_path / "cache")), {}, Place(job="2"))
    assert not (tmp_path / "cache" / "train" / "b").exists()


# Results.

def test_run_folder_follows_output_path_unless_it_is_given(tmp_path):
    output = str(tmp_path / "out")
    assert fetch(configure(output_path=output), {}, ALONE).ckpt_save_dir == output
    assert fetch(configure(output_path=output, ckpt_save_dir="mine"), {}, ALONE).ckpt_save_dir == "mine"
    assert fetch(configure(output_path=output, task="export", file_name="net"), {}, ALONE).file_name == f"{output}/net"


def run_of(**values):
    """Return the configuration of a training for which nothing is fetched."""
    return configure(dataset="digits", **values)


def test_results_are_sent_from_output_path_and_from_a_run_folder_elsewhere(tmp_path, bucket):
    config = run_of(output_path=str(tmp_path / "out"), ckpt_save_dir=str(tmp_path / "run"), train_url="obs://bucket/r")
    with staged(config, {"JOB_ID": "1"}) as ready:
        fill(Path(ready.output_path), picture="p")
        fill(Path(ready.ckpt_save_dir), checkpoint="c")
    assert names(bucket / "r") == ["checkpoint.txt", "picture.txt"]


def test_run_folder_below_output_path_is_sent_once(tmp_path, bucket):
    config = run_of(output_path=str(tmp_path / "out"), ckpt_save_dir=str(tmp_path / "out" / "ckpt"),
                       train_url="obs://bucket/r")
    with staged(config, {}) as ready:
        fill(Path(ready.ckpt_save_dir), a="c")
    assert names(bucket / "r") == ["ckpt/a.txt"] and len(calls(bucket)) == 1


def test_only_the_leader_sends_after_a_success(tmp_path, bucket):
    config = run_of(ckpt_save_dir=str(fill(tmp_path / "run", a="c")), train_url="obs://bucket/r")
    with staged(config, {"RANK_ID": "1", "RANK_SIZE": "2"}):
        pass
    assert calls(bucket) == []


class Broken(Exception):
    """What a training may raise."""


@pytest.mark.parametrize("error", [Broken("x"), KeyboardInterrupt(), SystemExit(3)])
def test_results_of_a_failed_run_are_sent_by_whichever_rank_failed(tmp_path, bucket, error):
    config = run_of(ckpt_save_dir=str(tmp_path / "run"), train_url="obs://bucket/r")
    with pytest.raises(type(error)) as caught:
        with staged(config, {"RANK_ID": "1", "RANK_SIZE": "2"}):
            fill(tmp_path / "run", checkpoint="c")
            raise error
    assert caught.value is error
    assert names(bucket / "r") == ["checkpoint.txt"]


def test_ranks_that_fail_together_send_once_and_the_next_failure_sends_again(tmp_path, bucket):
    config = run_of(ckpt_save_dir=str(tmp_path / "run"), train_url="obs://bucket/r")

    def fail(*ranks):
        with pytest.raises(Broken), staged_by(config, ranks):
            fill(tmp_path / "run", checkpoint="c")
            raise Broken

    fail(0, 1, 2)
    assert len(calls(bucket)) == 1
    fail(0, 1, 2)
    assert len(calls(bucket)) == 2


def staged_by(config, ranks):
    """Enter the staging of several ranks, so that all have started before one fails."""
    stack = contextlib.ExitStack()
    for rank in ranks:
        stack.enter_context(staged(config, {"RANK_ID": str(rank), "RANK_SIZE": str(len(ranks))}))
    return stack


def test_a_failed_run_stays_its_own_failure_when_sending_fails_too(tmp_path, bucket, monkeypatch, capsys):
    monkeypatch.setenv("MOXING_FAILS", "quota exceeded")
    config = run_of(ckpt_save_dir=str(tmp_path / "run"), train_url="obs://bucket/r")
    with pytest.raises(Broken):
        with staged(config, {}):
            fill(tmp_path / "run", checkpoint="c")
            raise Broken
    assert "could not be sent: train_url:" in capsys.readouterr().out


def test_a_success_whose_results_cannot_be_sent_is_no_success(tmp_path, bucket, monkeypatch):
    monkeypatch.setenv("MOXING_FAILS", "quota exceeded")
    with pytest.raises(UserError, match="train_url: .*run could not be copied to obs://bucket/r: quota exceeded"):
        with staged(run_of(ckpt_save_dir=str(tmp_path / "run"), train_url="obs://bucket/r"), {}):
            fill(tmp_path / "run", checkpoint="c")


def test_results_sent_to_a_folder_leave_out_what_is_hidden(tmp_path):
    fill(tmp_path / "run", a="1")
    (tmp_path / "run" / ".a.unfinished.ckpt").write_text("half")
    send(run_of(ckpt_save_dir=str(tmp_path / "run"), train_url=str(tmp_path / "out" / "deep")), {})
    assert [path.name for path in (tmp_path / "out" / "deep").iterdir()] == ["a.txt"]


def test_results_are_not_copied_into_themselves(tmp_path):
    fill(tmp_path / "run", a="1")
    with pytest.raises(UserError, match="train_url: .*run/sent lies in .*run"):
        send(run_of(ckpt_save_dir=str(tmp_path / "run"), train_url=str(tmp_path / "run" / "sent")), {})
    send(run_of(ckpt_save_dir=str(tmp_path / "run"), train_url=str(tmp_path / "run")), {})


def test_data_that_is_missing_after_the_staging_is_one_sentence(tmp_path):
    config = configure(data_dir=str(tmp_path / "no"), train_url=str(tmp_path / "out"))
    with pytest.raises(UserError, match="data_dir: .*no' should be the folder of the data set"):
        with staged(config, {}):
            raise AssertionError("the run must not begin")


# OpenI's c2net.

@pytest.fixture
def openi(tmp_path, monkeypatch):
    """The stand-in for c2net, its folders, and the environment that OpenI gives."""
    (tmp_path / "packages" / "c2net").mkdir(parents=True)
    (tmp_path / "packages" / "c2net" / "__init__.py").write_text("")
    (tmp_path / "packages" / "c2net" / "context.py").write_text(C2NET)
    folders = {name: str(tmp_path / name) for name in ("dataset_path", "pretrain_model_path", "output_path")}
    for folder in folders.values():
        Path(folder).mkdir()
    monkeypatch.setenv("C2NET_PATHS", json.dumps(folders))
    monkeypatch.setenv("C2NET_CALLS", str(tmp_path / "calls"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    for name in ("c2net", "c2net.context"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield {"DATA_DOWNLOAD_METHOD": "MOXING", "LOCAL_DATASET_PATH": folders["dataset_path"], "JOB_ID": "5"}
    for name in ("c2net", "c2net.context"):
        sys.modules.pop(name, None)


def test_c2net_gives_data_weights_and_output_and_sends_the_results(tmp_path, openi):
    fill(tmp_path / "dataset_path", flowers__train__a__1="x", flowers__val__a__1="y")
    (tmp_path / "pretrain_model_path" / "best.ckpt").write_text("w")
    config = configure(data_dir="/path/to/imagenet", ckpt_save_dir=str(tmp_path / "run"))
    for rank in ("1", "0"):
        with staged(config, openi | {"RANK_ID": rank, "RANK_SIZE": "2"}) as ready:
            assert ready.data_dir == str(tmp_path / "dataset_path" / "flowers")
            assert ready.ckpt_path == str(tmp_path / "pretrain_model_path" / "best.ckpt")
            assert ready.output_path == str(tmp_path / "output_path")
            fill(tmp_path / "run", checkpoint="c")
    assert (tmp_path / "calls").read_text().splitlines() == ["prepare", "upload checkpoint.txt"]


def test_c2net_is_left_alone_where_addresses_are_given(tmp_path, openi):
    config = configure(data_url=str(fill(tmp_path / "remote", train__a__1="x")))
    assert fetch(config, openi, ALONE).data_dir == str(tmp_path / "remote")
    assert not (tmp_path / "calls").exists()


def test_absent_c2net_is_one_sentence(tmp_path, openi):
    shutil.rmtree(tmp_path / "packages")
    importlib.invalidate_caches()
    with pytest.raises(UserError, match="what OpenI offers needs the package c2net"):
        fetch(configure(), openi, dataclasses.replace(ALONE, job="6"))


# The entry point, as the platform starts it.

def start(bucket, tmp_path, *flags, **environment):
    config = write_yaml(tmp_path / "cloud.yaml", enable_modelarts=1, dataset="cifar10", val_while_train=False, epochs=1,
                        checkpoint_url="", mode="pynative", depth=1, output_path=tmp_path / "cache" / "train",
                        data_path=tmp_path / "cache" / "data", data_dir=tmp_path / "cache" / "data")
    return run("gmlp/train.py", "--config_path", config, "--data_url", "obs://bucket/digits", "--train_url",
               "obs://bucket/results", *flags, cwd=ROOT, JOB_ID="", ASCEND_DEVICE_ID="",
               PYTHONPATH=str(tmp_path / "packages"), MOXING_ROOT=str(bucket.parent), **environment)


def test_a_mistake_in_the_cloud_is_one_sentence_and_its_exit_code_is_kept(tmp_path, bucket):
    message = sentence(start(bucket, tmp_path))
    assert message == "error: data_url: obs://bucket/digits does not exist, or may not be read."
    (bucket / "digits").mkdir()
    fill(tmp_path / "cache" / "train", earlier="a result")  # of a run that got further
    message = sentence(start(bucket, tmp_path))
    assert "lacks the training files of CIFAR-10" in message
    assert names(bucket / "results") == ["earlier.txt"]


def test_a_training_in_the_cloud_from_beginning_to_end(tmp_path, bucket):
    assert run("-m", "common.dataset.digits", "write", bucket / "digits").returncode == 0
    result = start(bucket, tmp_path)
    assert result.returncode == 0, result.stderr
    sent = set(names(bucket / "results"))
    assert {"config.yaml", "history.jsonl", "log_rank_0.txt"} <= sent and any(name.endswith(".ckpt") for name in sent)
    assert calls(bucket) == [f"copy_parallel obs://bucket/digits {tmp_path / 'cache' / 'data'}",
                             f"copy_parallel {tmp_path / 'cache' / 'train'} obs://bucket/results"]
    assert "data_url: obs://bucket/digits is brought to" in result.stdout
    assert "is sent to obs://bucket/results" in result.stdout


def test_a_job_that_the_platform_ends_sends_what_it_has(tmp_path, bucket):
    """SIGTERM in the middle of a training, as at the end of the time that a job may take."""
    config = write_yaml(tmp_path / "cloud.yaml", enable_modelarts=1, epochs=200, mode="pynative", depth=1,
                        output_path=tmp_path / "cache" / "train")
    program = subprocess.Popen(
        [sys.executable, "gmlp/train.py", "--config_path", config, "--train_url", "obs://bucket/results"], cwd=ROOT,
        env=environment(JOB_ID="", PYTHONPATH=str(tmp_path / "packages"), MOXING_ROOT=str(bucket.parent)),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + 200
        while not list((tmp_path / "cache" / "train").glob("*-1_*.ckpt")):
            assert program.poll() is None and time.monotonic() < end
            time.sleep(0.1)
        program.terminate()
        out, error = program.communicate(timeout=300)
    finally:
        program.kill()
    assert program.returncode == 128 + signal.SIGTERM and "Stopped; the training goes on" in error, error
    assert {"history.jsonl", "log_rank_0.txt"} <= set(names(bucket / "results"))
    assert any(re.search(r"-1_\d+\.ckpt$", name) for name in names(bucket / "results"))


def test_a_fetched_checkpoint_brings_the_settings_of_its_training(tmp_path, bucket):
    """As everywhere, an evaluation without --config_path needs nothing but the weights."""
    settings = {"model": "gmlp_ti", "image_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 1, "mlp_ratio": 2,
                "num_classes": 10, "dataset": "digits", "eval_dir": "/gone/val"}
    config = from_mapping(settings, "test")
    network = build_network(config, SPEC)
    save_checkpoint(bucket / "weights" / "tiny.ckpt", weights_of(network),
                    {"family": "gmlp", "model": "gmlp_ti", "config": plain(config)})
    result = run("gmlp/eval.py", "--checkpoint_url", "obs://bucket/weights", "--load_path", tmp_path / "weights",
                 "--device_target", "CPU", cwd=ROOT, JOB_ID="", PYTHONPATH=str(tmp_path / "packages"),
                 MOXING_ROOT=str(bucket.parent))
    assert result.returncode == 0, result.stderr
    assert "Top_1_Accuracy" in result.stdout and "360 images" in result.stdout


@pytest.mark.parametrize("data_dir, eval_dir", [("fetched", ""), ("", "/gone/val")])
def test_the_evaluation_data_of_a_training_go_with_its_data(tmp_path, data_dir, eval_dir):
    (tmp_path / "a.ckpt").touch()
    before, written = configure(), configure(eval_dir="/gone/val")
    fetched = dataclasses.replace(before, ckpt_path=str(tmp_path / "a.ckpt"), data_dir=data_dir or before.data_dir)
    assert _with_settings(before, fetched, lambda path: written).eval_dir == eval_dir
