"""Speed and memory of training, inference and data loading, for every variant of every model.

    python scripts/benchmark.py --model gmlp_ti --batch_size 16                    training and inference
    python scripts/benchmark.py --model gmlp_ti --batch_size 16 --against torch    beside PyTorch: timm's network, and
                                                                                   that of scripts/FAMILY_torch.py
    ... --floor                                    also the time of the matrix products and convolutions alone
    python scripts/benchmark.py --model gmlp_ti --mode infer --against onnxruntime   the two engines of a CPU, and
    ... --against torch,onnxruntime                                                  both beside PyTorch
    python scripts/benchmark.py --model gmlp_ti --mode data --config_path config/gmlp_Ti.yaml --data_dir /path/imagenet
    ... --mode data --against timm,native     beside timm's loader and the framework's own pipeline, by CPU time

Every measurement runs in a process of its own, so that its peak memory is its own, and what is compared runs in turn,
step by step, so that the load of the machine hits both alike. The images of training and inference are random numbers.
A training step is that of a real, long run: forward, cross entropy, backward, clipping by global norm 1, AdamW; fused.
"""
import argparse
import importlib.util
import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Mapping, Sequence

if not __package__: sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository root, when run as a script

import numpy as np

from common.command import run
from common.config.load import from_mapping, load_config, network_arguments
from common.config.options import FIELDS, Config
from common.context.device import prepare_environment
from common.errors import UserError
from common.files import ROOT, write_whole
from common.spec import find_model
from scripts.measure import Measurement, machine
from scripts.measured_networks import (CLIP, OWN_TORCH, TIMM, onnx_network, our_network, our_products, their_products,
                                       torch_network)
from scripts.pipelines import PIPELINE, check_against, compare_pipelines, compare_with_loop

MODES = ("train", "infer", "both", "data")
SHOWN = ("config_path", "data_dir", "batch_size", "image_size", "device_target", "amp_level")  # in --help
BATCH_SIZE = 16  # of training and inference, unless given
OURS, TORCH, ONNX = "MindSpore", "PyTorch", "onnxruntime"
PRODUCTS = {OURS: "products alone", TORCH: "PyTorch's products"}


# what the user asked for

class Parser(argparse.ArgumentParser):
    """Mistakes become sentences."""

    def error(self, message: str) -> None:
        raise UserError(f"{message}; --help shows all options.")


