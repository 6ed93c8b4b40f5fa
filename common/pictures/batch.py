"""A batch of images as a training gets it, drawn. Imports no MindSpore."""
from typing import Sequence

import numpy as np

from common.command import whole_number
from common.dataset.classes import names_for, with_classes
from common.dataset.samples import Samples
from common.dataset.sources import open_samples
from common.errors import UserError
from common.pictures.commands import read_command
from common.pictures.sheet import TILE, image_sheet, picture_of, short_names, with_share

COLUMNS = 8


def show_batch(argv: Sequence[str]) -> str:
    """Draw a batch exactly as training or evaluation gets it, with the normalisation undone; returns what to tell.

    Raises:
        UserError: for any mistake in the command line, the configuration or the data.
    """
    about = "Draw a batch of images as a training, or its evaluation, gets it."
    own, config = read_command("common.pictures batch", about, argv, {
        "split": {"choices": ("train", "eval"), "default": "train", "help": "default: %(default)s"},
        "batch": {"type": whole_number(0), "default": 0, "help": "number of the batch, from 0 through all epochs"},
        "count": {"type": whole_number(1), "default": 32, "help": "most images to draw, default: %(default)s"}})
    from common.dataset.batches import EvalBatches, TrainBatches  # which bring MindSpore

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


def captions_of(targets: np.ndarray, samples: Samples) -> list[str]:
    """Describe class numbers (B,), or soft targets (B, K): the largest share, the second if it is not smoothing, and
    what is left.
    """
    names = names_for(samples.classes, len(samples.classes))
    if targets.ndim == 1:
        return [names[label] if label >= 0 else "" for label in targets]
    names += [f"class {number}" for number in range(len(names), targets.shape[1])]
    captions = []
    for row in targets:
        order = np.argsort(-row, kind="stable")[:2]
        mixed = len(row) > 1 and row[order[1]] > (row.min() if len(row) > 2 else 0) + 1e-4
        chosen = order if mixed else order[:1]
        shares = [(names[index], round(float(row[index]), 3)) for index in chosen]
        rest = round(1 - sum(share for _, share in shares), 3)
        shares += [("others", rest)] if rest > 0 else []
        captions.append("\n".join(with_share(name, share) for name, share in shares))
    return captions
