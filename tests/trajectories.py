"""Short trainings of the authors' own code, repeated with ours: batches and rates by rule, and what is allowed.

``tests/data/golden/trajectories.json`` holds the results alone: losses, rates and gradient norms of every update, and
the weights and outputs after the last, of PyTorch on a CPU in float32 and in float64.
"""
import json
from dataclasses import dataclass
from typing import Any

import mindspore as ms
import numpy as np
from golden import FOLDER, load_strictly
from golden_rule import fill, image, noise
from mindspore import Tensor

from common.config.load import from_mapping
from common.config.options import Config
from common.context.ranks import Runtime
from common.lr import schedule
from common.network import build_network
from common.spec import ModelSpec
from common.tasks.train import build_step, freeze_body
from common.train_step import TrainStep
from convmlp.src.spec import SPEC as CONVMLP
from gmlp.src.spec import SPEC as GMLP
from mae.src.spec import SPEC as MAE
from soft.src.spec import SPEC as SOFT

BATCH, EVAL_BATCH, CLASSES = 8, 4, 10
RUNS = json.loads((FOLDER / "trajectories.json").read_text())["runs"]
_VIT = {"image_size": 32, "patch_size": 4, "embed_dim": 48, "num_heads": 3}
_GMLP = {"model": "gmlp_Ti", "image_size": 32, "patch_size": 4, "embed_dim": 32, "depth": 3, "eps": 1e-6, "lr": 2e-3}
_HALF_COSINE = {"base_lr": 0.04, "lr_init": 0.0}  # 1.25e-3 for eight images
# What each run is in a configuration of ours; the rest is in ``COMMON``.
CONFIGURATIONS = {
    "gmlp": (GMLP, "train", _GMLP | {"clip_grad": True, "clip_value": 1.0}),
    "gmlp_accum": (GMLP, "train", _GMLP | {"clip_grad": True, "clip_value": 0.05, "accumulation_steps": 2,
                                           "loss_scale": 1024.0, "label_smoothing": 0.0}),
    "mae": (MAE, "pretrain", _VIT | _HALF_COSINE | {"model": "mae_vit_base_patch16", "depth": 3,
                                                    "decoder_embed_dim": 32, "decoder_depth": 2,
                                                    "decoder_num_heads": 4, "norm_pix_loss": True, "beta2": 0.95,
                                                    "min_lr": 0.0}),
    "vit_finetune": (MAE, "finetune", _VIT | _HALF_COSINE | {"model": "vit_base_patch16", "depth": 4, "min_lr": 1e-6,
                                                             "layer_decay": 0.65, "global_pool": True}),
    "linear_probe": (MAE, "linprobe", _VIT | {"model": "vit_base_patch16", "depth": 2, "opt": "lars", "lr": 6.4,
                                              "lr_init": 0.0, "min_lr": 0.0, "weight_decay": 0.0,
                                              "label_smoothing": 0.0, "global_pool": False, "batchnorm_head": True}),
    "convmlp": (CONVMLP, "train", {"model": "convmlp_s", "image_size": 32, "channels": 16, "n_conv_blocks": 2,
                                   "dims": [16, 32, 64], "depths": [1, 2, 1], "mlp_ratio": 2, "lr": 1e-3,
                                   "warmup_epochs": 2, "ema": True, "ema_decay": 0.9}),
    "soft": (SOFT, "train", {"model": "soft_tiny", "image_size": 64, "dims": [32, 64, 64, 64],
                             "num_heads": [1, 2, 2, 2], "depths": [1, 1, 1, 1], "scheduler": "constant",
                             "lr": 5e-4, "warmup_epochs": 0, "clip_grad": True, "clip_value": 1.0}),
}
COMMON = {"device_target": "CPU", "dataset": "imagenet", "data_dir": ".", "num_classes": CLASSES, "drop_path_rate": 0.0,
          "opt": "adamw", "weight_decay": 0.05, "scheduler": "cosine_decay", "warmup_epochs": 4, "lr_init": 1e-4,
          "min_lr": 1e-5, "label_smoothing": 0.1}
# loss, gradient norm, tensors, output: some ten times what float32 is from float64 in the authors' code
TOLERANCES = {"gmlp": (1.5e-6, 2e-6, 1e-6, 5e-6), "gmlp_accum": (1.5e-6, 2e-6, 8e-7, 5e-6),
              "mae": (2e-6, 2e-6, 1e-6, 1e-5), "vit_finetune": (2e-6, 3e-6, 1e-6, 1e-5),
              "linear_probe": (4e-6, 2e-6, 2e-6, 1e-5), "convmlp": (1e-5, 2e-5, 3e-6, 1e-4),
              "soft": (5e-5, 5e-5, 3e-5, 4e-3)}
NOISE = {"soft": 1e-2}  # and 1e-3 for the others: tensors whose gradient is mathematically zero, which Adam makes large


def train_images(k: int, size: int) -> np.ndarray:
    """Images of micro-batch ``k``, float32 (8, 3, size, size): the base batch, rolled down by k rows and scaled."""
    return np.roll(image(BATCH, size), k, axis=2) * np.float32(1.0 + 0.25 * (k % 3))


def train_labels(k: int) -> np.ndarray:
    """Class numbers of micro-batch ``k``, int64 (8,)."""
    return (3 * np.arange(BATCH) + k) % CLASSES


def soft_targets(k: int) -> np.ndarray:
    """Targets of micro-batch ``k``, float32 (8, 10): two classes mixed; where they are the same, it has all."""
    i = np.arange(BATCH)
    share = 0.5 + 0.05 * i
    rows = np.zeros((BATCH, CLASSES))
    rows[i, train_labels(k)] += share
    rows[i, (7 * i + 2 * k + 1) % CLASSES] += 1.0 - share
    return rows.astype(np.float32)