def pairs(words: list[str]) -> dict[str, str]:
    """Return further options, ``--name value`` or ``--name=value``, as name -> text.

    Raises:
        UserError: if they are none.
    """
    found, words = {}, list(words)
    while words:
        name, equals, value = words.pop(0).partition("=")
        if not name.startswith("--") or not (equals or words):
            raise UserError(f"'{name}' (command line) is neither an option with a value nor the value of one.")
        found[name[2:]] = value if equals else words.pop(0)
    return found


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """Return the options of this program, and those of the configuration as name -> text."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
                    epilog="Every other key of the configuration is an option too, such as --depth 2 or --num_workers "
                           "8; train.py --help lists them.")
    parser.add_argument("--model", required=True, help="variant of any model, such as gmlp_ti")
    parser.add_argument("--mode", choices=MODES, default="both", help="both: train and infer; data: the pipeline alone")
    parser.add_argument("--steps", type=int, help="steps that count (10), or batches in each round of --mode data (20)")
    parser.add_argument("--rounds", type=int, default=3, help="--mode data: fresh processes for each side (3)")
    parser.add_argument("--pynative", action="store_true", help="op by op instead of compiled")
    parser.add_argument("--against", help="torch: measure the network in PyTorch beside ours; onnxruntime: with --mode "
                        "infer, ours as that engine runs it; with --mode data timm, native or both: timm's loader and "
                        "the framework's own pipeline, per second of CPU time")
    parser.add_argument("--floor", action="store_true", help="measure the matrix products and convolutions of a step "
                        "alone too, here and in what --against names")
    parser.add_argument("--threads", help="CPU threads of either framework; by default each decides")
    parser.add_argument("--json", help="file for all numbers")
    parser.add_argument("--config_path", help="configuration of --mode data")
    for name in SHOWN[1:]:
        parser.add_argument(f"--{name}", help=FIELDS[name].metadata["help"])
    arguments, rest = parser.parse_known_args(argv)
    values = {name: getattr(arguments, name) for name in SHOWN if getattr(arguments, name) is not None}
    values |= pairs(rest)
    arguments.against = arguments.against.split(",") if arguments.against else []
    known = ("torch", *(["onnxruntime"] if arguments.mode == "infer" else []))
    for name in arguments.against if arguments.mode != "data" else ():
        if name not in known:
            raise UserError(f"against: '{name}' is nothing that networks are compared with; there is torch, with "
                            "--mode infer onnxruntime, and with --mode data timm and native.")
    for name in ("steps", "rounds"):
        if getattr(arguments, name) is not None and getattr(arguments, name) < 1:
            raise UserError(f"{name}: {getattr(arguments, name)} is not a positive number.")
    return arguments, values


def configure(arguments: argparse.Namespace, values: Mapping[str, str]) -> Config:
    """Return the configuration that is measured.

    Raises:
        UserError: for anything that does not fit.
    """
    spec = find_model(arguments.model)
    variant = spec.variant(arguments.model)
    task = "train" if variant in spec.for_task("train").variants else "pretrain"  # pretrain: a masked autoencoder
    threads = {"num_threads": arguments.threads} if arguments.threads else {}
    if arguments.mode == "data":
        flags = {"model": variant} | threads | values
        words = [word for name, value in flags.items() for word in (f"--{name}", value)]
        return load_config(words, task=task, spec=spec, model_dir=ROOT / spec.name)
    if "config_path" in values:
        raise UserError("config_path: a configuration file is read by --mode data alone; training and inference take "
                        "options of the network, such as --image_size.")
    given = {"batch_size": BATCH_SIZE, "opt": "adamw", "clip_grad": True, "clip_value": CLIP, "graph_kernel": True}
    given |= threads | values
    given |= {"model": variant, "task": task, "mode": "pynative" if arguments.pynative else "graph"}
    return from_mapping(given, "command line", spec)


def check_comparison(config: Config, against: str) -> None:
    """Hold that PyTorch, or onnxruntime, can run the same network.

    Raises:
        UserError: if not.
    """
    if against == "onnxruntime":
        if config.task == "pretrain" or config.amp_level != "O0":
            raise UserError(f"against: onnxruntime answers for classifiers in float32; {config.model} with amp_level "
                            f"{config.amp_level} is none.")
        return
    own = find_model(config.model).name in OWN_TORCH and config.model not in TIMM
    if config.model.startswith("soft_norm"):
        raise UserError(f"against: {config.model} was not written for PyTorch; all other networks are there.")
    missing = [name for name in ("torch", "timm")[:2 - own] if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"against: torch needs {' and '.join(missing)}, which is not installed here; pip install torch "
                        "timm.")
    changed = network_arguments(config)
    if changed or config.amp_level != "O0":
        raise UserError(f"against: {config.model} is compared as published and in float32; leave out "
                        f"{', '.join(changed) or 'amp_level'}.")


# the story

def compare_networks(config: Config, mode: str, steps: int, against: Sequence[str], floor: bool = False
                     ) -> list[dict[str, Any]]:
    """Measure a network, and in turn with it PyTorch's and the other engine, and the products alone, if asked for."""
    steps += 2  # one to compile, one to warm up
    say(f"{mode}: building and compiling")
    with ExitStack() as processes:
        sides = [processes.enter_context(Measurement(OURS, our_network, config, mode, steps))]
        device = sides[0].facts["device"]
        if against and device == "Ascend":
            raise UserError(f"against: {against[0]} is compared on a CPU or a GPU; add --device_target CPU.")
        if "torch" in against:
            sides.append(processes.enter_context(Measurement(TORCH, torch_network, config, mode, device)))
            ours, theirs = (side.facts["parameters"] for side in sides)
            if ours != theirs:
                raise UserError(f"against: {config.model} has {ours} parameters here and {theirs} in PyTorch, so "
                                "the networks are not the same.")
        if "onnxruntime" in against:
            sides.append(processes.enter_context(Measurement(ONNX, onnx_network, config, mode,
                                                             sides[0].facts["parameters"])))
        if floor:
            sides.append(processes.enter_context(Measurement(PRODUCTS[OURS], our_products, config, mode)))
        if floor and "torch" in against:
            sides.append(processes.enter_context(Measurement(PRODUCTS[TORCH], their_products, config, mode, device)))
        for number in range(steps):
            times = [f"{side.name} {side.step():.3f} s" for side in sides]
            say(f"{mode}: step {number + 1} of {steps}: {', '.join(times)}")
        for side in sides:
            side.finish()
    return [numbers(side, mode, config.batch_size) for side in sides]


def numbers(side: Measurement, mode: str, images: int) -> dict[str, Any]:
    """Return the result of a network with so many images per step; the first two steps do not count."""
    wall, cpu = np.array(side.seconds[2:]).T
    return {"mode": mode, "name": side.name, **side.facts, "first_step_s": side.seconds[0][0],
            "step_s": float(np.median(wall)), "fastest_s": float(wall.min()), "cpu_s": float(np.median(cpu)),
            "images_per_s": images / float(np.median(wall)), "peak_bytes": side.peak, "steps_s": wall.tolist()}


