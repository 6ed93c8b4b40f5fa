"""Batches: what a training sees is a function of seed, epoch and position, whoever computes it and however often."""
import dataclasses
import logging
import os

import mindspore as ms
import numpy as np
import pytest
from mindspore import Model, nn
from mindspore.train import Callback
from PIL import Image

from common.config.load import from_mapping
from common.dataset.batches import (EvalBatches, TrainBatches, _Numbers, _pipeline, _tell_once, eval_batches, shutil,
                                    soft_targets, train_batches)
from common.dataset.samples import ArraySamples, count_steps, fit_batch
from common.dataset.sources import open_samples
from common.errors import UserError, user_sentence


def config_of(**values):
    return from_mapping({"dataset": "digits", "image_size": 16, "batch_size": 8, "seed": 5, "num_classes": 10,
                         "mean": [0.5] * 3, "std": [0.5] * 3, **values}, "test")


def few(count=50, size=20):
    """Samples in memory, each recognisable by its label's place in the order."""
    images = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return ArraySamples("few", [str(n) for n in range(10)], np.arange(count) % 10, images, [("few", count)])


@pytest.fixture
def pictures(tmp_path):
    """A folder of 40 images in two classes."""
    rng = np.random.default_rng(1)
    for number in range(40):
        file = tmp_path / "pictures" / "ab"[number % 2] / f"{number:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (24, 30, 3), dtype=np.uint8)).save(file)
    return tmp_path / "pictures"


def folder_config(folder, **values):
    return config_of(dataset="folder", data_dir=str(folder), num_classes=2, **values)


def epochs_of(data, epochs):
    """Return [epoch][batch] -> (first column, second column), through one iterator as in the framework's training."""
    iterator = data.create_tuple_iterator(num_epochs=epochs, output_numpy=True)
    return [[(first.copy(), second.copy()) for first, second in iterator] for _ in range(epochs)]


def assert_same(one, other):
    assert len(one) == len(other)
    for epoch, again in zip(one, other):
        assert len(epoch) == len(again)
        for (image, label), (image_again, label_again) in zip(epoch, again):
            np.testing.assert_array_equal(image, image_again)
            np.testing.assert_array_equal(label, label_again)


# how many steps

@pytest.mark.parametrize("n,batch,accumulation,ranks,drop,steps", [
    (100, 8, 1, 1, True, 12), (100, 8, 1, 1, False, 13), (100, 8, 2, 3, True, 2), (100, 8, 2, 3, False, 3),
    (96, 8, 2, 3, False, 2), (5, 8, 1, 1, False, 1)])
def test_steps_per_epoch(n, batch, accumulation, ranks, drop, steps):
    config = config_of(batch_size=batch, accumulation_steps=accumulation, drop_remainder=drop)
    assert count_steps(config, n, ranks) == steps


def test_a_batch_of_a_file_is_lowered_to_the_number_of_images(caplog, tmp_path):
    (tmp_path / "run.yaml").write_text("")
    config = dataclasses.replace(config_of(batch_size=64, accumulation_steps=4),
                                 given=dict.fromkeys(("batch_size", "accumulation_steps"), str(tmp_path / "run.yaml")))
    fitted = fit_batch(config, 50, 2)
    assert (fitted.batch_size, fitted.accumulation_steps, count_steps(fitted, 50, 2)) == (6, 4, 1)
    assert "batch_size: 6 instead of 64" in caplog.text and "there are 50 training images" in caplog.text
    assert fit_batch(config, 512, 2) is config
    asked = dataclasses.replace(config, given={"batch_size": "command line"})
    assert fit_batch(asked, 50, 2) is asked


def test_a_batch_larger_than_the_data_is_an_error_that_names_all_factors():
    with pytest.raises(UserError, match="batch_size 64 x 2 devices is larger than the 100 training images"):
        count_steps(config_of(batch_size=64), 100, 2)
    with pytest.raises(UserError, match="batch_size 64 x accumulation_steps 2 is larger than the 100"):
        train_batches(config_of(batch_size=64, accumulation_steps=2), few(100), rank=0, world_size=1)


def test_an_epoch_holds_whole_steps():
    data = train_batches(config_of(accumulation_steps=4), few(70), rank=0, world_size=1)
    assert data.get_dataset_size() == 8 == len(epochs_of(data, 1)[0]) and data.get_col_names() == ["image", "label"]


# the order