def columns(run: dict, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Micro-batch ``k`` of a run: images, and labels, soft targets or noise."""
    second = {"labels": lambda: train_labels(k).astype(np.int32), "soft_targets": lambda: soft_targets(k),
              "noise": lambda: np.roll(noise(BATCH, run["patches"]), k, axis=1)}[run["second_column"]]
    return train_images(k, run["image_size"]), second()


@dataclass
class Found:
    """What one of our trainings found, in the form of the stored ones, and the step that it ended with."""

    spec: ModelSpec
    step: TrainStep
    rates: np.ndarray
    results: dict[str, Any]

    def groups(self) -> dict[str, tuple[float, float]]:
        """The authors' name of each trained parameter -> weight decay, factor on the learning rate."""
        optimizer = self.step.optimizer
        names = [next(iter(self.spec.restore({p.name: p}))) for p in optimizer.parameters]
        return dict(zip(names, zip(optimizer.decays, optimizer.lr_scales)))


def configuration(name: str, world_size: int = 1, **more) -> tuple[ModelSpec, Config]:
    """Return the model and the configuration of a run: one update is an epoch of one step."""
    spec, task, values = CONFIGURATIONS[name]
    values = COMMON | {"task": task, "epochs": RUNS[name]["updates"], "batch_size": BATCH // world_size} | values | more
    return spec.for_task(task), from_mapping(values, name, spec)


def repeat(name: str, runtime: Runtime, updates: int | None = None, **more) -> Found:
    """Train as a stored run did, in the current execution mode, with our own network, optimizer, schedule and step.

    Args:
        updates: how many of them; none: all, and then the final state is among the results.
        more: further keys of the configuration.
    """
    run = RUNS[name]
    spec, config = configuration(name, runtime.world_size, **more)
    network = build_network(config, spec, runtime.world_size)
    start = {key: fill(key, shape) for key, shape, kind, *_ in run["tensors"] if kind not in ("fixed", "counter")}
    fixed = {p.name: p.asnumpy() for p in network.get_parameters() if spec.restore({p.name: p}).keys() - start.keys()}
    load_strictly(network, spec.convert(start) | fixed)
    assert sorted(fixed) == sorted(key for key, _, kind, *_ in run["tensors"] if kind == "fixed")
    if config.task == "linprobe":
        freeze_body(network)
    rates = schedule(config, 1, BATCH * config.accumulation_steps)
    step = build_step(config, spec, network, rates, runtime)
    losses, norms = [], []
    rows = slice(runtime.rank * config.batch_size, (runtime.rank + 1) * config.batch_size)
    for k in range((updates or run["updates"]) * run["accumulation"]):
        losses.append(float(step(*(Tensor(column[rows]) for column in columns(run, k))).asnumpy()))
        if (k + 1) % run["accumulation"] == 0:
            norms.append(float(step.grad_norm.asnumpy()))
    results = {"loss": losses, "grad_norm": norms}
    if updates is None:
        results |= _state(run, spec, network, "")
    if updates is None and run["ema_decay"]:
        with step.moving_average():
            results |= _state(run, spec, network, "ema_")
    return Found(spec, step, rates, results)


def _state(run: dict, spec: ModelSpec, network, prefix: str) -> dict[str, Any]:
    """Return the tensors of a network, and its output for the images of the final evaluation."""
    mode = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    network.set_train(False)
    inputs = [image(EVAL_BATCH, run["image_size"], seed=1)]
    if run["second_column"] == "noise":
        output = network(*map(Tensor, [*inputs, noise(EVAL_BATCH, run["patches"])]))[1][:, :8]
    else:
        output = network(*map(Tensor, inputs))
    network.set_train()
    ms.set_context(mode=mode)
    tensors = spec.restore({p.name: p.asnumpy().astype(np.float64) for p in network.get_parameters()})
    return {f"{prefix}output": output.asnumpy(), f"{prefix}tensors": tensors}


def check(name: str, found: dict[str, Any]) -> dict[str, float]:
    """Compare a training, or its beginning, with the stored one in float64.

    Returns:
        The largest differences, as shares of what is allowed.
    """
    run = RUNS[name]
    stored, (loss, norm, tensor, output) = run["f64"], TOLERANCES[name]
    shares = {"loss": _relative(found["loss"], stored["loss"]) / loss,
              "grad_norm": _relative(found["grad_norm"], stored["grad_norm"]) / norm}
    for prefix in ("", "ema_"):
        if f"{prefix}output" not in found:
            continue
        expected = np.array(stored[f"{prefix}output"])
        shares[f"{prefix}output"] = np.abs(found[f"{prefix}output"] - expected).max() / np.abs(expected).max() / output
        noisy = run["f32_from_f64"][f"{prefix}above_3e-6"]
        names = [key for key, _, kind, *_ in run["tensors"] if kind not in ("fixed", "counter")]
        for key, (length, total) in zip(names, stored[f"{prefix}tensors"], strict=True):
            ours = found[f"{prefix}tensors"][key]
            off = max(abs(np.linalg.norm(ours) - length), abs(ours.sum() - total) / np.sqrt(ours.size)) / length
            shares[f"{prefix}{key}"] = off / (NOISE.get(name, 1e-3) if key in noisy else tensor)
    wrong = {key: share for key, share in shares.items() if not share <= 1}
    assert not wrong, f"differences as multiples of the tolerance: {wrong}"
    return shares


def _relative(ours, stored) -> float:
    return float(np.abs(np.array(ours) / np.array(stored[:len(ours)]) - 1).max())
