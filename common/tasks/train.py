"""Train, evaluate, export: each as a story that reads from top to bottom. The parts live in the other modules."""
import dataclasses
import logging
import socket
import time
from pathlib import Path
from typing import Any, Callable

import mindspore as ms
import numpy as np
from mindspore import nn
from mindspore.train import Callback, Model

from common.callback import EpochLog, EpochRecord, Evaluation, History, LogLines, Pictures, Profile, ProgressBar, ReadErrors, Saving, StopOnBadLoss, TrainingState, keep_history
from common.checkpoint.file.file import HEAD, LoadReport, RunFolder, load, load_into, network_tensors
from common.config.load.load import network_arguments, save
from common.dataset.batches.batches import eval_batches, train_batches
from common.dataset.batches.samples import steps_per_epoch as steps_per_epoch_of_samples
from common.dataset.batches.sources import open_samples
from common.layers.cells.sync_batch_norm import SharedStatistics, synchronise
from common.dataset.batches.classes import read_class_names
from common.config.load.options import Config
from common.context.device.device import Runtime, start
from common.errors import UserError
from common.export.write.write import choose_format, export_network, preprocessing_of
from common.export.write.contents import Contents, Deployed
from common.layers.cells.cells import apply_precision
from common.logger import get_logger, set_up
from common.loss import build_loss
from common.lr import schedule
from common.metric import AnsweringStep, EvaluationStep, Scores, evaluate as evaluate_batches
from common.optimizer.build.build import build_optimizer
from common.pictures.sheet.sheet import prediction_sheet
from common.predict import Predictor, Result, expand_images, format_table, read_description, write_csv, write_json
from common.pictures.sheet.report import Answers, FILES as REPORT_FILES, make_folder, write_report
from common.tasks.resume import check_family, check_weights, plain, restore, training_tensors
from common.dataset.batches.samples import Samples, check_same_classes, save_classes, with_classes
from common.spec import ModelSpec
from common.train_step import ClassifierLoss, ReconstructionLoss, TrainStep
from common.augment.pipeline import eval_transform


def train(config: Config, spec: ModelSpec) -> TrainingState:
    """Train a network, or continue a training; everything that lasts is in ``config.ckpt_save_dir``.

    ``pretrain`` is for a masked autoencoder, without labels and evaluation; ``linprobe`` trains the head alone.

    Raises:
        UserError: for any mistake in the configuration, the data or the checkpoints.
    """
    runtime = start(config)
    samples = open_samples(config, "train")
    pretraining = config.task == "pretrain"
    config = config if pretraining else with_classes(config, samples)
    eval_samples = open_samples(config, "eval") if config.val_while_train and not pretraining else None
    if eval_samples is not None:
        check_same_classes(samples, eval_samples)
    global_batch = config.batch_size * config.accumulation_steps * runtime.world_size
    steps_per_epoch = steps_per_epoch_of_samples(config, len(samples), runtime.world_size)
    lr = schedule(config, steps_per_epoch, global_batch)

    logger, folder = _open_run(config, spec, runtime)
    network = build_network(config, spec, runtime.world_size)
    if config.task == "linprobe":
        freeze_body(network)
    step = build_step(config, spec, network, lr, runtime)
    state = TrainingState(config.epochs, steps_per_epoch, global_batch, lr)
    start_epoch = restore(config, spec, step, state, folder, runtime, logger)
    if start_epoch >= config.epochs:
        logger.info(f"The training in {folder.folder} is complete ({start_epoch} of {config.epochs} epochs); raise "
                    "--epochs to go on, or choose another --ckpt_save_dir to start again.")
        return state
    batches = train_batches(config, samples, rank=runtime.rank, world_size=runtime.world_size,
                                    start_epoch=start_epoch, noise_length=network.noise_length if pretraining else 0)
    if runtime.is_main:
        save(config, folder.folder / "config.yaml")
        save_classes(samples, folder.folder / "classes.json")
        keep_history(folder.folder / "history.jsonl", start_epoch)
    logger.info(f"{spec.display_name(config.model)}: {_count(network):,} parameters, {len(samples)} training images, "
                + ("" if pretraining else f"{len(samples.classes)} classes, ")
                + f"{steps_per_epoch} steps of {global_batch} images per epoch, "
                f"{runtime.world_size} x {runtime.device}, results in {folder.folder}")

    lines = LogLines(spec.log_style, logger)
    callbacks = _callbacks(config, spec, samples, eval_samples, step, state, folder, runtime, lines,
                           batches.get_dataset_size(), start_epoch)
    Model(step).train(config.epochs, batches, callbacks, dataset_sink_mode=config.dataset_sink_mode,
                      sink_size=config.sink_size or -1, initial_epoch=start_epoch)
    totals = {"train_time": time.time() - state.started, "host": socket.gethostname(),
              "mean_fps": float(np.mean(state.fps))}
    lines.emit("finished", **totals)
    if state.best_epoch:
        lines.emit("best", best=state.best, best_epoch=state.best_epoch)
    lines.emit("closing", **totals)
    return state


