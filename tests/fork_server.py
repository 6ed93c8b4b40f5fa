"""Starts Python programs as processes of their own in which MindSpore is imported already: 0.1 s instead of 2 s.

Nothing of the project is imported here and nothing is computed before the fork, so that each program is read anew and
sets its own environment. A line of JSON on the standard input asks for one process, a line of JSON is the answer.
"""
import atexit
import gc
import json
import os
import random
import runpy
import signal
import sys
import threading
import time
from typing import Callable, NoReturn

BEFORE = dict(os.environ)
import cv2  # noqa: F401
import matplotlib.backends.backend_agg  # noqa: F401
import matplotlib.figure  # noqa: F401
import mindspore
import mindspore.dataset  # noqa: F401
import numpy as np
import PIL.Image  # noqa: F401
import tqdm  # noqa: F401
import yaml  # noqa: F401

if os.environ.get("ZOO_TEST_THREADS"):  # see conftest.py
    mindspore.device_context.cpu.op_tuning.threads_num(1)
SET_BY_IMPORTS = {name: value for name, value in os.environ.items() if BEFORE.get(name) != value}


def become(request: dict) -> None:
    """Turn this process, the child, into the program that is asked for, and run it."""
    os.setsid()  # so that what it started can be ended with it
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(SET_BY_IMPORTS | request["environment"])
    for number, name, flags in ((0, os.devnull, os.O_RDONLY), (1, request["out"], os.O_WRONLY),
                                (2, request["err"], os.O_WRONLY)):
        os.dup2(os.open(name, flags), number)
    sys.stdin = open(0, closefd=False)
    random.seed()
    np.random.seed()
    program, *arguments = request["arguments"]
    if program == "-m":
        module, *arguments = arguments
        sys.path[0], sys.argv = os.getcwd(), ["-m", *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.path[0], sys.argv = os.path.dirname(os.path.abspath(program)), [program, *arguments]
        runpy.run_path(os.path.abspath(program), run_name="__main__")


def end(run: Callable[[], None]) -> NoReturn:
    """Run a program and end as the interpreter does, but for unloading MindSpore, which takes 0.2 s."""
    code = 0
    try:
        run()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if not isinstance(ended.code, int | None):
            print(ended.code, file=sys.stderr)
    except Exception:
        sys.excepthook(*sys.exc_info())
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code & 0xFF)


def wait(child: int, timeout: float) -> int | None:
    """Return the exit code of a child as subprocess does, or None after having ended it when time is up."""
    end = time.monotonic() + timeout
    pause = 0.005
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(pause)
        pause = min(0.1, 1.5 * pause)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def serve() -> dict | None:
    """Answer requests until the input ends; in a child return what it was asked for."""
    assert mindspore.get_context("mode") is not None  # imported, and nothing computed
    gc.freeze()  # a child's garbage collections need not go through, and so copy, all that was imported
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            return request
        print(json.dumps(wait(child, request["timeout"])), flush=True)
    return None


if __name__ == "__main__":
    REQUEST = serve()
    if REQUEST is not None:
        end(lambda: become(REQUEST))
