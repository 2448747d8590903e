"""Action sensitivity: the rank of the executed actions among others when the goal is their own last frame.

Planning depends on this ranking. A model that ignores actions ranks the executed ones in the middle on average.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from configs.loader import Config
from ghvae_core.evaluation.clips import Candidates, Clips, EvaluationConfig
from ghvae_core.evaluation.evaluated_model import EvaluatedModel
from ghvae_core.evaluation.metrics import MetricError
from ghvae_core.evaluation.statistics import Estimate, estimate, groups_of, resample
from ghvae_core.goal_cost import GoalCost, pixel_cost

SENSITIVITY_CONVENTION = (
    "prior mean; cost = mean squared error of the last predicted frame to the window's own last real frame;"
    " percentile = fraction of the other sequences with a higher cost, ties count half: 100 is best, 50 is chance"
)
_CHUNK = 50  # sequences predicted at once, as in the server; ours
_N_RESAMPLES = 1000  # of the median's bootstrap; ours


class Sensitivity(Config):
    """How well a model distinguishes the executed actions from others."""

    renamed_keys: ClassVar[Mapping[str, str]] = {"top_1_share": "top_1_fraction"}

    n_windows: int
    n_others: int  # sequences that the executed one is ranked among
    candidates: Candidates  # where the others come from
    median_percentile: Estimate  # standard error by bootstrap over episodes
    mean_percentile: Estimate
    top_1_fraction: Estimate  # windows whose executed actions have the lowest cost
    top_1_chance: float  # the same by chance


def check_candidates(n_windows: int, n_others: int, candidates: Candidates) -> None:
    """Refuse a number of executed sequences that the other windows do not provide.

    Raises:
        MetricError: There are too few windows.
    """
    if candidates == "executed" and n_others > n_windows - 1:
        raise MetricError(
            f"--sensitivity: expected at most {n_windows - 1} other sequences of {n_windows} windows, got {n_others};"
            " take fewer, or --set evaluation.sensitivity_candidates=drawn"
        )


def rank(
    model: EvaluatedModel, clips: Clips, n_others: int, config: EvaluationConfig, seed: int
) -> Iterator[NDArray[np.float64]]:
    """Yield (1, 2) for each window: the percentile in [0, 100], and 1 if all others have a higher cost, else 0.

    Args:
        model: A model that is conditioned on actions.
        clips: The windows; the other sequences come from all of them.
        n_others: Number of other sequences for each window.
        config: Number of windows, and the source of the other sequences. `executed`: the future actions of
            other windows; `drawn`: the action of each step drawn independently from all future actions of all windows.
        seed: Draws the other sequences, the same for every model.

    Raises:
        MetricError: A cost is not finite.
    """
    rng = np.random.default_rng(seed)
    for i in range(min(config.sensitivity_windows, len(clips))):
        others = _others(clips, i, n_others, config.sensitivity_candidates, rng)
        costs = _costs(model, clips.take([i]), others)
        if not np.isfinite(costs).all():
            raise MetricError(f"{model.label}: expected finite costs, got NaN or infinity; the checkpoint is unusable")
        true, rest = costs[0], costs[1:]
        percentile = 100 * ((rest > true).mean() + (rest == true).mean() / 2)
        yield np.array([[percentile, float((rest > true).all())]])


def summarize_ranks(
    ranks: Sequence[NDArray[np.float64]],
    windows: Sequence[str],
    n_others: int,
    candidates: Candidates,
    rng: np.random.Generator,
) -> Sensitivity:
    """Return means and standard errors of the output of `rank`, for at least two windows."""
    percentiles, first = np.concatenate(ranks).T
    groups = groups_of(windows[: len(percentiles)])
    resampled = np.array([np.median(percentiles[resample(groups, rng)]) for _ in range(_N_RESAMPLES)])
    return Sensitivity(
        n_windows=len(percentiles),
        n_others=n_others,
        candidates=candidates,
        median_percentile=Estimate(value=float(np.median(percentiles)), standard_error=float(resampled.std(ddof=1))),
        mean_percentile=estimate(percentiles, groups),
        top_1_fraction=estimate(first, groups),
        top_1_chance=1 / (n_others + 1),
    )


def _others(
    clips: Clips, i: int, n_others: int, candidates: Candidates, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Return future actions (n_others, T, A) that window i did not execute."""
    future = clips.actions[:, clips.n_context - 1 :]
    if candidates == "executed":
        chosen = rng.choice(np.delete(np.arange(len(clips)), i), n_others, replace=False)
        return np.asarray(future[chosen])
    every = future.reshape(-1, future.shape[-1])
    return np.asarray(every[rng.integers(len(every), size=(n_others, future.shape[1]))])


def _costs(model: EvaluatedModel, window: Clips, others: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the goal costs (1 + n,) of the executed actions, then of the others."""
    network = model.checkpoint.model
    device = network.action_scale.device
    past, executed = np.split(window.actions, [window.n_context - 1], axis=1)
    future = np.concatenate([executed, others])
    actions = torch.tensor(np.concatenate([past.repeat(len(future), axis=0), future], axis=1), device=device)
    context, goal = window.context().to(device), window.real()[0, -1].to(device)
    costs = []
    for chunk in torch.split(actions, _CHUNK):
        for frame in network.predict(context, chunk, depth=model.modules_used):
            last = frame
        costs.append(pixel_cost(last[:, None], goal, GoalCost(final_frames=1)).double().cpu())
    return torch.cat(costs).numpy()
