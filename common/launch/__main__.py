"""Starts the processes of a job, waits for them, and ends all when one fails. Imports no MindSpore.

    python -m common.launch KIND DEVICE TASK MODEL PYTHON FOLDER ARGUMENTS...

is what the scripts in ``scripts/`` call: KIND is standalone or distribute, MODEL the one that is meant where nothing
tells it (or empty), FOLDER where the script was started; ARGUMENTS are the script's own.
"""
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Sequence

from common.command import Parser, run
from common.errors import UserError
from common.launch.job import DEVICES, Request, understand
from common.launch.plan import Plan, Rank, make_plan, shell_commands
from common.launch.processes import SAVING, TICK, Crew, Follower, Signals, last_lines, prepare_folders, say


def start(plan: Plan, name: str, wait: bool) -> int:
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
        failure = None if ended else crew.look()
        follower.copy()
        if signals.first:
            say(f"\n{signal.Signals(signals.first).name}: ending all ranks, which may save first; once more ends them at "
                "once.")
            crew.stop(SAVING)
            return 128 + signals.first
        if failure:
            who, log, code = failure
            crew.stop()
            follower.copy()
            others = ", all others were ended" if len(crew.plan.ranks) > 1 else ""
            if len(crew.plan.ranks) < crew.plan.world_size:
                others += " (the cause may stand in the logs of another server)"
            print(f"\nerror: {who} ended with code {code}{others}; last lines of {log}:\n{last_lines(log)}",
                  file=sys.stderr)
            return code
        if ended:
            crew.stop()
            say(f"All ranks are done; results: {first.folder}")
            return 0
        time.sleep(TICK)


def _check_configuration(plan: Plan) -> None:
    """Let the entry point check its configuration and the paths in it, as a real start begins with.

    Raises:
        UserError: with the sentence of the entry point.
    """
    first = plan.processes[0]
    read = subprocess.run([*first.command, "--dry_run"], env=first.environment(dict(os.environ)),
                          stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, errors="replace", check=False)
    if read.returncode:
        raise UserError((read.stderr.strip().splitlines() or ["the configuration cannot be read."])[-1]
                        .removeprefix("error: "))


def main(words: Sequence[str]) -> str | int:
    """Do what a script asks for; returns its exit code, or what to tell.

    Raises:
        UserError: for a mistake in the arguments or the environment.
    """
    parser = Parser("common.launch", "Start the processes of a job; called by the scripts in scripts/.")
    parser.add_argument("kind", choices=["standalone", "distribute"])
    parser.add_argument("device", choices=list(DEVICES))
    for name in ("task", "model", "python", "folder"):
        parser.add_argument(name)
    options = parser.parse_args(words[:6])
    request = Request(options.kind, options.device, options.task, options.model)
    job = understand(request, words[6:], options.python, Path(options.folder), os.environ)
    plan = make_plan(job)
    if job.dry_run:
        _check_configuration(plan)
        return "\n".join(shell_commands(plan, dict(os.environ)))
    return start(plan, job.folder_name, wait=os.environ.get("NO_WAIT", "") in ("", "0"))


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))
