"""Update rules: AdamW, NAdam, Adan, Lion with decoupled weight decay, SGD and LARS with an L2 penalty.

All of them are subclasses of the public ``nn.Optimizer``, so they work in ``mindspore.Model`` and in a training step of
one's own, compiled or not. The framework's own are not used: its AdamWeightDecay lacks the bias correction and its Adam
the decoupled decay, and its gradient centralisation leaves out widths that 16 does not divide.

Each rule is a plain function of one parameter, which the compiler applies to all of them in seconds; a Python loop
over 300 parameters takes it a minute, a tuple made by repetition or the framework's learning rates per group ten
seconds and more.
No ``construct`` is decorated with ``jit``, as the framework's are: in PyNative mode a decorated one goes on updating
the old memory of a parameter after ``set_data``, so that training stands still without a word. Moments are float32
whatever the type of the parameter.

On the way of a batch (``common.tasks.train``) this is the last station: before it ``common.train_step`` has reduced,
unscaled and clipped the gradients; after it the weights have changed. Which rule applies to which parameter, and with
which decay, says ``common.optimizer.build``.

Notation: w weight, g gradient, ``rate`` learning rate, ``decay`` weight decay, t number of the update, from 1.
"""
import math
from typing import Callable, Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops


class UpdateRule(nn.Optimizer):
    """What all rules share: learning rate and weight decay per parameter, state, counting, centralisation.

    The learning rate of an update is the schedule's value at ``global_step``, the number of updates applied before it.

    Args:
        parameters: parameters; or groups, which are dicts with ``params`` and, where wanted, ``weight_decay``,
            ``lr`` (a schedule of the group's own) and ``lr_scale`` (a factor on the learning rate), and last
            ``{"order_params": ...}``.
        lr: learning rate, one number or one per update.
        weight_decay: for parameters whose group names none.
        centralise: subtract from every gradient of two or more axes its mean over all axes but the first, before
            anything else (Yong et al. 2020, "Gradient Centralization", equation 1).

    Inputs: gradients, one per parameter, already unscaled and clipped.
    """

    frozen_updates = 0

    def __init__(self, parameters: Sequence, lr, weight_decay: float = 0.0, centralise: bool = False):
        parameters = list(parameters)
        scales = {}
        if isinstance(parameters[0], dict):
            scales = {p.name: group.get("lr_scale", 1.0) for group in parameters for p in group.get("params", ())}
            parameters = [{key: value for key, value in group.items() if key != "lr_scale"} for group in parameters]
        super().__init__(lr, parameters, weight_decay)
        count = len(self.parameters)
        self.lr_scales = tuple(scales.get(p.name, 1.0) for p in self.parameters)
        self.decays = tuple(self.group_weight_decay) if self.is_group else (float(weight_decay),) * count
        self.centralise = centralise
        self.map = ops.HyperMap()

    def freeze(self, is_frozen: Callable[[str], bool], updates: int) -> None:
        """Keep the learning rate of the parameters of such names at 0 for the first ``updates``.

        Their moments are kept from the beginning. To be called before the first update.
        """
        self.frozen = tuple(is_frozen(p.name) for p in self.parameters)
        self.frozen_updates = updates

    def state(self, name: str) -> ParameterTuple:
        """Return float32 zeros shaped like the parameters, named ``<name>.<parameter>``."""
        return ParameterTuple([Parameter(Tensor(np.zeros(p.shape, np.float32)), name=f"{name}.{p.name}",
                                         requires_grad=False) for p in self.parameters])

    def begin(self, gradients):
        """Count the update.

        Returns:
            Gradients as the rules use them, the learning rate of every parameter, and t as a float32 scalar.
        """
        if self.is_group_lr:
            rates = self.map(_times, self.get_lr(), self.lr_scales)
        else:
            rates = self.map(ops.partial(_times, self.get_lr()), self.lr_scales)
        if self.frozen_updates:
            learns = ops.cast(self.global_step >= self.frozen_updates, ms.float32).reshape(())
            rates = self.map(ops.partial(_held, learns), self.frozen, rates)
        self.assignadd(self.global_step, self.global_step_increase_tensor)
        gradients = self.map(_centred if self.centralise else _float32, gradients)
        return gradients, rates, ops.cast(self.global_step, ms.float32).reshape(())


def _held(learns, frozen, rate):
    return rate * learns if frozen else rate


def _times(a, b):
    return a * b


def _float32(x):
    return ops.cast(x, ms.float32)


