"""Configuration: YAML and flags to one checked set of values, and a sentence for every mistake."""
import dataclasses
import errno
import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from entry import ROOT

from common.config.help import help_text, markdown_table
from common.config.load import from_file, from_mapping, load_config, network_arguments
from common.config.options import FIELDS, NAMES, SECTIONS, Config, fields_of, names_of, network_keys
from common.config.rules import check_paths, check_rules
from common.config.yaml_file import read_yaml, save_config
from common.errors import UserError, user_sentence
from common.main import read_config
from common.spec import ModelSpec, all_specs
from gmlp.src.spec import SPEC as GMLP
from mae.src.spec import SPEC as MAE

DATA = Path(__file__).resolve().parent / "data"
SHIPPED = sorted(file for file in ROOT.glob("*/config/*.y*ml"))
SPEC = ModelSpec(name="gmlp", variants={"gmlp_ti": {}, "gmlp_s": {}}, network=dict, convert=dict, restore=dict,
                 no_weight_decay=lambda name, shape: False, aliases={"gmlp_Ti16": "gmlp_ti"},
                 default_configs={"train": "config/default.yaml", "eval": "config/eval.yaml"})


def run(*argv, task="train", spec=SPEC, model_dir=Path("model"), **more):
    """Load with the digits, which need no folder, unless the arguments name another data set."""
    if not any("dataset" in word or "config" in word for word in argv):
        argv = ("--dataset", "digits", *argv)
    return load_config(argv, task=task, spec=spec, model_dir=model_dir, **more)


def write(text, file="config.yaml"):
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).write_text(text, encoding="utf-8")
    return str(file)


def sentence(*argv, **more):
    with pytest.raises(UserError) as error:
        run(*argv, **more)
    text = str(error.value)
    assert "\n" not in text
    return text


def spec_of(path):
    """The model of a shipped file, or of one of the seeds'."""
    folder = path.parts[-3] if path.parent.name == "config" else next(
        (name for name in ("mae", "hlg", "soft") if name in path.name.lower()), "gmlp")
    return import_module(f"{folder}.src.spec").SPEC


def of_file(path):
    return from_file(path, spec_of(path))


# The files of this repository and those that users already have.

@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_file_loads(path):
    assert of_file(path).given


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_file_uses_standard_names_and_has_a_header(path):
    assert path.read_text(encoding="utf-8").startswith("# ")
    assert [key for key in read_yaml(path) if key not in {"base", *fields_of(spec_of(path).options)}] == []


