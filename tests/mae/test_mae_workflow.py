"""MAE's entry points as a user starts them: pre-training, fine-tuning, probing, conversion, pictures, mistakes."""
import json
import re
from pathlib import Path

import numpy as np
import pytest
from entry import ROOT, run, sentence
from PIL import Image

from common.checkpoint.file import load_checkpoint
from common.checkpoint.weights import network_tensors

NETWORK = {"image_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2, "in_channels": 1}
DATA = {"dataset": "digits", "batch_size": 128, "hflip": 0.0, "scale": [0.7, 1.0], "crop_pct": 1.0, "seed": 3,
        "num_workers": 1, "log_interval": 100}
# As the seed writes it: its own names, nested blocks, no task and no model.
PRETRAIN = {"encoder_layers": 2, "encoder_num_heads": 2, "encoder_dim": 32, "decoder_layers": 1, "decoder_num_heads": 2,
            "decoder_dim": 16, "mlp_ratio": 4, "masking_ratio": 0.75, "norm_pixel_loss": True, "image_size": 16,
            "patch_size": 4, "in_channels": 1, "context": {"mode": "GRAPH_MODE", "device_target": "CPU"},
            "use_parallel": True, "parallel": {"parallel_mode": "DATA_PARALLEL", "gradients_mean": True}, "epoch": 3,
            "base_lr": 0.006, "start_learning_rate": 0.0, "warmup_epochs": 1, "beta2": 0.95, "sample_every": 2,
            "prefix": "mae-digits"}
TRAIN = {"device_target": "CPU", "epochs": 2, "lr": 0.003, "warmup_epochs": 0.5, "prefix": "vit-digits"}


def write(path: Path, *parts, **changes) -> Path:
    """Write a configuration; JSON is YAML too."""
    path.write_text(json.dumps({k: v for part in (*parts, changes) for k, v in part.items()}))
    return path


# For what does not depend on the mode: to compile a network takes longer than its few steps.
OP_BY_OP = ("--mode", "pynative")


def start(entry, config, folder, *more, timeout=900):
    return run(f"mae/{entry}.py", "--config_path", config, "--ckpt_save_dir", folder, *more, timeout=timeout)


def log_of(result) -> str:
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout + result.stderr


def history(folder):
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A masked autoencoder after three epochs: its folder, its checkpoint and what was logged."""
    folder = tmp_path_factory.mktemp("pretrained")
    config = write(folder / "mae.yaml", DATA, PRETRAIN, context={"mode": "PYNATIVE_MODE", "device_target": "CPU"})
    log = log_of(start("pretrain", config, folder / "run", "--use_parallel", "False"))
    return folder, folder / "run" / "mae-digits-3_11.ckpt", log


@pytest.fixture(scope="module")
def finetuned(pretrained, tmp_path_factory):
    """A classifier fine-tuned from it, with everything that the recipes use."""
    folder = tmp_path_factory.mktemp("finetuned")
    config = write(folder / "vit.yaml", DATA, NETWORK, TRAIN, layer_decay=0.75, drop_path_rate=0.1, mixup=0.8,
                   cutmix=1.0, re_prob=0.25, re_mode="pixel", label_smoothing=0.1, loss="soft_ce", ema=True,
                   ema_decay=0.5)
    log = log_of(start("finetune", config, folder / "run", "--ckpt_path", pretrained[1]))
    return folder, folder / "run" / "vit-digits_best.ckpt", log


def test_pretraining_logs_the_old_lines_learns_and_draws_its_reconstructions(pretrained):
    folder, path, log = pretrained
    losses = [float(x) for x in re.findall(r"epoch: \d step: 11, loss is (\d\.\d{6})", log)]
    rows = history(folder / "run")
    assert losses == [round(row["loss"], 6) for row in rows] and losses[2] < losses[0]
    assert "training time used=" in log and "accuracy" not in log and "last_metric" not in log
    assert sorted(p.name for p in (folder / "run").glob("samples_*.png")) == ["samples_0002.png", "samples_0003.png"]
    with Image.open(folder / "run" / "samples_0003.png") as picture:
        assert picture.width > 4 * 200 and picture.height > 6 * 200
    assert path.is_file() and not list((folder / "run").glob("*best*"))
    assert all("top1" not in row for row in rows)


def test_a_pretraining_sees_the_same_masks_when_it_continues(pretrained, tmp_path):
    """The checkpoints of both trainings are equal to the bit, so every mask was."""
    folder, path, _ = pretrained
    log = log_of(start("pretrain", folder / "mae.yaml", tmp_path / "run", "--use_parallel", "False", "--resume",
                       folder / "run" / "mae-digits-1_11.ckpt"))
    assert "Continuing after epoch 1" in log
    assert [row["loss"] for row in history(tmp_path / "run")] == [row["loss"] for row in history(folder / "run")[1:]]
    expected, found = load_checkpoint(path)[0], load_checkpoint(tmp_path / "run" / path.name)[0]
    assert expected.keys() == found.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_fine_tuning_names_what_is_new_and_what_is_left_out(finetuned):
    _, _, log = finetuned
    assert "new: fc_norm.gamma, fc_norm.beta, head.weight, head.bias" in log
    assert "left out: 22 (" in log and "mask_token" in log
    assert re.search(r"epoch\[1\], epoch time: \d+\.\d\ds, per step time: \d+\.\d{4}s, loss=\d\.\d{6}, fps=\d+\.\d\d, "
                     r"accuracy=0\.\d{6}, eval_cost=\d+\.\d\d", log)
    assert re.search(r"last_metric\[0\.\d{5}\]", log)


def test_evaluation_needs_only_the_checkpoint(finetuned):
    folder, path, _ = finetuned
    result = run("mae/eval.py", "--ckpt_path", path, *OP_BY_OP)
    best = max(row["top1"] for row in history(folder / "run"))
    assert log_of(result) and result.stdout.strip().splitlines()[-1] == f"accuracy={best:.6f}"


def test_export_and_prediction_agree(finetuned, tmp_path):
    _, path, _ = finetuned
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8))
    image.save(tmp_path / "image.png")
    log_of(run("mae/export.py", "--ckpt_path", path, "--file_name", tmp_path / "vit", "--batch_size", "2"))
    log_of(run("mae/infer.py", "--ckpt_path", path, "--image", tmp_path / "image.png", "--json", tmp_path / "a.json",
               *OP_BY_OP))
    log_of(run("mae/infer.py", "--model_file", tmp_path / "vit.mindir", "--image", tmp_path / "image.png", "--json",
               tmp_path / "b.json"))
    first, second = (json.loads((tmp_path / name).read_text())[0]["top"] for name in ("a.json", "b.json"))
    assert [one["name"] for one in first] == [one["name"] for one in second]
    assert first[0]["probability"] == pytest.approx(second[0]["probability"], abs=1e-4)


def test_a_pretraining_s_checkpoint_alone_gives_its_parts(pretrained, tmp_path):
    for part, output in (("encoder", [None, 32]), ("reconstruction", [None, 1, 16, 16])):
        log = log_of(run("mae/export.py", "--ckpt_path", pretrained[1], "--part", part, "--batch_size", "dynamic",
                         "--with_preprocess", "--file_name", tmp_path / part))
        assert "grey, 0..255" in log and "largest difference from the network on 8 images" in log
        description = json.loads((tmp_path / f"{part}.mindir.json").read_text())
        assert description["input"]["shape"] == [None, 1, 16, 16] and description["output"]["shape"] == output


def test_linear_probe_changes_nothing_but_its_head(pretrained, tmp_path):
    config = write(tmp_path / "probe.yaml", DATA, NETWORK, TRAIN, task="linprobe", opt="lars", weight_decay=0.0,
                   lr=0.1, prefix="probe")
    # train.py follows the task
    log = log_of(start("train", config, tmp_path / "run", "--ckpt_path", pretrained[1], *OP_BY_OP))
    assert "new: head.0.moving_mean, head.0.moving_variance, head.1.weight, head.1.bias" in log
    before, (after, meta) = load_checkpoint(pretrained[1])[0], load_checkpoint(tmp_path / "run" / "probe_best.ckpt")
    encoder = [name for name in after if name in before and not name.startswith(("train.", "optimizer."))]
    assert len(encoder) == 4 + 24 + 2
    for name in encoder:
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)
    assert meta["config"]["batchnorm_head"] is True and (after["head.0.moving_mean"] != 0).all()
    assert [name for name in after if name.startswith("optimizer.lars_m")] == ["optimizer.lars_m.head.1.weight",
                                                                             "optimizer.lars_m.head.1.bias"]
    result = run("mae/eval.py", "--ckpt_path", tmp_path / "run" / "probe_best.ckpt", *OP_BY_OP)
    best = max(row["top1"] for row in history(tmp_path / "run"))
    assert log_of(result) and result.stdout.strip().splitlines()[-1] == f"accuracy={best:.6f}"


# weights of others

def test_full_weights_go_to_the_authors_names_and_back_bit_for_bit(pretrained, tmp_path):
    from safetensors.numpy import load_file

    log = log_of(run("mae/pth2ckpt.py", "--ckpt_path", pretrained[1], "--out", tmp_path / "mae.safetensors"))
    assert "model: mae (dim " in log
    theirs = load_file(tmp_path / "mae.safetensors")
    assert theirs["decoder_blocks.0.norm1.weight"].shape == (16,)
    ours = network_tensors(load_checkpoint(pretrained[1])[0])
    assert len(theirs) == len(ours)
    np.testing.assert_array_equal(theirs["blocks.1.attn.qkv.weight"], ours["blocks.1.attn.qkv.weight"])


def encoder_only(folder: Path) -> Path:
    """The encoder as the authors publish it: their names, no decoder, no head; 12 heads, which no shape tells."""
    from common.checkpoint.foreign import write_safetensors
    from mae.src.spec import SPEC

    network = SPEC.build("mae_vit_base_patch16", **{**NETWORK, "embed_dim": 24, "num_heads": 12}, decoder_embed_dim=16,
                         decoder_depth=1, decoder_num_heads=2)
    theirs = SPEC.restore({p.name: p.asnumpy() for p in network.get_parameters()})
    kept = {name: value for name, value in theirs.items() if not name.startswith(("decoder", "mask_token"))}
    write_safetensors(folder / "mae_pretrain_vit_tiny.safetensors", kept)
    return folder / "mae_pretrain_vit_tiny.safetensors"


def test_an_encoder_alone_is_converted_fine_tuned_and_reconstructs_nothing(tmp_path):
    source = encoder_only(tmp_path)
    assert "matched: 30" in log_of(run("mae/pth2ckpt.py", "--ckpt_path", source, "--verify"))
    encoder = source.with_suffix(".ckpt")
    config = write(tmp_path / "vit.yaml", DATA, NETWORK, TRAIN, embed_dim=24, num_heads=12, image_size=24, epochs=1)
    log = log_of(start("finetune", config, tmp_path / "run", "--ckpt_path", encoder, *OP_BY_OP))
    for line in ("resized: pos_embed\n", "new: fc_norm.gamma, fc_norm.beta, head.weight, head.bias\n", "left out: 2 "):
        assert line in log
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    shown = run("mae/visualize.py", "--ckpt", encoder, "--image", tmp_path / "a.png", "--out", tmp_path / "attention.png")
    assert shown.returncode == 0 and Image.open(tmp_path / "attention.png").width > 4 * 224, shown.stderr
    message = sentence(run("mae/visualize.py", "--ckpt", encoder, "--image", tmp_path / "a.png", "--view",
                           "reconstruction"))
    assert "mae_visualize_vit_large.pth" in message and "decoder" in message
    evaluation = run("mae/eval.py", "--ckpt_path", encoder, "--dataset", "digits", "--num_classes", "10")
    assert "missing (head.weight, head.bias)" in sentence(evaluation)


# pictures

def test_pictures_of_a_file_and_of_a_folder(pretrained, tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 30), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    command = ("mae/visualize.py", "--ckpt", pretrained[1], "--seed", "0")
    log_of(run(*command, "--image", tmp_path / "images" / "0.png", "--out", tmp_path / "one.png"))
    log_of(run(*command, "--image", tmp_path / "images", "--mask_ratio", "0.5", "--out", tmp_path / "all.png"))
    with Image.open(tmp_path / "one.png") as one, Image.open(tmp_path / "all.png") as several:
        assert one.width == several.width and several.height > 2.8 * one.height
        grey = [np.count_nonzero(np.asarray(picture.crop((252, 14, 476, 238)).convert("L")) == 128)
                for picture in (one, several)]  # the visible patches of the first image
    assert grey == [12 * 56 * 56, 8 * 56 * 56]


# mistakes

MISTAKES = {
    "a classifier cannot be pre-trained": ("pretrain", ("--model", "vit_base_patch16"), "mae_vit_base_patch16"),
    "a masked autoencoder does not classify": ("finetune", ("--model", "mae_vit_base_patch16"), "finetune.py"),
    "heads that do not divide": ("pretrain", ("--encoder_num_heads", "5"), "num_heads: 5 does not divide"),
    "nothing visible": ("pretrain", ("--masking_ratio", "0.99"), "none stays visible"),
    "patches that do not tile": ("pretrain", ("--patch_size", "5"), "patch_size 5"),
    "no drop path": ("pretrain", ("--drop_path_rate", "0.1"), "drops no paths"),
    "several devices without a launcher": ("pretrain", ("--use_parallel", "True"), "launcher"),
    "missing weights": ("finetune", ("--ckpt_path", "none.ckpt"), "none.ckpt"),
    "official file without conversion": ("finetune", ("--ckpt_path", ROOT / "README.md"), "pth2ckpt.py"),
    "task of another program": ("finetune", ("--task", "pretrain"), "task: 'pretrain'"),
    "list of images that is not there": ("pretrain", ("--img_ids", "no.json", "--data_dir", "."), "no.json"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence(tmp_path, mistake):
    entry, flags, words = MISTAKES[mistake]
    parts = (PRETRAIN, {"use_parallel": False}) if entry == "pretrain" else (NETWORK, TRAIN)
    config = write(tmp_path / "run.yaml", DATA, *parts)
    if "--img_ids" in flags:
        config = write(tmp_path / "run.yaml", {k: v for k, v in DATA.items() if k != "dataset"}, *parts)
    assert words in sentence(start(entry, config, tmp_path / "run", *flags))


def test_a_checkpoint_of_the_pretraining_is_not_evaluated(pretrained):
    message = sentence(run("mae/eval.py", "--ckpt_path", pretrained[1]))
    assert "mae_vit_base_patch16" in message and "finetune.py" in message


def test_weights_of_another_depth_are_refused(pretrained, tmp_path):
    config = write(tmp_path / "run.yaml", DATA, NETWORK, TRAIN, depth=3)
    message = sentence(start("finetune", config, tmp_path / "run", "--ckpt_path", pretrained[1]))
    assert "missing (blocks.2.norm1.gamma" in message


def test_images_without_labels_can_be_pretrained_on_and_not_classified(tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(8):
        Image.new("RGB", (16, 16), (20 * number, 0, 0)).save(tmp_path / "images" / f"{number}.png")
    data = {k: v for k, v in DATA.items() if k != "dataset"} | {"batch_size": 4, "data_dir": str(tmp_path / "images")}
    config = write(tmp_path / "mae.yaml", PRETRAIN, data, use_parallel=False, epoch=1, in_channels=3)
    assert "8 training images" in log_of(start("pretrain", config, tmp_path / "run", *OP_BY_OP))
    config = write(tmp_path / "vit.yaml", NETWORK, TRAIN, data, val_while_train=False)
    assert "8 images, but no class folders" in sentence(start("finetune", config, tmp_path / "vit"))


def test_the_list_of_images_selects_them(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(12):
        Image.new("RGB", (16, 16), (20 * number, 0, 0)).save(folder / f"{number}.png")
    (folder / "tot_ids.json").write_text(json.dumps([f"{number}.png" for number in range(8)]))
    parts = {k: v for k, v in DATA.items() if k != "dataset"} | PRETRAIN
    config = write(tmp_path / "run.yaml", parts, use_parallel=False, img_ids="tot_ids.json", data_path=str(folder),
                   batch_size=4, epoch=1, in_channels=3)
    log = log_of(start("pretrain", config, tmp_path / "run", *OP_BY_OP))
    assert "8 training images, 2 steps of 4 images per epoch" in log
    (folder / "tot_ids.json").unlink()  # as in the original file, where nobody has made the list
    log = log_of(start("pretrain", config, tmp_path / "all", *OP_BY_OP))
    assert "img_ids: there is no tot_ids.json" in log and "12 training images" in log


# the digits, as the README shows them

@pytest.mark.long
def test_pretraining_on_the_digits_helps_a_linear_classifier_and_fine_tuning_reaches_96_percent(tmp_path):
    """The shipped configurations; the probes get half of their epochs."""
    def top1(entry, config, folder, *more):
        log_of(start(entry, f"config/{config}-vit-digits.yaml", tmp_path / folder, *more, timeout=1200))
        return max(row.get("top1", 0) for row in history(tmp_path / folder))

    top1("pretrain", "mae", "mae")
    weights = ("--ckpt_path", next((tmp_path / "mae").glob("*.ckpt")))
    trained = top1("linprobe", "linprobe", "probe", "--epochs", "10", *weights)
    assert trained > top1("linprobe", "linprobe", "random", "--epochs", "10") + 0.2
    assert top1("finetune", "finetune", "finetune", *weights) >= 0.96
