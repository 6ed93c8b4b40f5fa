"""What holds for every input of a space and not only for chosen ones: configuration, rank tables, data, schedules."""
import copy
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("hypothesis", reason="properties need hypothesis, which is not installed here")
from hypothesis import given, settings, strategies as st

from common.config.load import from_file, from_mapping
from common.config.options import FIELDS, Config
from common.config.values import coerce, kinds_of
from common.config.yaml_file import save_config
from common.dataset.batches import EvalBatches, TrainBatches
from common.dataset.samples import ArraySamples, count_steps
from common.errors import UserError
from common.lr import schedule
from common.rank_table.make import make, parse_devices
from common.rank_table.table import check_rank_table

SAME = settings(max_examples=50, deadline=None, derandomize=True, database=None)  # the same examples everywhere
ANYTHING = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
                        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner,
                                                                                    max_size=3), max_leaves=5)


def plain_values(name: str) -> st.SearchStrategy:
    """Values of the right type for a key, inside or outside its limits."""
    kinds = kinds_of(FIELDS[name])
    return st.one_of(*[{bool: st.booleans(), int: st.integers(-10, 10**6), float: st.floats(1e-6, 1e6)}.get(
        kind, st.text("abcé 1.-'#:", max_size=8)) for kind in kinds])


# configuration

@SAME
@given(st.sampled_from(sorted(FIELDS)), ANYTHING)
def test_any_value_of_any_key_is_taken_or_refused_with_a_sentence(name, value):
    try:
        coerce(FIELDS[name], value, name, "the test")
    except UserError as error:
        assert name in str(error) and "\n" not in str(error)


@SAME
@given(st.data())
def test_what_was_read_is_read_again_as_the_same(data):
    """``coerce`` changes nothing any more, and neither does a flag's text of a number or a switch."""
    name = data.draw(st.sampled_from(sorted(FIELDS)))
    try:
        value = coerce(FIELDS[name], data.draw(plain_values(name)), name, "the test")
    except UserError:
        return
    assert coerce(FIELDS[name], value, name, "the test") == value
    if isinstance(value, (bool, int, float)):
        assert coerce(FIELDS[name], str(value), name, "--flag") == value


@SAME
@given(st.dictionaries(st.sampled_from(["prefix", "class_names", "image", "lr", "epochs", "mixup", "mean", "hflip",
                                        "ema", "eval_batch_size", "file_name", "lr_steps"]), st.none(), min_size=1),
       st.data())
def test_a_saved_configuration_is_read_back_equal(names, data):
    values = {name: data.draw(plain_values(name)) for name in names}
    try:
        config = from_mapping({"dataset": "digits"} | values, "the test")
    except UserError:
        return
    save_config(config, "saved.yaml")
    assert from_file("saved.yaml") == config


# rank tables

SERVERS = st.lists(st.lists(st.integers(0, 15), min_size=1, max_size=8, unique=True), min_size=1, max_size=4)


def document(servers: list[list[int]]) -> dict:
    """A table of servers with these devices, as the tool writes it for each of them."""
    rank, entries = 0, []
    for number, devices in enumerate(servers):
        entry = make(sorted(devices), [f"192.168.{number}.{device + 1}" for device in sorted(devices)],
                     f"10.0.0.{number + 1}")["server_list"][0]
        for device in entry["device"]:
            device["rank_id"], rank = str(rank), rank + 1
        entries.append(entry)
    return {"version": "1.0", "server_count": str(len(servers)), "server_list": entries, "status": "completed"}


@SAME
@given(SERVERS)
def test_every_table_that_the_tool_writes_is_read_with_its_devices(servers):
    table = check_rank_table(document(servers), Path("table.json"))
    assert table.world_size == sum(map(len, servers))
    assert [[device.id for device in server.devices] for server in table.by_rank] == [
        sorted(devices) for devices in servers]


@SAME
@given(SERVERS, st.data())
def test_a_table_with_any_value_changed_is_read_or_refused_with_a_sentence(servers, data):
    changed = copy.deepcopy(document(servers))
    place = changed
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else list(range(len(place)))))
        if not isinstance(place[key], (dict, list)) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    if isinstance(place, dict) and data.draw(st.booleans()):
        del place[key]
    else:
        place[key] = data.draw(ANYTHING)
    try:
        check_rank_table(json.loads(json.dumps(changed)), Path("table.json"))
    except UserError as error:
        assert "\n" not in str(error)


