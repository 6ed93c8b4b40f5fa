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
from mindspore.train import Model

from common import callback, checkpoint, config as config_module, dataset, readers
from common.config import Config
from common.context import Runtime, start
from common.errors import UserError
from common.layers import apply_precision, seed_random_states
from common.logger import get_logger, set_up
from common.loss import build_loss
from common.lr import schedule
from common.metric import EvaluationStep, Scores, evaluate as evaluate_batches
from common.optimizer import build_optimizer
from common.spec import ModelSpec
from common.train_step import ClassifierLoss, TrainStep

# Keys that a resumed run cannot change, because the position in the data, or a tensor of the optimizer, depends on them.
FIXED = ("model", "num_classes", "in_channels", "batch_size", "accumulation_steps", "opt", "ema", "seed")
# Keys that are about this machine or this call, and may change silently when a run continues.
FREE = ("task", "device_id", "device_target", "num_workers", "eval_num_workers", "eval_batch_size", "log_interval",
        "ckpt_save_dir", "ckpt_path", "resume", "keep_checkpoint_max", "data_dir", "eval_dir", "num_threads", "mode",
        "dataset_sink_mode", "sink_size", "open_profiler", "save_checkpoint_epochs", "download")


def train(config: Config, spec: ModelSpec) -> callback.TrainingState:
    """Train a classifier, or continue a training; everything that lasts is in ``config.ckpt_save_dir``.

    Raises:
        UserError: for any mistake in the configuration, the data or the checkpoints.
    """
    runtime = start(config)
    logger, run_dir = _open_run(config, spec, runtime)

    samples = readers.open_samples(config, "train")
    config = _with_classes(config, samples)
    folder = checkpoint.RunFolder(run_dir, config.prefix or spec.display_name(config.model), config.keep_checkpoint_max)
    global_batch = config.batch_size * config.accumulation_steps * runtime.world_size
    steps_per_epoch = dataset.steps_per_epoch(config, len(samples), runtime.world_size)
    lr = schedule(config, steps_per_epoch, global_batch)

    network = build_network(config, spec)
    step = build_step(config, spec, network, lr, runtime)
    state = callback.TrainingState(config.epochs, steps_per_epoch, global_batch, lr)
    start_epoch = restore(config, spec, step, state, folder, runtime, logger)
    if start_epoch >= config.epochs:
        logger.info(f"The training in {run_dir} is complete ({start_epoch} of {config.epochs} epochs); raise --epochs "
                    "to go on, or choose another --ckpt_save_dir to start again.")
        return state
    batches = dataset.train_batches(config, samples, rank=runtime.rank, world_size=runtime.world_size,
                                    start_epoch=start_epoch)
    micro_batches = batches.get_dataset_size()
    evaluate_now = _evaluation(config, samples, network, runtime) if config.val_while_train else None
    if runtime.is_main:
        config_module.save(config, run_dir / "config.yaml")
        readers.save_classes(samples, run_dir / "classes.json")
        callback.keep_history(run_dir / "history.jsonl", start_epoch)
    logger.info(f"{spec.display_name(config.model)}: {_millions(network)} parameters, {len(samples)} training images, "
                f"{len(samples.classes)} classes, {steps_per_epoch} steps of {global_batch} images per epoch, "
                f"{runtime.world_size} x {runtime.device}, results in {run_dir}")

    lines = callback.LogLines(spec.log_style, logger)
    callbacks = [callback.EpochRecord(state, step, micro_batches),
                 callback.StopOnBadLoss(step, config.log_interval, config.drop_overflow_update),
                 callback.EpochLog(state, lines)]
    if runtime.is_main:
        callbacks.insert(2, callback.ProgressBar(state, logger, micro_batches, config.log_interval, start_epoch))
    if evaluate_now is not None:
        callbacks.append(callback.Evaluation(state, step, evaluate_now, lines, config.eval_interval,
                                             config.eval_offset))
    if runtime.is_main and config.save_checkpoint:
        contents = _contents(config, spec, samples.classes, step, state, runtime)
        callbacks.append(callback.Saving(state, folder, config.save_checkpoint_epochs, contents, lines))
    callbacks.append(callback.History(state, run_dir, lines, f"{spec.display_name(config.model)} on {samples.name}",
                                      write=runtime.is_main))
    if config.open_profiler:
        callbacks.append(callback.Profile(run_dir / f"profile_rank_{runtime.rank}"))
    Model(step).train(config.epochs, batches, callbacks, dataset_sink_mode=config.dataset_sink_mode,
                      sink_size=config.sink_size or -1, initial_epoch=start_epoch)

    samples.report_errors(logger)
    lines.emit("finished", train_time=time.time() - state.started, host=socket.gethostname(),
               mean_fps=float(np.mean(state.fps)))
    if state.best_epoch:
        lines.emit("best", best=state.best, best_epoch=state.best_epoch)
    return state


