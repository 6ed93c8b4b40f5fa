"""Compiles the graphs of every family for Ascend and GPU and writes ``RESULTS.md`` beside this file.

    python tests/devices/compile_all.py [Ascend|GPU] [FAMILY ...]

Without a device and families: all. Half a minute to two per graph, a process per device and family. Graphs that are
compiled again replace their row; the others keep theirs.
"""
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import stand_in  # noqa: E402

PAGE = HERE / "RESULTS.md"
FAMILIES = ("gmlp", "convmlp", "soft", "soft_norm", "hlg_mobile", "hlg_avgpool", "hlg_dwconv", "vit", "mae")
WITH_BATCH_NORM = ("convmlp", "soft", "soft_norm", "hlg_mobile", "hlg_avgpool", "hlg_dwconv")
WITH_FUSED_ATTENTION = ("vit", "mae")
CONTROLS = ["control", "control:late"]
TARGET = {"Ascend": "selected", "GPU": "compiled"}
HEAD = """# Which graphs compile for Ascend and GPU

Written by `python tests/devices/compile_all.py` with MindSpore {version} over the stand-in libraries of `stand_in.py`;
tiny networks, every kind of cell of the family. **selected**: the wheel's Ascend plugin has optimised the graph and
found a kernel for every operator (what CANN itself would build is not reached); **compiled**: the wheel's GPU plugin
has compiled the whole graph; **refused**: neither; graphs that are not listed were not compiled. Nothing was computed:
no speed, no number, no memory of a device follows from this page.

A graph is a family, training or prediction, and precision and options: O0 (the default) to O3, bf16; dynamic loss
scale, status (the device's own overflow), clip (by the global norm), ema, accumulate, recompute, fused (attention),
ranks (the gradients of two, in three buckets), sync_bn. The controls contain an operator that exists on no device, at
the beginning or in a branch, and must be refused. bfloat16 exists on Ascend alone; ranks were not tried for GPU.
"""


def graphs(device: str, family: str) -> list[str]:
    """Return the graphs of a family for a device, as ``networks.build`` takes them."""
    if device == "GPU":
        found = ["predict", "train:O0:recompute", "train:O2:dynamic:clip:ema:accumulate"]
    else:
        fused = ":fused" if family in WITH_FUSED_ATTENTION else ""
        synchronised = ":sync_bn" if family in WITH_BATCH_NORM else ""
        found = ["predict:O3", "train:O2:dynamic:status:clip:ema:accumulate", f"train:bf16:recompute{fused}",
                 f"train:O0:ranks{synchronised}"]
    return [f"{family}:{graph}" for graph in found]


def compile_graphs(device: str, names: list[str], limit: float = 3000, **variables: str) -> list[dict]:
    """Compile graphs in one process; one whose process died has the outcome "died".

    Raises:
        subprocess.CalledProcessError: if the process never came to the first graph.
    """
    ranks = {"RANK_SIZE": "2", "RANK_ID": "0"} if any(":ranks" in name for name in names) else {}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([sys.executable, str(HERE / "compile_graphs.py"), device, *names], cwd=folder, text=True,
                              env=stand_in.environment(device) | ranks | variables, capture_output=True, timeout=limit,
                              check=False)
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"graph"')]
    if not found and done.returncode == 1:
        raise subprocess.CalledProcessError(1, names, done.stdout, done.stderr)
    return found + [{"graph": name, "outcome": "died", "said": done.stderr[-600:], "seconds": 0.0}
                    for name in names[len(found):]]


def rows() -> dict[tuple[str, str], str]:
    """Return the rows of the page: (graph, device) -> outcome."""
    text = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    if f"MindSpore {stand_in.VERSION} " not in text:
        return {}
    return {(graph, device): outcome for graph, device, outcome
            in re.findall(r"^\| `(\S+)` \| (\w+) \| (\w+) \|$", text, re.MULTILINE)}


def write(found: dict[tuple[str, str], str]) -> None:
    """Write the page."""
    families = ("control", *FAMILIES)
    order = sorted(found, key=lambda row: (families.index(row[0].split(":")[0]), row[1], row[0]))
    lines = ["| graph | device | outcome |", "|---|---|---|"]
    lines += [f"| `{graph}` | {device} | {found[graph, device]} |" for graph, device in order]
    PAGE.write_text(HEAD.format(version=stand_in.VERSION) + "\n" + "\n".join(lines) + "\n", encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Compile, write the page, and return 1 if anything is not as it should be."""
    devices = [name for name in TARGET if name in arguments] or list(TARGET)
    families = [name for name in FAMILIES if name in arguments] or ["control", *FAMILIES]
    wrong = 0
    for device in devices:
        for family in families:
            names = CONTROLS if family == "control" else graphs(device, family)
            for part in ([n for n in names if ":ranks" not in n], [n for n in names if ":ranks" in n]):
                for result in compile_graphs(device, part) if part else []:
                    wanted = "refused" if family == "control" else TARGET[device]
                    wrong += result["outcome"] != wanted
                    print(device, result["graph"], result["outcome"], result["seconds"],
                          result["said"] if result["outcome"] != wanted else "", flush=True)
                    write(rows() | {(result["graph"], device): result["outcome"]})
    return int(wrong > 0)


if __name__ == "__main__":
    os.environ.setdefault("GLOG_v", "3")
    sys.exit(main(sys.argv[1:]))
