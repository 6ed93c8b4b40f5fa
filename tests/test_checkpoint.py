"""A checkpoint is whole or absent, says what it holds, and fits or is refused with names."""
import json
import os
import socket
import stat
import subprocess
import sys

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from small_networks import Linear, TwoLayers

from common.checkpoint.file import FORMAT, META, load_checkpoint, save_checkpoint
from common.checkpoint.lock import FolderLock
from common.checkpoint.meta import read_meta
from common.checkpoint.run_folder import RunFolder
from common.checkpoint.weights import load_into, network_tensors
from common.errors import UserError


@pytest.fixture
def tensors():
    return {"head.weight": np.arange(12, dtype=np.float32).reshape(3, 4), "head.bias": np.zeros(3, np.float32),
            "adam_m.head.bias": np.ones(3, np.float32), "train.micro_steps": np.array(7, np.int32)}


def test_tensors_and_description_come_back_as_they_were(tmp_path, tensors):
    path = save_checkpoint(tmp_path / "a.ckpt", tensors, {"epoch": 3, "best": 0.5, "classes": ["ä", "b"]})
    read, meta = load_checkpoint(path)
    assert meta == {"epoch": 3, "best": 0.5, "classes": ["ä", "b"]} == read_meta(path)
    assert read.keys() == tensors.keys()
    for name in tensors:
        assert read[name].dtype == tensors[name].dtype
        np.testing.assert_array_equal(read[name], tensors[name])


def test_a_saved_file_is_readable_by_others_and_leaves_no_other_file(tmp_path, tensors):
    path = save_checkpoint(tmp_path / "new folder" / "a.ckpt", tensors, {})
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert os.listdir(path.parent) == ["a.ckpt"]


def test_a_failed_write_keeps_the_old_file(tmp_path, tensors):
    path = save_checkpoint(tmp_path / "a.ckpt", tensors, {"epoch": 1})
    with pytest.raises(TypeError):
        save_checkpoint(path, tensors, {"epoch": {1, 2}})  # a set is no JSON: fails half way
    assert load_checkpoint(path)[1] == {"epoch": 1}
    assert os.listdir(tmp_path) == ["a.ckpt"]


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path, tensors):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        save_checkpoint(tmp_path / "file" / "a.ckpt", tensors, {})


