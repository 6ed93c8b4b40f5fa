"""HLG as a user meets it: the original keys and commands, log lines, the digits, conversion, every kind of mistake."""
import json
import re

import numpy as np
import pytest
import yaml
from entry import ROOT, check_help, check_old_zoo_lines, run, sentence
from golden_rule import fill
from PIL import Image

from common.checkpoint.file import load_checkpoint, save_checkpoint
from common.checkpoint.foreign import read_tensors, write_safetensors
from common.checkpoint.weights import network_tensors, weights_of
from common.config.load import from_file
from common.config.yaml_file import read_yaml
from common.main import main
from hlg.src.spec import SPEC

# two stages: a map of 7 x 7 tokens, one of 4 x 4; of the authors' networks maps of 14 x 14 and 7 x 7
SIZES = {"dims": (16, 32), "num_heads": (1, 2), "depths": (2, 1)}
ZOO = SIZES | {"mlp_ratio": (2, 2), "image_size": 28, "num_classes": 10}
OFFICIAL = SIZES | {"image_size": 56, "num_classes": 10}
ORIGINAL = ROOT / "tests/data/seed_hlg_mobile.yml"
OP_BY_OP = ("--mode", "pynative")  # to compile a network takes longer than its few steps


def flags(sizes) -> list[str]:
    return [f"--{key}={','.join(map(str, value)) if isinstance(value, tuple) else value}"
            for key, value in sizes.items()]


def mistake(capsys, task: str, *arguments) -> str:
    """Run a task as its entry point does, and return the sentence with which it ends."""
    with pytest.raises(SystemExit) as end:
        main(task, SPEC, [str(argument) for argument in arguments])
    assert end.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if line.startswith("error: ")]) == 1, lines
    return lines[-1]


def test_help_works_from_everywhere():
    check_help("hlg", "train", "eval", "export", "infer", "pth2ckpt")


@pytest.mark.parametrize("path", sorted((ROOT / "hlg/config").glob("*.yml")), ids=lambda path: path.name)
def test_shipped_file_names_a_variant_and_begins_with_what_it_is_for(path):
    assert SPEC.variant(from_file(path, SPEC).model)
    header = path.read_text().split("\n\n")[0]
    assert "Command, in hlg/" in header or "Start file hlg/train.py" in header
    assert "Hardware:" in header


def test_files_that_the_original_instructions_name_are_there():
    assert {"hlg_config.yml", "hlg_cloud.yml", "hlg_eval.yml", "hlg_export.yml"} <= {
        path.name for path in (ROOT / "hlg/config").iterdir()}


def test_original_file_gives_the_configuration_that_is_shipped():
    shipped = from_file(ROOT / "hlg/config/hlg_cloud.yml", SPEC)
    assert from_file(ORIGINAL, SPEC) == shipped


def test_basic_file_has_the_recipe_of_the_original_one():
    names = ("model", "num_classes", "epochs", "lr", "min_lr", "warmup_epochs", "scheduler", "opt", "weight_decay",
             "no_weight_decay_filter", "loss", "label_smoothing", "mixup", "auto_augment", "scale", "batch_size")
    cloud, basic = (from_file(ROOT / "hlg/config" / f"hlg_{name}.yml", SPEC)
                    for name in ("cloud", "config"))
    assert all(getattr(cloud, name) == getattr(basic, name) for name in names)


@pytest.mark.parametrize("size", ["tiny", "small", "medium", "large"])
def test_recipes_of_the_authors_networks_have_their_rates_for_1024_images(size):
    config = from_file(ROOT / f"hlg/config/hlg_{size}_avgpool.yml", SPEC)
    assert config.base_lr * 1024 / 256 == pytest.approx(5e-4 * 1024 / 512)
    assert (config.min_lr, config.lr_init) == pytest.approx((5e-6 * 2, 5e-7 * 2))
    assert (config.clip_value, config.ema_decay, config.drop_path_rate, config.norm_eps) == (5.0, 0.99996, 0.2, 1e-5)


# training