EXPECTED = json.loads((DATA / "shipped_configurations.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", [path for path in SHIPPED if f"{path.parts[-3]}/{path.name}" in EXPECTED],
                         ids=lambda path: path.name)
def test_shipped_file_means_what_it_meant_before_files_had_bases(path):
    """The table holds, of every file, the values that were not the schema's defaults."""
    config = of_file(path)
    fields = {name: field for name, field in fields_of(type(config)).items() if not field.metadata["unused"]}
    expected = {name: field.default for name, field in fields.items()} | EXPECTED[f"{path.parts[-3]}/{path.name}"]
    assert {name: getattr(config, name) for name in fields} == {
        name: tuple(value) if isinstance(value, list) else value for name, value in expected.items()}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_file_says_only_what_its_base_and_the_defaults_do_not(path):
    """But for the three keys that say at a glance what a recipe is."""
    whole, values = of_file(path), read_yaml(path)
    for key in set(values) - {"base", "task", "model"}:
        rest = {name: value for name, value in values.items() if name != key}
        Path(path.name).write_text(yaml.safe_dump(rest | (
            {"base": str(path.parent / rest["base"])} if "base" in rest else {})), encoding="utf-8")
        try:
            assert from_file(path.name, spec_of(path)) != whole, key
        except UserError:
            pass  # it does not even hold without the key


# One file on the ground of another.

def test_a_file_wins_over_its_base_key_by_key():
    write("dataset: digits\nepochs: 3\nbase_lr: 0.1\n", "folder/ground.yaml")
    config = run("--config", write("base: ground.yaml\nmax_epoch: 4\nlr: 0.2\n", "folder/recipe.yaml"))
    assert (config.dataset, config.epochs, config.lr, config.base_lr) == ("digits", 4, 0.2, None)
    assert set(config.given) == {"dataset", "epochs", "lr"}


@pytest.mark.parametrize("ground, base, parts", [
    (None, "ground.yaml", ["base: 'ground.yaml' (recipe.yaml)", "no such file"]),
    (None, "recipe.yaml", ["base: 'recipe.yaml'", "this file itself"]),
    (None, "''", ["base: ''", "no such file"]),
    ("base: recipe.yaml", "ground.yaml", ["base: 'ground.yaml'", "has a base itself, 'recipe.yaml'", "one level"]),
    ("epochs: none", "ground.yaml", ["epochs: 'none' (ground.yaml)"]),
    ("", "ground.yaml", ["ground.yaml is empty"])])
def test_mistake_about_a_base_is_one_sentence(ground, base, parts):
    if ground is not None:
        write(ground, "ground.yaml")
    message = sentence("--config_path", write(f"base: {base}\n", "recipe.yaml"))
    assert [part for part in parts if part not in message] == [], message


def test_print_config_shows_every_key_with_its_origin_and_exits_with_0(capsys):
    write("dataset: folder\nepochs: 3\nlr: 0.1\nmodel: gmlp_s\n", "ground.yaml")
    path = write("base: ground.yaml\nepochs: 4\ndata_dir: not/there\n", "recipe.yaml")
    with pytest.raises(SystemExit) as end:
        run("--config", path, "--lr", "0.2", "--print_config", "--dataset", "cifar10")
    text = capsys.readouterr().out
    origins = dict(re.findall(r"^(\w+):.*  # (.+)$", text, re.MULTILINE))
    assert end.value.code == 0 and list(origins) == list(FIELDS)
    chosen = ("model", "epochs", "lr", "dataset", "num_classes", "seed")
    assert [origins[name] for name in chosen] == [
        "base ground.yaml", "recipe.yaml", "command line", "command line", "follows", "default"]
    assert yaml.safe_load(text)["lr"] == 0.2


def test_a_dry_run_checks_what_a_start_checks(capsys):
    path = write("dataset: imagenet\ndata_dir: not/there\nbatch_size: 9\n", "recipe.yaml")
    refused = sentence("--config", path)
    assert "data_dir: 'not/there' should be the folder of the data set" in refused
    assert sentence("--config", path, "--dry_run") == refused
    assert "digits" not in refused and "digits write" in sentence("--config", path, "--data_dir", "a/data/digits/images")
    with pytest.raises(SystemExit) as end:
        run("--config", path, "--data_dir", ".", "--dry_run")
    assert end.value.code == 0 and "Nothing is wrong" in capsys.readouterr().out


def test_print_config_names_the_checkpoint_that_says_what_was_trained(capsys):
    with pytest.raises(SystemExit):
        run("--ckpt_path", write("", "best.ckpt"), "--print_config", task="eval", trained_with=trained_with)
    assert re.search(r"^image_size: 32 +# best.ckpt$", capsys.readouterr().out, re.MULTILINE)


def test_original_gmlp_file_gives_the_config_that_we_ship():
    assert of_file(DATA / "seed_gmlp_Ti.yaml") == of_file(ROOT / "gmlp/config/gmlp_Ti.yaml")


def test_original_gmlp_training_command():
    for name in ("imagenet", "ckpt"):
        Path(name).mkdir()
    config = load_config(["--config", "config/gmlp_Ti.yaml", "--dataset_path", "imagenet", "--ckpt_save_dir", "ckpt",
                   "--batch_size", "64", "--distribute", "False"], task="train", spec=GMLP, model_dir=ROOT / "gmlp")
    assert (config.model, config.data_dir, config.ckpt_save_dir) == ("gmlp_ti", "imagenet", "ckpt")
    assert (config.batch_size, config.distribute, config.epochs) == (64, False, 350)


def test_original_gmlp_evaluation_command():
    Path("imagenet").mkdir()
    config = load_config(["--dataset_path", "imagenet", "--ckpt_path", write("", "a.ckpt")], task="eval", spec=GMLP,
                  model_dir=ROOT / "gmlp")
    assert (config.model, config.task, config.distribute, config.image_size, config.crop_pct) == (
        "gmlp_ti", "eval", False, 224, 0.875)


@pytest.mark.parametrize("size, rate", [("S", 0.05), ("B", 0.2)])
def test_larger_gmlp_recipes_differ_from_the_small_one_in_the_drop_path_alone(size, rate):
    small, large = (of_file(ROOT / f"gmlp/config/gmlp_{name}.yaml") for name in ("Ti", size))
    assert large == dataclasses.replace(small, model=f"gmlp_{size}", drop_path_rate=rate,
                                        ckpt_save_dir=f"./ckpt/gmlp_{size}")


def test_gmlp_export_file_asks_for_one_image():
    config = load_config([], task="export", spec=GMLP, model_dir=ROOT / "gmlp")
    assert (config.file_format, config.batch_size, config.model, config.verify) == ("MINDIR", 1, "gmlp_ti", True)


def test_original_gmlp_file_has_its_values():
    config = of_file(DATA / "seed_gmlp_Ti.yaml")
    assert (config.mode, config.distribute, config.num_workers, config.data_dir) == (
        "graph", True, 8, "/path/to/imagenet")
    assert (config.image_size, config.scale, config.ratio, config.crop_pct) == (224, (0.08, 1.0), (0.75, 1.333), 0.875)
    assert (config.epochs, config.lr, config.min_lr, config.eps, config.decay_epochs) == (350, 1e-3, 5e-6, 1e-6, 260)
    assert (config.loss_scale, config.drop_overflow_update, config.clip_grad) == (1024.0, True, True)
    assert (config.model, config.ckpt_path, config.ckpt_save_dir) == ("gmlp_Ti", "", "./ckpt/gmlp_Ti")


@pytest.mark.parametrize("file, model, classes, lr, min_lr, warmup", [
    ("seed_SOFT_tiny.yml", "soft_tiny", 1000, 0.00275, 0.0, 15),
    ("seed_hlg_mobile.yml", "hlg_mobile", 1001, 0.001, 0.00005, 20)])
def test_original_soft_and_hlg_files_have_their_values(file, model, classes, lr, min_lr, warmup):
    config = of_file(DATA / file)
    assert (config.model, config.num_classes, config.lr, config.min_lr) == (model, classes, lr, min_lr)
    assert (config.epochs, config.warmup_epochs, config.scheduler) == (300, warmup, "cosine")
    assert (config.enable_modelarts, config.distribute, config.mode, config.amp_level) == (True, True, "graph", "O3")
    assert (config.data_dir, config.eval_dir) == ("/cache/datasets/imagenet/train", "/cache/datasets/imagenet/val")
    assert (config.scale, config.interpolation, config.auto_augment, config.mixup) == (
        (0.05, 1.0), "bilinear", "autoaugment", 0.2)
    assert (config.loss, config.smoothing, config.loss_scale, config.gc_flag) == ("ce_smooth_mixup", 0.1, 1024.0, False)
    assert (config.num_workers, config.eval_num_workers, config.no_weight_decay_filter) == (14, 12, "beta,bias")
    assert (config.ckpt_save_dir, config.save_checkpoint_epochs, config.keep_checkpoint_max) == ("/cache/train", 8, 3)


def test_original_mae_file_has_its_values():
    config = of_file(DATA / "seed_mae-vit-base-p16.yaml")
    assert network_arguments(config) == {
        "patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12, "mlp_ratio": 4, "decoder_embed_dim": 512,
        "decoder_depth": 8, "decoder_num_heads": 16, "mask_ratio": 0.75, "norm_pix_loss": True}
    assert (config.mode, config.device_target, config.max_call_depth, config.device_id) == ("graph", "Ascend", 10000, 0)
    assert (config.distribute, config.parallel_mode, config.gradients_mean) == (True, "data_parallel", True)
    assert (config.data_dir, config.img_ids) == ("/mnt/vision/ImageNet1K/CLS-LOC", "tot_ids.json")
    assert config.dataset == "list"
    assert (config.epochs, config.base_lr, config.lr_init, config.min_lr, config.warmup_epochs) == (
        800, 0.00015, 0.0, 0.0, 40)
    assert (config.seed, config.dataset_sink_mode, config.sink_size, config.ckpt_path) == (2022, True, 0, "")
    assert (config.ema, config.clip_grad, config.clip_value, config.beta2) == (False, False, 1.0, 0.95)
    assert (config.dynamic_loss_scale, config.loss_scale, config.drop_overflow_update) == (True, 65536.0, True)
    assert (config.ckpt_save_dir, config.prefix) == ("./output/", "MaeFintuneViT-B-P16")


# Where values come from.

def test_flags_win_over_yaml_and_yaml_over_defaults():
    config = run("--config_path", write("dataset: digits\nepochs: 7\nlr: 0.5\n"), "--epochs", "9")
    assert (config.epochs, config.lr, config.opt) == (9, 0.5, "adamw")


def test_alias_as_flag_replaces_the_standard_name_in_yaml():
    assert run("--config", write("dataset: digits\nepochs: 7\n"), "--max_epoch=9").epochs == 9


@pytest.mark.parametrize("option", ["--config_path", "--config"])
def test_config_file_is_found_in_the_working_directory_before_the_model_folder(option):
    write("dataset: digits\nepochs: 3\n", "config/a.yaml")
    write("dataset: digits\nepochs: 4\n", "model/config/a.yaml")
    assert run(f"{option}=config/a.yaml").epochs == 3


def test_config_file_is_found_in_the_model_folder():
    write("dataset: digits\nepochs: 4\n", "model/config/a.yaml")
    assert run("--config_path", "config/a.yaml").epochs == 4


def test_default_file_of_the_task_is_read_when_none_is_named():
    write("epochs: 5\n", "model/config/default.yaml")
    write("dataset: digits\nepochs: 6\n", "mine.yaml")
    assert run().epochs == 5
    assert run("--config_path", "mine.yaml").epochs == 6


def test_given_holds_the_standard_names_that_the_user_wrote():
    assert set(run("--class_num", "10", "--config", write("dataset: digits\nmax_epoch: 3\n")).given) == {
        "num_classes", "epochs", "dataset"}


def test_given_plays_no_part_in_comparing():
    assert from_mapping({"epochs": 300}, "test") == Config()


def test_rate_as_flag_replaces_base_rate_of_the_file():
    path = write("dataset: digits\nblr: 1.5e-4\n")
    assert run("--config", path).base_lr == 1.5e-4
    assert (run("--config", path, "--lr", "0.1").base_lr, run("--config", path, "--lr", "0.1").lr) == (None, 0.1)


def test_a_task_has_its_own_variants_and_its_own_help(capsys):
    spec = dataclasses.replace(SPEC, per_task={"pretrain": {"variants": {"gmlp_s": {}}, "remark": " See pretrain.py."}})
    assert run(spec=spec).model == "gmlp_ti" and run(spec=spec, task="pretrain").model == "gmlp_s"
    path = write("dataset: digits\ntask: pretrain\n")
    assert run("--config", path, spec=spec).model == "gmlp_s"
    assert sentence("--model", "gmlp_ti", spec=spec, task="pretrain").endswith("there are gmlp_s. See pretrain.py.")
    with pytest.raises(SystemExit):
        run("--help", spec=spec, task="pretrain")
    assert "Variants of gmlp: gmlp_s." in capsys.readouterr().out


def test_a_linear_probe_gets_the_class_token_and_the_batchnorm_head_unless_told_otherwise():
    config = run(task="linprobe", spec=MAE)
    assert (config.global_pool, config.batchnorm_head) == (False, True)
    assert run("--global_pool", "true", task="linprobe", spec=MAE).global_pool
    assert run(task="finetune", spec=MAE).batchnorm_head is None


def test_training_never_takes_its_configuration_from_the_weights_that_it_begins_with():
    path = write("", "weights.ckpt")  # reading it would be an error
    for task in ("train", "finetune", "linprobe"):
        assert read_config(task, SPEC, ["--dataset", "digits", "--ckpt_path", path]).ckpt_path == path


def test_train_follows_the_task_of_the_file_and_other_programs_do_not():
    path = write("dataset: digits\ntask: pretrain\nckpt_path: " + write("", "weights.ckpt"))
    assert run("--config", path).task == "pretrain"
    assert run("--config", path, task="eval").task == "eval"


@pytest.mark.parametrize("program, file, wanted", [
    ("finetune", "mae-vit-digits.yaml", "mae/pretrain.py"), ("pretrain", "vit-base-p16.yaml", "mae/train.py"),
    ("linprobe", "finetune-vit-digits.yaml", "mae/finetune.py"), ("finetune", "vit-base-p16.yaml", "")])
def test_the_file_of_another_training_names_its_program(program, file, wanted):
    arguments = ["--config_path", f"config/{file}", "--data_dir", "."]
    if not wanted:  # the original version trains from scratch with finetune.py too
        assert read_config(program, MAE, arguments).task == "finetune"
        return
    with pytest.raises(UserError, match=f"start {wanted} with this file"):
        read_config(program, MAE, arguments)


@pytest.mark.parametrize("model, task, name, expected", [
    ("gmlp", "train", "configs/gmlp/gmlp_Ti.yaml", "gmlp_Ti.yaml"),
    ("gmlp", "train", f"{ROOT}/configs/gmlp/gmlp_S.yaml", "gmlp_S.yaml"),
    ("soft", "export", "config/export.yml", "SOFT_export.yml"),
    ("hlg", "export", "config/export.yml", "hlg_export.yml"),
    ("gmlp", "train", "/elsewhere/configs/gmlp/gmlp_Ti.yaml", ""), ("gmlp", "train", "configs/none.yaml", "")])
def test_paths_of_the_original_versions_find_the_files(model, task, name, expected, caplog):
    arguments = ["--config_path", name, "--data_dir", ".", "--ckpt_path", write("", "weights.ckpt")]
    spec = import_module(f"{model}.src.spec").SPEC
    if not expected:
        with pytest.raises(UserError, match="was not found in"):
            read_config(task, spec, arguments)
        return
    config = read_config(task, spec, arguments)
    assert config.given["model"].endswith(f"{model}/config/{expected}") and expected in caplog.text


def test_an_evaluation_without_weights_takes_the_best_of_the_last_training(caplog):
    spec = dataclasses.replace(SPEC, default_configs={"train": GMLP.default_configs["train"]})
    assert "ckpt_path: empty" in sentence("--dataset", "digits", task="eval", spec=spec, model_dir=ROOT / "gmlp")
    best = write("", "ckpt/gmlp_Ti/gmlp_Ti_best.ckpt")
    assert run("--dataset", "digits", task="eval", spec=spec, model_dir=ROOT / "gmlp").ckpt_path == best
    assert best in caplog.text


def test_number_of_classes_follows_a_data_set_that_has_one():
    assert [run("--dataset", name, "--data_dir", ".").num_classes for name in ("cifar10", "cifar100", "imagenet")] == [
        10, 100, 1000]
    assert run("--dataset", "cifar10", "--data_dir", ".", "--num_classes", "7").num_classes == 7


@pytest.mark.parametrize("spelling", ["gmlp_ti", "GMLP_TI", "gmlp_Ti16"])
def test_variant_is_stored_under_its_standard_name(spelling):
    assert run("--backbone", spelling).model == "gmlp_ti"


def test_first_variant_is_the_default():
    assert run().model == "gmlp_ti"


# An evaluation knows from its checkpoint what was trained.

def trained_with(path):
    return {"model": "gmlp_s", "num_classes": 7, "image_size": 32, "dataset": "digits", "batch_size": 3, "lr": 0.5,
            "base_lr": 0.1, "distribute": True, "ckpt_path": "start.ckpt", "eval_dir": "old", "a_key_of_later": 1}


def test_evaluation_takes_network_and_data_from_its_checkpoint():
    path = write("", "best.ckpt")
    config = load_config(["--ckpt_path", path, "--data_dir", "."], task="eval", spec=SPEC, model_dir=Path("model"),
                  trained_with=trained_with)
    assert (config.model, config.num_classes, config.image_size, config.dataset) == ("gmlp_s", 7, 32, "digits")
    assert (config.batch_size, config.distribute, config.ckpt_path, config.eval_dir) == (128, False, path, "")


def test_flags_win_over_the_checkpoint_and_the_checkpoint_over_the_default_file():
    write("model: gmlp_ti\nnum_classes: 5\nbatch_size: 8\n", "model/config/eval.yaml")
    config = run("--ckpt_path", write("", "best.ckpt"), "--num_classes", "9", task="eval", trained_with=trained_with)
    assert (config.model, config.num_classes, config.batch_size) == ("gmlp_s", 9, 8)


def test_named_file_replaces_what_the_checkpoint_says():
    path = write("dataset: digits\nmodel: gmlp_ti\n")
    config = run("--config", path, "--ckpt_path", write("", "best.ckpt"), task="eval", trained_with=trained_with)
    assert (config.model, config.num_classes) == ("gmlp_ti", 10)


# What values may look like.

@pytest.mark.parametrize("text, value", [("1e-3", 1e-3), (".00005", 5e-5), ("0.1", 0.1), ("1.", 1.0), ("2", 2.0),
                                         ("1E-3", 1e-3), ("'1e-3'", 1e-3)])
def test_yaml_numbers(text, value):
    assert run("--config", write(f"dataset: digits\nlr: {text}\n")).lr == value


@pytest.mark.parametrize("text", ["0.", "0", "0.0", "0e0"])
def test_yaml_zero_with_and_without_digits(text):
    assert run("--config", write(f"dataset: digits\nstart_learning_rate: {text}\n")).lr_init == 0


@pytest.mark.parametrize("text", ["1e-3", ".001", "0.001"])
def test_flag_numbers(text):
    assert run("--lr", text).lr == 1e-3


@pytest.mark.parametrize("text", ["true", "True", "TRUE", "1", "yes", "on", "Y"])
def test_true_in_yaml_and_flags(text):
    assert run("--config", write(f"dataset: digits\nclip_grad: {text}\n")).clip_grad is True
    assert run("--clip_grad", text).clip_grad is True
    assert run(f"--clip_grad={text}").clip_grad is True


@pytest.mark.parametrize("text", ["false", "False", "0", "no", "off"])
def test_false_in_yaml_and_flags(text):
    assert run("--config", write(f"dataset: digits\nshuffle: {text}\n")).shuffle is False
    assert run("--shuffle", text).shuffle is False


def test_switch_without_value_is_true():
    config = run("--clip_grad", "--download", "--epochs", "3")
    assert (config.clip_grad, config.download, config.epochs) == (True, True, 3)


def test_flag_with_a_negative_value_and_with_dashes_in_its_name():
    assert run("--sink-size", "-1").sink_size == -1


def test_later_of_two_equal_flags_wins():
    assert run("--epochs", "3", "--epochs", "4").epochs == 4


@pytest.mark.parametrize("text", ["[0.2, 0.9]", "0.2,0.9", "(0.2, 0.9)", "0.2, 0.9"])
def test_lists_as_flags(text):
    assert run("--scale", text).scale == (0.2, 0.9)


@pytest.mark.parametrize("text", ["none", "None", "null", ""])
def test_optional_values_can_be_none(text):
    assert run("--crop_pct", text).crop_pct is None
    assert run("--config", write(f"dataset: digits\ncrop_pct: {text}\n")).crop_pct is None


@pytest.mark.parametrize("values, name, value", [
    ({"crop_min": 0.05}, "scale", (0.05, 1.0)),
    ({"context_mode": 1}, "mode", "pynative"), ({"mode": "GRAPH_MODE"}, "mode", "graph"),
    ({"mode": 0}, "mode", "graph"),
    ({"device_target": "ascend"}, "device_target", "Ascend"), ({"device_target": "gpu"}, "device_target", "GPU"),
    ({"autoaugment": 1}, "auto_augment", "autoaugment"), ({"autoaugment": 0}, "auto_augment", ""),
    ({"auto_augment": False}, "auto_augment", ""), ({"auto_augment": "rand-m7"}, "auto_augment", "rand-m7"),
    ({"interpolation": "BICUBIC"}, "interpolation", "bicubic"), ({"amp_level": "o2"}, "amp_level", "O2"),
    ({"loss_name": "ce"}, "loss", "CE"), ({"loss_name": "CE_Smooth_Mixup"}, "loss", "ce_smooth_mixup"),
    ({"lr_decay_mode": "cos"}, "scheduler", "cosine"), ({"lr_decay_mode": "exp"}, "scheduler", "exponential"),
    ({"lr_decay_mode": "poly"}, "scheduler", "polynomial"), ({"lr_decay_mode": "steps"}, "scheduler", "step"),
    ({"opt": "AdamW"}, "opt", "adamw"), ({"pretrained": False}, "ckpt_path", ""), ({"use_ckpt": ""}, "ckpt_path", ""),
    ({"chcekpoint_path": "a.ckpt"}, "ckpt_path", "a.ckpt"), ({"checkpoint_url": None}, "checkpoint_url", ""),
    ({"dataset_choose": "CIFAR10"}, "dataset", "cifar10"), ({"parallel_mode": "DATA_PARALLEL"}, "parallel_mode",
                                                           "data_parallel"),
    ({"batch_size": 64.0}, "batch_size", 64), ({"epochs": "1e2"}, "epochs", 100), ({"prefix": 2022}, "prefix", "2022"),
    ({"warmup_epochs": 2.5}, "warmup_epochs", 2.5), ({"no_weight_decay_filter": ["a", "b"]}, "no_weight_decay_filter",
                                                     "a,b"),
    ({"color_jitter": [0.4, 0.4, 0.4]}, "color_jitter", (0.4, 0.4, 0.4)), ({"color_jitter": 0.4}, "color_jitter", 0.4),
    ({"mean": 0.5}, "mean", (0.5,))])
def test_old_spellings_and_types(values, name, value):
    result = getattr(from_mapping(values, "test"), name)
    assert result == value and type(result) is type(value)


@pytest.mark.parametrize("family, values", [
    ("convmlp", {"dims": [128, 256, 512], "depths": [2, 4, 2], "mlp_ratio": [2, 2, 3], "channels": 8}),
    ("soft", {"dims": [64, 128, 320, 512], "depths": [1, 2, 3, 2], "num_heads": [2, 4, 10, 16], "mlp_ratio": 3}),
    ("hlg", {"depths": [2, 2, 2, 2], "layout": "paper", "norm_eps": 1e-6, "mlp_ratio": [8, 8, 4, 4]}),
    ("mae", {"patch_size": 14, "embed_dim": 1280, "depth": 32, "mlp_ratio": 4.5, "mask_ratio": 0.6}),
    ("mae", {"patch_size": [16, 8], "global_pool": True}), ("gmlp", {"norm_eps": 1e-3})])
def test_network_arguments_of_all_families(family, values):
    expected = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    assert network_arguments(from_mapping(values, "test", import_module(f"{family}.src.spec").SPEC)) == expected


@pytest.mark.parametrize("key, value, owner", [("channels", 8, "convmlp"), ("decoder_dim", 8, "mae"),
                                               ("layout", "head", "hlg"), ("positions", "0,0", "soft")])
def test_a_key_of_another_model_is_a_sentence_that_names_its_model(key, value, owner):
    expected = f"is a key of {owner}, not of this model"
    assert f"--{key} (command line) {expected}" in sentence(f"--{key}", str(value), spec=GMLP)
    assert f"key '{key}' (config.yaml) {expected}" in sentence("--config_path", write(f"{key}: {value}\n"), spec=GMLP)


def test_what_runs_wrote_when_all_models_had_all_keys_is_still_read():
    path = write("dataset: digits\nchannels: null\nhlg_config_path: ''\ncb_size: 1\n")
    assert run("--config_path", path, spec=GMLP).model == "gmlp_ti"


def test_a_key_without_effect_is_accepted_with_a_warning(caplog):
    from_mapping({"cb_size": 3}, "old.yaml", MAE)
    assert caplog.messages == ["cb_size (old.yaml) is accepted for old files: no effect, log_interval says how often "
                               "progress is logged"]


def test_common_knows_no_key_of_a_model():
    own = {name for family in ("convmlp", "gmlp", "hlg", "mae", "soft")
           for name in names_of(import_module(f"{family}.src.spec").SPEC.options)} - set(NAMES)
    words = {word for file in (ROOT / "common").rglob("*.py") for word in re.findall(r"\w+", file.read_text("utf-8"))}
    elsewhere = {"channels", "layout", "positions", "norm_eps", "view"}  # words with other meanings
    # by a callback, by the network's precision, and as a key that may change when a run is continued
    read_where_there = {"sample_every", "fused_attention", "logger_name"}
    assert own & words <= elsewhere | read_where_there


def test_whole_ratio_stays_whole():
    assert type(from_mapping({"mlp_ratio": 4.0}, "test").mlp_ratio) is int


def test_label_smoothing_can_be_switched_off():
    assert from_mapping({"label_smooth_factor": 0.1, "use_label_smooth": 0}, "test").smoothing == 0.0
    assert from_mapping({"label_smooth_factor": 0.1, "use_label_smooth": 1}, "test").smoothing == 0.1


def test_nested_blocks_are_flattened():
    config = from_mapping({"context": {"mode": "PYNATIVE_MODE", "device_id": 2}, "parallel": None,
                           "model_config": {"depth": 3}}, "test")
    assert (config.mode, config.device_id, config.depth) == ("pynative", 2, 3)


def test_home_and_environment_variables_are_expanded_in_paths(monkeypatch):
    monkeypatch.setenv("DATA_PATH", "/somewhere")
    monkeypatch.setenv("HOME", "/home/me")
    config = from_mapping({"dataset_path": "$DATA_PATH/train", "eval_path": "${DATA_PATH}/val", "save_dir": "~/run",
                           "prefix": "~x"}, "test")
    assert (config.data_dir, config.eval_dir, config.ckpt_save_dir, config.prefix) == (
        "/somewhere/train", "/somewhere/val", "/home/me/run", "~x")


def test_only_the_first_document_counts():
    assert read_yaml(Path(write("epochs: 3\n---\nepochs: number of epochs\n---\nepochs: [1, 2]\n"))) == {"epochs": 3}


def test_two_names_with_one_value_are_no_contradiction():
    assert from_mapping({"epochs": 5, "epoch_size": 5}, "test").epochs == 5
    assert from_mapping({"crop_min": 0.1, "scale": [0.1, 1]}, "test").scale == (0.1, 1.0)


def test_switched_off_weights_do_not_contradict_a_path():
    assert from_mapping({"pretrained": False, "ckpt_path": "a.ckpt"}, "test").ckpt_path == "a.ckpt"
    assert from_mapping({"ckpt_path": "a.ckpt", "pretrained": False}, "test").ckpt_path == "a.ckpt"


# Writing it down.

@pytest.mark.parametrize("path", sorted(DATA.glob("seed_*")) + SHIPPED, ids=lambda path: path.name)
def test_saved_config_loads_back_equal(path):
    config = of_file(path)
    save_config(config, "run/config.yaml")
    assert from_file("run/config.yaml", spec_of(path)) == config


def test_saved_config_of_awkward_values_loads_back_equal():
    config = Config(prefix="1e-3", file_name="a: b # c", image="é 图.png", class_names="yes", depths=[1, 2],
                    eps=1e-300, model_file="'", img_ids="- x", dataset="list", auto_augment="a" * 300)
    save_config(config, "config.yaml")
    assert from_file("config.yaml") == config


def test_saved_config_is_ordinary_yaml_with_a_comment_for_every_section():
    save_config(Config(), "config.yaml")
    text = Path("config.yaml").read_text(encoding="utf-8")
    assert all(f"# {title}\n" in text for title in SECTIONS.values())
    assert list(yaml.safe_load(text)) == list(FIELDS)
    assert yaml.safe_load(text)["scale"] == [0.08, 1.0]
    assert yaml.safe_load(text)["eps"] == 1e-8


def test_config_cannot_be_changed_but_copied():
    config = Config(scale=[0.2, 1.0])
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.epochs = 3
    assert config.scale == (0.2, 1.0)
    assert dataclasses.replace(config, epochs=3).epochs == 3


# Explaining it.

def test_help_shows_every_name_and_exits_with_0(capsys):
    with pytest.raises(SystemExit) as end:
        run("--epochs", "not checked", "--help")
    text = capsys.readouterr().out
    assert end.value.code == 0
    shown = [name for name, field in FIELDS.items()
             if "train" in field.metadata["tasks"] and name not in network_keys(Config)]
    assert [name for name in shown if f"  --{name}  " not in text] == []
    assert "gmlp_ti, gmlp_s" in text and "No file is read" in text


FAMILIES = [file.parents[1].name for file in sorted(ROOT.glob("*/src/spec.py"))]


def help_of(family, task, *argv, about=""):
    """The help of a program of a model that is shipped."""
    spec = import_module(f"{family}.src.spec").SPEC
    with pytest.raises(SystemExit):
        load_config([*argv, "--help"], task=task, spec=spec, model_dir=ROOT / family, about=about)


def default_of(key, text):
    return re.search(rf"^  --{key}  .*?; default (.+)$", re.sub(r"\n {6}", " ", text), re.MULTILINE)[1]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("task", ["infer", "export"])
def test_help_of_prediction_and_export_is_short_and_about_them(family, task, capsys):
    help_of(family, task)
    text = capsys.readouterr().out
    assert len(text.splitlines()) <= 120 and all(len(line) <= 120 for line in text.splitlines())
    keys = set(re.findall(r"^  --(\w+)  ", text, re.MULTILINE))
    assert not keys & {"epochs", "lr", "opt", "ema", "mixup", "data_dir", "positions", "decoder_depth"} - (
        {"decoder_depth"} if (family, task) == ("mae", "export") else set())
    assert keys >= {"model", "ckpt_path", "image_size", "mean"} | {
        "infer": {"image", "json", "model_file"}, "export": {"file_format", "batch_size", "part"}}[task]
    assert ("channels" in keys) == (family == "convmlp") and ("layout" in keys) == (family == "hlg")
    assert ("embed_dim" in keys) == (family in ("gmlp", "mae"))


def test_help_says_what_the_program_does_and_shows_the_defaults_of_the_file_that_will_be_read(capsys):
    help_of("gmlp", "train", about="Train gMLP: ``python gmlp/train.py --data_dir FOLDER``.")
    text = capsys.readouterr().out
    assert text.startswith("Train gMLP:\n\n  python gmlp/train.py --data_dir FOLDER\n")
    assert "config/gmlp_Ti.yaml." in text and default_of("epochs", text) == "350"
    help_of("gmlp", "train", "--config_path", write("epochs: 7\n", "mine.yaml"), "--no_such_key")
    text = capsys.readouterr().out
    assert "those of mine.yaml." in text and default_of("epochs", text) == "7"


def test_help_states_type_default_meaning_and_aliases():
    assert ("--label_smoothing  (also --label_smooth_factor) probability spread over the other classes; a number >= 0 "
            "and < 1; default 0\n") in re.sub(r"\n {6}", " ", help_text(Config, "train"))


def test_help_needs_no_mindspore():
    code = ("import sys; from pathlib import Path; from tests_spec import SPEC\n"
            "from common.config.load import load_config\n"
            "try: load_config(['--help'], task='train', spec=SPEC, model_dir=Path('.'))\n"
            "except SystemExit: print('mindspore' in sys.modules, file=sys.stderr)")
    write("from common.spec import ModelSpec\n"
          "SPEC = ModelSpec('a', {'b': {}}, dict, dict, dict, lambda name, shape: False)\n", "tests_spec.py")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=True)
    assert done.stderr.strip() == "False" and "--batch_size" in done.stdout


