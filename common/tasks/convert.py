"""Weights of other programs: PyTorch and safetensors files to ``.ckpt``, and back, with a report of every tensor."""
import argparse
import sys
import zlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

from common.command import ENDING, Parser, held_back, refuse

with held_back():
    import numpy as np

from common.checkpoint.foreign import read, read_tensors, write_safetensors
from common.config.options import Config, network_keys
from common.context.device import prepare_environment
from common.errors import UserError
from common.files import ROOT
from common.spec import ModelSpec

PREPARATION = ("image_size", "eval_image_size", "crop_pct", "interpolation", "eval_interpolation", "mean", "std")
Say = Callable[[str], None]
NO_PROOF = ("all logits are 0, as those of a head that was never trained: that proves nothing about the weights before "
            "it")


def to_checkpoint(spec: ModelSpec, path: Path, out: Path, model: str = "", num_classes: int | None = None,
                  say: Say = print) -> None:
    """Convert a file of another program to a checkpoint of ours, strictly, and report line by line to ``say``.

    Raises:
        UserError: if anything is missing or does not fit, except a head when ``num_classes`` asks for another one.
    """
    from common.checkpoint.file import save_checkpoint
    from common.checkpoint.weights import load_into, weights_of

    source = read(path)
    variant, settings = spec.recognise(source.tensors, model, num_classes)
    settings = _trained_with(source.meta, spec) | settings
    network = spec.build(variant, **settings)
    converted = spec.convert(source.tensors)
    part = f" from its part '{source.part}'" if source.part else ""
    say(f"read: {len(source.tensors) + len(source.ignored)} entries of {path}{part}")
    for reason in dict.fromkeys(source.ignored.values()):
        names = [name for name, why in source.ignored.items() if why == reason]
        say(f"ignored: {len(names)}, {reason} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})")
    used = {name: value for name, value in converted.items() if not (spec.dead and spec.dead(name, network))}
    _say_differences(say, {name: p.shape for name, p in weights_of(network).items()
                           if not (spec.dead and spec.dead(name, network))}, used)
    report = load_into(network, converted, path, new_head=num_classes is not None, dead=spec.dead)
    say(f"matched: {len(report.matched)}")
    _say_dead(say, report.dead)
    if report.new:
        say(f"new, with initial values: {', '.join(report.new)}")
    say(_variant(spec, variant, settings))
    weights = weights_of(network)
    if not settings.get("num_classes", 1):
        settings.pop("num_classes")  # weights without a head fit any number of classes
    meta = {"family": spec.name, "model": variant, "source": path.name,
            "config": {"model": variant, **settings, **_preparation(source.meta)}}
    if num_classes is None and source.meta.get("classes"):
        meta["classes"] = source.meta["classes"]
    save_checkpoint(out, weights, meta)


def to_safetensors(spec: ModelSpec, path: Path, out: Path, model: str = "", say: Say = print
                   ) -> dict[str, np.ndarray]:
    """Write the network of one of our checkpoints as safetensors under the authors' names, bit for bit.

    The file also says which network it is, the names of the classes, and how images are prepared.

    Returns:
        What was written, under the authors' names.

    Raises:
        UserError: if the checkpoint is not a whole network of this family, or ``out`` cannot be written.
    """
    from common.checkpoint.file import load_checkpoint
    from common.checkpoint.weights import load_into, network_tensors

    tensors, meta = load_checkpoint(path)
    average = meta.get("config", {}).get("ema", False)
    ours = {name: value for name, value in network_tensors(tensors, ema=average).items()
            if not name.endswith("random_state")}
    say(f"read: {len(tensors)} tensors of {path}")
    if len(tensors) > len(ours):
        say(f"ignored: {len(tensors) - len(ours)}, state of the training"
            + (" and the weights before averaging" if average else ""))
    variant, settings = spec.recognise(ours, model)
    settings = _trained_with(meta, spec) | settings
    network = spec.build(variant, **settings)
    report = load_into(network, ours, path, dead=spec.dead)
    say(f"matched: {len(report.matched)}")
    _say_dead(say, report.dead)
    say(_variant(spec, variant, settings))
    description = {"family": spec.name, "model": variant, "classes": meta.get("classes", []),
                   "config": settings | _preparation(meta)}
    theirs = spec.restore(ours)
    write_safetensors(out, theirs, description)
    return theirs


def _trained_with(meta: Mapping[str, Any], spec: ModelSpec) -> dict[str, Any]:
    """Return the arguments of the network that a checkpoint names; some, such as heads, cannot be seen in shapes."""
    held = meta.get("config", {})
    return {key: held[key] for key in network_keys(spec.options or Config) if held.get(key) is not None}


