"""Which cores of the machine a process may use. Imports no MindSpore."""
import os


def own_cores() -> list[int]:
    """Return the cores that this process may use, which a launcher or a container may have limited."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def share_cores(count: int) -> list[list[int]]:
    """Share the cores of this process among ``count`` others; empty shares if there are fewer cores."""
    cores = own_cores()
    each = len(cores) // count
    return [cores[number * each:(number + 1) * each] for number in range(count)]