def test_markdown_table_has_a_row_for_every_key():
    rows = markdown_table("optim").splitlines()
    assert rows[0] == "| key | default | meaning | also accepted as |"
    assert [row.split("`")[1] for row in rows[2:]] == [
        name for name, field in FIELDS.items() if field.metadata["section"] == "optim"]
    assert any(row.endswith("| `use_ema` |") for row in rows)
    assert all(f"| `{name}` |" in markdown_table() for name in FIELDS)


def test_every_name_is_declared_once():
    count = sum(1 + len(f.metadata["aliases"]) + len(f.metadata["converted_aliases"]) for f in FIELDS.values())
    assert len(NAMES) == count


def test_defaults_obey_their_own_rules():
    assert check_rules(Config()) is None  # raises for a rule that does not hold


# Mistakes, one by one: what the file holds, and what the sentence must say.

@pytest.mark.parametrize("text, parts", [
    ("", ["config.yaml", "empty"]),
    ("# only a comment\n", ["config.yaml", "empty"]),
    ("- 1\n- 2\n", ["config.yaml", "a list", "key: value"]),
    ("just words\n", ["config.yaml", "key: value"]),
    ("epochs:3\n", ["config.yaml", "line 1", "'epochs:3'", "space after 'epochs:'"]),
    ("train_data_path:./data/a\nval_data_path:./data/b\n", ["line 1", "space after 'train_data_path:'"]),
    ("epochs: 3\nlr:0.1\n", ["line 2", "space after 'lr:'"]),
    ("epochs: [3\n", ["config.yaml", "not a YAML file", "line"]),
    ("epochs:\n\t- 3\n", ["config.yaml", "not a YAML file", "line 2"]),
    ("{epochs: 3}\n{lr: 0.1}\n", ["config.yaml", "not a YAML file", "line 2"]),
    ("epochs: 3\nepochs: 4\n", ["'epochs' stands twice", "3", "4", "line 2"]),
    ("epochs: 3\nmax_epoch: 4\n", ["epochs: 3", "max_epoch: 4", "config.yaml", "different values"]),
    ("mode: 0\ncontext:\n    mode: PYNATIVE_MODE\n", ["mode: 0", "mode: 'PYNATIVE_MODE'", "different values"]),
    ("lr: 0.1\nblr: 0.2\n", ["lr: 0.1", "base_lr: 0.2", "keep one"]),
    ("epoch: 3\nlearning_rat: 1\n", ["'learning_rat'", "config.yaml", "learning_rate"]),
    ("batchsize: 3\n", ["'batchsize'", "Did you mean 'batch_size'?"]),
    ("3: 4\n", ["'3'", "not an option"]),
    ("data:\n    root: x\n", ["data", "block", "context, parallel, model_config"]),
    ("context: 3\n", ["context: 3", "block"]),
    ("batch_size: many\n", ["batch_size: 'many'", "config.yaml", "a whole number >= 1"]),
    ("batch_size: 2.5\n", ["batch_size: 2.5", "a whole number"]),
    ("batch_size: true\n", ["batch_size: True", "a whole number"]),
    ("batch_size:\n", ["batch_size: None", "a whole number"]),
    ("batch_size: [1]\n", ["batch_size: [1]", "a whole number"]),
    ("lr: fast\n", ["lr: 'fast'", "a number > 0"]),
    ("lr: .inf\n", ["lr: inf", "a number > 0"]),
    ("lr: .nan\n", ["lr: nan", "a number > 0"]),
    ("shuffle: 2\n", ["shuffle: 2", "true or false"]),
    ("shuffle: maybe\n", ["shuffle: 'maybe'", "true or false"]),
    ("scale: [a, b]\n", ["scale: ['a', 'b']", "a list of numbers"]),
    ("depths: [1, 2.5]\n", ["depths: [1, 2.5]", "a list of whole numbers"]),
    ("data_dir: true\n", ["data_dir: True", "a path"]),
    ("crop_min: x\n", ["crop_min: 'x'", "a list of numbers"]),
    ("opt: adamv\n", ["opt: 'adamv'", "adamw", "lion", "Did you mean"]),
    ("device_target: TPU\n", ["device_target: 'TPU'", "auto, Ascend, GPU or CPU"]),
    ("mode: 2\n", ["mode: 2", "graph or pynative"]),
    ("amp_level: O4\n", ["amp_level: 'O4'", "O0, O1, O2, O3 or bf16"]),
    ("parallel:\n    parallel_mode: AUTO_PARALLEL\n", ["parallel_mode: 'AUTO_PARALLEL'", "data_parallel"]),
    ("pretrained: True\n", ["pretrained: True", "path of a checkpoint"]),
    ("use_ckpt: 1\n", ["use_ckpt: 1", "path of a checkpoint"]),
    ("resume: true\n", ["resume: True", "ckpt_save_dir"])])
