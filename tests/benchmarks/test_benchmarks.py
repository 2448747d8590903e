"""The benchmarks run and print their results; times are not checked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from configs.command import ReportedError
from ghvae_core.models.checkpoint import load
from ghvae_core.training.config import load_config
from ghvae_core.training.stages import check_plan, stages
from tests.benchmarks.ablations import ablations
from tests.benchmarks.ablations import rows as ablation_rows
from tests.benchmarks.feature_cache import feature_cache
from tests.benchmarks.freed_memory import freed_memory
from tests.benchmarks.plan_latency import plan_latency
from tests.benchmarks.seed_means import seed_means
from tests.benchmarks.study import Protocol, Study
from tests.benchmarks.training_memory import training_memory
from tests.benchmarks.training_throughput import training_throughput
from tests.benchmarks.training_variants import rows as training_variant_rows
from tests.benchmarks.training_variants import training_variants
from tests.ghvae_core.episodes import record


def _output(command: Callable[..., Any], *options: str) -> list[str]:
    result = _invoke(command, "--model", "nano", "--batch", "1", "--repeats", "1", *options)
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


def _invoke(command: Callable[..., Any], *options: str) -> Result:
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, options)


def test_training_throughput() -> None:
    lines = _output(training_throughput)
    assert [line.split()[0] for line in lines[2:-1]] == [f"module_{k}" for k in range(1, 7)]
    assert all(len(line.split()) == len(lines[1].replace("no loading", "off").split()) for line in lines[2:-1])
    assert "limit 5%" in lines[-1]


def test_feature_cache() -> None:
    lines = _output(feature_cache)
    assert [line.split()[0] for line in lines[2:-1]] == [f"module_{k}" for k in range(2, 7)]
    sizes = [line.split()[-2:] for line in lines[2:-1]]
    assert all(float(deep) < float(all_levels) for deep, all_levels in sizes)


def test_training_memory() -> None:
    lines = _output(training_memory, "--modules", "2")
    n_modules, greedy, whole, ratio = map(float, lines[-2].split())
    assert n_modules == 2
    assert greedy > 0
    assert ratio == pytest.approx(greedy / whole, abs=0.1)
    assert "limit" in lines[-1]


def test_freed_memory() -> None:
    lines = _output(freed_memory, "--candidates", "8", "--processes", "1")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[-2:]]
    assert [row[0] for row in rows] == ["rollouts", "training step of module 1"]
    assert all(float(default) > 0 and float(kept) > 0 for _, default, _, kept, _, _ in rows)


@pytest.mark.parametrize("predictor", ["in_process", "oracle"])
def test_plan_latency(predictor: str) -> None:
    result = _invoke(plan_latency, "--predictor", predictor, "--candidates", "4", "--repeats", "1")
    assert result.exit_code == 0, result.output
    rows = [line.rsplit(maxsplit=3) for line in result.stdout.splitlines() if line.endswith("%")]
    timings = {stage.strip(): float(stage_ms) for stage, stage_ms, _, _ in rows}
    assert timings["predict"] > timings["rollout" if predictor == "in_process" else "rollouts"] > 0
    assert ("of a plain product" in result.stdout) == (predictor == "in_process")


def test_ablations_refuse_an_unknown_row(tmp_path: Path) -> None:
    result = _invoke(ablations, "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--only", "ghvae_3")
    assert isinstance(result.exception, ReportedError)
    assert "expected one of greedy, ghvae_2" in str(result.exception)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", list(training_variant_rows((1, 1, 1))))
def test_the_settings_of_a_training_variant_are_valid(name: str) -> None:
    row = training_variant_rows((2, 4, 6))[name]
    settings = (*row.more, *(f"training.{key}={value}" for key, value in row.settings.items()))
    config = load_config(row.model, ("model.image_px=32", *settings), row.n_modules)
    n = 1 if name in {"large_batch", "all_decoded"} else 2
    assert config.training.module_steps == (n, 2 * n, 2 * n, 2 * n, 3 * n)
    assert config.training.prior_finetune_steps == 1800 * n
    assert config.training.rollout_steps == (150 if name.startswith("rollouts") else 0)


@pytest.mark.parametrize("name", list(ablation_rows("tiny")))
def test_the_settings_of_an_ablation_are_valid(name: str) -> None:
    row = ablation_rows("tiny")[name]
    settings = {key: 5 if value == "matched" else value for key, value in row.settings.items()}
    overrides = (*row.more, *(f"training.{key}={value}" for key, value in settings.items()))
    config = load_config(row.model, overrides, row.n_modules or None)
    plan = stages(config.training, config.model.n_modules, from_scratch=not row.init)
    check_plan(plan, config.model)
    assert plan
    assert {*row.matched} <= {*ablation_rows("tiny")}


def test_a_study_leaves_nothing_when_its_data_is_refused(tmp_path: Path) -> None:
    folders = ["--data", str(tmp_path / "none"), "--out", str(tmp_path / "out")]
    result = _invoke(training_variants, *folders, "--only", "default", "--no-evaluate")
    assert isinstance(result.exception, ReportedError)
    assert "default: its training refused its input" in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_a_study_without_finished_rows_is_not_evaluated(tmp_path: Path) -> None:
    study = Study(training_variant_rows((1, 1, 1)), [tmp_path], tmp_path / "seed_0", 0, ())
    with pytest.raises(ReportedError, match="expected a finished row to evaluate, got none; use --no-evaluate"):
        study.evaluate(Protocol(tmp_path, 2, fvd=False))


def _stored_evaluation(file: Path, label: str, gain: float, copied: float = 15.5) -> str:
    rows = {f"{label}, prior mean": 20.0 + gain, f"{label}, shuffled actions": 19.0, "copy last context frame": copied}
    estimates = {row: {"psnr_db": {"value": value, "standard_error": 0.1}} for row, value in rows.items()}
    texts = dict.fromkeys(("checkpoint", "checkpoint_sha256", "kind", "held_out"), "")
    model = {**texts, **dict.fromkeys(("modules", "modules_trained", "parameters"), 1), "label": label}
    empty: dict[str, object] = {
        part: {} for part in ("about", "conventions", "steps", "sensitivity", "identical_frames")
    }
    file.write_text(json.dumps({**empty, "models": [model], "rows": estimates, "differences": [], "windows": []}))
    return str(file)


def test_means_over_seeds_have_standard_errors_and_the_action_gap(tmp_path: Path) -> None:
    first, second = (_stored_evaluation(tmp_path / f"{seed}.json", "a", seed) for seed in (0, 1))
    other = _stored_evaluation(tmp_path / "other.json", "b", 1.0)
    result = _invoke(seed_means, first, second, other)
    assert result.output.splitlines() == [
        "| predicted frames | seeds | psnr_db | action gap (dB) |",
        "|---|---|---|---|",
        "| a | 2 | 20.5 ± 0.5 | 1.5 ± 0.5 |",
        "| b | 1 | 21 | 2 |",
        "| copy last context frame | | 15.5 | |",
    ]


def test_means_over_seeds_refuse_other_windows_and_other_files(tmp_path: Path) -> None:
    first, other = (_stored_evaluation(tmp_path / f"{copy}.json", "a", 0, copy) for copy in (15.5, 16.5))
    result = _invoke(seed_means, first, other)
    assert str(result.exception) == f"{other}: expected the windows and metrics of {first}, got others"
    (tmp_path / "notes.json").write_text("{}")
    for name, reason in (("notes.json", "about: Field required"), ("none.json", "No such file")):
        exception = _invoke(seed_means, str(tmp_path / name)).exception
        assert isinstance(exception, ReportedError)
        assert reason in str(exception)
        assert "expected evaluation.json of run_evaluation --out" in str(exception)


@pytest.mark.slow
def test_ablations(tmp_path: Path) -> None:
    """Rows with one step each: an initial one, one that starts from it, one matched in CPU time, and a resumed one."""
    for index in range(4):
        record(tmp_path / f"data_{index % 2}", index)
    only = [word for name in ("greedy", "ghvae_2", "scratch") for word in ("--only", name)]
    small = [
        "training.prior_finetune_steps=1",
        "training.batch_windows=1",
        "training.validation_windows=2",
        "data.horizon=2",
    ]
    options = ["--size", "nano", "--steps", "1", "1", "1", "--no-evaluate", "--set", "data.validation_fraction=0.3"]
    for setting in small:
        options += ["--set", setting]
    folders = ["--data", str(tmp_path / "data_0"), "--data", str(tmp_path / "data_1"), "--out", str(tmp_path / "out")]
    out = tmp_path / "out" / "seed_0"
    out.mkdir(parents=True)
    interrupted = {
        "settings": {"module_steps": [1], "prior_finetune_steps": 0, "rollout_steps": 0},
        "cpu_s": 1000,
        "finished": False,
    }
    (out / "uniform.json").write_text(json.dumps(interrupted))
    result = _invoke(ablations, *folders, *only, "--only", "uniform", *options)
    assert result.exit_code == 0, result.output
    for name in ("greedy", "ghvae_2", "scratch", "uniform"):
        assert load(out / name / "checkpoint").model.n_modules == (2 if name == "ghvae_2" else 6)
        spent = json.loads((out / f"{name}.json").read_text())
        assert spent["finished"]
        assert 0 < spent["cpu_s"] < 1000 or (name == "uniform" and spent["cpu_s"] > 1000)
    assert spent["settings"] == interrupted["settings"]  # as stored by the interrupted start
