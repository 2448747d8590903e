"""Means over seeds of the evaluations of a study."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import numpy as np
import typer
from pydantic import ValidationError

from configs.command import ReportedError, run
from ghvae_core.evaluation.evaluated_model import COPY, MEAN, SHUFFLED
from ghvae_core.evaluation.summary import Evaluation

_SAME = 1e-4  # relative difference of a metric of the same windows on two machines; ours


def print_means(reports: Sequence[Path]) -> None:
    """Print the mean and the standard error over seeds of each row, from the JSON files of the evaluations.

    The columns are the metrics of the prior mean, and by how much its PSNR falls with the actions of another window.
    Every file that has a row counts as one seed of it. All must be of the same windows.

    Raises:
        ReportedError: A file is not the JSON file of an evaluation, or the files are of different windows.
    """
    evaluations = [_read(report) for report in reports]
    copy = evaluations[0].rows[COPY]
    for report, each in zip(reports, evaluations, strict=True):
        other = each.rows[COPY]
        if [*other] != [*copy] or any(not np.isclose(other[m].value, copy[m].value, rtol=_SAME) for m in copy):
            raise ReportedError(f"{report}: expected the windows and metrics of {reports[0]}, got others")
    names = list(copy)
    print(f"| predicted frames | seeds | {' | '.join(names)} | action gap (dB) |\n|{'---|' * (3 + len(names))}")
    for label in dict.fromkeys(model.label for each in evaluations for model in each.models):
        mean, shuffled = (f"{label}, {kind}" for kind in (MEAN, SHUFFLED))
        found = [each.rows for each in evaluations if mean in each.rows]
        cells = [_over_seeds([each[mean][name].value for each in found]) for name in names]
        gaps = [each[mean]["psnr_db"].value - each[shuffled]["psnr_db"].value for each in found if shuffled in each]
        print(f"| {label} | {len(found)} | {' | '.join(cells)} | {_over_seeds(gaps)} |")
    print(f"| {COPY} | | {' | '.join(f'{copy[name].value:.4g}' for name in names)} | |", flush=True)


def _read(report: Path) -> Evaluation:
    try:
        return Evaluation.model_validate_json(report.read_bytes())
    except OSError as error:
        raise ReportedError(f"{report}: {error.strerror}; expected evaluation.json of run_evaluation --out") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ReportedError(
            f"{report}: expected evaluation.json of run_evaluation --out; {where}: {first['msg']}"
        ) from None


def _over_seeds(values: Sequence[float]) -> str:
    if not values:
        return ""
    error = f" ± {np.std(values, ddof=1) / len(values) ** 0.5:.2g}" if len(values) > 1 else ""
    return f"{np.mean(values):.4g}{error}"


def seed_means(
    reports: Annotated[list[Path], typer.Argument(help="evaluation.json of each seed, or of some rows of a seed.")],
) -> None:
    """Print the table of a study from stored evaluations."""
    print_means(reports)


def main() -> NoReturn:
    """Run the command."""
    run(seed_means)


if __name__ == "__main__":
    main()