def _centred(gradient):
    gradient = _float32(gradient)
    if gradient.ndim < 2:
        return gradient
    return gradient - gradient.mean(tuple(range(1, gradient.ndim)), True)


def _write(weight, value):
    return ops.assign(weight, ops.cast(value, weight.dtype))


def _unbiased(log_beta, t):
    """Return ``1 - beta**t``, exact where ``beta**t`` is close to 1."""
    return -ops.expm1(log_beta * t)


class AdamW(UpdateRule):
    """AdamW, equal to PyTorch's.

    ``w <- w - rate * decay * w - rate * m / (1 - beta1**t) / (sqrt(v / (1 - beta2**t)) + eps)``

    Source: Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization", algorithm 2 (arXiv 1711.05101). It runs
    on the framework's fused kernel, which lacks the bias correction: with ``r = sqrt(1 - beta2**t) / (1 - beta1**t)``
    the learning rate ``rate * r``, the decay ``decay / r`` and the epsilon ``eps * sqrt(1 - beta2**t)`` supply it.

    Args:
        parameters, lr, weight_decay, centralise: see ``UpdateRule``.
        beta1, beta2: decay of the first and second moment.
        eps: added to the root of the second moment.
    """

    def __init__(self, parameters: Sequence, lr, weight_decay: float = 0.0, beta1: float = 0.9, beta2: float = 0.999,
                 eps: float = 1e-8, centralise: bool = False):
        super().__init__(parameters, lr, weight_decay, centralise)
        # the kernel computes 1 - beta in float32, so the correction must be that of the rounded numbers
        self.beta1, self.beta2 = float(np.float32(beta1)), float(np.float32(beta2))
        self.eps = eps
        self.log_betas = _log(self.beta1), _log(self.beta2)
        self.moment1 = self.state("adam_m")
        self.moment2 = self.state("adam_v")
        self.kernel = ops.AdamWeightDecay()

    def construct(self, gradients):
        gradients, rates, t = self.begin(gradients)
        root = ops.sqrt(_unbiased(self.log_betas[1], t))
        ratio = root / _unbiased(self.log_betas[0], t)
        rates = self.map(ops.partial(_times, ratio), rates)
        decays = self.map(ops.partial(_times, 1.0 / ratio), self.decays)
        rule = ops.partial(_adamw, self.kernel, self.beta1, self.beta2, self.eps * root)
        return self.map(rule, rates, decays, self.parameters, self.moment1, self.moment2, gradients)


def _adamw(kernel, beta1, beta2, eps, rate, decay, weight, moment1, moment2, gradient):
    if weight.dtype == ms.float32:
        return ops.depend(True, kernel(weight, moment1, moment2, rate, beta1, beta2, eps, decay, gradient))
    value = _float32(weight)
    m = beta1 * moment1 + (1.0 - beta1) * gradient
    v = beta2 * moment2 + (1.0 - beta2) * ops.square(gradient)
    ops.assign(moment1, m)
    ops.assign(moment2, v)
    _write(weight, value - rate * (m / (ops.sqrt(v) + eps) + decay * value))
    return True


class NAdam(UpdateRule):
    """Adam with Nesterov momentum, as PyTorch's with ``decoupled_weight_decay=True``.

    With ``mu(t) = beta1 * (1 - 0.96**(0.004 * t) / 2)`` and P the product of mu(1) to mu(t):
    ``w <- w - rate * decay * w - rate * (g * (1 - mu(t)) / (1 - P) + m * mu(t+1) / (1 - P * mu(t+1)))
    / (sqrt(v / (1 - beta2**t)) + eps)``

    Source: Dozat 2016, "Incorporating Nesterov Momentum into Adam". The paper has no weight decay; it is decoupled
    here, so that the same value means the same as for AdamW, whose arguments these are.
    """

    def __init__(self, parameters: Sequence, lr, weight_decay: float = 0.0, beta1: float = 0.9, beta2: float = 0.999,
                 eps: float = 1e-8, centralise: bool = False):
        super().__init__(parameters, lr, weight_decay, centralise)
        self.beta1, self.beta2, self.eps = beta1, beta2, eps
        self.log_beta2 = _log(beta2)
        self.log_schedule = 0.004 * math.log(0.96)
        self.product = Parameter(Tensor(1.0, ms.float32), name="optimizer.nadam_product", requires_grad=False)
        self.moment1 = self.state("optimizer.nadam_m")
        self.moment2 = self.state("optimizer.nadam_v")

    def momentum(self, t):
        """Return mu(t)."""
        return self.beta1 * (1.0 - 0.5 * ops.exp(self.log_schedule * t))

    def construct(self, gradients):
        gradients, rates, t = self.begin(gradients)
        now, coming = self.momentum(t), self.momentum(t + 1.0)
        product = self.product * now
        ops.assign(self.product, product)
        rule = ops.partial(_nadam, self.beta1, self.beta2, self.eps, (1.0 - now) / (1.0 - product),
                           coming / (1.0 - product * coming), _unbiased(self.log_beta2, t))
        return self.map(rule, rates, self.decays, self.parameters, self.moment1, self.moment2, gradients)


