"""Every key of the configuration has an effect, and a test that fails when the key is ignored.

``PROVED`` names that test for each key; what no test of a room proves is proved below. A new key needs an entry.
"""
import ast
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from entry import run, write_yaml
from mindspore import Tensor, nn
from PIL import Image
from small_networks import Linear

from common.augment.pipeline import train_transform
from common.callback.epoch import StopOnBadLoss, callbacks
from common.command import ENDING
from common.config.load import from_mapping
from common.config.options import fields_of
from common.context.device import start
from common.context.ranks import Runtime
from common.dataset import batches
from common.dataset.sources import open_samples
from common.errors import UserError
from common.network import build_network
from common.optimizer.rules import SGD
from common.run.training import TrainingState, open_run
from common.tasks import train as training
from common.train_step import ClassifierLoss, TrainStep
from gmlp.src.spec import SPEC as GMLP

TESTS = Path(__file__).resolve().parent
MODELS = ("gmlp", "convmlp", "soft", "hlg", "mae")
PROVED = {  # test -> the keys that it would miss
    "test_keys.py::test_keys_of_the_network_change_it":
        "in_channels image_size drop_path_rate patch_size embed_dim depth depths dims num_heads mlp_ratio num_classes "
        "norm_eps channels n_conv_blocks layout dead_parameters decoder_embed_dim decoder_depth decoder_num_heads "
        "mask_ratio norm_pix_loss global_pool batchnorm_head model",
    "test_keys.py::test_keys_of_the_step_reach_it":
        "loss_scale dynamic_loss_scale loss_scale_window clip_grad clip_value accumulation_steps ema ema_decay "
        "gradients_mean allreduce_buckets",
    "test_keys.py::test_overflows_stop_a_training_unless_it_may_drop_updates": "drop_overflow_update",
    "test_keys.py::test_sinking_is_asked_of_the_framework": "dataset_sink_mode",
    "tasks/test_sinking.py::test_epochs_are_as_long_as_the_sink_in_all_that_follows_from_it": "sink_size",
    "test_context.py::test_float32_is_float32_unless_allowed_otherwise": "allow_tf32",
    "test_context.py::test_the_jit_level_is_set_in_so_many_words": "jit_level",
    "test_compiling.py::test_the_configuration_says_how_cells_are_compiled": "graph_kernel compile_cache",
    "test_context.py::test_determinism_and_the_limit_of_memory_reach_the_framework":
        "deterministic max_device_memory",
    "test_network.py::test_blocks_are_computed_twice_where_a_training_asks_for_it": "recompute",
    "test_network.py::test_attention_is_fused_where_the_device_can_and_the_key_says_so": "fused_attention",
    "test_engine.py::test_both_engines_give_the_same_answers": "engine",
    "test_keys.py::test_settings_reach_the_framework": "max_call_depth num_threads mode",
    "test_keys.py::test_a_run_may_leave_a_profile_and_graphs_but_no_checkpoint":
        "open_profiler save_graphs save_checkpoint",
    "test_keys.py::test_checkpoints_are_saved_as_often_and_as_many_as_wanted":
        "save_checkpoint_epochs keep_checkpoint_max prefix ckpt_save_dir",
    "test_keys.py::test_checkpoints_are_saved_inside_an_epoch_where_asked": "save_checkpoint_steps",
    "test_keys.py::test_keys_of_the_mixing_reach_it": "mixup cutmix mixup_prob mixup_switch_prob",
    "test_keys.py::test_as_many_boxes_are_erased_as_wanted": "re_count",
    "test_keys.py::test_evaluation_has_its_own_number_of_workers": "eval_num_workers num_workers",
    "test_main.py::test_a_mistake_is_one_sentence_and_leaves_nothing": "device_target distribute",
    "test_context.py::test_each_of_several_processes_takes_the_device_of_its_launcher": "device_id",
    "test_config.py::test_mistake_in_a_file_is_one_sentence": "parallel_mode",
    "test_config.py::test_train_follows_the_task_of_the_file_and_other_programs_do_not": "task",
    "test_config.py::test_a_key_without_effect_is_accepted_with_a_warning":
        "soft_config_path hlg_config_path cb_size eval_engine",
    "layers/test_precision.py::test_each_level_hands_on_half_precision_where_it_says": "amp_level",
    "ranks/test_ranks.py::test_synchronised_batch_norm_of_two_ranks_equals_one_rank_with_the_whole_batch": "sync_bn",
    "ranks/test_ranks.py::test_base_lr_follows_the_global_batch": "base_lr",
    "test_callback.py::test_the_best_checkpoints_are_kept_as_many_as_wanted": "keep_best_max",
    "test_callback.py::test_curves_for_tensorboard_need_its_package": "tensorboard",
    "test_callback.py::test_without_a_terminal_progress_is_plain_lines": "log_interval",
    "test_callback.py::test_evaluation_follows_interval_and_offset": "eval_interval eval_offset",
    "test_callback.py::test_pictures_are_drawn_every_few_epochs_and_at_the_end_in_evaluation_mode": "sample_every",
    "tasks/test_resume.py::test_resume_in_another_folder_takes_the_whole_state": "resume",
    "tasks/test_resume.py::test_weights_alone_start_a_new_training": "ckpt_path",
    "mae/test_mae_workflow.py::test_images_without_labels_can_be_pretrained_on_and_not_classified": "val_while_train",
    "mae/test_mae_workflow.py::test_the_list_of_images_selects_them": "img_ids",
    "dataset/test_sources.py::test_classes_are_the_sorted_folder_names": "data_dir dataset",
    "dataset/test_sources.py::test_evaluation_alone_takes_the_named_folder": "eval_dir",
    "dataset/test_sources.py::test_a_share_of_every_class_is_set_aside_where_there_is_no_val": "val_share",
    "dataset/test_sources.py::test_download_fetches_cifar_and_is_not_repeated": "download",
    "dataset/test_batches.py::test_skipped_images_are_replaced_by_the_next_good_one_and_counted": "on_error",
    "dataset/test_batches.py::test_without_shuffling_the_order_is_that_of_the_data_but_the_augmentation_changes":
        "shuffle",
    "dataset/test_batches.py::test_another_seed_gives_another_order_and_other_images": "seed",
    "dataset/test_batches.py::test_steps_per_epoch": "batch_size drop_remainder epochs",
    "dataset/test_batches.py::test_evaluation_takes_its_own_size_and_batch": "eval_batch_size eval_image_size",
    "dataset/test_batches.py::test_repeated_augmentation_is_exact_on_any_number_of_ranks": "repeated_augmentation",
    "dataset/test_fast_decode.py::test_keys_for_reading_reach_the_reader": "exif max_image_pixels",
    "dataset/test_fast_decode.py::test_the_key_chooses_between_nearly_the_same_crops_and_pils_own": "fast_decode",
    "dataset/test_bytes.py::test_a_training_from_bytes_is_that_from_numbers": "normalize_on",
    "dataset/test_stores.py::test_a_cache_changes_nothing_and_outlives_its_source": "data_cache",
    "test_keys.py::test_keys_of_the_cache_reach_it": "data_cache_gb data_cache_form",
    "dataset/test_batches.py::test_mixing_ends_at_its_epoch_and_targets_stay_soft": "mixup_off_epoch",
    "augment/test_pipeline.py::test_crop_area_is_uniform_and_aspect_log_uniform": "scale ratio",
    "augment/test_pipeline.py::test_flips_are_pils_and_happen_with_their_probability": "hflip vflip",
    "augment/test_pipeline.py::test_random_interpolation_takes_either_filter_equally_often": "interpolation",
    "augment/test_pipeline.py::test_evaluation_has_its_own_size_and_filter": "eval_interpolation",
    "augment/test_pipeline.py::test_one_jitter_strength_means_brightness_contrast_and_saturation": "color_jitter",
    "augment/test_pipeline.py::test_auto_augment_takes_the_place_of_colour_jitter": "auto_augment",
    "augment/test_pipeline.py::test_crop_pct_is_the_share_of_the_resized_short_side": "crop_pct",
    "augment/test_pipeline.py::test_erasing_comes_after_normalisation": "re_prob re_mode",
    "augment/test_pipeline.py::test_own_statistics_override_those_of_the_data_set": "mean std",
    "test_loss.py::test_build_loss_finds_names_in_any_case_and_passes_the_smoothing": "loss label_smoothing",
    "test_loss.py::test_use_label_smooth_switches_the_smoothing_off": "use_label_smooth",
    "test_lr.py::test_old_zoo_schedules": "scheduler lr poly_power",
    "test_lr.py::test_first_step_with_warmup_has_lr_init_and_the_warmup_ends_at_the_peak": "lr_init warmup_epochs",
    "test_lr.py::test_zoo_cosine_ends_exactly_at_min_lr": "min_lr",
    "test_lr.py::test_decay_epochs_leave_a_constant_tail": "decay_epochs",
    "test_lr.py::test_exponential_falls_by_decay_rate_every_decay_epochs_down_to_min_lr": "decay_rate",
    "test_lr.py::test_steps_take_effect_in_the_first_step_of_their_epoch_after_a_warmup": "lr_steps",
    "test_lr.py::test_warmup_without_prefix_lands_on_the_middle_of_the_cosine": "warmup_prefix",
    "test_lr.py::test_exponential_per_epoch_is_a_staircase": "lr_per_epoch",
    "test_lr.py::test_a_delayed_rate_is_what_stepping_the_schedule_after_the_optimizer_gives": "lr_delay",
    "test_lr.py::test_cooldown_is_the_end_of_the_epochs_and_the_decay_is_over_before_it": "cooldown_epochs",
    "test_optimizer.py::test_configuration_reaches_the_rule": "opt eps beta1 beta2 momentum use_nesterov gc_flag",
    "test_optimizer.py::test_the_models_rule_decides_what_is_decayed": "weight_decay",
    "test_optimizer.py::test_without_the_filter_everything_is_decayed": "filter_bias_and_bn",
    "test_optimizer.py::test_the_old_zoos_filter_goes_by_parts_of_names_and_comes_first": "no_weight_decay_filter",
    "test_optimizer.py::test_layer_decay_scales_the_rate_by_the_layers_distance_from_the_head": "layer_decay",
    "test_optimizer.py::test_only_the_head_learns_in_the_frozen_epochs_where_there_are_weights": "freeze_epochs",
    "pictures/test_visualize.py::test_a_masked_autoencoder_shows_its_attention_and_a_classifier_reconstructs_nothing":
        "view",
    "pictures/test_sheets.py::test_an_evaluation_with_a_report_gives_the_same_numbers": "report",
    "pictures/test_sheets.py::test_predictions_are_written_in_every_form": "image json csv sheet",
    "soft/test_soft_workflow.py::test_attention_is_drawn_for_the_chosen_places": "positions out",
    "test_predict.py::test_probabilities_are_sorted_and_those_of_the_logits": "top_k",
    "test_predict.py::test_class_names_are_read_from_lines_and_from_json": "class_names",
    "test_main.py::test_export_and_prediction_agree": "model_file file_name",
    "test_main.py::test_a_training_learns_and_logs_the_seeds_lines": "logger_name",
    "export/test_export.py::test_without_verification_the_description_says_so": "verify",
    "export/test_export.py::test_air_needs_an_ascend": "file_format",
    "export/test_onnx.py::test_what_is_inside_a_file_changes_no_prediction": "with_preprocess softmax",
    "export/test_onnx.py::test_the_encoder_gives_the_class_token_of_the_masked_autoencoder": "part",
    "test_cloud.py::test_nothing_happens_without_the_switch": "enable_modelarts",
    "test_cloud.py::test_local_data_is_copied_and_found": "data_url data_path",
    "test_cloud.py::test_results_are_sent_from_output_path_and_from_a_run_folder_elsewhere": "train_url output_path",
    "test_cloud.py::test_one_checkpoint_becomes_ckpt_path": "checkpoint_url load_path",
    "test_cloud.py::test_openi_lists_of_zip_files_are_unpacked_into_folders_of_their_own": "multi_data_url",
}


