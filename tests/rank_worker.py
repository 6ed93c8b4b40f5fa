"""What every rank of the jobs in test_ranks.py does: python rank_worker.py FOLDER CASE...

Leaves what it found in FOLDER/WORLD_SIZE/rank_R.npz (arrays) and rank_R.json (the rest). Started alone it is the one
rank whose results those of several ranks are compared with.
"""
import contextlib
import dataclasses
import io
import json
import os
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from small_networks import FloatStatus, Saturating
from trajectories import repeat

from common.callback.epoch import SharedStatistics, StopOnBadLoss
from common.checkpoint.file import save_checkpoint
from common.checkpoint.weights import weights_of
from common.config.load import from_mapping
from common.context.device import start
from common.context.ranks import Runtime
from common.dataset.batches import train_batches
from common.dataset.digits import load_digits
from common.dataset.samples import ArraySamples, count_steps
from common.errors import UserError
from common.layers.initial_values import values_as_built
from common.layers.sync_batch_norm import SyncBatchNorm, synchronise
from common.lr import schedule
from common.network import build_network
from common.optimizer.rules import SGD
from common.run.training import statistics_of
from common.tasks import evaluate as evaluate_task, train as train_task
from common.tasks.train import build_step
from common.train_step import ClassifierLoss, TrainStep
from convmlp.src.spec import SPEC as CONVMLP
from gmlp.src.spec import SPEC as GMLP
from hlg.src.spec import SPEC as HLG
from mae.src.spec import SPEC as MAE
from mae.src.vit import ProbeNorm
from soft.src.spec import SPEC as SOFT

GLOBAL_BATCH = 12  # divisible by 1, 2 and 3 ranks
COMMON = {"device_target": "CPU", "dataset": "digits", "num_classes": 10, "num_workers": 1, "hflip": 0.0, "seed": 5,
          "opt": "sgd", "momentum": 0.0, "weight_decay": 0.0, "scheduler": "constant", "lr": 0.5, "epochs": 4}
TINY_GMLP = COMMON | {"model": "gmlp_Ti", "image_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 1,
                      "mlp_ratio": 2, "drop_path_rate": 0.0}
TINY_CONVMLP = COMMON | {"model": "convmlp_s", "image_size": 32, "channels": 8, "n_conv_blocks": 1, "dims": [8, 16],
                         "depths": [1, 1], "mlp_ratio": 2, "lr": 0.1}
CLIP = 0.05  # far below the norm of these gradients
EVALUATIONS = [("many", 7, "mindspore"), ("many", 40, "onnxruntime"), ("two", 7, "mindspore")]  # images, batch, engine
REPORTED = EVALUATIONS[0]


class ClipsFirst(TrainStep):
    """The wrong order: every rank clips its own gradient, and then they are averaged."""

    def update(self, gradients):
        return super().update(ops.clip_by_global_norm(gradients, self.clip_norm))


class Findings:
    """What a rank has to tell."""

    def __init__(self, runtime: Runtime):
        self.runtime = runtime
        self.arrays: dict[str, np.ndarray] = {}
        self.values: dict[str, object] = {}

    def add(self, case: str, parameters) -> None:
        """Keep the values of parameters."""
        self.arrays |= {f"{case}/{parameter.name}": parameter.asnumpy().copy() for parameter in parameters}

    def write(self, folder: Path) -> None:
        folder = folder / str(self.runtime.world_size)
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(folder / f"rank_{self.runtime.rank}.npz", **self.arrays)
        (folder / f"rank_{self.runtime.rank}.json").write_text(json.dumps(self.values))