def evaluate(config: Config, spec: ModelSpec) -> Scores:
    """Evaluate the checkpoint ``config.ckpt_path`` on the evaluation data; exact for any batch size and rank count."""
    runtime = start(config)
    logger = _console(spec, runtime)
    samples = open_samples(config, "eval")
    config = with_classes(config, samples)
    folder = make_folder(config.report) if config.report else None
    network, report, classes = load_network(config, spec)
    logger.info(f"{spec.display_name(config.model)} from {config.ckpt_path}: {report.summary()}; {len(samples)} images,"
                f" {len(samples.classes)} classes" + (f"; {', '.join(REPORT_FILES)} go to {folder}" if folder else ""))
    if classes and classes != samples.classes:
        logger.warning(f"The checkpoint was trained on classes named {classes[0]}, {classes[1]} ..., and the data has "
                       f"{samples.classes[0]}, {samples.classes[1]} ...: the numbers mean something only if both lists "
                       "are in the same order.")
    answers = Answers(samples, config.eval_batch_size or config.batch_size, runtime) if folder else None
    scores = _evaluation(config, samples, network, runtime, answers)()
    samples.report_errors(logger)
    if scores.top1 * len(samples.classes) < 2 and scores.seen >= 10 * len(samples.classes) > 20:
        logger.warning("The accuracy is that of a guess. The classes may be numbered differently from the training: "
                       "folders are numbered in alphabetical order.")
    lines = spec.log_style.evaluation.format(
        top1=scores.top1, top5=scores.top5, loss=scores.loss, seen=scores.seen, total_time=scores.seconds,
        step_time=scores.seconds / max(1, scores.steps))
    if runtime.is_main:
        print(lines)
    if answers is not None:
        answers.gather()
        if runtime.is_main:
            write_report(answers, folder)
    return scores


def export(config: Config, spec: ModelSpec) -> Path:
    """Write the network of ``config.ckpt_path``, or a part of it, as a file for inference, load it again and compare.

    Raises:
        UserError: for any mistake in the configuration or the checkpoint.
    """
    runtime = start(config)
    _console(spec, runtime)
    choose_format(config.file_format)  # before anything is built
    contents = Contents(config.part, config.with_preprocess, config.softmax)
    preprocessing, classes = preprocessing_of(config), []
    found = spec.export_part(config, spec) if spec.export_part else None
    if found:
        network, contents = found
    elif config.part != "classifier":
        raise UserError(f"part: {config.part} is not offered for {spec.name}, which has the classifier only.")
    else:
        network, _, classes = load_network(config, spec)
    if contents.part != "reconstruction" and (contents.normalization or contents.softmax):
        statistics = (preprocessing["mean"], preprocessing["std"]) if contents.normalization else ((), ())
        network = Deployed(network, *statistics, contents.softmax)
    size, batch = preprocessing["image_size"], None if config.batch_size == "dynamic" else config.batch_size
    name = spec.display_name(config.model) + ("" if config.part == "classifier" else f"_{config.part}")
    beside = Path(__file__).resolve().parents[1] / spec.name  # where export.py lies
    return export_network(network, input_shape=(batch, config.in_channels, size, size),
                          file_name=config.file_name or (beside if beside.is_dir() else Path()) / name,
                          file_format=config.file_format, model=config.model, class_names=classes,
                          preprocessing=preprocessing, verify=config.verify, contents=contents)


