"""Export a checkpoint: a story from top to bottom."""


from pathlib import Path

from common.config.options import Config
from common.context.device import start
from common.export.contents import Contents, Deployed
from common.export.description import preprocessing_of
from common.export.write import choose_format, export_network
from common.files import ROOT
from common.network import load_network
from common.run import open_console
from common.spec import ModelSpec


def export(config: Config, spec: ModelSpec) -> Path:
    """Write the network of ``config.ckpt_path``, or a part of it, as a file for inference, load it again and compare.

    Raises:
        UserError: for any mistake in the configuration or the checkpoint.
    """
    runtime = start(config)
    open_console(spec, runtime)
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
    name = spec.display_name(config.model) + ("" if config.part == "classifier" else f"_{config.part}")
    beside = ROOT / spec.name  # where export.py lies
    return export_network(network, input_shape=(batch, config.in_channels, size, size),
                          file_name=config.file_name or (beside if beside.is_dir() else Path()) / name,
                          file_format=config.file_format, model=config.model, class_names=classes,
                          preprocessing=preprocessing, verify=config.verify, contents=contents)
