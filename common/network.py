"""The network of a configuration: built, filled from a checkpoint, and put into the device's precision."""
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn

from common.checkpoint.file import load_checkpoint
from common.checkpoint.weights import LoadReport, load_into, network_tensors
from common.config.load import network_arguments
from common.config.options import TRAINING_TASKS, Config, fields_of
from common.context.compiling import compile_with
from common.context.ranks import Runtime
from common.context.tuning import is_first_generation
from common.errors import UserError
from common.layers.fused_attention import DEVICE as FUSED_ON, fuse_attention
from common.layers.precision import apply_precision
from common.layers.recompute import recompute_blocks
from common.layers.sync_batch_norm import synchronise
from common.logger import get_logger
from common.spec import ModelSpec, program

# keys about a call, of which no graph depends
NOT_IN_GRAPHS = ("task", "ckpt_path", "compile_cache", "log_interval", "open_profiler", "num_threads")


def check_family(meta: dict[str, Any], config: Config, spec: ModelSpec) -> None:
    """Refuse a checkpoint that says it holds another model.

    Raises:
        UserError: naming both.
    """
    held, wanted = (meta.get("family"), meta.get("model")), (spec.name, config.model)
    if held[0] and held != wanted:
        advice = f"give --model {held[1]}" if held[0] == spec.name else f"use {program(held[0], config.task)}"
        raise UserError(f"the checkpoint holds {held[1]} (a {held[0]} model), but the configuration asks for "
                        f"{wanted[1]}; {advice} or another checkpoint.")


def check_weights(tensors: dict[str, np.ndarray], meta: dict[str, Any], config: Config, spec: ModelSpec,
                  network: nn.Cell) -> None:
    """Refuse weights of which the model knows that they are for another network of the family.

    Raises:
        UserError: saying which.
    """
    problem = spec.misfit(tensors, meta, network) if spec.misfit else ""
    if problem:
        raise UserError(f"ckpt_path: {config.ckpt_path} {problem}")


def build_network(config: Config, spec: ModelSpec, world_size: int = 1) -> nn.Cell:
    """Build the network of a configuration at its precision; with ``sync_bn``, for training on so many ranks."""
    network = spec.build(config.model, num_classes=config.num_classes, image_size=config.image_size,
                         in_channels=config.in_channels, drop_path_rate=config.drop_path_rate,
                         **network_arguments(config))
    _check_sizes(config, network)
    if config.sync_bn and world_size > 1:
        synchronise(network, world_size)
    device = ms.get_current_device()[0]
    if config.amp_level == "bf16" and device != "Ascend":
        raise UserError("amp_level: bf16 is for Ascend (910B and newer); MindSpore's operators for "
                        f"{device} know no bfloat16. Give O0 to O3.")
    if config.amp_level != "O0" and device == "CPU":
        get_logger().warning(f"amp_level: {config.amp_level} on a CPU only shows that it works: float16 is slower "
                             "there than O0.")
    if spec.float32_products and is_first_generation():
        get_logger().warning(f"{spec.float32_products}; this Ascend 910 of the first generation multiplies in float16. "
                             "Nobody has measured what that does to the result.")
    if config.recompute and config.task in TRAINING_TASKS:
        recompute_blocks(network)
    if getattr(config, "fused_attention", False) and device == FUSED_ON and config.amp_level != "O0":
        fuse_attention(network)
    return apply_precision(network, config.amp_level)


def _check_sizes(config: Config, network: nn.Cell) -> None:
    """Refuse another size for evaluation where the network is built for one: its cells say so with ``image_size``."""
    built_for = {size for _, cell in network.cells_and_names()
                 if isinstance(size := getattr(cell, "image_size", None), tuple)}
    side = config.eval_image_size or config.image_size
    if built_for - {(side, side)} and config.task != "pretrain":
        raise UserError(f"eval_image_size: {side} differs from image_size: {config.image_size}, but {config.model} "
                        "takes images of the one size for which it is built; leave eval_image_size out, or give both "
                        "the same value.")


def load_network(config: Config, spec: ModelSpec) -> tuple[nn.Cell, LoadReport, list[str]]:
    """Build the network of a configuration and fill it from ``config.ckpt_path``, in evaluation mode.

    Returns:
        The network, what was loaded, and the class names that the checkpoint holds (none, if it holds none).

    Raises:
        UserError: if there is no checkpoint, or it does not fit; a network with random weights is never returned.
    """
    if not config.ckpt_path:
        raise UserError("ckpt_path: name the checkpoint to use (--ckpt_path FILE.ckpt).")
    tensors, meta = load_checkpoint(config.ckpt_path)
    check_family(meta, config, spec)
    network = build_network(config, spec)
    tensors = network_tensors(tensors, ema=meta.get("config", {}).get("ema", config.ema))
    check_weights(tensors, meta, config, spec, network)
    report = load_into(network, tensors, config.ckpt_path, dead=spec.dead)
    network.set_train(False)
    return network, report, meta.get("classes", [])


def compiled_as_wanted(cell: nn.Cell, config: Config, runtime: Runtime, fused: bool = False) -> nn.Cell:
    """Let a cell be compiled as the configuration says, see ``common.context.compiling``; on a CPU in graph mode.

    Args:
        cell: what is called: a step of training or evaluation, or a network.
        fused: with operators fused, which is proved in float32 alone.
    """
    if runtime.device != "CPU" or config.mode != "graph":
        return cell
    facts = [(name, getattr(config, name)) for name, field in fields_of(type(config)).items()
             if field.metadata["section"] in ("run", "model", "loss", "optim") and name not in NOT_IN_GRAPHS]
    return compile_with(cell, fused=fused and config.amp_level == "O0", facts=facts,
                        cache=config.compile_cache if runtime.world_size == 1 else "")
