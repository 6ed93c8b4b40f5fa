"""The scheduler of a job, at which its processes meet; ends when all have left, or when one is lost.

    MS_ROLE=MS_SCHED MS_WORKER_NUM=N MS_SCHED_HOST=ADDRESS MS_SCHED_PORT=PORT python -m common.context.scheduler [child]

With ``child`` it is the child of rank 0, and also ends when that ends before it has joined (its standard input is
closed then, and holds nothing). The waiting is done beside it: it hears nothing itself until all have joined.
"""
import os
import signal
import sys
from typing import Sequence

from common.command import run
from common.context.cluster import check_port


def main(words: Sequence[str]) -> int:
    """Run the scheduler and return its exit code.

    Raises:
        UserError: if its port cannot be used.
    """
    check_port(os.environ["MS_SCHED_HOST"], int(os.environ["MS_SCHED_PORT"]))
    if words == ["child"] and (child := os.fork()):
        if not sys.stdin.buffer.read():
            os.kill(child, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.environ.setdefault("GLOG_v", "3")
    import mindspore as ms
    from mindspore.communication import init

    ms.set_device("CPU")
    init()
    return 0


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))
