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
from mindspore import Tensor, nn, ops

from golden_rule import fill, image, labels

FOLDER = Path(__file__).resolve().parent / "data" / "golden"
MODULE_FILE = "modules_gmlp_convmlp_vit"
Tensors = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Tolerances:
    """Float32 on a CPU; the defaults are those of gmlp, convmlp, vit and mae. Pairs are (relative, absolute)."""

    logits_eval: float = 2e-5
    logits_train: float = 2e-5
    loss_eval: float = 1e-5
    loss_train: float = 1e-5
    norms_eval: tuple[float, float] = (1e-4, 1e-6)
    norms_train: tuple[float, float] = (1e-3, 0.0)
    exceptions_train: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # beginning of a name -> pair
    statistics: float = 1e-5
    zero_gradient: float = 2e-4


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


def run(network: nn.Cell, images: np.ndarray, targets: np.ndarray, *, train: bool) -> Run:
    """One forward and one backward pass, in training or evaluation mode, in the current execution mode."""
    weights = network.trainable_params()
    step = _Gradients(network, weights).set_train(train)
    (loss, logits), gradients = step(Tensor(images), Tensor(targets, ms.int32))
    return Run(logits.asnumpy(), float(loss.asnumpy()),
               {weight.name: gradient.asnumpy() for weight, gradient in zip(weights, gradients)})


def check_classifier(golden: Golden, network: nn.Cell, convert: Callable[[Tensors], dict],
                     restore: Callable[[Tensors], dict], tolerances: Tolerances = Tolerances(),
                     phases: Sequence[str] = ("eval", "train")) -> dict[str, float]:
    """Fill ``network`` and hold it to the stored logits, losses, gradients and statistics.

    Returns:
        The largest differences, as shares of what is allowed.
    """
    load_strictly(network, convert(golden.tensors()))
    shares = {}
    for phase in phases:
        result = run(network, golden.images, golden.labels, train=phase == "train")
        shares |= _check_phase(golden, result, restore(result.gradients), phase, tolerances)
    if golden.manifest.get("bn_keys") and "train" in phases:
        ours = restore({p.name: p.asnumpy() for p in network.get_parameters()})
        norms = [np.linalg.norm(ours[key].astype(np.float64)) for key in golden.manifest["bn_keys"]]
        shares["statistics"] = _share(norms, golden.arrays["bn_norms_train"], tolerances.statistics, 0.0)
    wrong = {name: share for name, share in shares.items() if not share <= 1}
    assert not wrong, f"differences as multiples of the tolerance: {wrong}"
    return shares


def _check_phase(golden: Golden, result: Run, gradients: Tensors, phase: str, tolerances: Tolerances
                 ) -> dict[str, float]:
    arrays, manifest = golden.arrays, golden.manifest
    logits = arrays["logits" if phase == "eval" else "logits_train"]
    zero = set(manifest.get(f"zero_grad_keys_{phase}", ()))
    relative, absolute = getattr(tolerances, f"norms_{phase}")
    exceptions = tolerances.exceptions_train if phase == "train" else {}
    shares = {f"logits_{phase}": _share(result.logits, logits, 0.0, getattr(tolerances, f"logits_{phase}")),
              f"loss_{phase}": _share(result.loss, arrays[f"loss_{phase}"], getattr(tolerances, f"loss_{phase}"), 0.0)}
    expected = dict(zip(manifest["grad_keys"], arrays[f"grad_norms_{phase}"], strict=True))
    norms = {key: np.linalg.norm(gradients[key].astype(np.float64)) for key in expected}
    compared = [key for key in expected if key not in zero]
    pairs = [next((exceptions[start] for start in exceptions if k.startswith(start)), (relative, absolute))
             for k in compared]
    shares[f"gradient_norms_{phase}"] = max(_share(norms[k], expected[k], *pair) for k, pair in zip(compared, pairs))
    if zero:
        shares[f"zero_gradients_{phase}"] = max(norms[key] for key in zero) / tolerances.zero_gradient
    if phase == "eval":
        for key in manifest["full_grads"]:
            stored = arrays[f"grad/{key}"]
            # a whole gradient may differ by as much as its norm may
            shares[f"gradient {key}"] = (np.linalg.norm(gradients[key].astype(np.float64) - stored)
                                         / (relative * np.linalg.norm(stored.astype(np.float64)) + absolute))
    return shares


def _share(ours, reference, relative: float, absolute: float) -> float:
    """The largest difference as a share of ``relative * |reference| + absolute``."""
    ours, reference = np.asarray(ours, np.float64), np.asarray(reference, np.float64)
    assert ours.shape == reference.shape
    return float((np.abs(ours - reference) / (relative * np.abs(reference) + absolute)).max())


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
