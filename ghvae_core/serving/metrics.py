"""Probes and figures over HTTP, on this machine alone: /livez, /readyz and /metrics."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ghvae_core.predictor import Prediction, PredictorError
from ghvae_core.serving.worker import SERVER_STATES, ServerState

_HOST = "127.0.0.1"
_SILENT_S = 5.0  # of a front that is taken for hung; ours
_PATIENCE_S = 5.0  # with a client that says nothing

_log = logging.getLogger(__name__)


class HealthError(PredictorError):
    """The port is taken. Nothing was bound."""

    exit_code: ClassVar[int] = 2


@contextmanager
def serve_metrics(port: int, metrics: ServerMetrics) -> Iterator[int]:
    """Answer on a port of the loopback interface until the end of the block; yields the port, where 0 took a free one.

    Raises:
        HealthError: Another program listens there.
    """

    class Handler(_Handler):
        pass

    Handler.metrics = metrics
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

    metrics: ClassVar[ServerMetrics]
    timeout = _PATIENCE_S
    server_version, sys_version = "ghvae", ""

    def do_GET(self) -> None:
        """Answer."""
        is_alive = self.metrics.silent_s < _SILENT_S
        state = self.metrics.state.encode() if is_alive else b"hung"
        if self.path == "/livez":
            self._answer(200 if is_alive else 503, state + b"\n")
        elif self.path == "/readyz":
            self._answer(200 if state == b"ready" else 503, state + b"\n")
        elif self.path == "/metrics":
            self._answer(200, self.metrics.text(), "text/plain; version=0.0.4; charset=utf-8")
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


_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)  # edges of the histograms' buckets


class ServerMetrics:
    """Figures that the front writes and any thread may read."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self._replies = Counter("ghvae_replies", "Replies by what they told", ["status"], registry=registry)
        self._stages = Histogram(
            "ghvae_stage_seconds", "Time of a prediction by stage", ["stage"], registry=registry, buckets=_SECONDS
        )
        self._candidates = Counter("ghvae_candidates", "Candidates that were imagined", registry=registry)
        self._nonfinite = Counter("ghvae_nonfinite_costs", "Costs that were NaN or infinite", registry=registry)
        self._waiting = Gauge("ghvae_waiting", "Requests that wait", registry=registry)
        self._restarts = Gauge("ghvae_model_restarts", "Processes that were replaced", registry=registry)
        self._state = Gauge("ghvae_state", "1 for the present state", ["state"], registry=registry)
        self._seen_s = time.monotonic()
        self.state: ServerState = "starting"
        self.answered: dict[str, int] = {}

    @property
    def silent_s(self) -> float:
        """How long ago the front last wrote; it does so several times a second."""
        return time.monotonic() - self._seen_s

    def count(self, status: str) -> None:
        """Count a reply."""
        self._replies.labels(status).inc()
        self.answered[status] = self.answered.get(status, 0) + 1

    def predicted(self, prediction: Prediction) -> None:
        """Take note of a prediction."""
        self._candidates.inc(len(prediction.costs))
        self._nonfinite.inc(int(np.count_nonzero(~np.isfinite(prediction.costs))))
        for stage, seconds in prediction.timing_s.items():
            self._stages.labels(stage).observe(seconds)

    def note(self, state: ServerState, queue_length: int, n_restarts: int) -> None:
        """Take note of the present."""
        self._seen_s = time.monotonic()
        self._waiting.set(queue_length)
        self._restarts.set(n_restarts)
        if state != self.state:
            self.state = state
            for name in SERVER_STATES:
                self._state.labels(name).set(name == state)

    def text(self) -> bytes:
        """Return all of it in Prometheus' text format."""
        return generate_latest(self._registry)
