"""First plans: drawing, rates, and the complete command on a few candidates."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from configs.command import ReportedError
from tests.benchmarks.first_plans import Rate, _success_fraction, first_plans


def _run(*options: str) -> list[str]:
    app = typer.Typer()
    app.command()(first_plans)
    result = CliRunner().invoke(app, options, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


def test_the_least_finite_cost_of_the_drawn_candidates_is_chosen() -> None:
    costs = np.array([np.nan, 3.0, 1.0, 2.0], np.float32)
    success = np.array([True, False, True, False])
    rng = np.random.default_rng(0)
    assert _success_fraction(costs, success, 4, rng) == 1.0
    assert _success_fraction(costs, ~success, 9, rng) == 0.0
    two = _success_fraction(
        costs, success, 2, rng
    )  # candidate 2 is in three of six pairs; candidate 0 has no finite cost
    assert two == pytest.approx(3 / 6, abs=0.1)


def test_a_rate_is_a_mean_over_scenes() -> None:
    assert str(Rate.of([0.0, 1.0])) == "50 ± 50 %"
    assert str(Rate.of([1.0])) == "100 %" and Rate.of([1.0]).standard_error is None


def test_invalid_seeds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ReportedError, match="expected A:B"):
        _run("--out", str(tmp_path / "out"), "--seeds", "3")
    assert not (tmp_path / "out").exists()


def test_results_of_another_configuration_are_refused(tmp_path: Path) -> None:
    (tmp_path / "pick_wipe.yaml").write_text("planner: {}\n")
    with pytest.raises(ReportedError, match="expected the stored configuration, got another"):
        _run("--out", str(tmp_path), "--seeds", "0:1", "--no-lpips")
    assert [path.name for path in tmp_path.iterdir()] == ["pick_wipe.yaml"]


@pytest.mark.slow
def test_the_complete_command_on_a_few_candidates(tmp_path: Path) -> None:
    few = [
        "--task",
        "pick_sweep",
        "--seeds",
        "0:2",
        "--candidates",
        "8",
        "--others",
        "4",
        "--chosen",
        "4",
        "--no-lpips",
    ]
    options = [*few, "--solver-predictor", "in_process", "--out", str(tmp_path)]
    lines = _run(*options)
    tables = json.loads(lines[-1])["tables"]
    assert json.loads(lines[-1])["scenes"] == 2
    assert list(tables["all candidates, executed"]) == ["directed", "policy", "blind"]
    assert tables["all candidates, executed"]["blind"]["any, pick_sweep"][0] == 0
    assert "LPIPS" not in tables["cost, the best of 4 directed"]
    assert list(tables["solver, 4 candidates"]) == ["shooting", "cem", "icem", "mppi"]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert _run(*options)[-1] == lines[-1]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
