"""Choose the processor that models run on."""

from __future__ import annotations

from emotion_perception.core.errors import ModelError


def pick_device(wanted: str) -> str:
    """Return the torch device of a `device` setting; `auto` is the GPU if there is one.

    Raises:
        ModelError: the device does not exist here.
    """
    import torch

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