@pytest.mark.long
def test_a_small_hlg_learns_the_digits(tmp_path):
    result = run("hlg/train.py", "--config_path", "config/hlg_digits.yml", "--ckpt_save_dir", tmp_path / "run",
                 timeout=1800)
    assert result.returncode == 0, result.stderr
    rows = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert max(row["top1"] for row in rows) >= 0.96
    losses = [row["loss"] for row in rows]
    assert losses[-1] < 0.4 * losses[0] and losses[-1] < 1.02 * min(losses)
    assert (tmp_path / "run" / "curves.png").is_file()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two epochs of a tiny network with the original file's keys, changed only in what data and machine need."""
    folder = tmp_path_factory.mktemp("hlg")
    values = yaml.safe_load(ORIGINAL.read_text(encoding="utf-8")) | {
        "enable_modelarts": 0, "run_distribute": 0, "device_target": "CPU", "amp_level": "O0", "dataset": "digits",
        "class_num": 10, "train_image_size": 28, "eval_image_size": 28, "batch_size": 240, "eval_batch_size": 120,
        "train_num_workers": 1, "eval_num_workers": 1, "max_epoch": 2, "warmup_epochs": 1, "gc_flag": 1,
        "save_checkpoint_path": str(folder / "run"), "save_checkpoint_epochs": 1, "dims": [16, 32],
        "num_heads": [1, 2], "depths": [2, 1], "mlp_ratio": [2, 2]}
    (folder / "original.yml").write_text(yaml.safe_dump(values), encoding="utf-8")
    result = run("train.py", "--config_path", folder / "original.yml", *OP_BY_OP, cwd=ROOT / "hlg", timeout=900)
    assert result.returncode == 0, result.stderr
    return folder / "run", result


def best(folder):
    return folder / "hlg_dims16-32_depths2-1_best.ckpt"


def top1(folder) -> float:
    return max(json.loads(line)["top1"] for line in (folder / "history.jsonl").read_text().splitlines())


def test_training_logs_the_original_lines_in_their_order(trained):
    check_old_zoo_lines(trained[1], epochs=2)


def test_original_keys_are_those_of_the_effective_configuration(trained):
    effective = read_yaml(trained[0] / "config.yaml")
    wanted = {"model": "hlg_mobile", "scheduler": "cosine", "min_lr": 5e-5, "lr": 0.001, "opt": "adamw",
              "gc_flag": True, "no_weight_decay_filter": "beta,bias", "loss": "ce_smooth_mixup",
              "label_smoothing": 0.1, "mixup": 0.2,
              "auto_augment": "autoaugment", "scale": [0.05, 1.0], "loss_scale": 1024.0, "open_profiler": False,
              "save_checkpoint_epochs": 1, "keep_checkpoint_max": 3, "num_classes": 10}
    assert {name: effective[name] for name in wanted} == wanted


def test_least_learning_rate_is_that_of_the_last_step(trained):
    """The original code ignored lr_min with the cosine."""
    assert "lr=0.000050" in [line for line in trained[1].stdout.splitlines() if "epoch[1], epoch time" in line][0]


def test_class_count_of_the_original_file_is_refused_for_other_data(capsys, tmp_path):
    message = mistake(capsys, "train", "--config_path", "config/hlg_config.yml", "--dataset", "digits",
                      "--ckpt_save_dir", tmp_path)
    assert re.search(r"num_classes: 1001 \(.*hlg_config.yml, line \d+\), but digits has 10 classes", message)


# what follows a training

def test_evaluation_needs_only_a_checkpoint_and_prints_the_original_line(trained):
    result = run("eval.py", "--pretrained", best(trained[0]), *OP_BY_OP, cwd=ROOT / "hlg")
    assert result.returncode == 0, result.stderr
    found = re.fullmatch(r"accuracy=(\d\.\d{6}), per step time: \d+\.\d{4}s, total cost time: \d+\.\d{4}s",
                         result.stdout.strip().splitlines()[-1])
    assert float(found[1]) == pytest.approx(top1(trained[0]), abs=1e-6)