@pytest.mark.parametrize("name, damage", [
    ("truncated", lambda raw: raw[:len(raw) // 2]), ("empty", lambda raw: b""),
    ("another file", lambda raw: b"PK\x03\x04" + bytes(200)),
    ("one flipped bit", lambda raw: raw[:40] + bytes([raw[40] ^ 1]) + raw[41:])])
def test_a_damaged_file_is_refused_by_name(tmp_path, tensors, name, damage):
    path = save_checkpoint(tmp_path / "a.ckpt", tensors, {})
    raw = path.read_bytes()
    path.write_bytes(damage(raw))
    with pytest.raises(UserError, match="a.ckpt"):
        load_checkpoint(path)


@pytest.mark.parametrize("path, sentence", [("no.ckpt", "does not exist"), (".", "is a folder"),
                                            ("a.pth", "not a .ckpt file")])
def test_a_wrong_path_says_why(tmp_path, path, sentence):
    (tmp_path / "a.pth").write_bytes(b"x")
    with pytest.raises(UserError, match=sentence):
        load_checkpoint(tmp_path / path)


def test_checkpoints_of_other_programs_are_read(tmp_path):
    """The old model zoo's files carry neither a description nor a checksum."""
    ms.save_checkpoint([{"name": "w", "data": Tensor([1.0, 2.0])}], str(tmp_path / "old.ckpt"))
    tensors, meta = load_checkpoint(tmp_path / "old.ckpt")
    assert meta == {} and tensors["w"].tolist() == [1.0, 2.0]


def test_network_tensors_leaves_the_training_state_out(tensors):
    assert set(network_tensors(tensors)) == {"head.weight", "head.bias"}


def test_network_tensors_prefers_the_average_when_asked(tensors):
    tensors["ema.head.bias"] = np.full(3, 9, np.float32)
    assert network_tensors(tensors, ema=True)["head.bias"].tolist() == [9, 9, 9]
    assert network_tensors(tensors)["head.bias"].tolist() == [0, 0, 0]


def test_loading_fills_every_parameter(tensors):
    network = Linear(4, 3)
    report = load_into(network, network_tensors(tensors), "a.ckpt")
    assert report.matched == ["head.weight", "head.bias"] and report.summary() == "2 tensors loaded"
    np.testing.assert_array_equal(network.head.weight.asnumpy(), tensors["head.weight"])


@pytest.mark.parametrize("change, sentence", [
    (lambda t: t.pop("head.bias"), r"1 missing \(head.bias\)"),
    (lambda t: t.update(other=np.zeros(2)), r"1 unexpected \(other\)"),
    (lambda t: t.update({"head.weight": np.zeros((3, 5))}), r"head.weight: network \(3, 4\), checkpoint \(3, 5\)"),
    (lambda t: t.update({"head.weight": np.zeros((5, 4)), "head.bias": np.zeros(5)}),
     "a.ckpt has 5 outputs, but num_classes is 3; give --num_classes 5.$")])
def test_what_does_not_fit_is_refused_and_changes_nothing(tensors, change, sentence):
    network = Linear(4, 3)
    before = network.head.weight.asnumpy().copy()
    selected = network_tensors(tensors)
    change(selected)
    with pytest.raises(UserError, match=sentence):
        load_into(network, selected, "a.ckpt")
    np.testing.assert_array_equal(network.head.weight.asnumpy(), before)


def test_the_one_output_more_of_the_old_zoo_is_explained():
    tensors = {"head.weight": np.zeros((1001, 4), np.float32), "head.bias": np.zeros(1001, np.float32)}
    with pytest.raises(UserError, match=r"has 1001 outputs, but num_classes is 1000; give --num_classes 1001 \(.*old"):
        load_into(Linear(4, 1000), tensors, "a.ckpt")


def test_what_has_no_effect_may_be_in_the_file_alone_or_in_the_network_alone(tensors):
    def dead(name, network):
        return name in ("idle", "head.bias") and isinstance(network, Linear)

    tensors = network_tensors(tensors) | {"idle": np.zeros(2)}
    del tensors["head.bias"]
    report = load_into(Linear(4, 3), tensors, "a.ckpt", dead=dead)
    assert report.dead == ["idle"] and report.new == ["head.bias"]
    assert report.summary() == "1 tensors loaded, new: head.bias, without effect and left out: 1 (idle)"
    with pytest.raises(UserError, match=r"1 unexpected \(other\)"):
        load_into(Linear(4, 3), tensors | {"other": np.zeros(2)}, "a.ckpt", dead=dead)


def test_the_state_of_a_training_in_the_old_zoo_is_left_out():
    state = ("adam_m.head.weight", "adam_v.head.weight", "beta1_power", "beta2_power", "learning_rate", "global_step",
             "learning_rate_group_0", "weight_decay_group_1", "scale_sense", "current_iterator_step",
             "last_overflow_iterator_step", "epoch_num", "step_num")
    assert list(network_tensors(dict.fromkeys((*state, "head.weight", "norm.beta"), 0))) == [
        "head.weight", "norm.beta"]


def test_a_new_head_keeps_its_initial_values_and_is_named():
    network = TwoLayers(4, 3)
    before = network.head.weight.asnumpy().copy()
    tensors = {"head.weight": np.zeros((9, 4), np.float32), "head.bias": np.zeros(9, np.float32),
               "body.weight": np.ones((4, 4), np.float32), "body.bias": np.ones(4, np.float32)}
    report = load_into(network, tensors, "a.ckpt", new_head=True)
    assert report.new == ["head.weight", "head.bias"] and "new: head.weight" in report.summary()
    np.testing.assert_array_equal(network.head.weight.asnumpy(), before)
    np.testing.assert_array_equal(network.body.weight.asnumpy(), tensors["body.weight"])


def test_parameters_that_may_be_new_are_named_and_no_others_may_be_missing():
    tensors = {"head.weight": np.zeros((3, 4), np.float32), "head.bias": np.zeros(3, np.float32),
               "body.weight": np.ones((4, 4), np.float32)}
    network = TwoLayers(4, 3)
    report = load_into(network, tensors, "a.ckpt", new=["body.bias"])
    assert report.new == ["body.bias"] and report.matched == ["body.weight", "head.weight", "head.bias"]
    report.resized, report.left_out = ["body.weight"], [f"old.{i}" for i in range(6)]
    assert report.summary() == ("3 tensors loaded, resized: body.weight, new: body.bias, left out: 6 (old.0, old.1, "
                                "old.2, old.3 and 2 more)")
    with pytest.raises(UserError, match="1 missing .body.weight"):
        load_into(network, {"head.bias": tensors["head.bias"], "head.weight": tensors["head.weight"]},
                             "a.ckpt", new=["body.bias"])


def test_a_checkpoint_that_shares_nothing_is_refused_even_with_a_new_head():
    with pytest.raises(UserError, match="does not fit"):
        load_into(Linear(4, 3), {"stem.weight": np.zeros(3)}, "a.ckpt", new_head=True)


def test_a_run_keeps_its_newest_checkpoints_and_the_best(tmp_path, tensors):
    folder = RunFolder(tmp_path, "net", keep=2)
    for epoch in (1, 2, 9, 10):
        path = folder.save(epoch, 5, tensors, {"epoch": epoch})
    folder.save_best(tensors, {"epoch": 10}, [10], same_as=path)
    assert [p.name for p in folder.checkpoints()] == ["net-9_5.ckpt", "net-10_5.ckpt"]  # by number, not by letter
    assert folder.best.read_bytes() == path.read_bytes()


def test_the_newest_whole_checkpoint_is_taken_and_the_damaged_one_named(tmp_path, tensors):
    folder = RunFolder(tmp_path, "net")
    for epoch in (1, 2):
        folder.save(epoch, 5, tensors, {"epoch": epoch})
    (tmp_path / "net-2_5.ckpt").write_bytes(b"cut")
    path, _, meta, problems = folder.newest()
    assert (path.name, meta["epoch"]) == ("net-1_5.ckpt", 1) and "net-2_5.ckpt" in problems[0]


def test_a_run_whose_checkpoints_are_all_damaged_is_not_started_over(tmp_path):
    (tmp_path / "net-2_5.ckpt").write_bytes(b"cut")
    with pytest.raises(UserError, match="none of the checkpoints"):
        RunFolder(tmp_path, "net").newest()


def test_an_empty_folder_is_no_run(tmp_path):
    (tmp_path / "net_best.ckpt").write_bytes(b"x")
    (tmp_path / ".net-3_5.123.unfinished.ckpt").write_bytes(b"x")  # left by a killed process
    assert RunFolder(tmp_path, "net").newest() is None


def test_the_description_is_json_inside_the_file(tmp_path, tensors):
    path = save_checkpoint(tmp_path / "a.ckpt", tensors, {"epoch": 4})
    assert json.loads(ms.load_checkpoint(str(path))[META]) == {"format": FORMAT, "epoch": 4}


def test_a_file_of_a_newer_format_is_refused_and_no_older_one_taken_instead(tmp_path, tensors):
    folder = RunFolder(tmp_path, "net")
    for epoch in (1, 2):
        folder.save(epoch, 5, tensors, {"format": FORMAT + epoch - 1})
    with pytest.raises(UserError, match=f"net-2_5.ckpt has the format {FORMAT + 1}, of a newer version"):
        folder.newest()


def test_a_machine_whose_memory_is_in_the_page_cache_reads_checkpoints(tmp_path, tensors, monkeypatch):
    path = save_checkpoint(tmp_path / "a.ckpt", tensors, {"epoch": 4})
    known = os.sysconf
    monkeypatch.setattr(os, "sysconf", lambda name: 1 if name == "SC_AVPHYS_PAGES" else known(name))
    monkeypatch.setattr(os.path, "getsize", lambda path: 1 << 60)  # of which the framework asks
    assert load_checkpoint(path)[1] == {"epoch": 4}
    assert os.sysconf("SC_AVPHYS_PAGES") == 1  # as it was


@pytest.mark.parametrize("cause, words", [(MemoryError(), "do not fit into the memory"),
                                          (OSError(5, "Input/output error"), "cannot be read .Input/output error")])
def test_what_is_not_the_files_fault_does_not_make_a_run_take_an_older_one(tmp_path, tensors, monkeypatch, cause, words):
    folder = RunFolder(tmp_path, "net")
    for epoch in (1, 2):
        folder.save(epoch, 5, tensors, {"epoch": epoch})

    def fail(*_, **__):
        try:
            raise cause
        except Exception as error:
            raise ValueError("the framework hides the cause") from error

    monkeypatch.setattr(ms, "load_checkpoint", fail)
    with pytest.raises(UserError, match=f"net-2_5.ckpt.*{words}"):
        folder.newest()


def test_a_folder_is_for_one_training_at_a_time_and_opens_when_its_owner_is_killed(tmp_path):
    code = ("import sys, time; from pathlib import Path; from common.checkpoint.lock import FolderLock\n"
            "FolderLock(Path(sys.argv[1])).take(); print('taken', flush=True); time.sleep(600)")
    owner = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True)
    try:
        assert owner.stdout.readline() == "taken\n"
        with pytest.raises(UserError, match=f"still runs, process {owner.pid} on {socket.gethostname()};"):
            FolderLock(tmp_path).take()
    finally:
        owner.kill()
        owner.wait()
    lock = FolderLock(tmp_path)
    lock.take()
    lock.check()


def test_a_folder_that_vanishes_or_is_another_one_is_noticed_before_anything_is_written(tmp_path, tensors):
    folder = RunFolder(tmp_path / "run", "net")
    folder.folder.mkdir()
    folder.begin()
    folder.save(1, 5, tensors, {"epoch": 1})
    folder.folder.rename(tmp_path / "moved")
    with pytest.raises(UserError, match="run was removed, moved or replaced"):
        folder.save(2, 5, tensors, {"epoch": 2})
    assert not folder.folder.exists()
    folder.folder.mkdir()
    folder.lock.path.write_text("of another training")
    with pytest.raises(UserError, match="run was removed, moved or replaced"):
        folder.save_best(tensors, {"epoch": 2}, [2])


def test_what_killed_processes_left_unfinished_is_removed(tmp_path, tensors):
    for name in (".net-3_5.123.unfinished.ckpt", ".net-3_5.123.unfinished.tmp", ".history.123.unfinished.jsonl"):
        (tmp_path / name).write_text("half")
    (tmp_path / ".hidden").write_text("of the user")
    RunFolder(tmp_path, "net").begin()
    assert sorted(os.listdir(tmp_path)) == [".hidden", ".lock"]


def test_checkpoints_inside_an_epoch_give_way_to_the_next_and_count_for_none_that_is_kept(tmp_path, tensors):
    folder = RunFolder(tmp_path, "net", keep=2, steps_per_epoch=5)
    kept = []
    for epoch, step in ((1, 5), (2, 5), (3, 2), (3, 4), (3, 5), (4, 1)):
        folder.save(epoch, step, tensors, {})
        kept.append([path.name[4:-5] for path in folder.checkpoints()])
    assert kept == [["1_5"], ["1_5", "2_5"], ["1_5", "2_5", "3_2"], ["1_5", "2_5", "3_4"], ["2_5", "3_5"],
                    ["2_5", "3_5", "4_1"]]
    for left in ((1, 5), (3, 4)):  # by a kill right after the newest was saved
        folder.path_of(*left).touch()
    folder.remove_before(folder.path_of(4, 1))
    assert [path.name[4:-5] for path in folder.checkpoints()] == kept[-1]


@pytest.mark.parametrize("keep, names", [(1, ["net_best.ckpt"]), (2, ["net_best.ckpt", "net_best_epoch2.ckpt",
                                                                      "net_best_epoch3.ckpt"])])
@pytest.mark.parametrize("state, words", [("missing", "was missing"), ("damaged", "was damaged"),
                                          ("other", "held epoch 1 instead of 2"), ("right", "")])
def test_the_best_checkpoints_are_made_again_or_mentioned(tmp_path, tensors, state, words, keep, names):
    folder = RunFolder(tmp_path, "net", steps_per_epoch=5, keep_best=keep)
    paths = {epoch: folder.save(epoch, 5, tensors, {"epoch": epoch}) for epoch in (1, 2, 3, 4)}
    best = [2, 3][:keep]
    if state != "missing":
        for epoch in [1] if state == "other" else [4, *best]:  # what a later epoch left, that has to be done again
            folder.save_best(tensors, {"epoch": epoch}, [epoch] if state == "other" else [*best, 4])
    if state == "damaged":
        for path in folder.best_files(best):
            path.write_bytes(path.read_bytes()[:-30])
    said = folder.mend_best(best, paths[4])
    assert len(said) == (0 if state == "right" else len(names)) and (state == "right" or words in said[0])
    assert sorted(path.name for path in tmp_path.glob("*best*")) == names
    assert {path: load_checkpoint(path)[1]["epoch"] for path in folder.best_files(best)} == folder.best_files(best)
    paths[2].unlink()
    for path, epoch in folder.best_files(best).items():
        if epoch == 2:
            path.unlink()
    assert "it stays so until a better epoch comes" in folder.mend_best(best, paths[4])[0]
