"""A server in a thread of the test, and a peer that can send it anything."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from uuid import uuid4

import zmq

from ghvae_core.predictor import Prediction
from ghvae_core.serving.protocol import (
    Answer,
    Hello,
    Predict,
    Refusal,
    Welcome,
    decode_reply,
    encode_request,
)
from ghvae_core.serving.request import Request
from ghvae_core.serving.server import Evaluate, Server, ServingConfig
from tests.ghvae_core.serving.example import SPEC, prediction, request

PATIENCE_MS = 20_000  # a hung test fails instead of waiting


def evaluate(asked: Request, is_over: Callable[[], bool]) -> Prediction:
    return prediction(asked)


class Gate:
    """An evaluation that waits until it is opened, and counts."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()
        self.n_computed = 0

    def __call__(self, asked: Request, is_over: Callable[[], bool]) -> Prediction:
        self.entered.release()
        assert self.open.wait(PATIENCE_MS / 1000)
        self.n_computed += 1
        return prediction(asked)


@contextmanager
def running(work: Evaluate = evaluate, config: ServingConfig | None = None) -> Iterator[Server]:
    """Serve `work` on a free port until the end of the block."""
    server = Server("tcp://127.0.0.1:0", config or ServingConfig())
    thread = threading.Thread(target=server.serve, args=(SPEC, work))
    thread.start()
    try:
        yield server
    finally:
        server.drain()
        thread.join(PATIENCE_MS / 1000)
        server.close()
        assert not thread.is_alive()


class Peer:
    """A bare socket."""

    def __init__(self, address: str) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(address)

    def send(self, parts: Sequence[bytes]) -> None:
        self._socket.send_multipart(parts)

    def receive(self, patience_ms: int = PATIENCE_MS) -> Welcome | Answer | Refusal | None:
        """Return the next reply, or None when there is none."""
        if not self._socket.poll(patience_ms):
            return None
        return decode_reply(self._socket.recv_multipart())

    def ask(self, parts: Sequence[bytes]) -> Welcome | Answer | Refusal | None:
        self.send(parts)
        return self.receive()

    def close(self) -> None:
        self._socket.close()
        self._context.term()


@contextmanager
def peer(address: str) -> Iterator[Peer]:
    it = Peer(address)
    try:
        yield it
    finally:
        it.close()


def hello() -> list[bytes]:
    return encode_request(Hello(uuid4().bytes))


def predict(deadline_s: float = 20.0, request_id: bytes = b"id-1", checkpoint: str = SPEC.checkpoint) -> list[bytes]:
    return encode_request(Predict(request_id, request(), checkpoint, deadline_s))


def status(reply: Welcome | Answer | Refusal | None) -> str:
    """Return "ok", the status of a refusal, or "silence"."""
    if reply is None:
        return "silence"
    return reply.status if isinstance(reply, Refusal) else "ok"
