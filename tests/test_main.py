"""gMLP's entry points, started as a user starts them: every way to call, the whole chain, every kind of mistake."""
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from entry import ROOT, check_help, environment, run, sentence, write_yaml
from PIL import Image


def test_help_works_from_everywhere():
    check_help("gmlp", "train", "eval", "validate", "export", "infer", "pth2ckpt")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A training of three epochs, with the digits as CIFAR-10 batches and as a folder of images."""
    folder = tmp_path_factory.mktemp("trained")
    assert run("-m", "common.dataset.digits", "write", folder / "digits").returncode == 0
    config = write_yaml(folder / "run.yaml", dataset="cifar10", epochs=6)
    result = run("gmlp/train.py", "--config", config, "--dataset_path", folder / "digits", "--ckpt_save_dir",
                 folder / "run", "--distribute", "False", "--logger_name", "mindcv.utils.callbacks")
    assert result.returncode == 0, result.stderr
    return folder, result


def checkpoint_of(folder):
    return folder / "run" / "gmlp_dim16_depth2_best.ckpt"


def test_a_training_learns_and_logs_the_seeds_lines(trained):
    folder, result = trained
    assert "parameters" in result.stdout and "gmlp_Ti" not in result.stdout  # which this network is not
    lines = [line.split("mindcv.utils.callbacks INFO - ")[-1] for line in result.stdout.splitlines()]
    assert [line for line in lines if line.startswith("Epoch: [6/6], batch: [22/22], loss: ")]
    assert lines.count("-" * 80) == 6 and "Finish training!" in lines
    rows = [json.loads(line) for line in (folder / "run" / "history.jsonl").read_text().splitlines()]
    assert rows[-1]["top1"] > 0.5 > rows[0]["top1"] / 2
    assert lines[-1] == (f"The best validation Top_1_Accuracy is: {max(r['top1'] for r in rows):.4%} at epoch "
                         f"{1 + int(np.argmax([r['top1'] for r in rows]))}.")


@pytest.mark.parametrize("entry", ["eval", "validate"])
def test_evaluation_needs_only_a_checkpoint_and_gives_the_training_s_number(trained, entry):
    folder, _ = trained
    result = run(f"{entry}.py", "--ckpt_path", checkpoint_of(folder), cwd=ROOT / "gmlp")
    assert result.returncode == 0, result.stderr
    assert "] gmlp INFO - gmlp (dim 16, depth 2) from " in result.stdout
    scores = eval(result.stdout.strip().splitlines()[-1])  # the seed prints a Python dictionary
    rows = [json.loads(line) for line in (folder / "run" / "history.jsonl").read_text().splitlines()]
    assert scores["Top_1_Accuracy"] == round(max(row["top1"] for row in rows), 4)
    assert set(scores) == {"Top_1_Accuracy", "Top_5_Accuracy", "loss"}


def test_evaluation_does_not_depend_on_the_batch_size_or_the_reader(trained):
    folder, _ = trained
    printed = set()
    for more in (("--batch_size", "7"), ("--batch_size", "360"),
                 ("--dataset", "folder", "--dataset_path", folder / "digits" / "images", "--mean",
                  "0.4914,0.4822,0.4465", "--std", "0.2470,0.2435,0.2616")):
        result = run("gmlp/eval.py", "--ckpt_path", checkpoint_of(folder), *more)
        assert result.returncode == 0, result.stderr
        printed.add(result.stdout.strip().splitlines()[-1])
    assert len(printed) == 1


def test_export_and_prediction_agree(trained, tmp_path):
    folder, _ = trained
    exported = run("gmlp/export.py", "--ckpt_path", checkpoint_of(folder), "--file_name", tmp_path / "net.mindir")
    assert exported.returncode == 0 and "largest difference" in exported.stdout, exported.stderr
    images = folder / "digits" / "images" / "val" / "3"
    from_checkpoint, from_file = tmp_path / "a.json", tmp_path / "b.json"
    first = run("gmlp/infer.py", "--image", images, "--ckpt_path", checkpoint_of(folder), "--json", from_checkpoint)
    second = run("gmlp/infer.py", "--image", images, "--model_file", tmp_path / "net.mindir", "--json", from_file)
    assert first.returncode == 0 == second.returncode, first.stderr + second.stderr
    a, b = json.loads(from_checkpoint.read_text()), json.loads(from_file.read_text())
    assert len(a) == len(list(images.iterdir())) == len(b)
    for one, other in zip(a, b):
        assert [c["name"] for c in one["top"]][:1] == [c["name"] for c in other["top"]][:1]
        assert one["top"][0]["probability"] == pytest.approx(other["top"][0]["probability"], abs=1e-4)


def test_prediction_reads_images_as_the_keys_say(trained):
    folder, _ = trained
    image = next((folder / "digits" / "images" / "val" / "3").iterdir())
    said = sentence(run("gmlp/infer.py", "--image", image, "--ckpt_path", checkpoint_of(folder), "--max_image_pixels", "9"))
    assert "more than max_image_pixels: 9" in said


def test_seed_spelling_of_the_model_is_as_good_as_ours(trained):
    folder, _ = trained
    for name in ("gmlp_Ti", "gmlp_ti", "gmlp_ti16_224"):
        assert run("gmlp/eval.py", "--ckpt_path", checkpoint_of(folder), "--model", name).returncode == 0


def test_pynative_mode_trains_as_well(tmp_path):
    config = write_yaml(tmp_path / "run.yaml", epochs=1, mode=1, depth=1)
    result = run("gmlp/train.py", "--config_path", config, "--ckpt_save_dir", tmp_path / "run")
    assert result.returncode == 0, result.stderr


MISTAKES = {
    "unknown flag": (("--bach_size", "3"), "batch_size"),
    "wrong type": (("--epochs", "many"), "epochs"),
    "missing config": (("--config_path", "nothing.yaml"), "nothing.yaml"),
    "missing data": (("--dataset", "imagenet", "--data_dir", "/no/such/folder"), "/no/such/folder"),
    "unknown model": (("--model", "gmlp_Tiny"), "gmlp_ti"),
    "absent device": (("--device_target", "Ascend"), "Ascend is not available here"),
    "no launcher": (("--distribute", "True"), "launcher"),
    "wrong class count": (("--num_classes", "11"), "11"),
    "batch larger than the data": (("--batch_size", "5000"), "5000"),
    "warm-up longer than training": (("--warmup_epochs", "9"), "warmup_epochs"),
    "patches that do not tile": (("--patch_size", "5"), "patch_size 5"),
    "missing checkpoint": (("--ckpt_path", "none.ckpt"), "none.ckpt"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_and_leaves_nothing(tmp_path, mistake):
    flags, words = MISTAKES[mistake]
    config = write_yaml(tmp_path / "run.yaml")
    arguments = flags if "--config_path" in flags else ("--config_path", config, *flags)
    assert words in sentence(run("gmlp/train.py", *arguments, "--ckpt_save_dir", tmp_path / "run"))
    left = [path.name for path in (tmp_path / "run").glob("*")] if (tmp_path / "run").exists() else []
    assert not [name for name in left if not name.startswith(("log_", ".lock"))], left


def test_a_checkpoint_of_another_size_is_refused_by_name(trained, tmp_path):
    folder, _ = trained
    config = write_yaml(tmp_path / "run.yaml", embed_dim=32)
    message = sentence(run("gmlp/eval.py", "--config_path", config, "--ckpt_path", checkpoint_of(folder)))
    assert "does not fit" in message and "stem.proj.weight" in message
    message = sentence(run("gmlp/eval.py", "--config_path", config, "--ckpt_path", checkpoint_of(folder), "--model",
                           "gmlp_B"))
    assert "gmlp_ti" in message and "gmlp_b" in message


def test_a_truncated_checkpoint_is_refused(trained, tmp_path):
    folder, _ = trained
    raw = checkpoint_of(folder).read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(raw[:len(raw) // 2])
    assert "cut.ckpt cannot be read" in sentence(run("gmlp/eval.py", "--ckpt_path", tmp_path / "cut.ckpt"))


def image_folder(root, broken: bool):
    """A data set of two classes with eight small images each; one of the files may be no image."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for i in range(8):
                pixels = rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    if broken:
        (root / "train" / "dog" / "3.png").write_bytes(b"no image")
    return root


