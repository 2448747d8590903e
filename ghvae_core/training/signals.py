"""SIGINT and SIGTERM as a question that a long computation asks when it suits it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ghvae_core.training.distributed import EXIT_S

PREEMPTED = 75  # exit code after SIGTERM: start the same command again (sysexits.h: temporary failure)


@contextmanager
def collected() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them; a second one ends the process as it would have.

    After SIGTERM a process that cannot save in time ends all the same: whoever sent it will kill it soon.
    """
    received: list[int] = []
    timers: list[threading.Timer] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def receive(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the interface of signal
        received.append(number)
        for other, handler in before.items():
            signal.signal(other, handler)
        if number == signal.SIGTERM:
            timers.append(threading.Timer(EXIT_S, os._exit, [PREEMPTED]))
            timers[-1].daemon = True
            timers[-1].start()

    for number in before:
        signal.signal(number, receive)
    try:
        yield received
    finally:
        for timer in timers:
            timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)
