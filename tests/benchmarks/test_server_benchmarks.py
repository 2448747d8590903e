"""The benchmarks of the server run and report failed checks."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from configs.command import ReportedError
from ghvae_core.predictor import PredictorError
from tests.benchmarks.busy import busy
from tests.benchmarks.feature_reuse import feature_reuse
from tests.benchmarks.rollout_rate import rollout_rate
from tests.benchmarks.served import Served
from tests.benchmarks.served_rate import served_rate
from tests.benchmarks.server_crowd import ClientRecord, CrowdError, _statistics, server_crowd
from tests.benchmarks.server_kills import server_kills
from tests.benchmarks.server_siege import SiegeError, server_siege


def _run(command: Callable[..., Any], *options: str) -> list[str]:
    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, options)
    if isinstance(result.exception, ReportedError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


def test_rollout_rate() -> None:
    options = ("--candidates", "4", "--chunk", "3", "--horizon", "2", "--repeats", "1")
    lines = _run(rollout_rate, "--size", "nano", "--baseline", "nano", *options)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]
    assert [row[2] for row in rows[2:5]] == ["plain", "float32", "bfloat16"]
    assert rows[2][5] == "1.00" and all(float(row[6]) > 0.2 for row in rows[2:5])
    differences = {row[1]: [float(cell) for cell in row[2:]] for row in rows[8:]}
    assert max(differences["float32"]) < 1e-4 < max(differences["bfloat16"]) < 0.1
    assert len(differences["float32"]) == 2


def test_served_rate() -> None:
    lines = _run(served_rate, "--candidates", "4", "--horizon", "2", "--repeats", "1")
    one, two = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:])
    assert (one[0], one[5], two[0]) == ("1", "1.00", "2")
    assert all(0 < float(row[4].rstrip("%")) < 100 and float(row[2]) > float(row[3]) for row in (one, two))


@pytest.mark.slow
def test_busy() -> None:
    rows = [line.strip("| ").split(" | ") for line in _run(busy, "--others", "1", "--repeats", "1")[2:]]
    assert [row[:2] for row in rows] == [["0", "spinning"], ["0", "sleeping"], ["1", "spinning"], ["1", "sleeping"]]
    assert [row[4] for row in rows[::2]] == ["1.00", "1.00"] and all(float(row[2]) > 0 for row in rows)


@pytest.mark.slow
def test_feature_reuse() -> None:
    lines = _run(feature_reuse, "--scenes", "1", "--candidates", "4", "--repeats", "1")
    first, *later = (float(step) for step in lines[2].split(": ")[1].split())
    assert first == 0 and all(step > 0 for step in later)


def test_server_siege() -> None:
    result = json.loads(_run(server_siege, "--messages", "300", "--garbage", "20", "--half-open", "10")[-1])
    assert result["alive"] and result["next_plan_correct"] and result["audit_events"] == []
    assert result["answered"]["bad"] >= result["answered"]["sent malformed"] > 250
    before, peak, after = result["descriptors"]
    assert peak >= before + 8 and after <= before + 2  # an earlier connection may be closed meanwhile


def test_executed_code_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Served, "audit_events", lambda _: ["exec '<code>'"])
    with pytest.raises(SiegeError, match="a check failed"):
        _run(server_siege, "--messages", "20", "--garbage", "0", "--half-open", "0")


def test_statistics_of_client_records() -> None:
    first, second = [(0.0, 0.1), (0.2, 0.5)], [(0.25, 0.35), (0.36, 0.45)]
    result = _statistics(
        [ClientRecord(first, [0.05, 0.15], [], 1), ClientRecord(second, [0.1, 0.1], ["DeadlineError"], 0)], 4
    )
    assert (result["answered"], result["fewest_by_one"], result["misdelivered"]) == (4, 2, 1)
    assert result["failed"] == {"DeadlineError": 1}
    assert (result["most_answered_between"], result["bound"], result["work_of_all_ms"]) == (2, 3, 400.0)
    with pytest.raises(CrowdError, match="no request was answered"):
        _statistics([ClientRecord([], [], [], 0)], 4)


@pytest.mark.slow
def test_server_crowd() -> None:
    result = json.loads(_run(server_crowd, "--clients", "4", "--seconds", "2")[-1])
    assert result["alive"] and result["misdelivered"] == 0 and result["failed"] == {} and result["fewest_by_one"] > 0


@pytest.mark.slow
def test_server_kills() -> None:
    try:
        lines = _run(server_kills, "--kills", "1", "--candidates", "8", "--deadline", "20")
    except PredictorError as error:
        raise AssertionError("the server did not reply") from error
    assert [json.loads(line)["killed"] for line in lines] == ["model", "server"]
    assert all(json.loads(line)["incorrect_plans"] == 0 for line in lines)
