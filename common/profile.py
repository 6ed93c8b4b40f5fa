"""What a network costs: parameters, multiply-adds, activations and memory of a training step, stage by stage.

    python -m common.profile gmlp_s --image_size 384 --batch_size 64

Nothing is trained and no product is computed: the network runs in PyNative mode on one image and on two, where products
are counted and give zeros of the right shape. All numbers are linear in the batch, so that two runs give any batch. Of
blocks of one form, the first runs and stands for the others.

Multiply-adds are those of convolutions, linear layers and matrix products of a forward pass. Activations are the
results of all cells (layers, blocks) and products, each once. The memory of a training step is in float32 and for
AdamW: weights, gradients, two moments, and the activations, which the backward pass needs again. What the framework
and its kernels take besides is not in it: on a CPU a whole process held 1.26 GB more with gmlp_ti and 1.61 GB more with
vit_base_patch16, batches of 4 (scripts/benchmark.py), of which 0.4 GB are MindSpore's import.
"""
import argparse
import contextlib
import math
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Iterator, Sequence
from unittest import mock

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from common.command import Parser, run, whole_number
from common.layers.cells import GELU, LayerNorm, PatchProjection, TanhGELU
from common.layers.initial_values import values_as_built
from common.spec import find_model

BYTES = 4  # of a float32
ELEMENTWISE = (LayerNorm, GELU, TanhGELU, nn.BatchNorm2d, nn.ReLU)  # need not be computed: without products
OUTSIDE = "(other)"  # the name of what belongs to no stage, such as a class token


@dataclass(frozen=True)
class Stage:
    """A part of a network, or all of it.

    Attributes:
        blocks: how many equal cells it is a list of; 0: it is none.
        parameters: those that are trained.
        fixed: those that are not, such as running statistics.
        multiply_adds: of a forward pass of the whole batch.
        activations: numbers that a forward pass of the whole batch hands on.
    """

    name: str
    blocks: int
    parameters: int
    fixed: int
    multiply_adds: int
    activations: int

    @property
    def memory(self) -> int:
        """Bytes in a training step, see the head of this file."""
        return BYTES * (4 * self.parameters + self.fixed + self.activations)


@dataclass(frozen=True)
class Profile:
    """The stages of a network in their order, and their sum."""

    stages: list[Stage]
    total: Stage


@dataclass
class Counter:
    """Counts a forward pass, stage by stage.

    Attributes:
        stage_of: id of a cell -> the stage that it is a part of.
        counts: stage -> multiply-adds and activations.
        known: form and input shapes of a block -> what it added, and the shapes of its outputs.
        counted: id of a tensor -> the tensor, which was counted and is kept, so that no other gets its id.
    """

    stage_of: dict[int, str]
    counts: dict[str, np.ndarray] = field(default_factory=lambda: defaultdict(lambda: np.zeros(2, np.int64)))
    known: dict[Any, Any] = field(default_factory=dict)
    counted: dict[int, Tensor] = field(default_factory=dict)
    stage: str = ""

    def product(self, shape: Sequence[int], inner: int) -> Tensor:
        """Count a product over ``inner`` numbers for every element of the result."""
        self.counts[self.stage][0] += math.prod(shape) * inner
        return self.kept(zeros(shape))

    def kept(self, result: Tensor) -> Tensor:
        """Count a result among the activations, if it is none already."""
        if id(result) not in self.counted and not isinstance(result, Parameter):
            self.counted[id(result)] = result
            self.counts[self.stage][1] += result.size
        return result

    def call(self, cell: nn.Cell, original: Any, arguments: Sequence[Any]) -> Any:
        """Call a cell, or take the numbers of a block of its form that was called with such inputs before."""
        outside = not self.stage and id(cell) in self.stage_of
        if outside:
            self.stage = self.stage_of[id(cell)]
        block = type(cell).__name__.endswith("Block")
        shapes = tuple(one.shape if isinstance(one, Tensor) else str(one) for one in arguments)
        key = (form(cell), shapes) if block else ""
        if key in self.known:
            added, shapes = self.known[key]
            self.counts[self.stage] += added
            result = tuple(zeros(shape) for shape in shapes)
            self.counted.update((id(one), one) for one in result)
            result = result if len(result) > 1 else result[0]
        else:
            before = self.counts[self.stage].copy()
            result = original(cell, *arguments)
            results = [one for one in (result if isinstance(result, tuple) else (result,)) if isinstance(one, Tensor)]
            for one in results:
                self.kept(one)
            if block:
                self.known[key] = self.counts[self.stage] - before, [one.shape for one in results]
        if outside:
            self.stage = ""
        return result


