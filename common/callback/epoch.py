"""What happens around the training steps: one class, one job. They share the ``Run`` and nothing else.

``callbacks`` says which there are and in which order they act.
"""
import sys
import time
from typing import Any, Callable

import numpy as np
from mindspore import Tensor, profiler
from mindspore.train import Callback
from tqdm import tqdm

from common.callback.stop import Interrupted, StopWhenAsked, sinks
from common.callback.tensorboard import EventFiles
from common.config.options import Config
from common.context.ranks import Runtime
from common.errors import UserError
from common.logger import Waiting
from common.metric import Scores
from common.pictures.curves import plot_history
from common.run.card import Card
from common.run.history import HISTORY, write_history
from common.run.training import Run, TrainingState, statistics_of, training_tensors
from common.train_step import MAX_SKIPPED_IN_A_ROW, TrainStep

CURVES = "curves.png"


class EpochRecord(Callback):
    """Measures an epoch: mean loss over all ranks, learning rate, time, images per second, dropped updates."""

    def __init__(self, run: Run, step: TrainStep):
        super().__init__()
        self.run = run
        self.step = step
        self.started = time.time()
        self.steps = 0

    def on_train_epoch_begin(self, run_context):
        state, first = self.run.state, not self.run.state.epoch
        state.epoch = run_context.original_args().cur_epoch_num
        if not (first and state.start_step):
            self.step.loss_sum.set_data(Tensor(0.0, self.step.loss_sum.dtype))
        self.steps = state.steps_per_epoch - first * state.start_step
        self.started = time.time()

    def on_train_epoch_end(self, run_context):
        state, runtime = self.run.state, self.run.runtime
        loss = float(runtime.sum(self.step.loss_sum.asnumpy().reshape(1))[0])
        loss /= self.run.micro_batches * runtime.world_size
        seconds = time.time() - self.started
        applied = int(self.step.optimizer.global_step.asnumpy().reshape(-1)[0])
        state.fps.append(state.global_batch * self.steps / seconds)
        state.row = {"epoch": state.epoch, "loss": loss, "lr": float(state.lr[max(0, min(applied, len(state.lr)) - 1)]),
                     "epoch_time": seconds, "images_per_second": state.fps[-1],
                     "grad_norm": float(self.step.grad_norm.asnumpy()), "skipped": int(self.step.skipped.asnumpy()),
                     "loss_scale": float(self.step.loss_scale.asnumpy())}


class StopOnBadLoss(Callback):
    """Ends a training whose loss is no longer a number; the last checkpoint stays as it was.

    The step itself notes where it happened, because with data sinking Python is asked once per epoch only.
    """

    def __init__(self, config: Config, step: TrainStep):
        super().__init__()
        self.step = step
        self.interval = config.log_interval
        self.allowed_skips = MAX_SKIPPED_IN_A_ROW if config.drop_overflow_update else 0
        self.calls = 0

    def on_train_step_end(self, run_context):
        self.calls += 1
        if self.calls % self.interval == 0:
            self.check()

    def on_train_epoch_end(self, run_context):
        self.check()

    def check(self):
        bad_step = int(self.step.bad_step.asnumpy())
        if bad_step >= 0:
            raise UserError(f"training stopped: the loss was not a finite number at step {bad_step} (counted in "
                            "batches from the start of training); lower lr, turn on clip_grad, or lower amp_level.")
        skipped = int(self.step.skipped_in_row.asnumpy())
        if skipped > self.allowed_skips:
            micro_steps = int(self.step.micro_steps.asnumpy())
            raise UserError(f"training stopped: the gradients of {skipped} update(s) up to step {micro_steps} were "
                            "not finite; lower loss_scale, lr or amp_level, or set drop_overflow_update to skip some.")


class ReadErrors(Callback):
    """Says at the end of an epoch which images could not be read (``on_error: skip``)."""

    def __init__(self, run: Run):
        super().__init__()
        self.run = run

    def on_train_epoch_end(self, run_context):
        self.run.samples.report_errors(self.run.log.logger)


