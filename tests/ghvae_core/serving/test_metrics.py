import http.client
import socket
import time
from collections.abc import Iterator

import pytest

from ghvae_core.serving.metrics import HealthError, ServerMetrics, serve_metrics
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


def test_readyz_reports_ready_in_the_ready_state_alone(port: int, metrics: ServerMetrics) -> None:
    for state, code in (("loading", 503), ("warming", 503), ("ready", 200), ("draining", 503)):
        metrics.update(state, 0, 0)  # type: ignore[arg-type]
        assert _get(port, "/readyz") == (code, f"{state}\n")
        assert _get(port, "/livez") == (200, f"{state}\n")


def test_a_server_that_stops_updating_is_reported_as_hung(
    port: int, metrics: ServerMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics.update("ready", 0, 0)
    later_s = time.monotonic() + 6
    monkeypatch.setattr("ghvae_core.serving.metrics.time.monotonic", lambda: later_s)
    assert _get(port, "/livez") == (503, "hung\n")
    assert _get(port, "/readyz") == (503, "hung\n")


def test_metrics_are_reported(port: int, metrics: ServerMetrics) -> None:
    metrics.update("ready", 3, 1)
    metrics.count_reply("busy")
    metrics.add_prediction(5, 1, {"rollout": 0.25})
    code, text = _get(port, "/metrics")
    assert code == 200
    lines = text.splitlines()
    for line in (
        'ghvae_replies_total{status="busy"} 1.0',
        "ghvae_candidates_total 5.0",
        "ghvae_nonfinite_costs_total 1.0",
        "ghvae_queue_length 3.0",
        "ghvae_worker_restarts 1.0",
        'ghvae_server_state{state="ready"} 1.0',
        'ghvae_server_state{state="draining"} 0.0',
        'ghvae_stage_seconds_count{stage="rollout"} 1.0',
    ):
        assert line in lines


@pytest.mark.parametrize("path", ["/", "/../../etc/passwd", "/metrics/x", "/livez?x"])
def test_other_paths_are_not_found(port: int, path: str) -> None:
    assert _get(port, path)[0] == 404


def test_other_interfaces_do_not_answer(port: int) -> None:
    with socket.socket() as probe:
        probe.settimeout(1)
        probe.connect(("127.0.0.1", port))
    address = socket.gethostbyname(socket.gethostname())
    if not address.startswith("127.0.0.1"):
        with pytest.raises(OSError):
            socket.create_connection((address, port), 1)


def test_a_port_in_use_is_refused(port: int, metrics: ServerMetrics) -> None:
    with pytest.raises(HealthError, match=f"--health {port}: ") as caught, serve_metrics(port, metrics):
        raise AssertionError("bound twice")
    assert caught.value.exit_code == 2


def test_a_silent_client_does_not_block_others(port: int, metrics: ServerMetrics) -> None:
    metrics.update("ready", 0, 0)
    with socket.create_connection(("127.0.0.1", port)):
        assert _get(port, "/livez")[0] == 200


def test_the_server_updates_its_metrics() -> None:
    with running() as server, peer(server.address) as client, serve_metrics(0, server.server.metrics) as port:
        assert status(client.exchange(predict())) == "ok"
        until(
            lambda: 'ghvae_replies_total{status="prediction"} 1.0' in _get(port, "/metrics")[1],
            "the count of predictions",
        )
        assert _get(port, "/readyz") == (200, "ready\n")
