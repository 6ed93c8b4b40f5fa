"""Drop path whose draws follow from seed and step, in a form that compiled graphs can restore."""
import functools
import zlib

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from common.errors import UserError
from common.layers.cpu_training import ScaleSamples, on_cpu, shared

DRAWS = 2 ** 16  # see DropPath
RANDOM_STATE = "random_state"


class DropPath(nn.Cell):
    """While training, drops a residual branch for some samples and divides the others by the keep probability.

    Source: Huang et al. 2016, "Deep Networks with Stochastic Depth", in the per-sample form. Which samples are dropped
    is a pure function of ``random_state`` = (stream, step) and the sample's row, because the framework's own generators
    in a compiled graph can neither be reseeded nor restored. The function is a chain of substitutions through one fixed
    permutation: few operations, exact on every device, no number over 2 ** 31. They are written as primitives, and no
    gradient is asked of them, so that compiling 24 cells takes 2 s instead of 3.

    Args:
        rate: probability of dropping, in [0, 1). With 0 the cell is the identity and has no parameter.

    Inputs: x, (B, ...), B at most 65,536.   Output: the same shape.

    Raises:
        UserError: if ``rate`` is out of range.
    """

    def __init__(self, rate: float = 0.0):
        super().__init__()
        if not 0 <= rate < 1:
            raise UserError(f"drop_path_rate: {rate} is not a probability in [0, 1).")
        self.rate = float(rate)
        self.threshold = round((1 - self.rate) * DRAWS)
        self.scale_samples = None
        if self.rate > 0:
            self.table, self.numbers = permutation_table(), row_numbers()
            self.parts, self.modulo, self.divided = ops.Unstack(), ops.FloorMod(), ops.FloorDiv()
            self.add, self.less, self.gather, self.slice = ops.Add(), ops.Less(), ops.Gather(), ops.Slice()
            self.random_state = Parameter(Tensor([0, 0], ms.int32), name=RANDOM_STATE, requires_grad=False)
            self.scale_samples = shared(ScaleSamples) if on_cpu() else None

    def construct(self, x):
        if self.rate == 0.0 or not self.training:
            return x
        keep = self.less(ops.stop_gradient(self.draw(x.shape[0])), self.threshold)
        mask = keep.astype(x.dtype) * (1.0 / (1.0 - self.rate))
        if self.scale_samples is not None and x.dtype == ms.float32:
            return self.scale_samples[0](x, mask)
        return x * mask.reshape((-1,) + (1,) * (x.ndim - 1)).astype(x.dtype)

    def before_fusing(self) -> None:
        """Multiply plainly, which is fused."""
        self.scale_samples = None

    def draw(self, rows: int):
        """Return one integer per row, uniform in [0, DRAWS)."""
        if rows > DRAWS:
            raise ValueError(f"drop path draws for at most {DRAWS} rows, but the input has {rows}")
        stream, step = self.parts(self.random_state)
        moment = self.substitute(self.modulo(step, DRAWS), stream)
        moment = self.substitute(moment, self.divided(step, DRAWS))
        offset = self.substitute(moment, stream)  # once more, so that streams are not shifted copies of each other
        return self.substitute(self.substitute(self.slice(self.numbers, (0,), (rows,)), offset), moment)

    def substitute(self, number, shift):
        """Return what the permutation makes of a sum."""
        return self.gather(self.table, self.add(number, shift), 0)


@functools.cache
def permutation_table() -> Tensor:
    """Return a random permutation of 0..DRAWS-1, twice in a row: a sum of two numbers below DRAWS is an index."""
    once = np.random.RandomState(0).permutation(DRAWS).astype(np.int32)  # RandomState: NumPy keeps its draws for ever
    return Tensor(np.concatenate([once, once]))


@functools.cache
def row_numbers() -> Tensor:
    """Return the numbers of all rows that a batch can have."""
    return Tensor(np.arange(DRAWS, dtype=np.int32))


def random_states(network: nn.Cell) -> list[Parameter]:
    """Return the (stream, step) pairs of the network's random cells; they are no weights."""
    return [p for p in network.get_parameters() if p.name.endswith(RANDOM_STATE)]


def seed_random_states(network: nn.Cell, seed: int, step: int = 0) -> None:
    """Give every random cell its own stream, which follows from its name and ``seed``, and the position ``step``."""
    taken = set()
    for state in random_states(network):
        stream = zlib.crc32(f"{seed} {state.name}".encode()) % DRAWS
        while stream in taken:  # two cells must not draw the same
            stream = (stream + 1) % DRAWS
        taken.add(stream)
        state.set_data(Tensor([stream, step], ms.int32))
