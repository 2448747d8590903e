"""A process that this machine runs for the front, and the front's end of the line to it."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import zmq

from ghvae_core.predictor import PredictorError
from ghvae_core.serving import line


class ProcessError(PredictorError):
    """The machine starts no more processes."""


class Process:
    """Starts in the constructor, and waits to be told to begin; `end` must be called.

    Args:
        context: Of the front's sockets.
        command: Starts the process, which finds the line's address behind `--line`.
        folder: Private, for the socket.

    Raises:
        ProcessError: From the constructor: the machine starts no more processes.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], command: Sequence[str], folder: Path) -> None:
        address = f"ipc://{folder}/{uuid4().hex[:12]}"
        self.socket = line.end(context, address, binds=True)
        try:
            self._popen = subprocess.Popen(  # noqa: S603 - our own module, no shell
                [*command, "--line", address],
                stdin=subprocess.PIPE,  # its end is the sign that the front has died
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the front, which then ends it in order
            )
        except OSError as error:
            self.socket.close()
            raise ProcessError(f"no process for the model could be started: {error.strerror}") from None

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._popen.pid

    @property
    def exit_code(self) -> int | None:
        """With what it ended; None while it runs."""
        return self._popen.poll()

    def send(self, *parts: bytes) -> None:
        """Send without waiting; what cannot be sent was meant for a process that is lost, which soon shows."""
        with suppress(zmq.Again):
            self.socket.send_multipart(parts, zmq.NOBLOCK)

    def end(self) -> None:
        """Kill it and close the line. Safe to call twice."""
        self._popen.kill()
        self._popen.wait()
        assert self._popen.stdin is not None  # noqa: S101 - it is a pipe
        self._popen.stdin.close()
        self.socket.close()
