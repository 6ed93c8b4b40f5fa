"""BatchNorm over several ranks: statistics of the global batch (``sync_bn``), or of each rank's part and then shared.

A rank that normalises its own part of a batch moves its running statistics apart from those of the others. So that all
evaluate the network that is saved, and a continued run equals one that never stopped, the ranks' running statistics are
averaged at the end of every epoch, before evaluating and saving, and every rank goes on with the average.
"""
from typing import Iterator

from mindspore import nn, ops

from common.layers.cells import Float32Cell


class SyncBatchNorm(Float32Cell):
    """Normalises each channel by mean and variance of the batches of all ranks together.

    Equal, gradients and running statistics included, to BatchNorm on one rank with the whole batch: the gradient of an
    all-reduce is the all-reduce of the gradients. The framework's ``nn.SyncBatchNorm`` is not used: it knows no group
    of CPUs (2.10: "The parameter 'group' must be isinstance of <class 'str'>, but got None"), and one cell for all
    devices can be tested. The squares are summed about the mean in a second all-reduce, which keeps the variance exact.

    Args:
        norm: the cell that is replaced, whose parameters this one takes over: ``moving_mean``, ``moving_variance``,
            perhaps ``gamma`` and ``beta``. It also gives ``eps`` and ``momentum``, the share of a new batch.
        world_size: number of ranks, whose batches have the same shape.

    Inputs: x, (B, C) or (B, C, H, W).   Output: the same shape, float32.
    """

    def __init__(self, norm: nn.Cell, world_size: int):
        super().__init__()
        self.world_size = world_size
        self.eps, self.momentum = float(norm.eps), float(norm.momentum)
        self.moving_mean, self.moving_variance = norm.moving_mean, norm.moving_variance
        self.affine = hasattr(norm, "gamma")
        if self.affine:
            self.gamma, self.beta = norm.gamma, norm.beta
        self.sum_over_ranks = ops.AllReduce()

    def construct(self, x):
        shape = (1, -1) + (1,) * (x.ndim - 2)
        if self.training:
            axes = (0,) + tuple(range(2, x.ndim))
            count = x.size // x.shape[1] * self.world_size
            mean = self.sum_over_ranks(ops.reduce_sum(x, axes)) / count
            centred = x - mean.reshape(shape)
            variance = self.sum_over_ranks(ops.reduce_sum(ops.square(centred), axes)) / count
            unbiased = ops.stop_gradient(variance) * (count / (count - 1))
            ops.assign(self.moving_mean, self.moved(self.moving_mean, ops.stop_gradient(mean)))
            ops.assign(self.moving_variance, self.moved(self.moving_variance, unbiased))
        else:
            centred = x - self.moving_mean.reshape(shape)
            variance = self.moving_variance
        factor = ops.rsqrt(variance + self.eps)
        if self.affine:
            return centred * (factor * self.gamma).reshape(shape) + self.beta.reshape(shape)
        return centred * factor.reshape(shape)

    def moved(self, old, new):
        return old * (1.0 - self.momentum) + new * self.momentum


def synchronise(network: nn.Cell, world_size: int) -> int:
    """Replace every BatchNorm in ``network``, the framework's and others alike, by one over all ranks.

    A cell that has ``moving_variance`` is a BatchNorm. Parameters stay the same objects under the same names.

    Returns:
        The number of cells that were replaced.
    """
    names = [(parameter, parameter.name) for parameter in network.get_parameters()]
    count = _replace(network, world_size)
    for parameter, name in names:
        parameter.name = name  # a cell that is put in gets a second prefix
    return count


def _replace(cell: nn.Cell, world_size: int) -> int:
    count = 0
    for key, child in list(_children(cell)):
        if not hasattr(child, "moving_variance"):
            count += _replace(child, world_size)
            continue
        new = SyncBatchNorm(child, world_size)
        new.set_train(child.training)
        if isinstance(key, int):
            cell[key] = new
        else:
            setattr(cell, key, new)
        count += 1
    return count


def _children(cell: nn.Cell) -> Iterator[tuple[int | str, nn.Cell]]:
    """Give index or name of each child; a sequence keeps a second list, which only its own index reaches."""
    if isinstance(cell, (nn.SequentialCell, nn.CellList)):
        return ((index, cell[index]) for index in range(len(cell)))
    return iter(cell.name_cells().items())
