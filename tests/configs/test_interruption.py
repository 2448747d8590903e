"""Signals are noted where they arrive and raised where the code checks; waiting ends at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import Pipe

import pytest

from configs.interruption import check, current, interruption, sleep, started_without_sigint, wait, wait_for
from configs.loader import FOLDER


def raise_signal(number: int = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_raised_by_the_next_check_and_only_once(number: int) -> None:
    with interruption() as deferred:
        check()
        raise_signal(number)
        with pytest.raises(KeyboardInterrupt):
            check()
        check()
        assert deferred.received == number and deferred.take() is None
        assert not wait([], 0.0)


def test_a_signal_that_no_check_saw_is_raised_at_the_end() -> None:
    reached = []
    with pytest.raises(KeyboardInterrupt), interruption():
        raise_signal()
        reached.append(True)
    assert reached and current() is None


def test_another_error_is_not_replaced_by_a_signal() -> None:
    with pytest.raises(ValueError, match="first"), interruption():
        raise_signal()
        raise ValueError("first")


def test_a_signal_that_is_taken_is_not_raised() -> None:
    with interruption() as deferred:
        raise_signal(signal.SIGTERM)
        assert deferred.take() == signal.SIGTERM and deferred.take() is None


def test_a_second_signal_is_raised_at_once() -> None:
    reached = []
    with pytest.raises(KeyboardInterrupt), interruption():
        raise_signal()
        reached.append(True)
        raise_signal(signal.SIGTERM)
        time.sleep(10.0)  # pytest.fail would hide the KeyboardInterrupt
        reached.append(True)
    assert reached == [True]


def test_later_signals_have_the_handler_that_was_named() -> None:
    with interruption(then=signal.SIG_IGN) as deferred:
        raise_signal()
        raise_signal()
        raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            check()
        raise_signal()
        check()
        assert deferred.received == signal.SIGINT


def test_handlers_of_before_are_restored() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with interruption(then=None):
        raise_signal()
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
        with pytest.raises(KeyboardInterrupt):
            check()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_an_ignored_sigint_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruption() as deferred:
            raise_signal()
            check()
            assert deferred.received is None
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    "waiting",
    [
        lambda: sleep(600.0),
        lambda: wait([], 600.0),
        lambda: wait([], None),
        lambda: wait_for(threading.Event().wait, 600.0),
    ],
)
def test_waiting_ends_with_a_signal(waiting: Callable[[], object]) -> None:
    timer = threading.Timer(0.1, raise_signal)
    with pytest.raises(KeyboardInterrupt), interruption():
        timer.start()
        waiting()
    timer.join()


def test_waiting_lasts_as_long_as_it_should() -> None:
    ours, theirs = Pipe()
    with ours, theirs, interruption():
        began_s = time.monotonic()
        sleep(0.05)
        sleep(-1.0)
        assert time.monotonic() - began_s >= 0.05
        assert not wait([ours], 0.0)
        theirs.send("x")
        assert wait([ours]) == [ours]


def test_an_event_that_happens_ends_the_wait_for_it() -> None:
    event = threading.Event()
    assert not wait_for(event.wait, 0.0) and not wait_for(event.wait, 0.06)
    threading.Timer(0.1, event.set).start()
    assert wait_for(event.wait, 600.0) and wait_for(event.wait, -1.0)


def test_outside_a_block_and_in_threads_nothing_is_raised() -> None:
    check()
    sleep(0.0)
    seen: list[object] = []

    def work() -> None:
        check()
        sleep(0.0)
        seen.append(current())

    with pytest.raises(KeyboardInterrupt), interruption():
        raise_signal()
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert seen == [None]


def test_a_process_that_starts_does_not_see_sigint_and_this_one_does() -> None:
    code = "from configs.interruption import ignore_sigint; ignore_sigint(); print(input())"
    with pytest.raises(KeyboardInterrupt), interruption():
        with started_without_sigint():
            process = subprocess.Popen(
                [sys.executable, "-c", code], cwd=FOLDER.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            process.send_signal(signal.SIGINT)
            raise_signal()
        output, _ = process.communicate(b"done\n")
        assert output == b"done\n" and process.returncode == 0
