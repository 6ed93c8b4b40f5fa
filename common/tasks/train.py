"""Train, evaluate, export: each as a story that reads from top to bottom. The parts live in the other modules."""

import socket
import time
from pathlib import Path
from typing import Callable

import mindspore as ms
import numpy as np
from mindspore import nn
from mindspore.train import Callback, Model

from common.callback import (EpochLog, EpochRecord, Evaluation, History, Pictures, Profile, ProgressBar, ReadErrors,
                             Saving, SharedStatistics, StopOnBadLoss)
from common.checkpoint.run_folder import RunFolder
from common.checkpoint.weights import HEAD
from common.config.options import Config
from common.config.yaml_file import save_config
from common.context.device import start
from common.context.ranks import Runtime
from common.dataset.batches import train_batches
from common.dataset.classes import check_same_classes, save_classes, with_classes
from common.dataset.samples import Samples, count_steps
from common.dataset.sources import open_samples
from common.logger import LogLines
from common.loss import build_loss
from common.lr import schedule
from common.network import build_network
from common.optimizer.build import build_optimizer
from common.run import TrainingState, keep_history, open_run, plain, training_tensors
from common.spec import ModelSpec
from common.tasks.evaluate import evaluation
from common.tasks.resume import restore
from common.train_step import ClassifierLoss, ReconstructionLoss, TrainStep


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
    steps_per_epoch = count_steps(config, len(samples), runtime.world_size)
    lr = schedule(config, steps_per_epoch, global_batch)

    logger, folder = open_run(config, spec, runtime)
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
        save_config(config, folder.folder / "config.yaml")
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
        evaluate_now = evaluation(config, eval_samples, step.network, runtime)
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


def _count(network: nn.Cell) -> int:
    return sum(int(np.prod(p.shape)) for p in network.trainable_params())
