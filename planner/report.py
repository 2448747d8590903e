"""HTML report of one episode, with its images as separate files too. Written when the episode ends."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from configs.progress import duration
from data_collection.atomic_io import write_file
from data_collection.reports import chart, html
from data_collection.reports.images import filmstrip, gif_bytes, jpeg_bytes, png_bytes, webp_bytes
from planner.plan import HOLD
from planner.record import BY_SIMULATION, EpisodeHistory, EpisodeResult
from planner.report_images import (
    goal_beside_run,
    large_view,
    small_views,
    start_with_objects,
    start_with_tool,
    whole_run,
)
from planner.report_plans import copy_errors, hold_cost, kinds_of_candidates, median_cost, plan_view, runners_up
from planner.task_words import task_words
from planner.verdict import verdict_block

_FRAME_S = 0.25  # duration of one frame of a GIF
_RUN_FRAME_S = 0.5  # of one frame of the animation of the whole run; ours
_STRIP_FRAMES = 8  # frames in one row of the filmstrip
_LEAST_S = 0.005  # a shorter stage would be shown as 0.00 s
_TEMPLATE = "report.html.j2"
_PREDICTORS = {  # name of the predictor: how the candidates of this run were compared; of others, by the model
    "oracle": "the simulation itself plays many candidate actions through, without a model",
    "copy": "a baseline predicts that nothing will change, whatever the robot does",
    "random": "a baseline gives many candidate actions random costs, without a prediction",
}
_MODEL = "a model predicts what the camera would see after many candidate actions"
_SIMULATED = "a simulated arm, objects and camera (MuJoCo); nothing real moved"


class _Image(NamedTuple):
    source: str  # data URI
    alt: str
    title: str
    note: str = ""


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
    words = task_words(result.task)
    objects = start_with_objects(history)
    view = {
        "result": result,
        "words": words,
        "robot": _SIMULATED if result.robot == "simulation" else f"{result.robot}, with the images of its camera",
        "predictor": _PREDICTORS.get(result.predictor, _MODEL),
        "verdict": verdict_block(result),
        "rule": words.rule if result.judged_by == BY_SIMULATION else "",
        "findings": _findings(history, result),
        "numbers": _numbers(result),
        "views": _views(history),
        "knows_tool": history.scene is not None and history.scene.tool_pixel is not None,
        "run": html.data_uri("webp", webp_bytes(whole_run(history), _RUN_FRAME_S)),
        "goal": html.data_uri("jpeg", jpeg_bytes(goal_beside_run(history))),
        "goal_small": html.data_uri("png", png_bytes(small_views(history, history.goal[None])[0])),
        "objects": "" if objects is None else html.data_uri("jpeg", jpeg_bytes(objects)),
        "kinds": kinds_of_candidates(history),
        "n_plans": html.count(result.plans, "plan"),
        "plans": [plan_view(history, index) for index in range(len(history.plans))],
        "charts": _charts(history, result),
        "strip": _observed_strip(history),
        "config_yaml": config_yaml,
    }
    return html.render("planner", _TEMPLATE, view)


def _views(history: EpisodeHistory) -> list[_Image]:
    """Return start, end and goal as large images."""
    marked, first, last = start_with_tool(history), *(history.observed[i].observation.image for i in (0, -1))
    start = _large(history, first) if marked is None else html.data_uri("jpeg", jpeg_bytes(marked))
    return [
        _Image(start, f"the scene at the start{'' if marked is None else ', with the tool outlined'}", "Start"),
        _Image(
            _large(history, last),
            "the scene after the last action",
            "End",
            f"after {html.count(len(history.steps), 'action')}",
        ),
        _Image(_large(history, history.goal), "the goal image", "Goal image", "in the resolution of the model"),
    ]


def _numbers(result: EpisodeResult) -> list[tuple[str, str]]:
    """Return names and values for display; those that nobody measured are left out."""
    plan_s = result.seconds_per_plan
    return [
        ("Actions", f"{result.steps}"),
        ("Plans", f"{result.plans}"),
        ("Duration", duration(result.seconds)),
        *([] if plan_s is None else [("Seconds per plan", f"{plan_s:.2f}")]),
    ]


def _findings(history: EpisodeHistory, result: EpisodeResult) -> list[str]:
    """Return the main findings, the most important first."""
    findings = [f"{result.error.rstrip('.')}. The arm was held."] if result.error else []
    if result.picked is not None:
        findings.append("The tool was lifted." if result.picked else "The tool was never lifted.")
        findings.append("The tool touched an object." if result.touched else "The tool never touched an object.")
        findings.append(_places(result))
    if result.goal and result.success is False:
        findings.append("They were not brought there with the tool, so the task does not count as done.")
    held = sum(record.plan.family == HOLD for record in history.plans)
    if held:
        findings.append(f"In {held} of {result.plans} plans, holding still had the least cost.")
    if result.prediction_error is not None:
        copied = [error for index in range(len(history.plans)) for error in copy_errors(history, index)]
        findings.append(
            f"Predicted images differed from observed ones by {result.prediction_error:.1f} of 255 on average; a"
            f" prediction that nothing changes would have differed by {np.mean(copied):.1f}."
        )
    early = sum(record.is_early for record in history.plans)
    if early:
        findings.append(f"{early} of {result.plans} plans were made early, because the prediction error was too large.")
    return findings


def _places(result: EpisodeResult) -> str:
    """Return where the objects are, in a sentence."""
    place, away_cm = task_words(result.task).in_place, 100 * (result.away_m or 0)
    if not result.goal:
        return f"Not every object is {place}; the largest distance of an object is {away_cm:.1f} cm."
    if away_cm:
        return f"After an action every object was {place}, but not at the end."
    return f"At the end every object is {place}."


def _charts(history: EpisodeHistory, result: EpisodeResult) -> list[chart.TitledChart]:
    return [
        chart.TitledChart(
            "Cost of the plans",
            chart.lines(_cost_lines(history), "actions executed before the plan", "predicted cost"),
            "How much the end of a predicted video differs from the goal image: of the candidate that was executed, of"
            " the second best, of the median candidate, and of holding still. Where the second best is close, the"
            " choice between the two says little.",
        ),
        chart.TitledChart(
            "Distance of the images",
            chart.lines(_distance_lines(history), "actions executed", "RMS difference (of 255)"),
            "Root mean square difference of all pixels: 0 is equal, 255 black against white; the cost of a plan has"
            f" another unit. {_towards_goal(result)} The distance to the predicted image shows how far the prediction"
            " can be trusted.",
        ),
        chart.TitledChart(
            "Time of each stage",
            chart.bars(_latency_bars(history), "s"),
            "For each plan: proposing and predicting the candidates, then executing the actions that follow it."
            " A bar is therefore longer than the time of planning alone.",
        ),
    ]


def _towards_goal(result: EpisodeResult) -> str:
    """Return what the distance to the goal image did, and what that says."""
    start, end = result.distance_start, result.distance_end
    surprise = " although the task is done" if result.success and end > start else ""
    return (
        f"The distance to the goal image went from {start:.0f} to {end:.0f}{surprise}. It counts the arm too, so it may"
        " rise while the task succeeds: judge success by the objects."
    )


def _distance_lines(history: EpisodeHistory) -> Mapping[str, list[tuple[float, float]]]:
    observed = [(float(step), distance) for step, distance in enumerate(history.goal_distances)]
    errors = [(step + 1.0, error) for step, error in enumerate(history.prediction_errors())]
    return {"observed to goal": observed, "observed to predicted": errors}


def _cost_lines(history: EpisodeHistory) -> Mapping[str, list[tuple[float, float]]]:
    names = ("chosen", "second best", "median of all", "hold still")
    series: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for record in history.plans:
        series["chosen"].append((record.step, record.plan.cost))
        second, _ = runners_up(record.plan)
        series["second best"].append((record.step, math.nan if second is None else float(record.plan.costs[second])))
        series["median of all"].append((record.step, median_cost(record.plan)))
        series["hold still"].append((record.step, hold_cost(record.plan)))
    return series


def _latency_bars(history: EpisodeHistory) -> list[tuple[str, dict[str, float]]]:
    """Return the time of each stage of each plan, without the stages that are too short to be shown."""
    rows = []
    for record, end in history.spans():
        execute_s = sum(step.execute_s for step in history.steps[record.step : end])
        rows.append((f"after {html.count(record.step, 'action')}", {**record.latency_s, "execute": execute_s}))
    shown = {stage for _, stages in rows for stage, stage_s in stages.items() if stage_s >= _LEAST_S}
    return [(label, {name: each for name, each in stages.items() if name in shown}) for label, stages in rows]


def _observed_strip(history: EpisodeHistory) -> str:
    """Return all observed frames as one image; a row's label is the number of actions before its first frame."""
    frames = small_views(history, np.stack(history.frames))
    starts = range(0, len(frames), _STRIP_FRAMES)
    strip = filmstrip({f"{start:02d}": frames[start : start + _STRIP_FRAMES] for start in starts})
    return html.data_uri("jpeg", jpeg_bytes(strip))


def _large(history: EpisodeHistory, image: NDArray[np.uint8]) -> str:
    return html.data_uri("jpeg", jpeg_bytes(large_view(history, image)))
