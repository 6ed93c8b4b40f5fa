"""What a rank of the jobs in test_meeting.py does, in the place of an entry point: it adds up the ranks of all.

    meeting_worker.py [any flags of an entry point]

Its environment says the rest: FOLDER gets ``rank_R``, with sum and number of processes; STAY: it goes on until ended.
"""
import os
import sys
import time
from pathlib import Path

import numpy as np

from common.command import refuse
from common.config.load import from_mapping
from common.context.device import start
from common.errors import UserError
from common.launch.platform import leave_table


def main() -> None:
    leave_table(None, os.environ)
    runtime = start(from_mapping({"device_target": "CPU", "mode": "pynative"}, "test"))
    file = Path(os.environ["FOLDER"]) / f"rank_{runtime.rank}"
    while True:
        total = runtime.sum(np.array([runtime.rank + 1.0]))
        file.write_text(f"{total[0]:g} {runtime.world_size} {os.getpid()} {'RANK_TABLE_FILE' in os.environ} "
                        f"{os.environ['HCCL_CONNECT_TIMEOUT']}")
        if not os.environ.get("STAY"):
            break
        time.sleep(0.2)


if __name__ == "__main__":
    try:
        main()
    except UserError as mistake:
        sys.exit(refuse(mistake))
