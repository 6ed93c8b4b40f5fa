"""How a cell is compiled: its equal parts once, with operators fused, and with its graph kept on disk for later.

All are asked of the framework while the first call of a cell compiles it, and withdrawn afterwards, so that no other
cell is touched. The framework's own cache of graphs takes the n-th graph that a process compiles for the n-th of the
process before, and looks at the files that the program imports alone: with other layers, another constant or another
order of cells it computes the old graph without a word. So every graph has a folder of its own here, named by a hash of
all that it can depend on, and the framework is told to take what lies in it.
"""
import contextlib
import functools
import hashlib
import importlib.util
import io
import itertools
import os
import platform
import signal
import tempfile
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any, Iterable, Iterator

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.graph import api

from common.errors import UserError, reason
from common.files import ROOT, make_folder, write_whole
from common.logger import get_logger

# GELU as its parts, which are fused. Clusters with the first two operators had wrong gradients (2.10), and in fused
# kernels the exponential is 2.8e-4 off, the hyperbolic tangent 4e-4 and the logarithm 5e-5.
FLAGS = "--enable_expand_ops=Erf --disable_cluster_ops=Transpose,Reshape,Exp,Tanh,Log"
NEEDED = ("decorator", "sympy")  # by the framework's compiler of fused operators
_READ = itertools.count()  # graphs that were read; the framework would take parts of an earlier one by their name
_COMPILED = itertools.count()  # graphs that this process has compiled with the framework's cache


def compile_with(cell: nn.Cell, *, fused: bool = False, cache: str | Path = "", facts: Any = None) -> nn.Cell:
    """Let a cell's calls compile its equal parts once, perhaps with fused operators, perhaps to and from a folder.

    For a CPU in graph mode: nothing else was tried.

    Args:
        cell: what is called, such as a training step.
        fused: compile elementwise operators, norms and sums in a row into one kernel.
        cache: the folder; empty: none.
        facts: what the graph may depend on besides the cell, this repository and the framework; its ``repr`` counts.

    Returns:
        The same cell.

    Raises:
        UserError: if the folder cannot be made.
    """
    if fused and (missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]):
        get_logger().warning(f"graph_kernel: operators are not fused, for want of {' and '.join(missing)}; pip install "
                             "-r requirements.txt.")
        fused = False
    if fused:
        for _, part in cell.cells_and_names():
            getattr(part, "before_fusing", lambda: None)()
    if cache:
        make_folder("compile_cache", cache)
        if not Path(api.entry_script_path or "").is_file():
            api.entry_script_path = None  # else the framework opens what the program was started from, as the "-c"
    compile_plainly, known = cell.compile, set()

    def compile_cell(*inputs: Any, **named: Any) -> None:
        asked = (cell.phase, cell.training, *((value.shape, str(value.dtype)) for value in inputs))
        if asked in known:
            return compile_plainly(*inputs, **named)
        name = digest(cell, asked, fused, facts) if cache else ""
        with contextlib.ExitStack() as settings:
            settings.enter_context(_equal_parts_once(cell))
            if fused:
                settings.enter_context(_fusing())
            if fused and cache:
                settings.enter_context(_kept_kernels(Path(cache) / f"{name}-{_processor()}.kernels"))
            if cache:
                settings.enter_context(_kept(Path(cache) / f"{name}.graph"))
            compile_plainly(*inputs, **named)
        known.add(asked)

    cell.compile = compile_cell
    return cell


