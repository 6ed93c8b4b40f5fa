"""Which cores of the machine a process may use. Imports no MindSpore."""
import os


def share_cores(count: int) -> list[list[int]]:
    """Share the cores that this process may use among ``count`` others; empty shares if there are fewer cores."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    each = len(cores) // count
    return [cores[number * each:(number + 1) * each] for number in range(count)]
