"""What the framework is told about speed, truth and memory of a device. Imports MindSpore inside its function."""
import functools
import re
from typing import Any

from common.errors import UserError


def tune(config: Any, device: str) -> None:
    """Apply ``jit_level``, ``allow_tf32``, ``deterministic`` and ``max_device_memory``; the device has been chosen.

    Each is set in so many words, because the framework's own choice differs between devices: Ascend's first generation
    would compile graphs as a whole (O2), convolutions on Ascend and GPU would round float32 to HF32 and TF32.

    Raises:
        UserError: if the framework refuses a value.
    """
    import mindspore as ms

    ms.set_context(jit_config={"jit_level": config.jit_level})
    if device == "Ascend":
        precision = ms.device_context.ascend.op_precision
        settings = (precision.conv_allow_hf32, precision.matmul_allow_hf32)
    elif device == "GPU":
        precision = ms.device_context.gpu.op_precision
        settings = (precision.conv_allow_tf32, precision.matmul_allow_tf32)
    else:
        settings = ()
    try:
        for setting in settings:
            setting(config.allow_tf32)
        if config.deterministic:
            _make_deterministic()
        if config.max_device_memory:
            _limit_memory(config.max_device_memory)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"allow_tf32, deterministic or max_device_memory cannot be set: {str(error).splitlines()[0]}"
                        ) from error


@functools.cache  # the framework takes either once in a process
def _make_deterministic() -> None:
    import mindspore as ms

    ms.set_deterministic(True)


@functools.cache
def _limit_memory(size: float) -> None:
    import mindspore as ms

    first = f"{min(2.0, size):g}GB"  # the framework takes 2 GB at first
    ms.runtime.set_memory(init_size=first, increase_size=first, max_size=f"{size:g}GB")


def is_first_generation() -> bool:
    """Whether this process's Ascend is a 910 of the first generation: it multiplies float32 matrices in float16.

    CANN calls these Ascend910A, ...B, ...PremiumA, ...ProA, ...ProB; a digit after the B belongs to the second.
    """
    import mindspore as ms

    device, number = ms.get_current_device()
    try:
        name = ms.hal.get_device_name(number) if device == "Ascend" else ""
    except (RuntimeError, ValueError):
        name = ""  # a simulation counts no cards
    return re.fullmatch("Ascend910(A|B|PremiumA|ProA|ProB)?", name) is not None
