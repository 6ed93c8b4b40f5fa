"""Initial values of parameters, drawn with numpy."""
import contextlib
import contextvars
import math
import zlib
from typing import Callable, Iterator

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

_AS_BUILT = contextvars.ContextVar("as_built", default=False)


@contextlib.contextmanager
def values_as_built() -> Iterator[None]:
    """Leave parameters as their cells built them: for networks whose values nobody will use, which then build fast."""
    token = _AS_BUILT.set(True)
    try:
        yield
    finally:
        _AS_BUILT.reset(token)


def initialise(network: nn.Cell, rule: Callable[[str, tuple[int, ...], np.random.Generator], np.ndarray | None]
               ) -> None:
    """Set the parameters of ``network`` to what ``rule(name, shape, rng)`` returns; None leaves one as it is.

    Each parameter has a generator of its own, made from its name and ``mindspore.set_seed``, so that neither order nor
    number of the others matters. Without a seed the values differ from network to network.
    """
    if _AS_BUILT.get():
        return
    seed = ms.get_seed()
    entropy = np.random.SeedSequence().entropy if seed is None else seed
    for parameter in network.get_parameters():
        rng = np.random.default_rng([entropy, zlib.crc32(parameter.name.encode())])
        value = rule(parameter.name, tuple(parameter.shape), rng)
        if value is not None:
            parameter.set_data(Tensor(np.broadcast_to(np.asarray(value, np.float32), parameter.shape).copy()))


def truncated_normal(rng: np.random.Generator, shape: tuple[int, ...], std: float, bound: float) -> np.ndarray:
    """Draw from a normal distribution cut off at ``-bound`` and ``bound`` (absolute), float32.

    ``std`` is that of the distribution before it is cut.
    """
    values = rng.standard_normal(shape, np.float32) * np.float32(std)
    while (outside := np.abs(values) > bound).any():
        values[outside] = rng.standard_normal(int(outside.sum()), np.float32) * np.float32(std)
    return values


def lecun_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draw weights (out, in, ...) of variance 1 / fan_in from a normal distribution cut at two deviations."""
    std = math.sqrt(1 / math.prod(shape[1:])) / 0.87962566103423978  # that of a unit normal cut at 2
    return truncated_normal(rng, shape, std, 2 * std)


def xavier_uniform(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Draw weights (out, in) uniformly within sqrt(6 / (in + out))."""
    bound = math.sqrt(6 / sum(shape))
    return rng.uniform(-bound, bound, shape).astype(np.float32)