def configure(values: dict, runtime: Runtime, **more):
    """Return a configuration whose global batch does not depend on the number of ranks."""
    spec = GMLP if values["model"].startswith("gmlp") else CONVMLP
    return from_mapping(values | {"batch_size": GLOBAL_BATCH // runtime.world_size} | more, "test", spec)


def digits(count: int = 60, labels: np.ndarray | None = None) -> ArraySamples:
    images, numbers = load_digits("train")
    classes = 10 if labels is None else count
    return ArraySamples("digits", [str(c) for c in range(classes)], numbers[:count] if labels is None else labels,
                        images[:count], [("digits", count)])


def stir(network) -> None:
    """Give every parameter a value of its own: a head of zeros would leave all gradients but its own zero."""
    for number, parameter in enumerate(network.trainable_params()):
        noise = np.random.default_rng(number).normal(0.0, 0.2, parameter.shape).astype(np.float32)
        parameter.set_data(Tensor(parameter.asnumpy() + noise))


def train(case: str, config, spec, found: Findings, updates: int = 2):
    """Feed the real step with the real batches; keep the weights after every update."""
    runtime = found.runtime
    ms.set_seed(config.seed)
    network = build_network(config, spec, runtime.world_size)
    stir(network)
    lr = schedule(config, count_steps(config, 60, runtime.world_size), GLOBAL_BATCH)
    step = build_step(config, spec, network, lr, runtime)
    batches = train_batches(config, digits(), rank=runtime.rank, world_size=runtime.world_size)
    found.values[f"{case} losses"] = losses = []
    for number, (images, labels) in enumerate(batches.create_tuple_iterator(num_epochs=1), start=1):
        losses.append(float(step(images, labels).asnumpy()))
        if number % config.accumulation_steps == 0:
            found.add(f"{case} {number // config.accumulation_steps}", network.get_parameters())
        if number == updates * config.accumulation_steps:
            break
    found.values[f"{case} norm"] = float(step.grad_norm.asnumpy())
    return step


def evaluation(found: Findings, folder: Path) -> None:
    """The real evaluation, of a checkpoint and of folders of images; what it prints, and its scores."""
    evaluate_task.start = lambda config: found.runtime  # a process joins the others once
    network = build_network(from_mapping(TINY_GMLP, "test"), GMLP)
    stir(network)
    file = folder / f"tiny_{found.runtime.world_size}.ckpt"
    if found.runtime.is_main:
        save_checkpoint(file, weights_of(network), {})
    found.runtime.sum(np.zeros(1))  # the others wait for it
    report = folder / str(found.runtime.world_size) / "report"
    for images, size, engine in EVALUATIONS:
        config = from_mapping(TINY_GMLP | {
            "task": "eval", "dataset": "imagenet", "mode": "pynative" if engine == "mindspore" else "graph",
            "eval_dir": str(folder / images), "engine": engine, "batch_size": size, "ckpt_path": str(file),
            "report": str(report) if (images, size, engine) == REPORTED else ""},
            "test", GMLP)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            scores = evaluate_task.evaluate(config, GMLP)
        text = GMLP.log_style.evaluation.format(top1=scores.top1, top5=scores.top5, loss=scores.loss, step_time=0,
                                                seen=scores.seen, total_time=0)
        found.values[f"evaluation {images} {size}"] = text, scores.seen, printed.getvalue().splitlines()[-1:]
    if found.runtime.is_main:
        found.values["report"] = {file.name: file.read_bytes().hex() for file in report.iterdir()}


def sharding(found: Findings, folder: Path) -> None:
    """The images of two epochs, each with a label of its own."""
    runtime = found.runtime
    config = configure(TINY_GMLP, runtime, num_classes=101)
    batches = train_batches(config, digits(101, np.arange(101)), rank=runtime.rank,
                                    world_size=runtime.world_size)
    iterator = batches.create_tuple_iterator(num_epochs=2, output_numpy=True)
    epochs = [[(labels, images) for images, labels in iterator] for _ in range(2)]
    found.arrays["labels"] = np.array([[labels for labels, _ in epoch] for epoch in epochs])
    found.arrays["images"] = np.array([[images[:, 0, 8] for _, images in epoch] for epoch in epochs])


def steps(found: Findings, folder: Path) -> None:
    """Updates of a network without BatchNorm, in the right order, in a wrong one, with a pixel that is no number."""
    config = configure(TINY_GMLP, found.runtime)
    found.values["lr"] = float(schedule(dataclasses.replace(config, base_lr=0.1), 5, GLOBAL_BATCH)[0])
    clipped = dataclasses.replace(config, clip_grad=True, clip_value=CLIP)
    ms.set_context(mode=ms.GRAPH_MODE)
    train("clipped sum", dataclasses.replace(clipped, accumulation_steps=2), GMLP, found)
    ms.set_context(mode=ms.PYNATIVE_MODE)
    train("clipped", clipped, GMLP, found)
    train_task.TrainStep = ClipsFirst
    train("wrong", clipped, GMLP, found, updates=1)
    train_task.TrainStep = TrainStep
    step = train("plain", config, GMLP, found)
    feed_nan(step, config, found)
    saturate(found)


def saturate(found: Findings) -> None:
    """Let the last rank cut off a value, which only it knows of."""
    runtime, status = found.runtime, FloatStatus()
    network = Saturating(12, 4, status)
    step = TrainStep(ClassifierLoss(network, nn.CrossEntropyLoss()), network,
                     SGD(network.trainable_params(), 0.5, momentum=0.0), dynamic_loss_scale=True, loss_scale=1024.0,
                     world_size=runtime.world_size, all_finite=status)
    images = np.full((2, 3, 2, 2), 1e4 if runtime.rank == runtime.world_size - 1 else 1.0, np.float32)
    step(Tensor(images), Tensor(np.zeros(2, np.int32)))
    found.values["saturated"] = [int(step.skipped.asnumpy()), float(step.loss_scale.asnumpy())]


def feed_nan(step: TrainStep, config, found: Findings) -> None:
    """Give the last rank a batch with a pixel that is no number."""
    runtime = found.runtime
    images = np.ones((config.batch_size, 3, 16, 16), np.float32)
    if runtime.rank == runtime.world_size - 1:
        images[0, 0, 0, 0] = np.nan
    step(Tensor(images), Tensor(np.zeros(config.batch_size, np.int32)))
    found.add("after nan", step.network.get_parameters())
    try:
        StopOnBadLoss(dataclasses.replace(config, drop_overflow_update=False), step).check()
        found.values["nan"] = ""
    except UserError as error:
        found.values["nan"] = str(error)


def synchronised(found: Findings, folder: Path) -> None:
    """Updates of networks with BatchNorm over all ranks."""
    ms.set_context(mode=ms.GRAPH_MODE)
    config = configure(TINY_CONVMLP, found.runtime, sync_bn=True)
    step = train("sync", config, CONVMLP, found, updates=3)
    found.values["sync cells"] = sum(isinstance(cell, SyncBatchNorm)
                                     for _, cell in step.network.cells_and_names())


def replaced(found: Findings, folder: Path) -> None:
    """For every kind of network with BatchNorm: how many there are, what is left of them, and whether names change."""
    small = {"num_classes": 10, "image_size": 224}
    for spec, variant, more in ((CONVMLP, "convmlp_s", {}), (SOFT, "soft_tiny", {}), (HLG, "hlg_mobile", {}),
                                (HLG, "hlg_tiny_avgpool", {}),
                                (MAE, "vit_base_patch16", {"batchnorm_head": True, "depth": 1, "embed_dim": 24,
                                                           "num_heads": 2})):
        with values_as_built():
            network = spec.for_task("linprobe" if spec is MAE else "train").build(variant, **small, **more)
        before = [parameter.name for parameter in network.get_parameters()]
        kept = statistics_of(network.get_parameters())
        count = synchronise(network, found.runtime.world_size)
        cells = [cell for _, cell in network.cells_and_names() if hasattr(cell, "moving_variance")]
        found.values[f"replaced {variant}"] = {
            "count": count, "statistics": len(kept), "all": all(isinstance(c, SyncBatchNorm) for c in cells),
            "same names": before == [parameter.name for parameter in network.get_parameters()]}


def apart(found: Findings, folder: Path) -> None:
    """Running statistics that differ from rank to rank, before and after they are shared."""
    config = configure(TINY_CONVMLP, found.runtime, ema=True)
    step = build_step(config, CONVMLP, build_network(config, CONVMLP), np.ones(1, np.float32),
                             found.runtime)
    statistics = statistics_of(step.get_parameters())
    rng = np.random.default_rng(found.runtime.rank)
    for parameter in statistics:
        parameter.set_data(Tensor(rng.random(parameter.shape, np.float32)))
    found.add("before", statistics)
    SharedStatistics(step, found.runtime).on_train_epoch_end(None)
    found.add("after", statistics)


def probe_norm(found: Findings, folder: Path) -> None:
    """The norm of MAE's linear probe, over all ranks: output, gradient, running statistics."""
    ms.set_context(mode=ms.PYNATIVE_MODE)
    runtime = found.runtime
    rows = GLOBAL_BATCH // runtime.world_size
    features = np.random.default_rng(0).normal(2.0, 3.0, (GLOBAL_BATCH, 4)).astype(np.float32)
    mine = Tensor(features[runtime.rank * rows:(runtime.rank + 1) * rows])
    norm = ProbeNorm(4) if runtime.world_size == 1 else SyncBatchNorm(ProbeNorm(4), runtime.world_size)
    norm.set_train()
    found.arrays["probe output"] = norm(mine).asnumpy()
    found.arrays["probe gradient"] = ms.grad(lambda x: (norm(x) ** 3).sum())(mine).asnumpy()
    found.add("probe", norm.get_parameters())
    norm.set_train(False)
    found.arrays["probe later"] = norm(mine).asnumpy()


def trajectories(found: Findings, folder: Path) -> None:
    """Two of the authors' trainings: the whole of one, and the beginning of one with BatchNorm."""
    ms.set_context(mode=ms.PYNATIVE_MODE)
    begun = repeat("convmlp", found.runtime, updates=3, sync_bn=True).results
    found.arrays |= {f"trajectory convmlp/{key}": np.array(begun[key]) for key in ("loss", "grad_norm")}
    whole_training(found)


def fused(found: Findings, folder: Path) -> None:
    """One of the authors' trainings with fused operators."""
    ms.set_context(mode=ms.GRAPH_MODE)
    whole_training(found, graph_kernel=True)


def whole_training(found: Findings, **more) -> None:
    """Keep what all updates of a training of the authors find, and its final state."""
    whole = repeat("gmlp_accum", found.runtime, **more).results
    found.arrays |= {f"trajectory gmlp_accum/{key}": np.array(whole[key]) for key in ("loss", "grad_norm", "output")}
    found.arrays |= {f"tensor of gmlp_accum/{key}": value for key, value in whole["tensors"].items()}


CASES = {case.__name__: case
         for case in (evaluation, sharding, steps, synchronised, replaced, apart, probe_norm, trajectories, fused)}


def main(folder: Path, cases: list[str], distribute: bool) -> None:
    found = Findings(start(from_mapping(COMMON | {"distribute": distribute}, "test")))
    for case in cases:
        CASES[case](found, folder)
    found.write(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:], "MS_ROLE" in os.environ)
