"""Where a model computes."""

from __future__ import annotations

import torch

from configs.command import ReportedError


class DeviceError(ReportedError):
    """There is no such device. Nothing was begun."""


def find_device(name: str) -> str:
    """Return the device of a name, as torch calls it.

    Args:
        name: "cpu", "cuda", "cuda:N", or "auto" for CUDA where there is any.

    Raises:
        DeviceError: There is no such device on this machine.
    """
    n = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return "cuda" if n else "cpu"
    there = ["cpu", *(["cuda"] if n else []), *(f"cuda:{i}" for i in range(n))]
    if name not in there:
        raise DeviceError(f"--device {name}: this machine has {', '.join(there)}; take one of these, or auto")
    return name