def test_mistake_in_a_file_is_one_sentence(text, parts):
    message = sentence("--config_path", write(text), model_dir=Path("."), task="train")
    assert [part for part in parts if part not in message] == [], message


@pytest.mark.parametrize("values, parts", [
    ({"batch_size": 0}, ["batch_size: 0", ">= 1"]),
    ({"epochs": 0}, ["epochs: 0", ">= 1"]),
    ({"epochs": 5, "warmup_epochs": 6}, ["warmup_epochs: 6", "epochs: 5"]),
    ({"epochs": 20, "warmup_epochs": 10, "decay_epochs": 11}, ["warmup_epochs: 10 + decay_epochs: 11 is 21",
                                                              "epochs: 20"]),
    ({"epochs": 20, "decay_epochs": 15, "cooldown_epochs": 6}, ["decay_epochs: 15 + cooldown_epochs: 6 is 21"]),
    ({"crop_pct": 0}, ["crop_pct: 0", "> 0 and <= 1"]),
    ({"crop_pct": 1.1}, ["crop_pct: 1.1"]),
    ({"scale": [0.5]}, ["scale: [0.5]", "pair"]),
    ({"scale": [0.9, 0.1]}, ["scale: [0.9, 0.1]", "smaller number first"]),
    ({"scale": [0.5, 1.5]}, ["scale: [0.5, 1.5]", "<= 1"]),
    ({"scale": [0, 1]}, ["scale: [0, 1]", "> 0"]),
    ({"ratio": [2, 1]}, ["ratio: [2.0, 1.0]", "smaller number first"]),
    ({"hflip": 1.5}, ["hflip: 1.5", "<= 1"]),
    ({"re_prop": -0.1}, ["re_prop: -0.1", ">= 0"]),
    ({"switch_prob": 2}, ["switch_prob: 2", "<= 1"]),
    ({"label_smoothing": 1}, ["label_smoothing: 1", "< 1"]),
    ({"ema_decay": 1}, ["ema_decay: 1", "< 1"]),
    ({"eval_interval": 0}, ["eval_interval: 0", ">= 1"]),
    ({"eval_interval": 2, "eval_offset": 2}, ["eval_offset: 2", "eval_interval: 2"]),
    ({"lr": 0}, ["lr: 0", "> 0"]),
    ({"lr": 1e-3, "min_lr": 1e-2}, ["min_lr: 0.01", "lr: 0.001"]),
    ({"mixup": -1}, ["mixup: -1", ">= 0"]),
    ({"cutmix": -1}, ["cutmix: -1", ">= 0"]),
    ({"loss_scale": 0}, ["loss_scale: 0", "> 0"]),
    ({"num_classes": 0}, ["num_classes: 0", ">= 1"]),
    ({"drop_path_rate": 1}, ["drop_path_rate: 1", "< 1"]),
    ({"num_workers": 0}, ["num_workers: 0", ">= 1"]),
    ({"seed": 2 ** 32}, ["seed: 4294967296", "beyond 4294967295"]),
    ({"accumulation_steps": 0}, ["accumulation_steps: 0", ">= 1"]),
    ({"prefix": "a/b"}, ["prefix: 'a/b'", "cannot hold a '/'"]),
    ({"dims": [1, 2], "depths": [1]}, ["dims: [1, 2]", "depths: [1]"])])
