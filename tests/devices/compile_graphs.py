"""Compiles graphs for a device in a process of its own: ``compile_graphs.py DEVICE FAMILY:PART[:KEY=VALUE...] ...``

Writes one line of JSON per graph: what was asked for, its outcome and what the framework said. The outcome is
"compiled" (the whole graph is compiled), "selected" (every operator has a kernel; CANN itself would have to build them)
or "refused".
"""
import json
import os
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]

import mindspore as ms  # noqa: E402

from devices import networks  # noqa: E402

AFTER_SELECTION = "aclopCreateAttr is null"


def outcome(graph: str) -> dict:
    """Compile one graph and say what became of it."""
    began = time.time()
    try:
        cell, inputs = networks.build(graph)
        if ms.get_current_device()[0] == "Ascend":
            cell(*inputs)  # compile() alone ends before kernels are selected
        else:
            cell.compile(*inputs)
        result, said = "compiled", ""
    except Exception as error:  # whatever the framework has to say is the result
        said = str(error)
        result = "selected" if AFTER_SELECTION in said else "refused"
    return {"graph": graph, "outcome": result, "said": " | ".join(said.split("\n"))[:600],
            "seconds": round(time.time() - began, 1)}


if __name__ == "__main__":
    ms.set_device(sys.argv[1])
    ms.set_context(mode=ms.GRAPH_MODE, jit_config={"jit_level": "O0"})
    if os.environ.get("RANK_SIZE"):
        ms.communication.init()
    for name in sys.argv[2:]:
        print(json.dumps(outcome(name)), flush=True)
    os._exit(0)  # the stand-in cannot be taken down in good order
