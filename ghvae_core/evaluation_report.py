"""An evaluation for people: tables, pictures of the best, the median and the worst window, and the files of both."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import rich.table
import torch
from numpy.typing import NDArray
from rich.console import Console

from ghvae_core.clips import Clips
from ghvae_core.evaluation import COPY, MEAN, SHUFFLED, Estimate, Evaluation, ranked
from ghvae_core.ghvae import Ghvae
from ghvae_core.metrics import MetricError, MetricFailure
from ghvae_core.picture import filmstrip, gif_bytes, png_bytes

HEADS = {"psnr_db": "PSNR (dB) ↑", "ssim": "SSIM ↑", "lpips_alex": "LPIPS (AlexNet v0.1) ↓"}
ERROR_GAIN = 4  # by which differences are brightened in the filmstrip; ours

_DIGITS = {"psnr_db": 2, "ssim": 4, "lpips_alex": 4}
_MARKDOWN, _JSON, _FILMSTRIP, _GIF = "evaluation.md", "evaluation.json", "filmstrip.png", "rollouts.gif"

Table = list[list[str]]  # rows of cells, the head first


def rows_table(evaluation: Evaluation) -> Table:
    """Return the mean and standard error of each row and metric, then the paired differences."""
    metrics = list(evaluation.conventions)
    table = [["predicted frames", *(HEADS[metric] for metric in metrics)]]
    for row, estimates in evaluation.rows.items():
        table.append([row, *(_cell(metric, estimates[metric]) for metric in metrics)])
    for row, estimates in evaluation.differences.items():
        table.append([f"{MEAN} - {row}", *(_cell(metric, estimates[metric], sign="+") for metric in metrics)])
    return table


def steps_table(evaluation: Evaluation) -> Table:
    """Return the means at each predicted step, of the model, of wrong actions and of copying."""
    metrics = list(evaluation.conventions)
    columns = [(metric, row) for metric in metrics for row in (MEAN, SHUFFLED, COPY)]
    steps = evaluation.steps
    head = ["step", *(f"{HEADS[metric]} {row}" for metric, row in columns)]
    lines = range(len(steps[MEAN][metrics[0]]))
    return [head, *([str(t + 1), *(_cell(metric, steps[row][metric][t]) for metric, row in columns)] for t in lines)]


def notes(evaluation: Evaluation) -> list[str]:
    """Return what has to be known to compare the numbers with others."""
    about = evaluation.about
    lines = [
        f"N = {about['n_windows']} windows that do not overlap, from {about['n_episodes']} episodes;"
        f" {about['n_context']} context frames, {about['n_predicted']} predicted; only predicted frames count.",
        "Mean ± standard error over windows; a window is the mean over its predicted frames. Differences are paired.",
        *(f"{HEADS[metric]}: {convention}." for metric, convention in evaluation.conventions.items()),
        "Predicted frames are judged as the model gives them, not rounded to 8 bits.",
        f"Held out of training: {about['held_out']}. Share of the folder judged: {about['validation_share']:g}.",
    ]
    if about.get("n_episodes_passed_over"):
        lines.append(f"Episodes passed over, as unreadable or too short: {about['n_episodes_passed_over']}.")
    if any(evaluation.identical_frames.values()):
        counts = ", ".join(f"{row}: {count}" for row, count in evaluation.identical_frames.items() if count)
        lines.append(f"Frames identical to the real ones, which count as 100 dB: {counts}.")
    return lines


def markdown(evaluation: Evaluation) -> str:
    """Return the whole report as Markdown."""
    about = "".join(f"| {key} | {value} |\n" for key, value in evaluation.about.items())
    return "\n".join(
        [
            "# Evaluation\n",
            _markdown_table(rows_table(evaluation)),
            *(f"- {note}" for note in notes(evaluation)),
            "\n## By predicted step\n",
            _markdown_table(steps_table(evaluation)),
            "## Best, median and worst window\n",
            f"Context and predicted frames; errors are brightened {ERROR_GAIN} times.\n",
            f"![filmstrip]({_FILMSTRIP})\n",
            f"![rollouts]({_GIF})\n",
            "## What was evaluated\n",
            f"| | |\n|---|---|\n{about}",
        ]
    )


def show(evaluation: Evaluation, console: Console) -> None:
    """Print the table of all rows and what has to be known to compare it."""
    head, *rows = rows_table(evaluation)
    table = rich.table.Table(*head)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for note in notes(evaluation):
        console.print(note, markup=False, highlight=False, style="dim")


def pictures(model: Ghvae, clips: Clips, evaluation: Evaluation, step_s: float) -> dict[str, bytes]:
    """Return the filmstrip and the GIF of the best, the median and the worst window by name of file."""
    order = ranked(evaluation)
    places = {"best": order[0], "median": order[len(order) // 2], "worst": order[-1]}
    chosen = clips.take(list(places.values()))
    videos = dict(zip(places, _videos(model, chosen), strict=True))
    rows = {}
    for place, (real, imagined, copy) in videos.items():
        error = np.abs(real.astype(np.int16) - imagined)
        rows[f"{place}: real"], rows[f"{place}: model"], rows[f"{place}: copy"] = real, imagined, copy
        rows[f"{place}: model error"] = np.minimum(error * ERROR_GAIN, 255).astype(np.uint8)
    moments = [
        filmstrip(
            {f"{place}: real, model, copy": np.stack([video[t] for video in three]) for place, three in videos.items()}
        )
        for t in range(chosen.frames.shape[1])
    ]
    return {_FILMSTRIP: png_bytes(filmstrip(rows)), _GIF: gif_bytes(np.stack(moments), frame_s=max(step_s, 0.1))}


def check_folder(folder: Path) -> None:
    """Refuse a folder that holds something already, before any work is done for it.

    Raises:
        MetricError: It exists and is not an empty folder.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise MetricError(f"{folder}: expected a new or empty folder for the report; give another --out")


