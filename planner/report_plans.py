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
from planner.goal import image_distance
from planner.plan import FAMILY_MEANINGS, HOLD, PREVIOUS, Plan
from planner.record import EpisodeHistory
from planner.report_images import gripper_changes, hand_path, plan_points, small_views

VIDEO_FRAME_S = 0.3  # duration of one frame of an animation; ours
_CLOSE = 0.05  # relative difference of two costs below which a choice between them says little; ours
_COST = "predicted cost (lower is better)"


class KindOfCandidates(NamedTuple):
    """One row of the legend."""

    family: str
    meaning: str
    source: str
    n_candidates: int
    n_chosen: int

    @property
    def chosen(self) -> str:
        """In how many plans it was chosen, in words; empty: in none."""
        return html.count(self.n_chosen, "plan") if self.n_chosen else ""


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
    title: str
    is_early: bool
    reason: str  # why this candidate was chosen
    path: str  # data URI of the path of the hand; empty where the camera is not known
    motion: str  # the same in words
    families: str  # number of candidates of each family
    seconds: str
    non_finite: int
    videos: list[PredictedVideo]
    dots: str  # chart of the costs of all candidates, with one scale and order of kinds in all plans
    strip: str  # data URI; empty where no action of the plan was executed
    executed: str  # number of executed actions, in words
    prediction_error: str  # RMS of 255; empty where no action of the plan was executed
    copy_error: str  # the same of a prediction that nothing changes


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
    path = hand_path(history, index)
    meaning = FAMILY_MEANINGS.get(plan.family, plan.family)
    marked = (plan.family, plan.cost, "chosen")
    return PlanView(
        step=record.step,
        title=f"Plan after {html.count(record.step, 'action')}: {meaning} ({plan.family})",
        is_early=record.is_early,
        reason=_reason(plan),
        path="" if path is None else html.data_uri("jpeg", jpeg_bytes(path)),
        motion=_motion(history, index),
        families=", ".join(f"{count} {family}" for family, count in Counter(plan.families).most_common()),
        seconds=f"{sum(plan.timing_s.values()):.2f}",
        non_finite=plan.n_non_finite,
        videos=[_video(history, plan, *shown) for shown in zip(plan.best, plan.videos, strict=True)],
        dots=chart.dots(_costs_by_kind(history, plan), _COST, marked, _largest_cost(history)),
        strip=_strip(history, predicted[:n], observed[:n]) if n else "",
        executed=html.count(n, "action"),
        prediction_error=f"{np.mean(errors):.1f}" if n else "",
        copy_error=f"{np.mean(copy_errors(history, index)):.1f}" if n else "",
    )


def copy_errors(history: EpisodeHistory, index: int) -> list[float]:
    """Return the distance of each frame observed during a plan to the frame at its start, 0 to 255."""
    before = history.frames[history.plans[index].step]
    return [image_distance(frame, before) for frame in history.observed_after(index)]


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


def runners_up(plan: Plan) -> tuple[int | None, int | None]:
    """Return the candidate of second least cost, and the best one of another kind that moves; None without one."""
    order = [int(i) for i in np.argsort(plan.costs, kind="stable") if np.isfinite(plan.costs[i]) and i != plan.index]
    others = (i for i in order if plan.families[i] not in {plan.family, HOLD})
    return next(iter(order), None), next(others, None)


def _reason(plan: Plan) -> str:
    """Return why the candidate was chosen, in sentences."""
    n, hold, median = len(plan.costs), hold_cost(plan), median_cost(plan)
    if plan.family == HOLD:
        return f"None of the {n} candidates has a lower predicted cost than holding still ({plan.cost:.5f})."
    ratio = f", {hold / plan.cost:.1f} times as much" if math.isfinite(hold) and plan.cost > 0 else ""
    still = f"{hold:.5f} for holding still{ratio}" if math.isfinite(hold) else "no finite cost for holding still"
    second, other = runners_up(plan)
    near = [] if second is None else [f"{_cost_and_more(plan, second)} for number 2 ({plan.families[second]})"]
    if other is not None and other != second:
        near.append(f"{_cost_and_more(plan, other)} for the best of another kind ({plan.families[other]})")
    is_close = second is not None and plan.costs[second] < (1 + _CLOSE) * plan.cost
    close = " Number 2 is so close that by the prediction it would have done as well." if is_close else ""
    return (
        f"Of {n} candidates it has the lowest predicted cost: {plan.cost:.5f}. "
        f"For comparison: {', '.join([*near, still])}, and {median:.5f} for the median of all candidates.{close}"
    )


def _cost_and_more(plan: Plan, candidate: int) -> str:
    """Return the cost of a candidate, and how much more it is than that of the chosen one."""
    cost = float(plan.costs[candidate])
    return f"{cost:.5f}" + (f" ({100 * (cost / plan.cost - 1):.1f} % more)" if plan.cost > 0 else "")


def _motion(history: EpisodeHistory, index: int) -> str:
    """Return the motion of the chosen candidate in words: where the hand ends, and what the gripper does."""
    points_m = plan_points(history, index)
    names = (("away from the base", "towards the base"), ("to the left", "to the right"), ("up", "down"))
    moved_cm = (100 * (points_m[-1] - points_m[0])).round().astype(int)
    parts = [f"{abs(cm)} cm {name[cm < 0]}" for cm, name in zip(moved_cm.tolist(), names, strict=True) if cm]
    changes = [f"{'closes' if closes else 'opens'} with action {i}" for i, closes in gripper_changes(history, index)]
    grip = f"The gripper {' and '.join(changes)}." if changes else "The gripper stays as it is."
    where = ", ".join(parts) or "where it began"
    return f"In {len(points_m) - 1} actions the hand ends {where}, seen from the base, not from the camera. {grip}"


def _costs_by_kind(history: EpisodeHistory, plan: Plan) -> list[tuple[str, list[float]]]:
    """Return the costs of each kind, in the order of the legend."""
    kinds = [kind.family for kind in kinds_of_candidates(history)]
    return [(kind, [float(plan.costs[i]) for i, of in enumerate(plan.families) if of == kind]) for kind in kinds]


def _largest_cost(history: EpisodeHistory) -> float:
    """Return the largest finite cost of all plans."""
    costs = np.concatenate([record.plan.costs for record in history.plans])
    return float(costs[np.isfinite(costs)].max(initial=0.0))


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
