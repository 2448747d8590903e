"""What models imagine of some windows, for the eye: a filmstrip, and GIF sheets of real against predicted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from data_collection.reports.images import filmstrip, gif_bytes, png_bytes
from ghvae_core.evaluation.clips import Clips
from ghvae_core.evaluation.evaluated_model import MEAN, Judged
from ghvae_core.evaluation.summary import Evaluation, ranked

FILMSTRIP, GIF, SHEET = "filmstrip.png", "rollouts.gif", "sheet.gif"
ERROR_GAIN = 4  # by which differences are brightened in the filmstrip; ours

_SHEET_WINDOWS = 8  # ours: nobody chose them, the windows' order is random
_LEAST_FRAME_S = 0.1  # faster GIFs cannot be followed; ours

Videos = Mapping[str, NDArray[np.uint8]]  # label: (N, n_context + T, px, px, 3)


def pictures(judged: Sequence[Judged], clips: Clips, evaluation: Evaluation, step_s: float | None) -> dict[str, bytes]:
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


def _videos(judged: Sequence[Judged], clips: Clips) -> Videos:
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