@SAME
@given(st.sets(st.integers(0, 63), min_size=1))
def test_devices_are_read_from_every_way_of_writing_them(devices):
    assert parse_devices(",".join(map(str, sorted(devices)))) == sorted(devices)
    first, last = min(devices), max(devices)
    assert parse_devices(f"{first}-{last}") == parse_devices(f"[{first},{last + 1})") == list(range(first, last + 1))


# data

def samples_of(count: int) -> ArraySamples:
    return ArraySamples("any", ["a", "b"], np.arange(count) % 2, np.zeros((count, 1, 1, 3), np.uint8), [])


@SAME
@given(st.integers(1, 200), st.integers(1, 9), st.integers(1, 5), st.integers(1, 3), st.booleans(), st.booleans(),
       st.integers(0, 3))
def test_ranks_share_every_epoch_among_them(count, batch, ranks, accumulation, drop, shuffle, epoch):
    """Without the remainder no image is seen twice; with it every image is seen, and batches keep their size."""
    config = Config(dataset="digits", num_classes=2, image_size=8, batch_size=batch, accumulation_steps=accumulation,
                    drop_remainder=drop, shuffle=shuffle)
    try:
        steps = count_steps(config, count, ranks)
    except UserError:
        assert drop and count < batch * ranks * accumulation
        return
    sources = [TrainBatches(config, samples_of(count), rank, ranks) for rank in range(ranks)]
    assert {len(source) for source in sources} == {steps * accumulation}
    seen = [source.indices(epoch, position) for position in range(len(sources[0])) for source in sources]
    assert {len(indices) for indices in seen} == {batch}
    times = np.bincount(np.concatenate(seen), minlength=count)
    assert (times <= 1).all() if drop else (times >= 1).all()
    whole = TrainBatches(config, samples_of(count), 0, 1)
    assert np.array_equal(np.concatenate(seen), whole.order(epoch)[np.arange(len(seen) * batch) % count])


@SAME
@given(st.integers(1, 30), st.integers(1, 9), st.integers(1, 5))
def test_evaluation_counts_every_image_once_whatever_the_ranks(count, batch, ranks):
    config = Config(dataset="digits", num_classes=2, image_size=8, batch_size=batch)
    sources = [EvalBatches(config, samples_of(count), rank, ranks) for rank in range(ranks)]
    assert len({len(source) for source in sources}) == 1  # else some rank waits for ever
    labels = [source[number][1] for source in sources for number in range(len(source))]
    assert sum(int((row >= 0).sum()) for row in labels) == count


# schedules

@SAME
@given(st.sampled_from(["cosine_decay", "cosine", "exponential", "polynomial", "step", "linear", "constant"]),
       st.integers(1, 40), st.integers(1, 30), st.floats(1e-6, 10), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1),
       st.floats(0, 0.5), st.booleans(), st.booleans())
def test_every_schedule_stays_between_its_ends(scheduler, epochs, steps, lr, least, start, warmup, cooldown, prefix,
                                               per_epoch):
    """From the beginning of the warm-up to the peak and down to the end, finite, float32, a value for every step."""
    config = Config(scheduler=scheduler, epochs=epochs, lr=lr, min_lr=least * lr, lr_init=start * lr,
                    warmup_epochs=warmup * epochs, cooldown_epochs=cooldown * epochs, warmup_prefix=prefix,
                    lr_per_epoch=per_epoch)
    try:
        values = schedule(config, steps, 256)
    except UserError:
        return
    assert values.shape == (epochs * steps,) and values.dtype == np.float32 and np.isfinite(values).all()
    low = 0.0 if scheduler in ("step", "exponential") else min(config.min_lr, config.lr_init)
    assert values.min() >= low * (1 - 1e-5) - 1e-12 and values.max() <= lr * (1 + 1e-5)
    after = values[int(np.ceil(config.warmup_epochs) * steps if per_epoch else np.ceil(config.warmup_epochs * steps)):]
    assert (np.diff(after) <= 1e-6 * lr).all()  # never up again
