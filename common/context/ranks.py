"""The place of a process among the processes of a job, and sums over them."""
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Runtime:
    """The place of this process among the processes of a job.

    Attributes:
        device: Ascend, GPU or CPU.
        rank: number of this process, from 0.
        world_size: number of processes.
    """

    device: str = "CPU"
    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files and logs that people read."""
        return self.rank == 0

    def sum(self, counts: np.ndarray) -> np.ndarray:
        """Add up float64 values over all ranks; every rank gets the same result.

        Each value travels as three float32 parts whose sum it is (24 bits each), gathered and added in rank order, so
        that the sum is as exact as one made by a single process.
        """
        counts = np.asarray(counts, np.float64)
        if self.world_size == 1:
            return counts
        from mindspore import Tensor, ops

        parts, rest = [], counts
        for _ in range(3):
            parts.append(rest.astype(np.float32))
            rest = rest - parts[-1].astype(np.float64)
        gathered = ops.AllGather()(Tensor(np.stack(parts).reshape(1, -1))).asnumpy().astype(np.float64)
        return gathered.sum(axis=0).reshape((3,) + counts.shape).sum(axis=0)
