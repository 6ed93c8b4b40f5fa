"""All models by name, for programs of one's own::

    from common import create_model, list_models

    list_models("gmlp*")                                                  # ['gmlp_b', 'gmlp_s', 'gmlp_ti']
    network = create_model("gmlp_s", num_classes=10, ckpt_path="gmlp_S.ckpt")
    stages = create_model("soft_tiny", features=True)                     # a tuple: the tokens after each stage

The package must be found: ``PYTHONPATH=/path/to/this/repository python program.py``.
"""
import contextlib
import logging
import re
from pathlib import Path
from typing import Any, Iterator

import numpy as np
from mindspore import nn

from common.checkpoint.file import load_checkpoint
from common.checkpoint.foreign import read
from common.checkpoint.weights import load_into, network_tensors
from common.config.options import Config, network_keys
from common.errors import UserError
from common.spec import ModelSpec, find_model

logger = logging.getLogger(__name__)


class StageOutputs(nn.Cell):
    """A network that gives what it has after each of its stages.

    Inputs: images, float32 (B, C, H, W).   Output: a tuple, per stage a map (B, C, H, W) or tokens (B, N, C).
    """

    def __init__(self, network: nn.Cell):
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, images):
        return self.network.stage_outputs(images)


def create_model(name: str, num_classes: int | None = None, ckpt_path: str | Path = "", features: bool = False,
                 **arguments: Any) -> nn.Cell:
    """Build a network, with weights from a file if one is named.

    Args:
        name: a variant, see ``list_models``, in any of its spellings.
        num_classes: outputs of the head; 0: no head, the output is the pooled features (B, D), which the head would
            read; ``None``: as many as the weights have, else 1000 (``hlg_mobile`` 1001).
        ckpt_path: weights: a file of this zoo, ``.ckpt`` or ``.safetensors``, or the authors'. A head for another
            number of classes than ``num_classes`` is left out, and the new one keeps its initial values.
        features: return the outputs of all stages, see ``StageOutputs``, instead of logits.
        arguments: further arguments of the network, such as ``image_size`` or ``depth``; those that a checkpoint
            implies need not be given.

    Returns:
        An ``nn.Cell`` in evaluation mode: float32 images (B, C, H, W) -> logits, float32 (B, num_classes); of a
        masked autoencoder (images, noise) -> (loss, prediction, mask). MAE's encoder as a network of its own is the
        ViT of the same size with ``num_classes=0`` and the checkpoint of the pre-training.

    Raises:
        UserError: for an unknown name, arguments that do not fit together, or weights that do not fit.
    """
    with _arguments_are_no_flags():
        spec = find_model(name)
        variant = spec.variant(name)
        tensors, implied = _weights(spec, variant, ckpt_path) if ckpt_path else ({}, {})
        settings = implied | arguments
        outputs = implied.get("num_classes") if num_classes is None else num_classes
        network = spec.build(variant, **settings | {"num_classes": outputs or None})
        if num_classes == 0 and hasattr(network, "head"):
            network.head = nn.Identity()
        if ckpt_path:
            tensors, new = spec.fit(tensors, network) if spec.fit else (tensors, [])
            report = load_into(network, tensors, ckpt_path, new_head=num_classes is not None, new=new, dead=spec.dead)
            logger.info("%s with the weights of %s: %s", name, ckpt_path, report.summary())
    if features and not hasattr(network, "stage_outputs"):
        raise UserError(f"features: {name} has no stages whose outputs it could give; choose a classifier.")
    return (StageOutputs(network) if features else network).set_train(False)


def _weights(spec: ModelSpec, variant: str, path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read weights under our names, and the arguments of this variant's network that they imply.

    Raises:
        UserError: if they are of another model, or of other sizes than the variant has and no run's configuration
            says that this is meant.
    """
    sizes = {key for key in spec.variants[variant] if key in network_keys(spec.options or Config)}
    ours = Path(path).suffix == ".ckpt"
    if ours:
        tensors, meta = load_checkpoint(path)
    else:
        source = read(path)
        tensors, meta = source.tensors, source.meta
    if meta.get("family", spec.name) != spec.name:
        raise UserError(f"ckpt_path: {path} holds {meta.get('model')}, a {meta['family']} model; create that one.")
    average = meta.get("config", {}).get("ema", False)
    tensors = network_tensors(tensors, ema=average) if ours else spec.convert(tensors)
    implied = spec.architecture(tensors) if spec.architecture else {}
    held = {key: value for key, value in meta.get("config", {}).items() if value is not None}
    if not held and any(implied.get(key, value) != value for key, value in spec.variants[variant].items()
                        if key in sizes):
        spec.recognise(tensors, variant)  # says what differs
    wanted = sizes | {"num_classes", "image_size", "in_channels"}
    return tensors, {key: value for key, value in (implied | held).items() if key in wanted}


@contextlib.contextmanager
def _arguments_are_no_flags() -> Iterator[None]:
    """Name arguments where a sentence for the command line names flags: ``num_classes=10`` for ``--num_classes 10``."""
    try:
        yield
    except UserError as error:
        raise UserError(re.sub(r"--(\w+)( (?=[\w\[]))?", lambda found: found[1] + ("=" if found[2] else ""),
                               str(error))) from error
