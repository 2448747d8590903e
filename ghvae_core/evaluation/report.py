"""The report of an evaluation: tables, notes, and a folder of Markdown, JSON and images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import rich.table
from rich.console import Console

from data_collection.atomic_io import write_folder
from data_collection.episode import EpisodeError
from data_collection.folder_lock import check_new
from ghvae_core.evaluation.evaluated_model import COPY, MEAN, SHUFFLED
from ghvae_core.evaluation.figures import ERROR_GAIN, FILMSTRIP, GIF, SHEET, head
from ghvae_core.evaluation.metrics import MetricFailure
from ghvae_core.evaluation.sensitivity import SENSITIVITY_CONVENTION
from ghvae_core.evaluation.statistics import Estimate
from ghvae_core.evaluation.summary import Evaluation

_DIGITS = {"psnr_db": 2, "ssim": 4, "lpips_alex": 4, "fvd": 1}

Table = list[list[str]]  # rows of cells, the head first
MARKDOWN, JSON, CURVES = "evaluation.md", "evaluation.json", "curves.png"


def markdown(evaluation: Evaluation) -> str:
    """Return the report as Markdown."""
    about = "".join(f"| {key} | {value} |\n" for key, value in evaluation.about.items())
    sensitivity = ["\n## Action sensitivity\n", markdown_table(sensitivity_table(evaluation))]
    return "\n".join(
        [
            "# Evaluation\n",
            markdown_table(rows_table(evaluation)),
            *(f"- {note}" for note in notes(evaluation)),
            *(sensitivity if evaluation.sensitivity else []),
            "\n## By predicted step\n",
            f"![curves]({CURVES})\n",
            markdown_table(steps_table(evaluation)),
            "## Best, median and worst window\n",
            f"Context and predicted frames; errors are brightened {ERROR_GAIN} times.\n",
            f"![filmstrip]({FILMSTRIP})\n",
            f"![rollouts]({GIF})\n",
            "## The first windows, in random order\n",
            f"![sheet]({SHEET})\n",
            "## What was evaluated\n",
            markdown_table(models_table(evaluation)),
            f"| | |\n|---|---|\n{about}",
        ]
    )


def write(folder: Path, evaluation: Evaluation, images: Mapping[str, bytes]) -> None:
    """Write the report as one folder, completely or not at all.

    Args:
        folder: New or empty.
        evaluation: The results.
        images: Encoded images by file name.

    Raises:
        MetricFailure: The folder has content or cannot be written; none is left, and an empty one is still empty.
    """
    files = {
        **images,
        MARKDOWN: markdown(evaluation).encode(),
        JSON: evaluation.model_dump_json(indent=1).encode(),
    }
    target = folder.resolve()
    try:
        check_new(target)
        write_folder(target, files)
    except OSError as error:
        reason = f"{error.filename or folder}: {error.strerror or error}"
        raise MetricFailure(f"{folder}: the report could not be written: {reason}") from None
    except EpisodeError as error:
        raise MetricFailure(f"{folder}: the report could not be written: {error}") from None


def rows_table(evaluation: Evaluation) -> Table:
    """Return the mean and standard error of each row and metric, then the paired differences."""
    metrics = list(evaluation.conventions)
    table = [["predicted frames", *map(head, metrics)]]
    for row, estimates in evaluation.rows.items():
        table.append([row, *(_cell(metric, estimates.get(metric)) for metric in metrics)])
    for difference in evaluation.differences:
        cells = (_cell(metric, difference.metrics.get(metric), sign="+") for metric in metrics)
        table.append([f"{difference.row} - {difference.minus}", *cells])
    return table


def steps_table(evaluation: Evaluation) -> Table:
    """Return the means at each predicted step, of the models, with shuffled actions, and of copying."""
    steps = evaluation.steps
    metrics = list(steps[COPY])
    labels = [each.label for each in evaluation.models]
    rows = [row for label in labels for row in (f"{label}, {MEAN}", f"{label}, {SHUFFLED}") if row in steps]
    columns = [(metric, row) for metric in metrics for row in (*rows, COPY)]
    lines = range(len(steps[COPY][metrics[0]]))
    return [
        ["step", *(f"{head(metric)} {row}" for metric, row in columns)],
        *([str(t + 1), *(_cell(metric, steps[row][metric][t]) for metric, row in columns)] for t in lines),
    ]


def sensitivity_table(evaluation: Evaluation) -> Table:
    """Return the rank of the executed actions, one line for each model; only the header if it was not measured."""
    table = [
        ["model", "median percentile", "mean percentile", "top-1 fraction", "top-1 by chance", "others", "windows"]
    ]
    for label, found in evaluation.sensitivity.items():
        table.append(
            [
                label,
                _number(found.median_percentile, 1),
                _number(found.mean_percentile, 1),
                _number(found.top_1_fraction, 3),
                f"{found.top_1_chance:.3f}",
                f"{found.n_others} {found.candidates}",
                str(found.n_windows),
            ]
        )
    return table


def models_table(evaluation: Evaluation) -> Table:
    """Return the checkpoint of each label."""
    table = [["model", "kind", "modules", "parameters", "checkpoint", "sha256", "held out of training"]]
    for each in evaluation.models:
        numbers = [str(each.modules), f"{each.parameters:,}"]
        table.append([each.label, each.kind, *numbers, each.checkpoint, each.checkpoint_sha256[:12], each.held_out])
    return table


def notes(evaluation: Evaluation) -> list[str]:
    """Return the notes that are needed to compare the results with others."""
    about = evaluation.about
    lines = [
        f"N = {about['n_windows']} windows without overlap, from {about['n_episodes']} episodes;"
        f" {about['n_context']} context frames, {about['n_predicted']} predicted, {about['image_px']} px;"
        " metrics cover predicted frames only, except FVD.",
        "Mean over windows ± standard error, clustered by episode; the value of a window is the mean over its"
        " predicted frames. Differences are paired.",
        *(f"{head(metric)}: {convention}." for metric, convention in evaluation.conventions.items()),
        "Predicted frames are not rounded to 8 bits.",
        f"Fraction of the folder that was evaluated: {about['validation_fraction']:g}.",
        *(f"Held out of training ({each.label}): {each.held_out}." for each in evaluation.models),
    ]
    if "fvd" in evaluation.conventions:
        n_frames = int(about["n_context"]) + int(about["n_predicted"])
        lines.append(
            f"FVD: {about['n_windows']} real against {about['n_windows']} predicted videos of {n_frames} frames,"
            f" including the {about['n_context']} context frames; ± by bootstrap over episodes. FVD decreases with N."
        )
    if int(about["n_samples"]) > 1:
        lines.append(
            f"Best of {about['n_samples']}: for each window and metric separately, the sample with the best mean over"
            " the predicted frames (PSNR and SSIM highest, LPIPS lowest)."
        )
    if any(each.modules < each.modules_trained for each in evaluation.models):
        lines.append(
            "The first modules of a checkpoint equal those after their greedy stage only if no rollout and no"
            " end-to-end training followed."
        )
    if about["n_episodes"] == 1:
        lines.append("All windows are from one episode: ± is over windows and does not cover other episodes.")
    if evaluation.sensitivity:
        lines.append(f"Action sensitivity: {SENSITIVITY_CONVENTION}.")
    if about.get("n_episodes_passed_over"):
        lines.append(f"Episodes skipped as unreadable or too short: {about['n_episodes_passed_over']}.")
    if any(evaluation.identical_frames.values()):
        counts = ", ".join(f"{row}: {count}" for row, count in evaluation.identical_frames.items() if count)
        lines.append(f"Frames identical to the real ones, counted as 100 dB: {counts}.")
    return lines


def show(evaluation: Evaluation, console: Console) -> None:
    """Print the tables and the notes."""
    for table in (rows_table(evaluation), sensitivity_table(evaluation)):
        first, *rows = table
        if rows:
            shown = rich.table.Table(*first)
            for row in rows:
                shown.add_row(*row)
            console.print(shown)
    for note in notes(evaluation):
        console.print(note, markup=False, highlight=False, style="dim")


def markdown_table(table: Table) -> str:
    """Return a table in Markdown."""
    first, *rows = table
    lines: Sequence[list[str]] = [first, ["---"] * len(first), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _cell(metric: str, value: Estimate | None, sign: str = "") -> str:
    return _number(value, _DIGITS[metric], sign) if value is not None else "-"


def _number(value: Estimate, digits: int, sign: str = "") -> str:
    return f"{value.value:{sign}.{digits}f} ± {value.standard_error:.{digits}f}"
