"""Compare networks with the results of the authors' own implementations, stored in ``tests/data/golden``.

A network is filled by the rule of ``golden_rule.py`` under the reference's tensor names; the stored files hold only
what the reference then computed: logits, losses, gradients, running statistics.
"""
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Mapping, Sequence

import mindspore as ms
import numpy as np
import pytest
from golden_rule import fill, image, labels
from mindspore import Tensor, nn, ops

from common.context.compiling import compile_with

FOLDER = Path(__file__).resolve().parent / "data" / "golden"
MODULE_FILE = "modules_gmlp_convmlp_vit"
Tensors = Mapping[str, np.ndarray]
# What a processor's rounding may do follows from what the reference's own rounding did: its float32 run beside its
# float64 run, where both are stored. Sums in another order err by as much, and the worst element by a few times more.
MARGIN = 3.0  # times the reference's own error of that number
TYPICAL = 10.0  # times the median error of all tensors, as one tensor's own may be small by chance


@dataclass(frozen=True)
class Tolerances:
    """Float32 on a CPU; the defaults are those of gmlp, convmlp, vit and mae. Pairs are (relative, absolute).

    Where the reference's own float32 is further from its float64, that counts instead (``MARGIN``, ``TYPICAL``).
    """

    logits_eval: float = 2e-5
    logits_train: float = 2e-5
    loss_eval: float = 1e-5
    loss_train: float = 1e-5
    norms_eval: tuple[float, float] = (1e-4, 1e-6)
    norms_train: tuple[float, float] = (1e-3, 0.0)
    exceptions_train: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # beginning of a name -> pair
    statistics: float = 1e-5
    zero_gradient: float = 2e-4


# For tests whose cells other tests compile too: to compile them takes most of their time.
GRAPH_LATER = pytest.mark.parametrize("mode", ["pynative", pytest.param("graph", marks=pytest.mark.long)], indirect=True)


def full_size(*names: str, later: Sequence[str] = ()):
    """Parametrise "mode, name": networks of full size in PyNative mode; in the long part the same in graph mode, and
    in both modes those that come ``later``.

    To compile one takes several times as long as to run it, and both modes run the same cells, as small networks show.
    """
    long = [("graph", name) for name in (*names, *later)] + [("pynative", name) for name in later]
    return pytest.mark.parametrize("mode, name", [("pynative", name) for name in names] + [
        pytest.param(*values, marks=pytest.mark.long) for values in long], indirect=["mode"])


def phases_in(mode: str) -> tuple[str, ...]:
    """What is compared in a mode: in graph mode, where each is a compilation of the same cells, training alone."""
    return ("train",) if mode == "graph" else ("eval", "train")


class Golden:
    """One stored reference run: ``manifest`` (json) and ``arrays`` (npz)."""

    def __init__(self, name: str):
        self.manifest = json.loads((FOLDER / f"{name}.json").read_text())
        with np.load(FOLDER / f"{name}.npz") as arrays:
            self.arrays = dict(arrays)

    @property
    def images(self) -> np.ndarray:
        return image(self.manifest["batch"], self.manifest["image_size"])

    @property
    def labels(self) -> np.ndarray:
        return labels(self.manifest["batch"], self.manifest["num_classes"])

    def tensors(self) -> dict[str, np.ndarray]:
        """The reference's tensors by their names; those that the network computes itself are left out."""
        return {key: fill(key, shape) for key, shape, kind in self.manifest["entries"] if kind != "fixed"}


def load_strictly(network: nn.Cell, tensors: Tensors) -> None:
    """Fill every parameter of ``network``, but for random states, from a tensor of the same name and shape."""
    parameters = {p.name: p for p in network.get_parameters() if not p.name.endswith("random_state")}
    assert set(parameters) == set(tensors)
    for name, parameter in parameters.items():
        assert tuple(parameter.shape) == tensors[name].shape, name
        parameter.set_data(Tensor(tensors[name], parameter.dtype))


@dataclass(frozen=True)
class Run:
    """What a network computed for one batch: logits, mean cross entropy, gradient by our parameter name."""

    logits: np.ndarray
    loss: float
    gradients: dict[str, np.ndarray]


class Step:
    """One forward and one backward pass of a network, compiled once for training and once for evaluation."""

    def __init__(self, network: nn.Cell, fused: bool = False):
        self.weights = network.trainable_params()
        self.gradients = compile_with(_Gradients(network, self.weights), fused=fused)

    def __call__(self, images: np.ndarray, targets: np.ndarray, *, train: bool) -> Run:
        (loss, logits), gradients = self.gradients.set_train(train)(Tensor(images), Tensor(targets, ms.int32))
        return Run(logits.asnumpy(), float(loss.asnumpy()),
                   {weight.name: gradient.asnumpy() for weight, gradient in zip(self.weights, gradients)})


