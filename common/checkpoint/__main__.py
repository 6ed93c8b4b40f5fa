"""Look at checkpoints, compare and average them.

    python -m common.checkpoint list PATH ...      what each holds; exit code 1 if one cannot be read
    python -m common.checkpoint verify PATH ...    whether each is whole and finite; exit code 1 if one is not
    python -m common.checkpoint diff A B           what differs in description, configuration, tensors; code 1 if
                                                   anything does
    python -m common.checkpoint average PATH ... --out FILE [--last N | --best N] [--greedy [flags of eval.py]]
                                                   the mean of their weights, for eval.py, export.py, --ckpt_path

PATH is a .ckpt file, or the folder of a run, which stands for its checkpoints.
"""
import argparse
import os
import sys
from pathlib import Path
from typing import Any, Mapping, Sequence

import numpy as np

os.environ.setdefault("GLOG_v", "3")  # errors only: read when MindSpore is imported

from common.checkpoint.average import average, checkpoints_of, choose, evaluate, greedy
from common.checkpoint.file import load_checkpoint, save_checkpoint
from common.checkpoint.weights import network_tensors
from common.command import Parser, run
from common.errors import UserError

SHOWN = 10  # names of one kind


def describe(path: Path) -> list[str]:
    """Return what a checkpoint holds: file, model, epoch, top-1, parameters, and what there is beside the weights."""
    tensors, meta = load_checkpoint(path)
    kinds = [kind for kind in ("ema", "optimizer") if any(name.startswith(f"{kind}.") for name in tensors)]
    top1 = meta.get("row", {}).get("top1")
    parts = [f"average of {len(meta['averaged'])}"] if "averaged" in meta else []
    epoch = f"{meta['epoch']}" + (f" + {meta['step']} steps" if meta.get("step") else "") if "epoch" in meta else ""
    count = sum(value.size for value in network_tensors(tensors).values())
    return [str(path), f"{path.stat().st_size / 1e6:.1f} MB", meta.get("model", "?"), epoch or "-",
            "-" if top1 is None else f"{top1:.2%}", f"{count:,}", ", ".join(["weights", *kinds, *parts])]


def list_checkpoints(paths: Sequence[Path]) -> int:
    """Print a line per checkpoint, and below what cannot be read; returns the exit code."""
    rows, wrong = [["file", "size", "model", "epoch", "top-1", "parameters", "holds"]], []
    for path in paths:
        try:
            rows.append(describe(path))
        except UserError as error:
            wrong.append(f"WRONG: {error}")
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in rows]
    print("\n".join(lines + wrong))
    return int(bool(wrong))


def verify(paths: Sequence[Path]) -> int:
    """Read every checkpoint whole, and print what is wrong; returns the exit code."""
    wrong = 0
    for path in paths:
        try:
            tensors, _ = load_checkpoint(path)
            bad = [name for name, value in tensors.items() if value.dtype.kind == "f" and not np.isfinite(value).all()]
            problem = f"{path}: {len(bad)} tensors are not finite: {_first(bad)}." if bad else ""
        except UserError as error:
            problem = str(error)
        print(f"WRONG: {problem}" if problem else f"whole: {path}, {len(tensors)} tensors")
        wrong += bool(problem)
    return int(wrong > 0)


def diff(first: Path, second: Path) -> int:
    """Print what differs between two checkpoints; returns the exit code."""
    (tensors, meta), (others, other_meta) = map(load_checkpoint, (first, second))
    config, other_config = meta.pop("config", {}), other_meta.pop("config", {})
    lines = differences(meta, other_meta)
    if config and other_config:
        lines += [f"config {line}" for line in differences(config, other_config)]
    elif config or other_config:
        lines.append(f"configuration only in {first if config else second}")
    for names, where in ((tensors.keys() - others.keys(), first), (others.keys() - tensors.keys(), second)):
        lines += [f"{len(names)} tensors only in {where}: {_first(sorted(names))}"] if names else []
    both = [name for name in tensors if name in others]
    shapes = [f"{name} {tensors[name].shape} {others[name].shape}" for name in both
              if tensors[name].shape != others[name].shape]
    lines += [f"{len(shapes)} tensors of another shape: {_first(shapes)}"] if shapes else []
    apart = {}
    for name in both:
        one, other = (held[name].astype(np.float64) for held in (tensors, others))
        if one.shape == other.shape and not np.array_equal(one, other, equal_nan=True):
            apart[name] = (np.linalg.norm(one - other) / (np.linalg.norm(one) or 1.0), np.abs(one - other).max())
    if apart:
        lines.append(f"{len(apart)} tensors of other values, the most different (relative to the norm of the first):")
        lines += [f"  {name}: {share:.3g}, at most {most:.3g}"
                  for name, (share, most) in sorted(apart.items(), key=lambda item: -item[1][0])[:SHOWN]]
    print("\n".join(lines + [f"{len(both) - len(apart) - len(shapes)} tensors are equal"]))
    return int(bool(lines))


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return a line for every key whose values differ."""
    return [f"{key}: {one.get(key)} -> {other.get(key)}" for key in one | other if one.get(key) != other.get(key)]


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def write_average(options: argparse.Namespace, flags: Sequence[str]) -> int:
    """Write the average that the command line asks for."""
    if options.out.suffix != ".ckpt":
        raise UserError(f"out: {options.out} should be a file whose name ends in .ckpt.")
    paths = checkpoints_of(options.paths)
    if options.last or options.best or any(path.is_dir() for path in options.paths):
        paths = choose(paths, options.last, options.best)
    if options.greedy:
        paths = greedy(paths, lambda path: evaluate(path, flags), lambda line: print(line, flush=True))
    tensors, meta = average(paths)
    save_checkpoint(options.out, tensors, meta)
    print(f"{options.out} is the average of {len(paths)}: {', '.join(path.name for path in paths)}")
    return 0


def main(argv: Sequence[str]) -> int:
    """Do what the command line says; returns the exit code.

    Raises:
        UserError: for any mistake in it, or a file that cannot be read.
    """
    parser = Parser("common.checkpoint", __doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("list", "verify", "diff", "average"):
        command = commands.add_parser(name)
        command.add_argument("paths", nargs=2 if name == "diff" else "+", type=Path, metavar="PATH",
                             help="file or folder of a run" if name != "diff" else "file")
    command.add_argument("--out", type=Path, required=True, help="the file to write")
    kind = command.add_mutually_exclusive_group()
    kind.add_argument("--last", type=_count, default=0, help="so many of the highest epochs")
    kind.add_argument("--best", type=_count, default=0, help="so many of the highest top-1 during the training")
    command.add_argument("--greedy", action="store_true", help="of those, only the ones that do not make the average "
                         "worse, by eval.py, which gets all other flags, such as --data_dir; decide by other images "
                         "than those of your final result")
    options, flags = parser.parse_known_args(argv)
    if flags and not getattr(options, "greedy", False):
        parser.error(f"unrecognized arguments: {' '.join(flags)}")
    if options.command == "diff":
        return diff(*options.paths)
    if options.command == "average":
        return write_average(options, flags)
    return {"list": list_checkpoints, "verify": verify}[options.command](checkpoints_of(options.paths))


def _count(text: str) -> int:
    if not text.isdigit() or text == "0":
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return int(text)


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))