def spec_of(model: str):
    return import_module(f"{model}.src.spec").SPEC


def test_every_key_has_a_test_that_is_there():
    keys = {key for model in MODELS for key in fields_of(spec_of(model).options)}
    proved = [key for named in PROVED.values() for key in named.split()]
    assert sorted(proved) == sorted(keys), (keys - set(proved), set(proved) - keys)
    for place in PROVED:
        file, _, name = place.partition("::")
        tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
        assert any(isinstance(node, ast.FunctionDef) and node.name == name for node in tree.body), place


# the network

STAGES = {"image_size": 64, "depths": [1, 1, 1], "dims": [8, 16, 16], "mlp_ratio": 2, "num_classes": 5}
FOUR = {"image_size": 64, "depths": [1] * 4, "dims": [16] * 4, "num_heads": [1] * 4, "num_classes": 5}
TOKENS = {"image_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_classes": 5}
VIT = TOKENS | {"num_heads": 2, "model": "vit_base_patch16"}
MASKED = VIT | {"model": "mae_vit_base_patch16", "task": "pretrain", "decoder_embed_dim": 16, "decoder_depth": 1,
                "decoder_num_heads": 2}
CHANGES = [  # model, a small network, keys that change it
    ("gmlp", TOKENS | {"model": "gmlp_ti"}, {
        "image_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "mlp_ratio": 3, "num_classes": 6,
        "in_channels": 1, "drop_path_rate": 0.5, "norm_eps": 1e-3}),
    ("convmlp", STAGES | {"model": "convmlp_s"}, {"channels": 16, "n_conv_blocks": 1, "depths": [2, 1, 1],
                                                  "dims": [8, 16, 24]}),
    ("soft", FOUR | {"model": "soft_tiny"}, {"num_heads": [1, 1, 2, 2], "model": "soft_norm_tiny", "mlp_ratio": 2}),
    ("hlg", FOUR | {"model": "hlg_tiny_avgpool", "image_size": 224}, {"layout": "paper", "norm_eps": 1e-3}),
    ("hlg", {"model": "hlg_mobile", "num_classes": 5}, {"dead_parameters": True}),
    ("mae", VIT | {"task": "finetune"}, {"global_pool": False, "batchnorm_head": True, "norm_eps": 1e-3}),
    ("mae", MASKED, {"decoder_embed_dim": 32, "decoder_depth": 2, "decoder_num_heads": 4, "mask_ratio": 0.5,
                     "norm_pix_loss": True}),
]