@pytest.mark.parametrize("workers", [1, 2])
def test_a_broken_image_is_named_or_skipped_and_counted(tmp_path, workers):
    data = image_folder(tmp_path / "data", broken=True)
    config = write_yaml(tmp_path / "run.yaml", dataset="folder", num_classes=2, epochs=1, batch_size=4,
                        num_workers=workers, mode="pynative", depth=1)
    arguments = ("gmlp/train.py", "--config_path", config, "--data_dir", data, "--ckpt_save_dir")
    assert "3.png" in sentence(run(*arguments, tmp_path / "a"))
    skipped = run(*arguments, tmp_path / "b", "--on_error", "skip")
    assert skipped.returncode == 0 and "1 time(s)" in skipped.stdout and "3.png" in skipped.stdout, skipped.stderr


def test_an_empty_data_folder_is_named(tmp_path):
    (tmp_path / "data" / "train").mkdir(parents=True)
    config = write_yaml(tmp_path / "run.yaml", dataset="folder")
    message = sentence(run("gmlp/train.py", "--config_path", config, "--data_dir", tmp_path / "data"))
    assert str(tmp_path / "data") in message


def test_a_training_whose_loss_explodes_stops_with_the_step(tmp_path):
    config = write_yaml(tmp_path / "run.yaml", lr=1e30, opt="sgd", warmup_epochs=0, log_interval=1, mode="pynative")
    message = sentence(run("gmlp/train.py", "--config_path", config, "--ckpt_save_dir", tmp_path / "run"))
    assert "training stopped" in message and "step" in message


