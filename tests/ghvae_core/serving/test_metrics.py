import http.client
import socket
import time
from collections.abc import Iterator

import numpy as np
import pytest

from ghvae_core.serving.metrics import HealthError, ServerMetrics, serve_metrics
from tests.ghvae_core.serving.example import prediction, request
from tests.ghvae_core.serving.live import peer, predict, running, status, until
from tests.patience import patience


@pytest.fixture
def metrics() -> ServerMetrics:
    return ServerMetrics()


@pytest.fixture
def port(metrics: ServerMetrics) -> Iterator[int]:
    with serve_metrics(0, metrics) as port:
        yield port


def _get(port: int, path: str, host: str = "127.0.0.1") -> tuple[int, str]:
    connection = http.client.HTTPConnection(host, port, timeout=patience(20))
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def test_it_is_ready_only_when_it_says_so(port: int, metrics: ServerMetrics) -> None:
    for state, code in (("loading", 503), ("warming", 503), ("ready", 200), ("draining", 503)):
        metrics.note(state, 0, 0)  # type: ignore[arg-type]
        assert _get(port, "/readyz") == (code, f"{state}\n")
        assert _get(port, "/livez") == (200, f"{state}\n")


def test_a_front_that_is_silent_is_not_alive(
    port: int, metrics: ServerMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics.note("ready", 0, 0)
    later_s = time.monotonic() + 6
    monkeypatch.setattr("ghvae_core.serving.metrics.time.monotonic", lambda: later_s)
    assert _get(port, "/livez") == (503, "hung\n")
    assert _get(port, "/readyz") == (503, "hung\n")


def test_the_figures_are_told(port: int, metrics: ServerMetrics) -> None:
    metrics.note("ready", 3, 1)
    metrics.count("busy")
    answered = prediction(request())
    answered.costs[0] = np.nan
    metrics.predicted(answered)
    code, text = _get(port, "/metrics")
    assert code == 200
    lines = text.splitlines()
    for line in (
        'ghvae_replies_total{status="busy"} 1.0',
        "ghvae_candidates_total 5.0",
        "ghvae_nonfinite_costs_total 1.0",
        "ghvae_waiting 3.0",
        "ghvae_model_restarts 1.0",
        'ghvae_state{state="ready"} 1.0',
        'ghvae_state{state="draining"} 0.0',
        'ghvae_stage_seconds_count{stage="imagine"} 1.0',
    ):
        assert line in lines


@pytest.mark.parametrize("path", ["/", "/../../etc/passwd", "/metrics/x", "/livez?x"])
def test_nothing_else_is_there(port: int, path: str) -> None:
    assert _get(port, path)[0] == 404


def test_other_interfaces_do_not_answer(port: int) -> None:
    with socket.socket() as probe:
        probe.settimeout(1)
        probe.connect(("127.0.0.1", port))
    own = socket.gethostbyname(socket.gethostname())
    if not own.startswith("127.0.0.1"):
        with pytest.raises(OSError):
            socket.create_connection((own, port), 1)


def test_a_port_in_use_is_refused(port: int, metrics: ServerMetrics) -> None:
    with pytest.raises(HealthError, match=f"--health {port}: ") as caught, serve_metrics(port, metrics):
        raise AssertionError("bound twice")
    assert caught.value.exit_code == 2


def test_a_client_that_says_nothing_holds_nobody_up(port: int, metrics: ServerMetrics) -> None:
    metrics.note("ready", 0, 0)
    with socket.create_connection(("127.0.0.1", port)):
        assert _get(port, "/livez")[0] == 200


def test_the_front_tells_its_vitals() -> None:
    with running() as server, peer(server.address) as client, serve_metrics(0, server.server.metrics) as port:
        assert status(client.ask(predict())) == "ok"
        until(lambda: 'ghvae_replies_total{status="prediction"} 1.0' in _get(port, "/metrics")[1], "the answer's count")
        assert _get(port, "/readyz") == (200, "ready\n")
