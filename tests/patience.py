"""Timeouts of tests: the time on an idle machine, scaled by the present slowness of this one."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import time
from contextlib import suppress

_REFERENCE_S = 0.3  # a Python process that imports numpy, on an idle machine
_N_STARTS = 2
_MAX_SCALE = 20.0
_TOLERATED_SCALE = 3.0  # up to this scale a machine meets lowered product timeouts


def patience(seconds: float) -> float:
    """Scale a time limit that only ends a hanging test, from an idle machine to this one; never less than `seconds`."""
    return seconds * time_scale()


def relaxed(seconds: float, most_s: float = 1e9) -> float:
    """Scale a lowered timeout of the product that a test waits for, from an idle machine to this one.

    Args:
        seconds: Timeout on an idle machine.
        most_s: Maximum that the configuration allows.
    """
    return min(most_s, seconds * max(1.0, time_scale() / _TOLERATED_SCALE))


def keep_real_time() -> None:
    """Give this process, and those that it starts, priority over other programs, where the user may."""
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, -10)


def time_scale() -> float:
    """Return the present slowness of this machine relative to an idle one, at least 1.

    It is the maximum of the scale of a process start at the beginning of the run and the present number of processes
    per processor.
    """
    load, n_processors = os.getloadavg()[0], len(os.sched_getaffinity(0))
    return min(_MAX_SCALE, max(1.0, _start_scale(), 1.0 + load / n_processors))


@functools.cache
def _start_scale() -> float:
    """Measure the fastest start of a process, relative to an idle machine; the first may read from a cold disk."""
    durations_s = []
    for _ in range(_N_STARTS):
        began_s = time.monotonic()
        subprocess.run([sys.executable, "-c", "import numpy"], check=True)
        durations_s.append(time.monotonic() - began_s)
    return min(durations_s) / _REFERENCE_S
