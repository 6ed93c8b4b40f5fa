"""One optimizer step, in one fixed order.

Forward, backward, sum over micro-batches, all-reduce, unscale, overflow check, clip by global norm, update, EMA. The
order is written here once and nowhere else: clipping before the reduction, an average that also moves when the update
was dropped, or a loss scale that never leaves the gradient are the faults that users of other zoos report most.

On the way of a batch (``common.tasks.train``): before it ``common.dataset.batches`` has made the batch; within it the
model's network and ``common.loss`` give the loss; after it ``common.optimizer.rules`` changes the weights. Which of the
step's own tensors a checkpoint holds says ``common.run.training``.
"""
from contextlib import contextmanager
from typing import Callable, Iterator, Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from common.layers.drop_path import random_states

MAX_SKIPPED_IN_A_ROW = 50  # a dynamic scale falls from 2**24 to 1 in 24 halvings; more means that nothing is finite

_scaled = ops.MultitypeFuncGraph("scaled")
_square_sum = ops.MultitypeFuncGraph("square_sum")
_square_sum_on_cpu = ops.MultitypeFuncGraph("square_sum_on_cpu")
_added = ops.MultitypeFuncGraph("added")
_cleared = ops.MultitypeFuncGraph("cleared")
_averaged = ops.MultitypeFuncGraph("averaged")


@_scaled.register("Tensor", "Tensor")
def _scale_gradient(factor, gradient):
    return gradient * ops.cast(factor, gradient.dtype)


@_square_sum.register("Tensor")
def _sum_squares(gradient):
    return ops.reduce_sum(ops.square(ops.cast(gradient, ms.float32)))


@_square_sum_on_cpu.register("Tensor")
def _sum_squares_on_cpu(gradient):
    """By a product, which there takes a quarter of the time of a sum (2.10); elsewhere it may be of half precision."""
    row = ops.cast(gradient, ms.float32).reshape(1, -1)
    return ops.matmul(row, row.reshape(-1, 1)).reshape(())


@_added.register("Tensor", "Tensor")
def _add_gradient(total, gradient):
    return ops.assign_add(total, ops.cast(gradient, total.dtype))


@_cleared.register("Tensor")
def _clear(total):
    return ops.assign(total, ops.zeros_like(total))


@_averaged.register("Tensor", "Tensor", "Tensor")
def _move_average(decay, average, value):
    return ops.assign(average, average * decay + value * (1.0 - decay))


class ClassifierLoss(nn.Cell):
    """The loss of a classifier: images (B, C, H, W) and labels (B,) or (B, num_classes) -> scalar."""

    def __init__(self, network: nn.Cell, loss: nn.Cell):
        super().__init__(auto_prefix=False)
        self.network = network
        self.loss = loss

    def construct(self, images, labels):
        return self.loss(self.network(images), labels)


class ReconstructionLoss(nn.Cell):
    """The loss that a masked autoencoder computes itself: images (B, C, H, W) and noise (B, L) -> scalar."""

    def __init__(self, network: nn.Cell):
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, images, noise):
        return self.network(images, noise)[0]


class FromBytes(nn.Cell):
    """Normalises images that come as bytes, blends them where mixup asks for it, and hands them on.

    Equal to ``common.augment`` but for the rounding of float32: there (v / 255 - mean) / std is rounded once.

    Args:
        network_with_loss: takes float32 images, and the other columns.
        mean: per channel, for pixel values in 0..1.
        std: alike.

    Inputs: images uint8 (B, C, H, W), labels or noise, and perhaps the share float32 (1,) of image B-1-i in image i.
    """

    def __init__(self, network_with_loss: nn.Cell, mean: Sequence[float], std: Sequence[float]):
        super().__init__(auto_prefix=False)
        self.network_with_loss = network_with_loss
        mean, std = (np.reshape(values, (1, -1, 1, 1)).astype(np.float64) for values in (mean, std))
        self.scale, self.shift = Tensor(1 / (255 * std), ms.float32), Tensor(-mean / std, ms.float32)
        self.reverse = ops.ReverseV2((0,))

    def construct(self, images, targets, share=None):
        images = ops.cast(images, ms.float32) * self.scale + self.shift
        if share is not None:
            images = images + (self.reverse(images) - images) * share
        return self.network_with_loss(images, targets)