def predict(config: Config, spec: ModelSpec) -> list[Result]:
    """Classify the images of ``config.image`` with a checkpoint or an exported file, and print a table.

    Raises:
        UserError: if there is nothing to classify with, nothing to classify, or none of the images can be.
    """
    if not config.image:
        raise UserError("image: name the images to classify (--image FILE, FOLDER or 'PATTERN').")
    images = expand_images(config.image)
    _console(spec, start(config))
    names = read_class_names(config.class_names) if config.class_names else None
    if config.model_file:
        predictor = Predictor.from_file(config.model_file, names, config.batch_size, config.top_k)
        _check_exported(config, spec)
    else:
        network, _, classes = load_network(config, spec)
        predictor = Predictor(network, eval_transform(config), names or classes, min(config.batch_size, len(images)),
                              top_k=config.top_k)
    results = predictor(images)
    if not predictor.given_names and predictor.class_names:
        shown = "ImageNet's are shown" if len(predictor.class_names) >= 1000 else "numbers are shown"
        get_logger().info(f"No class names came with this network, so that {shown}; --class_names FILE gives others.")
    print(format_table(results))
    if config.json:
        write_json(results, config.json)
    if config.csv:
        write_csv(results, config.csv)
    if config.sheet:
        prediction_sheet(results, config.sheet)
    if not any(result.top for result in results):
        raise UserError(f"image: none of the {len(results)} images could be classified; {results[0].source}: "
                        f"{results[0].error}.")
    return results


def _check_exported(config: Config, spec: ModelSpec) -> None:
    """Refuse an exported file that says it holds a network of another model."""
    held = read_description(config.model_file).get("model", "")
    known = {*spec.variants, *spec.aliases, *spec.display_names.values()}
    if held and held.lower() not in map(str.lower, known):
        raise UserError(f"model_file: '{config.model_file}' holds {held}, which is no variant of {spec.name}; use the "
                        "infer.py of its own model.")


def build_network(config: Config, spec: ModelSpec, world_size: int = 1) -> nn.Cell:
    """Build the network of a configuration at its precision; with ``sync_bn``, for training on so many ranks."""
    network = spec.build(config.model, num_classes=config.num_classes, image_size=config.image_size,
                         in_channels=config.in_channels, drop_path_rate=config.drop_path_rate,
                         **network_arguments(config))
    _check_sizes(config, network)
    if config.sync_bn and world_size > 1:
        synchronise(network, world_size)
    if config.amp_level != "O0" and ms.get_current_device()[0] == "CPU":
        get_logger().warning(f"amp_level: {config.amp_level} on a CPU only shows that it works: float16 is slower "
                             "there than O0.")
    return apply_precision(network, config.amp_level)


def _check_sizes(config: Config, network: nn.Cell) -> None:
    """Refuse another size for evaluation where the network is built for one: its cells say so with ``image_size``."""
    built_for = {size for _, cell in network.cells_and_names()
                 if isinstance(size := getattr(cell, "image_size", None), tuple)}
    side = config.eval_image_size or config.image_size
    if built_for - {(side, side)} and config.task != "pretrain":
        raise UserError(f"eval_image_size: {side} differs from image_size: {config.image_size}, but {config.model} "
                        "takes images of the one size for which it is built; leave eval_image_size out, or give both "
                        "the same value.")


def load_network(config: Config, spec: ModelSpec) -> tuple[nn.Cell, LoadReport, list[str]]:
    """Build the network of a configuration and fill it from ``config.ckpt_path``, in evaluation mode.

    Returns:
        The network, what was loaded, and the class names that the checkpoint holds (none, if it holds none).

    Raises:
        UserError: if there is no checkpoint, or it does not fit; a network with random weights is never returned.
    """
    if not config.ckpt_path:
        raise UserError("ckpt_path: name the checkpoint to use (--ckpt_path FILE.ckpt).")
    tensors, meta = load(config.ckpt_path)
    check_family(meta, config, spec)
    network = build_network(config, spec)
    tensors = network_tensors(tensors, ema=meta.get("config", {}).get("ema", config.ema))
    check_weights(tensors, meta, config, spec, network)
    report = load_into(network, tensors, config.ckpt_path, dead=spec.dead)
    network.set_train(False)
    return network, report, meta.get("classes", [])


def freeze_body(network: nn.Cell) -> None:
    """Let nothing be trained but the head."""
    for parameter in network.get_parameters():
        parameter.requires_grad = parameter.requires_grad and bool(HEAD.search(parameter.name))


