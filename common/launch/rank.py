"""A rank that msrun starts: puts it into its own folder, and leaves there what a rank leaves. Imports no MindSpore.

    python -m common.launch.rank FOLDER BIND COMMAND...

FOLDER is completed with the number of the rank on this server; BIND is the number of ranks among which the cores are
shared, 0 for no binding. msrun's own scheduler, which is started in the same way, gets no folder.
"""
import os
import subprocess
import sys
from pathlib import Path
from typing import Mapping, Sequence

from common.context.cores import share_cores

EXIT_CODE = "exit_code"


def write_environment(folder: Path, environment: Mapping[str, str]) -> None:
    """Write ``env.log``, readable by its owner alone: environments hold passwords."""
    file = folder / "env.log"
    file.touch(mode=0o600)
    file.write_text("".join(f"{name}={environment[name]}\n" for name in sorted(environment)), encoding="utf-8",
                    errors="surrogateescape")


def shell_code(code: int) -> int:
    """Return an exit code as shells give it: 128 and the number of the signal for a process that was killed."""
    return 128 - code if code < 0 else code


def main(words: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    prefix, bind, command = words[0], int(words[1]), list(words[2:])
    if os.environ.get("MS_ROLE") == "MS_SCHED":
        os.chdir(f"{prefix}0/msrun")
        os.execvp(command[0], command)
    number = int(os.environ["DEVICE_ID"])
    folder = Path(f"{prefix}{number}")
    cores = share_cores(bind)[number] if bind else []
    if cores:
        os.sched_setaffinity(0, cores)
    write_environment(folder, os.environ)
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
    (folder / "pid").write_text(f"{process.pid}\n", encoding="ascii")
    code = shell_code(process.wait())
    (folder / EXIT_CODE).write_text(f"{code}\n", encoding="ascii")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
