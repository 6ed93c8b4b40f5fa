"""``sink_size``: an epoch of a few batches, in everything that follows from its length.

A CPU never sinks. ``Sinking`` does what the framework's ``Model.train`` does where it sinks (mindspore/train/model.py
of 2.10, ``_train_dataset_sink_process``): the callbacks of a step come once per sink in graph mode, once per batch in
PyNative mode.
"""
import importlib
import json
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from entry import ROOT
from mindspore import nn
from mindspore.dataset import GeneratorDataset
from mindspore.train import Callback
from small_networks import WithStatistics

from common.checkpoint.file import load_checkpoint
from common.config.load import from_mapping, load_config
from common.dataset.samples import steps_of_epoch
from common.errors import UserError
from common.lr import schedule
from common.optimizer.rules import SGD
from common.tasks import train as task
from common.tasks.loop import train_in_the_open
from common.train_step import ClassifierLoss, TrainStep
from gmlp.src.spec import SPEC

TINY = {"model": "gmlp_ti", "dataset": "digits", "image_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 1,
        "device_target": "CPU", "num_workers": 1, "batch_size": 120, "drop_path_rate": 0.2, "val_while_train": False, "mode": "pynative"}
SINK = {"dataset_sink_mode": True, "sink_size": 3, "epochs": 4}  # 12 batches; a pass through the digits has fewer


class Sinking:
    """``Model`` on a device that sinks."""

    def __init__(self, step):
        self.step = step

    def train(self, epoch, train_dataset, callbacks, dataset_sink_mode, sink_size=-1, initial_epoch=0):
        assert dataset_sink_mode
        graph = ms.get_context("mode") == ms.GRAPH_MODE
        size = train_dataset.get_dataset_size() if sink_size == -1 else sink_size
        batches = train_dataset.create_tuple_iterator(num_epochs=epoch)
        arguments = SimpleNamespace(cur_step_num=0, batch_num=size, dataset_sink_mode=True, device_target="Ascend")
        context = SimpleNamespace(original_args=lambda: arguments)

        def tell(moment):
            for callback in callbacks:
                getattr(callback, moment)(context)

        tell("on_train_begin")
        for arguments.cur_epoch_num in range(initial_epoch + 1, epoch + 1):
            tell("on_train_epoch_begin")
            for number, batch in enumerate(batches, 1):
                arguments.net_outputs = self.step(*batch)
                if not graph or number == size:
                    arguments.cur_step_num += size if graph else 1
                    tell("on_train_step_end")
            tell("on_train_epoch_end")
        tell("on_train_end")


def train(folder, sinks, monkeypatch, **values):
    if sinks:
        monkeypatch.setattr(task, "Model", Sinking)
    return task.train(from_mapping(TINY | {"ckpt_save_dir": str(folder)} | values, "test", SPEC), SPEC)


def rows(folder):
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("graph", ["graph", "pynative"])
def test_epochs_are_as_long_as_the_sink_in_all_that_follows_from_it(graph, tmp_path, monkeypatch, caplog):
    state = train(tmp_path, True, monkeypatch, mode=graph, **SINK)
    assert (state.steps_per_epoch, len(state.lr)) == (3, 12)
    found = rows(tmp_path)
    assert [row["epoch"] for row in found] == [1, 2, 3, 4]
    assert all(row["images_per_second"] == pytest.approx(3 * 120 / row["epoch_time"]) for row in found)
    assert [row["lr"] for row in found] == pytest.approx([state.lr[2], state.lr[5], state.lr[8], state.lr[11]])
    assert {path.name for path in tmp_path.glob("*.ckpt")} == {f"gmlp_dim16_depth1-{n}_3.ckpt" for n in (1, 2, 3, 4)}
    tensors, meta = load_checkpoint(tmp_path / "gmlp_dim16_depth1-4_3.ckpt")
    assert (meta["epoch"], int(tensors["train.micro_steps"])) == (4, 12)


def test_a_loop_in_the_open_trains_the_same(tmp_path):
    """What train_with_func.py does, also continued, beside the framework's ``Model.train``."""
    values = TINY | {"mixup": 0.2, "scheduler": "constant", "save_checkpoint_epochs": 1, "batch_size": 360}
    for folder, steps in (("open", ((2, True),)), ("framework", ((2, False),)), ("parts", ((1, True), (2, True)))):
        for epochs, in_the_open in steps:
            keys = values | {"ckpt_save_dir": str(tmp_path / folder), "epochs": epochs}
            task.train(from_mapping(keys, "test", SPEC), SPEC, in_the_open)
    tensors = [load_checkpoint(next((tmp_path / folder).glob("*-2_*.ckpt")))[0]
               for folder in ("open", "framework", "parts")]
    for other in tensors[1:]:
        assert all(np.array_equal(value, other[name]) for name, value in tensors[0].items())


