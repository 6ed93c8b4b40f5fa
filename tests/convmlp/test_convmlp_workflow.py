"""ConvMLP as its users run it: real processes, the seed's commands and data folders, every kind of bad input."""
import argparse
import io
import json
import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from common.checkpoint.file import load_checkpoint
from common.checkpoint.weights import network_tensors
from common.dataset.digits import load_digits
from convmlp.src.spec import SPEC
from entry import ROOT, check_help, run, sentence
from golden_rule import fill

SIZES = {"channels": 8, "n_conv_blocks": 1, "dims": (16, 16, 32), "depths": (1, 1, 1)}
# the default recipe, with a network and images that train in seconds
SMALL = ("--channels", 8, "--n_conv_blocks", 1, "--dims", "16,16,32", "--depths", "1,1,1", "--image_size", 32,
         "--warmup_epochs", 0, "--cooldown_epochs", 0, "--lr", 3e-3, "--prefix", "small")


def authors_tensors(classes: int = 12) -> dict[str, np.ndarray]:
    """A state dict as the authors' program writes it, of a small ConvMLP."""
    names = SPEC.restore({p.name: p for p in SPEC.build("convmlp_s", num_classes=classes, **SIZES).get_parameters()})
    tensors = {name: fill(name, parameter.shape) for name, parameter in names.items()}
    counters = {name.replace("running_mean", "num_batches_tracked"): np.array(7) for name in tensors
                if name.endswith("running_mean")}
    return tensors | counters


def write_cifar10(folder: Path) -> None:
    """Write the digits where the seed keeps CIFAR-10: ./data/cifar-10-batches-bin and ./data/cifar-10-val-bin."""
    for split, path in (("train", folder / "cifar-10-batches-bin" / "data_batch_1.bin"),
                        ("eval", folder / "cifar-10-val-bin" / "test_batch.bin")):
        images, labels = load_digits(split)
        path.parent.mkdir(parents=True)
        planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
        path.write_bytes(np.hstack([labels[:, None].astype(np.uint8), planes]).tobytes())


