"""A server in a thread of the test with real worker processes, and a client that can send any message."""

import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import psutil
import zmq

from ghvae_core.predictor import PredictorError
from ghvae_core.serving.protocol import (
    Hello,
    Predict,
    PredictionReply,
    Refusal,
    Welcome,
    decode_reply,
    encode_request,
)
from ghvae_core.serving.server import PredictionServer, ServingConfig
from tests.ghvae_core.serving.example import SPEC, request
from tests.patience import patience

PATIENCE_S = 20.0  # a hung test fails instead of waiting


def until(holds: Callable[[], object], what: str) -> None:
    """Wait until a condition holds."""
    end_s = time.monotonic() + patience(PATIENCE_S)
    while not holds():
        assert time.monotonic() < end_s, f"not within the time limit: {what}"
        time.sleep(0.005)


def commands(script: str, folder: Path, *more: str, n: int = 1) -> list[list[str]]:
    """Return the command lines of n worker processes that follow a script of `scripted`."""
    return [[sys.executable, "-m", "tests.ghvae_core.serving.scripted", script, str(folder), *more]] * n


class Running:
    """A server, the folder of its workers, and the error it raised."""

    def __init__(self, server: PredictionServer, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.error: PredictorError | None = None
        self.ready = threading.Event()
        self.thread = threading.Thread(target=self._serve)

    @property
    def address(self) -> str:
        return self.server.address

    @property
    def n_begun(self) -> int:
        """Number of requests that the worker with the script `gate` has begun."""
        return len(list(self.folder.glob("entered_*")))

    def processes(self) -> set[int]:
        """Return the ids of all running processes that were started for this server."""
        with_command = ((it.pid, it.info["cmdline"] or []) for it in psutil.process_iter(["cmdline"]))  # none: a zombie
        return {pid for pid, command in with_command if str(self.folder) in command}

    def wait_until_begun(self, n: int = 1) -> None:
        until(lambda: self.n_begun >= n, f"request {n}")

    def open(self) -> None:
        """Let the worker with the script `gate` continue."""
        (self.folder / "open").touch()

    def _serve(self) -> None:
        try:
            self.server.serve(lambda _: self.ready.set())
        except PredictorError as error:
            self.error = error
        self.ready.set()


@contextmanager
def running(
    script: str = "predict",
    config: ServingConfig | None = None,
    *more: str,
    n: int = 1,
    waits: bool = True,
    address: str = "tcp://127.0.0.1:0",
    keys: Path | None = None,
) -> Iterator[Running]:
    """Serve with n workers that follow a script until the end of the block."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = PredictionServer(address, config or ServingConfig(), commands(script, folder, *more, n=n), keys)
        it = Running(server, folder)
        it.thread.start()
        try:
            assert not waits or it.ready.wait(patience(PATIENCE_S))
            yield it
        finally:
            server.drain()
            it.thread.join(patience(PATIENCE_S))
            server.close()
            assert not it.thread.is_alive()


class Peer:
    """A client without checks."""

    def __init__(self, address: str) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(address)

    def send(self, parts: Sequence[bytes]) -> None:
        self._socket.send_multipart(parts)

    def receive(self, patience_ms: int | None = None) -> Welcome | PredictionReply | Refusal | None:
        """Return the next reply, or None when there is none."""
        if not self._socket.poll(round(1000 * patience(PATIENCE_S)) if patience_ms is None else patience_ms):
            return None
        return decode_reply(self._socket.recv_multipart())

    def exchange(self, parts: Sequence[bytes]) -> Welcome | PredictionReply | Refusal | None:
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


def predict(deadline_s: float = 60.0, request_id: bytes = b"id-1", checkpoint: str = SPEC.checkpoint) -> list[bytes]:
    return encode_request(Predict(request_id, request(), checkpoint, deadline_s))


def status(reply: Welcome | PredictionReply | Refusal | None) -> str:
    """Return "ok", the status of a refusal, or "none"."""
    if reply is None:
        return "none"
    return reply.status if isinstance(reply, Refusal) else "ok"
