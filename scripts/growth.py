"""What training, inference, reading data and evaluating cost as the work grows, as Markdown tables.

    python scripts/growth.py --model gmlp_ti --data_dir /path/imagenet
    python scripts/growth.py --tables batch,size --batches 1,4,16,64 --sizes 224,448,672,896

    batch        images per second and peak memory of training and inference, by images per step
    size         forward and backward of one layer of SOFT beside softmax attention, by the side of the image
    workers      images per second of the training data, by worker processes; needs --data_dir
    evaluation   the validation images of --data_dir by both engines of a CPU, reading included: seconds per 1,000, and
                 what 50,000 would take, without the start and the compilation

Every measurement runs in a process of its own, one after the other, on random weights. Where a batch does not fit into
memory its process is killed; of that the table says "too large". What needs more memory than is free for the matrices
of softmax attention alone is not tried.
"""
import argparse
import sys
from pathlib import Path
from typing import Any, Callable, Sequence

if not __package__: sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository root, when run as a script

import psutil

from common.command import run
from common.config.options import Config
from common.context.device import prepare_environment
from common.errors import UserError
from common.spec import find_model
from scripts import benchmark, benchmark_attention
from scripts.measure import Measurement, Step, machine
from scripts.measured_networks import onnx_session
from scripts.pipelines import PIPELINE, our_pipeline

TOO_LARGE = "too large"
STRIDE = 4  # pixels of the image per token in the first stage of SOFT
MATRICES = 7  # of tokens by tokens per head, measured: what a layer of softmax attention holds with its gradients
HEADS = 2
IMAGENET = 50_000


def batch_rows(options: argparse.Namespace) -> list[list[str]]:
    """Measure training and inference with batches of growing size."""
    rows = [["images per step", "training, images/s", "peak memory, GB", "inference, images/s", "peak memory, GB"]]
    for size in options.batches:
        row = [str(size)]
        for mode in ("train", "infer"):
            try:
                config = configured(options, mode=mode, batch_size=size)
                found, = benchmark.compare_networks(config, mode, options.steps, ())
                row += [f"{found['images_per_s']:.2f}", f"{found['peak_bytes'] / 1e9:.2f}"]
            except UserError as error:
                if "code -9" not in str(error):
                    raise
                row += [TOO_LARGE, ""]
        rows.append(row)
    return rows


def size_rows(options: argparse.Namespace) -> list[list[str]]:
    """Measure the attention of SOFT's first stage, and softmax attention in its place, on images of growing size."""
    rows = [["image", "tokens", "SOFT, s", "memory, MiB", "softmax, s", "memory, MiB"]]
    for size in options.sizes:
        side = size // STRIDE
        if size % (STRIDE * benchmark_attention.SIDE):
            raise UserError(f"sizes: {size} is no multiple of {STRIDE * benchmark_attention.SIDE}, as SOFT's landmarks "
                            "need.")
        row = [f"{size} x {size}", f"{side * side:,}"]
        for kind in ("soft", "softmax"):
            needed = 4 * HEADS * MATRICES * side ** 4 if kind == "softmax" else 0
            if needed > psutil.virtual_memory().available:
                row += [TOO_LARGE, f"(over {needed >> 20:,})"]
                continue
            benchmark.say(f"size: {kind}, {size} x {size}")
            found = benchmark_attention.measure_alone(kind, side * side, heads=HEADS, repeats=options.steps)
            row += [f"{found['seconds']:.3f}", f"{found['mebibytes']:,.0f}"] if found else [TOO_LARGE, ""]
        rows.append(row)
    return rows


def worker_rows(options: argparse.Namespace) -> list[list[str]]:
    """Measure the training data pipeline with more and more worker processes."""
    rows = [["workers asked for", "workers", "images/s", "images per second of CPU time"]]
    for workers in options.workers:
        config = configured(options, mode="data", num_workers=workers)
        with Measurement(PIPELINE, our_pipeline, config, options.steps * workers) as side:
            benchmark.say(f"workers: {workers}")
            side.step()
            (wall, cpu), images = side.seconds[0], options.steps * workers * config.batch_size
            side.finish()
        rows.append([str(workers), str(side.facts["workers"]), f"{images / wall:.0f}", f"{images / cpu:.0f}"])
    return rows


