"""Benchmarks of runs and goals: their rules, and the complete commands on few scenes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer
from typer.testing import CliRunner

from tests.benchmarks.goal_warnings import goal_warnings
from tests.benchmarks.stop_on_done import Rule, _row, stop_on_done


def _output(command: Callable[..., Any], *options: str) -> list[str]:
    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, options, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


def _recorded(gains: list[float], done_at: int | None) -> dict[str, Any]:
    """Return a run of plans after every five actions, in which the cost of holding still is 1."""
    n = 5 * len(gains)
    success = [done_at is not None and step >= done_at for step in range(1, n + 1)]
    plans = [{"step": 5 * i, "cost": 1 - gain, "hold": 1.0} for i, gain in enumerate(gains)]
    return {
        "plans": plans,
        "moved_m": [0.1] * n,
        "success": success,
        "in_place": success,
        "val_rmse_p95": [2.0],
        "horizon": 1,
    }


def test_a_rule_counts_stops_before_and_after_success() -> None:
    runs = [_recorded([0.1, 0.5, 0.1, 0.1, 0.1], 7), _recorded([0.5, 0.1, 0.1, 0.5], 12), _recorded([0.5] * 4, None)]
    row = _row(Rule(2, 0.2), runs)
    assert (row["stopped_after_done"], row["stopped_before_done"], row["stopped_never_done"]) == (1, 1, 0)
    assert (row["done"], row["runs"], row["actions_saved_per_run"]) == (2, 3, round((10 + 10) / 3, 1))
    assert (row["in_place_at_stop"], row["in_place_without_rule"]) == (1, 2)
    assert _row(Rule(1, 1.0, 0.2), runs)["stopped_before_done"] == 0  # 1 is above 0.2 times 2 squared
    assert _row(Rule(1, 1.0, 0.3), runs)["stopped_before_done"] == 2


def test_stop_on_done_records_runs_once(tmp_path: Path) -> None:
    options = ("--out", str(tmp_path), "--task", "pick_wipe", "--scenes", "1", "--predictor", "copy")
    lines = _output(stop_on_done, *options)
    (file,) = tmp_path.glob("*.json")
    written = file.stat().st_mtime_ns
    assert _output(stop_on_done, *options) == lines and file.stat().st_mtime_ns == written
    numbers = json.loads(lines[-1])
    assert numbers["runs"] == 1 and all(row["stopped_before_done"] == 0 for row in numbers["rules"]["pick_wipe"])


def test_goal_warnings_counts_each_kind() -> None:
    counts = json.loads(_output(goal_warnings, "--seeds", "2")[-1])["warnings"]
    assert counts["same scene"] == [0, 4] and len(counts) == 6
