"""The server: one thread that only reads and answers messages, and one that computes.

The socket thread never waits for the model, so a hello, a refusal or a shutdown is answered within milliseconds while
hundreds of candidates are being imagined. What waits is bounded, in all and for each client, and every request has a
deadline after which it is not computed any more.

Without keys local peers only: an address that another machine could reach is refused. With keys, a message of a machine
that is not let in, or no longer, is never looked at.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import zmq
from pydantic import Field

from configs.loader import Config
from ghvae_core.predictor import MismatchError, Prediction, PredictorSpec
from ghvae_core.serving import protocol
from ghvae_core.serving.address import bind
from ghvae_core.serving.guard import Guard
from ghvae_core.serving.header import MAX_PARTS, Limits, ProtocolError, Status
from ghvae_core.serving.protocol import Answer, Hello, Predict, Refusal, Welcome
from ghvae_core.serving.request import DeadlineError, NonFiniteError, Request

_TICK_MS = 100  # how soon a signal is seen
_BURST = 64  # messages read before finished work is looked at; keeps a flood from starving answers

_log = logging.getLogger(__name__)

Evaluate = Callable[[Request, Callable[[], bool]], Prediction]  # the request, and whether its time is over


class ServingConfig(Config):
    """How requests are taken in."""

    max_waiting: int = Field(default=32, ge=1, le=1024)  # requests of all clients, with the one in work; ours
    max_per_client: int = Field(default=2, ge=1, le=64)  # one in work, one waiting: no client starves another; ours
    retry_after_s: float = Field(default=0.05, gt=0, le=60)  # told to a client that is turned away; ours
    drain_s: float = Field(default=5.0, ge=0, le=60)  # from SIGTERM to the end of the last request; ours


@dataclass(frozen=True)
class _Job:
    """A request that is waiting or in work."""

    client: bytes
    id: bytes
    work: Future[Prediction]


class Server:
    """Answers hello and predict messages until it is told to drain. Binds in the constructor.

    Args:
        address: Where it listens.
        config: How requests are taken in.
        keys: Folder of the server's keys; without it the address must be local.

    Raises:
        AddressError: From the constructor: the address is not local, not valid, or in use.
        KeysError: From the constructor: the folder does not hold a server's keys.
    """

    def __init__(self, address: str, config: ServingConfig, keys: Path | None = None) -> None:
        self._config = config
        self._limits = Limits(max_waiting=config.max_waiting, max_per_client=config.max_per_client)
        self._jobs: list[_Job] = []
        self._counts: Counter[str] = Counter()
        self._drain_end_s: float | None = None
        self._stopped = False
        self._context = zmq.Context()
        with ExitStack() as opened:
            opened.callback(self._context.term)
            self._guard = None if keys is None else Guard(self._context, keys)
            if self._guard is not None:
                opened.callback(self._guard.close)
            self._socket = bind(self._context, address, self._guard)
            opened.pop_all()
        self._awake, self._waker = os.pipe()
        os.set_blocking(self._awake, False)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._awake, zmq.POLLIN)

    @property
    def address(self) -> str:
        """Where it listens; the real port where 0 was asked for."""
        return str(self._socket.get_string(zmq.LAST_ENDPOINT))

    def drain(self) -> None:
        """Take no more requests, finish those taken within `drain_s`, then let `serve` return. For signal handlers."""
        if self._drain_end_s is None:
            self._drain_end_s = time.monotonic() + self._config.drain_s

    def serve(self, spec: PredictorSpec, evaluate: Evaluate, parent: int | None = None) -> None:
        """Answer messages; return after `drain`, at most `drain_s` and one chunk of work later.

        Args:
            spec: What `evaluate` can do.
            evaluate: Computes a prediction in the worker thread; asks between its steps whether to give up.
            parent: File descriptor that reaches its end when the process that started this one has died; then drain.
        """
        if parent is not None:
            self._poller.register(parent, zmq.POLLIN)
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="model") as worker:

            def submit(message: Predict) -> Future[Prediction]:
                return worker.submit(self._evaluate, evaluate, message, time.monotonic())

            while not self._is_drained():
                ready = dict(self._poller.poll(_TICK_MS))
                if parent in ready:
                    self._poller.unregister(parent)
                    self.drain()
                if self._awake in ready:
                    os.read(self._awake, 4096)
                for _ in range(_BURST if self._socket in ready else 0):
                    received = self._receive()
                    if received is None:
                        break
                    sender, parts = received
                    if self._guard is None or self._guard.admits(sender):
                        client = sender.bytes
                        self._respond(client, b"", partial(self._handle, client, parts, spec, submit))
                self._finish()
            self._stopped = True  # a request still in work gives up at its next step
            for job in self._jobs:
                self._send(job.client, Refusal(job.id, "draining", "the server is stopping"))
            worker.shutdown(cancel_futures=True)
        _log.info("stopped; answered: %s", dict(self._counts) or "nothing")

    def close(self) -> None:
        """Let go of the socket, giving the last answers half a second to leave. Safe to call twice."""
        if not self._context.closed:
            self._socket.close(linger=500)
            if self._guard is not None:
                self._guard.close()
            self._context.term()
            os.close(self._awake)
            os.close(self._waker)

    def _is_drained(self) -> bool:
        return self._drain_end_s is not None and (not self._jobs or time.monotonic() >= self._drain_end_s)

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

    def _handle(
        self,
        client: bytes,
        parts: Sequence[bytes],
        spec: PredictorSpec,
        submit: Callable[[Predict], Future[Prediction]],
    ) -> Welcome | Refusal | None:
        """Answer a message, or take the request in and return None."""
        message = protocol.decode_request(parts)
        if self._drain_end_s is not None:
            return Refusal(message.id, "draining", "the server is stopping")
        if isinstance(message, Hello):
            return Welcome(message.id, spec, self._limits)
        if message.checkpoint != spec.checkpoint:
            return Refusal(
                message.id,
                "bad",
                f"expected a request for checkpoint {spec.checkpoint[:12]}, got one for {message.checkpoint[:12]}; "
                "connect again",
            )
        try:
            protocol.check(message.request, spec)
        except MismatchError as error:
            return Refusal(message.id, "bad", str(error))
        n_own = sum(job.client == client for job in self._jobs)
        if n_own >= self._config.max_per_client or len(self._jobs) >= self._config.max_waiting:
            why = f"{n_own} requests of this client and {len(self._jobs)} in all are waiting"
            return Refusal(message.id, "busy", why, self._config.retry_after_s)
        work = submit(message)
        self._jobs.append(_Job(client, message.id, work))
        work.add_done_callback(self._wake)
        return None

    def _evaluate(self, evaluate: Evaluate, message: Predict, received_s: float) -> Prediction:
        """Compute in the worker thread."""
        started_s = time.monotonic()

        def is_over() -> bool:
            return self._stopped or time.monotonic() - received_s >= message.deadline_s

        if is_over():
            raise DeadlineError("the deadline passed while the request was waiting")
        prediction = evaluate(message.request, is_over)
        return replace(prediction, timing_s={**prediction.timing_s, "queue": started_s - received_s})

    def _wake(self, _: Future[Prediction]) -> None:
        os.write(self._waker, b"\0")

    def _finish(self) -> None:
        """Answer the requests whose work is done."""
        for job in [job for job in self._jobs if job.work.done()]:
            self._jobs.remove(job)
            self._respond(job.client, job.id, partial(self._result, job))

    def _result(self, job: _Job) -> Answer | Refusal:
        try:
            prediction = job.work.result()
        except (DeadlineError, NonFiniteError) as error:
            status: Status = "expired" if isinstance(error, DeadlineError) else "nonfinite"
            return Refusal(job.id, status, str(error))
        self._counts["nonfinite costs"] += int(np.count_nonzero(~np.isfinite(prediction.costs)))
        return Answer(job.id, prediction)

    def _respond(self, client: bytes, request_id: bytes, work: Callable[[], Welcome | Answer | Refusal | None]) -> None:
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

    def _send(self, client: bytes, reply: Welcome | Answer | Refusal) -> None:
        """Send without waiting; a client that has gone or does not read loses its answer."""
        self._counts[reply.status if isinstance(reply, Refusal) else type(reply).__name__.lower()] += 1
        # Reading the state lets ZeroMQ take note of what the client has already read; without it, a client that asks
        # quickly looks like one that does not read.
        self._socket.getsockopt(zmq.EVENTS)
        try:
            self._socket.send_multipart([client, *protocol.encode_reply(reply)], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            self._counts["dropped"] += 1
            _log.debug("an answer was dropped: %s", error)
