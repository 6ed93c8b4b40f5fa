"""The learning rate of a training, drawn before it begins. Imports no MindSpore."""
from typing import Sequence

import numpy as np
from PIL import Image

from common.config.options import Config
from common.dataset.samples import count_steps
from common.dataset.sources import open_samples
from common.errors import UserError
from common.lr import schedule
from common.pictures.chart import BLUE, GREEN, ORANGE, PURPLE, Curve, Panel, Span, draw_panels
from common.pictures.commands import read_command, whole_number
from common.pictures.text import write_picture

PICTURE, DRAWN_STEPS = (920, 400), 1600  # pixels of the schedule's picture; longer schedules are thinned out


def show_schedule(argv: Sequence[str]) -> str:
    """Draw the learning rate of every step of a training; returns its values at the start, the peak and the end.

    Raises:
        UserError: for any mistake in the command line, the configuration or the data.
    """
    own, config = read_command("common.pictures schedule", "Draw the learning rate of a training, step by step.", argv, {
        "images": {"type": whole_number(1), "help": "number of training images; default: those of the data set"},
        "steps_per_epoch": {"type": whole_number(1), "help": "optimizer steps of an epoch, in the place of --images"},
        "devices": {"type": whole_number(1), "default": 1, "help": "number of devices, default: %(default)s"}})
    steps = own.steps_per_epoch or count_steps(config, own.images or _count_images(config), own.devices)
    global_batch = config.batch_size * config.accumulation_steps * own.devices
    values = schedule(config, steps, global_batch)
    peak = int(values.argmax())
    places = {"start": 0, "peak": peak, "end": len(values) - 1}
    lines = [f"{config.scheduler}: {config.epochs} epoch{'s' if config.epochs > 1 else ''} of {steps} steps, {global_batch} "
             "images in each step"]
    lines += [f"{name:<6} step {step:>8}  epoch {step / steps:>8.2f}  learning rate {values[step]:.6g}"
              for name, step in places.items()]
    path = config.out or "schedule.png"
    write_picture(draw_schedule(config, values, steps, lines[0]), path)
    return "\n".join([*lines, path])


def draw_schedule(config: Config, values: np.ndarray, steps: int, title: str) -> Image.Image:
    """Draw learning rates over the epochs, with the warm-up and the cool-down behind them.

    Args:
        config: reads epochs, warmup_epochs, cooldown_epochs.
        values: one per optimizer step.
        steps: optimizer steps of an epoch.
        title: the heading.

    Returns:
        An RGB image.
    """
    shown = np.arange(len(values))
    if len(values) > DRAWN_STEPS:  # the first and the last step of every stretch, and the peak
        edges = np.linspace(0, len(values), DRAWN_STEPS // 2 + 1).astype(int)
        shown = np.unique(np.concatenate([edges[:-1], edges[1:] - 1, [values.argmax()]]))
    curve = Curve("learning rate", tuple((step / steps, float(values[step])) for step in shown.tolist()), BLUE, whole=True,
                  marked=False)
    peak, end = int(values.argmax()), len(values) - 1
    places = {step: (name, color) for name, step, color in (
        ("end", end, PURPLE), ("start", 0, GREEN), ("start and peak" if peak == 0 else "peak", peak, ORANGE))}
    dots = [Curve(f"{name} {values[step]:.3g}", ((step / steps, float(values[step])),), color)
            for step, (name, color) in sorted(places.items())]
    spans = [Span(name, (first, last)) for name, first, last in (
        (f"warm-up, {config.warmup_epochs:g} epochs", 0, config.warmup_epochs),
        (f"cool-down, {config.cooldown_epochs:g} epochs", config.epochs - config.cooldown_epochs, config.epochs))
        if last > first]
    panel = Panel("Learning rate", (curve, *dots), (0, config.epochs), spans=tuple(spans))
    return draw_panels([panel], title, [*dots, *spans], PICTURE)


def _count_images(config: Config) -> int:
    """Return the number of training images."""
    try:
        return len(open_samples(config, "train"))
    except UserError as error:
        raise UserError(f"{str(error).rstrip('.')}; or give the number of images with --images (ImageNet: 1281167), or "
                        "--steps_per_epoch.") from error
