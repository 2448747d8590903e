"""Stops a command between two of its steps: SIGINT and SIGTERM are noted as they arrive, and raised where it is safe.

Python raises `KeyboardInterrupt` between any two bytecodes, also inside a callback of a C library, which cannot pass it
on. Within `interruption` a signal is noted only: `check` raises `KeyboardInterrupt` between two steps of the work, and
`sleep` and `wait` end at once. A second signal is not deferred.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import connection, resource_tracker
from types import FrameType
from typing import Any, Protocol, TypeAlias, TypeVar, cast

Handler: TypeAlias = Callable[[int, FrameType | None], Any] | int | signal.Handlers | None

_SLICE_S = 0.05  # of a wait that no signal ends
_active: list[Interruption] = []  # of this process, the innermost last: signals belong to a process, not to an object


class HasFileno(Protocol):
    """What the operating system can wait for."""

    def fileno(self) -> int:
        """Return the file descriptor."""
        ...


_Source = TypeVar("_Source", bound=HasFileno)


class Interruption:
    """The signals that arrived within one `interruption` block. Its file descriptor is readable while one is due."""

    def __init__(self) -> None:
        self.received: int | None = None  # the number of the first signal
        self._is_due = False
        self._readable, self._writable = os.pipe()
        os.set_blocking(self._writable, False)

    def fileno(self) -> int:
        """Return a file descriptor to wait for together with others; it is readable from a signal to `take`."""
        return self._readable

    def take(self) -> int | None:
        """Return the number of the signal that is due, once; None where none is."""
        if not self._is_due:
            return None
        self._is_due = False
        os.read(self._readable, 1)
        return self.received

    def check(self) -> None:
        """Raise the signal that is due, once: what cleans up afterwards may check again.

        Raises:
            KeyboardInterrupt: A signal arrived since the last check. The argument is its name; none for SIGINT.
        """
        number = self.take()
        if number is not None:
            raise KeyboardInterrupt(*([] if number == signal.SIGINT else [signal.Signals(number).name]))

    def note(self, number: int) -> None:
        """Note a signal; for handlers."""
        if self.received is None:
            self.received, self._is_due = number, True
            os.write(self._writable, b"!")

    def close(self) -> None:
        """Close the file descriptors."""
        os.close(self._readable)
        os.close(self._writable)


@contextmanager
def interruption(
    numbers: Sequence[int] = (signal.SIGINT, signal.SIGTERM),
    then: Handler = signal.default_int_handler,
) -> Iterator[Interruption]:
    """Defer signals to the next `check` of the block. For the main thread.

    Args:
        numbers: The signals. SIGINT stays ignored where the process was started with SIGINT ignored, as by a shell in
            the background.
        then: Handler of all of them from the first signal on; None: those from before the block.

    Raises:
        KeyboardInterrupt: At the end of the block, where a signal is due that no check has raised.
    """
    deferred = Interruption()
    before: dict[int, Handler] = {
        number: handler
        for number in numbers
        if (handler := signal.getsignal(number)) is not signal.SIG_IGN or number != signal.SIGINT
    }

    def receive(number: int, _frame: FrameType | None) -> None:
        for each, handler in before.items():
            signal.signal(each, handler if then is None else then)
        deferred.note(number)

    _active.append(deferred)
    try:
        for number in before:
            signal.signal(number, receive)
        yield deferred
        deferred.check()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _active.pop()
        deferred.close()


def current() -> Interruption | None:
    """Return the interruption of the innermost block; None outside any block and in threads other than the main one."""
    is_main = threading.current_thread() is threading.main_thread()
    return _active[-1] if _active and is_main else None


def check() -> None:
    """Raise the signal that is due; see `Interruption.check`. Does nothing outside `interruption`, or in a thread."""
    deferred = current()
    if deferred is not None:
        deferred.check()


def sleep(seconds: float) -> None:
    """Sleep as `time.sleep` does; end at once where a signal arrives.

    Raises:
        KeyboardInterrupt: A signal is due within `interruption`.
    """
    deferred = current()
    if deferred is None:
        time.sleep(max(0.0, seconds))
        return
    deferred.check()
    poller = select.poll()
    poller.register(deferred, select.POLLIN)
    end_s = time.monotonic() + seconds
    while (left_s := end_s - time.monotonic()) > 0 and not poller.poll(1000 * left_s):
        pass
    deferred.check()


def wait(sources: Sequence[_Source], timeout_s: float | None = None) -> list[_Source]:
    """Return the connections or files that can be read, as `multiprocessing.connection.wait` does.

    Ends at once where a signal arrives.

    Raises:
        KeyboardInterrupt: A signal is due within `interruption`.
    """
    deferred = current()
    check()
    files = [*sources] if deferred is None else [*sources, deferred]
    ready = connection.wait(cast("list[connection.Connection]", files), timeout_s)  # it takes what has a `fileno`
    check()
    return [source for source in sources if source in ready]


def wait_for(waiting: Callable[[float], bool], timeout_s: float) -> bool:
    """Wait for an event or a condition, in short slices.

    Args:
        waiting: `wait` of a `threading.Event`, a held `threading.Condition` or alike: waits at most so many seconds,
            and returns whether what it waits for has happened.
        timeout_s: Longest wait.

    Returns:
        Whether it happened.

    Raises:
        KeyboardInterrupt: A signal is due within `interruption`.
    """
    end_s = time.monotonic() + timeout_s
    while True:
        check()
        left_s = end_s - time.monotonic()
        if waiting(max(0.0, min(left_s, _SLICE_S))):
            return True
        if left_s <= _SLICE_S:
            return False


@contextmanager
def started_without_sigint() -> Iterator[None]:
    """Start child processes that no SIGINT reaches before they call `ignore_sigint`.

    A terminal sends Ctrl-C to all processes; the parent decides what the children do. The signal is blocked, not
    ignored, so that one that arrives meanwhile reaches the parent afterwards.
    """
    resource_tracker.ensure_running()  # which would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_sigint() -> None:
    """Ignore SIGINT in this process and those that it starts; the first call of a child process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