def test_exported_file_predicts_what_the_checkpoint_predicts(trained, tmp_path):
    rng = np.random.default_rng(0)
    for name in "ab":
        Image.fromarray(rng.integers(0, 255, (30, 40, 3), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    exported = run("hlg/export.py", "--config_path", "config/hlg_export.yml", "--ckpt_file", best(trained[0]),
                   "--file_name", tmp_path / "hlg", *flags(ZOO))
    assert exported.returncode == 0, exported.stderr
    for name, option, path in (("file", "--model_file", tmp_path / "hlg.mindir"), ("ckpt", "--ckpt", best(trained[0]))):
        result = run("hlg/infer.py", "--image", tmp_path, option, path, "--json", tmp_path / f"{name}.json",
                     *OP_BY_OP)
        assert result.returncode == 0, result.stderr
    first, second = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("file", "ckpt"))
    assert len(first) == 2
    for ours, theirs in zip(first, second):
        assert [c["name"] for c in ours["top"]] == [c["name"] for c in theirs["top"]]


def test_a_trained_checkpoint_goes_out_bit_for_bit(trained, tmp_path):
    out = run("hlg/pth2ckpt.py", "--ckpt_path", best(trained[0]), "--out", tmp_path / "hlg.safetensors")
    assert out.returncode == 0, out.stderr
    ours = network_tensors(load_checkpoint(best(trained[0]))[0])
    written = read_tensors(tmp_path / "hlg.safetensors")
    assert set(ours) == set(written) and all(np.array_equal(ours[name], written[name]) for name in ours)


# weights of other programs

def official_file(path, **changes):
    """Weights under the authors' names, as safetensors."""
    network = SPEC.build("hlg_tiny_avgpool", **(OFFICIAL | changes))
    tensors = {p.name: fill(p.name, p.shape) for p in weights_of(network).values()}
    write_safetensors(path, SPEC.restore(tensors))
    return path


def test_authors_weights_come_in_with_their_layout_and_depths_and_go_back_bit_for_bit(tmp_path):
    source = official_file(tmp_path / "hlg.safetensors", layout="paper", depths=(1, 2))
    done = run("hlg/pth2ckpt.py", "--ckpt_path", source, "--verify")
    assert done.returncode == 0 and "top five" in done.stdout, done.stderr
    assert "depths (1, 2)" in done.stdout and "layout paper" in done.stdout
    back = run("hlg/pth2ckpt.py", "--ckpt_path", tmp_path / "hlg.ckpt", "--out", tmp_path / "back.safetensors")
    assert back.returncode == 0, back.stderr
    first, second = read_tensors(source), read_tensors(tmp_path / "back.safetensors")
    assert set(first) == set(second) and all(np.array_equal(first[name], second[name]) for name in first)


def zoo_tensors(**changes) -> dict[str, np.ndarray]:
    """What a checkpoint of the original version holds."""
    network = SPEC.build("hlg_mobile", **(ZOO | {"dead_parameters": True} | changes))
    return {p.name: fill(p.name, p.shape) for p in weights_of(network).values()}


# mistakes

DIGITS = ("--config_path", "config/hlg_config.yml", "--dataset", "digits", "--num_classes", "10", "--ckpt_save_dir",
          "run")


@pytest.mark.parametrize("words, parts", [
    (("--model", "hlg_mobile", "--train_image_size", "256"), ("256 x 256", "7 x 7", "112, 224, 336")),
    (("--model", "hlg_mobile", "--image_size", "96", "--dims", "16,32,64", "--num_heads", "1,2,4", "--depths", "1,1,1",
      "--mlp_ratio", "2,2,2"), ("96 x 96", "56")),
    (("--backbone", "hlg_tiny_avgpool", "--image_size", "192"), ("192 x 192", "224 x 224")),
    (("--backbone", "hlg_tiny"), ("hlg_tiny_avgpool",)),
    (("--backbone", "hlg_mobil"), ("Did you mean 'hlg_mobile'?",)),
    (("--model", "hlg_mobile", "--layout", "paper"), ("layout", "hlg_mobile")),
    (("--model", "hlg_tiny_avgpool", "--layout", "papers"), ("layout", "head, paper")),
    (("--model", "hlg_mobile", "--dims", "16,32", "--image_size", "28"), ("num_heads",)),
    (("--model", "hlg_mobile", "--num_heads", "2,4,8,15"), ("num_heads", "divide")),
    (("--model", "hlg_mobile", "--eval_image_size", "256"), ("eval_image_size", "256", "224")),
])
def test_a_mistake_is_one_sentence(capsys, words, parts):
    message = mistake(capsys, "train", *DIGITS, *words)
    assert all(part in message for part in parts), message


@pytest.mark.parametrize("task", ["train", "eval"])
def test_weights_of_another_variant_are_named(capsys, tmp_path, task):
    network = SPEC.build("hlg_tiny_avgpool", **OFFICIAL)
    path = save_checkpoint(tmp_path / "official.ckpt", weights_of(network), {})
    message = mistake(capsys, task, *DIGITS, *flags(ZOO), "--ckpt_path", path)
    assert "the authors' HLG" in message and "the old zoo's hlg_mobile" in message


def test_weights_of_the_other_layout_are_named(capsys, tmp_path):
    network = SPEC.build("hlg_tiny_avgpool", layout="paper", **OFFICIAL)
    path = save_checkpoint(tmp_path / "paper.ckpt", weights_of(network), {})
    message = mistake(capsys, "eval", *DIGITS, "--model", "hlg_tiny_avgpool", *flags(OFFICIAL), "--ckpt_path", path)
    assert "layout paper" in message and "--layout paper" in message


def test_1001_outputs_go_with_1000_class_folders(capsys, tmp_path):
    """The output too many is the last one, as in the original version, and nothing is ever counted for it."""
    names = [f"n{number:08d}" for number in range(1000)]
    for name in names:
        (tmp_path / "val" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), (int(name[-3:]) % 256, 0, 0)).save(tmp_path / "val" / name / "one.png")
    path = save_checkpoint(tmp_path / "zoo.ckpt", zoo_tensors(num_classes=1001), {"classes": names})
    network = (*flags(ZOO | {"num_classes": 1001}), "--ckpt_path", str(path), "--batch_size", "250")
    main("eval", SPEC, ["--config_path", "config/hlg_eval.yml", "--data_dir", str(tmp_path), *network, *OP_BY_OP])
    shown = capsys.readouterr().out
    assert "accuracy=" in shown and "the data has 1000 classes" in shown
    main("export", SPEC, [*network, "--file_name", str(tmp_path / "zoo.mindir")])
    main("infer", SPEC, ["--model_file", str(tmp_path / "zoo.mindir"), "--image", str(tmp_path / "val" / names[0]),
                         "--top_k", "1001", "--json", str(tmp_path / "answer.json")])
    top = json.loads((tmp_path / "answer.json").read_text(encoding="utf-8"))[0]["top"]
    assert {one["index"]: one["name"] for one in top}[1000] == "background"


