"""The learning rate of a training, drawn before it begins. Imports no MindSpore."""
from typing import Sequence

import numpy as np

from common.command import whole_number
from common.config.options import Config
from common.dataset.samples import fit_batch, steps_of_epoch
from common.dataset.sources import open_samples
from common.errors import UserError
from common.lr import schedule
from common.pictures.commands import read_command
from common.pictures.figure import Figure, open_figure, quiet_axes, short_number, show_epochs, write_figure
from common.pictures.style import BLUE, GREEN, ORANGE, PURPLE, SHADE

WIDTH, HEIGHT = 8, 4  # inches


def show_schedule(argv: Sequence[str]) -> str:
    """Draw the learning rate of every step of a training; returns its values at the start, the peak and the end.

    Raises:
        UserError: for any mistake in the command line, the configuration or the data.
    """
    about = "Draw the learning rate of a training, step by step."
    own, config = read_command("common.pictures schedule", about, argv, {
        "images": {"type": whole_number(1), "help": "number of training images; default: those of the data set"},
        "steps_per_epoch": {"type": whole_number(1), "help": "optimizer steps of an epoch, in the place of --images"},
        "devices": {"type": whole_number(1), "default": 1, "help": "number of devices, default: %(default)s"}})
    if not own.steps_per_epoch:
        images = own.images or _count_images(config)
        config = fit_batch(config, images, own.devices)
    steps = own.steps_per_epoch or steps_of_epoch(config, images, own.devices)
    global_batch = config.batch_size * config.accumulation_steps * own.devices
    values = schedule(config, steps, global_batch)
    peak = int(values.argmax())
    places = {"start": 0, "peak": peak, "end": len(values) - 1}
    lines = [f"{config.scheduler}: {plural(config.epochs)} of {steps} steps, {global_batch} images in each step"]
    lines += [f"{name:<6} step {step:>8}  epoch {step / steps:>8.2f}  learning rate {values[step]:.6g}"
              for name, step in places.items()]
    path = config.out or "schedule.png"
    write_figure(draw_schedule(config, values, steps, lines[0]), path)
    return "\n".join([*lines, path])


def draw_schedule(config: Config, values: np.ndarray, steps: int, title: str) -> Figure:
    """Draw learning rates over the epochs, with the warm-up and the cool-down behind them.

    Args:
        config: reads epochs, warmup_epochs, cooldown_epochs.
        values: one per optimizer step.
        steps: optimizer steps of an epoch.
        title: the heading.
    """
    figure = open_figure(WIDTH, HEIGHT, title)
    axes = figure.subplots()
    quiet_axes(axes)
    show_epochs(axes, -0.02 * config.epochs, 1.02 * config.epochs)
    axes.set_ylabel("learning rate")
    axes.yaxis.set_major_formatter(short_number)
    axes.plot(np.arange(len(values)) / steps, values, color=BLUE, linewidth=1.8)
    peak, end = int(values.argmax()), len(values) - 1
    places = {end: ("end", PURPLE), 0: ("start", GREEN)} | {peak: ("start and peak" if peak == 0 else "peak", ORANGE)}
    for step, (name, color) in sorted(places.items()):
        axes.plot(step / steps, values[step], "o", color=color, label=f"{name} {values[step]:.3g}", clip_on=False)
    for name, first, last in (
            (f"warm-up, {plural(config.warmup_epochs)}", 0, config.warmup_epochs),
            (f"cool-down, {plural(config.cooldown_epochs)}", config.epochs - config.cooldown_epochs, config.epochs)):
        if last > first:
            axes.axvspan(first, last, color=SHADE, label=name)
    figure.legend(loc="outside lower center", ncols=5, frameon=False)
    return figure


def plural(epochs: float) -> str:
    """Return ``1 epoch`` or ``2.5 epochs``."""
    return f"{epochs:g} epoch{'' if epochs == 1 else 's'}"


def _count_images(config: Config) -> int:
    """Return the number of training images."""
    try:
        return len(open_samples(config, "train"))
    except UserError as error:
        raise UserError(f"{str(error).rstrip('.')}; or give the number of images with --images (ImageNet: 1281167), or "
                        "--steps_per_epoch.") from error
