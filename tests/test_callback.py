"""What a training prints and records: the seeds' lines to the letter, one record per epoch, a stop on NaN."""
import json
import logging
import re
from dataclasses import dataclass

import numpy as np
import pytest
from mindspore import dataset as ds, nn
from mindspore.train import Model
from small_networks import Linear

from common.callback import tensorboard
from common.callback.epoch import Pictures, callbacks
from common.callback.stop import StopWhenAsked
from common.checkpoint.run_folder import RunFolder
from common.config.options import Config
from common.context.ranks import Runtime
from common.dataset.samples import ArraySamples
from common.errors import UserError
from common.logger import LogLines, LogStyle
from common.metric import Scores
from common.optimizer.rules import SGD
from common.run.training import Run, TrainingState
from common.spec import ModelSpec
from common.train_step import ClassifierLoss, TrainStep

EPOCHS, BATCHES, BATCH = 4, 5, 8

ZOO = LogStyle(  # the old zoo's lines, as SOFT's seed shows them
    train_epoch="epoch[{epoch0}], step_num[{epoch0}], loss={loss:.6f}",
    epoch_total="epoch[{epoch0}], epoch time: {epoch_time:.2f}s, per step time: {step_time:.4f}s, loss={loss:.6f}, "
                "lr={lr:.6f}, fps={fps:.2f}{evaluated_part}",
    evaluated_part=", accuracy={top1:.6f}, eval_cost={eval_time:.2f}",
    saved="saved {path}", finished="training time used={train_time:.2f}s\nmean_fps[{mean_fps:.2f}]",
    best="last_metric[{best:.5f}]")