def test_impossible_value_is_one_sentence(values, parts):
    with pytest.raises(UserError) as error:
        from_mapping(values, "test")
    assert [part for part in parts if part not in str(error.value)] == [], str(error.value)


@pytest.mark.parametrize("text, argv, expected", [
    ("epochs: 350\nwarmup_epochs: 10\ndecay_epochs: 260\n", ("--epochs", "5"), (0.14, 3.71, 0)),
    ("epochs: 40\nwarmup_epochs: 10\ncooldown_epochs: 4\n", ("--epochs", "8"), (2, None, 0.8)),
    ("epochs: 5\nwarmup_epochs: 10\n", (), (2.5, None, 0)),  # the file contradicts itself: half of the training
    ("epochs: 40\nwarmup_epochs: 10\ndecay_epochs: 30\n", ("--epochs", "8", "--decay_epochs", "7"), (1, 7, 0)),
    ("epochs: 40\nwarmup_epochs: 10\n", ("--epochs", "20"), (10, None, 0))])
def test_a_schedule_of_a_file_is_shortened_to_fit_the_epochs(text, argv, expected, caplog):
    config = run("--config_path", write(f"dataset: digits\n{text}"), *argv)
    assert (config.warmup_epochs, config.decay_epochs, config.cooldown_epochs) == expected
    assert ("which is shortened: warmup_epochs 10 -> " in caplog.text) == (expected[0] != 10)