def _nadam(beta1, beta2, eps, share, share1, unbiased, rate, decay, weight, moment1, moment2, gradient):
    value = _float32(weight)
    m = beta1 * moment1 + (1.0 - beta1) * gradient
    v = beta2 * moment2 + (1.0 - beta2) * ops.square(gradient)
    ops.assign(moment1, m)
    ops.assign(moment2, v)
    update = (share * gradient + share1 * m) / (ops.sqrt(v / unbiased) + eps)
    _write(weight, value - rate * (update + decay * value))
    return True


class Adan(UpdateRule):
    """Adaptive Nesterov momentum.

    With d the difference to the gradient before (0 in the first update), m, v and n the averages of g, d and
    ``(g + beta2 * d)**2`` with beta1, beta2, beta3, each divided by ``1 - beta**t``:
    ``w <- (w - rate * (m + beta2 * v) / (sqrt(n) + eps)) / (1 + rate * decay)``

    Source: Xie et al. 2022, "Adan: Adaptive Nesterov Momentum Algorithm", algorithm 1 (arXiv 2208.06677), whose betas
    are 1 minus these; the bias correction instead of special first values is that of the authors' code. Arguments as
    for ``AdamW``.
    """

    def __init__(self, parameters: Sequence, lr, weight_decay: float = 0.0, beta1: float = 0.98, beta2: float = 0.92,
                 beta3: float = 0.99, eps: float = 1e-8, centralise: bool = False):
        super().__init__(parameters, lr, weight_decay, centralise)
        self.betas = (beta1, beta2, beta3)
        self.eps = eps
        self.log_betas = tuple(_log(beta) for beta in self.betas)
        self.moment1 = self.state("optimizer.adan_m")
        self.moment2 = self.state("optimizer.adan_v")
        self.moment3 = self.state("optimizer.adan_n")
        self.before = self.state("optimizer.adan_g")

    def construct(self, gradients):
        gradients, rates, t = self.begin(gradients)
        rule = ops.partial(_adan, self.betas, self.eps, ops.cast(t > 1.0, ms.float32),
                           _unbiased(self.log_betas[0], t), _unbiased(self.log_betas[1], t),
                           _unbiased(self.log_betas[2], t))
        return self.map(rule, rates, self.decays, self.parameters, self.moment1, self.moment2, self.moment3,
                        self.before, gradients)


def _adan(betas, eps, has_before, unbiased1, unbiased2, unbiased3, rate, decay, weight, moment1, moment2, moment3,
          before, gradient):
    beta1, beta2, beta3 = betas
    value = _float32(weight)
    difference = (gradient - before) * has_before
    m = beta1 * moment1 + (1.0 - beta1) * gradient
    v = beta2 * moment2 + (1.0 - beta2) * difference
    n = beta3 * moment3 + (1.0 - beta3) * ops.square(gradient + beta2 * difference)
    ops.assign(moment1, m)
    ops.assign(moment2, v)
    ops.assign(moment3, n)
    ops.assign(before, gradient)
    update = (m / unbiased1 + v * (beta2 / unbiased2)) / (ops.sqrt(n / unbiased3) + eps)
    _write(weight, (value - rate * update) / (1.0 + rate * decay))
    return True


