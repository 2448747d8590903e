"""The HTML report of an episode: self-contained, with its findings."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from ghvae_core.predictor import PredictorError
from planner.record import EpisodeDescription, EpisodeHistory, EpisodeResult, summarize
from planner.report import write_report
from planner.task import TaskConfig, TaskController
from robot_bridge.robot import RobotFault
from robot_bridge.simulation.success import TaskSuccess
from tests.planner.doubles import GOAL, FakeRobot, StubPredictor, solver, towards_goal

DESCRIPTION = EpisodeDescription("pick_wipe", "simulation", "stub", "0123456789abcdef", "", 7)
FAILURE = TaskSuccess(goal=False, goal_now=False, picked=True, touched=False, strict=False, distance_m=0.053)


class _Page(HTMLParser):
    """Collects tags, addresses and the text; fails on tags that are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.texts: list[str] = []
        self.images = 0
        self._open: list[str] = []
        self.feed(html)
        assert not self._open, f"left open: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.images += tag == "img"
        self.addresses += [value or "" for name, value in attrs if name in {"src", "href", "action", "data", "srcset"}]
        if tag not in {"meta", "img", "link", "br"}:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def _run(n_steps: int = 5) -> EpisodeHistory:
    robot = FakeRobot()
    task = TaskController(TaskConfig(scene="pick_wipe", n_steps=n_steps), robot, StubPredictor(towards_goal), solver())
    task.begin(robot.observe(), GOAL, np.random.default_rng(0))
    while not task.ended:
        task.advance()
    return task.history


def _write(
    folder: Path, history: EpisodeHistory, config_yaml: str = "task:\n  n_steps: 5\n"
) -> tuple[_Page, EpisodeResult]:
    result = summarize(DESCRIPTION, history, str(folder / "report.html"))
    write_report(folder, history, result, config_yaml)
    return _Page((folder / "report.html").read_text(encoding="utf-8")), result


def test_the_page_is_self_contained(tmp_path: Path) -> None:
    page, _ = _write(tmp_path, _run())
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.images > 10 and all(address.startswith("data:image/") for address in page.addresses)
    assert "http" not in html and "<script" not in html and not re.search(r"@import|url\(", html)


def test_images_are_written_as_separate_files_too(tmp_path: Path) -> None:
    _write(tmp_path, _run())
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"report.html", "goal.png", "start.png", "end.png", "seen.gif"} | {
        f"plan_{i:02d}.gif" for i in range(3)
    }
    for path in tmp_path.iterdir():
        head = path.read_bytes()[:4]
        assert head == {".png": b"\x89PNG", ".gif": b"GIF8", ".html": b"<!DO"}[path.suffix]


def test_every_plan_shows_its_family_its_cost_and_its_videos(tmp_path: Path) -> None:
    history = _run()
    page, _ = _write(tmp_path, history)
    text = " ".join(" ".join(page.texts).split())
    for record in history.plans:
        assert f"Plan at step {record.step}" in text
        assert f"chosen: {record.plan.family} · cost {record.plan.cost:.5f}" in text
    n_videos = sum(len(record.plan.best) for record in history.plans)
    assert sum(address.startswith("data:image/gif") for address in page.addresses) == n_videos + 1


def test_it_names_the_cause_of_a_failed_task(tmp_path: Path) -> None:
    history = _run()
    history.outcome = FAILURE
    page, result = _write(tmp_path, history)
    text = " ".join(page.texts)
    assert "The tool was lifted." in text and "The tool never touched an object." in text
    assert (
        "the largest distance of an object is 5.3 cm" in text
        and "Not done" in text
        and "It ended after 5 actions" in text
    )
    assert (result.success, result.goal, result.picked, result.touched) == (False, False, True, False)


def test_the_success_of_a_real_robot_is_unknown(tmp_path: Path) -> None:
    page, result = _write(tmp_path, _run())
    text = " ".join(page.texts)
    assert result.success is None and result.judged_by == ""
    assert "Not judged" in text and f"run_task judge {tmp_path} yes|no" in text and "Not done" not in text


def test_an_episode_that_failed_before_its_first_plan_has_a_page(tmp_path: Path) -> None:
    robot = FakeRobot()
    task = TaskController(TaskConfig(scene="pick_wipe"), robot, StubPredictor(towards_goal), solver())
    task.begin(robot.observe(), GOAL, np.random.default_rng(0))
    task.history.outcome = replace(FAILURE, picked=False)
    with pytest.raises(PredictorError), task:
        raise PredictorError("<the server> is gone")
    page, result = _write(tmp_path, task.history)
    text = " ".join(page.texts)
    assert "Stopped by a failure" in text and "<the server> is gone. The arm was held." in text
    assert "The tool was never lifted." in text and "Not judged" not in text and result.success is False
    assert "ended before the first plan" in text and (result.steps, result.plans) == (0, 0)
    assert result.cost is None and result.seconds_per_plan is None and result.prediction_error is None
    assert result.distance_start == result.distance_end == round(task.history.start.goal_distance, 2)
    assert page.texts.count("No data.") == 2 and "observed to predicted" not in text


def test_an_episode_whose_first_action_failed_shows_its_plan(tmp_path: Path) -> None:
    robot = FakeRobot(fault_at_step=0)
    task = TaskController(TaskConfig(scene="pick_wipe"), robot, StubPredictor(towards_goal), solver())
    task.begin(robot.observe(), GOAL, np.random.default_rng(0))
    with pytest.raises(RobotFault), task:
        task.advance()
    page, result = _write(tmp_path, task.history)
    text = " ".join(page.texts)
    assert "reflex. The arm was held." in text and "Plan at step 0" in text and "prediction error" not in text
    assert (result.steps, result.plans, result.prediction_error) == (0, 1, None)


def test_costs_that_are_not_finite_are_counted_and_not_drawn(tmp_path: Path) -> None:
    history = _run()
    first = history.plans[0]
    costs = first.plan.costs.copy()
    costs[[0, 3]] = np.nan, np.inf  # candidate 0 holds still
    history.plans[0] = replace(first, plan=replace(first.plan, costs=costs))
    page, _ = _write(tmp_path, history)
    assert "2 candidates without a finite cost" in " ".join(" ".join(page.texts).split())


def test_the_configuration_is_escaped(tmp_path: Path) -> None:
    page, _ = _write(tmp_path, _run(), "note: <script>alert(1)</script> & <b>\n")
    assert "note: <script>alert(1)</script> & <b>" in " ".join(page.texts)


def test_the_result_is_one_line_of_json_of_finite_numbers() -> None:
    line = summarize(DESCRIPTION, _run(), "report.html").to_json()
    result = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert "\n" not in line
    assert result["task"] == "pick_wipe" and result["seed"] == 7 and result["steps"] == 5 and result["plans"] == 3
    assert result["success"] is None and result["ended"] == "steps used" and result["deviation_m"] < 1e-6
    assert result["distance_start"] > 0 and result["seconds_per_plan"] > 0
