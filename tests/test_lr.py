"""Learning-rate schedules against the tables of MAE, timm, MindCV and the old zoo, and at their ends."""
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from entry import ROOT

from common.config.load import from_file
from common.config.options import Config
from common.errors import UserError
from common.lr import (cosine_decay, exponential_decay, layer_scales, peak_lr, polynomial_decay, positions, schedule,
                       step_decay, warm_up)
from hlg.src.spec import SPEC as HLG

GOLDEN = Path(__file__).resolve().parent / "data" / "golden"
TABLES = json.loads((GOLDEN / "schedules.json").read_text())
ZOO = json.loads((GOLDEN / "zoo_lr.json").read_text())
CLOSE = {"rtol": 2e-7, "atol": 1e-13}   # one float32 rounding


def at_points(values: np.ndarray, points: list, steps_per_epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Pick the steps of a table [position in epochs, value] that lie on the grid; return ours and the table's."""
    steps = np.array([position * steps_per_epoch for position, _ in points])
    on_grid = np.isclose(steps, np.round(steps), atol=1e-6)
    assert on_grid.sum() > 8
    return values[np.round(steps[on_grid]).astype(int)], np.array([value for _, value in points])[on_grid]


@pytest.mark.parametrize("name", ["mae_pretrain_base", "mae_finetune_base", "mae_finetune_large", "mae_linprobe_base"])
def test_cosine_decay_is_the_official_mae_schedule(name):
    table = TABLES[name]
    config = Config(epochs=table["epochs"], warmup_epochs=table["warmup_epochs"], base_lr=table["blr"],
                    min_lr=table["min_lr"])
    ours, theirs = at_points(schedule(config, 1000, table["batch"]), table["points"], 1000)
    np.testing.assert_allclose(ours, theirs, **CLOSE)


@pytest.mark.parametrize("name", list(TABLES["mindcv_cosine"])[1:])
def test_cosine_decay_is_the_mindcv_schedule(name):
    table = TABLES["mindcv_cosine"][name]
    config = Config(epochs=table["epochs"], lr=table["lr"], min_lr=table["min_lr"],
                    warmup_epochs=table["warmup_epochs"], decay_epochs=table["decay_epochs"])
    ours = schedule(config, table["steps_per_epoch"], 64)
    points = table.get("points") or list(enumerate(table["values"]))
    np.testing.assert_allclose(ours[[step for step, _ in points]], [value for _, value in points], **CLOSE)


@pytest.mark.parametrize("name", list(TABLES["timm_cosine"]))
def test_cosine_decay_per_epoch_is_the_timm_schedule(name):
    table = TABLES["timm_cosine"][name]
    epochs = len(table["values"])
    config = Config(epochs=epochs, lr=table["lr"], min_lr=table["lr_min"], lr_init=table["warmup_lr_init"],
                    warmup_epochs=table["warmup"], warmup_prefix=table["warmup_prefix"], lr_per_epoch=True,
                    cooldown_epochs=epochs - table["cycle_length"])
    values = schedule(config, 3, 64).reshape(epochs, 3)
    for column in values.T:     # constant within an epoch
        np.testing.assert_allclose(column, table["values"], **CLOSE)


@pytest.mark.parametrize("name, scheduler, changes", [
    ("soft_seed", "cosine", {}),
    ("hlg_seed", "cosine", {"min_lr": 0.0}),    # the old zoo ignored lr_min here
    ("hlg_poly", "polynomial", {"poly_power": 2.0}),
    ("hlg_linear", "linear", {}),
    ("hlg_steps", "step", {"warmup_epochs": 0})])   # the old zoo ignored the warm-up here
def test_old_zoo_schedules(name, scheduler, changes):
    table = ZOO[name]
    args = table["args"]
    keys = {"epochs": args["total_epochs"], "lr": args["lr_max"], "lr_init": args["lr_init"],
            "min_lr": args["lr_end"], "warmup_epochs": args["warmup_epochs"]}
    values = schedule(Config(scheduler=scheduler, **(keys | changes)), table["steps_per_epoch"], 1024)
    assert len(values) == table["length"]
    np.testing.assert_allclose(values[table["index"]], table["value"], **CLOSE)


def test_zoo_cosine_ends_exactly_at_min_lr():
    values = schedule(Config(scheduler="cosine", epochs=300, lr=1e-3, min_lr=5e-5, warmup_epochs=20), 7, 1024)
    assert values[-1] == np.float32(5e-5)
    assert values.min() == values[0] == np.float32(1e-3 / 140)
    assert values[139] == values.max() == np.float32(1e-3)


def test_first_step_with_warmup_has_lr_init_and_the_warmup_ends_at_the_peak():
    values = schedule(Config(epochs=10, lr=0.5, lr_init=0.125, warmup_epochs=2, min_lr=0.01), 5, 64)
    np.testing.assert_allclose(values[[0, 4, 10]], [0.125, 0.125 + 0.375 * 0.4, 0.5], rtol=1e-6)
    assert values.argmax() == 10 and (np.diff(values[10:]) < 0).all()


@pytest.mark.parametrize("scheduler", ["cosine_decay", "cosine", "polynomial", "linear", "exponential", "step",
                                       "constant"])
def test_every_schedule_is_finite_float32_without_warmup_and_with_nothing_but_warmup(scheduler):
    for warmup in (0, 3):
        values = schedule(Config(scheduler=scheduler, epochs=3, lr=0.1, warmup_epochs=warmup), 4, 64)
        assert values.dtype == np.float32 and values.shape == (12,)
        assert np.isfinite(values).all() and values.min() >= 0 and 0 < values.max() <= np.float32(0.1)
        if warmup == 0 and scheduler != "cosine":
            assert values[0] == np.float32(0.1)
        if warmup == 3:
            assert (np.diff(values) > 0).all()


def test_fractional_warmup_of_a_part_of_an_epoch():
    values = schedule(Config(scheduler="constant", epochs=2, lr=1.0, warmup_epochs=0.75), 8, 64)
    np.testing.assert_allclose(values[:8], [0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1, 1], rtol=1e-6)


def test_decay_epochs_leave_a_constant_tail():
    values = schedule(Config(epochs=10, lr=1.0, min_lr=0.1, warmup_epochs=1, decay_epochs=4), 3, 64)
    assert (values[15:] == np.float32(0.1)).all() and values[14] > 0.1


def test_warmup_without_prefix_lands_on_the_middle_of_the_cosine():
    values = schedule(Config(epochs=10, lr=1.0, warmup_epochs=5, warmup_prefix=False), 2, 64)
    np.testing.assert_allclose(values[10], 0.5, rtol=1e-6)      # half of the cosine is over
    np.testing.assert_allclose(values[9], 0.9, rtol=1e-6)       # the warm-up had nearly reached the peak


def test_a_delayed_rate_is_what_stepping_the_schedule_after_the_optimizer_gives():
    """HLG's authors, like Swin's, call ``step_update(number of this update)`` once the update is done."""
    config = from_file(ROOT / "hlg/config/hlg_tiny_avgpool.yml", HLG)
    config = dataclasses.replace(config, epochs=4, warmup_epochs=2)
    by_number = schedule(dataclasses.replace(config, lr_delay=0), 5, 1024)
    rate, used = config.lr_init, []
    for update in range(20):
        used.append(rate)
        rate = by_number[update]
    np.testing.assert_allclose(schedule(config, 5, 1024), used, rtol=1e-6)


def test_cooldown_is_the_end_of_the_epochs_and_the_decay_is_over_before_it():
    values = schedule(Config(epochs=12, lr=1.0, min_lr=0.05, cooldown_epochs=2), 4, 64)
    without = schedule(Config(epochs=10, lr=1.0, min_lr=0.05), 4, 64)
    np.testing.assert_array_equal(values[:40], without)
    assert (values[40:] == np.float32(0.05)).all()


def test_exponential_falls_by_decay_rate_every_decay_epochs_down_to_min_lr():
    values = schedule(Config(scheduler="exponential", epochs=20, lr=1.0, decay_rate=0.5, decay_epochs=3,
                             warmup_epochs=1, min_lr=0.1), 2, 64)
    np.testing.assert_allclose(values[[2, 8, 14, 5]], [1.0, 0.5, 0.25, 0.5 ** 0.5], rtol=1e-6)
    assert values[-1] == np.float32(0.1)


def test_exponential_per_epoch_is_a_staircase():
    values = schedule(Config(scheduler="exponential", epochs=4, lr=1.0, decay_rate=0.5, decay_epochs=1,
                             lr_per_epoch=True), 3, 64)
    np.testing.assert_allclose(values, np.repeat([1, 0.5, 0.25, 0.125], 3))


def test_steps_take_effect_in_the_first_step_of_their_epoch_after_a_warmup():
    values = schedule(Config(scheduler="step", epochs=10, lr=1.0, lr_steps=(7, 4.5), decay_rate=0.2, warmup_epochs=2),
                      2, 64)
    np.testing.assert_allclose(values, [0, .25, .5, .75] + [1] * 5 + [.2] * 5 + [.04] * 6, rtol=1e-6)


@pytest.mark.parametrize("epochs", [5, 7, 30, 90, 300])
@pytest.mark.parametrize("steps_per_epoch", [1, 10, 1251])
def test_default_steps_begin_at_the_exact_step(epochs, steps_per_epoch):
    values = schedule(Config(scheduler="step", epochs=epochs, lr=1.0), steps_per_epoch, 64)
    total = epochs * steps_per_epoch
    starts = [-(-share * total // 10) for share in (3, 6, 8)]       # ceiling, in whole numbers
    np.testing.assert_array_equal(np.flatnonzero(np.diff(values)) + 1, starts)


def test_formulas_at_hand_picked_points():
    position = np.array([0.0, 1.0, 2.0, 4.0, 5.0])
    np.testing.assert_allclose(cosine_decay(position, 1.0, 0.0, 4.0), [1, 0.5 + 0.5 ** 1.5, 0.5, 0, 0], atol=1e-15)
    np.testing.assert_allclose(polynomial_decay(position, 1.1, 0.1, 4.0, 2.0), [1.1, 0.6625, 0.35, 0.1, 0.1])
    np.testing.assert_allclose(exponential_decay(position, 1.0, 0.2, 2.0, 0.25), [1, 0.5, 0.25, 0.2, 0.2])
    np.testing.assert_allclose(step_decay(position, 1.0, [2, 5], 0.1), [1, 1, 0.1, 0.1, 0.01])
    np.testing.assert_allclose(warm_up(np.full(5, 9.0), position, 3.0, 1.0, 4.0), [1, 1.5, 2, 9, 9])
    np.testing.assert_array_equal(positions(2, 3), [0, 1 / 3, 2 / 3, 1, 4 / 3, 5 / 3])
    np.testing.assert_array_equal(positions(2, 3, per_epoch=True), [0, 0, 0, 1, 1, 1])


def test_peak_lr_follows_the_global_batch_only_through_base_lr():
    assert peak_lr(Config(lr=0.3), 4096) == 0.3
    assert peak_lr(Config(lr=0.3, base_lr=1.5e-4), 4096) == pytest.approx(2.4e-3)
    assert schedule(Config(base_lr=0.1, epochs=2), 3, 512)[0] == np.float32(0.2)


def layer_of(name: str, depth: int) -> int:
    """Layer numbers of a ViT: embedding 0, blocks 1 to depth, then the rest."""
    if name.startswith(("cls_token", "pos_embed", "patch_embed")):
        return 0
    return int(name.split(".")[1]) + 1 if name.startswith("blocks.") else depth + 1


@pytest.mark.parametrize("name", [key for key in TABLES if key.startswith("mae_layer_decay")])
def test_layer_scales_are_those_of_the_official_mae(name):
    table = TABLES[name]
    scales = layer_scales(table["layer_decay"], depth=12)
    assert scales.shape == (14,)
    for parameter, (scale, _) in table["params"].items():
        assert scales[layer_of(parameter, 12)] == pytest.approx(scale, rel=1e-12), parameter


@pytest.mark.parametrize("changes", [{"warmup_epochs": 6}, {"warmup_epochs": 3, "cooldown_epochs": 3},
                                     {"warmup_epochs": 6, "warmup_prefix": False}])
def test_lengths_that_do_not_fit_are_refused_by_name(changes):
    with pytest.raises(UserError, match=r"warmup_epochs: \d and cooldown_epochs: \d do not fit into epochs: 5"):
        schedule(Config(epochs=5, **changes), 4, 64)


def test_unknown_scheduler_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match="Did you mean 'cosine'"):
        schedule(Config(scheduler="cosin"), 4, 64)


def test_module_imports_without_the_framework():
    code = "import sys, common.lr; sys.exit('mindspore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