class Lion(UpdateRule):
    """``w <- w - rate * (sign(beta1 * m + (1 - beta1) * g) + decay * w)``, then ``m <- beta2 * m + (1 - beta2) * g``.

    Source: Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms", algorithm 2 (arXiv 2302.06675). It wants
    a learning rate 3 to 10 times lower than AdamW's, and a weight decay as many times higher.

    Args:
        parameters, lr, weight_decay, centralise: see ``UpdateRule``.
        beta1: share of the momentum in the direction.
        beta2: decay of the momentum.
    """

    def __init__(self, parameters: Sequence, lr, weight_decay: float = 0.0, beta1: float = 0.9, beta2: float = 0.99,
                 centralise: bool = False):
        super().__init__(parameters, lr, weight_decay, centralise)
        self.beta1, self.beta2 = beta1, beta2
        self.moment = self.state("optimizer.lion_m")

    def construct(self, gradients):
        gradients, rates, _ = self.begin(gradients)
        rule = ops.partial(_lion, self.beta1, self.beta2)
        return self.map(rule, rates, self.decays, self.parameters, self.moment, gradients)


def _lion(beta1, beta2, rate, decay, weight, moment, gradient):
    value = _float32(weight)
    direction = ops.sign(beta1 * moment + (1.0 - beta1) * gradient)
    ops.assign(moment, beta2 * moment + (1.0 - beta2) * gradient)
    _write(weight, value - rate * (direction + decay * value))
    return True


class SGD(UpdateRule):
    """``g <- g + decay * w``, ``m <- momentum * m + g``, ``w <- w - rate * m`` (Nesterov: ``momentum * m + g``).

    Source: Sutskever et al. 2013, in PyTorch's form, in which the learning rate is not part of m. The weight decay is
    an L2 penalty, as usual with SGD.

    Args:
        parameters, lr, weight_decay, centralise: see ``UpdateRule``.
        momentum: decay of m; 0: none.
        nesterov: look ahead.
    """

    def __init__(self, parameters: Sequence, lr, weight_decay: float = 0.0, momentum: float = 0.9,
                 nesterov: bool = False, centralise: bool = False):
        super().__init__(parameters, lr, weight_decay, centralise)
        self.momentum = momentum
        self.nesterov = nesterov
        self.moment = self.state("optimizer.sgd_m")

    def construct(self, gradients):
        gradients, rates, _ = self.begin(gradients)
        rule = ops.partial(_sgd, self.momentum, self.nesterov)
        return self.map(rule, rates, self.decays, self.parameters, self.moment, gradients)


def _sgd(momentum, nesterov, rate, decay, weight, moment, gradient):
    value = _float32(weight)
    gradient = gradient + decay * value
    m = momentum * moment + gradient
    ops.assign(moment, m)
    _write(weight, value - rate * (momentum * m + gradient if nesterov else m))
    return True


class LARS(UpdateRule):
    """SGD with momentum in which each tensor of two or more axes trusts its gradient in proportion to its norm.

    ``g <- g + decay * w``, ``g <- g * trust * |w| / |g|`` (1 where a norm is 0), ``m <- momentum * m + g``,
    ``w <- w - rate * m``; tensors of one axis are neither decayed nor rescaled.

    Source: You et al. 2017, "Large Batch Training of Convolutional Networks" (arXiv 1708.03888), as in the linear probe
    of the official MAE: the rescaled gradient enters the momentum, the learning rate does not.

    Args:
        parameters, lr, weight_decay, centralise: see ``UpdateRule``.
        momentum: decay of m.
        trust: the trust coefficient.
    """

    def __init__(self, parameters: Sequence, lr, weight_decay: float = 0.0, momentum: float = 0.9,
                 trust: float = 0.001, centralise: bool = False):
        super().__init__(parameters, lr, weight_decay, centralise)
        self.momentum = momentum
        self.trust = trust
        self.moment = self.state("optimizer.lars_m")

    def construct(self, gradients):
        gradients, rates, _ = self.begin(gradients)
        rule = ops.partial(_lars, self.momentum, self.trust)
        return self.map(rule, rates, self.decays, self.parameters, self.moment, gradients)


def _lars(momentum, trust, rate, decay, weight, moment, gradient):
    value = _float32(weight)
    if weight.ndim > 1:
        gradient = gradient + decay * value
        weight_norm = ops.sqrt(ops.reduce_sum(ops.square(value)))
        gradient_norm = ops.sqrt(ops.reduce_sum(ops.square(gradient)))
        trusted = trust * weight_norm / ops.maximum(gradient_norm, 1e-30)
        gradient = gradient * ops.select(weight_norm * gradient_norm > 0.0, trusted, ops.ones_like(trusted))
    m = momentum * moment + gradient
    ops.assign(moment, m)
    _write(weight, value - rate * m)
    return True


def _log(beta: float) -> float:
    """The logarithm of a decay; of 0 a number whose exponential is 0."""
    return math.log(beta) if beta > 0 else -1e4
