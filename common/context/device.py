"""Where a process runs: device, mode, rank. Imports MindSpore inside its functions, after the environment is set."""
import glob
import logging
import os
from typing import Any, Mapping

from common.context.cluster import TIMEOUT, launched_size, scheduler_ready
from common.context.ranks import Runtime
from common.context.tuning import tune
from common.errors import UserError

logger = logging.getLogger(__name__)

DEVICES = ("Ascend", "GPU", "CPU")
CARDS = {"Ascend": "/dev/davinci[0-9]*", "GPU": "/dev/nvidia[0-9]*"}
# What the plugins of the pinned MindSpore load; without it the framework is silent and has no such device.
NEEDS = {"Ascend": "CANN 8.2 to 9.1, whose set_env.sh sets ASCEND_HOME_PATH and LD_LIBRARY_PATH",
         "GPU": "CUDA 11.1 or 11.6 with cuDNN 8 in LD_LIBRARY_PATH, and CUDA_HOME, the folder with bin/nvcc"}


def prepare_environment(uses_convolutions: bool) -> None:
    """Set the environment variables that MindSpore and its libraries read; what the user has set is kept.

    MindSpore's own are read when it is imported, that of its oneDNN at the first operation. Its CPU convolutions with
    kernels over 1 x 1 fall into a scalar reference kernel on machines with AVX-512 (measured: a ConvMLP-S trains 24
    times slower and predicts 44 times slower); limited to AVX2, which changes nothing elsewhere, the library picks a
    matrix product. Networks without such convolutions keep AVX-512, with which their matrix products can be faster.

    Threads of fused operators wait asleep: in a loop, as is the default, a training step of a gMLP took seven times as
    long on two cores that other processes kept busy.
    """
    os.environ.setdefault("GLOG_v", "3")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if uses_convolutions:
        os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")


def start(config: Any) -> Runtime:
    """Select device and mode, seed the framework, and join the other processes if this is one of several.

    Raises:
        UserError: if the device is not there, or ``distribute`` does not fit to how the process was started.
    """
    import mindspore as ms

    device = _choose_device(config.device_target)
    joins = joins_others(config, os.environ)
    device_id = device_number(config.device_id, joins, os.environ)
    try:
        ms.set_device(device, device_id) if device != "CPU" and device_id is not None else ms.set_device(device)
    except (RuntimeError, ValueError) as error:
        # nothing can be set once something was computed, as in a notebook; if that was on the CPU, it is what is wanted
        if device != "CPU" or ms.get_current_device()[0] != device:
            raise UserError(f"device_target: {device} with device_id {device_id} cannot be used: "
                            f"{str(error).splitlines()[0]}") from error
    ms.set_context(mode=ms.GRAPH_MODE if config.mode == "graph" else ms.PYNATIVE_MODE)
    if config.max_call_depth:
        ms.set_recursion_limit(config.max_call_depth)
    if device == "CPU":
        # PyNative mode hands every operation through queues whose threads wait in busy loops, to overlap Python with a
        # device; on a CPU that only takes processor time, seven times that of the operations (measured on a small SOFT)
        ms.runtime.launch_blocking()
    if config.num_threads and device == "CPU":
        ms.device_context.cpu.op_tuning.threads_num(config.num_threads)
    tune(config, device)
    if config.save_graphs:
        os.environ["MS_DEV_SAVE_GRAPHS"] = "1"
        os.environ["MS_DEV_SAVE_GRAPHS_PATH"] = os.path.join(config.ckpt_save_dir, "graphs")
    rank, world_size = _join() if joins else (0, 1)
    ms.set_seed(config.seed)
    return Runtime(device, rank, world_size)


def without_devices(config: Any, environment: Mapping[str, str]) -> bool:
    """Whether this is a single process that computes on the CPU, as far as can be told without MindSpore.

    With ``device_target: auto`` that takes a machine without the device files of any card.
    """
    cards = any(map(glob.glob, (*CARDS.values(), "/dev/dxg")))  # the last: a GPU under Windows
    on_cpu = config.device_target == "CPU" or config.device_target == "auto" and not cards
    return on_cpu and not joins_others(config, environment)


def joins_others(config: Any, environment: Mapping[str, str]) -> bool:
    """Whether this process is one of several that train together: where a launcher started it, unless the user said no.

    Raises:
        UserError: if the user wants it and no launcher did, or forbids it to several processes, each of which would do
            the whole work, and write into the same folder.
    """
    size = launched_size(environment)
    clustered = bool(environment.get("MS_ROLE"))
    if "distribute" not in config.given:
        return clustered or (size or 1) > 1
    if config.distribute and size is None:
        raise UserError("distribute: true, but this process was not started by a launcher (msrun, mpirun, or a script "
                        "for several devices); start it with one, or add --distribute False to use a single device.")
    if not config.distribute and (size or 1) > 1:
        raise UserError(f"distribute: false, but a launcher has started {size} processes, each of which would do the "
                        "same; leave it out, add --distribute True, or start one process.")
    return config.distribute and (clustered or size > 1)


def device_number(wanted: int | None, joins: bool, environment: Mapping[str, str]) -> int | None:
    """Return the index of this process's device; ``None``: the framework's choice.

    Of several processes each takes the device that its launcher gave it: one number in the file that they share, as the
    old zoo's ``device_id: 0``, would put all of them on the same device.
    """
    launched = next((int(text) for name in ("DEVICE_ID", "ASCEND_DEVICE_ID")
                     if (text := environment.get(name, "")).isdigit()), None)
    return launched if wanted is None or (joins and launched is not None) else wanted


def _choose_device(wanted: str) -> str:
    """Return the device of ``device_target``; ``auto`` prefers Ascend, then GPU, then CPU."""
    from mindspore import device_context

    # a library without a card counts as available
    there = {"Ascend": device_context.ascend.is_available() and device_context.ascend.device_count() > 0,
             "GPU": device_context.gpu.is_available() and device_context.gpu.device_count() > 0, "CPU": True}
    if wanted == "auto":
        found = next(device for device in DEVICES if there[device])
        for device, pattern in CARDS.items():
            if found == "CPU" and (cards := glob.glob(pattern)):
                logger.warning("device_target: auto takes the CPU. There is %s, but MindSpore cannot use it: it needs %s.",
                               min(cards), NEEDS[device])
        return found
    if not there[wanted]:
        available = ", ".join(device for device in DEVICES if there[device])
        raise UserError(f"device_target: {wanted} is not available here; this machine and this MindSpore offer "
                        f"{available} (or 'auto'). {wanted} needs {NEEDS[wanted]}.")
    return wanted


def _join() -> tuple[int, int]:
    """Join the collective group; the launcher has described it in the environment."""
    from mindspore.communication import get_group_size, get_rank, init

    for name in ("HCCL_CONNECT_TIMEOUT", "MS_TOPO_TIMEOUT"):
        os.environ.setdefault(name, str(TIMEOUT))
    with scheduler_ready(os.environ):
        try:
            init()
        except (RuntimeError, ValueError) as error:
            raise UserError(f"distribute: the processes cannot be joined: {str(error).splitlines()[0]}") from error
    return get_rank(), get_group_size()
