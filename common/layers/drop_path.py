"""Drop path whose draws follow from seed and step, in a form that compiled graphs can restore."""
import functools
import zlib

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from common.errors import UserError

DRAWS = 2 ** 16  # see DropPath
RANDOM_STATE = "random_state"


class DropPath(nn.Cell):
    """While training, drops a residual branch for some samples and divides the others by the keep probability.

    Source: Huang et al. 2016, "Deep Networks with Stochastic Depth", in the per-sample form. Which samples are dropped
    is a pure function of ``random_state`` = (stream, step) and the sample's row, because the framework's own generators
    in a compiled graph can neither be reseeded nor restored. The function is a chain of substitutions through one fixed
    permutation: few operations, exact on every device, no number over 2 ** 31.

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
        if self.rate > 0:
            self.table = permutation_table()
            self.random_state = Parameter(Tensor([0, 0], ms.int32), name=RANDOM_STATE, requires_grad=False)

    def construct(self, x):
        if self.rate == 0.0 or not self.training:
            return x
        keep = self.draw(x.shape[0]) < self.threshold
        mask = keep.astype(x.dtype) * (1.0 / (1.0 - self.rate))
        return x * mask.reshape((-1,) + (1,) * (x.ndim - 1)).astype(x.dtype)

    def draw(self, rows: int):
        """Return one integer per row, uniform in [0, DRAWS)."""
        if rows > DRAWS:
            raise ValueError(f"drop path draws for at most {DRAWS} rows, but the input has {rows}")
        stream, step = self.random_state[0], self.random_state[1]
        moment = self.substitute(self.substitute(step % DRAWS + stream) + step // DRAWS)
        offset = self.substitute(moment + stream)  # once more, so that streams are not shifted copies of each other
        return self.substitute(self.substitute(ops.arange(rows, dtype=ms.int32) + offset) + moment)

    def substitute(self, index):
        return ops.gather(self.table, index, 0)


@functools.cache
def permutation_table() -> Tensor:
    """Return a random permutation of 0..DRAWS-1, twice in a row: a sum of two numbers below DRAWS is an index."""
    once = np.random.RandomState(0).permutation(DRAWS).astype(np.int32)  # RandomState: NumPy keeps its draws for ever
    return Tensor(np.concatenate([once, once]))


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
