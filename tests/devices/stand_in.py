"""Stand-ins for the libraries of CANN and CUDA, with which MindSpore's own device plugins load and compile graphs.

The wheel contains the plugins, and with them every decision which kernel an operator gets; only the libraries of the
vendors are missing where there is no device. Each stand-in defines every symbol that the plugins leave open as a
function that returns 0; a few answer sensibly (``stand_in_*.cpp``). Nothing can be computed with them.

The libraries lie in ``$XDG_CACHE_HOME/mindspore-stand-ins`` (~/.cache), one folder per version of the wheel and of
these files; building takes a few seconds. gcc and binutils are needed.
"""
import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Iterable, Mapping

HERE = Path(__file__).resolve().parent
WHEEL = Path(importlib.util.find_spec("mindspore").origin).parent
VERSION = importlib.metadata.version("mindspore")
PLUGINS = WHEEL / "lib/plugin"
TOOLS = ("g++", "nm", "ldd")
ASCEND = ("libmindspore_ascend.so.2", "libmindspore_ops_ascend.so", "ascend/*.so", "ascend/ms_kernels*/**/*.so")
GPU = ("libmindspore_gpu.so.11.6", "gpu/*.so*", "gpu11.6/libnvidia_collective.so")
# fetched by name at run time instead of being linked: they are strings in the plugins
FETCHED = re.compile(rb"(?<=\0)(?:acl|Hccl|Hcom|Msprof)[A-Za-z]\w+(?=\0)")
FETCHED_LIBRARIES = ("libopapi.so", "libascend_ml.so")
END = "aclopCreateAttr"  # is left out: the framework stops where CANN would begin to build the selected kernels


def missing_tools() -> str:
    """Return what is needed and not there: tools, or the wheel's plugins (another system, a build for CPUs)."""
    lacking = [tool for tool in TOOLS if shutil.which(tool) is None]
    plugins = [str(PLUGINS / name[0]) for name in (ASCEND, GPU) if not (PLUGINS / name[0]).exists()]
    return ", ".join(lacking + plugins)


def environment(device: str) -> dict[str, str]:
    """Return the environment of a process that finds the stand-in of ``device`` (Ascend or GPU); builds it if needed.

    The Ascend process selects kernels without a card (``MS_SIMULATION_LEVEL``) and ends at the first one that CANN
    would have to make: "aclopCreateAttr is null".
    """
    root = _cached(device) / "latest"  # the plugin finds CANN's folder by this name
    common = dict(os.environ, GLOG_v="3", LD_LIBRARY_PATH=f"{root}/lib64")
    if device == "GPU":
        return common | {"CUDA_HOME": str(root)}
    common.pop("RANK_TABLE_FILE", None)
    return common | {"ASCEND_HOME_PATH": str(root), "ASCEND_OPP_PATH": f"{root}/opp", "MS_SIMULATION_LEVEL": "1",
                     "PYTHONPATH": os.pathsep.join([f"{root}/python", os.environ.get("PYTHONPATH", "")])}


def _cached(device: str) -> Path:
    sources = b"".join(file.read_bytes() for file in sorted(HERE.glob("stand_in*")))
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mindspore-stand-ins"
    root = base / f"{VERSION}-{hashlib.sha256(sources).hexdigest()[:12]}" / device
    if not root.is_dir():
        unfinished = root.with_name(f"{device}.{os.getpid()}")
        (unfinished / "latest/lib64").mkdir(parents=True)
        (_build_cann if device == "Ascend" else _build_cuda)(unfinished / "latest")
        try:
            unfinished.rename(root)
        except OSError:  # another process was faster
            shutil.rmtree(unfinished)
    return root


def _build_cann(root: Path) -> None:
    plugins = _files(ASCEND)
    names = {name.decode() for plugin in plugins for name in FETCHED.findall(plugin.read_bytes())}
    text = sorted(names - {END})
    kernels = [f"{name}GetWorkspaceSize" for name in text if name.startswith("aclnn") and "Workspace" not in name]
    _compile(root, "stand_in_cann.cpp", _open_symbols(plugins) + text + kernels,
             _missing(plugins) | {*FETCHED_LIBRARIES})
    for file, content in {"compiler/version.info": "Version=9.0.0\n", "version.info": "Version=9.0.0\n",
                          "opp/version.info": "Version=9.0.0\n", "python/hccl/__init__.py": "",
                          "python/hccl/sys_version.py": "__sys_version__ = '9.0.0'\n",
                          "python/hccl/manage/__init__.py": "", "python/hccl/manage/api.py": HCCL}.items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(content, encoding="utf-8")