def ratios(results: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return ours / theirs of what ran in turn: time (median of neighbouring steps), CPU time, memory; data: speed."""
    found = {}
    if results[0]["mode"] == "data":
        ours, others = results[0], results[1:]
        for theirs in others:
            ratio = found[theirs["name"]] = {}
            if "images_per_cpu_s" in ours:
                ratio["speed_per_cpu_time"] = float(np.median(np.divide(ours["cpu_rates"], theirs["cpu_rates"])))
            else:
                ratio["speed"] = float(np.median(np.divide(ours["rates"], theirs["rates"])))
                ratio["speed_per_worker"] = ratio["speed"] / ours["workers"]
        return found
    for ours, theirs in zip(results, results[1:]):
        if ours["name"] == OURS and theirs["name"] in (TORCH, ONNX):
            found[ours["mode"]] = {"time": quotient(ours, theirs), "cpu_time": ours["cpu_s"] / theirs["cpu_s"]}
            if theirs["name"] == TORCH:  # onnxruntime's process has made its file with MindSpore
                found[ours["mode"]]["memory"] = ours["peak_bytes"] / theirs["peak_bytes"]
        if ours["name"] == TORCH and theirs["name"] == ONNX:
            found[ours["mode"]] |= {"onnxruntime's_time": quotient(theirs, ours),
                                    "onnxruntime's_cpu_time": theirs["cpu_s"] / ours["cpu_s"]}
    for floor in (result for result in results if result["name"] == PRODUCTS[OURS]):
        sides = {result["name"]: result for result in results if result["mode"] == floor["mode"]}
        ratio = found.setdefault(floor["mode"], {})
        ratio |= {"of_it_products": quotient(floor, sides[OURS])}
        if TORCH in sides:
            ratio |= {"floor": quotient(floor, sides[TORCH]), "products": quotient(floor, sides[PRODUCTS[TORCH]])}
    return found


def quotient(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> float:
    """Return the median of time / time of neighbouring steps."""
    return float(np.median(np.divide(ours["steps_s"], theirs["steps_s"])))


def report(config: Config, results: list[dict[str, Any]], found: Mapping[str, Mapping[str, float]]) -> str:
    """Return the results as text."""
    lines = [""]
    for r in results:
        memory = f"peak memory {r['peak_bytes'] / 1e9:.2f} GB"
        if r["mode"] == "data":
            speed = (f"{r['images_per_cpu_s']:9.1f} images per second of CPU time" if "images_per_cpu_s" in r else
                     f"{r['images_per_s']:9.1f} images/s, workers: {r['workers']}, per worker "
                     f"{r['images_per_s_per_worker']:.1f}")
            lines.append(f"data   {r['name']:<15}{speed}, {memory} of the main process")
        else:
            lines.append(f"{r['mode']:<7}{r['name']:<20}{r['images_per_s']:9.2f} images/s, step {r['step_s']:.3f} s "
                         f"(median of {len(r['steps_s'])}; fastest {r['fastest_s']:.3f}, CPU time {r['cpu_s']:.3f}), "
                         f"first step {r['first_step_s']:.1f} s, {memory}, threads: {r['threads']}")
    for mode, ratio in found.items():
        data = results[0]["mode"] == "data"
        what, sides = ("data", f"{PIPELINE} / {mode}") if data else (
            mode, " / ".join([OURS, *(r["name"] for r in results[1:2] if r["name"] in (TORCH, ONNX))]))
        lines.append(f"{what:<7}{sides}: {', '.join(f'{key} {value:.2f}' for key, value in ratio.items())}"
                     .replace("_", " "))
    first = results[0]
    size = f"batches of {config.batch_size} x {config.in_channels} x {config.image_size} x {config.image_size}"
    what = [config.model, size] if first["mode"] == "data" else [
        config.model, f"{first['parameters']:,} parameters", size, first["device"], config.amp_level,
        f"{config.mode} mode", *dict.fromkeys(r["framework"] for r in results)]
    return "\n".join([", ".join(what), *lines[1:]])


def say(text: str) -> None:
    """Tell how far the measurement is."""
    print(text, file=sys.stderr, flush=True)


def main(argv: Sequence[str]) -> str:
    """Measure; returns the report. Raises UserError for a mistake of the user."""
    arguments, values = parse(argv)
    if arguments.mode == "data" and arguments.against:
        values = {"num_workers": "1"} | values  # in one process, whose CPU time then is that of the pipeline
    config = configure(arguments, values)
    against = arguments.against
    if arguments.mode == "data" and against:
        check_against(against, config)
    for name in against if arguments.mode != "data" else ():
        check_comparison(config, name)
    before = machine()
    if arguments.mode == "data":
        prepare_environment(find_model(config.model).uses_convolutions)
        steps = arguments.steps or 20
        results = (compare_pipelines(config, steps, arguments.rounds, against, say) if against
                   else compare_with_loop(config, steps, arguments.rounds, say))
    else:
        modes = ("train", "infer") if arguments.mode == "both" else (arguments.mode,)
        results = [result for mode in modes
                   for result in compare_networks(config, mode, arguments.steps or 10, against, arguments.floor)]
    found = ratios(results)
    if before["load"] > before["cores"]:
        say("The machine was busy: compare one thread with one thread, and trust CPU time more than time.")
    if arguments.json:
        everything = {"machine": before, "model": config.model, "batch_size": config.batch_size,
                      "image_size": config.image_size, "results": results, "ratios": found}
        write_whole(arguments.json, json.dumps(everything, indent=1) + "\n")
    return (f"{report(config, results, found)}\n{before['processor']}, {before['cores']} cores, load {before['load']} "
            f"before and {machine()['load']} after")


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))