def _preparation(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a file says that images are prepared."""
    held = meta.get("config", {})
    return {key: held[key] for key in PREPARATION if key in held}


def _say_differences(say: Say, network: Mapping[str, Sequence[int]], tensors: Mapping[str, np.ndarray]) -> None:
    for name, shape in network.items():
        if name not in tensors:
            say(f"missing: {name} {tuple(shape)}")
        elif tuple(shape) != tensors[name].shape:
            say(f"shape: {name} is {tensors[name].shape} in the file and {tuple(shape)} in the network")
    for name in tensors:
        if name not in network:
            say(f"unexpected: {name} {tensors[name].shape}")


def _say_dead(say: Say, names: Sequence[str]) -> None:
    if names:
        say(f"without effect: {len(names)}, only in the file ({', '.join(names[:3])}"
            f"{', ...' if len(names) > 3 else ''})")


def _variant(spec: ModelSpec, variant: str, settings: Mapping[str, Any]) -> str:
    extra = ", ".join(f"{key} {value}" for key, value in settings.items())
    return f"model: {spec.name_of({'model': variant} | settings)} with {extra}"


def fixed_image(channels: int, height: int, width: int) -> np.ndarray:
    """Return one smooth image, (1, C, H, W) float32 with values around 0, the same on every machine."""
    c, i, j = np.meshgrid(np.arange(channels), np.arange(height), np.arange(width), indexing="ij")
    return (np.sin(0.05 * i + 0.3 * c) + np.cos(0.03 * (c + 1) * j))[None].astype(np.float32)


def verify(network: Any, in_channels: int, image_size: tuple[int, int]) -> list[str]:
    """Run the fixed image through a network and describe the result so that two machines can be compared.

    Returns:
        Lines with a checksum of the weights (equal everywhere), one of the logits (equal up to rounding), and the top
        five classes.
    """
    from common.checkpoint.weights import weights_of

    checksum = 0
    for name, parameter in sorted(weights_of(network).items()):
        checksum = zlib.crc32(parameter.asnumpy().tobytes(), zlib.crc32(name.encode(), checksum))
    logits = _logits(network, fixed_image(in_channels, *image_size))
    probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    best = np.argsort(-logits, kind="stable")[:5]
    mixed = float((logits * np.cos(np.arange(len(logits)))).sum())
    lines = [f"weights: crc32 {checksum:08x}",
            f"logits of the fixed image: norm {np.linalg.norm(logits):.4f}, checksum {mixed:.4f} (on another machine "
            "the last digit may differ)",
            "top five: " + ", ".join(f"class {k} {probabilities[k]:.4f}" for k in best)]
    return lines if logits.any() else [*lines, NO_PROOF]


def _logits(network: Any, image: np.ndarray) -> np.ndarray:
    """Run one image through a network in evaluation mode; float64, (classes,)."""
    import mindspore as ms

    ms.set_context(mode=ms.PYNATIVE_MODE)
    return network.set_train(False)(ms.Tensor(image)).asnumpy()[0].astype(np.float64)


def compare_with_timm(spec: ModelSpec, name: str, settings: Mapping[str, Any], network: Any) -> str:
    """Give timm's network ``name`` the weights of ours, run the fixed image through both, and say how they agree.

    Raises:
        UserError: if timm's network has other tensors, or if the logits differ by more than 1e-4 (for large logits, of
            the largest).
    """
    import timm
    import torch

    from common.checkpoint.weights import weights_of

    size = settings.get("image_size", 224)
    options = {"num_classes": settings.get("num_classes", 1000), "in_chans": settings.get("in_channels", 3)}
    reference = timm.create_model(name, **options, **({} if size == 224 else {"img_size": size})).eval()
    theirs = spec.restore({key: parameter.asnumpy() for key, parameter in weights_of(network).items()})
    try:
        reference.load_state_dict({key: torch.from_numpy(value) for key, value in theirs.items()})
    except RuntimeError as error:
        raise UserError(f"against: timm's {name} has other tensors: {' '.join(str(error).split())[:200]}.") from error
    image = fixed_image(options["in_chans"], *_height_width(settings))
    with torch.no_grad():
        expected = reference(torch.from_numpy(image))[0].double().numpy()
    difference, largest = np.abs(_logits(network, image) - expected).max(), np.abs(expected).max()
    if not difference <= 1e-4 * max(1.0, largest):
        raise UserError(f"against: the logits differ from those of timm's {name} by up to {difference:.2g}.")
    if not largest:
        return f"against timm's {name}: {NO_PROOF}"
    return f"against timm's {name}: the logits, up to {largest:.4g}, differ by at most {difference:.2g}"


def main(spec: ModelSpec, argv: Sequence[str] | None = None, *, published: str = "", address: str = "",
         timm: Mapping[str, str] | None = None) -> None:
    """Run ``pth2ckpt.py`` of a model and exit: 0 when the file is written, 2 with one sentence for a mistake.

    Args:
        spec: the model.
        argv: command line without the program; ``None``: that of the process.
        published: pattern of the authors' file names, one of which is looked for when none is named.
        address: where the authors publish them.
        timm: variant -> name of the same network in timm, for ``--against timm``.
    """
    if argv is None:
        ENDING.begin()
    parser = Parser(f"python {spec.name}/pth2ckpt.py", f"Convert {spec.name} weights: .pth or .safetensors to .ckpt, or "
                    "a .ckpt back to .safetensors with the authors' names.")
    default = f" (default: {published}, here or in checkpoint/)" if published else ""
    parser.add_argument("--ckpt_path", required=not published, default="", help="file with weights: .pth, .pt, .bin, "
                        f".safetensors or .ckpt{default}")
    parser.add_argument("--model", default="", help="variant to expect (default: found from the shapes): "
                        + ", ".join(spec.variants))
    parser.add_argument("--out", default="", help="file to write (default: beside the input, with the other suffix)")
    parser.add_argument("--num_classes", type=int, help="give the network a new head with so many outputs (default: "
                        "keep the head); only for .ckpt output")
    parser.add_argument("--verify", action="store_true", help="run one fixed image through the written file and print "
                        "the top five classes and checksums")
    parser.add_argument("--against", choices=["timm"], help="run the fixed image through the written file's network "
                        "and through timm's with the same weights, and compare the logits")
    prepare_environment(spec.uses_convolutions)
    try:
        options = parser.parse_args(argv)
        options.ckpt_path = options.ckpt_path or _published(spec, published, address)
        _run(options, spec, timm or {})
    except Exception as error:
        sys.exit(refuse(error))


def _published(spec: ModelSpec, pattern: str, address: str) -> str:
    """Find the one file of the authors that lies in the working directory or the model's folder, or in checkpoint/."""
    homes = [Path.cwd(), ROOT / spec.name]
    folders = dict.fromkeys(folder for home in homes for folder in (home, home / "checkpoint"))
    found = [file for folder in folders for file in sorted(folder.glob(pattern))]
    if len(found) != 1:
        what = (f"there are {', '.join(map(str, found))}" if found
                else f"no {pattern} is in {', '.join(map(str, folders))}, and the authors' are at {address}")
        raise UserError(f"ckpt_path: name the file to convert (--ckpt_path FILE.pth); {what}.")
    return str(found[0])