def picture_of(network: nn.Cell) -> dict:
    """Every parameter's shape, and every number, switch and text that a cell keeps."""
    kept = {name: parameter.shape for name, parameter in network.parameters_and_names()}
    for name, cell in network.cells_and_names():
        kept |= {(name, key): value for key, value in vars(cell).items() if isinstance(value, (bool, int, float, str))
                 and not key.startswith("_") and "phase" not in key}
    return kept


@pytest.mark.parametrize("model, settings, changes", CHANGES, ids=[f"{c[0]}-{c[1]['model']}" for c in CHANGES])
def test_keys_of_the_network_change_it(model, settings, changes):
    spec = spec_of(model)

    def network(**more):
        values = settings | {"device_target": "CPU", "data_dir": "."} | more
        config = from_mapping(values, "the test", spec)
        return picture_of(build_network(config, spec.for_task(config.task)))

    plain = network()
    assert plain == network()  # what differs below differs for the key's sake
    for key, value in changes.items():
        assert network(**{key: value}) != plain, key


# the step, and what the framework is told

def tiny(**keys):
    """The configuration of a tiny gMLP on the digits."""
    return from_mapping({"model": "gmlp_ti", "dataset": "digits", "image_size": 8, "patch_size": 4, "embed_dim": 8,
                         "depth": 1, "batch_size": 64, "epochs": 2, "device_target": "CPU", "num_workers": 1,
                         "val_while_train": False} | keys, "the test", GMLP)


