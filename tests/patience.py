"""How long a test waits for what must happen: the time on a quiet machine, scaled by how slow this one is now."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import time

_REFERENCE_S = 0.3  # a Python process that imports numpy, on a quiet machine
_N_STARTS = 2
_MOST = 20.0
_AS_FAST = 3.0  # slower by no more than this, a machine still meets the timeouts of the product that tests lower


def patience(seconds: float) -> float:
    """Return `seconds` on a quiet machine as seconds on this one, never less: for what only ends a test that hangs."""
    return seconds * time_scale()


def relaxed(seconds: float, most_s: float = 1e9) -> float:
    """Return a timeout of the product that a test has lowered, and waits for, as it is to be on this machine.

    Args:
        seconds: On a machine that is not busy.
        most_s: What the configuration allows.
    """
    return min(most_s, seconds * max(1.0, time_scale() / _AS_FAST))


def time_scale() -> float:
    """Return how much longer things take here and now than on a quiet machine, at least 1.

    It is the larger of what starting a process took at the beginning of the run, and of how many processes share a
    processor at present.
    """
    load, n_processors = os.getloadavg()[0], len(os.sched_getaffinity(0))
    return min(_MOST, max(1.0, _start_scale(), 1.0 + load / n_processors))


@functools.cache
def _start_scale() -> float:
    """Measure the start of processes; the fastest counts, as the first one may read from a cold disk."""
    durations_s = []
    for _ in range(_N_STARTS):
        began_s = time.monotonic()
        subprocess.run([sys.executable, "-c", "import numpy"], check=True)
        durations_s.append(time.monotonic() - began_s)
    return min(durations_s) / _REFERENCE_S
