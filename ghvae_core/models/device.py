"""Selection of the device of a model."""

from __future__ import annotations

import torch

from configs.command import ReportedError


class DeviceError(ReportedError):
    """The device does not exist. Nothing was started."""


def find_device(name: str) -> str:
    """Return the torch name of a device.

    Args:
        name: "cpu", "cuda", "cuda:N", or "auto": CUDA if available.

    Raises:
        DeviceError: The device does not exist on this machine.
    """
    n = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return "cuda" if n else "cpu"
    there = ["cpu", *(["cuda"] if n else []), *(f"cuda:{i}" for i in range(n))]
    if name not in there:
        raise DeviceError(f"--device {name}: expected auto or one of {', '.join(there)}, which this machine has")
    return name
