"""Starts the processes of a job, waits for them, and ends all when one fails. Imports no MindSpore.

    python -m common.launch KIND DEVICE TASK MODEL PYTHON FOLDER ARGUMENTS...

is what the scripts in ``scripts/`` call: KIND is standalone or distribute, MODEL the one that is meant where nothing
tells it (or empty), FOLDER where the script was started; ARGUMENTS are the script's own.
"""
import os
import signal
import sys
import time
from pathlib import Path
from typing import Sequence

from common.command import refuse
from common.errors import UserError
from common.launch.job import Request, understand
from common.launch.plan import Plan, Rank, describe, make_plan
from common.launch.processes import TICK, Crew, Follower, Signals, last_lines, prepare_folders, say


def run(plan: Plan, name: str, wait: bool) -> int:
    """Start a plan; wait for its end, if asked to, and return the exit code."""
    signals = Signals()
    moved = prepare_folders(plan, name)
    first = plan.ranks[0]
    if moved:
        say(f"Earlier results are kept: {first.folder.parent}/{name}*.{moved}")
    crew = Crew(plan, signals)
    crew.start()
    log = first.folder / "log"
    what = f"rank {first.rank}" if len(plan.ranks) == 1 else f"ranks {first.rank} to {plan.ranks[-1].rank}"
    say(f"Started {what} of {plan.world_size}; log of rank {first.rank}: {log}")
    if not wait:
        say(f"Running in the background; to end it: {crew.how_to_end()}")
        return 0
    return _wait(crew, first, signals)


def _wait(crew: Crew, first: Rank, signals: Signals) -> int:
    follower = Follower(first.folder / "log")
    while True:
        ended = crew.ended()
        failure = crew.look()
        follower.copy()
        if signals.first:
            say(f"\n{signal.Signals(signals.first).name}: ending all ranks.")
            crew.stop()
            return 128 + signals.first
        if failure:
            who, log, code = failure
            crew.stop()
            follower.copy()
            others = ", all others were ended" if len(crew.plan.ranks) > 1 else ""
            print(f"\nerror: {who} ended with code {code}{others}; last lines of {log}:\n{last_lines(log)}",
                  file=sys.stderr)
            return code
        if ended:
            say(f"All ranks are done; results: {first.folder}")
            return 0
        time.sleep(TICK)


def main(words: Sequence[str]) -> int:
    """Do what a script asks for; return its exit code."""
    kind, device, task, fallback, python, caller, *arguments = words
    request = Request(kind, device, task, fallback)
    try:
        job = understand(request, arguments, python, Path(caller), os.environ)
        plan = make_plan(job)
        if job.dry_run:
            sys.stdout.write("".join(f"{line}\n" for line in describe(plan, dict(os.environ))))
            return 0
        return run(plan, job.folder_name, wait=os.environ.get("NO_WAIT", "") in ("", "0"))
    except UserError as error:
        return refuse(error)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
