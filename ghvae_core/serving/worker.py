"""One worker process as the server sees it: the channel to it, its start, its work, and its replacement.

Messages on the worker channel are ZeroMQ multiparts between two sockets of type PAIR:

    server -> worker   start
                       work     id of the work, `WorkEnvelope`, the parts of the client's message as they came
                       cancel   id of the work
    worker -> server   state    name of the state
                       failed   exit code, message
                       ready    time of the warm-up in s, the parts of a welcome
                       done     id of the work, `ReplyEnvelope`, the parts of the reply to the client
"""

from __future__ import annotations

import json
import logging
import math
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, cast
from uuid import uuid4

import zmq

from ghvae_core.predictor import MismatchError, PredictorError, PredictorSpec
from ghvae_core.serving import protocol
from ghvae_core.serving.protocol import Welcome
from ghvae_core.serving.wire import Status

START, WORK, CANCEL = b"start", b"work", b"cancel"
STATE, READY, DONE, FAILED = b"state", b"ready", b"done", b"failed"

ServerState = Literal["starting", "loading", "warming", "ready", "draining", "stopped"]
SERVER_STATES: tuple[ServerState, ...] = ("starting", "loading", "warming", "ready", "draining", "stopped")

_START_TIMEOUT_S = 600.0  # a worker that is not ready by then hangs; a large checkpoint from a cold disk; ours
_STANDBY_RETRY_S = 60.0  # after a standby process could not be started; ours

_log = logging.getLogger(__name__)


def open_channel(context: zmq.Context[zmq.Socket[bytes]], address: str, binds: bool) -> zmq.Socket[bytes]:
    """Return one end of a worker channel: the server binds, the worker connects."""
    socket = context.socket(zmq.PAIR)
    socket.setsockopt(zmq.LINGER, 0)
    (socket.bind if binds else socket.connect)(address)
    return socket


@dataclass(frozen=True)
class WorkEnvelope:
    """The values that accompany a request to a worker."""

    deadline_s: float  # from now
    queue_s: float  # how long the request waited
    first: int  # the worker computes candidates first, first + 1, ..., end - 1
    end: int

    def pack(self) -> bytes:
        """Return the part of a message."""
        return json.dumps(vars(self)).encode()

    @staticmethod
    def unpack(part: bytes) -> WorkEnvelope:
        """Return the envelope in a part of a message."""
        return WorkEnvelope(**json.loads(part))


@dataclass(frozen=True)
class ReplyEnvelope:
    """The values that accompany the reply of a worker, so that the server need not decode it."""

    status: Status | Literal["ok"] = "ok"
    n_candidates: int = 0
    n_nonfinite: int = 0  # candidates whose cost is NaN or infinite
    timing_s: Mapping[str, float] = field(default_factory=dict)  # by stage

    def pack(self) -> bytes:
        """Return the part of a message."""
        return json.dumps(vars(self)).encode()

    @staticmethod
    def unpack(part: bytes) -> ReplyEnvelope:
        """Return the envelope in a part of a message."""
        return ReplyEnvelope(**json.loads(part))


@dataclass(frozen=True)
class WorkerReply:
    """The reply to a request, as it is sent to the client."""

    envelope: ReplyEnvelope
    parts: Sequence[bytes]


class ModelProcessError(PredictorError):
    """The operating system cannot start another process."""