def linear_step(**options) -> TrainStep:
    network = Linear(12, 4)
    return TrainStep(ClassifierLoss(network, nn.CrossEntropyLoss()), network,
                     SGD(network.trainable_params(), 0.5, momentum=0.0), **options)


def test_keys_of_the_step_reach_it(monkeypatch):
    """What the step does with them test_train_step.py and ranks/test_ranks.py prove."""
    monkeypatch.setattr(training, "TrainStep", lambda *places, **options: options)
    monkeypatch.setattr("common.network.compile_with", lambda step, **_: step)

    def options(**keys):
        return training.build_step(tiny(**keys), GMLP, build_network(tiny(), GMLP), np.ones(2, np.float32), Runtime())

    plain = options()
    for keys, changed in [
            ({"loss_scale": 8.0}, {"loss_scale": 8.0}), ({"clip_grad": True}, {"clip_norm": 1.0}),
            ({"dynamic_loss_scale": True}, {"dynamic_loss_scale": True, "loss_scale": 65536.0}),
            ({"loss_scale_window": 7}, {"scale_window": 7}),
            ({"clip_grad": True, "clip_value": 0.3}, {"clip_norm": 0.3}),
            ({"accumulation_steps": 3}, {"accumulation_steps": 3}), ({"ema": True}, {"ema_decay": 0.9999}),
            ({"ema": True, "ema_decay": 0.5}, {"ema_decay": 0.5}),
            ({"gradients_mean": False}, {"mean_over_ranks": False}),
            ({"allreduce_buckets": 5}, {"allreduce_buckets": 5})]:
        assert options(**keys) == plain | changed, keys