def run(network: nn.Cell, images: np.ndarray, targets: np.ndarray, *, train: bool) -> Run:
    """One forward and one backward pass, in training or evaluation mode, in the current execution mode."""
    return Step(network)(images, targets, train=train)


def check_classifier(golden: Golden, network: nn.Cell, convert: Callable[[Tensors], dict],
                     restore: Callable[[Tensors], dict], tolerances: Tolerances = Tolerances(),
                     phases: Sequence[str] = ("eval", "train"), fused: bool = False) -> dict[str, float]:
    """Fill ``network`` and hold it to the stored logits, losses, gradients and statistics.

    Inputs of ReLUs so near to zero that rounding decides which slope they have ("kinks") may have either: where the
    stored numbers are missed, such units are put on their other side, one after the other, as long as this helps.

    Returns:
        The largest differences, as shares of what is allowed.
    """
    tensors, step = dict(convert(golden.tensors())), Step(network, fused)

    def attempt(phase: str, filled: Tensors) -> dict[str, np.ndarray]:
        load_strictly(network, filled)
        result = step(golden.images, golden.labels, train=phase == "train")
        shares = _check_phase(golden, result, restore(result.gradients), phase, tolerances)
        if golden.manifest.get("bn_keys") and phase == "train":
            ours = restore({p.name: p.asnumpy() for p in network.get_parameters()})
            norms = [np.linalg.norm(ours[key].astype(np.float64)) for key in golden.manifest["bn_keys"]]
            shares["statistics"] = _shares(norms, golden.arrays["bn_norms_train"], tolerances.statistics, 0.0)
        return shares

    worst = {}
    for phase in phases:
        shares = attempt(phase, tensors)
        if _worst(shares) > 1:
            load_strictly(network, tensors)
            for name, channel, value in undecided_units(network, golden.images, train=phase == "train"):
                other = tensors | {name: tensors[name].copy()}
                other[name][channel] -= np.float32(2 * value)
                there = attempt(phase, other)
                if _distance(there) < _distance(shares):
                    tensors, shares = other, there
                if _worst(shares) <= 1:
                    break
        worst |= {name: float(share.max()) for name, share in shares.items()}
    print("shares of what is allowed:", {name: round(share, 3) for name, share in worst.items()})  # -rP shows them
    wrong = {name: share for name, share in worst.items() if not share <= 1}
    assert not wrong, f"differences as multiples of the tolerance: {wrong}"
    return worst


def undecided_units(network: nn.Cell, images: np.ndarray, *, train: bool, width: float = 2e-6
                    ) -> list[tuple[str, int, float]]:
    """Return BatchNorm bias, channel and value of the outputs of BatchNorms within ``width`` of zero, nearest first.

    A ReLU follows. A difference of 4e-6 in one bias is below the rounding of what else the network computes.
    """
    mode, found = ms.get_context("mode"), {}
    ms.set_context(mode=ms.PYNATIVE_MODE)
    handles = [cell.register_forward_hook(lambda cell, inputs, out, name=name: found.update({name: out.asnumpy()}))
               for name, cell in network.cells_and_names() if isinstance(cell, nn.BatchNorm2d)]
    network.set_train(train)(Tensor(images))
    for handle in handles:
        handle.remove()
    ms.set_context(mode=mode)
    units = [(f"{name}.beta", int(place[1]), float(values[tuple(place)]))
             for name, values in found.items() for place in np.argwhere(np.abs(values) < width)]
    return sorted(units, key=lambda unit: abs(unit[2]))


def _check_phase(golden: Golden, result: Run, gradients: Tensors, phase: str, tolerances: Tolerances
                 ) -> dict[str, np.ndarray]:
    arrays, manifest = golden.arrays, golden.manifest
    suffix = "" if phase == "eval" else "_train"
    zero = set(manifest.get(f"zero_grad_keys_{phase}", ()))
    relative, absolute = getattr(tolerances, f"norms_{phase}")
    exceptions = tolerances.exceptions_train if phase == "train" else {}
    noise = manifest.get("f32_vs_f64", {}).get(f"logits{suffix}_maxabs", 0.0)
    truth, units = (arrays[f"logits{suffix}_f64"], MARGIN) if f"logits{suffix}_f64" in arrays else (
        arrays[f"logits{suffix}"], 1 + MARGIN)
    shares = {f"logits_{phase}": _shares(result.logits, truth, 0.0, max(getattr(tolerances, f"logits_{phase}"),
                                                                        units * noise)),
              f"loss_{phase}": _shares(result.loss, arrays[f"loss_{phase}"], getattr(tolerances, f"loss_{phase}"), 0.0)}
    keys = manifest["grad_keys"]
    norms = np.array([np.linalg.norm(gradients[key].astype(np.float64)) for key in keys])
    stored = arrays[f"grad_norms_{phase}"].astype(np.float64)
    truth = arrays.get(f"grad_norms_{phase}_f64", stored)
    pairs = np.array([next((exceptions[start] for start in exceptions if key.startswith(start)), (relative, absolute))
                      for key in keys])
    compared = np.array([key not in zero for key in keys])
    own = np.abs(stored - truth)  # what the reference's float32 is off by; of one number it may be small by chance
    typical = np.median(own[compared] / np.abs(truth[compared])) * np.abs(truth)
    allowed = np.maximum(pairs[:, 0] * np.abs(truth) + pairs[:, 1], np.maximum(MARGIN * own, TYPICAL * typical))
    shares[f"gradient_norms_{phase}"] = (np.abs(norms - truth) / allowed)[compared]
    if zero:
        shares[f"zero_gradients_{phase}"] = norms[~compared] / tolerances.zero_gradient
    if phase == "eval":
        for key in manifest["full_grads"]:
            whole = arrays[f"grad/{key}"].astype(np.float64)
            # a whole gradient may differ by as much as its norm may
            shares[f"gradient {key}"] = np.atleast_1d(np.linalg.norm(gradients[key] - whole)
                                                      / (relative * np.linalg.norm(whole) + absolute))
    return shares


