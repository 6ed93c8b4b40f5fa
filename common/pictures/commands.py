"""What a configuration means, drawn before a training: the images that it gets, and its learning rate.

``python -m common.dataset.batches show`` and ``python -m common.lr show`` end here. Imports no MindSpore.
"""
import argparse
import sys
from typing import Any, Iterator, Sequence

import numpy as np
from PIL import Image

from common.pictures.sheet.chart import BLUE, Curve, GREEN, ORANGE, PURPLE, Panel, Span, draw_panels
from common.dataset.batches.classes import names_for
from common.command import Parser
from common.config.load.help import describe
from common.config.load.load import load_any
from common.errors import UserError
from common.lr import schedule
from common.config.load.options import Config
from common.pictures.sheet.sheet import TILE, short_names, with_share
from common.pictures.sheet.curves import image_sheet, write_picture
from common.dataset.batches.sources import open_samples
from common.dataset.batches.samples import Samples, steps_per_epoch, with_classes
from common.augment.pipeline import statistics

COLUMNS = 8
PICTURE, DRAWN_STEPS = (920, 400), 1600  # pixels of the schedule's picture; longer schedules are thinned out


def show_batch(argv: Sequence[str]) -> str:
    """Draw a batch exactly as training or evaluation gets it, with the normalisation undone; returns what to tell.

    Raises:
        UserError: for any mistake in the command line, the configuration or the data.
    """
    own, config = _read("common.dataset.batches", "Draw a batch of images as a training, or its evaluation, gets it.", argv, {
        "split": {"choices": ("train", "eval"), "default": "train", "help": "default: %(default)s"},
        "batch": {"type": _whole(0), "default": 0, "help": "number of the batch, counted from 0 through all epochs"},
        "count": {"type": _whole(1), "default": 32, "help": "most images to draw, default: %(default)s"}})
    from common.dataset.batches.batches import EvalBatches, TrainBatches  # which bring MindSpore

    samples, unlabelled = open_samples(config, own.split), config.task == "pretrain"
    config = config if unlabelled else with_classes(config, samples)
    training = own.split == "train"
    source = (TrainBatches(config, samples, 0, 1, noise_length=int(unlabelled)) if training
              else EvalBatches(config, samples, 0, 1))
    last = len(source) * (config.epochs if training else 1) - 1
    if own.batch > last:
        raise UserError(f"batch: {own.batch} is beyond the last batch, {last}.")
    images, targets = source[own.batch]
    captions = captions_of(targets, samples) if not unlabelled else short_names(
        [samples.where(index) for index in source.indices(*divmod(own.batch, len(source)))])
    copies = len(source.transforms) if training else 1  # of one image, for the Jensen-Shannon loss
    rows = np.arange(len(images)).reshape(copies, -1).T.ravel()  # copies stand side by side
    rows = [int(row) for row in rows if training or targets[row] >= 0]
    shown = rows[:own.count]
    path, epoch = config.out or "batch.png", f", epoch {own.batch // len(source) + 1}" if training else ""
    count = f"{len(shown)} of {len(rows)}" if len(shown) < len(rows) else str(len(shown))
    image_sheet([picture_of(images[row], config) for row in shown], [captions[row] for row in shown], path, COLUMNS,
                TILE, f"{samples.name} ({own.split}): batch {own.batch}{epoch}, {count} images")
    return f"{count} images of batch {own.batch}{epoch}: {path}"


def picture_of(image: np.ndarray, config: Config) -> Image.Image:
    """Undo the normalisation of float32 (C, H, W); what lies beyond black and white is cut."""
    mean, std = (np.array(values, np.float32).reshape(-1, 1, 1) for values in statistics(config))
    pixels = (np.clip(image * std + mean, 0, 1) * 255 + 0.5).astype(np.uint8)
    return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))


def captions_of(targets: np.ndarray, samples: Samples) -> list[str]:
    """Describe class numbers (B,), or soft targets (B, K): the largest share, and the second if it is not smoothing."""
    names = names_for(samples.classes, len(samples.classes))
    if targets.ndim == 1:
        return [names[label] if label >= 0 else "" for label in targets]
    names += [f"class {number}" for number in range(len(names), targets.shape[1])]
    captions = []
    for row in targets:
        order = np.argsort(-row, kind="stable")[:2]
        mixed = len(row) > 1 and row[order[1]] > (row.min() if len(row) > 2 else 0) + 1e-4
        chosen = order if mixed else order[:1]
        captions.append("\n".join(with_share(names[index], float(row[index])) for index in chosen))
    return captions


def show_schedule(argv: Sequence[str]) -> str:
    """Draw the learning rate of every step of a training; returns its values at the start, the peak and the end.

    Raises:
        UserError: for any mistake in the command line, the configuration or the data.
    """
    own, config = _read("common.lr", "Draw the learning rate of a training, step by step.", argv, {
        "images": {"type": _whole(1), "help": "number of training images; default: those of the data set"},
        "steps_per_epoch": {"type": _whole(1), "help": "optimizer steps of an epoch, in the place of --images"},
        "devices": {"type": _whole(1), "default": 1, "help": "number of devices, default: %(default)s"}})
    steps = own.steps_per_epoch or steps_per_epoch(config, own.images or _count_images(config), own.devices)
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


def _read(program: str, about: str, argv: Sequence[str], own: dict[str, dict[str, Any]]
          ) -> tuple[argparse.Namespace, Config]:
    """Read the program's own flags, and the configuration from the others."""
    parser = Parser(program, about, usage=f"python -m {program} show [--config_path FILE.yaml] [flags]", add_help=False)
    parser.add_argument("command", choices=("show",), help="the only one")
    for name, more in own.items():
        parser.add_argument(f"--{name}", **more)
    if any(word in ("--help", "-h") for word in argv):
        sys.stdout.write(f"{parser.format_help()}\nThe picture is written to --out. All options of a training:\n\n"
                         f"{describe()}")
        raise SystemExit(0)
    if list(argv[:1]) != ["show"]:
        parser.error("'show' is the only command")
    options, others = parser.parse_known_args(argv)
    return options, load_any(others)


def _whole(least: int):
    """Return a reader of whole numbers from ``least`` on."""
    def read(text: str) -> int:
        number = int(text)
        if number < least:
            raise argparse.ArgumentTypeError(f"{text} is less than {least}")
        return number

    read.__name__ = "whole number"
    return read
