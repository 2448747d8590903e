"""The client of the server: a predictor that needs no torch and returns within its timeout."""

from __future__ import annotations

import math
import random
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import numpy as np
import zmq
from numpy.typing import NDArray
from zmq.utils.monitor import recv_monitor_message

from configs.interruption import check, current, sleep
from configs.progress import announce
from ghvae_core.goal_cost import GoalCost
from ghvae_core.predictor import (
    Context,
    DeadlineError,
    MismatchError,
    NonFiniteError,
    Prediction,
    PredictionRequest,
    PredictorError,
    PredictorSpec,
)
from ghvae_core.serving import protocol
from ghvae_core.serving.auth import load_own_pair, load_server_key
from ghvae_core.serving.protocol import Hello, Predict, PredictionReply, Refusal, Welcome
from ghvae_core.serving.wire import MAX_DEADLINE_S, MAX_PART_BYTES, ProtocolError

_CONNECT_TIMEOUT_S = 5.0  # for the first answer; ours
_LOAD_TIMEOUT_S = 60.0  # for a server that answers that it is not ready yet; ours
_EVENT_MS = 1  # delay between a new connection and its monitor event; ours
_HEARTBEAT_MS, _SILENCE_MS = 1000, 3000  # a server without heartbeats is disconnected and reconnected; ours
_HANDSHAKE_ERRORS = {
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "it does not know this machine's key; there: run_keys allow FOLDER NAME.key",
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "only one of client and server uses keys; see planner.keys",
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "its key differs from server.key, or it does not use ZeroMQ",
}
# A server with keys may close the connection of a client without keys before the client has read why.
_NO_DETAIL_WITHOUT_KEYS = "it uses keys, but this client does not (see planner.keys), or it does not use ZeroMQ"


