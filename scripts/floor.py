"""The products of a network alone: every matrix product and convolution of a step, with nothing between them.

That is the least time a network can take with a framework's own products, however well all else were fused. For
``benchmark.py --floor``. Of MindSpore the products of a forward pass are noted and computed again, and for training
both gradients of each as well (also that of the images, which a real step leaves out; where a cell has a gradient of
its own, what it computes there may differ). Of PyTorch all is noted that a real step computes.
"""
import functools
from contextlib import ExitStack
from typing import Any, Callable, Sequence
from unittest import mock

import numpy as np

from scripts.measure import Step

ATEN = ("mm", "addmm", "bmm", "baddbmm", "linear", "matmul", "convolution", "convolution_backward", "conv2d")


def repeated(calls: Sequence[tuple[Callable, Sequence[Any], int]], wait: Callable[[], None]) -> Step:
    """Return what does all calls one after the other, each so many times, and waits for the device."""
    def run() -> None:
        for function, arguments, times in calls:
            for _ in range(times):
                function(*arguments)
        wait()
    return run


def mindspore_products(forward: Step, training: bool) -> tuple[int, Step]:
    """Return the number of products in a forward pass, and what computes them and, in training, their gradients.

    Args:
        forward: runs the network forward.
    """
    import mindspore as ms
    from mindspore import Tensor, nn, ops

    class Product(nn.Cell):
        """x, y -> their product."""

        def __init__(self, operation: Callable):
            super().__init__()
            self.operation = operation

        def construct(self, x, y):
            return self.operation(x, y)

    class Gradients(nn.Cell):
        """x, y, the gradient of their product -> the gradients of both; the product is not computed again."""

        def __init__(self, product: nn.Cell):
            super().__init__()
            self.product = product
            self.gradients = ops.GradOperation(get_all=True, sens_param=True)

        def construct(self, x, y, gradient):
            return self.gradients(self.product)(x, y, gradient)

    noted = {}

    def noting(call: Callable) -> Callable:
        def noting_call(*arguments: Any) -> Any:
            *operation, x, y = arguments  # the primitive first, if it is one
            operation = operation[0] if operation else call
            key = (str(operation), str(getattr(operation, "attrs", "")), x.shape, y.shape)
            noted.setdefault(key, [operation, x.shape, y.shape, 0])[3] += 1
            return call(*arguments)
        return noting_call

    mode = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    with ExitStack() as patches:
        for kind in (ops.MatMul, ops.BatchMatMul, ops.Conv2D):
            patches.enter_context(mock.patch.object(kind, "__call__", noting(kind.__call__)))
        patches.enter_context(mock.patch.object(ops, "matmul", noting(ops.matmul)))
        forward()
    ms.set_context(mode=mode)
    rng, calls = np.random.default_rng(0), []
    for operation, *shapes, times in noted.values():
        product = Product(operation)
        factors = [Tensor(rng.standard_normal(shape, np.float32)) for shape in shapes]
        calls.append((product, factors, times))
        if training:
            calls.append((Gradients(product), [*factors, product(*factors)], times))
    return sum(times for *_, times in noted.values()), repeated(
        calls, (lambda: None) if ms.get_current_device()[0] == "CPU" else ms.runtime.synchronize)


def torch_products(step: Step, wait: Callable[[], None]) -> tuple[int, Step]:
    """Return the number of products in a step, and what computes them.

    Args:
        step: of training or of inference.
        wait: for the device.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    noted = {}

    class Noting(TorchDispatchMode):
        """Notes what is computed inside."""

        def __torch_dispatch__(self, operation, types, arguments=(), named=None):
            if operation.overloadpacket.__name__ in ATEN:
                key = (operation, str([getattr(value, "shape", value) for value in arguments]), str(named))
                inputs = [value.detach() if isinstance(value, torch.Tensor) else value for value in arguments]
                noted.setdefault(key, [operation, inputs, named or {}, 0])[3] += 1
            return operation(*arguments, **(named or {}))

    with Noting():
        step()
    calls = [(functools.partial(operation, **named), inputs, times)
             for operation, inputs, named, times in noted.values()]
    return sum(times for *_, times in noted.values()), repeated(calls, wait)