def test_a_schedule_that_the_user_writes_himself_is_refused():
    file = write("dataset: digits\nepochs: 40\nwarmup_epochs: 1\n")
    assert "warmup_epochs: 9 is more than epochs: 5" in sentence("--config_path", file, "--epochs", "5",
                                                                 "--warmup_epochs", "9")


def test_folders_that_are_there_are_read_where_only_a_file_asks_for_another_data_set(caplog):
    file = write("dataset: cifar10\n")
    Path("photos/train/cat").mkdir(parents=True)
    assert run("--config_path", file, "--data_dir", "photos").dataset == "folder"
    assert "dataset: folder instead of cifar10 (config.yaml): photos holds train/." in caplog.text
    assert run("--config_path", file, "--data_dir", "photos", "--dataset", "cifar10").dataset == "cifar10"


@pytest.mark.parametrize("family", ["gmlp", "convmlp", "soft", "hlg", "mae"])
def test_fine_tuning_begins_with_a_small_network_or_with_that_of_the_checkpoint(family):
    spec = import_module(f"{family}.src.spec").SPEC
    Path("photos/cat").mkdir(parents=True)

    def fine_tuned(*more, **asked):
        return load_config(("--finetune", "--data_dir", "photos", *more), task="train", spec=spec,
                           model_dir=ROOT / family, **asked)

    small = fine_tuned()
    assert (small.dataset, small.device_target, small.distribute, small.freeze_epochs) == ("folder", "auto", False, 3)
    assert small.num_classes == 1000 and "num_classes" not in small.given  # that of the folders, when they are read
    assert network_arguments(small)
    of_variant = fine_tuned("--model", list(spec.for_task("train").variants)[-1])
    assert not network_arguments(of_variant) and of_variant.image_size == 224
    Path("w.ckpt").write_text("")
    sizes = {"patch_size": 4, "depth": 3} if family in ("gmlp", "mae") else {"depths": [1, 1, 1]}
    held = {"model": small.model, "image_size": 48, "num_classes": 7, "dataset": "cifar10", "epochs": 9, "mean": None,
            "hflip": 0.0, "data_dir": "elsewhere", **sizes}
    begun = fine_tuned("--ckpt_path", "w.ckpt", trained_with=lambda path: held)
    assert network_arguments(begun) == {key: tuple(value) if isinstance(value, list) else value
                                        for key, value in sizes.items()}
    assert (begun.image_size, begun.data_dir, begun.hflip, begun.epochs) == (48, "photos", 0.5, 30)
    assert begun.dataset == "folder" and begun.mean == (0.4914, 0.4822, 0.4465) and "num_classes" not in begun.given


