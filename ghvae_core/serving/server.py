"""The prediction server: one thread that reads and answers messages and never blocks on the model or on a client.

The model runs in worker processes, so that handshakes, refusals and shutdown take milliseconds while candidates are
computed, and a worker that crashes or hangs fails only the current request. The request queue is bounded, a client's
newest request replaces its older one, and no request is computed after its deadline.

Without keys only local addresses are served. With keys, messages of machines that are not allowed are dropped unread.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import zmq
from pydantic import Field

from configs.interruption import current
from ghvae_core.predictor import PredictorError, PredictorSpec
from ghvae_core.serving import protocol
from ghvae_core.serving.auth import Authenticator
from ghvae_core.serving.metrics import ServerMetrics
from ghvae_core.serving.protocol import Hello, Predict, Refusal, Welcome
from ghvae_core.serving.sockets import bind
from ghvae_core.serving.wire import MAX_PARTS, ProtocolError, ServerLimits
from ghvae_core.serving.worker import ServerState, WorkerReply
from ghvae_core.serving.worker_pool import WorkerPool, WorkerPoolConfig

_POLL_MS = 100  # longest delay until the exit of a worker is noticed
_BURST = 8  # messages read before the workers are polled; a flood of messages must not delay replies
_LOADING_RETRY_S = 0.1  # after which a client retries while the model is being loaded

_log = logging.getLogger(__name__)


class ServingConfig(WorkerPoolConfig):
    """How requests are accepted, and when worker processes are replaced."""

    max_waiting: int = Field(default=32, ge=1, le=1024)  # clients in the queue, without the current one; ours
    retry_after_s: float = Field(default=0.05, gt=0, le=60)  # after which a refused client retries; ours
    drain_s: float = Field(default=5.0, ge=0, le=60)  # from SIGTERM to the end of the last request; ours


@dataclass(frozen=True)
class QueuedRequest:
    """A request and its client."""

    client: bytes  # empty: the reply is discarded
    message: Predict
    parts: Sequence[bytes]  # the received message, forwarded unchanged to the workers
    received_s: float  # monotonic

    @property
    def waited_s(self) -> float:
        """Time since the request was received."""
        return time.monotonic() - self.received_s

    @property
    def left_s(self) -> float:
        """Time to the deadline; negative after it."""
        return self.message.deadline_s - self.waited_s


class RequestQueue:
    """A bounded queue that holds at most one request of each client.

    Args:
        size: Largest number of requests.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._requests: dict[bytes, QueuedRequest] = {}  # by client, the oldest first

    def __len__(self) -> int:
        """Return the number of requests."""
        return len(self._requests)

    def remove(self, client: bytes) -> QueuedRequest | None:
        """Remove and return the request of a client, if there is one."""
        return self._requests.pop(client, None)

    def add(self, request: QueuedRequest) -> bool:
        """Append a request of a client that has none in the queue; return False if the queue is full."""
        if len(self._requests) >= self._size:
            return False
        self._requests[request.client] = request
        return True

    def next(self) -> QueuedRequest | None:
        """Remove and return the oldest request, if there is one."""
        return self._requests.pop(next(iter(self._requests)), None) if self._requests else None


