"""Readers: where images are found, which class they get, and what is said when the data is not as expected."""
import dataclasses
import functools
import hashlib
import http.server
import json
import logging
import tarfile
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.command import run
from common.config.datasets import CIFAR10, DATASETS
from common.config.load import from_file, from_mapping
from common.dataset.cifar import ADDRESS_VARIABLE
from common.dataset.classes import check_classes, check_same_classes, load_classes, save_classes, with_classes
from common.dataset.digits import FILE, load_digits, main, write_digits
from common.dataset.images import load_image
from common.dataset.samples import FileSamples
from common.dataset.sources import open_samples
from common.errors import UserError


def config_of(**values):
    return from_mapping({"dataset": "folder", **{k: str(v) if k.endswith("_dir") else v for k, v in values.items()}},
                        "test")


def write_images(folder, classes, count=2, ending="png", size=(12, 10)):
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            Image.new("RGB", size, (number * 40, i * 40, 0)).save(folder / name / f"{i}.{ending}")
    return folder


def write_records(file, labels, label_bytes=1, seed=0):
    """Write CIFAR records; returns the images uint8 (n, 3, 32, 32)."""
    pixels = np.random.default_rng(seed).integers(0, 256, (len(labels), 3072), dtype=np.uint8)
    heads = np.zeros((len(labels), label_bytes), np.uint8)
    heads[:, -1] = labels
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(np.hstack([heads, pixels]).tobytes())
    return pixels.reshape(-1, 3, 32, 32)


def cifar10(folder, train=20, test=10):
    write_records(folder / "data_batch_1.bin", np.arange(train) % 10)
    write_records(folder / "test_batch.bin", np.arange(test) % 10, seed=1)
    return folder


def tar_of(file, folder, mode="w"):
    with tarfile.open(file, mode) as tar:
        tar.add(folder, arcname=folder.name)
    return file


# class folders

def test_classes_are_the_sorted_folder_names(tmp_path):
    write_images(tmp_path / "train", ["zebra", "ant", "Bee"])
    samples = open_samples(config_of(data_dir=tmp_path), "train")
    assert samples.classes == ["Bee", "ant", "zebra"]
    assert samples.labels.tolist() == [0, 0, 1, 1, 2, 2] and samples.labels.dtype == np.int32
    assert samples.where(0) == str(tmp_path / "train" / "Bee" / "0.png")
    assert samples.where(5) == str(tmp_path / "train" / "zebra" / "1.png")
    assert samples.load(5).getpixel((0, 0)) == (0, 40, 0)


@pytest.mark.parametrize("name", ["val", "validation", "valid", "test"])
def test_evaluation_folder_may_have_any_usual_name(tmp_path, name):
    write_images(tmp_path / "train", ["a", "b"])
    write_images(tmp_path / name, ["a", "b"], count=1)
    assert len(open_samples(config_of(data_dir=tmp_path), "train")) == 4
    assert len(open_samples(config_of(data_dir=tmp_path), "eval")) == 2


def test_data_dir_may_be_the_training_folder_itself(tmp_path):
    write_images(tmp_path / "mine", ["a", "b"])
    write_images(tmp_path / "other", ["a", "b"], count=3)
    config = config_of(data_dir=tmp_path / "mine", eval_dir=tmp_path / "other")
    assert len(open_samples(config, "train")) == 4
    assert len(open_samples(config, "eval")) == 6


def test_eval_dir_may_be_a_root_with_val_in_it(tmp_path):
    write_images(tmp_path / "other" / "val", ["a", "b"], count=3)
    assert len(open_samples(config_of(data_dir=tmp_path, eval_dir=tmp_path / "other"), "eval")) == 6


def test_evaluation_alone_takes_the_named_folder(tmp_path):
    write_images(tmp_path, ["a", "b"])
    assert len(open_samples(config_of(data_dir=tmp_path, task="eval"), "eval")) == 4


def test_training_images_are_never_taken_for_evaluation(tmp_path):
    write_images(tmp_path, ["a", "b"])
    with pytest.raises(UserError, match="no folder for evaluation .*set eval_dir, or val_while_train: false"):
        open_samples(config_of(data_dir=tmp_path), "eval")


