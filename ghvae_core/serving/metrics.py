"""Probes and figures over HTTP, on this machine alone: /livez, /readyz and /metrics."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

from ghvae_core.predictor import PredictorError
from ghvae_core.serving.vitals import Vitals

_HOST = "127.0.0.1"
_SILENT_S = 5.0  # of a front that is taken for hung; ours
_PATIENCE_S = 5.0  # with a client that says nothing

_log = logging.getLogger(__name__)


class HealthError(PredictorError):
    """The port is taken. Nothing was bound."""

    exit_code: ClassVar[int] = 2


@contextmanager
def health(port: int, vitals: Vitals) -> Iterator[int]:
    """Answer on a port of the loopback interface until the end of the block; yields the port, where 0 took a free one.

    Raises:
        HealthError: Another program listens there.
    """

    class Handler(_Handler):
        pass

    Handler.vitals = vitals
    try:
        server = ThreadingHTTPServer((_HOST, port), Handler)
    except OSError as error:
        raise HealthError(f"--health {port}: {error.strerror}; stop what listens there or take another port") from None
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    """Three paths, and nothing of what was asked is looked at but which of them."""

    vitals: ClassVar[Vitals]
    timeout = _PATIENCE_S
    server_version, sys_version = "ghvae", ""

    def do_GET(self) -> None:
        """Answer."""
        is_alive = self.vitals.silent_s < _SILENT_S
        state = self.vitals.state.encode() if is_alive else b"hung"
        if self.path == "/livez":
            self._answer(200 if is_alive else 503, state + b"\n")
        elif self.path == "/readyz":
            self._answer(200 if state == b"ready" else 503, state + b"\n")
        elif self.path == "/metrics":
            self._answer(200, self.vitals.text(), "text/plain; version=0.0.4; charset=utf-8")
        else:
            self._answer(404, b"expected /livez, /readyz or /metrics\n")

    def _answer(self, code: int, text: bytes, kind: str = "text/plain; charset=utf-8") -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing: a probe comes every few seconds."""
