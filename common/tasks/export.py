"""Export a checkpoint: a story from top to bottom."""

from pathlib import Path
from typing import Callable

from common.checkpoint.foreign import read_tensors
from common.config.options import Config
from common.context.device import start
from common.errors import UserError
from common.export.contents import Contents, Deployed
from common.export.description import preprocessing_of
from common.export.write import choose_format, export_network
from common.files import ROOT
from common.network import load_network
from common.run.training import open_console
from common.spec import ModelSpec
from common.tasks.convert import to_safetensors


def export(config: Config, spec: ModelSpec) -> Path:
    """Write the network of ``config.ckpt_path``, or a part of it, as a file for inference, load it again and compare.

    Raises:
        UserError: for any mistake in the configuration or the checkpoint.
    """
    runtime = start(config)
    logger = open_console(config, spec, runtime)
    if config.file_format == "SAFETENSORS":
        return export_weights(config, spec, logger.info)
    choose_format(config.file_format)  # before anything is built
    contents = Contents(config.part, config.with_preprocess, config.softmax)
    preprocessing, classes = preprocessing_of(config), []
    found = spec.export_part(config, spec) if spec.export_part else None
    if found:
        network, contents = found
    else:
        network, _, classes = load_network(config, spec)
    if contents.part != "reconstruction" and (contents.normalization or contents.softmax):
        statistics = (preprocessing["mean"], preprocessing["std"]) if contents.normalization else ((), ())
        network = Deployed(network, *statistics, contents.softmax)
    size, batch = preprocessing["image_size"], None if config.batch_size == "dynamic" else config.batch_size
    return export_network(network, input_shape=(batch, config.in_channels, size, size),
                          file_name=_file_name(config, spec),
                          file_format=config.file_format, model=spec.name_of(vars(config)), class_names=classes,
                          preprocessing=preprocessing, verify=config.verify, contents=contents)


def export_weights(config: Config, spec: ModelSpec, say: Callable[[str], None]) -> Path:
    """Write the weights alone, under the authors' names, and compare what is read again bit for bit.

    Raises:
        UserError: if what only a file with a network can hold is wanted too, or the checkpoint does not fit.
    """
    if config.with_preprocess or config.softmax or config.part != "classifier":
        raise UserError("file_format: SAFETENSORS holds the weights of the whole network and nothing else; leave "
                        "with_preprocess, softmax and part out.")
    if not config.ckpt_path:
        raise UserError("ckpt_path: name the checkpoint to use (--ckpt_path FILE.ckpt).")
    file = Path(_file_name(config, spec))
    file = file if file.suffix == ".safetensors" else file.with_name(f"{file.name}.safetensors")
    written = to_safetensors(spec, Path(config.ckpt_path), file, say=say)
    if config.verify:
        found = read_tensors(file)
        if found.keys() != written.keys() or any(found[name].tobytes() != written[name].tobytes() for name in written):
            raise RuntimeError(f"What is read from {file} is not what was written.")
    say(f"Exported {file}: {len(written)} tensors" + (", equal when read again" if config.verify else ""))
    return file


def _file_name(config: Config, spec: ModelSpec) -> str | Path:
    """Return the file to write, with or without its ending; by default beside export.py."""
    name = spec.file_name_of(vars(config)) + ("" if config.part == "classifier" else f"_{config.part}")
    beside = ROOT / spec.name
    return config.file_name or (beside if beside.is_dir() else Path()) / name
