"""HTML report of one episode, with its images as separate files too. Written when the episode ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_collection.atomic_io import write_file
from data_collection.reports import chart, html
from data_collection.reports.images import enlarge, filmstrip, gif_bytes, png_bytes
from planner.plan import HOLD
from planner.record import EpisodeHistory, EpisodeResult
from planner.verdict import verdict_block

_FRAME_S = 0.25  # duration of one frame of a GIF
_STRIP_FRAMES = 10  # frames in one row of the filmstrip
_TEMPLATE = "report.html.j2"


class _Video(NamedTuple):
    """One predicted video on the page."""

    source: str  # data URI
    cost: str
    family: str
    chosen: bool


@dataclass(frozen=True)
class _PlanView:
    """One plan on the page."""

    step: int
    family: str
    is_early: bool
    families: str  # number of candidates of each family
    cost: str
    seconds: str
    non_finite: int
    videos: list[_Video]
    strip: str  # data URI; empty where no action of the plan was executed
    prediction_error: str  # RMS of 255; empty where no action of the plan was executed


def write_report(folder: Path, history: EpisodeHistory, result: EpisodeResult, config_yaml: str) -> None:
    """Write `report.html` into an existing folder, and its images as separate files.

    The page embeds everything that it shows; it needs no other file and no network.
    """
    write_file(folder / "goal.png", png_bytes(history.goal))
    write_file(folder / "start.png", png_bytes(history.observed[0].observation.image))
    write_file(folder / "end.png", png_bytes(history.observed[-1].observation.image))
    write_file(folder / "seen.gif", gif_bytes(np.stack(history.frames), _FRAME_S))
    for index, record in enumerate(history.plans):
        if len(record.plan.predicted_frames):
            write_file(folder / f"plan_{index:02d}.gif", gif_bytes(record.plan.predicted_frames, _FRAME_S))
    write_file(folder / "report.html", _page(history, result, config_yaml))


def _page(history: EpisodeHistory, result: EpisodeResult, config_yaml: str) -> str:
    view = {
        "result": result,
        "verdict": verdict_block(result),
        "findings": _findings(history, result),
        "goal": _png(history.goal),
        "start": _png(history.frames[0]),
        "end": _png(history.frames[-1]),
        "observed": _gif(np.stack(history.frames)),
        "strip": _observed_strip(history.frames),
        "distance_chart": chart.lines(_distance_lines(history), "actions executed"),
        "cost_chart": chart.lines(_cost_lines(history), "actions executed before the plan"),
        "latency_chart": chart.bars(_latency_bars(history), "s"),
        "plans": [_plan_view(history, index) for index in range(len(history.plans))],
        "config_yaml": config_yaml,
    }
    return html.render("planner", _TEMPLATE, view)


def _findings(history: EpisodeHistory, result: EpisodeResult) -> list[str]:
    """Return the main findings, the most important first."""
    findings = [f"{result.error.rstrip('.')}. The arm was held."] if result.error else []
    findings += [f"The goal image may not be meant: {warning}" for warning in result.goal_warnings]
    if result.picked is not None:
        findings.append("The tool was lifted." if result.picked else "The tool was never lifted.")
        findings.append("The tool touched an object." if result.touched else "The tool never touched an object.")
        away_cm = 100 * (result.away_m or 0)
        missed = f"The objects are not in place; the largest distance of an object is {away_cm:.1f} cm."
        findings.append("The objects are in place." if result.goal else missed)
    findings.append(
        f"The image differed from the goal by {result.distance_start:.1f} of 255 at the start "
        f"and by {result.distance_end:.1f} at the end; at best by {min(history.goal_distances):.1f}."
    )
    held = sum(record.plan.family == HOLD for record in history.plans)
    if held:
        findings.append(f"In {held} of {result.plans} plans, holding still had the least cost.")
    if result.prediction_error is not None:
        findings.append(
            f"Observed images differed from predicted ones by {result.prediction_error:.1f} of 255 on average."
        )
    early = sum(record.is_early for record in history.plans)
    if early:
        findings.append(f"{early} of {result.plans} plans were made early, because the prediction error was too large.")
    return findings


def _distance_lines(history: EpisodeHistory) -> Mapping[str, list[tuple[float, float]]]:
    observed = [(float(step), distance) for step, distance in enumerate(history.goal_distances)]
    errors = [(step + 1.0, error) for step, error in enumerate(history.prediction_errors())]
    return {"observed to goal": observed, "observed to predicted": errors}


def _cost_lines(history: EpisodeHistory) -> Mapping[str, list[tuple[float, float]]]:
    series: dict[str, list[tuple[float, float]]] = {"chosen": [], "median of all": [], "hold still": []}
    for record in history.plans:
        costs = np.where(np.isfinite(record.plan.costs), record.plan.costs, np.nan)
        series["chosen"].append((record.step, record.plan.cost))
        series["median of all"].append((record.step, float(np.nanmedian(costs))))
        series["hold still"].append((record.step, float(costs[record.plan.families.index(HOLD)])))
    return series


def _latency_bars(history: EpisodeHistory) -> list[tuple[str, dict[str, float]]]:
    rows = []
    for record, end in history.spans():
        execute_s = sum(step.execute_s for step in history.steps[record.step : end])
        rows.append((f"step {record.step}", {**record.latency_s, "execute": execute_s}))
    return rows


def _plan_view(history: EpisodeHistory, index: int) -> _PlanView:
    record = history.plans[index]
    plan = record.plan
    videos = [
        _Video(_gif(video), f"{plan.costs[best]:.5f}", plan.families[best], best == plan.index)
        for best, video in zip(plan.best, plan.videos, strict=True)
    ]
    observed, predicted = history.observed_after(index), plan.predicted_frames
    n = min(len(observed), len(predicted))
    errors = history.prediction_errors()[record.step : record.step + n]
    return _PlanView(
        step=record.step,
        family=plan.family,
        is_early=record.is_early,
        families=", ".join(f"{count} {family}" for family, count in Counter(plan.families).most_common()),
        cost=f"{plan.cost:.5f}",
        seconds=f"{sum(plan.timing_s.values()):.2f}",
        non_finite=plan.n_non_finite,
        videos=videos,
        strip=_png(filmstrip({"predicted": predicted[:n], "observed": observed[:n]})) if n else "",
        prediction_error=f"{np.mean(errors):.1f}" if n else "",
    )


def _observed_strip(frames: list[NDArray[np.uint8]]) -> str:
    """Return all observed frames as one image; a row's label is the number of actions before its first frame."""
    starts = range(0, len(frames), _STRIP_FRAMES)
    return _png(filmstrip({f"{start:02d}": np.stack(frames[start : start + _STRIP_FRAMES]) for start in starts}))


def _png(image: NDArray[np.uint8]) -> str:
    return html.data_uri("png", png_bytes(enlarge(image[None])[0]))


def _gif(frames: NDArray[np.uint8]) -> str:
    return html.data_uri("gif", gif_bytes(frames, _FRAME_S))
