"""The accelerator of a training process: its device and its precision."""

from __future__ import annotations

from dataclasses import replace

import accelerate
import torch
from accelerate.state import AcceleratorState

from emotion_perception.core.recognizer_settings import (
    DeviceSettings,
    DtypeSettings,
    RecognizerSettings,
)
from emotion_perception.perception.devices import pick_device
from emotion_perception.training.recipe import Recipe


def make_accelerator(settings: RecognizerSettings, recipe: Recipe) -> accelerate.Accelerator:
    """Make the accelerator of this process.

    Raises:
        ValueError: The device does not support the precision.
    """
    on_cpu = pick_device(getattr(settings, "device", "auto")) == "cpu"
    precision = recipe.precision
    if precision == "auto":
        precision = "no" if on_cpu or not torch.cuda.is_bf16_supported() else "bf16"
    if precision == "fp16" and on_cpu:
        raise ValueError("cannot use --precision fp16 on a CPU: choose no or bf16")
    # The state is shared by the whole process, and refuses another precision than its first.
    AcceleratorState._reset_state()
    return accelerate.Accelerator(
        mixed_precision=precision,
        gradient_accumulation_steps=recipe.accumulate,
        cpu=on_cpu,
        device_placement=False,  # recognizers choose their own device
        kwargs_handlers=[
            accelerate.utils.DistributedDataParallelKwargs(find_unused_parameters=True)
        ],
    )


def place_on_device(
    settings: RecognizerSettings, accelerator: accelerate.Accelerator
) -> RecognizerSettings:
    """Return the settings for the device of this process and the precision of the computation.

    Each process has its own GPU. Weights have 32 bits if the computation has.

    Raises:
        ValueError: `dtype` has 16 bits and the precision has 32.
    """
    if isinstance(settings, DeviceSettings) and accelerator.num_processes > 1:
        settings = replace(settings, device=str(accelerator.device))
    if not isinstance(settings, DtypeSettings):
        return settings
    precision = accelerator.mixed_precision
    if settings.dtype == "auto" and precision in ("no", "fp16"):
        return replace(settings, dtype="float32" if precision == "no" else "float16")
    if settings.dtype in ("bfloat16", "float16") and precision == "no":
        raise ValueError(
            f"cannot train with recognizer.dtype = {settings.dtype}: trained parameters have 32 "
            "bits; set --precision to bf16 or fp16"
        )
    return settings