def evaluation_rows(options: argparse.Namespace) -> list[list[str]]:
    """Evaluate all validation images twice with each engine; the first time compiles, the second counts."""
    rows = [["engine", "images", "seconds per 1,000", f"minutes for {IMAGENET:,}", "start of the first one, s"]]
    for engine in (benchmark.OURS, benchmark.ONNX):
        config = configured(options, mode="data")
        with Measurement(engine, whole_evaluation, config, engine) as side:
            for number in ("first", "second"):
                benchmark.say(f"evaluation: {engine}, {number}")
                side.step()
            (first, _), (second, _) = side.seconds
            side.finish()
        each = second / side.facts["images"]
        rows.append([engine, f"{side.facts['images']:,}", f"{1000 * each:.1f}", f"{IMAGENET * each / 60:.0f}",
                     f"{max(0.0, first - second):.1f}"])
    return rows


def whole_evaluation(config: Config, engine: str) -> tuple[dict, Step]:
    """A network with random weights that evaluates all validation images in every step."""
    spec = find_model(config.model)
    prepare_environment(spec.uses_convolutions)

    from common.context.device import start
    from common.dataset.sources import open_samples
    from common.network import build_network
    from common.tasks.evaluate import evaluation

    runtime = start(config)
    samples = open_samples(config, "eval")
    network = (onnx_session(config) if engine == benchmark.ONNX else
               build_network(config, spec).set_train(False))
    return {"images": len(samples)}, evaluation(config, samples, network, runtime)


def configured(options: argparse.Namespace, mode: str, **values: Any) -> Config:
    """Return the configuration of a measurement, as scripts/benchmark.py makes it."""
    own = argparse.Namespace(model=options.model, mode=mode, threads=None, pynative=False)
    recipe = {"data_dir": options.data_dir, "batch_size": 32, "amp_level": "O0", "distribute": False}
    more = (recipe if mode == "data" else {}) | options.network | values
    return benchmark.configure(own, {name: str(value) for name, value in more.items()})


TABLES: dict[str, Callable[[argparse.Namespace], list[list[str]]]] = {
    "batch": batch_rows, "size": size_rows, "workers": worker_rows, "evaluation": evaluation_rows}


def numbers(key: str, text: str) -> list[int]:
    """Return positive numbers from a list with commas.

    Raises:
        UserError: if it is none.
    """
    words = text.split(",")
    if not all(word.isascii() and word.isdigit() and int(word) for word in words):
        raise UserError(f"{key}: '{text}' is no list of positive numbers, such as 1,4,16.")
    return [int(word) for word in words]


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the options; ``network`` holds those of the configuration, as name -> text."""
    parser = benchmark.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                              allow_abbrev=False, epilog="Every key of the configuration is an option too, such as "
                              "--num_classes 8; they hold for the tables batch, workers and evaluation.")
    parser.add_argument("--tables", default=",".join(TABLES), help="which tables (all four)")
    parser.add_argument("--model", default="gmlp_ti", help="variant of any model (gmlp_ti)")
    parser.add_argument("--data_dir", default="", help="images of --tables workers and evaluation")
    parser.add_argument("--batches", default="1,4,16,64", help="images per step (1,4,16,64)")
    parser.add_argument("--sizes", default="224,448,672,896", help="sides of images (224,448,672,896)")
    parser.add_argument("--workers", default="1,2,4,8", help="worker processes (1,2,4,8)")
    parser.add_argument("--steps", default="5", help="steps that count; batches for each worker (5)")
    options, rest = parser.parse_known_args(argv)
    options.network = benchmark.pairs(rest)
    options.tables = options.tables.split(",")
    if unknown := [name for name in options.tables if name not in TABLES]:
        raise UserError(f"tables: '{unknown[0]}' is unknown; there are {', '.join(TABLES)}.")
    for key in ("batches", "sizes", "workers"):
        setattr(options, key, numbers(key, getattr(options, key)))
    options.steps = numbers("steps", options.steps)[0]
    if not options.data_dir and {"workers", "evaluation"} & set(options.tables):
        raise UserError("data_dir: the tables workers and evaluation read images; name their folder, or leave them out "
                        "with --tables batch,size.")
    return options


def main(argv: Sequence[str]) -> str:
    """Measure and return the tables. Raises UserError for a mistake of the user."""
    options, before = parse(argv), machine()
    parts = []
    for name in options.tables:
        head, *rows = TABLES[name](options)
        parts.append("\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)))
    parts.append(f"{options.model}; {before['processor']}, {before['cores']} cores, load {before['load']} before and "
                 f"{machine()['load']} after")
    return "\n\n".join(parts)


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))