@pytest.mark.parametrize("inside", ["", "train"])
def test_a_share_of_every_class_is_set_aside_where_there_is_no_val(tmp_path, inside, caplog):
    write_images(tmp_path / inside, ["a"], count=10)
    write_images(tmp_path / inside, ["b"], count=3)
    config = config_of(data_dir=tmp_path, val_share=0.2)
    train, evaluation = open_samples(config, "train"), open_samples(config, "eval")
    assert np.bincount(train.labels).tolist() == [8, 2] and np.bincount(evaluation.labels).tolist() == [2, 1]
    everything = [samples.where(index) for samples in (train, evaluation) for index in range(len(samples))]
    assert len(set(everything)) == 13
    assert "has no val/: 3 of its 13 images are for the evaluation" in caplog.text


def test_nothing_is_set_aside_where_there_is_val(tmp_path):
    write_images(tmp_path / "train", ["a"], count=10)
    write_images(tmp_path / "val", ["a"], count=4)
    config = config_of(data_dir=tmp_path, val_share=0.2)
    assert (len(open_samples(config, "train")), len(open_samples(config, "eval"))) == (10, 4)


def test_stray_files_are_ignored_and_endings_have_any_case(tmp_path):
    write_images(tmp_path / "train", ["a"], count=1, ending="JPG")
    write_images(tmp_path / "train", ["b"], count=1, ending="webp")
    write_images(tmp_path / "train" / "b", ["deeper"], count=1, ending="bmp")
    for name in ("notes.txt", "a/notes.txt", "a/._0.jpg", "a/.hidden.png"):
        (tmp_path / "train" / name).write_text("no image")
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir()
    samples = open_samples(config_of(data_dir=tmp_path), "train")
    assert samples.classes == ["a", "b"]
    assert [samples.where(i)[len(str(tmp_path)):] for i in range(3)] == ["/train/a/0.JPG", "/train/b/0.webp",
                                                                         "/train/b/deeper/0.bmp"]


def test_file_names_need_not_be_ascii(tmp_path):
    write_images(tmp_path, ["猫", "Käfer"], count=1)
    samples = open_samples(config_of(data_dir=tmp_path), "train")
    assert samples.classes == ["Käfer", "猫"]
    assert [samples.load(i).size for i in range(2)] == [(12, 10)] * 2


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "LA", "CMYK", "1"])
def test_every_kind_of_image_becomes_rgb(tmp_path, mode):
    (tmp_path / "a").mkdir()
    ending = "jpg" if mode == "CMYK" else "png"
    Image.new("RGB", (4, 4), (255, 255, 255)).convert(mode).save(tmp_path / "a" / f"x.{ending}")
    image = open_samples(config_of(data_dir=tmp_path), "train").load(0)
    assert image.mode == "RGB" and image.getpixel((0, 0)) == (255, 255, 255)


def test_missing_folder_names_key_and_path(tmp_path):
    with pytest.raises(UserError, match="data_dir: .*nowhere is no folder"):
        open_samples(config_of(data_dir=tmp_path / "nowhere"), "train")


