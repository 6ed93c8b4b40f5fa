"""Where a training begins: at its newest checkpoint, at that of another run, at given weights, or from scratch."""

from pathlib import Path

import mindspore as ms
import numpy as np

from common.checkpoint.file import load_checkpoint
from common.checkpoint.run_folder import Found
from common.checkpoint.weights import LoadReport, load_into, network_tensors
from common.config.options import Config
from common.errors import UserError
from common.layers.drop_path import seed_random_states
from common.network import check_family, check_weights
from common.run.history import HISTORY, read_history, write_history
from common.run.training import Run, plain, tensors_of_ranks, together, training_tensors
from common.spec import ModelSpec
from common.train_step import TrainStep

# Keys that a resumed run cannot change: the position in the data, or a tensor of the optimizer, depends on them.
FIXED = ("model", "num_classes", "in_channels", "opt", "ema", "seed")
# Keys that may change as long as their product, the images of one optimizer step, does not.
FACTORS = ("batch_size", "accumulation_steps", "world_size")
# Keys that are about this machine or this call, and may change silently when a run continues.
FREE = ("task", "device_id", "device_target", "num_workers", "eval_num_workers", "eval_batch_size", "log_interval",
        "ckpt_save_dir", "ckpt_path", "resume", "keep_checkpoint_max", "keep_best_max", "data_dir", "eval_dir",
        "num_threads", "mode", "dataset_sink_mode", "sink_size", "open_profiler", "save_checkpoint_epochs",
        "save_checkpoint_steps", "download", "allow_tf32", "jit_level", "deterministic", "max_device_memory",
        "recompute", "fused_attention", "allreduce_buckets", "tensorboard", "logger_name", "graph_kernel",
        "compile_cache")


def restore(run: Run, step: TrainStep) -> tuple[int, int]:
    """Fill the training step, in this order of preference, and say which.

    The newest whole checkpoint of the run folder, else ``resume``, else the weights of ``ckpt_path``, else the initial
    values.

    Returns:
        The number of epochs that are done, and of optimizer steps that are done of the next one.
    """
    config, state, logger = run.config, run.state, run.log.logger
    found = find_checkpoint(run)
    epoch = done = 0
    if found is not None:
        path, tensors, meta, problems = found
        for problem in problems:
            logger.warning(f"{problem} The one before it is used.")
        check_family(meta, config, run.spec)
        _check_continuation(run, path, meta)
        _restore_step(step, tensors, path)
        epoch, done = meta["epoch"], meta.get("step", 0)
        if done:
            _restore_ranks(run, step, tensors, meta)
        batches = (epoch * state.steps_per_epoch + done) * config.accumulation_steps  # other ranks, other accumulation
        step.micro_steps.set_data(ms.Tensor(batches, ms.int32))
        bests = meta.get("bests", [(meta["best"], meta["best_epoch"])])  # earlier versions kept one
        state.bests = [(top1, epoch) for top1, epoch in bests[:config.keep_best_max] if epoch]
        logger.info(f"Continuing after epoch {epoch}{f' and {done} steps of the next' if done else ''} from {path}")
        if run.runtime.is_main and config.save_checkpoint:
            for sentence in run.folder.mend_best([epoch for _, epoch in state.bests], path) if state.best_epoch else ():
                logger.warning(sentence)
            run.folder.remove_before(path)  # a kill may have come before that
    elif config.ckpt_path:
        report = _load_weights(config, run.spec, step)
        if step.ema_decay is not None:
            for average, weight in zip(step.ema, step.averaged):
                average.set_data(weight.value())
        for line in (f"Starting from the weights of {config.ckpt_path}", *report.lines()):
            logger.info(line)
    else:
        logger.info("Starting from scratch")
    if run.runtime.is_main:
        _restore_history(run, epoch, found)
    seed_random_states(step.network, config.seed + run.runtime.rank, int(step.micro_steps.asnumpy()))
    state.start_step = done
    return epoch, done


def find_checkpoint(run: Run) -> Found | None:
    """Read the checkpoint to continue from, the same on all ranks: they have to see the same folder.

    Raises:
        UserError: on all ranks, if one of them cannot read it or would take another one.
    """
    def read() -> Found | None:
        found = run.folder.newest()
        if found is None and run.config.resume:
            found = Found(Path(run.config.resume), *load_checkpoint(run.config.resume), [])
        return found

    found = together(run.runtime, read)
    position = np.array([found.meta.get(key, 0) if found else -1 for key in ("epoch", "step")], np.float64)
    first = run.runtime.sum(position if run.runtime.is_main else np.zeros(2))

    def compare() -> None:
        if (position != first).any():
            raise UserError(f"ckpt_save_dir: rank 0 continues from {_position(*first)}, but rank {run.runtime.rank} "
                            f"from {_position(*position)} in {run.folder.folder}; all ranks need the same folder, on "
                            "storage that they share.")

    together(run.runtime, compare)
    return found