class TrainStep(nn.Cell):
    """Consumes one micro-batch, and updates the weights after every ``accumulation_steps`` of them.

    A gradient that is not finite never reaches the weights: the update and the moving average are skipped. Where
    float16 saturates instead of becoming infinite, only the device itself knows: ``all_finite``.

    Args:
        network_with_loss: cell from the data set's columns to a scalar loss, for example ``ClassifierLoss``.
        network: the network inside it, whose parameters are averaged when ``ema_decay`` is given.
        optimizer: holds the trainable parameters and the learning rate of every step.
        accumulation_steps: micro-batches summed (and divided by their number) for one update.
        loss_scale: factor on the loss during the backward pass; a fixed number, or the first value of a dynamic one.
        dynamic_loss_scale: halve the scale on overflow, double it after ``scale_window`` good updates.
        scale_window: good updates before the scale grows, up to 2**24.
        clip_norm: largest global L2 norm of the gradient, measured after reduction and unscaling.
        ema_decay: decay of the moving average of all network parameters; ``None``: no average.
        world_size: number of processes whose gradients are reduced.
        mean_over_ranks: average them; otherwise add them up.
        allreduce_buckets: groups of gradients, of about the same size, that are reduced at once each; from two on, one
            is reduced while the backward pass still computes the next.
        all_finite: gradients -> whether the device has cut off no value since the last call, which it then forgets;
            ``mindspore.amp.all_finite`` on Ascend. ``None``: a finite norm is enough.

    Inputs: the columns of the data set.   Output: the unscaled loss of this micro-batch, a scalar.
    """

    def __init__(self, network_with_loss: nn.Cell, network: nn.Cell, optimizer: nn.Optimizer, *,
                 accumulation_steps: int = 1, loss_scale: float = 1.0, dynamic_loss_scale: bool = False,
                 scale_window: int = 2000, clip_norm: float | None = None, ema_decay: float | None = None,
                 world_size: int = 1, mean_over_ranks: bool = True, allreduce_buckets: int = 1,
                 all_finite: Callable | None = None):
        super().__init__(auto_prefix=False)
        self.network_with_loss = network_with_loss
        self.network = network
        self.optimizer = optimizer
        self.weights = optimizer.parameters
        self.accumulation_steps = accumulation_steps
        self.dynamic_loss_scale = dynamic_loss_scale
        self.scale_window = scale_window
        self.clip_norm = clip_norm
        self.rescales = dynamic_loss_scale or loss_scale != 1.0 or accumulation_steps > 1 or clip_norm is not None
        self.map = ops.HyperMap()
        self.square_sum = _square_sum_on_cpu if ms.get_context("device_target") == "CPU" else _square_sum
        self.value_and_grad = ms.value_and_grad(self.scaled_loss, None, self.weights)
        self.reducer = None
        self.all_finite = all_finite
        if world_size > 1:
            share_into_buckets(self.weights, allreduce_buckets)
            self.reducer = nn.DistributedGradReducer(self.weights, mean=mean_over_ranks, degree=world_size)
            self.sum_over_ranks = ops.AllReduce()

        self.loss_scale = Parameter(Tensor(loss_scale, ms.float32), name="train.loss_scale", requires_grad=False)
        self.good_updates = _counter("good_updates")    # since the scale last changed
        self.micro_steps = _counter("micro_steps")      # micro-batches consumed: the position in the data
        self.skipped = _counter("skipped")              # updates dropped because of an overflow
        self.skipped_in_row = _counter("skipped_in_row")
        self.bad_step = Parameter(Tensor(-1, ms.int32), name="train.bad_step", requires_grad=False)
        self.loss_sum = Parameter(Tensor(0.0, ms.float32), name="train.loss_sum", requires_grad=False)
        self.grad_norm = Parameter(Tensor(0.0, ms.float32), name="train.grad_norm", requires_grad=False)

        # micro-batches of this update in which the device has cut off values
        self.saturated = Parameter(Tensor(0.0, ms.float32), name="sum.saturated", requires_grad=False)

        self.sums = self.weights.clone(prefix="sum", init="zeros") if accumulation_steps > 1 else None
        self.random_states = ParameterTuple(random_states(network)) if random_states(network) else None
        self.next_draw = Tensor(np.array([0, 1]), ms.int32)
        self.ema_decay = None
        if ema_decay is not None:
            averaged = ParameterTuple([p for p in network.get_parameters() if not p.name.endswith("random_state")])
            self.averaged = averaged
            self.ema = averaged.clone(prefix="ema", init="same")
            self.ema_decay = Tensor(ema_decay, ms.float32)
            for average in self.ema:
                average.requires_grad = False
        self.set_train()

    def before_fusing(self) -> None:
        """Sum squares as elsewhere: those sums are fused, which is faster still."""
        self.square_sum = _square_sum

    def scaled_loss(self, *inputs):
        return self.network_with_loss(*inputs) * self.loss_scale

    def construct(self, *inputs):
        if self.all_finite is not None:  # what came before, such as an evaluation, does not count
            inputs = (ops.depend(inputs[0], self.all_finite((self.loss_scale,))),) + inputs[1:]
        scaled, gradients = self.value_and_grad(*inputs)
        if self.all_finite is not None:
            ops.assign_add(self.saturated, 1.0 - self.all_finite(gradients).astype(ms.float32))
        loss = scaled / self.loss_scale
        ops.assign_add(self.micro_steps, 1)
        ops.assign_add(self.loss_sum, loss)
        # no branch: one that needs the loss alone would part forward and backward, and keep every activation alive
        bad = ops.logical_and(self.bad_step < 0, ops.logical_not(ops.isfinite(loss)))
        ops.assign(self.bad_step, ops.select(bad, self.micro_steps, self.bad_step))
        if self.random_states is not None:
            for state in self.random_states:
                ops.assign_add(state, self.next_draw)
        if self.accumulation_steps == 1:
            loss = ops.depend(loss, self.update(gradients))
        else:
            loss = ops.depend(loss, self.map(_added, self.sums, gradients))
            if self.micro_steps % self.accumulation_steps == 0:
                loss = ops.depend(loss, self.update(self.sums))
                loss = ops.depend(loss, self.map(_cleared, self.sums))
        return loss

    def update(self, gradients):
        """Reduce, unscale, check, clip, apply. Unscaling and clipping are one factor, so one pass over the gradient."""
        if self.reducer is not None:
            gradients = self.reducer(gradients)
        factor = 1.0 / (self.loss_scale * self.accumulation_steps)
        norm = ops.sqrt(ops.addn(self.map(self.square_sum, gradients))) * factor
        ops.assign(self.grad_norm, norm)
        finite = ops.isfinite(norm)
        if self.all_finite is not None:
            saturated = self.saturated + 0.0
            if self.reducer is not None:
                saturated = self.sum_over_ranks(saturated)
            finite = ops.logical_and(finite, saturated == 0.0)
            ops.assign(self.saturated, 0.0)
        if self.clip_norm is not None:
            factor = factor * ops.minimum(self.clip_norm / (norm + 1e-6), 1.0)
        if finite:
            if self.rescales:
                gradients = self.map(ops.partial(_scaled, factor), gradients)
            norm = ops.depend(norm, self.optimizer(gradients))
            if self.ema_decay is not None:
                norm = ops.depend(norm, self.map(ops.partial(_averaged, self.ema_decay), self.ema, self.averaged))
            ops.assign(self.skipped_in_row, 0)
        else:
            ops.assign_add(self.skipped, 1)
            ops.assign_add(self.skipped_in_row, 1)
        if self.dynamic_loss_scale:
            self.adjust_scale(finite)
        return norm

    @contextmanager
    def moving_average(self) -> Iterator[None]:
        """Let the network carry its moving average, if there is one, inside a ``with`` block."""
        if self.ema_decay is None:
            yield
            return
        weights = [Tensor(weight.asnumpy().copy()) for weight in self.averaged]
        for weight, average in zip(self.averaged, self.ema):
            weight.set_data(Tensor(average.asnumpy().copy()))
        try:
            yield
        finally:
            for weight, value in zip(self.averaged, weights):
                weight.set_data(value)

    def adjust_scale(self, finite):
        if finite:
            ops.assign_add(self.good_updates, 1)
            if self.good_updates >= self.scale_window:
                ops.assign(self.loss_scale, ops.minimum(self.loss_scale * 2.0, 2.0**24))
                ops.assign(self.good_updates, 0)
        else:
            ops.assign(self.loss_scale, ops.maximum(self.loss_scale * 0.5, 1.0))
            ops.assign(self.good_updates, 0)
        return finite


def _counter(name: str) -> Parameter:
    return Parameter(Tensor(0, ms.int32), name=f"train.{name}", requires_grad=False)


def share_into_buckets(parameters: Sequence[Parameter], count: int) -> None:
    """Number the gradients' all-reduces: those of one number are reduced together (``Parameter.comm_fusion``).

    The first bucket holds the last parameters, whose gradients the backward pass computes first.
    """
    total = sum(parameter.size for parameter in parameters)
    done = 0
    for parameter in reversed(parameters):
        parameter.comm_fusion = min(count, done * count // total + 1)
        done += parameter.size