class ModelProcess:
    """A process for the model. It starts in the constructor and waits for START; `kill` must be called.

    Args:
        context: The context of the server's sockets.
        command: Command line of the process; `--channel ADDRESS` is appended.
        folder: Private folder for the socket.

    Raises:
        ModelProcessError: From the constructor: the process could not be started.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], command: Sequence[str], folder: Path) -> None:
        address = f"ipc://{folder}/{uuid4().hex[:12]}"
        self.socket = open_channel(context, address, binds=True)
        try:
            self._popen = subprocess.Popen(  # noqa: S603 - our own module, no shell
                [*command, "--channel", address],
                stdin=subprocess.PIPE,  # ends when the server exits
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C reaches the server only, which then stops the process
            )
        except OSError as error:
            self.socket.close()
            raise ModelProcessError(f"no process for the model could be started: {error.strerror}") from None

    @property
    def pid(self) -> int:
        """Process id."""
        return self._popen.pid

    @property
    def exit_code(self) -> int | None:
        """Exit code; None while the process runs."""
        return self._popen.poll()

    def send(self, *parts: bytes) -> None:
        """Send without blocking; a message that cannot be sent is dropped, as its process is lost."""
        with suppress(zmq.Again):
            self.socket.send_multipart(parts, zmq.NOBLOCK)

    def kill(self) -> None:
        """Kill the process and close the channel. Safe to call twice."""
        self._popen.kill()
        self._popen.wait()
        assert self._popen.stdin is not None  # noqa: S101 - it is a pipe
        self._popen.stdin.close()
        self.socket.close()


class Worker:
    """The process of one device, and a standby process that has already imported torch and can replace it.

    Args:
        context: The context of the server's sockets.
        command: Command line of the process.
        folder: Private folder for the sockets.
        hang_s: A process that does not reply so long after a deadline is taken to hang.
        standby_after_s: Time from ready to the start of a standby process; None: no standby process.

    Raises:
        ModelProcessError: From the constructor: the process could not be started.
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
        self._work: bytes | None = None  # id of the current work
        self.warm_up_s = 0.0
        self.spec: PredictorSpec | None = None  # of the first process that was ready
        self.start()

    @property
    def is_ready(self) -> bool:
        """Whether the model is loaded and warm."""
        return self.state == "ready"

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def socket(self) -> zmq.Socket[bytes]:
        """The server's end of the channel."""
        return self._process.socket

    def start(self) -> None:
        """Use the standby process, or a new process where there is none.

        Raises:
            ModelProcessError: No new process could be started.
        """
        self._process, self._standby = self._standby or self._launch(), None
        self.state: ServerState = "starting"
        self._work, self._due_s, self._standby_due_s = None, time.monotonic() + _START_TIMEOUT_S, math.inf

    def send(self, envelope: WorkEnvelope, parts: Sequence[bytes]) -> None:
        """Send work; the worker must be idle.

        Args:
            envelope: Which candidates are computed, and until when.
            parts: The client's message, already checked.
        """
        self._work, self._due_s = uuid4().bytes, time.monotonic() + envelope.deadline_s + self._hang_s
        self._process.send(WORK, self._work, envelope.pack(), *parts)

    def cancel(self) -> None:
        """Cancel the current work, if any; the worker still replies."""
        if self._work is not None:
            self._due_s = min(self._due_s, time.monotonic() + self._hang_s)
            self._process.send(CANCEL, self._work)

    def receive(self) -> WorkerReply | None:
        """Read all messages of the process; return the reply to the current work when it is among them.

        Raises:
            MismatchError: The process refused its input, as another one would; or the checkpoint has changed.
            PredictorError: The process cannot start for another reason.
        """
        reply = None
        while self.socket.poll(0):
            kind, *parts = self.socket.recv_multipart()
            if kind == STATE:
                self.state = cast(ServerState, parts[0].decode())
                assert self.state in SERVER_STATES  # noqa: S101 - our own process
                if self.state == "starting":  # a standby process has sent this before it was used
                    self._process.send(START)
            elif kind == FAILED:
                error = MismatchError if int(parts[0]) == MismatchError.exit_code else PredictorError
                raise error(parts[1].decode())
            elif kind == DONE:
                if parts[0] == self._work:
                    self._work, reply = None, WorkerReply(ReplyEnvelope.unpack(parts[1]), parts[2:])
            else:
                self._set_ready(float(parts[0]), parts[1:])
        return reply

    def is_lost(self) -> bool:
        """Return whether the process has exited or hangs."""
        is_overdue = (self._work is not None or not self.is_ready) and time.monotonic() > self._due_s
        return self._process.exit_code is not None or is_overdue

    def poll_standby(self) -> None:
        """Start a standby process when it is due, also in place of one that has exited."""
        if self._standby is not None and self._standby.exit_code is not None:
            self._standby.kill()
            self._standby, self._standby_due_s = None, time.monotonic() + self._standby_after_s
        if self._standby is None and time.monotonic() >= self._standby_due_s:
            try:
                self._standby = self._launch()
            except ModelProcessError as error:  # not needed at the moment
                self._standby_due_s = time.monotonic() + _STANDBY_RETRY_S
                _log.warning("no standby process: %s; retrying in %g s", error, _STANDBY_RETRY_S)

    def kill(self) -> str:
        """Kill the process and close the channel; return how it ended. Safe to call twice."""
        exit_code = self._process.exit_code
        self._process.kill()
        self._work = None
        return "it did not reply in time and was killed" if exit_code is None else f"it exited with {exit_code}"

    def stop(self) -> None:
        """Kill both processes. Safe to call twice."""
        self.kill()
        if self._standby is not None:
            self._standby.kill()

    def _set_ready(self, warm_up_s: float, welcome: Sequence[bytes]) -> None:
        message = protocol.decode_reply(welcome)
        assert isinstance(message, Welcome)  # noqa: S101 - our own process
        if self.spec is not None and self.spec != message.spec:
            raise MismatchError("the checkpoint has changed since this server was started; restart the server")
        self.spec, self.warm_up_s, self.state = message.spec, warm_up_s, "ready"
        self._standby_due_s = time.monotonic() + self._standby_after_s
        _log.info("worker process %d is ready after a warm-up of %.2f s", self.pid, warm_up_s)