def _position(epoch: float, step: float) -> str:
    return "the beginning" if epoch < 0 else f"epoch {epoch:g}" + (f", step {step:g} of the next" if step else "")


def _restore_ranks(run: Run, step: TrainStep, tensors: dict[str, np.ndarray], meta: dict) -> None:
    """Inside an epoch, give this rank what was its own; of another number of ranks, all get the mean."""
    before, rank = meta["world_size"], run.runtime.rank
    for parameter in tensors_of_ranks(step):
        rows = tensors.get(f"ranks.{parameter.name}", tensors[parameter.name][None])
        same = before == run.runtime.world_size
        value = rows[rank if len(rows) > 1 else 0] if same else rows.mean(0)
        if parameter is step.loss_sum:  # as many batches as this rank would have seen
            value = value * np.float32(run.config.accumulation_steps / meta["config"]["accumulation_steps"])
        parameter.set_data(ms.Tensor(value, parameter.dtype))


def _restore_history(run: Run, epoch: int, found: Found | None) -> None:
    """Cut ``history.jsonl`` back to the epochs that are done, and add the last one if its line was not written."""
    file = run.file(HISTORY)
    rows = {row["epoch"]: row for row in (read_history(file) if file.is_file() else ()) if row["epoch"] <= epoch}
    if found and found.path.parent == run.folder.folder and (row := found.meta.get("row")) and row["epoch"] == epoch:
        rows.setdefault(epoch, row)
    run.state.history = [rows[number] for number in sorted(rows)]
    write_history(file, run.state.history)


def _load_weights(config: Config, spec: ModelSpec, step: TrainStep) -> LoadReport:
    """Begin with the weights of ``config.ckpt_path``, fitted to the network if the model says how."""
    tensors, meta = load_checkpoint(config.ckpt_path)
    weights = network_tensors(tensors, ema=meta.get("config", {}).get("ema", False))
    check_weights(weights, meta, config, spec, step.network)
    fitted, new = spec.fit(weights, step.network) if spec.fit else (weights, [])
    report = load_into(step.network, fitted, config.ckpt_path, new_head=True, new=new, dead=spec.dead)
    report.resized = [name for name in report.matched if fitted[name].shape != weights[name].shape]
    report.left_out = [name for name in weights if name not in {*report.matched, *report.dead}]
    return report


def _check_continuation(run: Run, path: Path, meta: dict) -> None:
    """Refuse changes that a continued run cannot follow, and name those that it can."""
    config, state, world_size = run.config, run.state, run.runtime.world_size
    if "epoch" not in meta:
        raise UserError(f"resume: {path} holds weights only, not the state of a training; use --ckpt_path to start "
                        "from its weights.")
    before, now = meta["config"], plain(config)
    changed = {key: (before[key], now[key]) for key in before if key in now and before[key] != now[key]}
    for key, (old, new) in (("world_size", (meta["world_size"], world_size)),
                            ("steps_per_epoch", (meta["steps_per_epoch"], state.steps_per_epoch))):
        if old != new:
            changed[key] = (old, new)
    images = before["batch_size"] * before["accumulation_steps"] * meta["world_size"]
    other_step = images != state.global_batch
    fixed = [key for key in changed if key in FIXED or (key in FACTORS and other_step)]
    if not other_step and "steps_per_epoch" in changed:
        fixed.append("steps_per_epoch")  # other images
    if fixed:
        what = ", ".join(f"{key} was {changed[key][0]} and is now {changed[key][1]}" for key in fixed)
        what += f", so that a step takes {state.global_batch} images instead of {images}" if other_step else ""
        others = config.accumulation_steps * world_size
        keep = f"; --batch_size {images // others} continues it" if other_step and images % others == 0 else ""
        raise UserError(f"{path} cannot be continued: {what}{keep}; or choose another --ckpt_save_dir, and give "
                        "--ckpt_path to start from its weights.")
    free = [f"{key} {old} -> {new}" for key, (old, new) in changed.items() if key not in FREE]
    if free:
        run.log.logger.warning(f"Changed since the run was begun: {', '.join(free)}")


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
