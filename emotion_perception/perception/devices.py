"""Choose the processor that models run on, and their number format."""

from __future__ import annotations

import platform
from pathlib import Path

from emotion_perception.core.errors import ModelError

BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""What /proc/cpuinfo calls arithmetic in bfloat16, on x86 and on ARM."""


def pick_device(wanted: str) -> str:
    """Return the torch device of a `device` setting; `auto` is the GPU if there is one.

    Raises:
        ModelError: the device does not exist here.
    """
    if wanted == "cpu":
        return wanted
    import torch  # takes seconds

    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=wanted)
    except (RuntimeError, AssertionError) as error:
        # A torch built without CUDA raises AssertionError.
        reason = str(error).splitlines()[0]
        raise ModelError(
            f"device {wanted!r} cannot be used here ({reason}): set it to auto or cpu"
        ) from error
    return wanted


def pick_dtype(dtype: str, device: str) -> str:
    """Return the number format of a `dtype` setting; `auto` is bfloat16 on a GPU, else float32.

    Raises:
        ModelError: the device is a CPU and the format float16.
    """
    if dtype == "float16" and device.startswith("cpu"):
        raise ModelError(
            "cannot use recognizer.dtype = float16 on a CPU: it takes several times as long there "
            "as float32; set it to auto, float32 or bfloat16, or recognizer.device to a GPU"
        )
    if dtype != "auto":
        return dtype
    return "bfloat16" if device.startswith("cuda") else "float32"


def processor_name() -> str:
    """Return the name of this computer's CPU."""
    return _proc_value("cpuinfo", "model name") or platform.machine()


def computes_bfloat16() -> bool:
    """Return whether the CPU has arithmetic in bfloat16; without, it takes longer than float32."""
    flags = _proc_value("cpuinfo", "flags") or _proc_value("cpuinfo", "Features")
    return not BFLOAT16_FLAGS.isdisjoint(flags.split())


def available_memory() -> int:
    """Return the bytes of memory that can be used without swapping; 0 where it is unknown."""
    return 1024 * int(_proc_value("meminfo", "MemAvailable").removesuffix("kB") or 0)


def _proc_value(file: str, name: str) -> str:
    """Return the first value of that name in a file below /proc; empty where it has none."""
    try:
        lines = (Path("/proc") / file).read_text().splitlines()
    except OSError:
        return ""
    rows = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in rows if key.strip() == name), "")