class Kept(logging.Handler):
    """Keeps the messages."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


@pytest.fixture
def kept():
    logger, handler = logging.getLogger("test"), Kept()
    logger.setLevel(logging.INFO)
    logger.handlers = [handler]
    return logger, handler.lines


@dataclass(frozen=True)
class DrawingConfig(Config):
    """What a model adds that draws pictures of its training."""

    sample_every: int = 0


def run_of(folder, logger, lr, draw_samples=None, **keys):
    """A run of a network that no configuration names."""
    spec = ModelSpec("net", {"net": {}}, None, log_style=ZOO, draw_samples=draw_samples)
    samples = ArraySamples("noise", ["a", "b", "c"], np.zeros(0, np.int32), np.zeros((0, 2, 2, 3), np.uint8), [])
    return Run(DrawingConfig(model="net", epochs=EPOCHS, **keys), spec, Runtime(), samples,
               TrainingState(EPOCHS, BATCHES, BATCH, lr),
               RunFolder(folder, "net", keep=2, keep_best=keys.get("keep_best_max", 1)), LogLines(ZOO, logger))


def train(folder, logger, *, scores=(0.25, 0.5, 0.375, 0.5), poison=None, **keys):
    """Run a real training of a linear network with every callback."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(BATCHES * BATCH, 1, 3, 2)).astype(np.float32)
    if poison is not None:
        images[poison] = np.nan
    labels = rng.integers(0, 3, BATCHES * BATCH).astype(np.int32)
    data = ds.NumpySlicesDataset({"image": images, "label": labels}, shuffle=False).batch(BATCH)
    network = Linear(6, 3)
    lr = np.linspace(0.1, 0.01, EPOCHS * BATCHES).astype(np.float32)
    step = TrainStep(ClassifierLoss(network, nn.CrossEntropyLoss()), network,
                     SGD(network.trainable_params(), lr, momentum=0.0))
    results = iter(scores)
    run = run_of(folder, logger, lr, log_interval=2, save_checkpoint_epochs=3, **keys)
    Model(step).train(EPOCHS, data, callbacks(run, step, lambda **_: Scores(next(results), 0.9, 1.5, 40, 5, 0.25), 0),
                      dataset_sink_mode=False)
    return run.state, lr


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A training with nothing special: its folder, what it said, its state, its learning rates."""
    logger, handler, folder = logging.getLogger("plain"), Kept(), tmp_path_factory.mktemp("plain")
    logger.setLevel(logging.INFO)
    logger.handlers = [handler]
    return folder, handler.lines, *train(folder, logger)


def test_the_lines_have_the_seeds_form(plain):
    _, lines, _, _ = plain
    assert re.fullmatch(r"epoch\[0\], step_num\[0\], loss=\d\.\d{6}", [x for x in lines if "step_num" in x][0])
    totals = [x for x in lines if "epoch time" in x]
    assert len(totals) == EPOCHS
    assert re.fullmatch(r"epoch\[3\], epoch time: \d+\.\d\ds, per step time: \d\.\d{4}s, loss=\d\.\d{6}, lr=0\.010000, "
                        r"fps=\d+\.\d\d, accuracy=0\.500000, eval_cost=0\.25", totals[-1])


def test_an_epoch_without_evaluation_has_the_line_without_its_part(tmp_path, kept):
    logger, lines = kept
    train(tmp_path, logger, eval_interval=2)
    assert ["accuracy" in x for x in lines if "epoch time" in x] == [False, True, False, True]


@pytest.mark.parametrize("interval, offset, epochs", [(3, -1, [1, 4]), (3, 0, [3]), (3, 2, [2])])
def test_evaluation_follows_interval_and_offset(tmp_path, kept, interval, offset, epochs):
    train(tmp_path, kept[0], eval_interval=interval, eval_offset=offset)
    rows = list(map(json.loads, (tmp_path / "history.jsonl").read_text().splitlines()))
    assert [row["epoch"] for row in rows if "top1" in row] == epochs


def test_the_record_holds_the_mean_loss_and_the_rate_that_was_applied(plain):
    folder, _, _, lr = plain
    rows = list(map(json.loads, (folder / "history.jsonl").read_text().splitlines()))
    assert [row["lr"] for row in rows] == pytest.approx([lr[4], lr[9], lr[14], lr[19]])
    assert rows[0]["loss"] > rows[-1]["loss"] and rows[0]["top1"] == 0.25 and rows[0]["skipped"] == 0


def test_best_and_newest_checkpoints_are_kept(plain):
    folder, _, state, _ = plain
    assert (state.best, state.best_epoch) == (0.5, 2)  # the first of two equal ones
    assert sorted(p.name for p in folder.glob("*.ckpt")) == ["net-3_5.ckpt", "net-4_5.ckpt", "net_best.ckpt"]
    from common.checkpoint.file import load_checkpoint
    assert load_checkpoint(folder / "net_best.ckpt")[1]["epoch"] == 2


def test_the_best_checkpoints_are_kept_as_many_as_wanted(tmp_path, kept):
    from common.checkpoint.file import load_checkpoint

    state, _ = train(tmp_path, kept[0], keep_best_max=2)
    assert state.bests == [(0.5, 2), (0.5, 4)]  # 0.25 of the first epoch and 0.375 of the third gave way
    assert {path.name: load_checkpoint(path)[1]["epoch"] for path in tmp_path.glob("net_best*")} == {
        "net_best.ckpt": 2, "net_best_epoch2.ckpt": 2, "net_best_epoch4.ckpt": 4}


@pytest.mark.parametrize("interval, epochs", [(1, [1, 2, 3, 4]), (3, [3, 4])])
def test_pictures_are_drawn_every_few_epochs_and_at_the_end_in_evaluation_mode(tmp_path, interval, epochs, kept):
    modes = []
    run = run_of(tmp_path, kept[0], np.ones(EPOCHS * BATCHES), sample_every=interval,
                 draw_samples=lambda config, network, samples, path: modes.append((path, network.training)))
    network = Linear(6, 3)
    step = TrainStep(ClassifierLoss(network, nn.CrossEntropyLoss()), network,
                     SGD(network.trainable_params(), 0.1, momentum=0.0))
    pictures = Pictures(run, step)
    for run.state.epoch in range(1, EPOCHS + 1):
        pictures.on_train_epoch_end(None)
        assert network.training
    assert modes == [(tmp_path / f"samples_000{epoch}.png", False) for epoch in epochs]


def test_curves_are_drawn(plain):
    from PIL import Image
    with Image.open(plain[0] / "curves.png") as picture:
        assert min(picture.size) > 200


def test_curves_for_tensorboard_need_its_package(monkeypatch):
    monkeypatch.setattr(tensorboard, "find_spec", lambda name: None)
    from common.tasks.train import train as task

    with pytest.raises(UserError, match="^tensorboard: the package tensorboard.*is not installed; run 'pip install"):
        task(DrawingConfig(tensorboard=True), ModelSpec("net", {"net": {}}, None))


def test_tensorboard_shows_a_point_per_epoch_also_of_a_run_that_was_continued(tmp_path, kept):
    read = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    from tensorboard.util.tensor_util import make_ndarray

    def points():
        shown = read.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
        return {tag: [(point.step, float(make_ndarray(point.tensor_proto))) for point in shown.Tensors(tag)]
                for tag in shown.Tags()["tensors"]}

    state, _ = train(tmp_path, kept[0], tensorboard=True, eval_interval=2)
    rows = list(map(json.loads, (tmp_path / "history.jsonl").read_text().splitlines()))
    first = points()
    for key, tag in (("loss", "loss/train"), ("eval_loss", "loss/eval"), ("top1", "accuracy/top1"), ("lr", "lr")):
        expected = [(row["epoch"], row[key]) for row in rows if key in row]
        assert len(expected) == (2 if key in ("eval_loss", "top1") else 4)
        assert first[tag] == [(epoch, pytest.approx(value, rel=1e-6)) for epoch, value in expected], tag  # float32
    run = run_of(tmp_path, kept[0], np.ones(EPOCHS * BATCHES), tensorboard=True)
    run.state.history = rows[:2]  # killed in the third epoch, which is done again
    writer = tensorboard.EventFiles(run)
    for row in rows[2:]:
        run.state.history.append(row | {"loss": 9.0})
        writer.on_train_epoch_end(None)
    assert points()["loss/train"] == first["loss/train"][:2] + [(3, 9.0), (4, 9.0)]


def test_a_stop_says_from_where_the_training_goes_on_or_how_much_is_lost(tmp_path, kept):
    run = run_of(tmp_path, kept, np.ones(1))
    run.state.started -= 90
    stop = StopWhenAsked(run, None)
    assert re.fullmatch("; no checkpoint was saved yet, so that 9[0-9] s of training are lost", stop.remains())
    (tmp_path / "net-1_5.ckpt").touch()
    assert stop.remains() == "; the training goes on from net-1_5.ckpt when it is started again"


def test_a_loss_that_is_no_number_stops_the_training_and_names_the_step(tmp_path, kept):
    with pytest.raises(UserError, match="not a finite number at step 3 "):
        train(tmp_path, kept[0], poison=2 * BATCH + 1)


def test_without_a_terminal_progress_is_plain_lines(tmp_path, kept, capfd):
    logger, lines = kept
    train(tmp_path, logger)
    progress = [x for x in lines if "ETA" in x]
    assert re.fullmatch(r"epoch 1/4 batch 2/5 loss \d\.\d+, lr [\d.]+, \d+ images/s, ETA \d\d:\d\d", progress[0])
    assert "\r" not in capfd.readouterr().err