def test_overflows_stop_a_training_unless_it_may_drop_updates():
    step = linear_step()
    step.skipped_in_row.set_data(Tensor(1, ms.int32))
    with pytest.raises(UserError, match="drop_overflow_update"):
        StopOnBadLoss(tiny(), step).check()
    StopOnBadLoss(tiny(drop_overflow_update=True), step).check()
    StopOnBadLoss(tiny(dynamic_loss_scale=True), step).check()  # where a few overflows are part of the search


@pytest.mark.parametrize("sunk", [False, True])
def test_sinking_is_asked_of_the_framework(sunk, tmp_path, monkeypatch):
    """A CPU cannot sink: what it does with the request is the framework's."""
    asked = []
    monkeypatch.setattr(training.Model, "train", lambda self, *places, **options: asked.append(options))
    monkeypatch.setattr(training.np, "mean", lambda values: 0.0)  # of the speeds of no epoch at all
    training.train(replace(tiny(dataset_sink_mode=sunk), ckpt_save_dir=str(tmp_path)), GMLP)
    assert asked[0]["dataset_sink_mode"] is sunk


def test_settings_reach_the_framework(monkeypatch):
    threads, depths = [], []
    monkeypatch.setattr(ms.device_context.cpu.op_tuning, "threads_num", threads.append)
    monkeypatch.setattr(ms, "set_recursion_limit", depths.append)
    try:
        start(tiny(max_call_depth=777, num_threads=3, mode="pynative"))
        assert (threads, depths, ms.get_context("mode")) == ([3], [777], ms.PYNATIVE_MODE)
    finally:
        ms.set_context(mode=ms.GRAPH_MODE)


@pytest.mark.slow
def test_a_run_may_leave_a_profile_and_graphs_but_no_checkpoint(tmp_path):
    config = write_yaml(tmp_path / "a.yaml", epochs=1, depth=1, image_size=8, open_profiler=True, save_graphs=True,
                        save_checkpoint=False)
    result = run("gmlp/train.py", "--config_path", config, "--ckpt_save_dir", tmp_path / "run")
    assert result.returncode == 0, result.stderr[-2000:]
    assert not list((tmp_path / "run").rglob("*.ckpt"))
    assert any(file.is_file() for file in (tmp_path / "run" / "graphs").rglob("*.ir"))
    assert any(file.is_file() for file in (tmp_path / "run" / "profile_rank_0").rglob("*"))


