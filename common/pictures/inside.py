"""What happens inside a network while it looks at images: the inputs of its cells, and Grad-CAM."""
import math
from contextlib import contextmanager
from typing import Any, Callable, Iterator, Sequence

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from common.augment.pipeline import eval_transform
from common.config.options import Config
from common.dataset.classes import names_for
from common.pictures.heat_map import enlarge, lay_over
from common.pictures.sheet import Row, Subject, picture_of, with_share

CLASSES = 2  # most probable classes of which Grad-CAM draws a map
LEAST_SIDE = 4  # of a map that says where: of small images, the last ones of a network are too small


@contextmanager
def operation_by_operation() -> Iterator[None]:
    """PyNative mode for a while: hooks are for this mode."""
    mode = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    try:
        yield
    finally:
        ms.set_context(mode=mode)


def inputs_of(cells: Sequence[nn.Cell], run: Callable[[], Any]) -> list[tuple]:
    """Return what each of the cells, which come in this order, gets while ``run`` runs the network."""
    found: list[tuple] = []
    _listen([cell.register_forward_pre_hook(lambda cell, inputs: found.append(inputs)) for cell in cells], run)
    return found


def outputs_of(cells: Sequence[nn.Cell], run: Callable[[], Any]) -> list[ms.Tensor]:
    """Return what each of the cells, which come in this order, gives while ``run`` runs the network."""
    found: list[ms.Tensor] = []
    _listen([cell.register_forward_hook(lambda cell, inputs, output: found.append(output)) for cell in cells], run)
    return found


def _listen(handles: Sequence[Any], run: Callable[[], Any]) -> None:
    """Run the network once with these hooks."""
    try:
        with operation_by_operation():
            run()
    finally:
        for handle in handles:
            handle.remove()


def as_map(tensor: ms.Tensor) -> np.ndarray:
    """Return (B, H, W, C), or (B, N, C) with the tokens of a square, as a float64 array (B, H, W, C)."""
    values = tensor.asnumpy().astype(np.float64)
    side = math.isqrt(values.shape[1])
    return values if values.ndim == 4 else values.reshape(len(values), side, side, -1)


def grad_cam(network: nn.Cell, cells: Sequence[nn.Cell], images: np.ndarray, labels: Sequence[int]) -> np.ndarray:
    """Return where a network sees a class: a cell's maps, each weighted with the mean gradient of the class's logit.

    Source: Selvaraju et al. 2017, "Grad-CAM", equations 1 and 2.

    Args:
        network: images -> logits.
        cells: some of its cells, in the order of their work, with outputs (B, H, W, C), or (B, N, C) with the tokens of
            a square; the last with ``LEAST_SIDE`` rows or more is taken, otherwise the first.
        images: normalised, float32 (B, 3, H, W).
        labels: a class for each image.

    Returns:
        Maps (B, h, w), at least 0.
    """
    outputs = outputs_of(cells, lambda: network(ms.Tensor(images)))
    chosen = max((i for i, output in enumerate(outputs) if as_map(output).shape[1] >= LEAST_SIDE), default=0)

    def score(change):
        handle = cells[chosen].register_forward_hook(lambda cell, inputs, output: output + change)
        logits = network(ms.Tensor(images))
        handle.remove()
        return (logits * ms.Tensor(np.eye(logits.shape[1], dtype=np.float32)[list(labels)])).sum()

    with operation_by_operation():  # the gradient of what is added to an output is that of the output
        gradient = as_map(ms.grad(score)(ops.zeros_like(outputs[chosen])))
    output = as_map(outputs[chosen])
    return np.maximum((output * gradient.mean((1, 2), keepdims=True)).sum(-1), 0)


def grad_cam_rows(config: Config, network: nn.Cell, cells: Sequence[nn.Cell], classes: Sequence[str],
                  subjects: Sequence[Subject]) -> list[Row]:
    """Return a row for each image: itself, and where the network sees its most probable classes.

    Args:
        config: how images become the network's input.
        network, cells: see ``grad_cam``.
        classes: names; none: see ``names_for``.
        subjects: the images.
    """
    transform = eval_transform(config)
    images = np.stack([transform(subject.image) for subject in subjects])
    with operation_by_operation():  # these few images are not worth compiling a graph
        logits = network(ms.Tensor(images)).asnumpy().astype(np.float64)
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    names, order = names_for(classes, logits.shape[1]), np.argsort(-logits, 1)[:, :CLASSES]
    rows = [[(enlarge(picture_of(image, config)), subject.name)] for image, subject in zip(images, subjects)]
    for labels in order.T:
        for row, values, label, share in zip(rows, grad_cam(network, cells, images, labels), labels, shares):
            caption = f"{with_share(names[label], float(share[label]))}\n{values.shape[0]} x {values.shape[1]} places"
            row.append((lay_over(row[0][0], values), caption))
    return rows
