"""A process with the model, as the front sees it: started, listened to, given work, and replaced when it is lost."""

from __future__ import annotations

import logging
import math
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, cast
from uuid import uuid4

import zmq

from ghvae_core.predictor import MismatchError, PredictorError, PredictorSpec
from ghvae_core.serving import protocol
from ghvae_core.serving.protocol import Predict, PredictionReply, Refusal, Welcome

BEGIN, WORK, GIVE_UP = b"begin", b"work", b"give up"
STATE, READY, DONE, FAILED = b"state", b"ready", b"done", b"failed"

ServerState = Literal["starting", "loading", "warming", "ready", "draining", "stopped"]
SERVER_STATES: tuple[ServerState, ...] = ("starting", "loading", "warming", "ready", "draining", "stopped")


def end(context: zmq.Context[zmq.Socket[bytes]], address: str, binds: bool) -> zmq.Socket[bytes]:
    """Return one end of a line: the front binds, the process connects."""
    socket = context.socket(zmq.PAIR)
    socket.setsockopt(zmq.LINGER, 0)
    (socket.bind if binds else socket.connect)(address)
    return socket


class ModelProcessError(PredictorError):
    """The machine starts no more processes."""


class ModelProcess:
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
        self.socket = end(context, address, binds=True)
        try:
            self._popen = subprocess.Popen(  # noqa: S603 - our own module, no shell
                [*command, "--line", address],
                stdin=subprocess.PIPE,  # its end is the sign that the front has died
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the front, which then ends it in order
            )
        except OSError as error:
            self.socket.close()
            raise ModelProcessError(f"no process for the model could be started: {error.strerror}") from None

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


_START_S = 600.0  # then a process that is not ready is taken for hung; a large checkpoint from a cold disk; ours
_AGAIN_S = 60.0  # after a reserve could not be started; ours

_log = logging.getLogger(__name__)


class Worker:
    """One process at a time, and another in reserve, which has torch imported: what takes the longest when one is lost.

    Args:
        context: Of the front's sockets.
        command: Starts a process.
        folder: Private, for the sockets.
        hang_s: How long after a deadline a process that does not answer is taken for hung.
        reserve_after_s: How long a process is at work before another is started for the reserve; None for no reserve.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        command: Sequence[str],
        folder: Path,
        hang_s: float,
        standby_after_s: float | None,
    ) -> None:
        self._launch = partial(ModelProcess, context, command, folder)
        self._hang_s, self._standby_after_s = hang_s, math.inf if standby_after_s is None else standby_after_s
        self._standby: ModelProcess | None = None
        self._work: bytes | None = None
        self.warm_up_s = 0.0
        self.spec: PredictorSpec | None = None  # of the first process that was ready
        self.start()

    @property
    def is_ready(self) -> bool:
        """Whether it may be given work, or has it in hand."""
        return self.state == "ready"

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def socket(self) -> zmq.Socket[bytes]:
        """Where the process is heard."""
        return self._process.socket

    def start(self) -> None:
        """Let the process in reserve begin, or a new one where there is none.

        Raises:
            ProcessError: No new one could be started.
        """
        self._process, self._standby = self._standby or self._launch(), None
        self.state: ServerState = "starting"
        self._work, self._due_s, self._standby_due_s = None, time.monotonic() + _START_S, math.inf

    def give(self, message: Predict) -> None:
        """Give it work; it has none."""
        self._work, self._due_s = uuid4().bytes, time.monotonic() + message.deadline_s + self._hang_s
        parts = protocol.encode_request(replace(message, id=self._work))
        self._process.send(WORK, *parts)

    def give_up(self) -> None:
        """Tell it that its work, if it has any, is not wanted any more."""
        if self._work is not None:
            self._due_s = min(self._due_s, time.monotonic() + self._hang_s)
            self._process.send(GIVE_UP, self._work)

    def read(self) -> PredictionReply | Refusal | None:
        """Take all that it tells; return the reply to its work, once.

        Raises:
            MismatchError: It cannot start, and another one could not either; or what it loads has changed.
            PredictorError: It cannot start for a reason that is not in what it was given.
        """
        reply = None
        while self.socket.poll(0):
            verb, *parts = self.socket.recv_multipart()
            if verb == STATE:
                self.state = cast(ServerState, parts[0].decode())
                assert self.state in SERVER_STATES  # noqa: S101 - our own process
                if self.state == "starting":  # which it said, and nobody heard, when it came into the reserve
                    self._process.send(BEGIN)
            elif verb == FAILED:
                kind = MismatchError if int(parts[0]) == MismatchError.exit_code else PredictorError
                raise kind(parts[1].decode())
            elif verb == DONE:
                done = protocol.decode_reply(parts)
                if done.id == self._work and not isinstance(done, Welcome):
                    self._work, reply = None, done
            else:
                self._enter(float(parts[0]), protocol.decode_reply(parts[1:]))
        return reply

    def is_lost(self) -> bool:
        """Tell whether the process has ended, or hangs."""
        is_overdue = (self._work is not None or not self.is_ready) and time.monotonic() > self._due_s
        return self._process.exit_code is not None or is_overdue

    def poll_standby(self) -> None:
        """Start a process for the reserve once the present one has been at work for a while, and where one has died."""
        if self._standby is not None and self._standby.exit_code is not None:
            self._standby.end()
            self._standby, self._standby_due_s = None, time.monotonic() + self._standby_after_s
        if self._standby is None and time.monotonic() >= self._standby_due_s:
            try:
                self._standby = self._launch()
            except ModelProcessError as error:  # which the present one can do without
                self._standby_due_s = time.monotonic() + _AGAIN_S
                _log.warning("there is none in reserve: %s; it is tried again in %g s", error, _AGAIN_S)

    def end(self) -> str:
        """Kill the process and close the line; return what became of it. Safe to call twice."""
        ended = self._process.exit_code
        self._process.end()
        self._work = None
        return "it did not answer in time and was killed" if ended is None else f"it ended with {ended}"

    def stop(self) -> None:
        """End all. Safe to call twice."""
        self.end()
        if self._standby is not None:
            self._standby.end()

    def _enter(self, warm_up_s: float, welcome: Welcome | PredictionReply | Refusal) -> None:
        """Take note that the process is ready."""
        assert isinstance(welcome, Welcome)  # noqa: S101 - our own process
        if self.spec is not None and self.spec != welcome.spec:
            raise MismatchError("the checkpoint has changed since this server was started; start it again")
        self.spec, self.warm_up_s, self.state = welcome.spec, warm_up_s, "ready"
        self._standby_due_s = time.monotonic() + self._standby_after_s
        _log.info("process %d is ready, warm after %.2f s", self.pid, warm_up_s)
