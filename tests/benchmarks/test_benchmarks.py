"""Each benchmark runs and says what it should; how fast is not a test's business."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from tests.benchmarks.feature_cache import feature_cache
from tests.benchmarks.training_memory import training_memory
from tests.benchmarks.training_throughput import training_throughput


def _output(command: Callable[..., Any], *options: str) -> list[str]:
    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, ["--model", "nano", "--batch", "1", "--repeats", "1", *options])
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


def test_training_throughput() -> None:
    lines = _output(training_throughput)
    assert [line.split()[0] for line in lines[2:-1]] == [f"module_{k}" for k in range(1, 7)]
    assert all(len(line.split()) == len(lines[1].replace("no loading", "off").split()) for line in lines[2:-1])
    assert "limit 5%" in lines[-1]


def test_feature_cache() -> None:
    lines = _output(feature_cache)
    assert [line.split()[0] for line in lines[2:-1]] == [f"module_{k}" for k in range(2, 7)]
    sizes = [line.split()[-2:] for line in lines[2:-1]]
    assert all(float(deep) < float(everything) for deep, everything in sizes)


def test_training_memory() -> None:
    lines = _output(training_memory, "--modules", "2")
    n_modules, greedy, whole, ratio = map(float, lines[-2].split())
    assert n_modules == 2
    assert greedy > 0
    assert ratio == pytest.approx(greedy / whole, abs=0.1)
    assert "limit" in lines[-1]