def _run(options: argparse.Namespace, spec: ModelSpec, timm: Mapping[str, str]) -> None:
    path = Path(options.ckpt_path).expanduser()
    back = path.suffix == ".ckpt"
    suffix = ".safetensors" if back else ".ckpt"
    out = Path(options.out).expanduser() if options.out else path.with_suffix(suffix)
    if out.suffix != suffix:
        raise UserError(f"out: {out} must end in {suffix}.")
    if options.num_classes is not None and (back or options.num_classes < 1):
        raise UserError(f"num_classes: {options.num_classes} must be a positive number, and is only for .ckpt output.")
    if options.against and not timm:
        raise UserError(f"against: timm has no {spec.name}; --verify prints checksums that two machines can compare.")
    if options.against and not (find_spec("torch") and find_spec("timm")):
        raise UserError("against: comparing needs torch and timm; 'pip install torch timm', or leave --against out.")
    if back:
        to_safetensors(spec, path, out, options.model)
    else:
        to_checkpoint(spec, path, out, options.model, options.num_classes)
    print(f"written: {out} ({out.stat().st_size / 1e6:.2f} MB)")
    if options.verify or options.against:
        variant, settings, network = _read_again(spec, out)
        if options.verify:
            print("\n".join(verify(network, settings.get("in_channels", 3), _height_width(settings))))
        if options.against:
            print(compare_with_timm(spec, timm[variant], settings, network))


def _read_again(spec: ModelSpec, path: Path) -> tuple[str, dict[str, Any], Any]:
    """Read a written file and fill a new network with it; returns its variant, the further arguments, the network."""
    from common.checkpoint.file import load_checkpoint
    from common.checkpoint.weights import load_into

    tensors, meta = load_checkpoint(path) if path.suffix == ".ckpt" else (read_tensors(path), {})
    variant, settings = spec.recognise(tensors)
    settings = _trained_with(meta, spec) | settings
    network = spec.build(variant, **settings)
    load_into(network, spec.convert(tensors), path, dead=spec.dead)
    return variant, settings, network


def _height_width(settings: Mapping[str, Any]) -> tuple[int, int]:
    size = settings.get("image_size", 224)
    return (size, size) if isinstance(size, int) else tuple(size)