def write(folder: Path, evaluation: Evaluation, images: Mapping[str, bytes]) -> None:
    """Write the report as one folder, whole or not at all: built beside it, then renamed.

    Args:
        folder: New or empty.
        evaluation: What was measured.
        images: Content of the pictures by name of file.

    Raises:
        MetricFailure: The folder cannot be written; there is no new one, and an empty one is still empty.
    """
    files = {
        **images,
        _MARKDOWN: markdown(evaluation).encode(),
        _JSON: evaluation.model_dump_json(indent=1).encode(),
    }
    target = folder.resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".evaluation-") as beside:
            report = Path(beside) / target.name
            report.mkdir()
            for name, content in files.items():
                (report / name).write_bytes(content)
            report.rename(target)
    except OSError as error:
        raise MetricFailure(f"{folder}: the report could not be written: {error}") from None


def _videos(model: Ghvae, clips: Clips) -> Iterator[tuple[NDArray[np.uint8], ...]]:
    """Yield each window's real, imagined and copied frames (n_context + T, px, px, 3), context included."""
    device = next(model.parameters()).device
    imagined = model.rollout(clips.context().to(device), torch.tensor(clips.actions, device=device)).cpu()
    bytes_ = (imagined.movedim(2, -1) * 255).round().byte().numpy()
    for real, future in zip(clips.frames, bytes_, strict=True):
        context = real[: clips.n_context]
        copy = np.repeat(context[-1:], len(future), axis=0)
        yield real, np.concatenate([context, future]), np.concatenate([context, copy])


def _cell(metric: str, estimate: Estimate, sign: str = "") -> str:
    digits = _DIGITS[metric]
    return f"{estimate.mean:{sign}.{digits}f} ± {estimate.standard_error:.{digits}f}"


def _markdown_table(table: Table) -> str:
    head, *rows = table
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
