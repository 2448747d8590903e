"""GHVAE of 2, 4 and 6 modules, its ablations and its rival, trained on the same clips and judged in one table."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from configs.command import ReportedError, run

_FIRST_STEPS, _TIMED_STEPS = (
    2,
    20,
)  # not timed, and timed to tell how many fit in; ours
_NOTHING = {"polish_steps": 0, "rollout_steps": 0, "end_to_end_steps": 0}


@dataclass(frozen=True)
class Row:
    """One way to train, and what it starts from."""

    label: str  # in the table
    settings: Mapping[str, object]  # of `training`; "matched": as many steps as cost what greedy training cost
    init: str = ""  # a checkpoint in the folder of all rows
    model: str = "tiny"
    n_modules: int = 6  # of the model, from the first; 0: it is not made of modules
    more: Sequence[str] = field(default_factory=tuple)  # further `--set`


def rows(size: str, n_deepest: int) -> dict[str, Row]:
    """Return all rows by the name of their folder, in the order in which they must be trained.

    Args:
        size: Of the model.
        n_deepest: Steps of module 6.
    """
    polished = {"module_steps": [0], **_NOTHING, "polish_steps": 1500}
    stage = "greedy/stages/module_{}"
    whole = {"module_steps": [0], **_NOTHING, "end_to_end_steps": "matched"}
    return {
        "greedy": Row("6 modules, greedy, before the polish", _NOTHING, model=size),
        "ghvae_2": Row("GHVAE, 2 modules", polished, stage.format(2), size, 2),
        "ghvae_4": Row("GHVAE, 4 modules", polished, stage.format(4), size, 4),
        "ghvae_6": Row("GHVAE, 6 modules", polished, stage.format(6), size),
        "averaged": Row(
            "6 modules, the last one and the polish averaged (EMA)",
            {**polished, "module_steps": [0, 0, 0, 0, 0, n_deepest], "ema_decay": 0.995},
            stage.format(5),
            size,
        ),
        "fine_tuned": Row(
            "6 modules, then end to end",
            {**whole, "end_to_end_steps": 500},
            "ghvae_6/checkpoint",
            size,
        ),
        "uniform": Row("6 modules, uniform prior", _NOTHING, "", size, 6, ("model.prior=uniform",)),
        "scratch": Row("6 modules, end to end from scratch", whole, "", size),
        "svg": Row("SVG'", whole, "", f"svg_{size}", 0),
    }


def ablations(  # noqa: PLR0917 - the parameters are the options of the command line
    data: Annotated[Path, typer.Option(help="episodes to train on")],
    out: Annotated[Path, typer.Option(help="folder of all rows; those that are finished stay")],
    held_out: Annotated[Path | None, typer.Option(help="episodes to judge on; none: those left out of data")] = None,
    only: Annotated[list[str] | None, typer.Option(help="a row's folder; again for more; all without it")] = None,
    size: Annotated[str, typer.Option(help="of the model; a svg_SIZE must stand beside it")] = "tiny",
    steps: Annotated[tuple[int, int, int], typer.Option(help="of module 1, each of 2 to 5, and 6")] = (
        800,
        600,
        1200,
    ),
    seed: Annotated[int, typer.Option(help="of weights, windows and latents")] = 0,
    judge: Annotated[bool, typer.Option(help="measure all finished rows")] = True,
    windows: Annotated[int, typer.Option(help="to judge on")] = 256,
    fvd: Annotated[bool, typer.Option(help="FVD too: minutes a row on a CPU")] = True,
    set_: Annotated[list[str] | None, typer.Option("--set", help="further settings of all trainings")] = None,
) -> None:
    """Train every row that is not finished yet, then judge all finished ones side by side.

    A row that was broken off goes on where it was, but its seconds are then those of the last start alone. End to end
    from scratch and the rival get as many steps as take the CPU seconds of greedy training: a short calibration tells
    how many. The seconds that a row really took stand in its folder (`seconds.json`) and are printed at the end.
    """
    first, middle, deepest = steps
    module_steps = f"training.module_steps={[first, middle, middle, middle, middle, deepest]}"
    study = Study(rows(size, deepest), data, out, seed, (module_steps, *(set_ or [])))
    for name in study.check(only or [*study.rows]):
        if not study.is_finished(name):
            study.train(name)
    if judge:
        study.judge(held_out or data, windows, fvd)


@dataclass(frozen=True)
class Study:
    """All rows, on the same clips."""

    rows: Mapping[str, Row]
    data: Path
    out: Path
    seed: int
    common: tuple[str, ...]  # settings of all trainings

    def check(self, names: Sequence[str]) -> Sequence[str]:
        """Return the names, if they are all of rows."""
        unknown = sorted({*names} - {*self.rows})
        if unknown:
            raise ReportedError(f"--only: expected one of {', '.join(self.rows)}, got {unknown[0]}")
        return names

    def is_finished(self, name: str) -> bool:
        """Tell whether a row needs no more training."""
        return self._seconds_file(name).is_file()

    def train(self, name: str) -> None:
        """Train a row, with as many steps as its seconds allow where they are to be matched."""
        settings = dict(self.rows[name].settings)
        for key in [key for key, value in settings.items() if value == "matched"]:
            trials = [
                self._run(name, f".{name}-{n}", {**settings, key: n, "validation_windows": 2})
                for n in (_FIRST_STEPS, _FIRST_STEPS + _TIMED_STEPS)
            ]
            step_s = (trials[1] - trials[0]) / _TIMED_STEPS
            settings[key] = round(self.seconds("greedy") / step_s)
            print(f"{name}: {step_s:.2f} CPU seconds a step, so {settings[key]} steps", flush=True)
        spent_s = self._run(name, name, settings)
        self._seconds_file(name).write_text(json.dumps({"cpu_s": round(spent_s, 1)}), encoding="utf-8")

    def seconds(self, name: str) -> float:
        """Return the CPU seconds that a finished row took."""
        if not self.is_finished(name):
            raise ReportedError(f"{self.out / name}: expected a finished row, found none; train {name} first")
        return float(json.loads(self._seconds_file(name).read_text(encoding="utf-8"))["cpu_s"])

    def judge(self, data: Path, windows: int, fvd: bool) -> None:
        """Measure all finished rows on the same windows, and print what each cost."""
        finished = {name: row for name, row in self.rows.items() if name != "greedy" and self.is_finished(name)}
        report = self.out / f"evaluation-{time.strftime('%Y%m%dT%H%M%S')}"
        command = [sys.executable, "-m", "ghvae_core.run_evaluation", "--data", str(data), "--windows", str(windows)]
        command += ["--seed", str(self.seed), "--out", str(report), "--fvd" if fvd else "--no-fvd"]
        for name, row in finished.items():
            command += ["--checkpoint", str(self.out / name / "checkpoint"), "--label", row.label]
        subprocess.run(command, check=True)
        print("| trained | CPU seconds of its own stages |\n|---|---|")
        for name, row in self.rows.items():
            if self.is_finished(name):
                print(f"| {row.label} | {self.seconds(name):.0f} |", flush=True)

    def _run(self, name: str, folder: str, settings: Mapping[str, object]) -> float:
        """Train one row into a folder; return the CPU seconds of the process."""
        row = self.rows[name]
        command = [sys.executable, "-m", "ghvae_core.run_finetune", "--data", str(self.data), "--model", row.model]
        command += ["--out", str(self.out / folder), "--seed", str(self.seed)]
        if row.n_modules:
            command += ["--modules", str(row.n_modules)]
        if row.init:
            command += ["--init", str(self.out / row.init)]
        if (self.out / folder / "state").is_dir():
            command.append("--resume")
        told = [f"data.prepared={self.out / 'prepared'}", *self.common, *row.more]
        for item in [*told, *(f"training.{key}={value}" for key, value in settings.items())]:
            command += ["--set", item]
        print(" ".join(command[2:]), flush=True)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode != 0:
            raise ReportedError(
                f"{folder}: its training ended with {done.returncode}; the same command goes on with it"
            )
        spent_s = (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)
        print(f"{folder}: {spent_s:.0f} CPU seconds", flush=True)
        return spent_s

    def _seconds_file(self, name: str) -> Path:
        return self.out / name / "seconds.json"


def main() -> NoReturn:
    """Run the command."""
    run(ablations)


if __name__ == "__main__":
    main()