def test_fine_tuning_takes_the_encoder_of_a_pre_training():
    Path("photos").mkdir()
    Path("w.ckpt").write_text("")
    held = {"model": "mae_vit_large_patch16", "patch_size": 8, "decoder_depth": 2, "mask_ratio": 0.6}
    config = run("--finetune", "--data_dir", "photos", "--ckpt_path", "w.ckpt", spec=MAE, model_dir=ROOT / "mae",
                 trained_with=lambda path: held)
    assert config.model == "vit_large_patch16" and network_arguments(config) == {"patch_size": 8}


def test_fine_tuning_is_a_training_of_its_own_configuration():
    file = write("epochs: 3\n")
    assert "both choose a configuration" in sentence("--finetune", "--config_path", file)
    assert "is for model/train.py, and this is eval.py" in sentence("--finetune", task="eval")


def test_schedule_that_ends_early_is_legal():
    assert from_mapping({"epochs": 350, "warmup_epochs": 10, "decay_epochs": 260}, "test").epochs == 350


def test_rate_per_256_images_is_not_compared_with_the_last_rate():
    assert from_mapping({"base_lr": 1e-4, "min_lr": 1e-2}, "test").min_lr == 1e-2


def test_changed_copy_can_be_checked_again():
    with pytest.raises(UserError, match="batch_size: 'dynamic'"):
        check_rules(dataclasses.replace(Config(), batch_size="dynamic"))