class Note(Callback):
    """What a callback is told: moment, epoch, loss."""

    def __init__(self):
        super().__init__()
        self.told = []

    def on_train_epoch_begin(self, run_context):
        self.told.append(("epoch", run_context.original_args().cur_epoch_num))

    def on_train_step_end(self, run_context):
        self.told.append(("step", run_context.original_args().cur_epoch_num,
                          float(run_context.original_args().net_outputs)))

    def on_train_epoch_end(self, run_context):
        self.told.append(("epoch is done", run_context.original_args().cur_epoch_num))


def test_a_compiled_step_computes_the_same_in_the_open():
    """BatchNorm tells training from evaluation."""
    ms.set_context(mode=ms.GRAPH_MODE)
    rng = np.random.default_rng(0)
    rows = [(rng.normal(size=12).astype(np.float32), np.int32(rng.integers(4))) for _ in range(24)]
    found = []
    for in_the_open in (True, False):
        ms.set_seed(1)  # of the initial weights
        network, note = WithStatistics(12, 4), Note()
        rule = SGD(network.trainable_params(), 0.5)
        step = TrainStep(ClassifierLoss(network, nn.CrossEntropyLoss()), network, rule)
        data = GeneratorDataset(rows, ["images", "labels"], shuffle=False).batch(8)
        if in_the_open:
            train_in_the_open(step, 3, data, [note], initial_epoch=1)
        else:
            ms.Model(step).train(3, data, [note], dataset_sink_mode=False, initial_epoch=1)
        found.append(note.told + [value.asnumpy().tolist() for value in network.get_parameters()])
    assert found[0] == found[1] and found[0].count(("epoch is done", 3)) == 1


def test_a_device_that_does_not_sink_trains_the_same(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        train(tmp_path / "sinks", True, patched, **SINK)
    train(tmp_path / "steps", False, monkeypatch, **SINK)
    assert [row["loss"] for row in rows(tmp_path / "sinks")] == [row["loss"] for row in rows(tmp_path / "steps")]


def test_a_continued_training_goes_on_in_the_data_where_it_ended(tmp_path, monkeypatch):
    whole = SINK | {"scheduler": "constant"}
    train(tmp_path / "whole", True, monkeypatch, **whole)
    train(tmp_path / "parts", True, monkeypatch, **(whole | {"epochs": 2}))
    train(tmp_path / "parts", True, monkeypatch, **whole)
    assert [row["loss"] for row in rows(tmp_path / "parts")] == [row["loss"] for row in rows(tmp_path / "whole")]


def test_the_mean_loss_is_that_of_the_steps_that_ran(tmp_path, monkeypatch):
    """With a rate of almost zero every batch has about the loss of the first."""
    train(tmp_path, True, monkeypatch, lr=1e-12, scheduler="constant", **SINK)
    assert [row["loss"] for row in rows(tmp_path)] == pytest.approx([np.log(10)] * 4, rel=0.1)


def test_a_sink_must_be_a_whole_number_of_steps(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="sink_size: 5 batches .* accumulation_steps: 2"):
        train(tmp_path, True, monkeypatch, dataset_sink_mode=True, sink_size=5, accumulation_steps=2)


@pytest.mark.parametrize("file", ["soft/config/SOFT_tiny_cloud_graph_ascend_O3.yml", "soft/config/SOFT_config.yml",
                                  "hlg/config/hlg_config.yml", "hlg/config/hlg_cloud.yml"])
def test_the_seeds_way_to_profile_works_with_the_shipped_files(file, tmp_path):
    """Their READMEs: epochs 1, a sink of 5, the profiler on; the warm-up of these recipes is longer than that."""
    spec = importlib.import_module(f"{file.split('/', 1)[0]}.src.spec").SPEC
    flags = ["--epochs", "1", "--sink_size", "5", "--open_profiler", "True", "--dataset", "digits"]
    config = load_config(["--config_path", str(ROOT / file), *flags], task="train", spec=spec,
                         model_dir=(ROOT / file).parents[1])
    assert steps_of_epoch(config, 1000, 1) == 5
    lr = schedule(config, 5, 128)
    assert lr.shape == (5,) and np.isfinite(lr).all() and lr.max() < config.lr
