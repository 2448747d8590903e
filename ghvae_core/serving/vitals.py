"""How a server is: what Prometheus and a probe may know of it."""

from __future__ import annotations

import time

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ghvae_core.predictor import Prediction
from ghvae_core.serving.line import STATES, State

_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)  # edges of the histograms' buckets


class Vitals:
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
        self.state: State = "starting"
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

    def note(self, state: State, n_waiting: int, n_restarts: int) -> None:
        """Take note of the present."""
        self._seen_s = time.monotonic()
        self._waiting.set(n_waiting)
        self._restarts.set(n_restarts)
        if state != self.state:
            self.state = state
            for name in STATES:
                self._state.labels(name).set(name == state)

    def text(self) -> bytes:
        """Return all of it in Prometheus' text format."""
        return generate_latest(self._registry)
