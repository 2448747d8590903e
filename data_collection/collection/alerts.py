"""Telling a person: a command of theirs is run once with every change, and once a day."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
from collections.abc import Sequence

_LOG = logging.getLogger(__name__)
_LIMIT_S = 30.0  # what telling somebody may take


class Alerts:
    """Runs a command with a line of text, and never waits for it but at the end."""

    def __init__(self, command: Sequence[str], digest_s: float) -> None:
        self._command = list(command)
        self._digest_s = digest_s
        self._state = "collecting"  # of which nobody need be told
        self._told_s = time.monotonic()
        self._running: list[tuple[float, subprocess.Popen[bytes]]] = []

    def close(self) -> None:
        """Wait until everything is told, or has had its time."""
        while self._running:
            self._reap()
            time.sleep(0.01)

    def change(self, state: str, text: str) -> bool:
        """Tell of a state, unless it was told of last; return whether it was told now."""
        self._reap()
        if state == self._state:
            return False
        self._state = state
        self._run(text)
        return True

    def digest(self, text: str) -> None:
        """Tell how things stand, if the time has come."""
        self._reap()
        if time.monotonic() - self._told_s >= self._digest_s:
            self._told_s = time.monotonic()
            self._run(text)

    def _run(self, text: str) -> None:
        if not self._command:
            return
        try:
            process = subprocess.Popen(  # noqa: S603 - the user's own
                [*self._command, text],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # so that a terminal's Ctrl-C, of which it may tell, does not end it
            )
        except OSError as error:
            _LOG.warning("nobody could be told: %s", error)
            return
        self._running.append((time.monotonic(), process))

    def _reap(self) -> None:
        for running in list(self._running):
            began_s, process = running
            late = time.monotonic() - began_s > _LIMIT_S
            if late:
                os.killpg(process.pid, signal.SIGKILL)  # with whatever it has started
                process.wait()
            if late or process.poll() is not None:
                self._running.remove(running)
                if process.returncode:
                    _LOG.warning("nobody could be told: %s ended with %d", self._command[0], process.returncode)