@contextlib.contextmanager
def _equal_parts_once(cell: nn.Cell) -> Iterator[None]:
    """Let equal parts of ``Blocks`` in ``cell`` be read and differentiated once inside the block.

    ``Blocks`` are those of ``common.layers.cells``. That is what the framework's ``lazy_inline`` with the policy
    "front" asks for cells with equal arguments. Here parts are taken for equal that have the same place in two blocks,
    and so inputs of the same shape, and the same contents but for the numbers of their parameters: where shapes differ,
    the framework sometimes takes a graph with the sizes of the other one. The graphs are the same afterwards.
    """
    keys: dict[nn.Cell, str] = {}

    def collect(place: str, part: nn.Cell) -> None:
        if part.name_cells():
            contents = hashed(found for found in _parts(part, {}) if not isinstance(found, _Name))
            keys[part] = f"lazy_inline_{place}_{contents}"
            for name, child in part.name_cells().items():
                collect(f"{place}.{name}", child)

    run = next(_READ)
    for name, blocks in cell.cells_and_names():
        for block in blocks.name_cells().values() if getattr(blocks, "one_shape", False) else ():
            collect(f"{run}_{name}", block)
    several = {key for key, count in Counter(keys.values()).items() if count > 1}
    marked = []

    def mark(part: nn.Cell) -> None:
        if keys.get(part) not in several:
            for child in part.name_cells().values():
                mark(child)
        elif not hasattr(part, "cell_init_args"):
            before = set(vars(part))
            part.cell_init_args, part.no_inline = keys[part], False
            marked.append((part, set(vars(part)) - before))

    mark(cell)
    try:
        yield
    finally:
        for part, names in marked:
            for name in names:
                delattr(part, name)


@contextlib.contextmanager
def _fusing() -> Iterator[None]:
    """Fuse operators in what is compiled inside the block."""
    left = Path("dsa_transfrom.log").resolve()  # the compiler's, in whatever folder the process works
    was_there = left.exists()
    os.environ.setdefault("MS_GRAPH_KERNEL_TILING", "none")  # else it prints a line for each kernel
    ms.set_context(enable_graph_kernel=True, graph_kernel_flags=FLAGS, compile_cache_path=_folder())  # for the kernels
    try:
        with _children_can_be_ended():
            yield
    finally:
        ms.set_context(enable_graph_kernel=False)
        if not was_there:
            left.unlink(missing_ok=True)


@contextlib.contextmanager
def _children_can_be_ended() -> Iterator[None]:
    """Unblock SIGTERM inside the block, for processes that are started there.

    A training blocks it, children inherit that, and the compiler, which ends children of its own by SIGTERM and waits,
    would wait for ever. A signal to this process reaches it as before, see ``common.command``.
    """
    blocked = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


@contextlib.contextmanager
def _kept(file: Path) -> Iterator[None]:
    """Let what is compiled inside the block take its graph from ``file``, if that is whole, or make the file.

    Its first bytes are a hash of the others. The framework reads and writes in a folder of this process, where it
    numbers the graphs.
    """
    stored = _read(file)
    try:
        place = Path(_folder()) / "rank_0" / "graph_cache" / f"compile_cache_{next(_COMPILED)}.mindir"
        if stored is not None:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(stored)
    except OSError as error:  # the disk for temporary files is full: then without
        get_logger().warning(f"compile_cache: not used: {tempfile.gettempdir()} cannot be written ({reason(error)}).")
        yield
        return
    os.environ["MS_DEV_FORCE_USE_COMPILE_CACHE"] = "1"  # it would look at the sources that the program imports alone
    ms.set_context(enable_compile_cache=True, compile_cache_path=_folder())
    try:
        yield
    finally:
        ms.set_context(enable_compile_cache=False)
        del os.environ["MS_DEV_FORCE_USE_COMPILE_CACHE"]
    if stored is None and place.is_file():
        _write(file, place.read_bytes())


@contextlib.contextmanager
def _kept_kernels(file: Path) -> Iterator[None]:
    """Let fused operators be taken from ``file``, an archive, if that is whole, or make the file.

    The framework looks for the kernels that it needs in a folder, by a hash of what they compute.
    """
    place = Path(_folder()) / "akg_kernel_meta"
    stored = _read(file)
    if stored is not None:
        with zipfile.ZipFile(io.BytesIO(stored)) as archive:
            archive.extractall(place)
    yield
    if stored is None:
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
            for kernel in sorted(place.glob("*.*")):
                archive.write(kernel, kernel.name)
        _write(file, content.getvalue())


