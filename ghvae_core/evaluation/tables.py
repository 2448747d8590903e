"""The tables and the notes of an evaluation, as text; for the terminal, the Markdown and the page."""

from __future__ import annotations

from ghvae_core.evaluation.evaluated_model import COPY, MEAN, SHUFFLED
from ghvae_core.evaluation.figures import head
from ghvae_core.evaluation.sensitivity import SENSITIVITY_CONVENTION
from ghvae_core.evaluation.statistics import Estimate
from ghvae_core.evaluation.summary import Evaluation

_DIGITS = {"psnr_db": 2, "ssim": 4, "lpips_alex": 4, "fvd": 1}

Table = list[list[str]]  # rows of cells, the head first


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
        f" metrics cover predicted frames only{', except FVD' if 'fvd' in evaluation.conventions else ''}.",
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


def _cell(metric: str, value: Estimate | None, sign: str = "") -> str:
    return _number(value, _DIGITS[metric], sign) if value is not None else "-"


def _number(value: Estimate, digits: int, sign: str = "") -> str:
    return f"{value.value:{sign}.{digits}f} ± {value.standard_error:.{digits}f}"
