"""The plans of an episode's report: why each candidate was chosen, and what the kinds of candidates do."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_collection.policies.families import FROM_GOAL
from data_collection.reports import chart, html
from data_collection.reports.images import filmstrip, jpeg_bytes, webp_bytes
from planner.plan import FAMILY_MEANINGS, HOLD, PREVIOUS, Plan
from planner.record import EpisodeHistory
from planner.report_images import small_views

VIDEO_FRAME_S = 0.3  # duration of one frame of an animation; ours


class KindOfCandidates(NamedTuple):
    """One row of the legend."""

    family: str
    meaning: str
    source: str
    n_candidates: int
    n_chosen: int


class PredictedVideo(NamedTuple):
    """One predicted video on the page."""

    source: str  # data URI
    alt: str
    place: str  # in the order of costs
    caption: str
    chosen: bool


@dataclass(frozen=True)
class PlanView:
    """One plan on the page."""

    step: int
    family: str
    meaning: str
    is_early: bool
    reason: str  # why this candidate was chosen
    families: str  # number of candidates of each family
    seconds: str
    non_finite: int
    videos: list[PredictedVideo]
    dots: str  # chart of the costs of all candidates
    strip: str  # data URI; empty where no action of the plan was executed
    n_executed: int
    prediction_error: str  # RMS of 255; empty where no action of the plan was executed


def kinds_of_candidates(history: EpisodeHistory) -> list[KindOfCandidates]:
    """Return the legend of all families that occur in the plans of an episode, the most frequent first."""
    counts = Counter(family for record in history.plans for family in record.plan.families)
    chosen = Counter(record.plan.family for record in history.plans)
    return [
        KindOfCandidates(family, FAMILY_MEANINGS.get(family, family), _source(family), n, chosen[family])
        for family, n in counts.most_common()
    ]


def plan_view(history: EpisodeHistory, index: int) -> PlanView:
    """Return one plan of an episode."""
    record = history.plans[index]
    plan = record.plan
    observed, predicted = history.observed_after(index), plan.predicted_frames
    n = min(len(observed), len(predicted))
    errors = history.prediction_errors()[record.step : record.step + n]
    return PlanView(
        step=record.step,
        family=plan.family,
        meaning=FAMILY_MEANINGS.get(plan.family, plan.family),
        is_early=record.is_early,
        reason=_reason(plan),
        families=", ".join(f"{count} {family}" for family, count in Counter(plan.families).most_common()),
        seconds=f"{sum(plan.timing_s.values()):.2f}",
        non_finite=plan.n_non_finite,
        videos=[_video(history, plan, *shown) for shown in zip(plan.best, plan.videos, strict=True)],
        dots=chart.dots(_costs_by_family(plan), "predicted cost (lower is better)", (plan.family, plan.cost, "chosen")),
        strip=_strip(history, predicted[:n], observed[:n]) if n else "",
        n_executed=n,
        prediction_error=f"{np.mean(errors):.1f}" if n else "",
    )


def hold_cost(plan: Plan) -> float:
    """Return the cost of the candidate that holds still; it may be NaN or infinite."""
    return float(plan.costs[plan.families.index(HOLD)])


def median_cost(plan: Plan) -> float:
    """Return the median of the finite costs."""
    return float(np.median(plan.costs[np.isfinite(plan.costs)]))


def _source(family: str) -> str:
    if family in {HOLD, PREVIOUS}:
        return "always included"
    return "the goal image" if family in FROM_GOAL else "the random policy"


def _reason(plan: Plan) -> str:
    """Return why the candidate was chosen, in sentences."""
    n, hold, median = len(plan.costs), hold_cost(plan), median_cost(plan)
    if plan.family == HOLD:
        return f"None of the {n} candidates has a lower predicted cost than holding still ({plan.cost:.5f})."
    ratio = f", {hold / plan.cost:.1f} times as much" if math.isfinite(hold) and plan.cost > 0 else ""
    still = f"{hold:.5f} for holding still{ratio}" if math.isfinite(hold) else "no finite cost for holding still"
    return (
        f"Of {n} candidates it has the lowest predicted cost: {plan.cost:.5f}. "
        f"For comparison: {still}, and {median:.5f} for the median of all candidates."
    )


def _costs_by_family(plan: Plan) -> list[tuple[str, list[float]]]:
    """Return the costs of each family, that with the lowest cost first."""
    rows = {
        family: [float(cost) for cost, of in zip(plan.costs, plan.families, strict=True) if of == family]
        for family in dict.fromkeys(plan.families)
    }
    return sorted(rows.items(), key=lambda row: min(row[1], default=math.inf))


def _video(history: EpisodeHistory, plan: Plan, candidate: int, video: NDArray[np.uint8]) -> PredictedVideo:
    family, cost = plan.families[candidate], float(plan.costs[candidate])
    rank = 1 + int(np.count_nonzero(plan.costs < cost))
    chosen = candidate == plan.index
    place = "chosen" if chosen else f"number {rank} of {len(plan.costs)}"
    alt = f"predicted video of a candidate: {FAMILY_MEANINGS.get(family, family)}, cost {cost:.5f}"
    source = html.data_uri("webp", webp_bytes(small_views(history, video), VIDEO_FRAME_S))
    return PredictedVideo(source, alt, place, f"{family}, cost {cost:.5f}", chosen)


def _strip(history: EpisodeHistory, predicted: NDArray[np.uint8], observed: NDArray[np.uint8]) -> str:
    rows = {"predicted": small_views(history, predicted), "observed": small_views(history, observed)}
    return html.data_uri("jpeg", jpeg_bytes(filmstrip(rows)))