class ProgressBar(Callback):
    """Shows loss, learning rate, images per second and the time left; plain lines where there is no terminal."""

    def __init__(self, run: Run, start_epoch: int = 0):
        super().__init__()
        self.state = run.state
        self.logger = run.log.logger
        self.micro_batches = run.micro_batches
        self.interval = run.config.log_interval
        self.done = start_epoch * self.micro_batches + run.state.start_step * run.config.accumulation_steps
        self.total = self.state.epochs * self.micro_batches
        self.first = self.done
        self.started = self.shown = time.time()
        self.compiling = Waiting("Compiling the training step and taking the first batch")
        self.bar = None
        if sys.stderr.isatty():
            self.bar = tqdm(total=self.total, initial=self.done, unit="batch", dynamic_ncols=True,
                            bar_format="{desc} {percentage:3.0f}%|{bar}| {n}/{total} [{elapsed}<{remaining}{postfix}]")

    def on_train_begin(self, run_context):
        self.compiling.begin()

    def __exit__(self, *error):
        self.compiling.end()

    def on_train_epoch_begin(self, run_context):
        if self.bar is not None:
            self.bar.set_description_str(f"epoch {self.state.epoch}/{self.state.epochs}", refresh=False)

    def on_train_step_end(self, run_context):
        self.compiling.end()
        arguments = run_context.original_args()
        count = self.micro_batches if sinks(run_context) else 1
        self.done += count
        now = time.time()
        if self.bar is not None:
            if now - self.shown > 0.5:
                self.bar.set_postfix_str(self.describe(arguments.net_outputs, now), refresh=False)
                self.shown = now
            self.bar.update(count)
        elif self.done % self.interval == 0 and self.done % self.micro_batches:
            batch = (self.done - 1) % self.micro_batches + 1
            left = (self.total - self.done) * (now - self.started) / (self.done - self.first)
            self.logger.info(f"epoch {self.state.epoch}/{self.state.epochs} batch {batch}/{self.micro_batches} "
                             f"{self.describe(arguments.net_outputs, now)}, ETA {tqdm.format_interval(left)}")

    def describe(self, loss, now: float) -> str:
        updates = self.done * self.state.steps_per_epoch // self.micro_batches
        lr = self.state.lr[max(0, min(updates, len(self.state.lr)) - 1)]
        images = (self.done - self.first) * self.state.global_batch * self.state.steps_per_epoch / self.micro_batches
        return f"loss {float(loss.asnumpy()):.4f}, lr {lr:.3g}, {images / (now - self.started):.0f} images/s"

    def on_train_end(self, run_context):
        if self.bar is not None and self.done >= self.total:
            self.bar.close()


class EpochLog(Callback):
    """Logs the training line of an epoch in the family's style."""

    def __init__(self, run: Run):
        super().__init__()
        self.run = run

    def on_train_epoch_end(self, run_context):
        self.run.log.emit("train_epoch", **epoch_values(self.run.state))


class Evaluation(Callback):
    """Evaluates every ``eval_interval`` epochs, also on one device, with the moving average if there is one.

    An epoch E (from 1) is evaluated when E mod interval == ``eval_offset``; a negative offset stands for epochs mod
    interval, so that the last epoch is one of them (the old model zoo's rule).
    """

    def __init__(self, run: Run, step: TrainStep, evaluate: Callable[..., Scores], stop: StopWhenAsked):
        super().__init__()
        self.run = run
        self.step = step
        self.evaluate = evaluate
        self.stop = stop
        self.interval = run.config.eval_interval
        offset = run.config.eval_offset
        self.offset = (offset if offset >= 0 else run.state.epochs) % self.interval

    def on_train_epoch_end(self, run_context):
        state = self.run.state
        if state.epoch % self.interval != self.offset:
            return
        try:
            with self.step.moving_average():
                scores = self.evaluate(before_batch=self.stop.interrupt)
        except Interrupted:
            self.stop.save_and_leave(state.steps_per_epoch)
        self.step.set_train()
        state.row.update(top1=scores.top1, top5=scores.top5, eval_loss=scores.loss, eval_time=scores.seconds,
                         eval_images=scores.seen)
        ranked = sorted([*state.bests, (scores.top1, state.epoch)], key=lambda one: (-one[0], one[1]))
        state.bests = ranked[:self.run.config.keep_best_max]
        self.run.log.emit("evaluated", **epoch_values(state), **_evaluation_values(state))


class Pictures(Callback):
    """Has the model draw a picture every ``sample_every`` epochs and after the last one: ``samples_EPOCH.png``.

    It shows the moving average of the weights if there is one.
    """

    def __init__(self, run: Run, step: TrainStep):
        super().__init__()
        self.run = run
        self.step = step

    def on_train_epoch_end(self, run_context):
        run, state = self.run, self.run.state
        if state.epoch % run.config.sample_every and state.epoch != state.epochs:
            return
        self.step.set_train(False)
        with self.step.moving_average():
            path = run.file(f"samples_{state.epoch:04d}.png")
            run.spec.draw_samples(run.config, self.step.network, run.samples, path)
        self.step.set_train()


class Saving(Callback):
    """Writes the checkpoint of an epoch, and the best ones."""

    def __init__(self, run: Run, step: TrainStep):
        super().__init__()
        self.run = run
        self.step = step

    def on_train_epoch_end(self, run_context):
        run, state, path = self.run, self.run.state, None
        due = state.epoch % run.config.save_checkpoint_epochs == 0 or state.epoch == state.epochs
        bests = [epoch for _, epoch in state.bests]
        if not due:  # one that was saved when this epoch's evaluation was stopped has done its work
            run.folder.path_of(state.epoch, state.steps_per_epoch).unlink(missing_ok=True)
        if not due and state.epoch not in bests:
            return
        tensors, meta = training_tensors(self.step), run.description()
        if due:
            path = run.folder.save(state.epoch, state.steps_per_epoch, tensors, meta)
            run.log.emit("saved", path=path)
        if state.epoch in bests:
            run.folder.save_best(tensors, meta, bests, same_as=path)


