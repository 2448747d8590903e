"""Figures of an evaluation: metric curves, a filmstrip, and GIFs of real and predicted frames."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor

from data_collection.reports.images import filmstrip, gif_bytes, png_bytes
from ghvae_core.evaluation.clips import Clips
from ghvae_core.evaluation.evaluated_model import COPY, MEAN, SAMPLE, SHUFFLED, EvaluatedModel
from ghvae_core.evaluation.scoring import LOWER_IS_BETTER
from ghvae_core.evaluation.statistics import Estimate
from ghvae_core.evaluation.summary import Evaluation, ranked

CURVES, FILMSTRIP, GIF, SHEET = "curves.png", "filmstrip.png", "rollouts.gif", "sheet.gif"
ERROR_GAIN = 4  # factor that brightens differences in the filmstrip; ours
SOURCES = (
    "The row of sources of a model that copies pixels: red is drawn, green is copied from the last context frame, blue"
    " from the one before it."
)

_LINE = (255, 140, 0)  # between context and predicted frames; ours
_SHEET_WINDOWS = 8  # the first ones, in the random order of the windows; ours
_MIN_FRAME_S = 0.1  # duration of a frame of a GIF; ours

Videos = Mapping[str, NDArray[np.uint8]]  # label: (N, n_context + T, px, px, 3)
NAMES = {"psnr_db": "PSNR (dB)", "ssim": "SSIM", "lpips_alex": "LPIPS (AlexNet v0.1)", "fvd": "FVD"}
_PANEL_INCH = (4.2, 3.4)  # width and height of each metric's panel; ours
_STYLES = {MEAN: "-", SAMPLE: "-.", SHUFFLED: ":"}
_BANDS = {"-", "--"}  # bands of the others would hide these


def head(metric: str) -> str:
    """Return the name of a metric with an arrow in the direction of better values."""
    return f"{NAMES[metric]} {'↓' if metric in LOWER_IS_BETTER else '↑'}"


def draw_curves(evaluation: Evaluation) -> bytes:
    """Return a PNG with a panel for each metric: every model, and copying, over the predicted step.

    Each model has one colour: solid for the prior's mean, dash-dotted for one sample, dotted for shuffled actions. The
    bands around the prior's mean and around copying show one standard error to each side.
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


def draw_figures(
    models: Sequence[EvaluatedModel], clips: Clips, evaluation: Evaluation, step_s: float | None
) -> dict[str, bytes]:
    """Return the encoded images by file name.

    Args:
        models: The models; errors are shown for the first.
        clips: The windows.
        evaluation: Ranks the windows.
        step_s: Duration of a step; None: unknown.
    """
    order = ranked(evaluation)
    frame_s = max(step_s or 0, _MIN_FRAME_S)
    places = {"best": order[0], "median": order[len(order) // 2], "worst": order[-1]}
    shown = clips.take(list(places.values()))
    chosen, first = _videos(models, shown), models[0]
    sources = first.sources(shown)
    strips = _strips(chosen, list(places), first.label, None if sources is None else _uint8(sources))
    some = _videos(models, clips.take(range(min(_SHEET_WINDOWS, len(clips)))))
    return {
        FILMSTRIP: png_bytes(filmstrip(_with_line(strips, clips.n_context))),
        GIF: gif_bytes(_by_window(chosen, list(places)), frame_s),
        SHEET: gif_bytes(_by_label(some), frame_s),
    }


def _videos(models: Sequence[EvaluatedModel], clips: Clips) -> Videos:
    """Return the real, predicted and copied frames of windows, including the context."""
    context = clips.frames[:, : clips.n_context]
    videos = {"real": clips.frames}
    for each in models:
        videos[each.label] = np.concatenate([context, _uint8(each.predict(clips, MEAN))], axis=1)
    copy = np.repeat(context[:, -1:], clips.frames.shape[1] - clips.n_context, axis=1)
    return {**videos, "copy": np.concatenate([context, copy], axis=1)}


def _uint8(frames: Tensor) -> NDArray[np.uint8]:
    """Return frames (N, T, 3, px, px) in [0, 1] as (N, T, px, px, 3)."""
    pixels: NDArray[np.uint8] = (frames.movedim(2, -1) * 255).round().byte().numpy()
    return pixels


def _strips(
    videos: Videos, places: Sequence[str], first: str, sources: NDArray[np.uint8] | None
) -> dict[str, NDArray[np.uint8]]:
    """Return the rows of each place; `sources` of the predicted pixels of the model `first`, if it copies pixels."""
    rows = {}
    for i, place in enumerate(places):
        rows.update({f"{place}: {label}": frames[i] for label, frames in videos.items()})
        error = np.abs(videos["real"][i].astype(np.int16) - videos[first][i])
        rows[f"{place}: {first} error"] = np.minimum(error * ERROR_GAIN, 255).astype(np.uint8)
        if sources is not None:
            n_context = len(error) - sources.shape[1]
            none = np.zeros_like(sources[i, :1]).repeat(n_context, axis=0)
            rows[f"{place}: {first} sources"] = np.concatenate([none, sources[i]])
    return rows


def _with_line(rows: Mapping[str, NDArray[np.uint8]], n_context: int) -> dict[str, NDArray[np.uint8]]:
    """Return rows of frames with an orange line at the right edge of the last context frame."""
    lined = {label: frames.copy() for label, frames in rows.items()}
    for frames in lined.values():
        frames[n_context - 1, :, -2:] = _LINE
    return lined


def _by_window(videos: Videos, places: Sequence[str]) -> NDArray[np.uint8]:
    """Return the frames of a GIF with one row for each window; real, models and copy next to each other."""
    labels = ", ".join(videos)
    n_frames = videos["real"].shape[1]
    return np.stack(
        [
            filmstrip({f"{p}: {labels}": np.stack([v[i, t] for v in videos.values()]) for i, p in enumerate(places)})
            for t in range(n_frames)
        ]
    )


def _by_label(videos: Videos) -> NDArray[np.uint8]:
    """Return the frames of a GIF with one row each for real, models and copy; the windows next to each other."""
    return np.stack(
        [filmstrip({label: frames[:, t] for label, frames in videos.items()}) for t in range(videos["real"].shape[1])]
    )