def evaluate(config: Config, spec: ModelSpec) -> Scores:
    """Evaluate the checkpoint ``config.ckpt_path`` on the evaluation data; exact for any batch size and rank count."""
    runtime = start(config)
    logger = _console(spec, runtime)
    samples = readers.open_samples(config, "eval")
    config = _with_classes(config, samples)
    network, report = load_network(config, spec)
    logger.info(f"{spec.display_name(config.model)} from {config.ckpt_path}: {report.summary()}; {len(samples)} images,"
                f" {len(samples.classes)} classes")
    scores = _evaluation(config, samples, network, runtime, eval_samples=samples)()
    samples.report_errors(logger)
    if scores.top1 * len(samples.classes) < 2 and scores.seen >= 10 * len(samples.classes) > 20:
        logger.warning("The accuracy is that of a guess. The classes may be numbered differently from the training: "
                       "folders are numbered in alphabetical order.")
    lines = spec.log_style.evaluation.format(
        top1=scores.top1, top5=scores.top5, loss=scores.loss, seen=scores.seen, total_time=scores.seconds,
        step_time=scores.seconds / max(1, scores.steps))
    if runtime.is_main:
        print(lines)
    return scores


def build_network(config: Config, spec: ModelSpec) -> nn.Cell:
    """Build the network of a configuration at its precision."""
    network = spec.build(config.model, num_classes=config.num_classes, image_size=config.image_size,
                         in_channels=config.in_channels, drop_path_rate=config.drop_path_rate,
                         **config_module.network_arguments(config))
    return apply_precision(network, config.amp_level)


def load_network(config: Config, spec: ModelSpec) -> tuple[nn.Cell, checkpoint.LoadReport]:
    """Build the network of a configuration and fill it from ``config.ckpt_path``, in evaluation mode.

    Raises:
        UserError: if there is no checkpoint, or it does not fit; a network with random weights is never returned.
    """
    if not config.ckpt_path:
        raise UserError("ckpt_path: name the checkpoint to use (--ckpt_path FILE.ckpt).")
    tensors, meta = checkpoint.load(config.ckpt_path)
    check_family(meta, config, spec)
    network = build_network(config, spec)
    tensors = checkpoint.network_tensors(tensors, ema=meta.get("config", {}).get("ema", config.ema))
    report = checkpoint.load_into(network, tensors, config.ckpt_path)
    network.set_train(False)
    return network, report


def build_step(config: Config, spec: ModelSpec, network: nn.Cell, lr: np.ndarray, runtime: Runtime) -> TrainStep:
    """Assemble loss, optimizer and training step."""
    optimizer = build_optimizer(config, spec, network, lr)
    return TrainStep(ClassifierLoss(network, build_loss(config)), network, optimizer,
                     accumulation_steps=config.accumulation_steps, loss_scale=config.loss_scale,
                     dynamic_loss_scale=config.dynamic_loss_scale, scale_window=config.loss_scale_window,
                     clip_norm=config.clip_value if config.clip_grad else None,
                     ema_decay=config.ema_decay if config.ema else None, world_size=runtime.world_size)


def restore(config: Config, spec: ModelSpec, step: TrainStep, state: callback.TrainingState,
            folder: checkpoint.RunFolder, runtime: Runtime, logger: logging.Logger) -> int:
    """Fill the training step, in this order of preference, and say which.

    The newest whole checkpoint of the run folder, else ``resume``, else the weights of ``ckpt_path``, else the initial
    values.

    Returns:
        The number of epochs that are done.
    """
    found = folder.newest()
    if found is None and config.resume:
        found = (Path(config.resume), *checkpoint.load(config.resume), [])
    epoch = 0
    if found is not None:
        path, tensors, meta, problems = found
        for problem in problems:
            logger.warning(f"{problem} The one before it is used.")
        check_family(meta, config, spec)
        _check_continuation(path, meta, config, state, runtime, logger)
        _restore_step(step, tensors, path)
        epoch = meta["epoch"]
        state.best, state.best_epoch = meta["best"], meta["best_epoch"]
        logger.info(f"Continuing after epoch {epoch} from {path}")
    elif config.ckpt_path:
        tensors, meta = checkpoint.load(config.ckpt_path)
        weights = checkpoint.network_tensors(tensors, ema=meta.get("config", {}).get("ema", False))
        report = checkpoint.load_into(step.network, weights, config.ckpt_path, new_head=True)
        if step.ema_decay is not None:
            for average, weight in zip(step.ema, step.averaged):
                average.set_data(weight.value())
        logger.info(f"Starting from the weights of {config.ckpt_path}: {report.summary()}")
    else:
        logger.info("Starting from scratch")
    seed_random_states(step.network, config.seed + runtime.rank, int(step.micro_steps.asnumpy()))
    return epoch


def check_family(meta: dict[str, Any], config: Config, spec: ModelSpec) -> None:
    """Refuse a checkpoint that says it holds another model.

    Raises:
        UserError: naming both.
    """
    held, wanted = (meta.get("family"), meta.get("model")), (spec.name, config.model)
    if held[0] and held != wanted:
        raise UserError(f"the checkpoint holds {held[1]} (a {held[0]} model), but the configuration asks for "
                        f"{wanted[1]}; give --model {held[1]} or another checkpoint.")


