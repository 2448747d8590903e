"""GHVAE of 2, 4 and 6 modules, ablations, and the baselines SVG' and Hier-VRNN, compared on the same clips."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, NamedTuple, NoReturn

import typer

from configs.command import ReportedError, run
from ghvae_core.models.checkpoint import load as load_checkpoint

_FIRST_STEPS, _TIMED_STEPS = (
    2,
    20,
)  # untimed and timed steps of the calibration; ours
_NO_STEPS = {"prior_finetune_steps": 0, "rollout_steps": 0, "end_to_end_steps": 0}


@dataclass(frozen=True)
class Row:
    """One row of the table: training settings and initial checkpoint."""

    label: str  # in the table
    settings: Mapping[str, object]  # of `training`; "matched": the steps that use the CPU time of greedy training
    init: str = ""  # a checkpoint in the folder of the study
    model: str = "tiny"
    n_modules: int = 6  # the first modules of the model; 0: it has no modules
    more: Sequence[str] = field(default_factory=tuple)  # further `--set`


def rows(size: str, n_deepest: int) -> dict[str, Row]:
    """Return all rows by folder name, in the order of training.

    Args:
        size: Size of the model.
        n_deepest: Steps of module 6.
    """
    finetuned = {"module_steps": [0], **_NO_STEPS, "prior_finetune_steps": 1500}
    stage = "greedy/stages/module_{}"
    whole = {"module_steps": [0], **_NO_STEPS, "end_to_end_steps": "matched"}
    return {
        "greedy": Row("6 modules, greedy, before prior fine-tuning", _NO_STEPS, model=size),
        "ghvae_2": Row("GHVAE, 2 modules", finetuned, stage.format(2), size, 2),
        "ghvae_4": Row("GHVAE, 4 modules", finetuned, stage.format(4), size, 4),
        "ghvae_6": Row("GHVAE, 6 modules", finetuned, stage.format(6), size),
        "averaged": Row(
            "6 modules, the last one and prior fine-tuning averaged (EMA)",
            {**finetuned, "module_steps": [0, 0, 0, 0, 0, n_deepest], "ema_decay": 0.995},
            stage.format(5),
            size,
        ),
        "fine_tuned": Row(
            "6 modules, then end to end",
            {**whole, "end_to_end_steps": 500},
            "ghvae_6/checkpoint",
            size,
        ),
        "uniform": Row("6 modules, uniform prior", _NO_STEPS, "", size, 6, ("model.prior=uniform",)),
        "scratch": Row("6 modules, end to end from scratch", whole, "", size),
        "svg": Row("SVG'", whole, "", f"svg_{size}", 0),
        "hier_vrnn": Row("Hier-VRNN", whole, "", f"hier_vrnn_{size}", 0),
    }


def ablations(  # noqa: PLR0917 - the parameters are the options of the command line
    data: Annotated[Path, typer.Option(help="Episodes for training.")],
    out: Annotated[Path, typer.Option(help="Folder of all rows; finished rows are reused.")],
    held_out: Annotated[
        Path | None, typer.Option(help="Episodes for evaluation (default: the validation episodes of --data).")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Folder of a row to train; repeat for several (default: all).")
    ] = None,
    size: Annotated[str, typer.Option(help="Size of the model; svg_SIZE and hier_vrnn_SIZE must exist too.")] = "tiny",
    steps: Annotated[tuple[int, int, int], typer.Option(help="Steps of module 1, of each of 2 to 5, and of 6.")] = (
        800,
        600,
        1200,
    ),
    seed: Annotated[int, typer.Option(help="Seed of weights, windows and latents.")] = 0,
    evaluate: Annotated[bool, typer.Option(help="Evaluate all finished rows.")] = True,
    windows: Annotated[int, typer.Option(help="Number of windows for evaluation.")] = 256,
    fvd: Annotated[bool, typer.Option(help="Also compute FVD: minutes per row on a CPU.")] = True,
    copies: Annotated[int, typer.Option(help="model.copies of all GHVAEs; 0: the paper's model.")] = 2,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Further settings of all trainings.")] = None,
) -> None:
    """Train all unfinished rows, then evaluate all finished ones together.

    An interrupted row is resumed. End to end from scratch and the baselines get as many steps as take the CPU time of
    greedy training, as determined by a short calibration. Steps and CPU seconds of a row, over all its starts, are
    saved in `ROW.json`; the seconds are printed at the end.
    """
    first, middle, deepest = steps
    module_steps = f"training.module_steps={[first, middle, middle, middle, middle, deepest]}"
    variants = {
        name: replace(row, more=(*row.more, f"model.copies={copies}")) if row.n_modules else row
        for name, row in rows(size, deepest).items()
    }
    study = Study(variants, data, out, seed, (module_steps, *(set_ or [])))
    for name in study.check(only or [*study.rows]):
        if not study.is_finished(name):
            study.train(name)
    if evaluate:
        study.evaluate(held_out, windows, fvd)


class Spent(NamedTuple):
    """Settings and CPU time of a started row."""

    settings: dict[str, object]  # of `training`, with the matched number of steps
    cpu_s: float
    finished: bool


@dataclass(frozen=True)
class Study:
    """All rows, on the same clips."""

    rows: Mapping[str, Row]
    data: Path
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
        self.out.mkdir(parents=True, exist_ok=True)
        started_s, ended = _child_cpu_s(), 1
        try:
            ended = self._run(name, name, spent.settings)
        finally:
            cpu_s = spent.cpu_s + _child_cpu_s() - started_s
            self._keep(name, Spent(spent.settings, round(cpu_s, 1), finished=ended == 0))
        if ended:
            raise ReportedError(f"{name}: its training ended with {ended}; the same command resumes it")
        print(f"{name}: {cpu_s:.0f} CPU seconds", flush=True)

    def seconds(self, name: str) -> float:
        """Return the CPU seconds of a finished row."""
        spent = self._spent(name)
        if spent is None or not spent.finished:
            raise ReportedError(f"{self.out / name}: expected a finished row, found none; train {name} first")
        return spent.cpu_s

    def evaluate(self, held_out: Path | None, windows: int, fvd: bool) -> None:
        """Evaluate all finished rows on the same windows, and print their CPU seconds.

        Args:
            held_out: Episodes for evaluation; None: the validation episodes of training.
            windows: Number of windows.
            fvd: Also compute FVD.
        """
        finished = {name: row for name, row in self.rows.items() if name != "greedy" and self.is_finished(name)}
        report = self.out / f"evaluation-{time.strftime('%Y%m%dT%H%M%S')}"
        command = [sys.executable, "-m", "ghvae_core.run_evaluation", "--data", str(held_out or self.data)]
        if held_out is None:
            command += ["--set", f"evaluation.validation_fraction={self._validation_fraction(next(iter(finished)))}"]
        command += [
            "--windows",
            str(windows),
            "--seed",
            str(self.seed),
            "--out",
            str(report),
            "--fvd" if fvd else "--no-fvd",
        ]
        for name, row in finished.items():
            command += ["--checkpoint", str(self.out / name / "checkpoint"), "--label", row.label]
        subprocess.run(command, check=True)
        print("| trained | CPU seconds of its own training stages |\n|---|---|")
        for name, row in self.rows.items():
            if self.is_finished(name):
                print(f"| {row.label} | {self.seconds(name):.0f} |", flush=True)

    def _matched(self, name: str) -> dict[str, object]:
        """Return the settings of a row, with matched steps from a short calibration."""
        settings = dict(self.rows[name].settings)
        for key in [key for key, value in settings.items() if value == "matched"]:
            greedy_s = self.seconds("greedy")
            step_s = self._calibrated_s(name, settings, key)
            settings[key] = round(greedy_s / step_s)
            print(f"{name}: {step_s:.2f} CPU seconds per step, so {settings[key]} steps", flush=True)
        return settings

    def _calibrated_s(self, name: str, settings: Mapping[str, object], key: str) -> float:
        """Return the CPU seconds of a step: the difference of a longer and a shorter run."""
        taken = []
        self.out.mkdir(parents=True, exist_ok=True)
        for n in (_FIRST_STEPS, _FIRST_STEPS + _TIMED_STEPS):
            with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=self.out) as folder:
                before_s = _child_cpu_s()
                ended = self._run(name, f"{folder}/run", {**settings, key: n, "validation_windows": 2})
                taken.append(_child_cpu_s() - before_s)
            if ended:
                raise ReportedError(f"{name}: its calibration ended with {ended}; see its output")
        return (taken[1] - taken[0]) / _TIMED_STEPS

    def _run(self, name: str, folder: str, settings: Mapping[str, object]) -> int:
        """Train one row into a folder; return the exit code."""
        row = self.rows[name]
        command = [sys.executable, "-m", "ghvae_core.run_finetune", "--data", str(self.data), "--model", row.model]
        command += ["--out", str(self.out / folder), "--seed", str(self.seed)]
        if row.n_modules:
            command += ["--modules", str(row.n_modules)]
        if row.init:
            command += ["--init", str(self.out / row.init)]
        if (self.out / folder / "state").is_dir():
            command.append("--resume")
        # Some rows are expected to predict worse than a copy.
        common = [f"data.prepared={self.out / 'prepared'}", "training.checks=warn", *self.common, *row.more]
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
        (self.out / f"{name}.json").write_text(json.dumps(spent._asdict()), encoding="utf-8")


def _child_cpu_s() -> float:
    """Return the CPU seconds of all finished child processes."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> NoReturn:
    """Run the command."""
    run(ablations)


if __name__ == "__main__":
    main()