# checkpoints, data

def run_of(folder, step: TrainStep, **keys):
    """A run of six epochs of five steps, with its callbacks by name."""
    config = replace(tiny(prefix="mine", epochs=6, **keys), ckpt_save_dir=str(folder))
    state = TrainingState(6, 5, 64, np.ones(30, np.float32))
    opened = open_run(config, GMLP, Runtime(), open_samples(config, "train"), state)
    return opened, {type(callback).__name__: callback for callback in callbacks(opened, step, None, 0)}


def test_checkpoints_are_saved_as_often_and_as_many_as_wanted(tmp_path):
    opened, found = run_of(tmp_path / "run", linear_step(), save_checkpoint_epochs=2, keep_checkpoint_max=2)
    for epoch in range(1, 7):
        opened.state.epoch, opened.state.row = epoch, {"epoch": epoch, "loss": 1.0, "lr": 1.0, "epoch_time": 1.0,
                                                       "images_per_second": 1.0}
        found["Saving"].on_train_epoch_end(None)
    assert sorted(path.name for path in (tmp_path / "run").glob("*.ckpt")) == ["mine-4_5.ckpt", "mine-6_5.ckpt"]


def test_checkpoints_are_saved_inside_an_epoch_where_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(ENDING, "saves", False)  # as it is again after this test
    context = SimpleNamespace(original_args=lambda: SimpleNamespace(dataset_sink_mode=False))
    for interval, steps in ((0, []), (2, [2, 4])):
        folder, saved = tmp_path / str(interval), []
        opened, found = run_of(folder, linear_step(), save_checkpoint_steps=interval)
        opened.state.epoch = 1
        for number in range(1, 6):
            before = {path: path.stat().st_mtime_ns for path in folder.glob("*.ckpt")}
            found["StopWhenAsked"].on_train_step_end(context)
            if {path: path.stat().st_mtime_ns for path in folder.glob("*.ckpt")} != before:
                saved.append(number)
        assert saved == steps


def test_keys_of_the_cache_reach_it(tmp_path):
    (tmp_path / "train" / "a").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "train" / "a" / "0.png")
    plain = {"dataset": "folder", "data_dir": str(tmp_path), "data_cache": str(tmp_path / "cache")}
    for keys, expected in (({}, (100e9, False)), ({"data_cache_gb": 2, "data_cache_form": "decoded"}, (2e9, True))):
        cache = open_samples(from_mapping(plain | keys, "the test"), "train").cache
        assert (cache.limit, cache.decoded) == expected


def test_keys_of_the_mixing_reach_it():
    mixed = batches.mixer(tiny(mixup=0.8, cutmix=0.7, mixup_prob=0.6, mixup_switch_prob=0.4))
    assert (mixed.mixup_alpha, mixed.cutmix_alpha, mixed.prob, mixed.switch_prob) == (0.8, 0.7, 0.6, 0.4)


def test_as_many_boxes_are_erased_as_wanted():
    """At most; augment/test_pipeline.py proves what they do."""
    assert [train_transform(tiny(re_prob=1.0, re_count=count)).erase.count for count in (1, 4)] == [1, 4]


def test_evaluation_has_its_own_number_of_workers(monkeypatch):
    asked = []
    monkeypatch.setattr(batches, "_workers", lambda key, number, *places: asked.append((key, number)) or 1)
    for keys in ({"num_workers": 2}, {"num_workers": 2, "eval_num_workers": 3}):
        config = tiny(**keys)
        batches.eval_batches(config, open_samples(config, "train"), rank=0, world_size=1)
    assert asked == [("num_workers", 2), ("eval_num_workers", 3)]