class ServerClient:
    """A predictor in another process. One caller at a time.

    Args:
        address: Address of the server, such as `tcp://127.0.0.1:5555`.
        cost: Weights of the goal cost; sent with each request.
        timeout_s: Longest duration of `predict`, at most 60.
        keys: Folder of this machine's keys, for a server with keys.
        load_timeout_s: Longest wait for a server that answers that it still loads its model.

    Raises:
        PredictorError: From the constructor: no server answered within 5 s, or it was not ready in time.
        MismatchError: From the constructor: the address is not valid, or the server uses another protocol version.
        KeysError: From the constructor: the folder does not hold this machine's keys and the server's public one.
    """

    def __init__(
        self,
        address: str,
        cost: GoalCost,
        timeout_s: float = 10.0,
        keys: Path | None = None,
        *,
        load_timeout_s: float = _LOAD_TIMEOUT_S,
    ) -> None:
        if not 0 < timeout_s <= MAX_DEADLINE_S:
            raise MismatchError(f"timeout_s: expected above 0 and at most {MAX_DEADLINE_S:g}, got {timeout_s}")
        self._address, self._cost, self._timeout_s = address, cost, timeout_s
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | sum(_HANDSHAKE_ERRORS))
        self._handshake_error = ""  # why the last handshake failed, if there was a server
        self._handshake_errors = dict(_HANDSHAKE_ERRORS)
        if keys is None:
            self._handshake_errors[zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL] = _NO_DETAIL_WITHOUT_KEYS
        try:
            self._connect(keys)
            self._spec = self._shake_hands(load_timeout_s)
        except PredictorError:
            self.close()
            raise

    @property
    def spec(self) -> PredictorSpec:
        """The capabilities of the server, from the handshake."""
        return self._spec

    def predict(
        self, context: Context, candidates: NDArray[np.float32], goal: NDArray[np.uint8], n_videos: int
    ) -> Prediction:
        """Do as `Predictor.predict`; retry until `timeout_s` while the server is busy or not ready.

        Raises:
            DeadlineError: No prediction within `timeout_s`.
            NonFiniteError: No candidate has a finite cost.
            MismatchError: The arguments do not fit the server's predictor.
            PredictorError: The server refused, for the reason given.
        """
        request = PredictionRequest(context, candidates, goal, n_videos, self._cost)
        protocol.check(request, self._spec)
        start_s = time.monotonic()
        end_s = start_s + self._timeout_s
        waiting = "it may have stopped, or be too slow for this number of candidates"
        while True:
            message = Predict(uuid4().bytes, request, self._spec.checkpoint, end_s - time.monotonic())
            reply = self._ask(message, end_s)
            if reply is None:
                raise DeadlineError(
                    f"no reply from the server at {self._address} within {self._timeout_s:g} s; {waiting}"
                )
            if isinstance(reply, PredictionReply):
                self._check(reply.prediction, request)
                timing_s = {**reply.prediction.timing_s, "round_trip": time.monotonic() - start_s}
                return replace(reply.prediction, timing_s=timing_s)
            if isinstance(reply, Welcome) or not reply.retry_after_s:
                raise self._error(reply)
            waiting = f"it stayed {reply.status}: {reply.why}"
            _wait_for(reply, end_s)

    def close(self) -> None:
        """Close the socket. Safe to call twice."""
        if not self._socket.closed:
            self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=0)
        self._context.term()

    def _connect(self, keys: Path | None) -> None:
        if keys is not None:
            pair, theirs = load_own_pair(keys), load_server_key(keys)
            self._socket.setsockopt(zmq.CURVE_PUBLICKEY, pair.public)
            self._socket.setsockopt(zmq.CURVE_SECRETKEY, pair.secret)
            self._socket.setsockopt(zmq.CURVE_SERVERKEY, theirs)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_PART_BYTES)
        self._socket.setsockopt(zmq.IMMEDIATE, 1)  # no messages are queued without a connection
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        self._socket.setsockopt(zmq.HEARTBEAT_IVL, _HEARTBEAT_MS)
        self._socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, _SILENCE_MS)
        try:
            self._socket.connect(self._address)
        except zmq.ZMQError as error:
            raise MismatchError(
                f"{self._address}: expected an address such as tcp://127.0.0.1:5555, got: {error}"
            ) from None

    def _shake_hands(self, load_timeout_s: float) -> PredictorSpec:
        reply = self._ask(Hello(uuid4().bytes), time.monotonic() + _CONNECT_TIMEOUT_S)
        if isinstance(reply, Refusal) and reply.retry_after_s:
            with announce(f"waiting up to {load_timeout_s:g} s for the server at {self._address}: {reply.why}", 0):
                reply = self._wait_until_ready(reply, time.monotonic() + load_timeout_s)
        if reply is None:
            while self._monitor.poll(0):
                self._is_connected()
            if self._handshake_error:
                raise PredictorError(f"the server at {self._address} refused this machine: {self._handshake_error}")
            raise PredictorError(
                f"no server at {self._address} within {_CONNECT_TIMEOUT_S:g} s; start one with: "
                "run_server --checkpoint FOLDER"
            )
        if not isinstance(reply, Welcome):
            raise self._error(reply)
        return replace(reply.spec, name="server")

    def _wait_until_ready(self, reply: Refusal, end_s: float) -> Welcome | PredictionReply | Refusal:
        """Greet a server again until it is ready; return its last answer, from before `end_s`."""
        last: Welcome | PredictionReply | Refusal = reply
        while isinstance(last, Refusal) and 0 < last.retry_after_s < end_s - time.monotonic():
            _wait_for(last, end_s)
            last = self._ask(Hello(uuid4().bytes), end_s) or last
        return last

    def _ask(self, message: Hello | Predict, end_s: float) -> Welcome | PredictionReply | Refusal | None:
        """Send a message and return the reply to it, or None at `end_s`.

        After a reconnection the message is sent again, as it was lost with the old connection. Predicting it twice is
        harmless.
        """
        parts = protocol.encode_request(message)
        while self._wait(zmq.POLLOUT, end_s):
            while self._monitor.poll(_EVENT_MS):  # of this connection and earlier ones
                self._is_connected()
            with suppress(zmq.Again):  # the server has just disconnected
                self._socket.send_multipart(parts, zmq.NOBLOCK)
                reply = self._reply(message.id, end_s)
                if reply is not None:
                    return reply
        return None

    def _reply(self, id_: bytes, end_s: float) -> Welcome | PredictionReply | Refusal | None:
        """Return the reply to a sent message, or None after a reconnection or at `end_s`."""
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._monitor, zmq.POLLIN)
        while (remaining_s := end_s - time.monotonic()) > 0:
            ready = _poll(poller, remaining_s)
            if self._socket in ready:
                reply = self._receive()
                if reply.id in (id_, b""):  # replies to earlier requests are ignored
                    return reply
            elif self._monitor in ready and self._is_connected():
                return None
        return None

    def _is_connected(self) -> bool:
        """Read the next monitor event and return whether a new connection was established."""
        event = zmq.Event(recv_monitor_message(self._monitor)["event"])
        # A connection may also break without detail on a busy machine; an earlier event then has the reason.
        if event != zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL or not self._handshake_error:
            self._handshake_error = self._handshake_errors.get(event, "")
        return not self._handshake_error

    def _receive(self) -> Welcome | PredictionReply | Refusal:
        try:
            return protocol.decode_reply(self._socket.recv_multipart(zmq.NOBLOCK))
        except ProtocolError as error:
            raise MismatchError(f"the server at {self._address} sent an invalid message: {error}") from None

    def _wait(self, event: int, end_s: float) -> bool:
        remaining_s = end_s - time.monotonic()
        poller = zmq.Poller()
        poller.register(self._socket, event)
        return remaining_s > 0 and bool(_poll(poller, remaining_s))

    def _error(self, reply: Welcome | PredictionReply | Refusal) -> PredictorError:
        """Return the error of a reply without a prediction."""
        if not isinstance(reply, Refusal):
            return MismatchError(f"the server at {self._address} sent a reply of another kind")
        text = f"the server at {self._address} refused ({reply.status}): {reply.why}"
        kind: dict[str, type[PredictorError]] = {
            "bad": MismatchError,
            "expired": DeadlineError,
            "nonfinite": NonFiniteError,
        }
        return kind.get(reply.status, PredictorError)(text)

    def _check(self, prediction: Prediction, request: PredictionRequest) -> None:
        n, horizon = request.candidates.shape[:2]
        videos = (request.n_videos, horizon, *request.goal.shape)
        if prediction.costs.shape != (n,) or prediction.videos.shape != videos:
            raise MismatchError(
                f"the server at {self._address}: expected costs ({n},) and videos {videos}, "
                f"got {prediction.costs.shape} and {prediction.videos.shape}"
            )


def _wait_for(refusal: Refusal, end_s: float) -> None:
    """Wait for the time given in the refusal, at most until `end_s`."""
    # Jitter: clients that were refused together must not retry together.
    sleep(max(0.0, min(refusal.retry_after_s * random.uniform(0.5, 1.5), end_s - time.monotonic())))


def _poll(poller: zmq.Poller, timeout_s: float) -> dict[object, int]:
    """Return the ready sockets and their events; return at once on a signal.

    Raises:
        KeyboardInterrupt: A signal is due; see `configs.interruption`.
    """
    deferred = current()
    if deferred is not None:
        poller.register(deferred.fileno(), zmq.POLLIN)
    ready: dict[object, int] = dict(poller.poll(math.ceil(timeout_s * 1000)))
    check()
    return ready
