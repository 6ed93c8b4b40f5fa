"""From the configuration to an optimizer: which parameters are decayed, how fast each layer learns, which rule."""
import math
from typing import Callable, Sequence

import numpy as np
from mindspore import Parameter, nn

from common.checkpoint.weights import HEAD
from common.config.options import Config
from common.errors import UserError, nearest
from common.lr import layer_scales
from common.optimizer.rules import LARS, SGD, AdamW, Adan, Lion, NAdam, UpdateRule
from common.spec import ModelSpec

RULES = {"adamw": AdamW, "nadam": NAdam, "adan": Adan, "lion": Lion, "lars": LARS, "sgd": SGD, "momentum": SGD}


def parameter_groups(parameters: Sequence[Parameter], weight_decay: float, no_decay: Callable[[Parameter], bool],
                     scale: Callable[[Parameter], float] = lambda _: 1.0) -> list[dict]:
    """Sort parameters into groups of the same weight decay and the same factor on the learning rate.

    Args:
        parameters: in the network's order, which the optimizer keeps; frozen ones are left out.
        weight_decay: of the parameters that are decayed.
        no_decay: whether a parameter is not decayed.
        scale: factor on the learning rate of a parameter.

    Returns:
        Groups for ``UpdateRule``, the last of which states the order.
    """
    trained = [p for p in parameters if p.requires_grad]
    groups = {}
    for parameter in trained:
        key = (0.0 if no_decay(parameter) else float(weight_decay), float(scale(parameter)))
        groups.setdefault(key, []).append(parameter)
    return [{"params": members, "weight_decay": decay, "lr_scale": factor}
            for (decay, factor), members in groups.items()] + [{"order_params": trained}]


def describe_groups(optimizer: UpdateRule) -> list[str]:
    """Return one line per group for the log: how many tensors and values, which decay, which factor on the rate."""
    found = {}
    for parameter, decay, scale in zip(optimizer.parameters, optimizer.decays, optimizer.lr_scales):
        tensors, values = found.get((decay, scale), (0, 0))
        found[decay, scale] = tensors + 1, values + parameter.size
    return [f"{tensors} tensor{'' if tensors == 1 else 's'}, {values:,} values: weight decay {decay:g}"
            + (f", learning rate x {scale:.6g}" if scale != 1 else "")
            for (decay, scale), (tensors, values) in found.items()]


def decay_rule(config: Config, spec: ModelSpec) -> Callable[[Parameter], bool]:
    """Return whether a parameter is not decayed, as the configuration says.

    ``no_weight_decay_filter`` names parts of parameter names, as in the old zoo: "beta,bias" there decays norm scales,
    position tables and class tokens. Without it, ``filter_bias_and_bn`` follows the model's own rule.
    """
    parts = [part.strip() for part in config.no_weight_decay_filter.split(",") if part.strip()]
    if parts:
        return lambda parameter: any(part in parameter.name for part in parts)
    if config.filter_bias_and_bn:
        return lambda parameter: spec.no_weight_decay(parameter.name, tuple(parameter.shape))
    return lambda parameter: False


def scale_rule(config: Config, spec: ModelSpec) -> Callable[[Parameter], float]:
    """Return the factor on a parameter's learning rate: layer-wise decay where ``layer_decay`` is below 1.

    Raises:
        UserError: if the model's layers have no numbers.
    """
    if config.layer_decay is None or config.layer_decay == 1:
        return lambda parameter: 1.0
    depth = config.depth or spec.variants[spec.variant(config.model)].get("depth")
    if spec.layer_id is None or not depth:
        raise UserError(f"layer_decay: {config.layer_decay} needs a model whose layers are numbered, which {spec.name} "
                        "is not; leave layer_decay out.")
    scales = layer_scales(config.layer_decay, depth)
    return lambda parameter: scales[spec.layer_id(parameter.name, depth)]


def build_optimizer(config: Config, spec: ModelSpec, network: nn.Cell, lr: np.ndarray) -> UpdateRule:
    """Return the optimizer that the configuration names, over the trainable parameters of the network.

    Args:
        lr: learning rate of every update, float32, (updates,).

    Raises:
        UserError: for an unknown optimizer, a network without trainable parameters, or a layer-wise decay that the
            model does not offer.
    """
    if config.opt not in RULES:
        raise UserError(f"opt: '{config.opt}' is unknown; there are {', '.join(RULES)}.{nearest(config.opt, RULES)}")
    parameters = network.trainable_params()
    if not parameters:
        raise UserError(f"model: {config.model} has no trainable parameters, so there is nothing to optimize; give at "
                        "least one of them requires_grad.")
    groups = parameter_groups(parameters, config.weight_decay, decay_rule(config, spec), scale_rule(config, spec))
    options = {"centralise": config.gc_flag}
    if config.opt in ("adamw", "nadam", "adan"):
        options["eps"] = config.eps
    if config.opt in ("adamw", "nadam", "adan", "lion"):
        options |= {name: getattr(config, name) for name in ("beta1", "beta2") if getattr(config, name) is not None}
    else:
        options["momentum"] = config.momentum
    if RULES[config.opt] is SGD:
        options["nesterov"] = config.use_nesterov
    rule = RULES[config.opt](groups, lr, **options)
    if config.freeze_epochs and config.ckpt_path:
        rule.freeze(lambda name: not HEAD.search(name), math.ceil(config.freeze_epochs * len(lr) / config.epochs))
    return rule