HCCL = '''"""Stand-in for the Python part of HCCL: one process."""


def __getattr__(name):
    return lambda *arguments: 1 if "size" in name else 0
'''


def _build_cuda(root: Path) -> None:
    plugins = _files(GPU)
    _compile(root, "stand_in_cuda.cpp", _open_symbols(plugins), _missing(plugins))
    compiler = root / "bin/nvcc"  # the framework does not look at the plugin without one
    compiler.parent.mkdir()
    compiler.write_text('#!/bin/sh\necho "Cuda compilation tools, release 11.6, V11.6.124"\n', encoding="utf-8")
    compiler.chmod(0o755)
    (root / "version.txt").write_text("CUDA Version 11.6\n", encoding="utf-8")


def _files(patterns: Iterable[str]) -> list[Path]:
    return sorted(file for pattern in patterns for file in PLUGINS.glob(pattern) if "libmindspore_cpu" not in file.name)


def _missing(plugins: Iterable[Path]) -> set[str]:
    """Return the libraries that the plugins are linked to and that are not there."""
    inside = {file.name for file in WHEEL.rglob("*.so*")}
    lines = "\n".join(_output("ldd", str(plugin)) for plugin in plugins).splitlines()
    return {name for line in lines if "not found" in line and (name := line.split()[0]) not in inside}


def _open_symbols(plugins: list[Path]) -> list[str]:
    """Return the symbols that the plugins use and neither the wheel nor the C and C++ runtime defines."""
    libraries = [*WHEEL.glob("*.so"), *WHEEL.glob("lib/*.so*"), *plugins]
    used = _symbols(plugins, "--undefined-only")
    versions = ("GLIBC", "GLIBCXX", "CXXABI", "GCC", "GOMP")
    runtime = {name for name, version in used.items() if version.startswith(versions)}
    defined = _symbols(libraries, "--defined-only")
    return [name for name in used if name not in defined and name not in runtime
            and not name.startswith(("Py", "_Py", "__"))]


def _symbols(files: Iterable[Path], which: str) -> Mapping[str, str]:
    """Return symbol -> version of the strong dynamic symbols of libraries."""
    found = {}
    for file in files:
        for line in _output("nm", "-D", which, str(file)).splitlines():
            *_, kind, symbol = line.split()
            if kind not in "wv":
                name, _, version = symbol.partition("@")
                found[name] = version.lstrip("@")
    return found


def _compile(root: Path, sensible: str, symbols: Iterable[str], libraries: Iterable[str]) -> None:
    """Make one library that defines all of the symbols, under the name of every missing library."""
    def run(*command: str) -> None:
        subprocess.run(command, check=True, cwd=root)

    run("g++", "-D_GLIBCXX_USE_CXX11_ABI=0", "-O1", "-fPIC", "-w", "-c", str(HERE / sensible), "-o", "sensible.o")
    done = set(_output("nm", "--defined-only", "--format=posix", str(root / "sensible.o")).split())
    lines = ['.section .note.GNU-stack,"",@progbits', ".text"]
    tables = []
    for symbol in dict.fromkeys(symbols):
        if symbol.startswith(("_ZTV", "_ZTI", "_ZTS")):  # tables of C++ classes: data
            tables += [f".globl {symbol}", f".type {symbol},@object", f"{symbol}: .zero 256"]
        elif symbol not in done:
            lines += [f".globl {symbol}", f".type {symbol},@function", f"{symbol}: xorl %eax,%eax", "ret"]
    (root / "zero.s").write_text("\n".join(lines + [".data"] + tables) + "\n", encoding="ascii")
    run("g++", "-shared", "-fPIC", "zero.s", "sensible.o", "-o", "lib64/stand_in.so")
    for name in libraries:
        os.link(root / "lib64/stand_in.so", root / "lib64" / name)


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


if __name__ == "__main__":
    for name in ("Ascend", "GPU"):
        print(name, environment(name)["LD_LIBRARY_PATH"])
