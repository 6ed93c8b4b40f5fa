"""A training, from top to bottom.

``train`` prepares everything, and ``Model.train`` then takes batch after batch through the step. What happens to a
batch until the weights have changed stands in six files, each of which says at its top what comes before and after:

1. ``common.dataset.batches``: which images make a batch;
2. ``common.augment.pipeline``: what is done to each of them;
3. ``common.augment.mixup``: how the images of a batch are mixed, and what targets their labels become;
4. ``common.train_step``: forward through the model's network, backward, and on to the update;
5. ``common.loss``: from the network's logits and the targets to one number;
6. ``common.optimizer.rules``: from the gradients to the new weights.

What happens around the steps (log, evaluation, checkpoints) is ``common.callback.epoch``.
"""

import functools
import socket
import time
from typing import Callable, Sequence

import numpy as np
from mindspore import amp, nn
from mindspore.dataset import GeneratorDataset
from mindspore.train import Callback, Model

from common.augment.pipeline import sends_bytes, statistics
from common.callback.epoch import callbacks, draw_all_curves
from common.callback.tensorboard import check_tensorboard
from common.checkpoint.weights import HEAD
from common.config.options import Config
from common.config.yaml_file import save_config
from common.context.device import start
from common.context.ranks import Runtime
from common.dataset.batches import train_batches
from common.dataset.classes import check_same_classes, save_classes, with_classes
from common.dataset.samples import fit_batch, steps_of_epoch
from common.dataset.sources import open_samples
from common.loss import build_loss
from common.lr import schedule
from common.network import build_network, compiled_as_wanted
from common.optimizer.build import build_optimizer
from common.run.card import Card
from common.run.training import Run, TrainingState, open_console, open_run
from common.spec import ModelSpec
from common.tasks.evaluate import evaluation
from common.tasks.loop import train_in_the_open
from common.tasks.resume import restore
from common.train_step import ClassifierLoss, FromBytes, ReconstructionLoss, TrainStep

FUSED_FROM = 10**8  # pixels of all images in all epochs: 2,000 images of 224 x 224, 100,000 of 32 x 32


def train(config: Config, spec: ModelSpec, in_the_open: bool = False) -> TrainingState:
    """Train a network, or continue a training; everything that lasts is in ``config.ckpt_save_dir``.

    ``in_the_open``: with a loop of our own (``common.tasks.loop``) instead of the framework's.
    ``pretrain`` is for a masked autoencoder, without labels and evaluation; ``linprobe`` trains the head alone.

    Raises:
        UserError: for any mistake in the configuration, the data or the checkpoints.
    """
    check_tensorboard(config)
    runtime = start(config)
    open_console(config, spec, runtime)
    samples = open_samples(config, "train")
    pretraining = config.task == "pretrain"
    config = config if pretraining else with_classes(config, samples)
    eval_samples = open_samples(config, "eval") if config.val_while_train and not pretraining else None
    if eval_samples is not None:
        check_same_classes(samples, eval_samples)
    config = fit_batch(config, len(samples), runtime.world_size)
    global_batch = config.batch_size * config.accumulation_steps * runtime.world_size
    steps_per_epoch = steps_of_epoch(config, len(samples), runtime.world_size)
    lr = schedule(config, steps_per_epoch, global_batch)

    state = TrainingState(config.epochs, steps_per_epoch, global_batch, lr)
    run = open_run(config, spec, runtime, samples, state)
    logger = run.log.logger
    network = build_network(config, spec, runtime.world_size)
    if config.task == "linprobe":
        freeze_body(network)
    as_bytes = sends_bytes(config, runtime.device)
    step = build_step(config, spec, network, lr, runtime, as_bytes)
    start_epoch, start_step = done = restore(run, step)
    complete = start_epoch >= config.epochs
    card = Card(run, _count(network), eval_samples, None if complete else done) if runtime.is_main else None
    if complete:
        logger.info(f"The training in {run.folder.folder} is complete ({start_epoch} of {config.epochs} epochs); raise "
                    "--epochs to go on, or choose another --ckpt_save_dir to start again.")
        if runtime.is_main:
            draw_all_curves(run)
            card.write()
        return state
    if runtime.is_main:
        card.write()
        save_config(config, run.file("config.yaml"))
        save_classes(samples, run.file("classes.json"))
    logger.info(f"{spec.name_of(vars(config))}: {_count(network):,} parameters, "
                f"{runtime.world_size} x {runtime.device}")
    logger.info(f"{len(samples)} training images" + ("" if pretraining else f" of {len(samples.classes)} classes")
                + f", {steps_per_epoch} steps of {global_batch} images per epoch")
    logger.info(f"Results: {run.folder.folder}")

    evaluate = evaluation(config, eval_samples, network, runtime) if eval_samples is not None else None
    around = callbacks(run, step, evaluate, start_epoch, card)
    data = functools.partial(train_batches, config, samples, rank=runtime.rank, world_size=runtime.world_size,
                             noise_length=network.noise_length if pretraining else 0, as_bytes=as_bytes)
    if start_step:
        finish_epoch(run, step, around, data, start_epoch)
        start_epoch += 1
    if start_epoch < config.epochs and in_the_open:
        train_in_the_open(step, config.epochs, data(start_epoch=start_epoch), around, start_epoch)
    elif start_epoch < config.epochs:
        Model(step).train(config.epochs, data(start_epoch=start_epoch), around, initial_epoch=start_epoch,
                          dataset_sink_mode=config.dataset_sink_mode)  # what is sunk at once is an epoch
    totals = {"train_time": time.time() - state.started, "host": socket.gethostname(),
              "mean_fps": float(np.mean(state.fps))}
    run.log.emit("finished", **totals)
    if state.best_epoch:
        run.log.emit("best", best=state.best, best_epoch=state.best_epoch)
    run.log.emit("closing", **totals)
    return state