def zeros(shape: Sequence[int]) -> Tensor:
    """Return zeros, float32."""
    return Tensor(np.zeros(shape, np.float32))


def form(cell: nn.Cell) -> Any:
    """Return what cells with the same costs have in common: class and shapes of the parameters."""
    return type(cell), tuple((name, tuple(p.shape)) for name, p in cell.parameters_and_names())


@contextlib.contextmanager
def counting(counter: Counter) -> Iterator[None]:
    """Let products count instead of compute, and cells report to the counter."""
    call = nn.Cell.__call__

    def dense(cell, x):
        return counter.product((*x.shape[:-1], cell.out_channels), cell.in_channels)

    def convolution(cell, x):
        top, bottom, left, right = (cell.padding,) * 4 if isinstance(cell.padding, int) else cell.padding
        added = {"valid": (0, 0), "pad": (top + bottom, left + right)}.get(cell.pad_mode)
        sides = [-(-side // stride) if added is None else (side + more - dilation * (kernel - 1) - 1) // stride + 1
                 for side, kernel, stride, dilation, more in zip(x.shape[2:], cell.kernel_size, cell.stride,
                                                                 cell.dilation, added or (0, 0))]
        return counter.product((len(x), cell.out_channels, *sides), math.prod(cell.weight.shape[1:]))

    def patches(cell, x):
        return counter.product((*x.shape[:2], cell.embed_dim), cell.width)

    def product(x, y, transpose_a=False, transpose_b=False):
        rows, inner = x.shape[:-3:-1] if transpose_a else x.shape[-2:]
        return counter.product((*np.broadcast_shapes(x.shape[:-2], y.shape[:-2]), rows,
                                y.shape[-2 if transpose_b else -1]), inner)

    def primitive(self, x, y):
        return product(x, y, self.transpose_a, self.transpose_b)

    def elementwise(cell, x):
        return zeros(x.shape)

    replaced = [(nn.Cell, "__call__", lambda cell, *arguments: counter.call(cell, call, arguments)),
                (nn.Dense, "construct", dense), (nn.Conv2d, "construct", convolution),
                (PatchProjection, "construct", patches), (ops.BatchMatMul, "__call__", primitive),
                (ops.MatMul, "__call__", primitive), (ops, "bmm", product), (ops, "matmul", product)]
    replaced += [(kind, "construct", elementwise) for kind in ELEMENTWISE]
    with contextlib.ExitStack() as stack:
        for owner, name, function in replaced:
            stack.enter_context(mock.patch.object(owner, name, function))
        yield


def forward(network: nn.Cell, stage_of: dict[int, str], shape: Sequence[int]) -> dict[str, np.ndarray]:
    """Count the forward pass of a batch (B, C, H, W): stage -> multiply-adds and activations."""
    counter = Counter(stage_of)
    noise = getattr(network, "noise_length", 0)  # of a masked autoencoder: which patches are removed
    extra = [Tensor(np.tile(np.linspace(0, 1, noise, False, dtype=np.float32), (shape[0], 1)))] if noise else []
    mode = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    try:
        with counting(counter):
            network.construct(zeros(shape), *extra)
    finally:
        ms.set_context(mode=mode)
    return counter.counts


def stages_of(network: nn.Cell) -> dict[str, list[nn.Cell]]:
    """Return the stages by name, each as its cells: the network's own, those called ``Stage`` of a list one by one.

    ``block2_0``, ``block2_1`` ... are one stage.
    """
    found = defaultdict(list)
    for name, cell in network.name_cells().items():
        cells = list(cell) if isinstance(cell, (nn.SequentialCell, nn.CellList)) else [cell]
        if all(type(one).__name__.endswith("Stage") for one in cells) and len(cells) > 1:
            found.update((f"{name}.{index}", [one]) for index, one in enumerate(cells))
        else:
            head, _, number = name.rpartition("_")
            found[head if head and number.isdigit() else name] += cells if isinstance(cell, nn.CellList) else [cell]
    return dict(found)


def profile(variant: str, batch_size: int = 1, num_classes: int = 1000, **arguments: Any) -> Profile:
    """Count a variant of any model.

    Args:
        variant: one of ``list_models()``, in any of its spellings.
        batch_size: images of a step.
        num_classes: outputs of the head.
        arguments: of the network, such as ``image_size`` (224) and ``in_channels`` (3).

    Raises:
        UserError: for an unknown variant, or arguments that do not fit together.
    """
    with values_as_built():
        network = find_model(variant).build(variant, num_classes=num_classes, **arguments).set_train(False)
    side, channels = arguments.get("image_size", 224), arguments.get("in_channels", 3)
    stages = stages_of(network)
    stage_of = {id(cell): name for name, cells in stages.items() for one in cells
                for _, cell in one.cells_and_names()}
    one = forward(network, stage_of, (1, channels, side, side))
    two = forward(network, stage_of, (2, channels, side, side)) if batch_size > 1 else one
    owner = {id(p): name for name, cells in stages.items() for cell in cells for p in cell.get_parameters()}
    sizes = {name: [0, 0] for name in (*stages, OUTSIDE)}
    for parameter in network.get_parameters():
        sizes[owner.get(id(parameter), OUTSIDE)][not parameter.requires_grad] += parameter.size
    rows = []
    for name, (trained, fixed) in sizes.items():
        key = "" if name == OUTSIDE else name
        counts = one[key] + (batch_size - 1) * (two[key] - one[key])
        blocks = [cell for cell in stages.get(name, []) for cell in
                  (cell if isinstance(cell, nn.SequentialCell) else [cell]) if type(cell).__name__.endswith("Block")]
        if trained or fixed or counts.any():
            rows.append(Stage(name, len(blocks), trained, fixed, *map(int, counts)))
    total = [sum(getattr(row, key) for row in rows) for key in ("parameters", "fixed", "multiply_adds", "activations")]
    return Profile(rows, Stage("in all", 0, *total))


def table(found: Profile) -> str:
    """Return the stages and their sum as lines of text."""
    head = ("stage", "parameters", "multiply-adds", "activations", "training step")
    lines = [head] + [(f"{row.name} ({row.blocks} block{'s' * (row.blocks > 1)})" if row.blocks else row.name,
                       f"{row.parameters:,}", f"{row.multiply_adds / 1e9:.3f} G", f"{row.activations / 1e6:.3f} M",
                       f"{row.memory / 2 ** 20:.1f} MiB") for row in (*found.stages, found.total)]
    first, *others = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join("  ".join([name.ljust(first), *(cell.rjust(width) for cell, width in zip(cells, others))])
                     for name, *cells in lines)


def main(argv: Sequence[str]) -> str:
    """Return what the command line asks for.

    Raises:
        UserError: for any mistake in it.
    """
    parser = Parser("common.profile", __doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variant", help="such as gmlp_s or vit_base_patch16, of any model")
    for name, default, about in (("image_size", 224, "height and width of the images, in pixels"),
                                 ("batch_size", 1, "images of a step"), ("num_classes", 1000, "outputs of the head"),
                                 ("in_channels", 3, "channels of the images")):
        parser.add_argument(f"--{name}", type=whole_number(1), default=default, help=f"{about} ({default})")
    options = vars(parser.parse_args(argv))
    found = profile(**options)
    fixed = f"; {found.total.fixed:,} numbers besides are not trained" if found.total.fixed else ""
    return (f"{options['variant']}: batch of {options['batch_size']}, {options['image_size']} x "
            f"{options['image_size']} pixels, float32, AdamW{fixed}\n{table(found)}")


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))