class PredictionServer:
    """Answers hello and predict messages until `drain`. The constructor binds the address and starts the workers.

    Args:
        address: Address to listen on.
        config: How requests are accepted.
        commands: Command line of each worker process.
        keys: Folder of the server's keys; None: the address must be local.
        metrics: Metrics to update; None: new ones.

    Raises:
        AddressError: From the constructor: the address is not local, not valid, or in use.
        KeysError: From the constructor: the folder does not hold the keys of a server.
        ModelProcessError: From the constructor: a worker process could not be started.
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
        self._queue = RequestQueue(config.max_waiting)
        self._current: QueuedRequest | None = None
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
            folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="ghvae_workers_")))  # mode 0700
            self._pool = WorkerPool(self._context, commands, folder, config)
            opened.callback(self._pool.stop)
            self._opened = opened.pop_all()

    @property
    def address(self) -> str:
        """The address it listens on, with the actual port where port 0 was given."""
        return str(self._socket.get_string(zmq.LAST_ENDPOINT))

    @property
    def state(self) -> ServerState:
        """State of the server."""
        return "draining" if self._drain_end_s is not None else self._pool.state

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers."""
        return self._pool.pids

    def drain(self) -> None:
        """Accept no more requests; `serve` returns when the accepted ones are done, at most `drain_s` later."""
        if self._drain_end_s is None:
            self._drain_end_s = time.monotonic() + self._config.drain_s

    def serve(self, on_ready: Callable[[WorkerPool], None] = lambda _: None, parent: int | None = None) -> None:
        """Answer messages until `drain` is called or, within `configs.interruption.interruption`, a signal arrives.

        Args:
            on_ready: Called once, when all workers are ready for the first time.
            parent: File descriptor that reaches its end when the parent process exits, which drains the server.

        Raises:
            MismatchError: The workers cannot start with their input.
            PredictorError: Workers were lost too often.
        """
        was_ready = False
        while not self._is_drained():
            ready = self._wait(parent)
            if parent in ready:
                self.drain()
                parent = None
            deferred = current()
            if deferred is not None and deferred.take() is not None:
                self.drain()
            for _ in range(_BURST if self._socket in ready else 0):
                received = self._receive()
                if received is None:
                    break
                sender, parts = received
                if self._authenticator is None or self._authenticator.admits(sender):
                    self._answer(sender.bytes, parts)
            self._poll_pool()
            if not was_ready and self._pool.is_complete:
                was_ready = True
                on_ready(self._pool)
        for request in self._unanswered():
            self._refuse(request.client, Refusal(request.message.id, "draining", "the server is stopping"))
        _log.info("stopped; replies: %s", self.metrics.n_replies or "none")

    def close(self) -> None:
        """Stop the workers and close the socket; unsent replies have half a second. Safe to call twice."""
        if not self._socket.closed:
            self._socket.close(linger=500)
        self._opened.close()

    def _wait(self, parent: int | None) -> dict[object, int]:
        """Block until a client, a worker, the parent or a signal needs attention, at most `_POLL_MS`."""
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        self._pool.register(poller)
        deferred = current()
        for file in (parent, deferred and deferred.fileno()):
            if file is not None:
                poller.register(file, zmq.POLLIN)
        return dict(poller.poll(_POLL_MS))

    def _is_drained(self) -> bool:
        if self._drain_end_s is None:
            return False
        is_idle = self._current is None and not self._queue
        return is_idle or self._pool.state != "ready" or time.monotonic() >= self._drain_end_s

    def _receive(self) -> tuple[zmq.Frame, list[bytes]] | None:
        """Return the next message and its sender; parts beyond the limit are dropped, except one that shows them."""
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

    def _answer(self, client: bytes, parts: Sequence[bytes]) -> None:
        """Answer a message; an exception becomes a refusal, without its traceback, and does not stop the server."""
        try:
            reply = self._handle(client, parts)
        except ProtocolError as error:
            reply = Refusal(error.request_id, "bad", str(error))
        except Exception:  # noqa: BLE001 - the one broad except: a fault in one request must not stop the server
            _log.exception("an internal error")
            reply = Refusal(b"", "failed", "an internal error; see the server's log")
        if isinstance(reply, Refusal):
            self._refuse(client, reply)
        elif reply is not None:
            self._send(client, protocol.encode_reply(reply), "welcome")

    def _handle(self, client: bytes, parts: Sequence[bytes]) -> Welcome | Refusal | None:
        """Return the answer to a message, or accept the request and return None."""
        message = protocol.decode_request(parts)
        if self._drain_end_s is not None:
            return Refusal(message.id, "draining", "the server is stopping")
        spec = self._pool.spec
        if spec is None or self._pool.state != "ready":
            why = f"the model is not ready yet: {self._pool.state}"
            return Refusal(message.id, "unavailable", why, _LOADING_RETRY_S)
        if isinstance(message, Hello):
            return Welcome(message.id, spec, ServerLimits(max_waiting=self._config.max_waiting))
        why = _mismatch(message, spec)
        if why:
            return Refusal(message.id, "bad", why)
        return self._accept(QueuedRequest(client, message, parts, time.monotonic()))

    def _accept(self, request: QueuedRequest) -> Refusal | None:
        """Add a request to the queue, in place of an older one of the same client."""
        older = self._queue.remove(request.client)
        if self._current is not None and self._current.client == request.client:
            older, self._current = self._current, replace(self._current, client=b"")
            self._pool.cancel()
        if older is not None:
            why = "the same client sent a newer request"
            self._refuse(request.client, Refusal(older.message.id, "superseded", why))
        if self._queue.add(request):
            return None
        why = f"{len(self._queue)} requests of other clients are waiting"
        return Refusal(request.message.id, "busy", why, self._config.retry_after_s)

    def _poll_pool(self) -> None:
        """Forward the reply of the workers and start the next request."""
        reply = self._pool.poll()
        if reply is not None and self._current is not None:
            client, self._current = self._current.client, None
            if client:
                self._forward(client, reply)
        while self._pool.is_free and (request := self._queue.next()) is not None:
            if request.left_s <= 0:
                why = "the deadline passed while the request was waiting"
                self._refuse(request.client, Refusal(request.message.id, "expired", why))
            else:
                self._current = request
                message = replace(request.message, deadline_s=request.left_s)
                self._pool.begin(message, request.parts, request.waited_s)
        self.metrics.update(self.state, len(self._queue), self._pool.n_restarts)

    def _unanswered(self) -> list[QueuedRequest]:
        """Return the requests that will not be computed any more."""
        requests = [self._current] if self._current is not None and self._current.client else []
        while (request := self._queue.next()) is not None:
            requests.append(request)
        return requests

    def _forward(self, client: bytes, reply: WorkerReply) -> None:
        """Forward the reply of the workers unchanged."""
        envelope = reply.envelope
        if envelope.status == "ok":
            self.metrics.add_prediction(envelope.n_candidates, envelope.n_nonfinite, envelope.timing_s)
        self._send(client, reply.parts, "prediction" if envelope.status == "ok" else envelope.status)

    def _refuse(self, client: bytes, refusal: Refusal) -> None:
        self._send(client, protocol.encode_reply(refusal), refusal.status)

    def _send(self, client: bytes, parts: Sequence[bytes], status: str) -> None:
        """Send without blocking; the reply to a client that is gone or does not read is dropped."""
        self.metrics.count_reply(status)
        # Reading the state lets ZeroMQ process what the client has read; without it a client that sends quickly appears
        # not to read.
        self._socket.getsockopt(zmq.EVENTS)
        try:
            self._socket.send_multipart([client, *parts], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            self.metrics.count_reply("dropped")
            _log.debug("a reply was dropped: %s", error)


def _mismatch(message: Predict, spec: PredictorSpec) -> str:
    """Return why a request cannot be computed; empty if it can."""
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