class History(Callback):
    """Adds the epoch's record to ``history.jsonl``, draws the curves, and logs the epoch's last line."""

    def __init__(self, run: Run):
        super().__init__()
        self.run = run
        self.drawn = time.monotonic()

    def on_train_epoch_end(self, run_context):
        run, state = self.run, self.run.state
        state.history.append(state.row)
        if run.runtime.is_main:
            run.folder.lock.check()
            write_history(run.file(HISTORY), state.history)
            if time.monotonic() - self.drawn > 60 or state.epoch == state.epochs:
                draw_curves(run)
                self.drawn = time.monotonic()
        evaluated = "top1" in state.row
        part = run.log.style.evaluated_part.format(**_evaluation_values(state)) if evaluated else ""
        eval_time = state.row.get("eval_time", 0.0)
        total = state.row["epoch_time"] + eval_time
        run.log.emit("epoch_total", **epoch_values(state), evaluated_part=part, eval_time=eval_time,
                     train_time=state.row["epoch_time"], total_time=total, eta=total * (state.epochs - state.epoch))


def draw_all_curves(run: Run) -> None:
    """Draw the curves of a run that is complete: it may have been killed before it did."""
    draw_curves(run)
    if run.config.tensorboard:
        EventFiles(run).write()


def draw_curves(run: Run) -> None:
    """Draw ``curves.png`` from the records of the run."""
    title = f"{run.spec.name_of(vars(run.config))} on {run.samples.name}"
    plot_history(run.state.history, run.file(CURVES), title)


class CardOfRun(Callback):
    """Writes the card of the run again after every epoch."""

    def __init__(self, card: Card):
        super().__init__()
        self.card = card

    def on_train_epoch_end(self, run_context):
        self.card.write()


class Profile(Callback):
    """Records a profile of the run with the framework's profiler (``open_profiler``)."""

    def __init__(self, run: Run):
        super().__init__()
        self.folder = run.file(f"profile_rank_{run.runtime.rank}")
        self.profiler = None

    def on_train_begin(self, run_context):
        if self.profiler is not None:
            self.profiler.stop()
        self.profiler = profiler.profile(on_trace_ready=profiler.tensorboard_trace_handler(str(self.folder)))
        self.profiler.start()

    def on_train_step_end(self, run_context):
        self.profiler.step()

    def on_train_end(self, run_context):
        self.profiler.stop()


def callbacks(run: Run, step: TrainStep, evaluate: Callable[..., Scores] | None, start_epoch: int,
              card: Card | None = None) -> list[Callback]:
    """Return what happens around the steps of a training, in the order in which it happens.

    Args:
        run: the training.
        step: its step.
        evaluate: evaluates the network, and calls its argument before every batch; ``None``: there is no evaluation.
        start_epoch: epochs that are done already.
        card: the card of the run, on rank 0.
    """
    config, is_main = run.config, run.runtime.is_main
    found = [EpochRecord(run, step), SharedStatistics(step, run.runtime), StopOnBadLoss(config, step)]
    if is_main:
        found.append(ProgressBar(run, start_epoch))
    stop = StopWhenAsked(run, step)
    found += [ReadErrors(run), EpochLog(run)]
    if evaluate is not None:
        found.append(Evaluation(run, step, evaluate, stop))
    if is_main and run.spec.draw_samples and config.sample_every:
        found.append(Pictures(run, step))
    if is_main and config.save_checkpoint:
        found.append(Saving(run, step))
    found.append(History(run))
    if is_main and config.tensorboard:
        found.append(EventFiles(run))
    if card is not None:
        found.append(CardOfRun(card))
    found.append(stop)
    if config.open_profiler:
        found.append(Profile(run))
    return found


def epoch_values(state: TrainingState) -> dict[str, Any]:
    """The values that templates of an epoch may use."""
    row = state.row
    return {"epoch": state.epoch, "epoch0": state.epoch - 1, "epochs": state.epochs, "steps": state.steps_per_epoch,
            "loss": row["loss"], "lr": row["lr"], "epoch_time": row["epoch_time"], "fps": row["images_per_second"],
            "step_time": row["epoch_time"] / state.steps_per_epoch}


def _evaluation_values(state: TrainingState) -> dict[str, Any]:
    return {name: state.row[name] for name in ("top1", "top5", "eval_loss", "eval_time")}


class SharedStatistics(Callback):
    """Gives every rank the average of the ranks' running statistics at the end of an epoch.

    Of the variances too, as is customary: they are those within a batch of one rank, by which the network was trained.
    """

    def __init__(self, step: TrainStep, runtime: Runtime):
        super().__init__()
        self.statistics = statistics_of(step.get_parameters())
        self.runtime = runtime

    def on_train_epoch_end(self, run_context):
        if not self.statistics or self.runtime.world_size == 1:
            return
        values = np.concatenate([parameter.asnumpy().reshape(-1) for parameter in self.statistics])
        values = (self.runtime.sum(values) / self.runtime.world_size).astype(np.float32)
        ends = np.cumsum([parameter.size for parameter in self.statistics])
        for parameter, value in zip(self.statistics, np.split(values, ends[:-1])):
            parameter.set_data(Tensor(value.reshape(parameter.shape), parameter.dtype))
