"""What models imagine of some windows, for the eye: a filmstrip, and GIF sheets of real against predicted."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from data_collection.reports.images import filmstrip, gif_bytes, png_bytes
from ghvae_core.evaluation.clips import Clips
from ghvae_core.evaluation.evaluated_model import COPY, MEAN, SAMPLE, SHUFFLED, EvaluatedModel
from ghvae_core.evaluation.scoring import LOWER_IS_BETTER
from ghvae_core.evaluation.statistics import Estimate
from ghvae_core.evaluation.summary import Evaluation, ranked

NAMES = {"psnr_db": "PSNR (dB)", "ssim": "SSIM", "lpips_alex": "LPIPS (AlexNet v0.1)", "fvd": "FVD"}
_PANEL_INCH = (4.2, 3.4)  # width and height of each metric's panel; ours
_STYLES = {MEAN: "-", SAMPLE: "-.", SHUFFLED: ":"}
_BANDS = {"-", "--"}  # the others' would hide them


def head(metric: str) -> str:
    """Return a metric's name with an arrow that points to what is better."""
    return f"{NAMES[metric]} {'↓' if metric in LOWER_IS_BETTER else '↑'}"


def draw_curves(evaluation: Evaluation) -> bytes:
    """Return a PNG with a panel for each metric: every model and copying against the predicted step.

    A model has one colour: a solid line for the prior's mean, dash-dotted for one sample, dotted for wrong actions. The
    bands around the prior's mean and around copying are one standard error wide to each side.
    """
    metrics = list(evaluation.steps[COPY])
    width, height = _PANEL_INCH
    figure = Figure(figsize=(width * len(metrics), height + 0.25 * (1 + len(evaluation.steps))), layout="constrained")
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    for panel, metric in zip(panels, metrics, strict=True):
        for i, model in enumerate(evaluation.models):
            for kind, style in _STYLES.items():
                row = f"{model.label}, {kind}"
                if row in evaluation.steps:
                    _draw(panel, row, evaluation.steps[row][metric], f"C{i}", style)
        _draw(panel, COPY, evaluation.steps[COPY][metric], "0.4", "--")
        panel.set_xlabel("predicted step")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.set_title(head(metric))
        panel.grid(alpha=0.3)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize="small")
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()


def _draw(panel: Axes, label: str, estimates: list[Estimate], color: str, style: str) -> None:
    steps = np.arange(1, len(estimates) + 1)
    values = np.array([each.value for each in estimates])
    errors = np.array([each.standard_error for each in estimates])
    panel.plot(steps, values, style, color=color, label=label, marker="." if len(steps) == 1 else None)
    if style in _BANDS:
        panel.fill_between(steps, values - errors, values + errors, color=color, alpha=0.2, linewidth=0)


FILMSTRIP, GIF, SHEET = "filmstrip.png", "rollouts.gif", "sheet.gif"
ERROR_GAIN = 4  # by which differences are brightened in the filmstrip; ours

_SHEET_WINDOWS = 8  # ours: nobody chose them, the windows' order is random
_LEAST_FRAME_S = 0.1  # faster GIFs cannot be followed; ours

Videos = Mapping[str, NDArray[np.uint8]]  # label: (N, n_context + T, px, px, 3)


def pictures(
    judged: Sequence[EvaluatedModel], clips: Clips, evaluation: Evaluation, step_s: float | None
) -> dict[str, bytes]:
    """Return the pictures by name of file.

    Args:
        judged: The models; errors are shown of the first.
        clips: The windows.
        evaluation: Which of them are the best and the worst.
        step_s: Duration of a step; None: not known.
    """
    order = ranked(evaluation)
    frame_s = max(step_s or 0, _LEAST_FRAME_S)
    places = {"best": order[0], "median": order[len(order) // 2], "worst": order[-1]}
    chosen = _videos(judged, clips.take(list(places.values())))
    some = _videos(judged, clips.take(range(min(_SHEET_WINDOWS, len(clips)))))
    return {
        FILMSTRIP: png_bytes(filmstrip(_strips(chosen, list(places), judged[0].label))),
        GIF: gif_bytes(_places(chosen, list(places)), frame_s),
        SHEET: gif_bytes(_moments(some), frame_s),
    }


def _videos(judged: Sequence[EvaluatedModel], clips: Clips) -> Videos:
    """Return the real, imagined and copied frames of windows, context included."""
    context = clips.frames[:, : clips.n_context]
    videos = {"real": clips.frames}
    for each in judged:
        imagined = each.imagine(clips, MEAN)
        future = (imagined.movedim(2, -1) * 255).round().byte().numpy()
        videos[each.label] = np.concatenate([context, future], axis=1)
    copy = np.repeat(context[:, -1:], clips.frames.shape[1] - clips.n_context, axis=1)
    return {**videos, "copy": np.concatenate([context, copy], axis=1)}


def _strips(videos: Videos, places: Sequence[str], first: str) -> dict[str, NDArray[np.uint8]]:
    rows = {}
    for i, place in enumerate(places):
        rows.update({f"{place}: {label}": frames[i] for label, frames in videos.items()})
        error = np.abs(videos["real"][i].astype(np.int16) - videos[first][i])
        rows[f"{place}: {first} error"] = np.minimum(error * ERROR_GAIN, 255).astype(np.uint8)
    return rows


def _places(videos: Videos, places: Sequence[str]) -> NDArray[np.uint8]:
    """Return a film with a row for each window, and real, models and copy beside each other."""
    labels = ", ".join(videos)
    n_frames = videos["real"].shape[1]
    return np.stack(
        [
            filmstrip({f"{p}: {labels}": np.stack([v[i, t] for v in videos.values()]) for i, p in enumerate(places)})
            for t in range(n_frames)
        ]
    )


def _moments(videos: Videos) -> NDArray[np.uint8]:
    """Return a film with a row for real, models and copy each, and the windows beside each other."""
    return np.stack(
        [filmstrip({label: frames[:, t] for label, frames in videos.items()}) for t in range(videos["real"].shape[1])]
    )