def build_step(config: Config, spec: ModelSpec, network: nn.Cell, lr: np.ndarray, runtime: Runtime) -> TrainStep:
    """Assemble loss, optimizer and training step."""
    optimizer = build_optimizer(config, spec, network, lr)
    loss = ReconstructionLoss(network) if config.task == "pretrain" else ClassifierLoss(network, build_loss(config))
    return TrainStep(loss, network, optimizer,
                     accumulation_steps=config.accumulation_steps, loss_scale=config.loss_scale,
                     dynamic_loss_scale=config.dynamic_loss_scale, scale_window=config.loss_scale_window,
                     clip_norm=config.clip_value if config.clip_grad else None,
                     ema_decay=config.ema_decay if config.ema else None, world_size=runtime.world_size,
                     mean_over_ranks=config.gradients_mean)


def _callbacks(config: Config, spec: ModelSpec, samples: Samples, eval_samples: Samples | None, step: TrainStep,
               state: TrainingState, folder: RunFolder, runtime: Runtime, lines: LogLines,
               micro_batches: int, start_epoch: int) -> list[Callback]:
    """Return what happens around the steps, in the order in which it happens."""
    title = f"{spec.display_name(config.model)} on {samples.name}"
    found = [EpochRecord(state, step, micro_batches, runtime), SharedStatistics(step, runtime),
             StopOnBadLoss(step, config.log_interval, config.drop_overflow_update)]
    if runtime.is_main:
        found.append(ProgressBar(state, lines.logger, micro_batches, config.log_interval, start_epoch))
    found += [ReadErrors(samples, lines.logger), EpochLog(state, lines)]
    if eval_samples is not None:
        evaluate_now = _evaluation(config, eval_samples, step.network, runtime)
        found.append(Evaluation(state, step, evaluate_now, lines, config.eval_interval, config.eval_offset))
    if runtime.is_main and config.sample_every and spec.draw_samples:
        def draw(path: Path) -> None:
            spec.draw_samples(config, step.network, samples, path)

        found.append(Pictures(state, step, folder.folder, config.sample_every, draw))
    if runtime.is_main and config.save_checkpoint:
        contents = _contents(config, spec, samples.classes, step, state, runtime)
        found.append(Saving(state, folder, config.save_checkpoint_epochs, contents, lines))
    found.append(History(state, folder.folder, lines, title, write=runtime.is_main))
    if config.open_profiler:
        found.append(Profile(folder.folder / f"profile_rank_{runtime.rank}"))
    return found


def _contents(config: Config, spec: ModelSpec, classes: list[str], step: TrainStep, state: TrainingState,
              runtime: Runtime) -> Callable[[], tuple[dict, dict]]:
    """Return a function that gives the tensors and the description of a checkpoint at the time of its call."""
    def contents() -> tuple[dict, dict]:
        meta = {"family": spec.name, "model": config.model, "classes": classes, "config": plain(config),
                "epoch": state.epoch, "steps_per_epoch": state.steps_per_epoch, "world_size": runtime.world_size,
                "best": state.best, "best_epoch": state.best_epoch, "mindspore": ms.__version__}
        return training_tensors(step), meta
    return contents


def _evaluation(config: Config, samples: Samples, network: nn.Cell, runtime: Runtime, answers: Answers | None = None
                ) -> Callable[[], Scores]:
    """Return a function that evaluates the network on the evaluation data, and collects its answers if asked to."""
    batches = eval_batches(config, samples, rank=runtime.rank, world_size=runtime.world_size)
    step = EvaluationStep(network) if answers is None else AnsweringStep(network)
    return lambda: evaluate_batches(step, batches, runtime, collect=answers and answers.collect)


def _open_run(config: Config, spec: ModelSpec, runtime: Runtime) -> tuple[logging.Logger, RunFolder]:
    """Make the run's folder and begin its log."""
    run_dir = Path(config.ckpt_save_dir)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"ckpt_save_dir: {run_dir} cannot be made a folder: {error.strerror}.") from error
    set_up(run_dir, runtime.rank, spec.log_style.prefix)
    name = config.prefix or spec.display_name(config.model)
    return get_logger(), RunFolder(run_dir, name, config.keep_checkpoint_max)


def _console(spec: ModelSpec, runtime: Runtime) -> logging.Logger:
    set_up(None, runtime.rank, spec.log_style.prefix)
    return get_logger()


def _count(network: nn.Cell) -> int:
    return sum(int(np.prod(p.shape)) for p in network.trainable_params())
