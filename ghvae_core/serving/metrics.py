"""Metrics of the server, served over HTTP on 127.0.0.1: /livez, /readyz and /metrics (Prometheus text format)."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ghvae_core.predictor import PredictorError
from ghvae_core.serving.worker import SERVER_STATES, ServerState

_HOST = "127.0.0.1"
_HUNG_AFTER_S = 5.0  # without an update of the metrics the server is reported as hung; ours
_CLIENT_TIMEOUT_S = 5.0  # of an HTTP client that sends nothing; ours
_BUCKETS_S = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)  # upper edges of the histograms' buckets


class HealthError(PredictorError):
    """The port is in use. Nothing was bound."""

    exit_code: ClassVar[int] = 2


class ServerMetrics:
    """Counters and gauges that the server updates and any thread may read."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self._replies = Counter("ghvae_replies", "Replies by status", ["status"], registry=registry)
        self._stages = Histogram(
            "ghvae_stage_seconds", "Time of a prediction by stage", ["stage"], registry=registry, buckets=_BUCKETS_S
        )
        self._candidates = Counter("ghvae_candidates", "Predicted candidates", registry=registry)
        self._nonfinite = Counter("ghvae_nonfinite_costs", "Costs that were NaN or infinite", registry=registry)
        self._queue_length = Gauge("ghvae_queue_length", "Requests in the queue", registry=registry)
        self._restarts = Gauge("ghvae_worker_restarts", "Worker processes that were replaced", registry=registry)
        self._state = Gauge("ghvae_server_state", "1 for the current state, else 0", ["state"], registry=registry)
        self._updated_s = time.monotonic()
        self.state: ServerState = "starting"
        self.n_replies: dict[str, int] = {}  # by status

    @property
    def age_s(self) -> float:
        """Time since the last update; the server updates several times a second."""
        return time.monotonic() - self._updated_s

    def count_reply(self, status: str) -> None:
        """Count a reply."""
        self._replies.labels(status).inc()
        self.n_replies[status] = self.n_replies.get(status, 0) + 1

    def add_prediction(self, n_candidates: int, n_nonfinite: int, timing_s: Mapping[str, float]) -> None:
        """Count a prediction and the durations of its stages."""
        self._candidates.inc(n_candidates)
        self._nonfinite.inc(n_nonfinite)
        for stage, seconds in timing_s.items():
            self._stages.labels(stage).observe(seconds)

    def update(self, state: ServerState, queue_length: int, n_restarts: int) -> None:
        """Set the current state."""
        self._updated_s = time.monotonic()
        self._queue_length.set(queue_length)
        self._restarts.set(n_restarts)
        if state != self.state:
            self.state = state
            for name in SERVER_STATES:
                self._state.labels(name).set(name == state)

    def text(self) -> bytes:
        """Return all metrics in Prometheus text format."""
        return generate_latest(self._registry)


@contextmanager
def serve_metrics(port: int, metrics: ServerMetrics) -> Iterator[int]:
    """Serve the metrics on 127.0.0.1 within the block; yields the port, a free one where 0 is given.

    Raises:
        HealthError: The port is in use.
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
    """Serves three paths; nothing of the request but its path is used."""

    metrics: ClassVar[ServerMetrics]
    timeout = _CLIENT_TIMEOUT_S
    server_version, sys_version = "ghvae", ""

    def do_GET(self) -> None:
        """Answer a request."""
        is_alive = self.metrics.age_s < _HUNG_AFTER_S
        state = self.metrics.state.encode() if is_alive else b"hung"
        if self.path == "/livez":
            self._send(200 if is_alive else 503, state + b"\n")
        elif self.path == "/readyz":
            self._send(200 if state == b"ready" else 503, state + b"\n")
        elif self.path == "/metrics":
            self._send(200, self.metrics.text(), "text/plain; version=0.0.4; charset=utf-8")
        else:
            self._send(404, b"expected /livez, /readyz or /metrics\n")

    def _send(self, code: int, text: bytes, kind: str = "text/plain; charset=utf-8") -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *arguments: object) -> None:
        """Do not log: probes are frequent."""