def _shares(ours, reference, relative: float, absolute: float) -> np.ndarray:
    """The differences as shares of ``relative * |reference| + absolute``."""
    ours, reference = np.asarray(ours, np.float64), np.asarray(reference, np.float64)
    assert ours.shape == reference.shape
    return np.atleast_1d(np.abs(ours - reference) / (relative * np.abs(reference) + absolute))


def _worst(shares: Mapping[str, np.ndarray]) -> float:
    return max(float(share.max()) for share in shares.values())


def _distance(shares: Mapping[str, np.ndarray]) -> float:
    """One number that falls with every difference: the effects of units at a kink add up in it."""
    return sum(float(np.square(share).mean()) for share in shares.values())


class Module:
    """One stored block of the module file: filled tensors, inputs and results at the scales ``s1`` and ``s003``."""

    SCALES = {"s1": 1.0, "s003": 0.003}

    def __init__(self, tag: str):
        stored = Golden(MODULE_FILE)
        self.tag = tag
        self.arrays = stored.arrays
        self.entry = stored.manifest["modules"][tag]
        self.seed = 11 + stored.manifest["order"].index(tag)

    def tensors(self) -> dict[str, np.ndarray]:
        """The tensors under the names that they have inside the block."""
        return {key.removeprefix(f"{self.tag}."): fill(key, shape) for key, shape in self.entry["keys"]}

    def check(self, cell: nn.Cell, convert: Callable[[Tensors], dict], tolerance: float = 2e-5) -> dict[str, float]:
        """Fill ``cell`` and compare output and input gradient at both scales, in evaluation mode.

        Returns:
            The largest absolute differences.
        """
        load_strictly(cell, convert(self.tensors()))
        step = _InputGradient(cell).set_train(False)
        shape = self.entry["input_shape"]
        standard = np.random.RandomState(1000 + self.seed).standard_normal(shape).astype(np.float32)
        differences = {}
        for scale, factor in self.SCALES.items():
            output, gradient = step(Tensor(standard * np.float32(factor)))
            for what, ours in (("out", output), ("gradin", gradient)):
                stored = self.arrays[f"{self.tag}__{scale}__{what}"]
                difference = np.abs(ours.asnumpy() - stored).max()
                # at the small scale gradients are large: then the tolerance is one of their size
                assert difference <= tolerance * max(1.0, np.abs(stored).max()), (scale, what, difference)
                differences[f"{scale} {what}"] = float(difference)
        return differences


class _Objective(nn.Cell):
    def __init__(self, network: nn.Cell):
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, images, targets):
        logits = self.network(images)
        return ops.cross_entropy(logits, targets), logits


class _Gradients(nn.Cell):
    def __init__(self, network: nn.Cell, weights):
        super().__init__(auto_prefix=False)
        self.objective = _Objective(network)
        self.gradient = ms.value_and_grad(self.objective, None, ms.ParameterTuple(weights), has_aux=True)

    def construct(self, images, targets):
        return self.gradient(images, targets)


class _SignedSum(nn.Cell):
    """Sum of out * sign(out), the sign held constant."""

    def __init__(self, cell: nn.Cell):
        super().__init__(auto_prefix=False)
        self.cell = cell

    def construct(self, x):
        out = self.cell(x)
        return (out * ops.stop_gradient(ops.sign(out))).sum(), out


class _InputGradient(nn.Cell):
    def __init__(self, cell: nn.Cell):
        super().__init__(auto_prefix=False)
        self.objective = _SignedSum(cell)
        self.gradient = ms.value_and_grad(self.objective, 0, None, has_aux=True)

    def construct(self, x):
        (_, out), gradient = self.gradient(x)
        return out, gradient