def finish_epoch(run: Run, step: TrainStep, around: Sequence[Callback], data: Callable[..., GeneratorDataset],
                 epoch: int) -> None:
    """Train the rest of an epoch (from 0) that an earlier process has begun; perhaps only what follows its steps."""
    state, done = run.state, run.state.start_step
    if done < state.steps_per_epoch:
        rest = data(start_epoch=epoch, start_batch=done * run.config.accumulation_steps)
        Model(step).train(epoch + 1, rest, list(around), dataset_sink_mode=False, initial_epoch=epoch)
        return
    state.epoch = epoch + 1
    for callback in around:
        callback.on_train_epoch_end(None)


def freeze_body(network: nn.Cell) -> None:
    """Let nothing be trained but the head."""
    for parameter in network.get_parameters():
        parameter.requires_grad = parameter.requires_grad and bool(HEAD.search(parameter.name))


def build_step(config: Config, spec: ModelSpec, network: nn.Cell, lr: np.ndarray, runtime: Runtime,
               as_bytes: bool = False) -> TrainStep:
    """Assemble loss, optimizer and training step; ``as_bytes``: of images that are not normalised yet."""
    optimizer = build_optimizer(config, spec, network, lr)
    loss = ReconstructionLoss(network) if config.task == "pretrain" else ClassifierLoss(network, build_loss(config))
    loss = FromBytes(loss, *statistics(config)) if as_bytes else loss
    step = TrainStep(loss, network, optimizer,
                     accumulation_steps=config.accumulation_steps, loss_scale=config.loss_scale,
                     dynamic_loss_scale=config.dynamic_loss_scale, scale_window=config.loss_scale_window,
                     clip_norm=config.clip_value if config.clip_grad else None,
                     ema_decay=config.ema_decay if config.ema else None, world_size=runtime.world_size,
                     mean_over_ranks=config.gradients_mean, allreduce_buckets=config.allreduce_buckets,
                     all_finite=overflow_check(config, runtime.device))
    return compiled_as_wanted(step, config, runtime, fused=fuses_operators(config, spec, len(lr)))


def fuses_operators(config: Config, spec: ModelSpec, updates: int) -> bool:
    """Whether the operators of a training step are to be fused; by itself in trainings of so many pixels that it pays.

    Compiling fused operators took 10 to 30 s longer; per image of 224 x 224 they saved a gMLP-Ti 0.05 s.
    """
    pixels = updates * config.accumulation_steps * config.batch_size * config.image_size ** 2
    return spec.fuses_operators and (pixels >= FUSED_FROM if config.graph_kernel == "auto" else config.graph_kernel)


def overflow_check(config: Config, device: str) -> Callable | None:
    """Return what tells of overflow besides a gradient that is not finite; ``None``: nothing has to.

    Ascend's first generation 910, and a 910B with ``MS_ASCEND_CHECK_OVERFLOW_MODE=SATURATION_MODE``, put the largest
    float16 in the place of infinity, and note it; the framework's function knows on which it runs. With a fixed loss
    scale and ``drop_overflow_update: false`` nobody asks, as in the old zoo: such values go into the weights.
    """
    skips = config.drop_overflow_update or config.dynamic_loss_scale
    return amp.all_finite if device == "Ascend" and config.amp_level != "bf16" and skips else None


def _count(network: nn.Cell) -> int:
    return sum(int(np.prod(p.shape)) for p in network.trainable_params())
