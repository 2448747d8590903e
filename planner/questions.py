"""Questions to the person at the terminal, answered by one key."""

from __future__ import annotations

import os
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager

from configs.interruption import wait
from planner.plan import PlannerError

ENTER = "\n"
_IS_DONE = "Is the task done? y: yes, n: no"


class NoTerminalError(PlannerError):
    """Nobody can answer a question. Nothing was done."""


def check_terminal(option: str) -> None:
    """Refuse an option that asks questions where no person can answer them.

    Raises:
        NoTerminalError: Standard input is no terminal.
    """
    if not sys.stdin.isatty():
        raise NoTerminalError(f"{option}: expected a terminal, on which a person answers by a key; got none on stdin")


def ask(question: str, keys: str) -> str:
    """Ask on stderr until one of `keys` is pressed, and return it. Keys pressed before the question do not count.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed, or a signal is due; see `configs.interruption`.
        NoTerminalError: The terminal was closed.
    """
    with _single_keys():
        print(question, file=sys.stderr, flush=True)
        while (key := _key()) not in keys:
            pass
    return key


def ask_is_done() -> bool | None:
    """Ask whether the task is done; return None for any other key than y and n.

    Raises:
        KeyboardInterrupt: As `ask`.
        NoTerminalError: As `ask`.
    """
    with _single_keys():
        print(f"{_IS_DONE}, any other key: not judged", file=sys.stderr, flush=True)
        return {"y": True, "n": False}.get(_key())


@contextmanager
def _single_keys() -> Iterator[None]:
    """Read keys without Enter, and without those that were typed before; restore the terminal afterwards."""
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    try:
        tty.setcbreak(terminal)
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _key() -> str:
    """Wait for a key and return it, in lower case."""
    wait([sys.stdin])
    typed = os.read(sys.stdin.fileno(), 64)
    if not typed:
        raise NoTerminalError("expected a key, but the terminal was closed")
    return typed[:1].decode("ascii", "replace").lower()
