"""Tensors of a checkpoint into a network: what fits, what is missing, what is left out."""
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Iterable, Mapping, Sequence

import numpy as np
from mindspore import Parameter, Tensor, nn

from common.errors import UserError

TRAINING_PREFIXES = ("train.", "ema.", "optimizer.", "adam_m.", "adam_v.")  # the last two: files of the old zoo
TRAINING_NAMES = re.compile("global_step|learning_rate.*|weight_decay.*|momentum|beta[12]_power|scale_sense|loss_scale"
                            "|(current|last_overflow)_iterator_step|(epoch|step)_num")  # likewise
HEAD = re.compile(r"(^|\.)head(\.|$)")
EXTRA_OUTPUT = (" (networks of the old zoo have one output more than ImageNet has classes, the last, which stays "
                "unused: labels are 0 to 999 either way)")


@dataclass
class LoadReport:
    """What happened to each tensor of a checkpoint.

    Attributes:
        matched: names of the parameters that were loaded.
        missing: parameters of the network that the checkpoint lacks.
        unexpected: tensors of the checkpoint that the network lacks.
        shapes: name -> (shape in the network, shape in the checkpoint), where they differ.
        new: parameters that keep their initial values on purpose (a head for other classes).
        resized: those of the matched that were fitted to another shape.
        left_out: tensors of the checkpoint that are not needed.
        dead: those that have no effect, and that the network therefore lacks.
    """

    matched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    new: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    dead: list[str] = field(default_factory=list)

    def fits(self) -> bool:
        return bool(self.matched) and not (self.missing or self.unexpected or self.shapes)

    def problem(self) -> str:
        """Say in one clause what does not fit, naming the first few tensors of each kind."""
        parts = [f"{len(names)} {what} ({_first(names)})" for what, names in
                 (("missing", self.missing), ("unexpected", self.unexpected)) if names]
        if self.shapes:
            shown = [f"{name}: network {ours}, checkpoint {theirs}" for name, (ours, theirs) in self.shapes.items()]
            parts.append(f"{len(self.shapes)} of another shape ({_first(shown)})")
        return ", ".join(parts) or "nothing matched"

    def summary(self) -> str:
        return ", ".join(self.lines())

    def lines(self) -> list[str]:
        """Return a line for each kind of thing that happened."""
        parts = [f"{what}: {', '.join(names)}"
                 for what, names in (("resized", self.resized), ("new", self.new)) if names]
        if self.left_out:
            parts.append(f"left out: {len(self.left_out)} ({_first(self.left_out)})")
        if self.dead:
            parts.append(f"without effect and left out: {len(self.dead)} ({_first(self.dead)})")
        return [f"{len(self.matched)} tensors loaded", *parts]


def weights_of(network: nn.Cell) -> dict[str, Parameter]:
    """Return the network's parameters by name, without the state of its random cells."""
    return {p.name: p for p in network.get_parameters() if not p.name.endswith("random_state")}


def network_tensors(tensors: Mapping[str, np.ndarray], ema: bool = False) -> dict[str, np.ndarray]:
    """Select the network's tensors of a checkpoint: the weights, or their moving average if it holds one."""
    if ema and any(name.startswith("ema.") for name in tensors):
        return {name[len("ema."):]: value for name, value in tensors.items() if name.startswith("ema.")}
    return {name: value for name, value in tensors.items()
            if not name.startswith(TRAINING_PREFIXES) and not TRAINING_NAMES.fullmatch(name)}


def load_into(network: nn.Cell, tensors: Mapping[str, np.ndarray], source: str | Path, *,
              new_head: bool = False, new: Sequence[str] = (),
              dead: Callable[[str, nn.Cell], bool] | None = None) -> LoadReport:
    """Load tensors into a network; every parameter must be filled and every tensor used.

    Args:
        network: the network.
        tensors: parameter name -> array.
        source: the file, for the message.
        new_head: allow a head of another shape, which then keeps its initial values (fine-tuning on other classes).
        new: other parameters that keep their initial values where the tensors lack them.
        dead: whether a parameter has no effect: such ones may be in the tensors alone, or in the network alone.

    Raises:
        UserError: if they do not fit, with the names. The network is unchanged then.
    """
    parameters = weights_of(network)
    report = LoadReport(unexpected=[name for name in tensors if name not in parameters])
    if dead:
        report.dead = [name for name in report.unexpected if dead(name, network)]
        report.unexpected = [name for name in report.unexpected if name not in set(report.dead)]
    for name, parameter in parameters.items():
        if name not in tensors:
            report.missing.append(name)
        elif tuple(parameter.shape) != tuple(tensors[name].shape):
            report.shapes[name] = (tuple(parameter.shape), tuple(tensors[name].shape))
        else:
            report.matched.append(name)
    kept = set(new) | ({name for name in report.missing if dead(name, network)} if dead else set())
    if new_head:
        kept |= {name for name in [*report.shapes, *report.missing] if HEAD.search(name)}
        report.unexpected = [name for name in report.unexpected if not HEAD.search(name)]
    report.new = [name for name in parameters if name in kept and name not in report.matched]
    report.missing = [name for name in report.missing if name not in kept]
    report.shapes = {name: shapes for name, shapes in report.shapes.items() if name not in kept}
    if not report.fits():
        _check_outputs(report, source)
        raise UserError(f"ckpt_path: {source} does not fit this network: {report.problem()}.")
    for name in report.matched:
        parameters[name].set_data(Tensor(tensors[name], parameters[name].dtype))
    return report


def _check_outputs(report: LoadReport, source: str | Path) -> None:
    """Say so if the number of classes is all that differs.

    Raises:
        UserError: with both numbers.
    """
    if report.missing or report.unexpected or not all(HEAD.search(name) for name in report.shapes):
        return
    ours, theirs = next(((ours[0], theirs[0]) for ours, theirs in report.shapes.values()), (0, 0))
    if ours != theirs:
        raise UserError(f"ckpt_path: {source} has {theirs} outputs, but num_classes is {ours}; give --num_classes "
                        f"{theirs}{EXTRA_OUTPUT if {ours, theirs} == {1000, 1001} else ''}.")


def _first(names: Iterable[str], count: int = 4) -> str:
    names = list(names)
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")
