"""A study: models trained with several settings and seeds, and evaluated on the same windows."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from configs.command import ReportedError
from ghvae_core.evaluation.report import JSON
from ghvae_core.models.checkpoint import load as load_checkpoint
from tests.benchmarks.seed_means import print_means

_FIRST_STEPS, _TIMED_STEPS = 2, 20  # untimed and timed steps of the calibration; ours
_WINDOWS_SEED = 0  # chooses the windows of the evaluation
REFUSED = 2  # exit code of a training that refuses its input and writes nothing
NO_STEPS = {"prior_finetune_steps": 0, "rollout_steps": 0, "end_to_end_steps": 0}


@dataclass(frozen=True)
class Row:
    """One row of the table: training settings and initial checkpoint."""

    label: str  # in the table
    settings: Mapping[str, object]  # of `training`; "matched": the steps that use the CPU time of the rows `matched`
    init: str = ""  # a checkpoint in the folder of the study
    model: str = "tiny"
    n_modules: int = 6  # the first modules of the model; 0: it has no modules
    more: Sequence[str] = field(default_factory=tuple)  # further `--set`
    matched: Sequence[str] = ("greedy",)


class Spent(NamedTuple):
    """Settings and CPU time of a started row."""

    settings: dict[str, object]  # of `training`, with the matched number of steps
    cpu_s: float
    finished: bool


DataOption = Annotated[list[Path], typer.Option(help="Episodes for training; repeat for several folders.")]
OutOption = Annotated[Path, typer.Option(help="Folder of all rows; finished rows are reused.")]
HeldOutOption = Annotated[
    Path | None, typer.Option(help="Episodes for evaluation (default: the validation episodes of --data).")
]
OnlyOption = Annotated[
    list[str] | None, typer.Option(help="Folder of a row to train; repeat for several (default: all).")
]
SeedOption = Annotated[
    list[int] | None, typer.Option(help="Seed of the weights and the training batches; repeat for several.")
]
EvaluateOption = Annotated[bool, typer.Option(help="Evaluate all finished rows.")]
WindowsOption = Annotated[int, typer.Option(help="Number of windows for evaluation.")]
TrainedOnOption = Annotated[
    bool, typer.Option("--trained-on", help="Evaluate the episodes of training: how well models fit few clips.")
]
FvdOption = Annotated[bool, typer.Option(help="Also compute FVD: minutes per row on a CPU.")]


class Protocol(NamedTuple):
    """How all rows are evaluated, with the same windows for every seed."""

    held_out: Path | None  # episodes; None: those of the first data folder that were not used in training
    n_windows: int
    fvd: bool
    trained_on: bool = False  # evaluate episodes that were used in training


@dataclass(frozen=True)
class Study:
    """All rows, on the same clips."""

    rows: Mapping[str, Row]
    data: Sequence[Path]
    out: Path
    seed: int
    common: tuple[str, ...]  # settings of all trainings

    def check(self, names: Sequence[str]) -> Sequence[str]:
        """Return the names after checking that all are rows."""
        unknown = sorted({*names} - {*self.rows})
        if unknown:
            raise ReportedError(f"--only: expected one of {', '.join(self.rows)}, got {unknown[0]}")
        return names

    def is_finished(self, name: str) -> bool:
        """Return whether a row is finished."""
        spent = self._spent(name)
        return spent is not None and spent.finished

    def train(self, name: str) -> None:
        """Train or resume a row, with a matched number of steps where requested."""
        spent = self._spent(name) or Spent(self._matched(name), 0.0, finished=False)
        started_s, ended = _child_cpu_s(), 1
        try:
            ended = self._run(name, name, spent.settings)
        finally:
            cpu_s = spent.cpu_s + _child_cpu_s() - started_s
            if ended != REFUSED:
                self._keep(name, Spent(spent.settings, round(cpu_s, 1), finished=ended == 0))
        if ended == REFUSED:
            raise ReportedError(f"{name}: its training refused its input; see the error above")
        if ended:
            raise ReportedError(f"{name}: its training ended with {ended}; the same command resumes it")
        print(f"{name}: {cpu_s:.0f} CPU seconds", flush=True)

    def seconds(self, name: str) -> float:
        """Return the CPU seconds of a finished row."""
        spent = self._spent(name)
        if spent is None or not spent.finished:
            raise ReportedError(f"{self.out / name}: expected a finished row, found none; train {name} first")
        return spent.cpu_s

    def evaluate(self, protocol: Protocol) -> Path:
        """Evaluate all finished rows, and print their CPU seconds; return the folder of the report."""
        held_out = protocol.held_out
        finished = {name: row for name, row in self.rows.items() if name != "greedy" and self.is_finished(name)}
        if not finished:
            raise ReportedError(f"{self.out}: expected a finished row to evaluate, got none; use --no-evaluate")
        report = self.out / f"evaluation-{time.strftime('%Y%m%dT%H%M%S')}"
        command = [sys.executable, "-m", "ghvae_core.run_evaluation", "--data", str(held_out or self.data[0])]
        if protocol.trained_on:
            command += ["--part", "trained-on"]
        elif held_out is None:
            command += ["--set", f"evaluation.validation_fraction={self._validation_fraction(next(iter(finished)))}"]
        # The table has no row of samples, whose FVD would take as long as that of the prior mean.
        command += ["--set", "evaluation.n_samples=0"]
        command += [
            "--windows",
            str(protocol.n_windows),
            "--seed",
            str(_WINDOWS_SEED),
            "--out",
            str(report),
            "--fvd" if protocol.fvd else "--no-fvd",
        ]
        for name, row in finished.items():
            command += ["--checkpoint", str(self.out / name / "checkpoint"), "--label", row.label]
        subprocess.run(command, check=True)
        print("| trained | CPU seconds of its own training stages |\n|---|---|")
        for name, row in self.rows.items():
            if self.is_finished(name):
                print(f"| {row.label} | {self.seconds(name):.0f} |", flush=True)
        return report

    def _matched(self, name: str) -> dict[str, object]:
        """Return the settings of a row, with matched steps from a short calibration."""
        settings = dict(self.rows[name].settings)
        for key in [key for key, value in settings.items() if value == "matched"]:
            total_s = sum(self.seconds(each) for each in self.rows[name].matched)
            step_s = self._calibrated_s(name, settings, key)
            settings[key] = round(total_s / step_s)
            print(f"{name}: {step_s:.2f} CPU seconds per step, so {settings[key]} steps", flush=True)
        return settings

    def _calibrated_s(self, name: str, settings: Mapping[str, object], key: str) -> float:
        """Return the CPU seconds of a step: the difference of a longer and a shorter run."""
        taken = []
        self.out.mkdir(parents=True, exist_ok=True)
        for n in (_FIRST_STEPS, _FIRST_STEPS + _TIMED_STEPS):
            with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=self.out) as folder:
                before_s = _child_cpu_s()
                alone = {**settings, **NO_STEPS, key: n, "validation_windows": 2}
                ended = self._run(name, f"{folder}/run", alone)
                taken.append(_child_cpu_s() - before_s)
            if ended:
                raise ReportedError(f"{name}: its calibration ended with {ended}; see its output")
        return (taken[1] - taken[0]) / _TIMED_STEPS

    def _run(self, name: str, folder: str, settings: Mapping[str, object]) -> int:
        """Train one row into a folder; return the exit code."""
        row = self.rows[name]
        command = [sys.executable, "-m", "ghvae_core.run_finetune", "--model", row.model]
        command += [word for folder in self.data for word in ("--data", str(folder))]
        command += ["--out", str(self.out / folder), "--seed", str(self.seed)]
        if row.n_modules:
            command += ["--modules", str(row.n_modules)]
        if row.init:
            command += ["--init", str(self.out / row.init)]
        if (self.out / folder / "state").is_dir():
            command.append("--resume")
        # Some rows are expected to predict worse than a copy.
        common = [f"data.prepared={self.out.parent / 'prepared'}", "training.checks=warn", *self.common, *row.more]
        for item in [*common, *(f"training.{key}={value}" for key, value in settings.items())]:
            command += ["--set", item]
        print(" ".join(command[2:]), flush=True)
        return subprocess.run(command, check=False).returncode

    def _validation_fraction(self, name: str) -> float:
        return float(load_checkpoint(self.out / name / "checkpoint").info.provenance["validation_fraction"])

    def _spent(self, name: str) -> Spent | None:
        file = self.out / f"{name}.json"
        return Spent(**json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None

    def _keep(self, name: str, spent: Spent) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / f"{name}.json").write_text(json.dumps(spent._asdict()), encoding="utf-8")


def train_and_evaluate(studies: Sequence[Study], only: Sequence[str] | None, protocol: Protocol | None) -> None:
    """Train the unfinished rows of every seed, then evaluate all finished ones.

    Args:
        studies: One for each seed, with the same rows.
        only: Names of the rows to train; None: all.
        protocol: None: do not evaluate.
    """
    for study in studies:
        for name in study.check(only or [*study.rows]):
            if not study.is_finished(name):
                study.train(name)
    if protocol is not None:
        print_means([study.evaluate(protocol) / JSON for study in studies])


def _child_cpu_s() -> float:
    """Return the CPU seconds of all finished child processes."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