@pytest.mark.parametrize("argv, parts", [
    (["--epoch_siez", "3"], ["--epoch_siez", "command line", "Did you mean 'epoch_size'?"]),
    (["--config_pth", "x"], ["Did you mean 'config_path'?"]),
    (["epochs=3"], ["'epochs=3'", "--key value"]),
    (["--scale", "0.1", "1.0"], ["'1.0'", "lists without spaces"]),
    (["--epochs"], ["--epochs", "needs a value"]),
    (["--epochs", "--shuffle"], ["--epochs", "needs a value"]),
    (["--epochs", "x"], ["epochs: 'x'", "command line", "a whole number >= 1"]),
    (["--epochs", "3", "--max_epoch", "4"], ["epochs: '3'", "max_epoch: '4'", "different values"]),
    (["--task", "eval"], ["task: 'eval'", "train"]),
    (["--model", "gmlp_Ti166"], ["gmlp_Ti166", "gmlp_ti, gmlp_s", "Did you mean 'gmlp_ti'?"]),
    (["--backbone", "soft_tiny"], ["soft_tiny", "not a variant of gmlp"])])
def test_mistake_on_the_command_line_is_one_sentence(argv, parts):
    message = sentence(*argv)
    assert [part for part in parts if part not in message] == [], message


def test_missing_config_file_names_both_places_and_the_files_there_are():
    write("epochs: 3\n", "model/config/gmlp_Ti.yaml")
    message = sentence("--config_path", "config/gmlp_ti.yaml")
    assert str(Path.cwd()) in message and "model" in message and "Did you mean 'config/gmlp_Ti.yaml'?" in message


def test_folder_instead_of_a_config_file():
    Path("folder").mkdir()
    assert "'folder' (command line) is a folder" in sentence("--config_path", "folder")


def test_two_different_config_files():
    assert "a.yaml and b.yaml" in sentence("--config_path", "a.yaml", "--config", "b.yaml")


def test_file_that_is_no_text():
    Path("weights.ckpt").write_bytes(bytes(range(256)))
    assert "weights.ckpt is not a YAML file" in sentence("--config_path", "weights.ckpt")


# Paths.

def test_empty_data_dir_says_which_option_is_needed():
    assert "--data_dir (also --dataset_path)" in sentence("--dataset", "imagenet")


def test_data_dir_that_is_missing():
    message = sentence("--dataset_path", "no/where")
    assert "data_dir: 'no/where'" in message and str(Path.cwd()) in message


def test_environment_variable_that_is_not_set(monkeypatch):
    monkeypatch.delenv("DATA_PATH", raising=False)
    assert "environment variable DATA_PATH is not set" in sentence("--dataset_path", "$DATA_PATH/imagenet")


def test_eval_dir_that_is_missing():
    assert "eval_dir: 'val'" in sentence("--data_dir", ".", "--eval_dir", "val", "--dataset", "folder")


@pytest.mark.parametrize("argv", [["--dataset", "digits"], ["--dataset", "cifar10", "--data_dir", "new", "--download"],
                                  ["--dataset", "imagenet", "--run_modelarts", "True", "--data_url", "s3://x"]])
def test_data_that_comes_later_need_not_be_there(argv):
    assert run(*argv).dataset == argv[1]


def test_evaluation_needs_a_checkpoint():
    assert "--ckpt_path" in sentence("--dataset", "digits", task="eval")


@pytest.mark.parametrize("task", ["train", "eval", "export"])
def test_checkpoint_that_is_missing(task):
    assert "ckpt_path: 'no.ckpt'" in sentence("--pretrained", "no.ckpt", task=task)


def test_evaluation_with_its_own_folder_needs_no_training_data():
    Path("val").mkdir()
    config = run("--dataset", "folder", "--eval_dir", "val", "--ckpt_path", write("", "a.ckpt"), task="eval")
    assert (config.eval_dir, config.data_dir) == ("val", "")


def test_list_of_evaluation_images_is_looked_for_later():
    check_paths(Config(dataset="list", data_dir=".", eval_dir="val.json", ckpt_path=write("", "a.ckpt")), "eval")


def test_export_needs_no_data():
    check_paths(Config(data_dir="no/where"), "export")


# Files that would take minutes, or for ever.

@pytest.mark.parametrize("text, words", [
    ("a: " + "[" * 20000, "opens more than 1,000 brackets"),
    ("".join(f"key{n}: 1\n" for n in range(50000)), "no configuration has more than 262,144"),
    ("a:\n" + "- " * 3000 + "1\n", "nested too deeply"),
    ("a: &x [*x]\n", ""), ("a: &x\n  b: *x\n", "")], ids=["brackets", "keys", "depth", "own item", "own value"])
def test_a_file_that_yaml_could_not_digest_is_a_sentence(text, words):
    assert words in sentence("--config_path", write(text))


def test_the_merge_key_of_yaml_takes_keys_from_an_anchor():
    config = run("--config_path", write("context: &base\n  epochs: 7\n  seed: 3\nmodel_config:\n  <<: *base\n  dataset: digits\n"))
    assert (config.epochs, config.seed) == (7, 3)


@pytest.mark.parametrize("value", ["x" * 300, "a/" * 3000, "a\0"], ids=["component", "whole", "zero byte"])
def test_what_no_file_system_takes_as_a_path_is_refused(value):
    for key in ("data_dir", "ckpt_save_dir", "ckpt_path", "img_ids", "json"):
        with pytest.raises(UserError, match=f"{key} .the test. is no path"):
            from_mapping({key: value}, "the test")
    assert "is too long" in user_sentence(OSError(errno.ENAMETOOLONG, "File name too long", value))


def test_a_lack_of_memory_is_a_sentence():
    assert "(Unable to allocate 9 GiB); make batch_size" in user_sentence(MemoryError("Unable to allocate 9 GiB"))


def test_a_network_that_hardly_widens_its_tokens_is_refused_in_every_model():
    for spec in all_specs():
        with pytest.raises(UserError, match="mlp_ratio: 0.01"):
            from_mapping({"mlp_ratio": 0.01}, "the test", spec)


@pytest.mark.parametrize("flags", [("--seed", "1e30"), ("--depth", "1000000"), ("--re_count", "999999999"),
                                   ("--repeated_augmentation", "99999999"), ("--lr", "1e308"), ("--std", "1e-300"),
                                   ("--mixup", "1e300"), ("--image_size", "9000"), ("--mlp_ratio", "0.01"),
                                   ("--epochs", "99999999999")], ids=lambda flags: flags[0])
def test_a_number_that_no_training_can_mean_is_refused(flags):
    assert flags[0][2:] in sentence(*flags)
