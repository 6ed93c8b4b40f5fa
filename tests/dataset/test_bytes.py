"""Images sent as bytes, normalised and blended by the device: the same training, but for the rounding of float32."""
import json

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn
from photographs import write_photographs

from common.augment.pipeline import sends_bytes, statistics
from common.config.load import from_mapping
from common.dataset.batches import TrainBatches, _Numbers, _pipeline
from common.dataset.sources import open_samples
from common.errors import UserError
from common.tasks import train as training
from common.train_step import FromBytes
from gmlp.src.spec import SPEC


class Images(nn.Cell):
    """In the place of a network with its loss: what it would get."""

    def construct(self, images, targets):
        return images


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_photographs(tmp_path_factory.mktemp("photographs"), 27, 60, 50)


def sources(folder, noise_length=0, **values):
    """The batches of one configuration, as numbers and as bytes."""
    config = from_mapping({"dataset": "folder", "data_dir": str(folder), "image_size": 32, "batch_size": 9, "seed": 5,
                           "num_classes": 2, **values}, "test")
    samples = open_samples(config, "train")
    return [TrainBatches(config, samples, 0, 1, noise_length, as_bytes) for as_bytes in (False, True)]


@pytest.mark.parametrize("values", [{}, {"mixup": 0.8, "cutmix": 1.0, "auto_augment": "rand-m9-n2"},
                                    {"cutmix": 1.0, "fast_decode": False}, {"mixup": 0.3, "mixup_off_epoch": 1},
                                    {"loss": "jsd", "color_jitter": 0.4}, {"noise_length": 16},
                                    {"in_channels": 1, "mean": [0.4], "std": [0.3], "mixup": 0.8}], ids=str)
def test_a_batch_is_the_same_but_for_rounding(folder, values):
    """Scale, product and sum are rounded, each by 2**-24 of a number below 255 / 255 / std; so is the blend."""
    ms.set_context(mode=ms.GRAPH_MODE)
    numbers, data = sources(folder, **values)
    mean, std = statistics(data.config)
    device = FromBytes(Images(), mean, std)
    blended = 0
    for k in range(6):  # two epochs
        expected, sent = numbers[k], data[k]
        assert sent[0].dtype == np.uint8 and len(sent) == 2 + bool(values.get("mixup"))
        np.testing.assert_array_equal(sent[1], expected[1])
        blended += len(sent) == 3 and sent[2][0] > 0
        images = device(*map(Tensor, sent)).asnumpy()
        np.testing.assert_allclose(images, expected[0], rtol=0, atol=6 * 2**-24 / min(std))
    assert bool(blended) == bool(values.get("mixup"))


def test_processes_and_epochs_change_no_byte(folder):
    source = sources(folder, mixup=0.8, cutmix=1.0)[1]
    for workers in 1, 2:
        data = _pipeline(source, ["image", "label", "share"], source.config, _Numbers(3, 3), workers)
        for k, batch in enumerate(data.create_tuple_iterator(num_epochs=1, output_numpy=True), 3):
            for column, expected in zip(batch, source[k], strict=True):
                np.testing.assert_array_equal(column, expected)


@pytest.mark.parametrize("key, device, re_prob, expected", [
    ("auto", "CPU", 0, False), ("auto", "Ascend", 0, True), ("auto", "Ascend", 0.2, False), ("device", "CPU", 0, True),
    ("workers", "GPU", 0, False), ("workers", "CPU", 0.2, False)])
def test_who_normalises(key, device, re_prob, expected):
    config = from_mapping({"normalize_on": key, "re_prob": re_prob}, "test")
    assert sends_bytes(config, device) == expected


def test_erasing_is_nothing_for_bytes():
    with pytest.raises(UserError, match="normalize_on: device cannot be together with re_prob: 0.2"):
        sends_bytes(from_mapping({"normalize_on": "device", "re_prob": 0.2}, "test"), "CPU")


def test_a_training_from_bytes_is_that_from_numbers(tmp_path, monkeypatch):
    """Losses of an epoch, which differ by rounding alone: so the key does something, and nothing else."""
    sent = []
    batches = training.train_batches
    monkeypatch.setattr(training, "train_batches", lambda *args, **more: sent.append(more["as_bytes"]) or batches(
        *args, **more))
    losses = []
    for where in "workers", "device":
        config = from_mapping({"model": "gmlp_ti", "dataset": "digits", "image_size": 8, "patch_size": 4, "embed_dim": 8,
                               "depth": 1, "batch_size": 120, "epochs": 2, "device_target": "CPU", "num_workers": 1,
                               "val_while_train": False, "mode": "pynative", "mixup": 0.8, "clip_grad": True, "normalize_on": where,
                               "ckpt_save_dir": str(tmp_path / where)}, "test", SPEC)
        training.train(config, SPEC)
        lines = (tmp_path / where / "history.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines])
    assert sent == [False, True] and len(losses[0]) == 2
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