def test_every_image_is_seen_once_per_epoch_in_a_new_order():
    source = TrainBatches(config_of(batch_size=10), few(50), 0, 1)
    orders = [np.concatenate([source.indices(epoch, p) for p in range(5)]) for epoch in range(3)]
    for order in orders:
        assert sorted(order) == list(range(50))
    assert orders[0].tolist() != orders[1].tolist() != orders[2].tolist() != list(range(50))


def test_without_shuffling_the_order_is_that_of_the_data_but_the_augmentation_changes():
    source = TrainBatches(config_of(batch_size=10, shuffle=False), few(50), 0, 1)
    assert source.indices(3, 1).tolist() == list(range(10, 20))
    assert (source[0][0] != source[5][0]).any()


def test_without_dropping_every_image_is_seen_and_batches_keep_their_shape():
    source = TrainBatches(config_of(batch_size=16, drop_remainder=False), few(50), 0, 1)
    seen = np.concatenate([source.indices(0, p) for p in range(len(source))])
    assert len(source) == 4 and len(seen) == 64 and set(seen) == set(range(50))
    assert source[3][0].shape == (16, 3, 16, 16)


def test_another_seed_gives_another_order_and_other_images():
    one, other = (TrainBatches(config_of(seed=seed), few(), 0, 1) for seed in (1, 2))
    assert one.indices(0, 0).tolist() != other.indices(0, 0).tolist()


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_repeated_augmentation_is_exact_on_any_number_of_ranks(ranks):
    samples = few(60)
    single = TrainBatches(config_of(batch_size=12, repeated_augmentation=3), samples, 0, 1)
    parts = [TrainBatches(config_of(batch_size=12 // ranks, repeated_augmentation=3), samples, rank, ranks)
             for rank in range(ranks)]
    plain = TrainBatches(config_of(batch_size=12), samples, 0, 1)
    assert len(single) == len(parts[0]) == len(plain) == 5
    for position in range(5):
        images, repeats = single.places(1, position)
        assert images.tolist() == np.repeat(single.order(1)[4 * position:4 * position + 4], 3).tolist()
        assert repeats.tolist() == [0, 1, 2] * 4
        together = np.empty_like(images)
        pixels = np.empty((12, 3, 16, 16), np.float32)
        for rank, part in enumerate(parts):
            together[rank::ranks] = part.places(1, position)[0]
            pixels[rank::ranks] = part[5 + position][0]
        np.testing.assert_array_equal(together, images)
        np.testing.assert_array_equal(pixels, single[5 + position][0])
        assert len({row.tobytes() for row in pixels}) == 12  # every repeat is augmented differently


def test_the_first_repeat_is_the_image_of_a_training_without_repeats():
    samples = few(24)
    plain = TrainBatches(config_of(batch_size=24, shuffle=False), samples, 0, 1)[0][0]
    repeated = TrainBatches(config_of(batch_size=24, shuffle=False, repeated_augmentation=2), samples, 0, 1)[0][0]
    np.testing.assert_array_equal(repeated[::2], plain[:12])


def test_noise_differs_between_repeats():
    source = TrainBatches(config_of(task="pretrain", repeated_augmentation=2), few(), 0, 1, noise_length=16)
    noise = source[0][1]
    assert len({row.tobytes() for row in noise}) == len(noise)


@pytest.mark.parametrize("ranks", [2, 3])
def test_the_global_batch_is_the_same_for_any_number_of_ranks(ranks):
    samples = few(60)
    single = TrainBatches(config_of(batch_size=4 * ranks), samples, 0, 1)
    parts = [TrainBatches(config_of(batch_size=4), samples, rank, ranks) for rank in range(ranks)]
    assert all(len(part) == len(single) for part in parts)
    for number in range(2 * len(single)):
        image, label = single[number]
        np.testing.assert_array_equal(image, np.concatenate([part[number][0] for part in parts]))
        np.testing.assert_array_equal(label, np.concatenate([part[number][1] for part in parts]))


def test_images_and_labels_belong_together_and_have_the_framework_s_types(pictures):
    config = folder_config(pictures, hflip=0, scale=[1, 1], ratio=[1, 1], batch_size=40)
    samples = open_samples(config, "train")
    image, label = next(train_batches(config, samples, rank=0, world_size=1).create_tuple_iterator(num_epochs=1))
    assert image.dtype == ms.float32 and image.shape == (40, 3, 16, 16) and label.dtype == ms.int32
    for row, index in enumerate(TrainBatches(config, samples, 0, 1).indices(0, 0)):
        assert label[row] == (0 if "/a/" in samples.where(index) else 1)


# the framework's pipeline

def test_one_iterator_over_several_epochs_gives_our_epochs():
    config, samples = config_of(mixup=0.2), few()
    source = TrainBatches(config, samples, 0, 1)
    expected = [[source[epoch * len(source) + p] for p in range(len(source))] for epoch in range(3)]
    assert_same(epochs_of(train_batches(config, samples, rank=0, world_size=1), 3), expected)


def test_every_iterator_begins_again():
    data = train_batches(config_of(), few(), rank=0, world_size=1)
    assert_same(epochs_of(data, 2), epochs_of(data, 2))


def test_start_epoch_continues_as_if_never_interrupted():
    config, samples = config_of(cutmix=1.0), few()
    whole = epochs_of(train_batches(config, samples, rank=0, world_size=1), 4)
    rest = epochs_of(train_batches(config, samples, rank=0, world_size=1, start_epoch=2), 2)
    assert_same(rest, whole[2:])


@pytest.mark.parametrize("workers,processes", [(2, False), (2, True), (1, True)])
def test_workers_change_nothing(pictures, workers, processes):
    config = folder_config(pictures, auto_augment="randaug-m9-mstd0.5-inc1", re_prob=0.5, mixup=0.8, cutmix=1.0)
    samples = open_samples(config, "train")
    source = TrainBatches(config, samples, 0, 1)
    expected = [[source[epoch * 5 + p] for p in range(5)] for epoch in range(2)]
    data = _pipeline(source, ["image", "label"], config, _Numbers(5, 0), workers, processes)
    assert_same(epochs_of(data, 2), expected)


def test_batches_pass_through_pipes_where_shared_memory_is_short(pictures, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    config = folder_config(pictures)
    samples = open_samples(config, "train")
    source = TrainBatches(config, samples, 0, 1)
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    data = _pipeline(source, ["image", "label"], config, _Numbers(5, 0), 2)
    try:
        assert not ms.dataset.config.get_enable_shared_mem()
        assert_same(epochs_of(data, 1), [[source[p] for p in range(5)]])
    finally:
        ms.dataset.config.set_enable_shared_mem(True)


class Recorder(nn.Cell):
    """Stands for a training step: its output shows what it was given."""

    def construct(self, image, label):
        return image.sum() + label.sum()


class Keep(Callback):
    """Keeps every batch that ``Model.train`` gives to the network, by epoch."""

    def __init__(self):
        self.epochs = {}

    def on_train_step_end(self, run_context):
        parameters = run_context.original_args()
        batch = tuple(column.asnumpy() for column in parameters.train_dataset_element)
        self.epochs.setdefault(parameters.cur_epoch_num, []).append(batch)


@pytest.mark.parametrize("workers", [1, 2])
def test_model_train_sees_our_epochs_and_a_resumed_one_sees_the_rest(pictures, workers, monkeypatch):
    monkeypatch.setattr("common.dataset.batches._workers", lambda *args: workers)
    config = folder_config(pictures, mixup=0.5)
    samples = open_samples(config, "train")
    whole, rest = Keep(), Keep()
    Model(Recorder()).train(3, train_batches(config, samples, rank=0, world_size=1), whole, dataset_sink_mode=False)
    Model(Recorder()).train(3, train_batches(config, samples, rank=0, world_size=1, start_epoch=2), rest,
                            dataset_sink_mode=False, initial_epoch=2)
    source = TrainBatches(config, samples, 0, 1)
    assert_same([whole.epochs[e] for e in (1, 2, 3)], [[source[e * 5 + p] for p in range(5)] for e in range(3)])
    assert_same([rest.epochs[3]], [whole.epochs[3]])


def test_sink_mode_sees_the_same_batches():
    config, samples = config_of(), few()
    source, keep = TrainBatches(config, samples, 0, 1), Keep()
    Model(Recorder()).train(2, train_batches(config, samples, rank=0, world_size=1), keep, dataset_sink_mode=True)
    assert_same([keep.epochs[1], keep.epochs[2]], [[source[e * 6 + p] for p in range(6)] for e in range(2)])


# workers

def test_workers_are_limited_to_the_machine_with_one_line(pictures, caplog):
    caplog.set_level(logging.INFO)
    _tell_once.cache_clear()
    available = len(os.sched_getaffinity(0))
    config = folder_config(pictures, num_workers=1000)
    samples = open_samples(config, "train")
    for _ in range(2):
        assert train_batches(config, samples, rank=0, world_size=1).num_parallel_workers == available
    assert caplog.text.count("num_workers: 1000 is more than the CPUs") == 1


def test_small_images_in_memory_need_no_worker_process():
    assert train_batches(config_of(num_workers=2), few(), rank=0, world_size=1).num_parallel_workers == 1
    assert eval_batches(config_of(num_workers=2), few(), rank=0, world_size=1).num_parallel_workers == 1


# mixing

@pytest.mark.parametrize("values,soft", [({}, False), ({"mixup": 0.8}, True), ({"cutmix": 1.0}, True),
                                         ({"loss": "BCE"}, True), ({"loss": "soft_ce"}, True),
                                         ({"loss": "ce_smooth_mixup"}, True), ({"loss": "ce_smooth"}, False)])
def test_targets_are_soft_where_the_loss_reads_them(values, soft):
    config = config_of(**values)
    assert soft_targets(config) is soft
    label = TrainBatches(config, few(), 0, 1)[0][1]
    assert (label.shape, label.dtype) == (((8, 10), np.float32) if soft else ((8,), np.int32))


@pytest.mark.parametrize("loss,off", [("CE", 0.01), ("soft_ce", 0.01), ("ce_smooth_mixup", 0.0), ("BCE", 0.0)])
def test_targets_are_smoothed_once_by_the_mixer_or_by_the_loss(loss, off):
    config = config_of(loss=loss, mixup=0.5, label_smoothing=0.1)
    label = TrainBatches(config, few(), 0, 1)[0][1]
    np.testing.assert_allclose(label.sum(1), 1, rtol=1e-6)
    assert label.min() == pytest.approx(off)


def test_switched_off_smoothing_is_not_applied():
    config = config_of(mixup=0.5, label_smoothing=0.1, use_label_smooth=False)
    assert TrainBatches(config, few(), 0, 1)[0][1].min() == 0


def test_mixing_ends_at_its_epoch_and_targets_stay_soft():
    config = config_of(mixup=5.0, label_smoothing=0.1, mixup_off_epoch=2)
    source = TrainBatches(config, few(), 0, 1)
    most = [max(source[epoch * len(source) + p][1].max(1).min() for p in range(3)) for epoch in range(4)]
    assert most[0] < 0.9 and most[1] < 0.9, "mixed targets are less sure"
    assert most[2] == most[3] == pytest.approx(0.91)
    plain = TrainBatches(config_of(), few(), 0, 1)
    np.testing.assert_array_equal(source[2 * len(source)][0], plain[2 * len(plain)][0])


def test_every_rank_and_batch_is_mixed_differently():
    config = config_of(mixup=1.0, batch_size=4)
    sources = [TrainBatches(config, few(), rank, 2) for rank in range(2)]
    shares = {round(float(source[number][1].max()), 5) for source in sources for number in range(6)}
    assert len(shares) >= 11


# a masked autoencoder's batches

def test_noise_is_fresh_for_every_image_and_epoch_and_does_not_depend_on_ranks():
    config, samples = config_of(), few(48)
    data = epochs_of(train_batches(config, samples, rank=0, world_size=1, noise_length=16), 2)
    noise = np.concatenate([second for epoch in data for _, second in epoch])
    assert noise.shape == (96, 16) and noise.dtype == np.float32 and noise.min() >= 0 and noise.max() < 1
    assert len(np.unique(noise)) > 1500
    half = TrainBatches(dataclasses.replace(config, batch_size=4), samples, 1, 2, noise_length=16)
    np.testing.assert_array_equal(half[0][1], data[0][0][1][4:])


# the Jensen-Shannon loss

def test_jensen_shannon_gets_three_groups_of_the_same_images():
    still = {"hflip": 0, "scale": [1, 1], "ratio": [1, 1], "loss": "jsd"}
    image, label = TrainBatches(config_of(**still), few(), 0, 1)[0]
    assert image.shape == (24, 3, 16, 16) and label.tolist() == label[:8].tolist() * 3
    np.testing.assert_array_equal(image[8:], np.concatenate([image[:8]] * 2))
    augmented, _ = TrainBatches(config_of(**still, color_jitter=0.9), few(), 0, 1)[0]
    np.testing.assert_array_equal(augmented[:8], image[:8])
    assert (augmented[:8] != augmented[8:16]).any() and (augmented[8:16] != augmented[16:]).any()


def test_jensen_shannon_takes_no_mixed_images():
    with pytest.raises(UserError, match="loss: jsd .* set mixup: 0 and cutmix: 0"):
        TrainBatches(config_of(loss="jsd", mixup=0.2), few(), 0, 1)


# evaluation

@pytest.mark.parametrize("ranks,batch", [(1, 8), (1, 50), (1, 64), (2, 8), (3, 8), (3, 50)])
def test_evaluation_sees_every_image_once_in_equally_many_batches(ranks, batch):
    config, samples = config_of(eval_batch_size=batch), few(50)
    parts = [epochs_of(eval_batches(config, samples, rank=rank, world_size=ranks), 1)[0] for rank in range(ranks)]
    assert {len(part) for part in parts} == {-(-50 // (batch * ranks))}
    labels = np.concatenate([label for part in parts for _, label in part])
    assert sorted(labels[labels >= 0]) == sorted(samples.labels)
    for image, label in (pair for part in parts for pair in part):
        assert image.shape == (batch, 3, 16, 16) and label.dtype == np.int32
        assert not image[label < 0].any() and image[label >= 0].any(axis=(1, 2, 3)).all()


def test_evaluation_is_in_order_and_the_same_every_time():
    samples = few(50)
    data = eval_batches(config_of(), samples, rank=0, world_size=1)
    first, second = epochs_of(data, 2)
    assert_same([first], [second])
    assert np.concatenate([label for _, label in first])[:50].tolist() == samples.labels.tolist()


def test_evaluation_takes_its_own_size_and_batch():
    config = config_of(eval_image_size=24)
    assert EvalBatches(config, few(), 0, 1)[0][0].shape == (8, 3, 24, 24)


# broken images

@pytest.fixture
def broken(pictures):
    """The folder with three images that are none; two of them follow one another."""
    for number in (4, 6, 9):
        (pictures / "ab"[number % 2] / f"{number:02d}.png").write_bytes(b"no image")
    return pictures


@pytest.mark.parametrize("workers", [1, 2])
def test_a_broken_image_stops_the_run_with_its_name(broken, workers, monkeypatch):
    monkeypatch.setattr("common.dataset.batches._workers", lambda *args: workers)
    config = folder_config(broken)
    for make, split in ((train_batches, "train"), (eval_batches, "train")):
        data = make(config, open_samples(config, split), rank=0, world_size=1)
        with pytest.raises(RuntimeError) as caught:
            epochs_of(data, 1)
        sentence = user_sentence(caught.value)
        assert sentence.endswith("set on_error: skip.") and "is no image that can be read" in sentence


@pytest.mark.parametrize("workers", [1, 2])
def test_skipped_images_are_replaced_by_the_next_good_one_and_counted(broken, workers, monkeypatch, caplog):
    monkeypatch.setattr("common.dataset.batches._workers", lambda *args: workers)
    config = folder_config(broken, on_error="skip", shuffle=False, hflip=0, scale=[1, 1], ratio=[1, 1])
    samples = open_samples(config, "train")
    images = [image for batch, _ in epochs_of(train_batches(config, samples, rank=0, world_size=1), 1)[0]
              for image in batch]
    assert "/a/04" in samples.where(2) and "/a/06" in samples.where(3) and "/b/09" in samples.where(24)
    for bad, good in ((2, 4), (3, 4), (24, 25)):
        np.testing.assert_array_equal(images[bad], images[good])
    assert (images[1] != images[4]).any()
    assert samples.report_errors(logging.getLogger("t")) == 4, "04 leads to 06, which is broken too"
    assert "a/04.png" in caplog.text and "a/06.png" in caplog.text and "b/09.png" in caplog.text


def test_skipped_images_are_masked_in_an_evaluation(broken):
    config = folder_config(broken, on_error="skip")
    samples = open_samples(config, "train")
    label = np.concatenate([label for _, label in epochs_of(eval_batches(config, samples, rank=0, world_size=1), 1)[0]])
    assert np.flatnonzero(label < 0).tolist() == [2, 3, 24]
    assert samples.report_errors(logging.getLogger("t")) == 3


def test_nothing_but_broken_images_is_an_error(tmp_path):
    (tmp_path / "pictures" / "a").mkdir(parents=True)
    for number in range(8):
        (tmp_path / "pictures" / "a" / f"{number}.png").write_bytes(b"no image")
    config = folder_config(tmp_path / "pictures", on_error="skip")
    samples = open_samples(config, "train")
    with pytest.raises(UserError, match="none of the 8 training images"):
        TrainBatches(config, samples, 0, 1)[0]


def test_the_file_that_counts_errors_goes_with_the_samples(broken):
    config = folder_config(broken, on_error="skip")
    samples = open_samples(config, "train")
    samples.count_errors()
    path = samples._errors.path
    assert os.path.exists(path)
    del samples
    assert not os.path.exists(path)
