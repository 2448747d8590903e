"""One request as several, a part of the candidates each, and their predictions as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ghvae_core.predictor import Prediction
from ghvae_core.request import Request


def split(request: Request, n: int) -> list[Request]:
    """Return at most n requests of almost the same number of candidates, in their order, none of them empty."""
    shards = np.array_split(request.candidates, min(n, len(request.candidates)))
    return [
        replace(request, candidates=candidates, n_videos=min(request.n_videos, len(candidates)))
        for candidates in shards
    ]


def merge(predictions: Sequence[Prediction], n_videos: int) -> Prediction:
    """Return the prediction for all candidates, from those for the shards in the order of `split`.

    Args:
        predictions: At least one.
        n_videos: How many of the best of all to keep. The stages' times are those of the slowest.
    """
    firsts = np.cumsum([0, *(len(each.costs) for each in predictions)])
    costs = np.concatenate([each.costs for each in predictions])
    shown = np.concatenate([first + each.best for first, each in zip(firsts, predictions, strict=False)])
    videos = np.concatenate([each.videos for each in predictions])
    order = rank(costs[shown])[:n_videos]
    stages = {stage for each in predictions for stage in each.timing_s}
    timing_s = {stage: max(each.timing_s.get(stage, 0.0) for each in predictions) for stage in stages}
    return Prediction(costs, shown[order], videos[order], timing_s)


def rank(costs: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the candidates, lowest cost first; those without a finite cost come last, where argmin puts them first."""
    return np.argsort(np.where(np.isfinite(costs), costs, np.inf), kind="stable")
