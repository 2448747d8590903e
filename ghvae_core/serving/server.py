"""The front of the server: one thread that reads and answers messages, and never waits for the model nor for a client.

The model works in processes of its own, without which this one goes on: a hello, a refusal or a shutdown is answered
within milliseconds while hundreds of candidates are being imagined, and a process that crashes or hangs costs the
request that it had in hand. What waits is bounded, a client's newest request takes the place of its older one, and
every request has a deadline after which it is not computed any more.

Without keys local peers only: an address that another machine could reach is refused. With keys, a message of a machine
that is not let in, or no longer, is never looked at.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import zmq
from pydantic import Field

from configs.interruption import current
from ghvae_core.predictor import PredictorError, PredictorSpec
from ghvae_core.serving import protocol
from ghvae_core.serving.auth import Authenticator
from ghvae_core.serving.metrics import ServerMetrics
from ghvae_core.serving.protocol import Hello, Predict, PredictionReply, Refusal, Welcome
from ghvae_core.serving.sockets import bind
from ghvae_core.serving.wire import MAX_PARTS, ProtocolError, ServerLimits, Status
from ghvae_core.serving.worker import ServerState
from ghvae_core.serving.worker_pool import WorkerPool, WorkerPoolConfig

_TICK_MS = 100  # how soon a signal, or the end of a process, is seen
_BURST = 8  # messages read before finished work is looked at; keeps a flood from starving answers
_LOADING_S = 0.1  # told to a client that comes before the model is ready

_log = logging.getLogger(__name__)


class ServingConfig(WorkerPoolConfig):
    """How requests are taken in, and when a process is given up."""

    max_waiting: int = Field(default=32, ge=1, le=1024)  # clients with a request, but for the one in work; ours
    retry_after_s: float = Field(default=0.05, gt=0, le=60)  # told to a client that is turned away; ours
    drain_s: float = Field(default=5.0, ge=0, le=60)  # from SIGTERM to the end of the last request; ours


class PredictionServer:
    """Answers hello and predict messages until it is told to drain. Binds, and starts the crew, in the constructor.

    Args:
        address: Where it listens.
        config: How requests are taken in.
        commands: One for each process with the model.
        keys: Folder of the server's keys; without it the address must be local.
        vitals: Where it writes how it is; its own without.

    Raises:
        AddressError: From the constructor: the address is not local, not valid, or in use.
        KeysError: From the constructor: the folder does not hold a server's keys.
    """

    def __init__(
        self,
        address: str,
        config: ServingConfig,
        commands: Sequence[Sequence[str]],
        keys: Path | None = None,
        metrics: ServerMetrics | None = None,
    ) -> None:
        self._config = config
        self._waiting = RequestQueue(config.max_waiting)
        self._in_work: QueuedRequest | None = None
        self._drain_end_s: float | None = None
        self.metrics = metrics or ServerMetrics()
        self._context = zmq.Context()
        with ExitStack() as opened:
            opened.callback(self._context.term)
            self._authenticator = None if keys is None else Authenticator(self._context, keys)
            if self._authenticator is not None:
                opened.callback(self._authenticator.close)
            self._socket = bind(self._context, address, self._authenticator)
            opened.callback(self._socket.close)
            folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="ghvae_crew_")))  # mode 0700
            self._pool = WorkerPool(self._context, commands, folder, config)
            opened.callback(self._pool.stop)
            self._opened = opened.pop_all()

    @property
    def address(self) -> str:
        """Where it listens; the real port where 0 was asked for."""
        return str(self._socket.get_string(zmq.LAST_ENDPOINT))

    @property
    def state(self) -> ServerState:
        """How far it is."""
        return "draining" if self._drain_end_s is not None else self._pool.state

    @property
    def pids(self) -> list[int]:
        """Of the processes with the model."""
        return self._pool.pids

    def drain(self) -> None:
        """Take no more requests, finish those taken within `drain_s`, then let `serve` return. For signal handlers."""
        if self._drain_end_s is None:
            self._drain_end_s = time.monotonic() + self._config.drain_s

    def serve(self, on_ready: Callable[[WorkerPool], None] = lambda _: None, parent: int | None = None) -> None:
        """Answer messages; return after `drain`, at most `drain_s` later.

        Args:
            on_ready: Called once, when the whole crew is ready for the first time.
            parent: File descriptor that reaches its end when the process that started this one has died; then drain.

        Raises:
            MismatchError: The processes cannot start with what they were given.
            PredictorError: They were lost too often.
        """
        was_ready = False
        while not self._is_drained():
            ready = self._poll(parent)
            deferred = current()
            if deferred is not None and deferred.take() is not None:
                self.drain()
            if parent in ready:
                self.drain()
                parent = None
            for _ in range(_BURST if self._socket in ready else 0):
                received = self._receive()
                if received is None:
                    break
                sender, parts = received
                if self._authenticator is None or self._authenticator.admits(sender):
                    client = sender.bytes
                    self._respond(client, b"", partial(self._handle, client, parts))
            self._poll_pool()
            if not was_ready and self._pool.is_complete:
                was_ready = True
                on_ready(self._pool)
        for asked in self._unanswered():
            self._send(asked.client, Refusal(asked.message.id, "draining", "the server is stopping"))
        _log.info("stopped; answered: %s", self.metrics.answered or "nothing")

    def close(self) -> None:
        """End the crew and let go of the socket, giving the last answers half a second to leave. Safe to call twice."""
        if not self._socket.closed:
            self._socket.close(linger=500)
        self._opened.close()

    def _poll(self, parent: int | None) -> dict[object, int]:
        """Wait a moment for a message, or a word of the crew."""
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        self._pool.register(poller)
        if parent is not None:
            poller.register(parent, zmq.POLLIN)
        deferred = current()
        if deferred is not None:
            poller.register(deferred.fileno(), zmq.POLLIN)
        return dict(poller.poll(_TICK_MS))

    def _is_drained(self) -> bool:
        if self._drain_end_s is None:
            return False
        is_idle = self._in_work is None and not self._waiting
        return is_idle or self._pool.state != "ready" or time.monotonic() >= self._drain_end_s

    def _receive(self) -> tuple[zmq.Frame, list[bytes]] | None:
        """Return the next message and its sender; of too many parts, only as many as show that."""
        try:
            sender = self._socket.recv(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return None
        parts: list[bytes] = []
        while self._socket.getsockopt(zmq.RCVMORE):
            part = self._socket.recv()
            if len(parts) <= MAX_PARTS:
                parts.append(part)
        return sender, parts

    def _handle(self, client: bytes, parts: Sequence[bytes]) -> Welcome | Refusal | None:
        """Answer a message, or take the request in and return None."""
        message = protocol.decode_request(parts)
        if self._drain_end_s is not None:
            return Refusal(message.id, "draining", "the server is stopping")
        spec = self._pool.spec
        if spec is None or self._pool.state != "ready":
            why = f"the model is not ready yet: {self._pool.state}"
            return Refusal(message.id, "unavailable", why, _LOADING_S)
        if isinstance(message, Hello):
            return Welcome(message.id, spec, ServerLimits(max_waiting=self._config.max_waiting))
        why = _why_not(message, spec)
        return Refusal(message.id, "bad", why) if why else self._take(QueuedRequest(client, message, time.monotonic()))

    def _take(self, asked: QueuedRequest) -> Refusal | None:
        """Let a request wait, in place of an older one of the same client."""
        older = self._waiting.leave(asked.client)
        if self._in_work is not None and self._in_work.client == asked.client:
            older, self._in_work = self._in_work, replace(self._in_work, client=b"")  # nobody waits for it
            self._pool.give_up()
        if older is not None:
            self._send(asked.client, Refusal(older.message.id, "superseded", "a newer request of this client came"))
        if self._waiting.join(asked):
            return None
        why = f"{len(self._waiting)} requests of others are waiting"
        return Refusal(asked.message.id, "busy", why, self._config.retry_after_s)

    def _poll_pool(self) -> None:
        """Answer what the crew has finished, and give it what comes next."""
        reply = self._pool.poll()
        if reply is not None and self._in_work is not None:
            asked, self._in_work = self._in_work, None
            self._respond(asked.client, asked.message.id, partial(self._conclude, asked, reply))
        while self._pool.is_free and (asked_next := self._waiting.next()) is not None:
            if asked_next.left_s <= 0:
                why = "the deadline passed while the request was waiting"
                self._send(asked_next.client, Refusal(asked_next.message.id, "expired", why))
            else:
                self._in_work = replace(asked_next, started_s=time.monotonic())
                self._pool.begin(replace(asked_next.message, deadline_s=asked_next.left_s))
        self.metrics.note(self.state, len(self._waiting), self._pool.n_restarts)

    def _conclude(self, asked: QueuedRequest, reply: PredictionReply | Refusal) -> PredictionReply | Refusal | None:
        """Return what a client is told of its work; None where it has asked anew and heard so."""
        if not asked.client:
            return None
        if isinstance(reply, Refusal):
            return reply
        work_s = time.monotonic() - asked.started_s
        timing_s = {**reply.prediction.timing_s, "queue": asked.started_s - asked.received_s, "work": work_s}
        prediction = replace(reply.prediction, timing_s=timing_s)
        self.metrics.predicted(prediction)
        return PredictionReply(reply.id, prediction)

    def _unanswered(self) -> list[QueuedRequest]:
        """Return the requests that will not be computed any more."""
        asked = [self._in_work] if self._in_work is not None and self._in_work.client else []
        while (waiting := self._waiting.next()) is not None:
            asked.append(waiting)
        return asked

    def _respond(
        self, client: bytes, request_id: bytes, work: Callable[[], Welcome | PredictionReply | Refusal | None]
    ) -> None:
        """Send what `work` returns; whatever it raises becomes a refusal, never a traceback and never the end."""
        try:
            reply = work()
            if reply is not None:
                self._send(client, reply)
        except ProtocolError as error:
            self._send(client, Refusal(error.request_id, "bad", str(error)))
        except Exception:  # noqa: BLE001 - the one broad except: a fault in one request must not end the service
            _log.exception("an internal error")
            self._send(client, Refusal(request_id, "failed", "an internal error; the server's log tells more"))

    def _send(self, client: bytes, reply: Welcome | PredictionReply | Refusal) -> None:
        """Send without waiting; a client that has gone or does not read loses its answer."""
        kind = "prediction" if isinstance(reply, PredictionReply) else "welcome"
        status: Status | str = reply.status if isinstance(reply, Refusal) else kind
        self.metrics.count(status)
        # Reading the state lets ZeroMQ take note of what the client has already read; without it, a client that asks
        # quickly looks like one that does not read.
        self._socket.getsockopt(zmq.EVENTS)
        try:
            self._socket.send_multipart([client, *protocol.encode_reply(reply)], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            self.metrics.count("dropped")
            _log.debug("an answer was dropped: %s", error)


def _why_not(message: Predict, spec: PredictorSpec) -> str:
    """Return why a request cannot be answered; nothing where it can."""
    if message.checkpoint != spec.checkpoint:
        return (
            f"expected a request for checkpoint {spec.checkpoint[:12]}, got one for {message.checkpoint[:12]}; "
            "connect again"
        )
    try:
        protocol.check(message.request, spec)
    except PredictorError as error:
        return str(error)
    return ""


@dataclass(frozen=True)
class QueuedRequest:
    """A request, and who asked."""

    client: bytes
    message: Predict
    received_s: float  # monotonic
    started_s: float = 0.0  # monotonic, of the work; 0 while it waits

    @property
    def waited_s(self) -> float:
        """How long ago it came."""
        return time.monotonic() - self.received_s

    @property
    def left_s(self) -> float:
        """How long until its deadline; negative after it."""
        return self.message.deadline_s - self.waited_s


class RequestQueue:
    """A bounded line in which a client stands at most once.

    Args:
        size: How many may stand in it.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._line: dict[bytes, QueuedRequest] = {}  # by client, the oldest first

    def __len__(self) -> int:
        """Return how many stand in it."""
        return len(self._line)

    def leave(self, client: bytes) -> QueuedRequest | None:
        """Take a client's request out, if it has one."""
        return self._line.pop(client, None)

    def join(self, asked: QueuedRequest) -> bool:
        """Put a request at the end; its client has none in the line. Return whether there was room."""
        if len(self._line) >= self._size:
            return False
        self._line[asked.client] = asked
        return True

    def next(self) -> QueuedRequest | None:
        """Take the oldest out."""
        return self._line.pop(next(iter(self._line)), None) if self._line else None