@functools.cache
def _processor() -> str:
    """Return a hash of what the processor can compute, for which kernels are compiled."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text("utf-8", "replace").splitlines() if about.is_file() else []
    features = {line for line in lines if line.partition(":")[0].strip() in ("model name", "flags", "Features")}
    return hashlib.sha256(repr((platform.machine(), sorted(features))).encode()).hexdigest()[:8]


@functools.cache
def _folder() -> str:
    """Return a folder that goes with this process."""
    return _FOLDERS.enter_context(tempfile.TemporaryDirectory(prefix="compiled-", ignore_cleanup_errors=True))


_FOLDERS = contextlib.ExitStack()


def _write(file: Path, content: bytes) -> None:
    try:
        write_whole(file, hashlib.sha256(content).digest() + content)
    except UserError as error:  # a training need not end for that
        get_logger().warning(f"compile_cache: the graph is not kept: {error}")


def _read(file: Path) -> bytes | None:
    try:
        content = file.read_bytes()
    except OSError:
        return None
    return content[32:] if hashlib.sha256(content[32:]).digest() == content[:32] else None


def digest(*values: Any) -> str:
    """Return a hash of cells with all that they hold, of other values, of the sources, and of the framework."""
    found = hashlib.sha256(repr((ms.__version__, np.__version__, platform.python_version())).encode())
    for file in sorted(file for folder in (ROOT / "common", *ROOT.glob("*/src")) for file in folder.rglob("*.py")):
        found.update(file.read_bytes())
    return hashed(_parts(values, {}), found)


def hashed(parts: Iterable[Any], found: Any = None) -> str:
    """Return a hash of the parts, begun with ``found``."""
    found = found or hashlib.sha256()
    for part in parts:
        found.update(part if isinstance(part, bytes) else repr(part).encode())
    return found.hexdigest()[:32]


class _Name(str):
    """The name of a parameter."""


@functools.cache
def _of_all_cells() -> frozenset[str]:
    return frozenset((*vars(nn.Cell()), "compile"))


def _parts(value: Any, seen: dict[int, Any]) -> Iterator[Any]:
    """Give what tells a value from others: of parameters name and kind, since a graph does not hold their numbers."""
    if isinstance(value, (str, int, float, bool, bytes, type(None))):
        yield value
        return
    if id(value) in seen:
        yield "seen", list(seen).index(id(value))
        return
    seen[id(value)] = value  # kept, so that no other object gets its number
    yield type(value).__module__, type(value).__qualname__
    if isinstance(value, Parameter):
        yield _Name(value.name)
        yield value.shape, str(value.dtype), value.requires_grad, value.comm_fusion
    elif isinstance(value, (Tensor, np.ndarray)):
        array = value.asnumpy() if isinstance(value, Tensor) else value
        yield array.shape, str(array.dtype)
        yield array.tobytes()
    elif isinstance(value, nn.Cell):
        yield sorted(value.get_flags().items()), value.training
        own = {name: held for name, held in vars(value).items() if name not in _of_all_cells()}
        yield from _parts(own | dict(value.parameters_and_names(expand=False)) | dict(value.name_cells()), seen)
    elif isinstance(value, ops.Primitive):
        yield value.name, sorted((name, str(held)) for name, held in value.attrs.items())
    elif isinstance(value, dict):
        for name in sorted(value, key=str):
            yield str(name)
            yield from _parts(value[name], seen)
    elif isinstance(value, (list, tuple)):
        yield len(value)
        for held in value:
            yield from _parts(held, seen)
    elif isinstance(value, functools.partial):
        yield from _parts((value.func, value.args, value.keywords), seen)
    elif callable(value) and hasattr(value, "__qualname__"):
        yield value.__module__, value.__qualname__
        held = [cell.cell_contents for cell in getattr(value, "__closure__", None) or ()]
        if value.__module__.startswith("mindspore."):  # of the framework's own, which remember when they were made
            held = [one for one in held if not isinstance(one, int)]
        yield from _parts(held, seen)
    elif isinstance(value, ms.dtype.Type):
        yield str(value)