def test_folder_without_class_folders_names_folder_and_endings(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(UserError, match=r"train holds no class folders.*\.jpg, \.jpeg, \.png, \.bmp, \.webp"):
        open_samples(config_of(data_dir=tmp_path), "train")


def test_images_without_class_folders_are_counted_in_the_message(tmp_path):
    write_images(tmp_path, ["train"], count=3)
    with pytest.raises(UserError, match="train holds 3 images, but no class folders"):
        open_samples(config_of(data_dir=tmp_path), "train")


def test_class_folders_without_images(tmp_path):
    (tmp_path / "train" / "a").mkdir(parents=True)
    with pytest.raises(UserError, match="has 1 class folders, but no images"):
        open_samples(config_of(data_dir=tmp_path), "train")
    write_images(tmp_path / "train", ["b"])
    with pytest.raises(UserError, match="class folders without images .*: a; fill or remove"):
        open_samples(config_of(data_dir=tmp_path), "train")


@pytest.mark.parametrize("content,reason", [(b"", "cannot identify"), (b"no image at all", "cannot identify"),
                                            (None, "truncated|broken")])
def test_broken_image_is_named(tmp_path, content, reason):
    write_images(tmp_path, ["a"], count=1, ending="jpg", size=(200, 200))
    file = tmp_path / "a" / "0.jpg"
    file.write_bytes(file.read_bytes()[:700] if content is None else content)
    with pytest.raises(UserError, match=f"a/0.jpg is no image that can be read .*({reason}).*on_error: skip"):
        open_samples(config_of(data_dir=tmp_path), "train").load(0)


def test_unread_images_are_counted_and_reported_once(tmp_path, caplog):
    write_images(tmp_path, ["a"], count=30)
    samples = open_samples(config_of(data_dir=tmp_path), "train")
    samples.count_errors()
    for index in range(12):
        samples.note_error(index)
    assert samples.report_errors(logging.getLogger("t")) == 12
    assert "12 time(s) an image could not be read" in caplog.text
    assert "a/0.png" in caplog.text and "and 2 more" in caplog.text
    assert samples.report_errors(logging.getLogger("t")) == 0


# archives of class folders

@pytest.mark.parametrize("place", ["root", "inside"])
def test_imagenet_archives_are_unpacked(tmp_path, place):
    source = write_images(tmp_path / "source" / "train", ["n1", "n2"])
    root = tmp_path / "root"
    (root / "train").mkdir(parents=True) if place == "inside" else root.mkdir()
    tar_of(root / "train" / "imagenet_train.tar" if place == "inside" else root / "imagenet_train.tar", source)
    samples = open_samples(config_of(data_dir=root), "train")
    assert samples.classes == ["n1", "n2"] and len(samples) == 4
    assert samples.load(3).size == (12, 10)


def test_one_archive_per_class_is_unpacked_and_an_interrupted_unpacking_goes_on(tmp_path):
    train = tmp_path / "train"
    train.mkdir()
    for name in ("n1", "n2", "n3"):
        folder = write_images(tmp_path / "source", [name]) / name
        with tarfile.open(train / f"{name}.tar", "w") as tar:
            for file in folder.iterdir():
                tar.add(file, arcname=file.name)
    for name in ("n2", "n3"):  # as if the process had died after the first
        (train / f"{name}.tar").rename(tmp_path / f"{name}.tar")
    assert open_samples(config_of(data_dir=tmp_path), "train").classes == ["n1"]
    for name in ("n2", "n3"):
        (tmp_path / f"{name}.tar").rename(train / f"{name}.tar")
    samples = open_samples(config_of(data_dir=tmp_path), "train")
    assert samples.classes == ["n1", "n2", "n3"] and len(samples) == 6


def test_folders_that_were_unpacked_by_hand_stay_as_they_are(tmp_path):
    train = write_images(tmp_path / "train", ["n1"])
    tar_of(train / "imagenet_train.tar", write_images(tmp_path / "source" / "train", ["n1", "n2"]))
    assert open_samples(config_of(data_dir=tmp_path), "train").classes == ["n1"]


# CIFAR

@pytest.mark.parametrize("inside", ["", "cifar-10-batches-bin"])
def test_cifar10_records_give_pixels_and_labels(tmp_path, inside):
    folder = tmp_path / inside
    first = write_records(folder / "data_batch_1.bin", [3, 1, 4])
    second = write_records(folder / "data_batch_2.bin", [1, 5], seed=2)
    write_records(folder / "test_batch.bin", [9, 2, 6], seed=1)
    samples = open_samples(config_of(dataset="cifar10", data_dir=tmp_path), "train")
    assert samples.labels.tolist() == [3, 1, 4, 1, 5]
    expected = np.concatenate([first, second])
    for i in range(5):
        np.testing.assert_array_equal(np.asarray(samples.load(i)).transpose(2, 0, 1), expected[i])
    assert samples.where(3) == f"{folder / 'data_batch_2.bin'} record 0"
    assert samples.classes == [str(n) for n in range(10)] and samples.in_memory


def test_cifar100_takes_the_fine_label(tmp_path):
    write_records(tmp_path / "train.bin", [99, 7], label_bytes=2)
    write_records(tmp_path / "test.bin", [5], label_bytes=2)
    (tmp_path / "fine_label_names.txt").write_text("\n".join(f"name{i}" for i in range(100)) + "\n\n")
    config = config_of(dataset="cifar100", data_dir=tmp_path)
    samples = open_samples(config, "train")
    assert samples.labels.tolist() == [99, 7]
    assert samples.classes[99] == "name99" and len(samples.classes) == 100
    assert open_samples(config, "eval").labels.tolist() == [5]


def test_cifar_evaluation_folder_holds_the_test_batch_alone(tmp_path):
    cifar10(tmp_path / "cifar-10-batches-bin")
    (tmp_path / "cifar-10-batches-bin" / "batches.meta.txt").write_text("\n".join("abcdefghij"))
    write_records(tmp_path / "cifar-10-val-bin" / "test_batch.bin", [1] * 7)
    config = config_of(dataset="cifar10", data_dir=tmp_path / "cifar-10-batches-bin",
                       eval_dir=tmp_path / "cifar-10-val-bin")
    evaluation = open_samples(config, "eval")
    assert len(evaluation) == 7
    assert evaluation.classes == open_samples(config, "train").classes == list("abcdefghij")


def test_cifar_evaluation_falls_back_to_the_training_folder_and_says_so(tmp_path, caplog):
    cifar10(tmp_path)
    config = config_of(dataset="cifar10", data_dir=tmp_path, eval_dir=tmp_path / "cifar-10-val-bin")
    assert len(open_samples(config, "eval")) == 10
    assert "cifar-10-val-bin has no test_batch.bin" in caplog.text


def test_cifar_archive_is_unpacked(tmp_path):
    tar_of(tmp_path / "cifar-10-binary.tar.gz", cifar10(tmp_path / "source" / "cifar-10-batches-bin"), "w:gz")
    for data_dir in (tmp_path, tmp_path / "cifar-10-batches-bin"):
        config = config_of(dataset="cifar10", data_dir=data_dir)
        assert len(open_samples(config, "train")) == 20
        assert len(open_samples(config, "eval")) == 10


def test_missing_cifar_names_archive_address_and_files(tmp_path):
    with pytest.raises(UserError) as caught:
        open_samples(config_of(dataset="cifar10", data_dir=tmp_path), "train")
    for part in ("cifar-10-binary.tar.gz", "https://www.cs.toronto.edu/~kriz", "data_batch_1.bin to data_batch_5.bin",
                 "test_batch.bin", "download: true", str(tmp_path)):
        assert part in str(caught.value)


@pytest.mark.parametrize("size", [0, 3072, 3073 * 2 + 5])
def test_cifar_file_of_a_wrong_size(tmp_path, size):
    (tmp_path / "data_batch_1.bin").write_bytes(bytes(size))
    with pytest.raises(UserError, match=f"data_batch_1.bin has {size} bytes.*3073 bytes each"):
        open_samples(config_of(dataset="cifar10", data_dir=tmp_path), "train")


def test_cifar_label_out_of_range(tmp_path):
    write_records(tmp_path / "data_batch_1.bin", [1, 2, 77])
    with pytest.raises(UserError, match="record 2 has the label 77, but there are 10 classes"):
        open_samples(config_of(dataset="cifar10", data_dir=tmp_path), "train")


def test_the_other_cifar_is_recognised(tmp_path):
    cifar10(tmp_path / "ten")
    with pytest.raises(UserError, match="holds CIFAR-10 .*set dataset: cifar10"):
        open_samples(config_of(dataset="cifar100", data_dir=tmp_path / "ten"), "train")
    write_records(tmp_path / "hundred" / "train.bin", [1], label_bytes=2)
    with pytest.raises(UserError, match="holds CIFAR-100 .*set dataset: cifar100"):
        open_samples(config_of(dataset="cifar10", data_dir=tmp_path / "hundred"), "train")
    write_records(tmp_path / "renamed" / "data_batch_1.bin", [1, 2], label_bytes=2)
    with pytest.raises(UserError, match="it looks like CIFAR-100, so set dataset: cifar100"):
        open_samples(config_of(dataset="cifar10", data_dir=tmp_path / "renamed"), "train")


def test_the_python_version_of_cifar_is_recognised(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"pickle")
    with pytest.raises(UserError, match="Python version of CIFAR; the binary version is needed"):
        open_samples(config_of(dataset="cifar10", data_dir=tmp_path), "train")


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A mirror of CIFAR-10 on this machine, with a small archive whose checksum is the expected one."""
    served = tmp_path / "served"
    served.mkdir()
    file = tar_of(served / "cifar-10-binary.tar.gz", cifar10(tmp_path / "source" / "cifar-10-batches-bin"), "w:gz")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(served))
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *args: None)
    service = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=service.serve_forever, daemon=True).start()
    monkeypatch.setenv(ADDRESS_VARIABLE, f"http://127.0.0.1:{service.server_port}/")
    layout = dataclasses.replace(CIFAR10, md5=hashlib.md5(file.read_bytes()).hexdigest())
    monkeypatch.setitem(DATASETS, "cifar10", layout)
    yield file
    service.shutdown()
    service.server_close()


@pytest.mark.parametrize("folder", ["data", "data/cifar-10-batches-bin"])
def test_download_fetches_cifar_and_is_not_repeated(tmp_path, mirror, folder):
    config = config_of(dataset="cifar10", data_dir=tmp_path / folder, download=True)
    assert len(open_samples(config, "train")) == 20
    mirror.unlink()
    assert len(open_samples(config, "eval")) == 10
    assert (tmp_path / "data" / "cifar-10-batches-bin" / "test_batch.bin").is_file()


def test_download_with_a_wrong_checksum_leaves_nothing(tmp_path, mirror):
    mirror.write_bytes(b"something else")
    with pytest.raises(UserError, match="sent another file than expected"):
        open_samples(config_of(dataset="cifar10", data_dir=tmp_path / "data", download=True), "train")
    assert not [p for p in (tmp_path / "data").iterdir() if not p.name.endswith(".failed")]


def test_nothing_is_fetched_without_being_asked(tmp_path, mirror):
    with pytest.raises(UserError, match="set download: true"):
        open_samples(config_of(dataset="cifar10", data_dir=tmp_path), "train")


# lists of images

def write_list(tmp_path, content):
    write_images(tmp_path / "pictures", ["cat", "dog"])
    (tmp_path / "pictures" / "ids.json").write_text(json.dumps(content))
    return config_of(data_dir=tmp_path / "pictures", img_ids="ids.json")


def test_list_of_paths_takes_the_first_folder_as_class(tmp_path):
    samples = open_samples(write_list(tmp_path, ["dog/1.png", "cat/0.png"]), "train")
    assert samples.classes == ["cat", "dog"] and samples.labels.tolist() == [1, 0]
    assert samples.where(0) == str(tmp_path / "pictures" / "dog" / "1.png")
    assert samples.load(0).getpixel((0, 0)) == (40, 40, 0)


@pytest.mark.parametrize("content", [[["dog/1.png", 2], ["cat/0.png", 0]], {"dog/1.png": 2, "cat/0.png": 0}])
def test_list_with_numbers_as_labels(tmp_path, content):
    samples = open_samples(write_list(tmp_path, content), "train")
    assert samples.labels.tolist() == [2, 0] and samples.classes == ["0", "1", "2"]


def test_list_with_numbers_may_be_a_part_of_a_larger_data_set(tmp_path):
    config = write_list(tmp_path, [["dog/1.png", 2], ["cat/0.png", 0]])
    for given, count in ((1000, 1000), (2, 3)):
        asked = dataclasses.replace(config, num_classes=given, given={**config.given, "num_classes": "test"})
        assert len(open_samples(asked, "train").classes) == count


def test_list_with_names_as_labels(tmp_path):
    samples = open_samples(write_list(tmp_path, [["dog/1.png", "big"], ["cat/0.png", "Small"]]), "train")
    assert samples.classes == ["Small", "big"] and samples.labels.tolist() == [1, 0]


def test_list_in_the_working_directory_comes_first(tmp_path, scratch_directory):
    config = write_list(tmp_path, ["cat/0.png"])
    (scratch_directory / "ids.json").write_text(json.dumps(["cat/0.png", "cat/1.png"]))
    assert len(open_samples(config, "train")) == 2


@pytest.mark.parametrize("content,message", [([], "lists no images"), ("text", "lists no images"),
                                             ([["a.png", 1, 2]], "entry 0 of .* a path, or"),
                                             (["cat/9.png"], "the first image of .*cat/9.png, is not in"),
                                             ([["cat/0.png", -1]], "labels begin at 0")])
def test_wrong_list_is_explained(tmp_path, content, message):
    with pytest.raises(UserError, match=f"img_ids: .*{message}"):
        open_samples(write_list(tmp_path, content), "train")


def test_list_that_is_missing_or_no_json(tmp_path):
    config = write_list(tmp_path, ["cat/0.png"])
    (tmp_path / "pictures" / "ids.json").write_text("{")
    with pytest.raises(UserError, match="is no JSON file"):
        open_samples(config, "train")
    (tmp_path / "pictures" / "ids.json").unlink()
    with pytest.raises(UserError, match="ids.json cannot be read .*looked in"):
        open_samples(config, "train")


def test_images_without_any_label_will_do_for_pretraining_only(tmp_path):
    config = write_list(tmp_path, ["cat/0.png", "lonely.png"])
    Image.new("RGB", (3, 3)).save(tmp_path / "pictures" / "lonely.png")
    with pytest.raises(UserError, match="no label for lonely.png"):
        open_samples(config, "train")
    assert len(open_samples(dataclasses.replace(config, task="pretrain"), "train")) == 2


# classes

def test_a_class_count_of_a_file_is_named_with_file_and_line(tmp_path):
    write_images(tmp_path, ["a", "b"], count=1)
    (tmp_path / "run.yaml").write_text("dataset: folder\n\nclass_num: 5\n")
    config = from_file(tmp_path / "run.yaml", data_dir=str(tmp_path))
    with pytest.raises(UserError, match=r"num_classes: 5 \(.*run.yaml, line 3\).*--num_classes 2, or take it out"):
        check_classes(open_samples(config, "train"), config)


def test_class_count_is_checked_only_when_it_was_given(tmp_path, caplog):
    write_images(tmp_path, ["a", "b"], count=1)
    samples = open_samples(config_of(data_dir=tmp_path), "train")
    check_classes(samples, config_of(data_dir=tmp_path))
    check_classes(samples, config_of(data_dir=tmp_path, num_classes=2))
    for wrong in (1, 3):
        with pytest.raises(UserError, match=f"num_classes: {wrong} .*, but .* has 2 classes .*--num_classes 2, or leave"):
            check_classes(samples, config_of(data_dir=tmp_path, num_classes=wrong))


def test_a_single_class_is_told_of(tmp_path, caplog):
    """A training of it ends with 100 %, and has learned nothing."""
    write_images(tmp_path, ["a"], count=1)
    config = config_of(data_dir=tmp_path)
    assert with_classes(config, open_samples(config, "train")).num_classes == 1
    assert "one class alone (a)" in caplog.text


def test_one_class_more_for_the_background_is_accepted_with_a_hint(caplog):
    samples = FileSamples("imagenet", [f"n{i}" for i in range(1000)], [0], Path(), ["0.png"])
    check_classes(samples, config_of(data_dir="x", num_classes=1001))
    assert "background" in caplog.text


def test_evaluation_must_have_the_classes_of_the_training():
    train = FileSamples("t", ["a", "b", "c"], [0], Path(), ["0.png"])
    check_same_classes(train, FileSamples("e", ["a", "b", "c"], [0], Path(), ["0.png"]))
    with pytest.raises(UserError, match="has 2 classes and the training data 3: it lacks b, c and has besides x"):
        check_same_classes(train, FileSamples("e", ["a", "x"], [0], Path(), ["0.png"]))


def test_class_names_survive_saving(tmp_path):
    samples = FileSamples("t", ["zebra", "猫", 'with "quotes"'], [0], Path(), ["0.png"])
    save_classes(samples, tmp_path / "classes.json")
    assert load_classes(tmp_path / "classes.json") == samples.classes
    (tmp_path / "classes.json").write_text('{"a": 1}')
    with pytest.raises(UserError, match="no list of class names"):
        load_classes(tmp_path / "classes.json")


# the digits

def test_digits_are_split_into_1437_and_360_with_every_class_in_both():
    config = from_mapping({"dataset": "digits"}, "test")
    train, evaluation = (open_samples(config, split) for split in ("train", "eval"))
    assert (len(train), len(evaluation)) == (1437, 360)
    together = Counter(train.labels.tolist()) + Counter(evaluation.labels.tolist())
    assert [together[digit] for digit in range(10)] == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert len(set(train.labels.tolist())) == len(set(evaluation.labels.tolist())) == 10


def test_digits_are_grey_images_of_the_whole_range_and_the_split_is_fixed():
    images, labels = load_digits("eval")
    assert images.shape == (360, 32, 32, 3) and images.dtype == np.uint8
    assert (images[..., 0] == images[..., 1]).all() and images.min() == 0 and images.max() == 255
    assert labels[:12].tolist() == [7, 9, 4, 7, 0, 2, 6, 1, 3, 1, 3, 7]
    with np.load(FILE) as data:
        scans, all_labels = data["images"] * (255 / 16), data["labels"]
    for image, label in zip(images[:20, ..., 0], labels):
        distances = np.abs(scans - image.reshape(8, 4, 8, 4).mean((1, 3))).mean((1, 2))
        assert all_labels[distances.argmin()] == label, "an enlarged digit must still look like its scan"


def test_written_digits_are_read_back_by_the_cifar_and_the_folder_reader(tmp_path):
    batches, pictures = write_digits(tmp_path)
    images, labels = load_digits("train")
    binary = open_samples(config_of(dataset="cifar10", data_dir=tmp_path), "train")
    np.testing.assert_array_equal(binary.images, images)
    np.testing.assert_array_equal(binary.labels, labels)
    folder = open_samples(config_of(data_dir=pictures), "eval")
    assert len(folder) == 360 and folder.classes == binary.classes
    assert len(open_samples(config_of(data_dir=pictures), "train")) == 1437
    picture = load_image(pictures / "train" / str(labels[7]) / "0007.png")
    np.testing.assert_array_equal(np.asarray(picture), images[7])


def test_writing_the_digits_again_reuses_the_files_and_mends_what_is_missing(tmp_path):
    batches, pictures = write_digits(tmp_path)
    lost = next(pictures.rglob("*.png"))
    content, times = lost.read_bytes(), {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    lost.unlink()
    write_digits(tmp_path)
    assert lost.read_bytes() == content
    assert all(p.stat().st_mtime_ns == time for p, time in times.items() if p != lost)


def test_writing_the_digits_never_overwrites_other_data(tmp_path):
    cifar10(tmp_path / "cifar-10-batches-bin")
    before = (tmp_path / "cifar-10-batches-bin" / "data_batch_1.bin").read_bytes()
    with pytest.raises(UserError, match="data_batch_1.bin is there and holds something else"):
        write_digits(tmp_path)
    assert (tmp_path / "cifar-10-batches-bin" / "data_batch_1.bin").read_bytes() == before


def test_digits_command_line(tmp_path, capsys):
    assert run(main, ["write", str(tmp_path / "new")]) == 0
    assert "cifar-10-batches-bin" in capsys.readouterr().out
    assert run(main, ["read"]) == 2
    (tmp_path / "file").write_text("")
    assert run(main, ["write", str(tmp_path / "file")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_sixteen_bits_of_grey_become_eight(tmp_path):
    levels = np.array([[0, 255, 256], [0x8000, 0xabcd, 0xffff]], np.uint16)
    Image.fromarray(levels).save(tmp_path / "grey.png")
    assert np.asarray(load_image(tmp_path / "grey.png"))[..., 1].tolist() == [[0, 0, 1], [128, 0xab, 255]]


def test_a_photo_is_turned_as_its_camera_noted(tmp_path):
    picture = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(2, 4, 3))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn by 90 degrees to the right
    picture.save(tmp_path / "photo.png", exif=exif)
    loaded = load_image(tmp_path / "photo.png")
    assert np.array_equal(np.asarray(loaded), np.rot90(np.asarray(picture), -1))