def test_paths_with_spaces_work(trained, tmp_path):
    folder, _ = trained
    shutil.copy(checkpoint_of(folder), tmp_path / "a b.ckpt")
    assert run("gmlp/eval.py", "--ckpt_path", tmp_path / "a b.ckpt").returncode == 0


def test_ctrl_c_ends_a_training_and_its_workers_and_keeps_what_is_saved(trained, tmp_path):
    folder, _ = trained
    config = write_yaml(tmp_path / "run.yaml", dataset="folder", data_dir=folder / "digits" / "images", epochs=500,
                        num_workers=2, mode="pynative", depth=1)
    process = subprocess.Popen([sys.executable, "gmlp/train.py", "--config_path", config, "--ckpt_save_dir",
                                tmp_path / "run"], cwd=ROOT, env=environment(), text=True, stderr=subprocess.PIPE,
                               stdout=subprocess.DEVNULL, start_new_session=True)
    while not list((tmp_path / "run").glob("gmlp_dim16_depth1-2_*.ckpt")):
        assert process.poll() is None
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the whole group
    assert process.wait(timeout=300) == 130
    assert "Stopped; the training goes on from gmlp_dim16_depth1-" in process.stderr.read()
    for _ in range(100):  # the workers notice that their parent is gone
        if not subprocess.run(["pgrep", "-g", str(process.pid)], capture_output=True).stdout:
            break
        time.sleep(0.1)
    assert not subprocess.run(["pgrep", "-g", str(process.pid)], capture_output=True).stdout
    saved = next((tmp_path / "run").glob("gmlp_dim16_depth1-2_*.ckpt"))
    assert run("gmlp/eval.py", "--ckpt_path", saved).returncode == 0
