"""Learning rates: every schedule is an array with one value per optimizer step, computed in float64.

Value ``i`` belongs to the update that follows ``i`` others. Positions are measured in epochs, so that every length may
be a fraction of one. The formulas take plain arguments; ``schedule`` alone reads the configuration. Imports no
MindSpore.

``python -m common.pictures schedule --config_path FILE.yaml`` draws the schedule of a configuration.
"""
from typing import Sequence

import numpy as np

from common.config.options import FIELDS, Config
from common.errors import UserError, nearest

REFERENCE_BATCH = 256       # images to which base_lr refers
SHORTEST = 1e-9             # epochs: stands for a length of zero, so that nothing is divided by zero
REACHED = 1e-6              # epochs: 30 % of a training is no exact float, and still begins with its first step
DEFAULT_STEPS = (0.3, 0.6, 0.8)     # shares of the training; the old zoo's


def positions(epochs: int, steps_per_epoch: int, *, per_epoch: bool = False) -> np.ndarray:
    """Return where each optimizer step begins, in epochs, float64, (epochs * steps_per_epoch,).

    Args:
        per_epoch: every step counts as lying at the beginning of its epoch.
    """
    steps = np.arange(epochs * steps_per_epoch)
    return (steps // steps_per_epoch).astype(np.float64) if per_epoch else steps / steps_per_epoch


def cosine_decay(position: np.ndarray, lr: float, min_lr: float, decay_epochs: float) -> np.ndarray:
    """Half a cosine from ``lr`` at position 0 to ``min_lr`` at ``decay_epochs``, and ``min_lr`` after it."""
    share = np.minimum(position / max(decay_epochs, SHORTEST), 1.0)
    return min_lr + (lr - min_lr) / 2 * (1 + np.cos(np.pi * share))


def polynomial_decay(position: np.ndarray, lr: float, min_lr: float, decay_epochs: float, power: float) -> np.ndarray:
    """``min_lr + (lr - min_lr) * (1 - position / decay_epochs) ** power``, and ``min_lr`` after ``decay_epochs``."""
    share = np.minimum(position / max(decay_epochs, SHORTEST), 1.0)
    return min_lr + (lr - min_lr) * (1 - share) ** power


def exponential_decay(position: np.ndarray, lr: float, min_lr: float, decay_epochs: float, rate: float) -> np.ndarray:
    """``lr * rate ** (position / decay_epochs)``: a factor ``rate`` every ``decay_epochs``; never below ``min_lr``."""
    return np.maximum(lr * float(rate) ** (position / max(decay_epochs, SHORTEST)), min_lr)


def step_decay(position: np.ndarray, lr: float, milestones: Sequence[float], factor: float) -> np.ndarray:
    """``lr``, times ``factor`` for each of ``milestones`` (in epochs, as ``position``) that a step has reached."""
    passed = np.searchsorted(np.sort(np.asarray(milestones, np.float64)) - REACHED, position, side="right")
    return lr * float(factor) ** passed


def warm_up(values: np.ndarray, position: np.ndarray, lr: float, lr_init: float, warmup_epochs: float) -> np.ndarray:
    """Replace what lies before ``warmup_epochs`` by a line from ``lr_init`` at position 0 to ``lr`` at its end."""
    line = lr_init + (lr - lr_init) * position / max(warmup_epochs, SHORTEST)
    return np.where(position < warmup_epochs, line, values)


def layer_scales(decay: float, depth: int) -> np.ndarray:
    """Return the factor on the learning rate of every layer, for layer-wise decay; float64, (depth + 2,).

    Layer 0 is the embedding, 1 to ``depth`` are the blocks, ``depth + 1`` is what follows them; the factor is
    ``decay ** (depth + 1 - layer)``. It multiplies the finished learning rate, the minimum included.
    Source: the official MAE fine-tuning.
    """
    return float(decay) ** (depth + 1 - np.arange(depth + 2, dtype=np.float64))


def peak_lr(config: Config, global_batch: int) -> float:
    """Return the learning rate after the warm-up: ``lr``, or ``base_lr * global_batch / 256`` where that is given.

    Args:
        global_batch: images per optimizer step, over all devices and accumulated batches.
    """
    return config.lr if config.base_lr is None else config.base_lr * global_batch / REFERENCE_BATCH


def schedule(config: Config, steps_per_epoch: int, global_batch: int) -> np.ndarray:
    """Return the learning rate of every optimizer step, float32, (epochs * steps_per_epoch,).

    What the first and the last step get:

    - ``cosine_decay``: the first step has ``lr_init``, so that with a warm-up from 0 it changes nothing, as in MindCV
      and the official MAE; ``min_lr`` is reached one step after the last. With ``lr_per_epoch: true`` it is timm's
      schedule, by default with ``warmup_prefix: false``, where the peak can lie below ``lr``.
    - ``cosine`` is the old zoo's. It counts from 1: the first step has already risen by one step of the warm-up, and
      the last step has exactly ``min_lr``. The old zoo always ended at 0 whatever its ``lr_min``, against its own
      documentation ("learning rate of the last step"), which is followed here; for SOFT (``lr_min: 0``) it is the same.
    - ``polynomial`` and ``linear`` (exponent 1) begin and end as ``cosine_decay``. ``exponential`` begins so too, falls
      by the factor ``decay_rate`` every ``decay_epochs``, and stops at ``min_lr``.
    - ``step`` multiplies by ``decay_rate`` at ``lr_steps``, by default at 30, 60 and 80 % of the training, and
      ``constant`` never; neither knows ``min_lr``. The old zoo's ``steps`` had no warm-up; here it has what is set.

    ``cooldown_epochs`` at ``min_lr``, or lower where steps have come below it, are the end of ``epochs``; every other
    decay is over before them. With ``lr_delay`` every update gets the rate of the one so many before it, and the first
    ones that of the very first.

    Raises:
        UserError: for an unknown scheduler, or lengths that do not fit into ``epochs``.
    """
    lr, kind = peak_lr(config, global_batch), config.scheduler
    begin = positions(config.epochs, steps_per_epoch, per_epoch=config.lr_per_epoch)
    position = begin + 1 / steps_per_epoch if kind == "cosine" and not config.lr_per_epoch else begin
    since = np.maximum(position - config.warmup_epochs, 0.0) if config.warmup_prefix else position
    span = _decay_epochs(config)
    if kind in ("cosine_decay", "cosine"):
        values = cosine_decay(since, lr, config.min_lr, span)
    elif kind in ("polynomial", "linear"):
        values = polynomial_decay(since, lr, config.min_lr, span, 1.0 if kind == "linear" else config.poly_power)
    elif kind == "exponential":
        values = exponential_decay(since, lr, config.min_lr, span, config.decay_rate)
    elif kind == "step":
        milestones = config.lr_steps or [share * config.epochs for share in DEFAULT_STEPS]
        values = step_decay(position, lr, milestones, config.decay_rate)
    elif kind == "constant":
        values = np.full_like(position, lr)
    else:
        known = FIELDS["scheduler"].metadata["choices"]
        raise UserError(f"scheduler: '{kind}' is unknown; there are {', '.join(known)}.{nearest(kind, known)}")
    values = warm_up(values, position, lr, config.lr_init, config.warmup_epochs)
    if config.cooldown_epochs:
        values = np.where(begin < config.epochs - config.cooldown_epochs, values, np.minimum(values, config.min_lr))
    return values[np.maximum(np.arange(len(values)) - config.lr_delay, 0)].astype(np.float32)


def _decay_epochs(config: Config) -> float:
    """The length of the decay: what is left of the training where the configuration does not say."""
    before = config.warmup_epochs if config.warmup_prefix else 0
    left = config.epochs - before - config.cooldown_epochs
    if config.open_profiler:
        left = max(left, 0.0)  # a few steps at the beginning of the recipe's schedule
    elif config.warmup_epochs > config.epochs or left < 0:
        raise UserError(f"warmup_epochs: {config.warmup_epochs} and cooldown_epochs: {config.cooldown_epochs} do not "
                        f"fit into epochs: {config.epochs}; their sum may not be larger.")
    return left if config.decay_epochs is None else config.decay_epochs