@pytest.mark.parametrize("ours, theirs", [(1001, 1000), (1000, 1001)])
def test_1000_classes_against_1001_are_named(capsys, tmp_path, ours, theirs):
    path = save_checkpoint(tmp_path / "zoo.ckpt", zoo_tensors(num_classes=theirs), {})
    message = mistake(capsys, "export", "--config_path", "config/hlg_export.yml", *flags(ZOO | {"num_classes": ours}),
                      "--ckpt_path", path)
    assert f"{theirs} outputs, but num_classes is {ours}" in message and f"--num_classes {theirs}" in message


FIRST_VERSION = {"patch_embed1.proj.weight": (32, 3, 7, 7), "pos_embed1": (1, 3136, 32), "cls_token": (1, 1, 384),
                 "block1.0.attn.q.weight": (32, 32), "block1.0.attn.kv.weight": (64, 32), "head.weight": (1000, 384)}


def test_weights_of_the_authors_first_version_are_told_from_theirs_and_ours(capsys, tmp_path):
    tensors = {name: np.zeros(shape, np.float32) for name, shape in FIRST_VERSION.items()}
    write_safetensors(tmp_path / "first.safetensors", tensors)
    message = sentence(run("hlg/pth2ckpt.py", "--ckpt_path", tmp_path / "first.safetensors"))
    path = save_checkpoint(tmp_path / "first.ckpt", tensors, {})
    for text in (message, mistake(capsys, "eval", "--dataset", "digits", "--ckpt_path", path)):
        assert "first version" in text and "another network" in text


def test_a_truncated_checkpoint_is_named(capsys, trained, tmp_path):
    whole = best(trained[0]).read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(whole[:len(whole) // 2])
    message = mistake(capsys, "eval", "--dataset", "digits", "--ckpt_path", tmp_path / "cut.ckpt")
    assert "cut.ckpt cannot be read" in message


def test_a_truncated_file_of_the_authors_is_named(tmp_path):
    whole = official_file(tmp_path / "hlg.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:len(whole) // 2])
    assert "truncated" in sentence(run("hlg/pth2ckpt.py", "--ckpt_path", tmp_path / "cut.safetensors"))
