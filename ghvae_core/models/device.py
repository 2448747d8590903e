"""Selection of the device of a model, and the memory of the CPU."""

from __future__ import annotations

import ctypes

import torch

from configs.command import ReportedError

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # parameters of mallopt, in malloc.h of the GNU C library
_LARGEST_KEPT_BYTES = 2**25  # the largest threshold of mallopt(3); larger blocks are returned when freed
_NEVER = 2**31 - 1  # the largest value of a parameter


class DeviceError(ReportedError):
    """The device does not exist. Nothing was started."""


def find_device(name: str) -> str:
    """Return the torch name of a device; for the CPU, let this process keep freed memory.

    Args:
        name: "cpu", "cuda", "cuda:N", or "auto": CUDA if available.

    Raises:
        DeviceError: The device does not exist on this machine.
    """
    n = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda" if n else "cpu"
    there = ["cpu", *(["cuda"] if n else []), *(f"cuda:{i}" for i in range(n))]
    if name not in there:
        raise DeviceError(f"--device {name}: expected auto or one of {', '.join(there)}, which this machine has")
    if name == "cpu":
        _keep_freed_memory()
    return name


def _keep_freed_memory() -> None:
    """Let the C library reuse freed memory instead of returning it to the system; other C libraries are unchanged.

    By default more than 64 MiB of free memory, as after each step of a network, is returned, and the system clears
    every page of it for the next step. The process keeps the most memory that it used at one time. See mallopt(3).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES)
        mallopt(_TRIM_THRESHOLD, _NEVER)