def _check_continuation(path: Path, meta: dict, config: Config, state: callback.TrainingState, runtime: Runtime,
                        logger: logging.Logger) -> None:
    """Refuse changes that a continued run cannot follow, and name those that it can."""
    if "epoch" not in meta:
        raise UserError(f"resume: {path} holds weights only, not the state of a training; use --ckpt_path to start "
                        "from its weights.")
    before, now = meta["config"], _plain(config)
    changed = {key: (before[key], now[key]) for key in before if key in now and before[key] != now[key]}
    for key, (old, new) in (("world_size", (meta["world_size"], runtime.world_size)),
                            ("steps_per_epoch", (meta["steps_per_epoch"], state.steps_per_epoch))):
        if old != new:
            changed[key] = (old, new)
    fixed = [key for key in changed if key in FIXED or key in ("world_size", "steps_per_epoch")]
    if fixed:
        what = ", ".join(f"{key} was {changed[key][0]} and is now {changed[key][1]}" for key in fixed)
        raise UserError(f"{path} cannot be continued: {what}; choose another --ckpt_save_dir, and give --ckpt_path to "
                        "start from its weights.")
    free = [f"{key} {old} -> {new}" for key, (old, new) in changed.items() if key not in FREE]
    if free:
        logger.warning(f"Changed since the run was begun: {', '.join(free)}")


def _restore_step(step: TrainStep, tensors: dict[str, np.ndarray], path: Path) -> None:
    """Fill weights, optimizer, average and counters; all or nothing."""
    state = training_tensors(step)
    wrong = [name for name, parameter in state.items()
             if name not in tensors or tuple(tensors[name].shape) != tuple(parameter.shape)]
    if wrong:
        raise UserError(f"{path} cannot be continued: {len(wrong)} tensors of the training are missing or of another "
                        f"shape ({', '.join(wrong[:4])}).")
    for name, parameter in state.items():
        parameter.set_data(ms.Tensor(tensors[name], parameter.dtype))


def training_tensors(step: TrainStep) -> dict[str, ms.Parameter]:
    """Everything that a continued run needs: weights, optimizer, moving average, counters, loss scale.

    Left out: what follows from the configuration or the counters (learning rates, random states), and the sums over
    micro-batches, which are zero at the end of an epoch.
    """
    return {p.name: p for p in step.get_parameters()
            if not p.name.endswith("random_state") and not p.name.startswith(("sum.", "learning_rate"))}


def _with_classes(config: Config, samples: readers.Samples) -> Config:
    """Check the number of classes against the data, or take it from there when the user did not say."""
    if "num_classes" not in config.given:
        config = dataclasses.replace(config, num_classes=len(samples.classes))
    readers.check_classes(samples, config)
    return config


def _contents(config: Config, spec: ModelSpec, classes: list[str], step: TrainStep, state: callback.TrainingState,
              runtime: Runtime) -> Callable[[], tuple[dict, dict]]:
    """Return a function that gives the tensors and the description of a checkpoint at the time of its call."""
    def contents() -> tuple[dict, dict]:
        meta = {"family": spec.name, "model": config.model, "classes": classes, "config": _plain(config),
                "epoch": state.epoch, "steps_per_epoch": state.steps_per_epoch, "world_size": runtime.world_size,
                "best": state.best, "best_epoch": state.best_epoch, "mindspore": ms.__version__}
        return training_tensors(step), meta
    return contents


def _evaluation(config: Config, train_samples, network: nn.Cell, runtime: Runtime, eval_samples=None
                ) -> Callable[[], Scores]:
    """Return a function that evaluates the network on the evaluation data."""
    samples = eval_samples or readers.open_samples(config, "eval")
    if list(samples.classes) != list(train_samples.classes):
        raise UserError(f"eval_dir: the evaluation data has {len(samples.classes)} classes and the training data "
                        f"{len(train_samples.classes)}, or they have other names; both need the same folders.")
    batches = dataset.eval_batches(config, samples, rank=runtime.rank, world_size=runtime.world_size)
    step = EvaluationStep(network)
    return lambda: evaluate_batches(step, batches, runtime)


def _open_run(config: Config, spec: ModelSpec, runtime: Runtime) -> tuple[logging.Logger, Path]:
    run_dir = Path(config.ckpt_save_dir)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"ckpt_save_dir: {run_dir} cannot be made a folder: {error.strerror}.") from error
    set_up(run_dir, runtime.rank, spec.log_style.prefix)
    return get_logger(), run_dir


def _console(spec: ModelSpec, runtime: Runtime) -> logging.Logger:
    set_up(None, runtime.rank, spec.log_style.prefix)
    return get_logger()


def _plain(config: Config) -> dict[str, Any]:
    """The configuration as JSON values: tuples become lists."""
    return {f.name: list(v) if isinstance(v := getattr(config, f.name), tuple) else v
            for f in dataclasses.fields(config) if f.name != "given"}


def _millions(network: nn.Cell) -> str:
    return f"{sum(int(np.prod(p.shape)) for p in network.trainable_params()):,}"