def write_cifar100(folder: Path, count: int = 70) -> None:
    """Write random images where the seed keeps CIFAR-100."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("train.bin", "test.bin"):
        records = rng.integers(0, 256, (count, 3074), dtype=np.uint8)
        records[:, :2] = np.stack([np.arange(count) % 20, np.arange(count) % 100], 1)
        (folder / name).write_bytes(records.tobytes())


def test_help_works_from_everywhere():
    check_help("convmlp", "train", "eval", "evl", "export", "infer", "pth2ckpt")


# the seed's workflow

# The programs choose the instructions, also where the tests were given some, and say which kernels they got.
OWN_KERNELS = {"ONEDNN_MAX_CPU_ISA": None, "ONEDNN_VERBOSE": "1"}


@pytest.fixture(scope="module")
def workflow(tmp_path_factory):
    """The authors' weights converted, fine-tuned on what lies in ./data, and evaluated, by the seed's commands."""
    folder = tmp_path_factory.mktemp("workflow")
    write_cifar10(folder / "data")
    save_file(authors_tensors(), folder / "official.safetensors")
    commands = {
        "convert": ("pth2ckpt.py", "--ckpt_path", "official.safetensors", "--verify"),
        "train": ("train.py", "--dataset_choose", "cifar10", "--device_target", "CPU", "--pretrained", "official.ckpt",
                  "--epoch_size", 4, "--is_distributed", "False", "--run_modelarts", "False", "--mixup", 0,
                  "--cutmix", 0, *SMALL),
        "eval": ("eval.py", "--chcekpoint_path", "ckpt/small-4_22.ckpt"),
        "evl": ("evl.py",),
        "export": ("export.py", "--ckpt_path", "ckpt/small-4_22.ckpt", "--file_name", "net.mindir"),
        "back": ("pth2ckpt.py", "--ckpt_path", "ckpt/small-4_22.ckpt", "--out", "back.safetensors"),
    }
    results = {}
    for name, (program, *flags) in commands.items():
        results[name] = run(ROOT / "convmlp" / program, *flags, cwd=folder, **OWN_KERNELS)
        assert results[name].returncode == 0, (name, results[name].stderr)
    return folder, results


def printed(result) -> list[str]:
    return [line for line in result.stdout.splitlines() if not line.startswith("onednn_verbose")]


def test_conversion_reports_what_it_did(workflow):
    lines = printed(workflow[1]["convert"])
    tensors = authors_tensors()
    counters = [name for name in tensors if "tracked" in name]
    assert lines[0].startswith(f"read: {len(tensors)} entries")
    assert lines[1].startswith(f"ignored: {len(counters)}, a counter that BatchNorm does not need")
    assert f"matched: {len(tensors) - len(counters)}" in lines
    assert any(line.startswith("top five: class ") for line in lines)


def test_training_says_that_the_head_is_new(workflow):
    lines = printed(workflow[1]["train"])
    tensors = len([name for name in authors_tensors() if "tracked" not in name])
    first = lines.index("Starting from the weights of official.ckpt")
    assert lines[first + 1:first + 4] == [f"{tensors - 2} tensors loaded", "new: head.weight, head.bias",
                                          "left out: 2 (head.weight, head.bias)"]


def test_training_logs_the_seeds_lines_and_learns(workflow):
    folder, results = workflow
    lines = [line for line in printed(results["train"]) if "loss is " in line]
    rows = [json.loads(line) for line in (folder / "ckpt" / "history.jsonl").read_text().splitlines()]
    assert lines == [f"epoch:{row['epoch']} step:22, loss is {row['loss']:.5f}" for row in rows]
    assert len(rows) == 4 and rows[3]["loss"] < rows[0]["loss"] - 0.2 and rows[3]["top1"] > 0.3


@pytest.mark.parametrize("program", ["eval", "evl"])
def test_evaluation_prints_the_seeds_line_and_the_training_s_number(workflow, program):
    folder, results = workflow
    rows = [json.loads(line) for line in (folder / "ckpt" / "history.jsonl").read_text().splitlines()]
    row = rows[-1] if program == "eval" else max(rows, key=lambda row: row["top1"])  # the best, as no file is named
    first, second = printed(results[program])[-2:]
    assert first == f"accuracy:{{'acc':{row['top1']:.4f}}}"
    assert second.startswith(f"top-1 {row['top1']:.2%}, top-5 {row['top5']:.2%}, loss {row['eval_loss']:.5f}, 360 ")


def kernels(result) -> list[str]:
    """The names of the kernels that computed convolutions, as oneDNN reports them."""
    return [line.split(",convolution,")[1].split(",")[0] for line in result.stdout.splitlines()
            if line.startswith("onednn_verbose") and ",convolution," in line]


@pytest.mark.parametrize("command", ["convert", "train", "eval", "export"])
def test_no_convolution_falls_into_the_slow_reference_kernel(workflow, command):
    found = kernels(workflow[1][command])
    assert len(found) > 10 and not [name for name in found if "ref" in name]


def test_a_round_trip_is_bit_exact(workflow):
    folder, _ = workflow
    ours, _ = load_checkpoint(folder / "ckpt" / "small-4_22.ckpt")
    ours = SPEC.restore(network_tensors(ours))
    back = load_file(folder / "back.safetensors")
    assert set(back) == set(ours)
    assert all(back[name].tobytes() == ours[name].tobytes() and back[name].shape == ours[name].shape for name in ours)
    first, _ = load_checkpoint(folder / "official.ckpt")
    theirs = load_file(folder / "official.safetensors")
    assert all(value.tobytes() == theirs[name].tobytes() for name, value in SPEC.restore(first).items())


def test_the_weights_that_went_back_compute_the_same(workflow, tmp_path):
    """The checksum of the weights and of the logits of the fixed image, before and after."""
    folder, _ = workflow
    again = run("convmlp/pth2ckpt.py", "--ckpt_path", folder / "back.safetensors", "--out", tmp_path / "again.ckpt",
                "--verify")
    there = run("convmlp/pth2ckpt.py", "--ckpt_path", tmp_path / "again.ckpt", "--out", tmp_path / "b.safetensors",
                "--verify")
    assert again.returncode == there.returncode == 0, again.stderr + there.stderr
    assert again.stdout.splitlines()[-3:] == there.stdout.splitlines()[-3:]
    assert (tmp_path / "b.safetensors").read_bytes() == (folder / "back.safetensors").read_bytes()


def test_prediction_needs_only_a_checkpoint_and_an_image(workflow, tmp_path):
    from PIL import Image

    folder, _ = workflow
    Image.fromarray(load_digits("eval")[0][0]).save(tmp_path / "digit.png")
    answers = []
    for source in (("--ckpt_path", folder / "ckpt" / "small-4_22.ckpt"), ("--model_file", folder / "net.mindir")):
        result = run("convmlp/infer.py", *source, "--engine", "mindspore", "--image", tmp_path / "digit.png", "--json",
                     tmp_path / "a.json", **OWN_KERNELS)
        assert result.returncode == 0, result.stderr
        assert len(kernels(result)) > 10 and not [name for name in kernels(result) if "ref" in name]
        answers.append([entry["probability"] for entry in json.loads((tmp_path / "a.json").read_text())[0]["top"]])
    assert len(answers[0]) == 5 and answers[0] == pytest.approx(answers[1], abs=1e-4)


def test_cifar_100_trains_by_its_name_alone(tmp_path):
    write_cifar100(tmp_path / "data" / "cifar-100-binary")
    result = run(ROOT / "convmlp" / "train.py", "--dataset_choose", "cifar100", "--epoch_size", 1, "--mode", "pynative",
                 *SMALL, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "100 classes, 1 steps of 64 images" in result.stdout


def test_an_archive_in_the_data_folder_is_unpacked(tmp_path):
    write_cifar10(tmp_path / "made")
    (tmp_path / "data").mkdir()
    with tarfile.open(tmp_path / "data" / "cifar-10-binary.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "made" / "cifar-10-batches-bin", "cifar-10-batches-bin")
        archive.add(tmp_path / "made" / "cifar-10-val-bin" / "test_batch.bin", "cifar-10-batches-bin/test_batch.bin")
    result = run(ROOT / "convmlp" / "train.py", "--epoch_size", 1, "--train_data_path", "./data/cifar-10-batches-bin",
                 "--val_data_path", "./data/cifar-10-val-bin", "--mode", "pynative", *SMALL, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "1437 training images" in result.stdout and "accuracy:{'acc':" in result.stdout
    assert (tmp_path / "data" / "cifar-10-batches-bin" / "data_batch_1.bin").is_file()


@pytest.mark.long
def test_a_continued_training_has_the_statistics_and_averages_of_one_that_never_stopped(tmp_path):
    """BatchNorm's statistics, drop path, moving averages: everything that ConvMLP adds to what a checkpoint holds.

    In tests/ranks/test_rank_stop.py two ranks do the same.
    """
    write_cifar10(tmp_path / "data")
    flags = ("--ema", "True", "--ema_decay", 0.9, *SMALL, "--depths", "2,1,1")
    for folder, epochs in (("whole", 2), ("parts", 1), ("parts", 2)):
        result = run(ROOT / "convmlp" / "train.py", *flags, "--scheduler", "constant", "--epoch_size", epochs,
                     "--ckpt_save_dir", folder, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    whole, parts = (load_checkpoint(tmp_path / folder / "small-2_22.ckpt")[0] for folder in ("whole", "parts"))
    assert "stages.0.blocks.1.connect.weight" in whole  # the one with drop path
    assert set(whole) == set(parts) and "ema.tokenizer.block.1.moving_variance" in whole
    assert all(np.array_equal(whole[name], parts[name]) for name in whole)
    row = json.loads((tmp_path / "parts" / "history.jsonl").read_text().splitlines()[-1])
    result = run(ROOT / "convmlp" / "eval.py", "--ckpt_path", "parts/small-2_22.ckpt", "--mode", "pynative",
                 cwd=tmp_path)
    assert f"accuracy:{{'acc':{row['top1']:.4f}}}" in result.stdout  # of the averages


@pytest.mark.long
def test_the_shipped_recipe_learns_the_digits_to_96_per_cent(tmp_path):
    result = run("convmlp/train.py", "--config_path", "config/convmlp_digits.yaml", "--ckpt_save_dir", tmp_path / "run",
                 timeout=900)
    assert result.returncode == 0, result.stderr
    rows = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert rows[-1]["top1"] >= 0.96
    assert rows[-1]["loss"] < rows[len(rows) // 2]["loss"] < rows[0]["loss"]


# bad input: data

def refused(folder: Path, *arguments, cwd: Path | None = None) -> str:
    """Run a program that must refuse; return its sentence after checking that it left no file behind."""
    before = {path for path in folder.rglob("*") if "rank_0" not in path.parts}
    answer = sentence(run(ROOT / "convmlp" / arguments[0], *arguments[1:], cwd=cwd or folder))
    assert {path for path in folder.rglob("*") if "rank_0" not in path.parts} == before
    return answer


def test_missing_data_names_archive_address_and_files(tmp_path):
    (tmp_path / "data").mkdir()
    for words, data in ((("cifar-10-binary.tar.gz", "data_batch_1.bin to data_batch_5.bin, test_batch.bin"), "cifar10"),
                        (("cifar-100-binary.tar.gz", "train.bin, test.bin"), "cifar100")):
        answer = refused(tmp_path, "train.py", "--dataset_choose", data)
        assert all(word in answer for word in (*words, "https://www.cs.toronto.edu/~kriz/", str(tmp_path)))


def test_a_data_folder_that_is_not_there_at_all(tmp_path):
    answer = refused(tmp_path, "train.py", "--train_data_path", "./data/cifar-10-batches-bin")
    assert "data/cifar-10-batches-bin lacks the training files of CIFAR-10" in answer


def test_cifar_file_of_a_wrong_size(tmp_path):
    write_cifar10(tmp_path / "data")
    file = tmp_path / "data" / "cifar-10-batches-bin" / "data_batch_1.bin"
    file.write_bytes(file.read_bytes()[:-5])
    answer = refused(tmp_path, "train.py")
    assert "data_batch_1.bin" in answer and str(1437 * 3073 - 5) in answer and "3073 bytes each" in answer


def test_cifar_file_that_is_empty(tmp_path):
    write_cifar10(tmp_path / "data")
    (tmp_path / "data" / "cifar-10-val-bin" / "test_batch.bin").write_bytes(b"")
    assert "test_batch.bin has 0 bytes" in refused(tmp_path, "train.py")


@pytest.mark.parametrize("asked, other", [("cifar10", "cifar100"), ("cifar100", "cifar10")])
def test_the_folder_of_the_other_cifar(tmp_path, asked, other):
    write_cifar10(tmp_path / "a") if other == "cifar10" else write_cifar100(tmp_path / "a" / "cifar-100-binary")
    folder = tmp_path / "a" / ("cifar-10-batches-bin" if other == "cifar10" else "cifar-100-binary")
    answer = refused(tmp_path, "train.py", "--dataset_choose", asked, "--train_data_path", folder)
    assert f"dataset: {asked}" in answer and f"set dataset: {other}" in answer


@pytest.mark.parametrize("asked", ["cifar10", "cifar100"])
def test_files_of_one_cifar_under_the_names_of_the_other(tmp_path, asked):
    folder = tmp_path / "mixed"
    folder.mkdir()
    if asked == "cifar10":
        write_cifar100(tmp_path / "made")
        shutil.copy(tmp_path / "made" / "train.bin", folder / "data_batch_1.bin")
    else:
        write_cifar10(tmp_path / "made")
        shutil.copy(tmp_path / "made" / "cifar-10-batches-bin" / "data_batch_1.bin", folder / "train.bin")
    answer = refused(tmp_path, "train.py", "--dataset_choose", asked, "--train_data_path", folder)
    assert f"it looks like {'CIFAR-100' if asked == 'cifar10' else 'CIFAR-10'}" in answer


def test_class_count_that_does_not_fit_the_data(tmp_path):
    write_cifar10(tmp_path / "data")
    answer = refused(tmp_path, "train.py", "--num_classes", 100)
    assert "num_classes: 100" in answer and "10 classes" in answer


def test_evaluation_of_a_network_with_another_number_of_classes(workflow, tmp_path):
    folder, _ = workflow
    answer = refused(tmp_path, "eval.py", "--ckpt_path", folder / "official.ckpt", "--data_dir", folder / "data")
    assert "num_classes: 12" in answer and "10 classes" in answer


def test_weights_of_another_size_are_not_trained_on(workflow, tmp_path):
    folder, _ = workflow
    shutil.copytree(folder / "data", tmp_path / "data")
    result = run(ROOT / "convmlp" / "train.py", "--pretrained", folder / "official.ckpt", "--epoch_size", 1, *SMALL,
                 "--dims", "16,16,24", cwd=tmp_path)
    answer = sentence(result)
    assert "official.ckpt does not fit this network" in answer and "(24," in answer
    assert not list(tmp_path.rglob("*.ckpt"))


# bad input: weights

def converted(folder: Path, file: str, *more) -> str:
    """The sentence with which pth2ckpt.py refuses a file, after checking that it wrote none."""
    return refused(folder, "pth2ckpt.py", "--ckpt_path", file, *more)


def test_no_file_named_and_none_there(tmp_path):
    answer = refused(tmp_path, "pth2ckpt.py")
    assert "--ckpt_path FILE.pth" in answer and "https://shi-labs.com/projects/convmlp/checkpoints" in answer


def test_the_one_official_file_needs_not_be_named(tmp_path):
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "convmlp_s_imagenet.pth").write_bytes(b"something else")
    answer = refused(tmp_path, "pth2ckpt.py")
    assert "checkpoint/convmlp_s_imagenet.pth is neither a PyTorch nor a safetensors file" in answer
    shutil.copy(tmp_path / "checkpoint" / "convmlp_s_imagenet.pth", tmp_path / "convmlp_m_imagenet.pth")
    answer = refused(tmp_path, "pth2ckpt.py")
    assert "convmlp_m_imagenet.pth" in answer and "convmlp_s_imagenet.pth" in answer and "name the file" in answer


def test_weights_of_another_network(tmp_path):
    shapes = {"stem.proj.weight": (8, 3, 4, 4), "blocks.0.mlp_channels.fc1.weight": (16, 8),
              "blocks.0.mlp_channels.gate.proj.weight": (16, 16)}
    save_file({name: np.zeros(shape, np.float32) for name, shape in shapes.items()}, tmp_path / "gmlp.safetensors")
    assert "not the weights of a convmlp, but of a gmlp; use gmlp/pth2ckpt.py" in converted(tmp_path, "gmlp.safetensors")


def test_weights_of_another_variant_than_expected(tmp_path):
    save_file(authors_tensors(), tmp_path / "small.safetensors")
    answer = converted(tmp_path, "small.safetensors", "--model", "convmlp_m")
    assert "does not hold convmlp_m" in answer and "n_conv_blocks 1 instead of 3" in answer


def test_missing_unexpected_and_misshapen_tensors_are_named_with_both_shapes(tmp_path):
    tensors = authors_tensors()
    del tensors["norm.bias"]
    tensors["extra.weight"] = np.zeros(3, np.float32)
    tensors["conv_stages.downsample.bias"] = np.zeros(5, np.float32)
    save_file(tensors, tmp_path / "odd.safetensors")
    result = run("convmlp/pth2ckpt.py", "--ckpt_path", tmp_path / "odd.safetensors")
    answer = sentence(result)
    assert all(word in answer for word in ("norm.beta", "extra.weight", "conv_stages.downsample.bias", "(16,)", "(5,)"))
    lines = result.stdout.splitlines()
    assert "missing: norm.beta (32,)" in lines and "unexpected: extra.weight (3,)" in lines
    assert "shape: conv_stages.downsample.bias is (5,) in the file and (16,) in the network" in lines
    assert not list(tmp_path.glob("*.ckpt"))


def test_another_head_must_be_asked_for(tmp_path):
    tensors = authors_tensors()
    del tensors["head.bias"]
    save_file(tensors, tmp_path / "headless.safetensors")
    assert "1 missing (head.bias)" in converted(tmp_path, "headless.safetensors")
    result = run("convmlp/pth2ckpt.py", "--ckpt_path", tmp_path / "headless.safetensors", "--num_classes", 10)
    assert result.returncode == 0, result.stderr
    assert "new, with initial values: head.weight, head.bias" in result.stdout
    written, _ = load_checkpoint(tmp_path / "headless.ckpt")
    assert written["head.weight"].shape == (10, 32)


@pytest.mark.parametrize("content, words", [
    (b"", "is empty"),
    (b"\x80\x04", "is damaged, truncated, or no file of PyTorch"),
    (b"PK\x03\x04" + bytes(100), "is damaged, truncated, or no file of PyTorch"),
    (b"hello, this is text", "neither a PyTorch nor a safetensors file"),
])
def test_files_that_hold_no_weights(tmp_path, content, words):
    (tmp_path / "convmlp_s.pth").write_bytes(content)
    assert words in converted(tmp_path, "convmlp_s.pth")


def test_a_truncated_safetensors_file(tmp_path):
    save_file(authors_tensors(), tmp_path / "whole.safetensors")
    (tmp_path / "half.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:-100])
    assert "damaged or truncated" in converted(tmp_path, "half.safetensors")


def test_comparing_with_timm_is_refused_where_timm_has_no_such_network(tmp_path):
    save_file(authors_tensors(), tmp_path / "small.safetensors")
    assert "timm has no convmlp" in converted(tmp_path, "small.safetensors", "--against", "timm")


# the authors' own file format

def wrapped(tensors: dict, how: str) -> dict:
    """What training programs write: plain weights, or weights among other things, of one or of several devices."""
    worse = {name: value * 0 for name, value in tensors.items()}
    return {"flat": tensors,
            "model": {"model": tensors, "epoch": 3},
            "state_dict": {"state_dict": {f"module.{name}": value for name, value in tensors.items()}, "epoch": 3},
            "timm": {"epoch": 9, "arch": "convmlp_s", "state_dict": worse, "state_dict_ema": tensors, "version": 2,
                     "args": argparse.Namespace(lr=5e-4, model="convmlp_s"), "metric": 76.8,
                     "optimizer": {"state": {}, "param_groups": [{"lr": 1e-5}]}}}[how]


@pytest.mark.parametrize("how", ["flat", "model", "state_dict", "timm"])
def test_official_files_in_every_wrapping(tmp_path, how):
    torch = pytest.importorskip("torch", reason="reading .pth files needs torch, which is not installed here")
    tensors, file = authors_tensors(), tmp_path / "official.pth"
    torch.save(wrapped({name: torch.from_numpy(value) for name, value in tensors.items()}, how), file)
    result = run("convmlp/pth2ckpt.py", "--ckpt_path", file)
    assert result.returncode == 0, result.stderr
    written, _ = load_checkpoint(tmp_path / "official.ckpt")
    assert all(value.tobytes() == tensors[name].tobytes() for name, value in SPEC.restore(written).items())


class Evil:
    """Makes a file when it is unpickled."""

    def __reduce__(self):
        return (open, ("evil_was_here", "w"))


def test_a_pickle_with_code_is_refused_and_the_code_not_run(tmp_path):
    torch = pytest.importorskip("torch", reason="reading .pth files needs torch, which is not installed here")
    torch.save({"state_dict": {"a": torch.zeros(2)}, "more": Evil()}, tmp_path / "new.pth")
    torch.save({"a": Evil()}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"a": Evil()}))
    for file in ("new.pth", "old.pth", "plain.pth"):
        assert "code in a file is never run" in converted(tmp_path, file)
    assert not (tmp_path / "evil_was_here").exists()


def test_a_truncated_torch_file(tmp_path):
    torch = pytest.importorskip("torch", reason="reading .pth files needs torch, which is not installed here")
    whole = io.BytesIO()
    torch.save({name: torch.from_numpy(value) for name, value in authors_tensors().items()}, whole)
    (tmp_path / "half.pth").write_bytes(whole.getvalue()[:-1000])
    assert "damaged or truncated" in converted(tmp_path, "half.pth")


def test_the_authors_program_loads_what_goes_back(workflow):
    """PyTorch's strict loading misses no tensor but the counters of BatchNorm, which it fills in itself."""
    torch = pytest.importorskip("torch", reason="this asks PyTorch itself, which is not installed here")
    back = load_file(workflow[0] / "back.safetensors")
    norm = torch.nn.BatchNorm2d(4)
    prefix = "tokenizer.block.1."
    norm.load_state_dict({name.removeprefix(prefix): torch.from_numpy(value) for name, value in back.items()
                          if name.startswith(prefix)}, strict=True)
    assert torch.equal(norm.running_var, torch.from_numpy(back[f"{prefix}running_var"]))
