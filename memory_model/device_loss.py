"""Whether the accelerator is gone for this process, whatever it is asked to do next."""

from __future__ import annotations

import torch


def is_lost(device: torch.device) -> bool:
    """After an illegal access, a failed assertion or an uncorrectable memory error every call of a
    CUDA context fails with that same error, and no other context is to be had before the process
    ends (CUDA's "sticky" errors). Does not wait for what the device is doing.
    """
    if device.type != "cuda":
        return False
    try:
        torch.cuda.current_stream(device).query()
    except RuntimeError:
        return True
    return False
